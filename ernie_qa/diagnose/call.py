"""The call's settings against what the directory recommends, and what a script does around the call."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ernie_qa.allocator import REMEDY, runaway
from ernie_qa.diagnose.findings import Blame, Finding
from ernie_qa.diagnose.published import Sampling
from ernie_qa.diagnose.script import KEYWORDS, SWITCH, Drawing, Script

NAMES = {
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "use_pe": "use_pe",
    "height": "height",
    "width": "width",
    "generator": "seed",
}
"""What the pipeline calls its arguments, and what a diagnosis does."""
_TYPED = "give from_pretrained torch_dtype=torch.bfloat16"
SUITABLE = ("bfloat16", "torch.bfloat16", "auto")


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of a call, and where it was read."""

    value: Any
    where: str


@dataclass(frozen=True, slots=True)
class Call:
    """The `settings` of one call, by the names of `NAMES`, and in words what of them could not be read."""

    settings: Mapping[str, Setting]
    unread: tuple[str, ...] = ()


def flags(
    steps: int | None,
    guidance: float | None,
    size: tuple[int, int] | None,
    use_pe: bool | None,
    seed: int | None,
) -> Call:
    """The settings that were given on the command line; `size` is width and height."""
    width, height = size or (None, None)
    given = {
        "steps": (steps, "--steps"),
        "guidance": (guidance, "--guidance"),
        "use_pe": (use_pe, "--use-pe" if use_pe else "--no-use-pe"),
        "width": (width, "--size"),
        "height": (height, "--size"),
        "seed": (seed, "--seed"),
    }
    return Call({name: Setting(value, where) for name, (value, where) in given.items() if value is not None})


def calls(script: Script, defaults: Mapping[str, Any]) -> tuple[Call, ...]:
    """The settings of every call that draws. `defaults` are the pipeline's own, in their order:
    what a call leaves out has its default, where all of the call can be seen."""
    return tuple(_call(one, script.name, defaults) for one in script.drawings)


def _call(drawing: Drawing, name: str, defaults: Mapping[str, Any]) -> Call:
    where = f"{name}, line {drawing.line}"
    given = {**dict(zip(defaults, drawing.positional, strict=False)), **drawing.given}
    settings, unread = {}, []
    for argument in KEYWORDS:
        literal = given.get(argument)
        if literal is None:
            if drawing.known and drawing.whole and argument in defaults:
                if defaults[argument] is not None:
                    said = f"{where} (left out: the pipeline's own default)"
                    settings[NAMES[argument]] = Setting(defaults[argument], said)
            elif argument != "generator":
                unread.append(f"{argument} ({where}): not read: it is given elsewhere, or not at all")
        elif not literal.read:
            unread.append(f"{argument} ({name}, line {literal.line}): not read: no literal stands there")
        elif literal.value is not None:
            settings[NAMES[argument]] = Setting(literal.value, f"{name}, line {literal.line}")
    return Call(settings, tuple(unread))


def compared(call: Call, sampling: Sampling | None, factor: int) -> Iterator[Finding]:
    """Where a call departs from what is recommended, or from sizes that the model's `factor` divides."""
    wanted = {} if sampling is None else {"steps": sampling.steps, "guidance": sampling.guidance}
    for name, value in wanted.items():
        setting = call.settings.get(name)
        if setting is not None and not _same(setting.value, value):
            yield Finding(
                Blame.CAUSE,
                "settings",
                f"{_argument(name)} is {_said(setting.value)}, published with {value:g}",
                setting.where,
                f"call the pipeline with {_argument(name)}={value:g}",
            )
    use_pe = call.settings.get("use_pe")
    if sampling is not None and use_pe is not None and bool(use_pe.value) is not sampling.use_pe:
        yield Finding(
            Blame.SUSPECT,
            "settings",
            f"use_pe is {_said(use_pe.value)}, published with {sampling.use_pe}: the prompt enhancer "
            + ("writes another prompt" if use_pe.value else "does not write the prompt"),
            use_pe.where,
            f"call the pipeline with use_pe={sampling.use_pe}",
        )
    for name in ("width", "height"):
        setting = call.settings.get(name)
        if setting is not None and not (isinstance(setting.value, int) and setting.value % factor == 0):
            yield Finding(
                Blame.CAUSE,
                "settings",
                f"{name} is {_said(setting.value)}, which the model's factor {factor} does not divide",
                setting.where,
                f"give sides that {factor} divides",
            )


