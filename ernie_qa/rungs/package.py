"""Rung 1: is the artifact what the recipe says?

What is quantized and to what, how many bytes it takes, and whether everything else is still the base's.
docs/package.md has the details.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ernie_qa.baseline.accepted import Tracked
from ernie_qa.fidelity.weights import misfits
from ernie_qa.models.checkpoint import pickles, tensor_bytes
from ernie_qa.models.foreign import foreign
from ernie_qa.parts import the_same
from ernie_qa.quantizers import stored_quantization
from ernie_qa.quantizers.layers import (
    LayerState,
    byte_faults,
    dtype_name,
    grouped,
    listed,
    ungrouped,
    unquantized,
    weight_faults,
)
from ernie_qa.verdict import Check, Status
from ernie_qa.wording import counted

if TYPE_CHECKING:
    from torch.nn import Module

    from ernie_qa.baseline.pictures import Pictures
    from ernie_qa.drawing import Drawn
    from ernie_qa.models.find import Model
    from ernie_qa.record import Record
    from ernie_qa.rungs import Arm, Evidence, Figures

NAME = "package"
ORDER = 1
LIMITS: Mapping[str, str] = {}

_TOKENIZERS = ("tokenizer", "pe_tokenizer")


def measure(arm: Arm) -> Generator[Figures | None, tuple[Drawn, ...], Figures]:
    """Read what the pipeline holds and what its directory does, before anything is drawn.

    A component that the recipe does not name has to hold plain BF16 tensors, equal to the stored ones.

    Figures: `components` by name (quantizer, probe, stored, bytes on disk, of these an artifact's tensors,
    what its config.json claims against the recipe, bytes in memory by dtype, layers, foreign), `disk_bytes`
    of all files beside and in the components, `memory_bytes` in total, `pickles`, `unchanged` by part,
    `weights` by component (`ernie_qa.models.requantized`).
    """
    components = {name: _component(arm, name, module) for name, module in _modules(arm).items()}
    figures = {
        "components": components,
        "disk_bytes": _disk_bytes(arm.stored),
        "memory_bytes": sum(sum(one["memory"].values()) for one in components.values()),
        "pickles": [
            file.relative_to(arm.stored.path).as_posix()
            for file in pickles(arm.stored.path, arm.stored.components)
        ],
        "unchanged": _unchanged(arm),
        "weights": {name: _weights(arm, name, module) for name, module in _known(arm).items()},
    }
    yield figures
    return figures


def _disk_bytes(stored: Model) -> int:
    # a card's pictures and records lie in directories that are no component's
    places = (stored.path.glob("*"), *((stored.path / name).rglob("*") for name in stored.components))
    return sum(file.stat().st_size for place in places for file in place if file.is_file())


def _modules(arm: Arm) -> dict[str, Module]:
    import torch

    pipe: Any = arm.pipe
    return {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}


def _known(arm: Arm) -> dict[str, Module]:
    """The components whose layers a quantizer's probe can tell apart."""
    known = arm.recipe.components
    return {
        name: module
        for name, module in _modules(arm).items()
        if name in known and arm.seen(name).probe is None
    }


def _weights(arm: Arm, name: str, module: Module) -> dict[str, Any]:
    from ernie_qa.models.requantized import requantized

    pipe: Any = arm.pipe
    seen = arm.seen(name)
    if stored_quantization(arm.model.path / name) is not None:
        return {"why": "the model directory is quantized itself: pass BF16's, and this one as its artifact"}
    states = [state for state in seen.states if state.quantized]
    device = pipe._execution_device
    try:
        return requantized(module, states, arm.model.path / name, device, seen.quantizer, seen.options)
    except (AttributeError, ImportError, TypeError) as moved:
        # names inside the quantizer's package: another release may have renamed them
        why = f"{seen.quantizer.NAME} cannot quantize a weight again: {type(moved).__name__}: {moved}"
        return {"why": f"{why}; upgrade ernie_qa, or use the release it knows"}


def _component(arm: Arm, name: str, module: Module) -> dict[str, Any]:
    quantizer_name = arm.recipe.components.get(name)
    seen = arm.seen(name) if quantizer_name else None
    states = seen.states if seen else ()
    memory = Counter[str]()
    for tensor in (*module.parameters(), *module.buffers()):
        memory[dtype_name(tensor.dtype)] += tensor.numel() * tensor.element_size()
    if unlisted := sum(state.unlisted for state in states):
        memory["quantization state"] = unlisted
    stored = stored_quantization(arm.stored.path / name)
    claims = {}
    if stored is not None and seen is not None:
        wanted = seen.quantizer.expected_flag(seen.options)
        claims = {
            key: value
            for key, value in seen.quantizer.stored_flag(stored).items()
            if key in wanted and wanted[key] != value
        }
    files = sorted((arm.stored.path / name).glob("*.safetensors"))
    return {
        "quantizer": quantizer_name,
        "probe": seen.probe if seen else None,
        "stored": stored.get("quant_method") if stored else None,
        "disk_bytes": sum(file.stat().st_size for file in files),
        "stored_bytes": sum(map(tensor_bytes, files)) if stored else None,
        "claims": claims,
        "memory": dict(memory),
        # how a call runs is the next rung's
        "layers": grouped(replace(state, runtime={}) for state in states),
        "foreign": [] if quantizer_name else foreign(module),
    }


