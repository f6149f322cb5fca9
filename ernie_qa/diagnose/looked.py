"""What a loaded pipeline shows: the rungs package and activation, and the capsule."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ernie_qa.diagnose.findings import Blame, Finding
from ernie_qa.drawing import rehearse
from ernie_qa.fidelity.defects import constant, nonfinite_values, wrong_size
from ernie_qa.fingerprint import take_fingerprint
from ernie_qa.picture import Picture
from ernie_qa.record import SCHEMA, Identity, Record
from ernie_qa.rungs import Evidence, activation, package
from ernie_qa.verdict import Check, Status

if TYPE_CHECKING:
    from ernie_qa.capsules.sameness import Finding as Compared
    from ernie_qa.drawing import Drawn
    from ernie_qa.rungs import Arm
    from ernie_qa.suite import Suite

BASE = frozenset({"package.weights", "package.unchanged"})
"""The checks that compare with the BF16 model."""
KERNELS = "activation.kernels"
_LIVE = "look for another release of the quantizer, and for code that changes layers: docs/activation.md"
_SPOILS = ("stored", "weights", "layers", "outputs", "ids", "sigmas", "calls")
"""What a capsule compares that decides a picture; the rest decides how a layer runs."""


@dataclass(frozen=True, slots=True)
class Looked:
    """The `checks` and `figures` of both rungs."""

    checks: tuple[Check, ...]
    figures: Mapping[str, Any]


def look(arm: Arm, *, without: frozenset[str], before_running: Callable[[], None] = lambda: None) -> Looked:
    """Take a pipeline that nobody has run through both rungs: one step of the arm's first case is run and
    counted. The checks `without` which it goes say nothing here. `before_running` is called when the states
    of all layers are read, and may run the pipeline."""
    figures: dict[str, Any] = {}
    with closing(package.measure(arm)) as files:
        figures[package.NAME] = _ended(files, next(files))
    for name in arm.recipe.components:
        if getattr(arm.pipe, name, None) is not None:
            # some CPUs repack weights in the first forward
            arm.seen(name)
    before_running()
    with closing(activation.measure(arm)) as counting:
        known = next(counting)
        rehearse(arm.pipe, arm.suite.cases[0], arm.suite, steps=1)
        figures[activation.NAME] = _ended(counting, known)
    record = _record(arm, figures)
    evidence = Evidence(record, None, arm.recipe)
    checks = [*package.judge(evidence), *activation.judge(evidence)]
    return Looked(tuple(one for one in checks if one.name not in without), figures)


def _ended(half: Generator[Any, tuple[Drawn, ...], Any], known: Any) -> Any:
    try:
        half.send(())
    except StopIteration as end:
        return end.value
    return known


def _record(arm: Arm, figures: Mapping[str, Any]) -> Record:
    live: Any = arm.pipe
    return Record(
        schema=SCHEMA,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        model=arm.model.identity,
        recipe=Identity(arm.recipe.name, arm.recipe.hash),
        suite=Identity(arm.suite.name, arm.suite.hash),
        fingerprint=take_fingerprint(str(live._execution_device)),
        figures=figures,
        pictures=(),
        reference=None,
        artifact=arm.artifact.identity if arm.artifact else None,
    )


def of_rungs(looked: Looked, *, untouched: bool) -> Iterator[Finding]:
    """What failed, a rung and component in a line, and components of which the same is to be said.
    `untouched` says that nothing was applied after loading."""
    failed: dict[tuple[str, str], list[Check]] = {}
    for check in looked.checks:
        if check.status is Status.FAIL:
            failed.setdefault((check.rung, check.component or "the files"), []).append(check)
    alike: dict[tuple[str, str], list[str]] = {}
    for (_, component), (first, *others) in failed.items():
        found = first.message.removeprefix(f"{component}: ")
        if others:
            found += f" (also {', '.join(one.name for one in others)})"
        alike.setdefault((first.name, found), []).append(component)
    for (name, found), components in alike.items():
        where = ", ".join(components)
        if name.startswith(f"{package.NAME}."):
            yield Finding(Blame.CAUSE, name, found, where, "fetch or quantize the directory again")
        else:
            advice = "after loading, apply what runtime_config.json says" if untouched else _LIVE
            yield Finding(Blame.SUSPECT, name, found, where, advice)
    if not untouched:
        yield from _claims(looked)


def _claims(looked: Looked) -> Iterator[Finding]:
    """Configurations on disk that claim something else than the recipe: loading put it right here."""
    claims: dict[str, list[str]] = {}
    for component, found in looked.figures[package.NAME]["components"].items():
        said = ", ".join(f"{key}={value}" for key, value in found["claims"].items())
        if said:
            claims.setdefault(said, []).append(component)
    for said, components in claims.items():
        yield Finding(
            Blame.SUSPECT,
            "package.claims",
            f"its config.json says {said}, and the recipe does not: a loader that goes by it gets that",
            ", ".join(components),
            "apply after loading what runtime_config.json says, or fetch the directory again",
        )


def untold(looked: Looked, without: frozenset[str]) -> Iterator[str]:
    """What the rungs could not judge, in words."""
    if without >= BASE:
        yield (
            "package: whether the weights are what quantizing BF16 makes, and the rest is still BF16's: not "
            "comparable without the BF16 model (--model BF16_DIR)"
        )
    if KERNELS in without:
        yield f"{KERNELS}: a capsule does not say which layers may do without: name its recipe, --recipe"
    for check in looked.checks:
        if check.status is Status.NOT_COMPARABLE:
            yield f"{check.name}: {check.message}"


def of_capsule(compared: Sequence[Compared], name: str) -> Iterator[Finding]:
    """What differs from what was published, a line a component, its layers named."""
    failed: dict[str, list[Compared]] = {}
    for one in compared:
        if one.status is Status.FAIL:
            failed.setdefault(one.component or "the recipe", []).append(one)
    for component, findings in failed.items():
        findings.sort(key=lambda one: one.about not in _SPOILS)
        first, *others = findings
        found = f"differs from what was published: {first.about}: {first.message}"
        if others:
            found += f" (also {', '.join(dict.fromkeys(one.about for one in others))})"
        blame = Blame.CAUSE if first.about in _SPOILS else Blame.SUSPECT
        advice = f"fetch this component again; `ernie-qa capsule check {name}` has every layer"
        yield Finding(blame, "capsule", found, component, advice)


def of_picture(drawn: Drawn, suite: Suite) -> Iterator[Finding]:
    """What is wrong with the picture of the suite's case that was drawn, whatever it shows."""
    case = suite.cases[0]
    defects = (
        nonfinite_values(drawn.nonfinite),
        constant(drawn.pixels),
        wrong_size(drawn.pixels, case.width, case.height),
    )
    for defect in filter(None, defects):
        advice = "look at the other findings first; draw with another seed"
        yield Finding(Blame.CAUSE, "picture", defect, "the picture that was drawn", advice)


def png(drawn: Drawn) -> bytes:
    """The picture as a PNG file that says nothing of who drew it."""
    return Picture.from_pixels(drawn.case, drawn.pixels).png
