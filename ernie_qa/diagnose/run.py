"""Loading what is diagnosed and running it: what breaks on the way is a finding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ernie_qa.broken import told
from ernie_qa.capsules.installed import compared, stored_otherwise
from ernie_qa.diagnose.findings import Blame, Finding
from ernie_qa.diagnose.looked import BASE, KERNELS, Looked, look, of_capsule, of_picture, of_rungs, untold
from ernie_qa.drawing import draw
from ernie_qa.errors import ErnieQAError
from ernie_qa.frozen import Frozen
from ernie_qa.meter import peaks
from ernie_qa.models.artifact import stored_method
from ernie_qa.pipeline import load_artifact
from ernie_qa.quiet import hushed
from ernie_qa.rungs import Arm
from ernie_qa.toml_input import one_line
from ernie_qa.verdict import Status

if TYPE_CHECKING:
    from diffusers import ErnieImagePipeline

    from ernie_qa.capsules.capsule import Capsule
    from ernie_qa.capsules.sameness import Finding as Compared
    from ernie_qa.drawing import Drawn
    from ernie_qa.models.find import Model
    from ernie_qa.recipe import Recipe
    from ernie_qa.suite import Suite

Began = Callable[[str], None]
"""Called with what begins."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is loaded: `artifact`, quantized by `recipe`, on a `device`. `base` is the BF16 model, `capsule`
    the publisher's with its file's name, None where they are not at hand. `excepting` says that the recipe
    knows which layers may do without the kernel, as a capsule's does not. With `untouched` nothing is applied
    after loading. One step of `counted` is run, and `drawn` is drawn to the end, if there is one."""

    artifact: Model
    base: Model | None
    recipe: Recipe
    excepting: bool
    capsule: tuple[str, Capsule] | None
    device: str
    untouched: bool
    counted: Suite
    drawn: Suite | None


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of it; `looked`, `picture` and `compared` are None where it did not come to that, `peaks` are
    bytes, see `ernie_qa.meter.peaks`."""

    findings: tuple[Finding, ...]
    unseen: tuple[str, ...]
    notes: tuple[str, ...] = ()
    looked: Looked | None = None
    picture: Drawn | None = None
    compared: tuple[Compared, ...] | None = None
    peaks: Mapping[str, int | None] = field(default_factory=lambda: Frozen({}))


def run(subject: Subject, began: Began) -> Ran:
    """Load it, hold it against the capsule, take it through both rungs, draw."""
    unlooked = "rungs package and activation: it was not loaded"
    if stored := _stored_otherwise(subject):
        return Ran(tuple(stored), (unlooked,))
    began("loading")
    try:
        with hushed():
            pipe = load_artifact(
                subject.artifact,
                subject.recipe,
                subject.device,
                model=subject.base,
                untouched=subject.untouched,
            )
    except ErnieQAError as problem:
        advice = "mend what it names, or fetch the directory again"
        return Ran(
            (Finding(Blame.CAUSE, "loading", str(problem), subject.artifact.name, advice),), (unlooked,)
        )
    return _Running(subject, pipe, began).to_the_end()


class _Running:
    """A loaded pipeline on its way through the capsule, the rungs and a drawing."""

    def __init__(self, subject: Subject, pipe: ErnieImagePipeline, began: Began) -> None:
        self._subject, self._pipe, self._began = subject, pipe, began
        self._compared: tuple[Compared, ...] | None = None
        self._notes: tuple[str, ...] = ()
        self._looked: Looked | None = None
        self._picture: Drawn | None = None

    def to_the_end(self) -> Ran:
        """What it shows, and where it broke off."""
        live: Any = self._pipe
        broke = []
        with hushed():
            try:
                self._look()
            except ErnieQAError as problem:
                broke = [_broke(self._subject, str(problem))]
            except Exception as problem:
                # a damaged pipeline raises whatever the libraries raise
                broke = [_broke(self._subject, one_line(told(problem)))]
        findings, unseen = self._of_capsule()
        findings += broke
        if self._looked is None:
            unseen.append("rungs package and activation: it broke off before they were through")
        else:
            findings += of_rungs(self._looked, untouched=self._subject.untouched)
            unseen += untold(self._looked, self._without)
        if self._picture is not None and self._subject.drawn is not None:
            findings += of_picture(self._picture, self._subject.drawn)
        return Ran(
            findings=tuple(findings),
            unseen=tuple(unseen),
            notes=self._notes,
            looked=self._looked,
            picture=self._picture,
            compared=self._compared,
            peaks=Frozen(peaks(live._execution_device)),
        )

    @property
    def _without(self) -> frozenset[str]:
        """The checks that say nothing here."""
        found = BASE if self._subject.base is None else frozenset()
        return found if self._subject.excepting else found | {KERNELS}

    def _look(self) -> None:
        of = self._subject
        self._began("package")
        arm = Arm(self._pipe, of.base or of.artifact, of.recipe, of.counted, None, artifact=of.artifact)
        self._looked = look(arm, without=self._without, before_running=self._compare)
        if of.drawn is not None:
            self._began("picture")
            self._picture = draw(self._pipe, of.drawn.cases[0], of.drawn)

    def _compare(self) -> None:
        if self._subject.capsule is not None:
            self._began("capsule")
            # weights and layers are compared whole; more steps than one would tell little more
            self._compared, self._notes = compared(self._subject.capsule[1], self._pipe, steps=1)
        self._began("one step")

    def _of_capsule(self) -> tuple[list[Finding], list[str]]:
        if self._subject.capsule is None:
            return [], []
        if self._compared is None:
            return [], ["capsule: it broke off before it was compared"]
        unjudged = (one for one in self._compared if one.status is Status.NOT_COMPARABLE)
        unseen = [f"capsule: {one.component or 'all'}: {one.about}: {one.message}" for one in unjudged]
        return list(of_capsule(self._compared, self._subject.capsule[0])), unseen


def _stored_otherwise(subject: Subject) -> list[Finding]:
    """Where the capsule was made of components that are stored otherwise than here: nothing can be fed."""
    if subject.capsule is None:
        return []
    name, published = subject.capsule
    methods = {part: stored_method(subject.artifact, part) for part in subject.artifact.components}
    return list(of_capsule(stored_otherwise(published, methods), name))


def _broke(subject: Subject, said: str) -> Finding:
    advice = "look at the other findings first, then fetch the directory again"
    return Finding(Blame.CAUSE, "running", f"it breaks off: {said}", subject.artifact.name, advice)