def _unchanged(arm: Arm) -> dict[str, dict[str, Any]]:
    from ernie_qa.models.unchanged import (
        config_differences,
        is_small,
        tensor_differences,
        tokenizer_differences,
    )

    pipe: Any = arm.pipe
    path = arm.model.path
    found = {
        name: tensor_differences(
            module,
            path / name,
            sampled=name != "vae" and not is_small(path / name),
            without=[state.name for state in arm.seen(name).states if state.quantized]
            if name in arm.recipe.components
            else (),
        )
        for name, module in _modules(arm).items()
        # of what a probe does not know nobody can say which layers are quantized
        if name not in arm.recipe.components or arm.seen(name).probe is None
    }
    found["scheduler"] = config_differences(
        pipe.scheduler.config, path / "scheduler" / "scheduler_config.json"
    )
    for name in _TOKENIZERS:
        if getattr(pipe, name, None) is not None:
            found[name] = tokenizer_differences(getattr(pipe, name), path / name)
    return found


def join(parts: Sequence[Figures], reference: Record | None) -> Figures:
    """The first part's: what was loaded is the same in all of them, and what one found of the weights the
    next one knew before."""
    the_same(NAME, [{**part, "weights": _without_before(part["weights"])} for part in parts])
    return parts[0]


def _without_before(weights: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: {key: one[key] for key in one if key != "before"} for name, one in weights.items()}


def judge(evidence: Evidence) -> Iterator[Check]:
    """Check the files, each component's layers and bytes, and the parts that must be the base's."""
    figures, recipe = evidence.record.figures.get(NAME), evidence.recipe
    if figures is None:
        message = "the record holds no figures of this rung: observe the recipe again"
        yield Check(f"{NAME}.layers", NAME, Status.NOT_COMPARABLE, message)
        return
    stored = figures["pickles"]
    fault = f"{listed(stored)}: pickles can run code when read: store safetensors only" if stored else ""
    size = f"safetensors only; {figures['disk_bytes']} B on disk, {figures['memory_bytes']} B in memory"
    yield _check("safetensors", None, fault, size)
    for component in recipe.components:
        if component not in figures["components"]:
            yield _check(
                "layers", component, f"recipe {recipe.name} quantizes it and the pipeline has none", ""
            )
    for component, found in figures["components"].items():
        yield from _component_checks(component, found, recipe.components.get(component), recipe.name)
    if "weights" not in figures and recipe.components:
        message = "the record is older than this check: observe the recipe again"
        yield Check(f"{NAME}.weights", NAME, Status.NOT_COMPARABLE, message)
    for component, found in figures.get("weights", {}).items():
        yield _weights_check(component, found)
    for part, found in figures["unchanged"].items():
        yield _unchanged_check(part, found, evidence.reference, part in recipe.components)


def _component_checks(
    component: str, found: Mapping[str, Any], quantizer: str | None, recipe: str
) -> Iterator[Check]:
    if found["quantizer"] != quantizer:
        message = f"{component}: the record is of another recipe: observe recipe {recipe} again"
        yield Check(f"{NAME}.layers", NAME, Status.NOT_COMPARABLE, message, component=component)
        return
    if quantizer is None:
        foreign = found["foreign"]
        fault = f"recipe {recipe} leaves it alone and "
        fault += f"{counted(len(foreign), 'layer is', 'layers are')} not BF16: {listed(foreign)}"
        yield _check("layers", component, fault if foreign else "", f"not quantized: {_memory(found)}")
        return
    if found["probe"] is not None:
        message = f"{component}: {found['probe']}; upgrade ernie_qa, or use the release it knows"
        for level in ("layers", "bytes"):
            yield Check(f"{NAME}.{level}", NAME, Status.NOT_COMPARABLE, message, component=component)
        return
    states = ungrouped(LayerState, found["layers"])
    yield _layers_check(component, states)
    yield _bytes_check(component, states, found)
    yield _artifact_check(component, found)


def _layers_check(component: str, states: Sequence[LayerState]) -> Check:
    plain, wrong = unquantized(states), weight_faults(states)
    # nothing quantizes these in memory: an artifact may have been made with other exceptions
    extra = [f"{state.name} ({state.excluded})" for state in states if state.quantized and state.excluded]
    count = sum(state.quantized for state in states)
    if not count:
        fault = f"no layer is quantized ({listed(plain)}): look at how it was loaded"
    elif plain:
        ought = counted(
            len(plain), "layer ought to be quantized and is", "layers ought to be quantized and are"
        )
        fault = f"{ought} not: {listed(plain)}"
    elif extra:
        are = counted(len(extra), "layer is", "layers are")
        fault = f"{are} quantized and ought not to be: {listed(extra)}"
    elif wrong:
        fault = f"{len(wrong)} of {count} layers hold something else than the recipe says: {listed(wrong)}"
    else:
        fault = ""
    kinds = Counter(f"{state.bits}-bit" for state in states if state.quantized)
    said = ", ".join(f"{counted(number, 'layer')} {kind}" for kind, number in sorted(kinds.items()))
    excluded = sum(bool(state.excluded) for state in states if not state.quantized)
    return _check("layers", component, fault, f"{said}; {excluded} left alone")


