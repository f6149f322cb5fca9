"""Calibrating: BF16 against BF16 under changes that ought not to matter, which is the noise floor, and
against itself with other seeds, which is the ceiling. `ernie_qa.changes` has the changes.

BF16 draws the suite's cases as they stand, without the prompt enhancer, and its trajectories are recorded.
Every change draws them again and is fed the same. Words are not read: a floor of theirs is not measured.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ernie_qa.baseline.noise import Moved, Noise
from ernie_qa.broken import release
from ernie_qa.calibration.figures import ceiling, definitions, images_of, parts_of
from ernie_qa.calibration.process import drawn_elsewhere
from ernie_qa.calibration.steps import Progress, Steps
from ernie_qa.calibration.subject import Subject, other, subject
from ernie_qa.changes import Change, changes
from ernie_qa.drawing import Drawn, draw
from ernie_qa.errors import ErnieQAError, InputError, UnavailableError
from ernie_qa.fidelity.lpips_weights import fetch
from ernie_qa.fingerprint import take_fingerprint
from ernie_qa.picture import Picture
from ernie_qa.pipeline import load_pipeline
from ernie_qa.quiet import hushed
from ernie_qa.recipe import REFERENCE, find_recipe
from ernie_qa.record import SCHEMA, Identity, Record
from ernie_qa.suite import Suite
from ernie_qa.toml_input import did_you_mean

if TYPE_CHECKING:
    from diffusers import ErnieImagePipeline

    from ernie_qa.fingerprint import Fingerprint

__all__ = ["Result", "Stand", "Subject", "calibrate", "chosen", "sizes", "stand", "subject"]


@dataclass(frozen=True, slots=True)
class Result:
    """The noise that was measured, and the changes that could not be made: name -> why."""

    noise: Noise
    skipped: dict[str, str]


def chosen(names: Sequence[str] = ()) -> tuple[Change, ...]:
    """The changes of those names, all without any. InputError where one is unknown."""
    known = {one.name: one for one in changes()}
    for name in names:
        if name not in known:
            raise InputError(f"no change named {name!r}; --list shows all{did_you_mean(name, known)}")
    return tuple(one for one in known.values() if not names or one.name in names)


def calibrate(
    of: Subject,
    wanted: Sequence[Change],
    against: Sequence[Path] = (),
    progress: Progress = lambda name, done, steps: None,
) -> Result:
    """Measure how far BF16 is from BF16 under each of `wanted`, and from the records `against`, of BF16 on
    other machines. ErnieQAError where BF16 cannot be drawn, or nothing could be measured."""
    others = {f"against-{path.resolve().name}": other(path, of) for path in against}
    if len(others) < len(against):
        raise InputError("--against: two directories have one name, which names the change; rename one")
    steps = Steps(sizes(of, wanted, others), progress)
    skipped: dict[str, str] = {}
    moved: dict[str, Moved] = {}

    steps.begin(REFERENCE)
    with stand(of, steps) as here:
        steps.begin("other-seeds")
        top = here.ceiling()
        for one in wanted:
            steps.begin(one.name)
            if why := one.unless(of.device):
                skipped[one.name] = why
                continue
            try:
                moved[one.name] = here.under(one)
            except ErnieQAError as error:
                skipped[one.name] = str(error)
            except Exception as error:
                said = next(iter(str(error).strip().splitlines()), "")
                skipped[one.name] = f"broke off: {type(error).__name__}: {said}"
                release(of.device)
        for name, record in others.items():
            steps.begin(name)
            moved[name] = here.beside(record, f"BF16 on {record.fingerprint.gpu or record.fingerprint.cpu}")
        if not moved:
            raise UnavailableError(
                f"nothing was measured: {'; '.join(f'{name}: {why}' for name, why in skipped.items())}"
            )
        noise = Noise(
            model=of.model.identity,
            machine=here.record.fingerprint.machine,
            suite=Identity(of.suite.name, of.suite.hash),
            changes=moved,
            ceiling=top,
            cases=len(of.suite.cases),
            definitions=definitions(),
        )
        return Result(noise, skipped)


def sizes(of: Subject, wanted: Sequence[Change] = (), others: Collection[str] = ()) -> dict[str, int]:
    """How many steps BF16 takes, and each of what follows: what another process drew is fed to the parts here
    as well."""
    fed = min(of.teacher_cases, len(of.drawn.cases))
    drawn = len(of.drawn.cases) * of.pictures + fed
    found = {REFERENCE: drawn, "other-seeds": drawn}
    found |= {one.name: drawn + fed * (one.environment is not None) for one in wanted}
    return found | dict.fromkeys(others, fed)


@contextmanager
def stand(of: Subject, step: Callable[[], None] = lambda: None) -> Any:
    """A `Stand` of `of`, whose pipeline is dropped afterwards; `step` is called after each of its steps."""
    if of.pictures:
        fetch()
    with hushed():
        here = Stand(of, load_pipeline(of.model, REFERENCE, of.device), step)
    try:
        yield here
    finally:
        del here
        release(of.device)


class Stand:
    """BF16's pipeline, and what it draws when nothing is changed: `record`."""

    def __init__(self, of: Subject, pipe: ErnieImagePipeline, step: Callable[[], None]) -> None:
        self.of = of
        self._step = step
        self._pipe: Any = pipe
        self._drawn = self._draw(of.drawn)
        self.record = self._record()

    def ceiling(self) -> dict[str, float]:
        """How far BF16 is from itself with other seeds, by figure."""
        with hushed():
            return ceiling(
                self._pipe, self.of.drawn, self.record, self._draw, self.of.teacher_cases, self._step
            )

    def under(self, change: Change) -> Moved:
        """How far a `change` moves it."""
        if change.environment is not None:
            began = perf_counter()
            record = drawn_elsewhere(self.of, change.environment(), self._step)
            return self.beside(record, change.title, began)
        assert change.lasting is not None
        began = perf_counter()
        with hushed():
            with contextmanager(change.lasting)(self._pipe):
                build = self._build()
                drawn = self._draw(self.of.drawn)
                parts = self._parts(self.record)
            found = images_of(drawn, self.record.pictures, self._device) if self.of.pictures else {}
            same = sum(
                Picture.from_pixels(case, one.pixels).sha256 == picture.sha256
                for picture in self.record.pictures
                for case, one in drawn.items()
                if case == picture.case
            )
        return self._moved(change.title, found | parts, same, build, perf_counter() - began)

    def beside(self, record: Record, title: str, began: float | None = None) -> Moved:
        """How far it is from what BF16 did elsewhere, or in another process, which `began` then."""
        began = perf_counter() if began is None else began
        with hushed():
            parts = self._parts(record)
            found = images_of(self._drawn, record.pictures, self._device) if self.of.pictures else {}
        theirs = {picture.case: picture.sha256 for picture in record.pictures}
        same = sum(theirs.get(picture.case) == picture.sha256 for picture in self.record.pictures)
        return self._moved(title, found | parts, same, record.fingerprint, perf_counter() - began)

    def _parts(self, record: Record) -> dict[str, float]:
        return parts_of(self._pipe, self.of.drawn, record, self.of.teacher_cases, self._step)

    @property
    def _device(self) -> str:
        return str(self._pipe._execution_device)

    def _build(self) -> Fingerprint:
        return take_fingerprint(self._device)

    def _draw(self, suite: Suite) -> dict[str, Drawn]:
        """The pictures of `suite` by case; none where they mean nothing."""
        if not self.of.pictures:
            return {}
        found = {}
        with hushed():
            for case in suite.cases:
                found[case.id] = draw(self._pipe, case, suite)
                self._step()
        return found

    def _record(self) -> Record:
        from ernie_qa.teacher import recorded

        with hushed():
            tape = recorded(self._pipe, self.of.drawn, self.of.teacher_cases, {})
        for _ in self.of.drawn.cases[: self.of.teacher_cases]:
            self._step()
        return Record(
            schema=SCHEMA,
            created=_now(),
            model=self.of.model.identity,
            recipe=Identity(REFERENCE, find_recipe(REFERENCE).hash),
            suite=Identity(self.of.suite.name, self.of.suite.hash),
            fingerprint=self._build(),
            figures={},
            pictures=tuple(Picture.from_pixels(case, one.pixels) for case, one in self._drawn.items()),
            reference=None,
            trajectories=tape,
        )

    def _moved(
        self, title: str, figures: dict[str, float], same: int, changed: Fingerprint, seconds: float
    ) -> Moved:
        return Moved(
            title=title,
            figures=figures,
            same=same,
            pictures=len(self.record.pictures),
            cases=len(self.of.drawn.cases),
            teacher_cases=min(self.of.teacher_cases, len(self.of.drawn.cases)),
            seconds=round(seconds, 3),
            created=_now(),
            reference=self.record.hash,
            build=self.record.fingerprint,
            changed=changed,
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
