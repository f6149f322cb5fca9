"""Why do pictures come out bad? A quantized directory, and how it is called, beside what was published.

The BF16 model is not needed: what cannot be judged without it is said, and is no pass.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.version import InvalidVersion, Version

from ernie_qa import compile_cache
from ernie_qa.capsules.capsule import Capsule, read_capsule
from ernie_qa.diagnose import call as asked
from ernie_qa.diagnose.call import Call
from ernie_qa.diagnose.findings import MATTERS, Blame, Finding, ordered
from ernie_qa.diagnose.looked import png
from ernie_qa.diagnose.published import Published, Sampling, published
from ernie_qa.diagnose.run import Ran, Subject, run
from ernie_qa.doctor import Finding as MachineFinding
from ernie_qa.doctor import State, examine
from ernie_qa.doctor.findings import GIB
from ernie_qa.errors import SuiteError
from ernie_qa.fingerprint import take_fingerprint, version_of
from ernie_qa.meter import available, require_device
from ernie_qa.models.find import find_model, vae_scale_factor
from ernie_qa.pipeline import TEACHER
from ernie_qa.plan import visible_device
from ernie_qa.quantize.metadata import RUNTIME
from ernie_qa.quantizers import checked_options, find_quantizer
from ernie_qa.quiet import hushed
from ernie_qa.suite import MAX_SIDE, Case, Suite, find_suite

if TYPE_CHECKING:
    from ernie_qa.diagnose.script import Script
    from ernie_qa.fingerprint import Fingerprint
    from ernie_qa.models.find import Model
    from ernie_qa.recipe import Recipe

__all__ = ["Blame", "Diagnosis", "Finding", "diagnose"]

Progress = Callable[[int, int, str], None]
"""Called with how many steps are done, how many there are, and which one begins."""

STEPS = ("reading", "loading", "package", "capsule", "one step", "picture")
CAPSULES = "*.capsule"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found, likeliest to blame first, and in words what was not looked at.

    `recipe` is None where it is not known, and `source` says how it was found, or why not. `calls` are the
    settings that were read, `ran` what the pipeline showed (None without a recipe), and `memory` bytes: of
    the weights on disk, and free before loading.
    """

    model: str
    recipe: str | None
    source: str
    findings: tuple[Finding, ...]
    unseen: tuple[str, ...]
    calls: tuple[Call, ...]
    sampling: Sampling | None
    ran: Ran | None
    capsule: str | None
    memory: Mapping[str, int]
    machine: tuple[MachineFinding, ...]
    fingerprint: Fingerprint
    picture: bytes | None

    @property
    def clean(self) -> bool:
        """Whether nothing was found that may be to blame."""
        return all(one.blame is Blame.ADVICE for one in self.findings)