def _bytes_check(component: str, states: Sequence[LayerState], found: Mapping[str, Any]) -> Check:
    wrong = byte_faults(states)
    are = counted(len(wrong), "layer is not as large as its", "layers are not as large as their")
    fault = f"{are} bits say: {listed(wrong)}" if wrong else ""
    quantized = [state for state in states if state.quantized]
    weights, sides = sum(state.bytes for state in quantized), sum(state.side_bytes for state in quantized)
    check = _check(
        "bytes", component, fault, f"{weights} B of weights, {sides} B of scales, of {_memory(found)}"
    )
    return replace(check, measured=float(sum(found["memory"].values())), unit="B")


def _artifact_check(component: str, found: Mapping[str, Any]) -> Check:
    """A stored quantized component must be what was loaded: as many bytes, headers apart."""
    # records of the first release have neither key
    memory, disk = sum(found["memory"].values()), found.get("stored_bytes") or found["disk_bytes"]
    if found["stored"] is None:
        message = f"{component}: quantized in memory from {disk} B: there is no artifact to compare with"
        return Check(f"{NAME}.artifact", NAME, Status.NOT_APPLICABLE, message, component=component)
    fault = f"{disk} B on disk and {memory} B in memory: look at what the loader left out or converted"
    said = f"{disk} B on disk"
    if claims := [f"{key}={value}" for key, value in found.get("claims", {}).items()]:
        # what was loaded here the other checks judge; this is what others will load
        said += f"; its config.json says {', '.join(claims)}: a loader that goes by it gets that"
    return _check("artifact", component, fault if abs(disk - memory) > memory / 50 else "", said)


def _weights_check(component: str, found: Mapping[str, Any]) -> Check:
    """Each layer's weight has to be what its quantizer makes of the model's own, but for rounding."""
    if "why" in found or found["missing"]:
        missing = found.get("missing", [])
        are = counted(len(missing), "weight is", "weights are")
        why = f"{are} not in the model directory: {listed(missing)}"
        message = f"{component}: {found.get('why', why)}"
        return Check(f"{NAME}.weights", NAME, Status.NOT_COMPARABLE, message, component=component)
    wrong = sorted(misfits(found["layers"]), reverse=True)
    fault = f"{counted(len(wrong), 'layer is', 'layers are')} not what quantizing the model makes: "
    fault += listed([f"{name} ({said})" for _, name, said in wrong])
    passed = f"{counted(found['same'], 'layer is', 'layers are')} to the bit what quantizing the model makes"
    if found["layers"]:
        passed += f", {len(found['layers'])} but for rounding"
    if found["other"]:
        passed += f"; {found['other']} that are no Linear are not compared"
    if found.get("before"):
        passed += "; their bits were compared before"
    check = _check("weights", component, fault if wrong else "", passed)
    return replace(check, measured=wrong[0][0], limit=1.0, unit="of its bound") if wrong else check


def _unchanged_check(part: str, found: Mapping[str, Any], reference: Record | None, quantized: bool) -> Check:
    fault = ""
    if found["differing"]:
        differing = [str(name) for name in found["differing"]]
        fault = f"{len(differing)} differ from the model directory: {listed(differing)}: "
        fault += "quantize and change nothing but what the recipe names"
    elif reference is not None:
        base = reference.figures.get(NAME, {}).get("unchanged", {}).get(part)
        if (
            base is not None
            and None not in (base["sha256"], found["sha256"])
            and base["sha256"] != found["sha256"]
        ):
            fault = "it is another than the reference drew with: observe bf16 from the same directory"
    # a sample has no sha256: it depends on how the weights are split into files
    extent = "of a sample " if found["sha256"] is None and not quantized else ""
    extent = "of what is not quantized " if quantized else extent
    return _check(
        "unchanged", part, fault, f"equal to the model directory ({found['compared']} {extent}compared)"
    )


def _memory(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{size} B {dtype}" for dtype, size in sorted(found["memory"].items()))


def _check(level: str, component: str | None, fault: str, passed: str) -> Check:
    status = Status.FAIL if fault else Status.PASS
    message = f"{component}: {fault or passed}" if component else fault or passed
    return Check(f"{NAME}.{level}", NAME, status, message, component=component)


def track(record: Record, pictures: Pictures | None) -> Iterator[Tracked]:
    """Bytes in memory and quantized layers of each component: equal on all machines, so any change counts."""
    for component, found in record.figures.get(NAME, {}).get("components", {}).items():
        size = float(sum(found["memory"].values()))
        yield Tracked(f"{NAME}.memory_bytes[{component}]", size, "lower", "B", ideal=0.0)
        if found["quantizer"] is not None and found["probe"] is None:
            count = sum(state.quantized for state in ungrouped(LayerState, found["layers"]))
            yield Tracked(f"{NAME}.quantized_layers[{component}]", float(count), "higher", "layers")