def _same(value: Any, wanted: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and float(value) == float(wanted)


def _argument(name: str) -> str:
    return next(argument for argument, ours in NAMES.items() if ours == name)


def _said(value: Any) -> str:
    return repr(value[:40]) if isinstance(value, str) else f"{value}"


def around(script: Script, quantizers: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    """What a script does before and around its calls. `quantizers` are those of the recipe, with how their
    components are loaded, as `Quantizer.loading` says."""
    first = min((load.line for load in script.loads), default=None)
    for name, loading in quantizers.items():
        if "sdnq" in loading["import_first"] and first is not None:
            yield from _import(script, first)
        if loading["after_loading"] is not None and name == "sdnq" and first is not None:
            yield from _switches(script, loading["after_loading"]["arguments"]["use_quantized_matmul"])
    yield from _types(script)
    settings = dict(os.environ)
    settings |= {name: str(one.value) for name, one in script.allocator.items() if one.read}
    if reason := runaway(settings):
        line = next((one.line for one in script.allocator.values() if one.read), None)
        where = "the environment" if line is None else f"{script.name}, line {line}"
        yield Finding(Blame.ADVICE, "allocator", reason.removesuffix(f": {REMEDY}"), where, REMEDY)
    for line in script.emptied:
        yield Finding(
            Blame.ADVICE,
            "memory",
            "torch's cache is emptied between pictures, which makes each one slower",
            f"{script.name}, line {line}",
            "take empty_cache out of the loop",
        )
    for name, line in script.offloads:
        yield Finding(
            Blame.ADVICE,
            "memory",
            f"{name} moves components between main memory and the GPU with every picture",
            f"{script.name}, line {line}",
            "where the memory suffices, keep the model on the GPU: to('cuda')",
        )


def _import(script: Script, first: int) -> Iterator[Finding]:
    said = "import sdnq before the first from_pretrained"
    if script.sdnq is None:
        yield Finding(
            Blame.CAUSE,
            "import",
            "sdnq is never imported: loading then fails, or gives garbage without an error",
            f"{script.name}, line {first}",
            said,
        )
    elif script.sdnq > first:
        yield Finding(
            Blame.CAUSE,
            "import",
            f"sdnq is imported after the first from_pretrained, in line {first}",
            f"{script.name}, line {script.sdnq}",
            said,
        )


def _switches(script: Script, wanted: bool) -> Iterator[Finding]:
    for one in script.switches:
        if one.on.read and one.on.value is not wanted:
            yield Finding(
                Blame.SUSPECT,
                "switch",
                f"use_quantized_matmul is {_said(one.on.value)}, published with {wanted}",
                f"{script.name}, line {one.line}",
                f"call {SWITCH} with use_quantized_matmul={wanted}",
            )
    if not script.switches and wanted:
        yield Finding(
            Blame.ADVICE,
            "switch",
            f"{SWITCH} is never called: what the files say then decides, and older loaders leave it off",
            script.name,
            f"after loading, call it on each quantized component with use_quantized_matmul={wanted}",
        )


def _types(script: Script) -> Iterator[Finding]:
    for load in script.loads:
        where = f"{script.name}, line {load.line}"
        if load.quantized:
            yield Finding(
                Blame.SUSPECT,
                "loading",
                "quantization_config is given: what is stored wins over it, and the flags may say otherwise",
                where,
                "leave quantization_config out: the directory is quantized already",
            )
        if load.pipeline and load.dtype is None and load.whole:
            said = "no type is given: what is not quantized is loaded in float32"
        elif load.dtype is not None and load.dtype.read and load.dtype.value not in SUITABLE:
            said = f"loaded in {_said(load.dtype.value)}, published in bfloat16"
        else:
            continue
        yield Finding(
            Blame.SUSPECT, "loading", said, where, "give from_pretrained torch_dtype=torch.bfloat16"
        )
    for name, line in script.casts:
        yield Finding(
            Blame.SUSPECT,
            "loading",
            f"{name} casts the loaded pipeline, tables too that are kept in float32",
            f"{script.name}, line {line}",
            f"{_TYPED} instead",
        )


def unread(script: Script, found: Sequence[Call]) -> Iterator[str]:
    """What could not be read of a script, in words."""
    for call in found:
        yield from call.unread
    if not script.loads:
        yield f"how {script.name} loads the pipeline: no from_pretrained stands there"
    if not script.drawings:
        yield f"the call's settings: nothing in {script.name} is known to be the pipeline's call"
    for load in script.loads:
        if load.dtype is not None and not load.dtype.read:
            yield f"the type in {script.name}, line {load.dtype.line}: not read: no literal stands there"
    for one in script.switches:
        if not one.on.read:
            yield f"use_quantized_matmul in {script.name}, line {one.line}: not read: no literal stands there"
    for name, literal in script.allocator.items():
        if not literal.read:
            yield f"{name} in {script.name}, line {literal.line}: not read: no literal stands there"