def diagnose(
    directory: str | Path,
    *,
    model: str | None = None,
    recipe: str | Path | None = None,
    capsule: Path | None = None,
    script: Script | None = None,
    call: Call | None = None,
    device: str | None = None,
    draw: bool = False,
    progress: Progress = lambda done, total, what: None,
) -> Diagnosis:
    """Look at the quantized pipeline in `directory`, load it, run one step of it, and at how it is called.

    `model` is the BF16 model, if it is at hand, and `capsule` the publisher's file (else the one that lies in
    the directory). The call's settings are `call`'s, or what `script` says. With `draw` a picture is drawn at
    them. ErnieQAError where what is given cannot be read; what cannot be loaded or run is a finding.
    """

    def began(what: str) -> None:
        progress(STEPS.index(what), len(STEPS), what)

    began("reading")
    place = device or visible_device()
    require_device(place)
    compile_cache.keep(place)
    found = find_model(directory)
    of = published(found, recipe)
    base = None if model is None else find_model(model)
    held, unseen = _capsule(found, capsule)
    chosen = of.recipe or (held[1].recipe if held else None)
    factor = vae_scale_factor(found)
    with hushed():
        defaults = _defaults()
    calls = asked.calls(script, defaults) if script else (call,) if call and call.settings else ()
    memory, findings = _memory(found, place)
    ran = None
    if chosen is not None:
        counted, drawn = _suites(of.sampling, calls, defaults, factor)
        subject = Subject(
            artifact=found,
            base=base,
            recipe=chosen,
            excepting=of.recipe is not None,
            capsule=held,
            device=place,
            untouched=bool(script and script.loads and not script.switches) and _switched(chosen),
            counted=counted,
            drawn=drawn if draw else None,
        )
        ran = run(subject, began)
        unseen += ran.unseen
    else:
        unseen.append("rungs package and activation: no recipe says what they should find")
    machine = examine(place)
    findings = [
        *_of_script(script, chosen),
        *(ran.findings if ran else ()),
        *_of_calls(of, chosen, calls, factor),
        *_releases(of),
        *findings,
        *_machine(machine),
    ]
    unseen += _unread(of, script, calls)
    progress(len(STEPS), len(STEPS), "done")
    drawing = ran.picture if ran else None
    return Diagnosis(
        model=found.name,
        recipe=chosen.name if chosen else None,
        source=of.source if of.recipe or not chosen else "of the capsule",
        findings=ordered(findings),
        unseen=tuple(dict.fromkeys(unseen)),
        calls=calls,
        sampling=of.sampling,
        ran=ran,
        capsule=held[0] if held else None,
        memory=memory,
        machine=machine,
        fingerprint=take_fingerprint(place),
        picture=png(drawing) if drawing else None,
    )


def _capsule(model: Model, given: Path | None) -> tuple[tuple[str, Capsule] | None, list[str]]:
    """The capsule, by its file's name, that is given or lies in the directory; and why there is none."""
    if given is not None:
        return (given.name, read_capsule(given)), []
    lying = sorted(model.path.glob(CAPSULES))
    if len(lying) == 1:
        return (lying[0].name, read_capsule(lying[0])), []
    why = f"{len(lying)} lie in the directory: name one" if lying else "it has none: ask its publisher"
    return None, [f"capsule, whether the weights are what was published: {why} (--capsule FILE)"]


def _defaults() -> dict[str, Any]:
    """The pipeline's own settings, in the order of its arguments."""
    from diffusers import ErnieImagePipeline

    parameters = inspect.signature(ErnieImagePipeline.__call__).parameters
    return {name: one.default for name, one in parameters.items() if name != "self"}


def _switched(recipe: Recipe) -> bool:
    """Whether something is to be applied after loading."""
    options = checked_options(recipe)
    return any(find_quantizer(name).loading(own)["after_loading"] for name, own in options.items())


def _suites(
    sampling: Sampling | None, calls: tuple[Call, ...], defaults: Mapping[str, Any], factor: int
) -> tuple[Suite, Suite]:
    """What one step is run of, at the recommended guidance, for which a recipe's exceptions are; and what is
    drawn, as the first call has it. What is not given is as recommended, or else the pipeline's default."""
    settings = calls[0].settings if calls else {}
    known = _known(sampling)
    case = known.cases[0] if known else None

    def of(name: str, least: float, otherwise: Any, most: float = 2**63 - 1, step: int = 0) -> Any:
        value = settings[name].value if name in settings else None
        usable = isinstance(value, int | float) and least <= value <= most and not (step and value % step)
        return value if usable else otherwise

    one = Case(
        id="diagnosis",
        prompt=case.prompt if case else TEACHER,
        width=int(of("width", 1, case.width if case else defaults["width"], MAX_SIDE, factor)),
        height=int(of("height", 1, case.height if case else defaults["height"], MAX_SIDE, factor)),
        seed=int(of("seed", 0, case.seed if case else 0)),
        focus="",
    )
    guidance = sampling.guidance if sampling else 1.0
    counted = Suite(
        sampling.suite if sampling else "diagnosis", 1, "", 1, guidance, False, (one,), Path("diagnosis")
    )
    drawn = Suite(
        name="diagnosis",
        version=1,
        summary="",
        steps=int(of("steps", 1, sampling.steps if sampling else defaults["num_inference_steps"], 1000)),
        guidance=float(of("guidance", 0, guidance if sampling else defaults["guidance_scale"])),
        use_pe=bool(of("use_pe", 0, sampling.use_pe if sampling else defaults["use_pe"])),
        cases=(one,),
        path=Path("diagnosis"),
    )
    return counted, drawn


def _known(sampling: Sampling | None) -> Suite | None:
    """The suite that was published with, where it is a shipped one."""
    try:
        return find_suite(sampling.suite) if sampling else None
    except SuiteError:
        return None


def _of_script(script: Script | None, recipe: Recipe | None) -> Iterator[Finding]:
    if script is not None:
        options = checked_options(recipe).items() if recipe else ()
        yield from asked.around(script, {name: find_quantizer(name).loading(own) for name, own in options})


def _of_calls(
    of: Published, recipe: Recipe | None, calls: tuple[Call, ...], factor: int
) -> Iterator[Finding]:
    if of.damaged:
        advice = "fetch the file again: with it the call's settings can be compared"
        yield Finding(Blame.SUSPECT, "metadata", of.unread, RUNTIME, advice)
    for call in calls:
        yield from asked.compared(call, of.sampling, factor)
    if recipe is None:
        advice = "name the recipe's file, --recipe: without it nothing is loaded"
        yield Finding(Blame.SUSPECT, "recipe", of.source, "its metadata", advice)
    elif of.named and of.named[1] != recipe.hash:
        found = f"its files name the recipe {of.named[0]}, and it was judged by another, {recipe.name}"
        yield Finding(Blame.SUSPECT, "recipe", found, "its metadata", "name the recipe it was made by")


def _unread(of: Published, script: Script | None, calls: tuple[Call, ...]) -> Iterator[str]:
    if script is not None:
        yield from asked.unread(script, calls)
    elif not calls:
        yield "the call's settings: give --script FILE, or --steps, --guidance, --size and --use-pe"
    if of.sampling is None:
        yield f"which settings it was published with: {of.unread}"
    yield "how good a picture is: a person looks, or `ernie-qa gate` compares it with BF16's"


def _memory(model: Model, place: str) -> tuple[dict[str, int], list[Finding]]:
    import torch

    weights = sum(
        file.stat().st_size for name in model.components for file in (model.path / name).glob("*.safetensors")
    )
    free = available(torch.device(place))
    memory = {"weights": weights, "free": free}
    if free >= weights:
        return memory, []
    found = f"{free / GIB:.1f} GiB are free, the weights alone take {weights / GIB:.1f} GiB"
    advice = "end what else runs there, or call enable_model_cpu_offload()"
    return memory, [Finding(Blame.SUSPECT, "memory", found, place, advice)]


def _releases(of: Published) -> Iterator[Finding]:
    """Packages that are older here than those that it was made with."""
    for name, made in of.made_with.items():
        here = version_of(name)
        try:
            older = here is None or Version(here) < Version(made)
        except InvalidVersion:
            continue
        if older:
            found = f"{name} {here or 'is not installed'}, made with {made}"
            yield Finding(Blame.SUSPECT, "packages", found, "this machine", f"pip install '{name}>={made}'")


def _machine(found: tuple[MachineFinding, ...]) -> Iterator[Finding]:
    """What the doctor found wrong that bears on pictures."""
    for one in found:
        if one.topic in MATTERS and one.state is not State.OK:
            blame = Blame.SUSPECT if one.state is State.MISSING else Blame.ADVICE
            yield Finding(blame, one.topic, one.found, "this machine", one.advice.rstrip("."))
