"""The gate tested: every fault of the corpus is done to a sound arm, and the verdict has to name it; every
clean variant has to pass. docs/selftest.md has what was found.

It runs the shipped miniature: BF16 is observed once and is the reference of all, and each recipe's sound arm
once, as soon as a fault needs it.
"""

from __future__ import annotations

import copy
import inspect
import math
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ernie_qa.drawing import Drawn
from ernie_qa.errors import ErnieQAError, InputError
from ernie_qa.execute import hushed
from ernie_qa.faults import BF16, Fault, corpus
from ernie_qa.judge import judge
from ernie_qa.observe import Observation, arm_of
from ernie_qa.pipeline import load_pipeline
from ernie_qa.recipe import Limit, find_recipe
from ernie_qa.record import Picture, Record
from ernie_qa.rungs import cost, images, rungs, text
from ernie_qa.toml_input import did_you_mean
from ernie_qa.verdict import Check, Status

if TYPE_CHECKING:
    from diffusers import ErnieImagePipeline

    from ernie_qa.recipe import Recipe
    from ernie_qa.rungs import Arm
    from ernie_qa.verdict import Verdict

MODEL, SUITE = "mini", "mini"
REFUSED = "loading"
"""What catches a fault that is refused before a rung sees it."""
BROKEN = "running"
"""What catches a fault that the arm cannot be drawn with: a gate calls it broken off, and not comparable."""
TEXT = frozenset({text.NAME})
"""The rungs of which a recipe's informational checks decide here. The miniature's words are informational
because an engine need not be installed; without one they are not comparable, which is no pass."""
COST = 1.25
"""What a costly fault may cost, beside the sound arm's ratios to BF16."""


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one fault or clean variant.

    `caught_by` is the rung, the first in the ladder's order with a required check that failed, or else one
    that was not comparable; None where the verdict is a pass. `check` is the label of that check, with what
    it `measured` and its `limit` where it is about a number, and `message`. `right` says whether that rung
    is the expected one and names the expected component. `apart` says in what a clean variant differs from
    the sound arm, empty where it does not differ in a bit.
    """

    fault: Fault
    caught_by: str | None
    check: str | None
    measured: float | None
    limit: float | None
    message: str
    right: bool
    apart: str
    seconds: float

    @property
    def counts(self) -> bool:
        """Whether it says anything: a variant that changed nothing does not."""
        return not self.fault.clean or bool(self.apart)


@dataclass(frozen=True, slots=True)
class Result:
    """All rows, and the entries that `skipped` for want of their device."""

    rows: tuple[Row, ...]
    skipped: tuple[Fault, ...]
    seconds: float

    @property
    def faults(self) -> tuple[Row, ...]:
        """The rows of faults."""
        return tuple(row for row in self.rows if not row.fault.clean)

    @property
    def killed(self) -> tuple[Row, ...]:
        """The faults that were caught."""
        return tuple(row for row in self.faults if row.caught_by)

    @property
    def clean_runs(self) -> tuple[Row, ...]:
        """The clean variants that differ in bits."""
        return tuple(row for row in self.rows if row.fault.clean and row.counts)

    @property
    def false_alarms(self) -> tuple[Row, ...]:
        """The clean variants that were not passed over, bits or not."""
        return tuple(row for row in self.rows if row.fault.clean and row.caught_by)

    @property
    def sound(self) -> bool:
        """Whether every fault was caught and no clean variant was."""
        return len(self.killed) == len(self.faults) and not self.false_alarms


def chosen(names: Sequence[str] = (), recipes: Sequence[str] = ()) -> tuple[Fault, ...]:
    """The entries of those names and recipes, all without any. InputError where one is unknown."""
    known = corpus()
    for given, allowed in ((names, [one.name for one in known]), (recipes, [one.recipe for one in known])):
        for name in given:
            if name not in allowed:
                raise InputError(
                    f"no fault {'of recipe' if given is recipes else 'named'} {name!r}; "
                    f"--list shows all{did_you_mean(name, sorted(set(allowed)))}"
                )
    return tuple(
        one for one in known if (not names or one.name in names) and (not recipes or one.recipe in recipes)
    )


def selftest(
    faults: Sequence[Fault] = (),
    device: str = "cpu",
    progress: Callable[[str, int, int], None] = lambda name, done, of: None,
) -> Result:
    """Try `faults`, all of the corpus without any; `progress` is told the next one's name, how many are done,
    and of how many."""
    wanted = faults or corpus()
    kinds = {"cpu", device.partition(":")[0]}
    runnable = [one for one in wanted if one.device in kinds]
    rows = []
    began = perf_counter()
    with bench(device) as stand:
        for done, one in enumerate(runnable):
            progress(one.name, done, len(runnable))
            rows.append(stand.tried(one))
    skipped = tuple(one for one in wanted if one.device not in kinds)
    return Result(tuple(rows), skipped, perf_counter() - began)


@contextmanager
def bench(device: str = "cpu") -> Iterator[Bench]:
    """A `Bench` on a device, with a directory for artifacts, which is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="ernie_qa-selftest-") as place:
        yield Bench(Path(place), device)


@dataclass(frozen=True, slots=True)
class Sound:
    """A recipe's sound arm: its record and verdict, and what it drew."""

    record: Record
    drawn: tuple[Drawn, ...]


class Bench:
    """Where faults are tried: sound pipelines and records, made when they are first needed."""

    def __init__(self, place: Path, device: str) -> None:
        self._place = place
        self._device = device
        self._pipes: dict[str, ErnieImagePipeline] = {}
        self._sound: dict[str, Sound] = {}

    @cached_property
    def reference(self) -> Record:
        """BF16's record."""
        with hushed():
            return self._observed(BF16, load_pipeline(MODEL, BF16, self._device), None).record

    def sound(self, recipe: str) -> Sound:
        """The recipe's arm as it ought to be. ErnieQAError where the gate does not pass it."""
        if recipe not in self._sound:
            reference = self.reference
            with hushed():
                sound = self._observed(recipe, self.pipe(recipe), reference)
            verdict = judge(sound.record, reference, _strict(recipe))
            if caught := _first(verdict):
                raise ErnieQAError(
                    f"{recipe} does not pass as it is, so nothing can be told from its faults: "
                    f"{caught.label}: {caught.message}"
                )
            self._sound[recipe] = sound
        return self._sound[recipe]

    def tried(self, fault: Fault) -> Row:
        """Do the damage to a sound arm, judge it, and undo it."""
        began = perf_counter()
        # the sound arm is part of the bench, not of the fault
        reference = self.reference
        sound = (
            self.sound(fault.recipe)
            if fault.clean or fault.at in ("pictures", "record") or fault.rung == cost.NAME
            else None
        )
        refused = broke = None
        record = None
        try:
            with hushed():
                record, reference = self._damaged(fault, reference)
        except ErnieQAError as error:
            refused = str(error)
        except Exception as error:
            broke = f"broke off: {type(error).__name__}: {error}"
        if record is None:
            return _row(fault, _unseen(fault, refused, broke), (), "", began, broke or "")
        recipe = _strict(fault.recipe)
        if fault.rung == cost.NAME and sound:
            recipe = _budgeted(recipe, sound.record)
        verdict = judge(record, reference, recipe)
        apart = _apart(sound.record, record) if fault.clean and sound else ""
        return _row(fault, _first(verdict), verdict.checks, apart, began, "")

    def _damaged(self, fault: Fault, reference: Record) -> tuple[Record, Record]:
        """The record of the damaged arm, and what it is to be judged against."""
        if fault.at == "record":
            return fault.damage(self.sound(fault.recipe).record), reference
        if fault.at == "pictures":
            return self._redrawn(fault, self.sound(fault.recipe)), reference
        if fault.at == "artifact":
            pipe = load_pipeline(MODEL, fault.recipe, self._device, artifact=self._artifact(fault))
            return self._observed(fault.recipe, pipe, reference).record, reference
        pipe = self.pipe(fault.recipe)
        if fault.at == "reference":
            damaged = fault.damage(reference)
            return self._observed(fault.recipe, pipe, damaged).record, damaged
        with _done(fault.damage, pipe):
            return self._observed(fault.recipe, pipe, reference).record, reference

    def pipe(self, recipe: str) -> ErnieImagePipeline:
        """A copy of the recipe's pipeline that may be damaged: the one that was loaded never runs, for some
        CPUs repack NF4 weights in the first forward."""
        if recipe not in self._pipes:
            self._pipes[recipe] = load_pipeline(MODEL, recipe, self._device)
        return copy.deepcopy(self._pipes[recipe])

    def _artifact(self, fault: Fault) -> Path:
        """A damaged copy of what the recipe's pipeline is when it is saved."""
        stored = self._place / fault.recipe
        if not stored.exists():
            pipe: Any = self.pipe(fault.recipe)
            pipe.save_pretrained(stored)
        directory = self._place / "damaged"
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(stored, directory)
        fault.damage(directory)
        return directory

    def _observed(self, recipe: str, pipe: ErnieImagePipeline, reference: Record | None) -> Sound:
        observation = Observation(arm_of(pipe, recipe, SUITE, reference=reference))
        try:
            while observation.left:
                observation.warm_up()
                observation.draw()
            return Sound(observation.finish(), tuple(observation.drawn))
        finally:
            observation.close()

    def _redrawn(self, fault: Fault, sound: Sound) -> Record:
        """The sound arm's record, with what its rungs make of other pictures than it drew."""
        pixels = {one.case: one.pixels.copy() for one in sound.drawn}
        fault.damage(pixels)
        drawn = tuple(replace(one, pixels=pixels[one.case]) for one in sound.drawn)
        arm = arm_of(self.pipe(fault.recipe), fault.recipe, SUITE, reference=self.reference)
        measured = {rung.NAME: _measured(rung, arm, drawn) for rung in (images, text)}
        pictures = tuple(Picture.from_pixels(one.case, one.pixels) for one in drawn)
        return replace(sound.record, figures={**sound.record.figures, **measured}, pictures=pictures)


def _measured(rung: Any, arm: Arm, drawn: tuple[Drawn, ...]) -> Any:
    measuring: Generator[Any, Any, Any] = rung.measure(arm)
    next(measuring)
    try:
        measuring.send(drawn)
    except StopIteration as end:
        return end.value
    raise ErnieQAError(f"the rung {rung.NAME} did not end after the suite was drawn")


@contextmanager
def _done(damage: Callable[[Any], Any], pipe: ErnieImagePipeline) -> Iterator[None]:
    """The damage, for as long as the context is open."""
    import torch

    if inspect.isgeneratorfunction(damage):
        with contextmanager(damage)(pipe):
            yield
        return
    with torch.no_grad():
        damage(pipe)
    yield


def _strict(recipe: str) -> Recipe:
    """The shipped recipe, with the rungs of `TEXT` deciding."""
    found = find_recipe(recipe)
    gates = {
        suite: replace(
            gate,
            informational=frozenset(
                name for name in gate.informational if name.partition(".")[0] not in TEXT
            ),
        )
        for suite, gate in found.gates.items()
    }
    return replace(found, gates=gates)


def _budgeted(recipe: Recipe, sound: Record) -> Recipe:
    """The recipe, limited to `COST` times what its sound arm cost beside BF16 in this session."""
    ratios = {f"{cost.NAME}.{name}": value for name, value in cost.measured(sound).items() if "ratio" in name}
    limits = {
        name: Limit(COST * value, None, f"{COST} times the sound arm's") for name, value in ratios.items()
    }
    gate = recipe.gates[SUITE]
    return replace(recipe, gates={**recipe.gates, SUITE: replace(gate, limits={**gate.limits, **limits})})


def _first(verdict: Verdict) -> Check | None:
    """The check that catches: of the first rung in the ladder's order with one that failed, or else with one
    that was not comparable."""
    order = [rung.NAME for rung in rungs()]
    for status in (Status.FAIL, Status.NOT_COMPARABLE):
        found = verdict.of(status)
        # what is no rung's (the reference, the baseline) stands first
        if found:
            return min(found, key=lambda one: order.index(one.rung) if one.rung in order else -1)
    return None


def _row(
    fault: Fault, caught: Check | None, checks: Sequence[Check], apart: str, began: float, message: str
) -> Row:
    seconds = perf_counter() - began
    if caught is None:
        return Row(fault, None, None, None, None, message, False, apart, seconds)
    same = [one for one in checks if one.required and (one.rung, one.status) == (caught.rung, caught.status)]
    named = [one for one in same if fault.component in (None, one.component)]
    # of several the one that is furthest beyond its limit says most
    shown = max(named, key=_excess, default=caught)
    right = caught.rung == fault.rung and (bool(named) or not checks)
    return Row(
        fault, caught.rung, shown.label, shown.measured, shown.limit, shown.message, right, apart, seconds
    )


def _unseen(fault: Fault, refused: str | None, broke: str | None) -> Check | None:
    """What catches a fault without a record. Breaking off counts only where that is expected: it may be the
    damage that could not be done. A clean variant that breaks off is an alarm."""
    if refused:
        return Check(REFUSED, REFUSED, Status.FAIL, refused)
    if broke and (fault.clean or fault.rung == BROKEN):
        return Check(BROKEN, BROKEN, Status.NOT_COMPARABLE, broke)
    return None


def _excess(check: Check) -> float:
    """How far beyond its limit, as a ratio; endless where it is about no number."""
    if check.limit is None or check.measured is None:
        return math.inf
    if not check.limit or not check.measured:
        return 1.0
    return max(check.measured / check.limit, check.limit / check.measured)


def _apart(sound: Record, other: Record) -> str:
    """In what two records differ to the bit, in words; empty where they do not."""
    theirs = {picture.case: picture.sha256 for picture in sound.pictures}
    pictures = sum(theirs.get(picture.case) != picture.sha256 for picture in other.pictures)
    told = [f"{pictures} of {len(other.pictures)} pictures"] if pictures else []
    files = {picture.case: picture.png for picture in sound.pictures}
    packed = sum(files.get(picture.case) != picture.png for picture in other.pictures)
    told += [f"{packed} of {len(other.pictures)} files"] if packed and not pictures else []
    ours, sounds = (
        {key: value for key, value in record.figures.get("components", {}).items() if key not in _PASSING}
        for record in (other, sound)
    )
    differing = sorted(key for key in ours if ours[key] != sounds.get(key))
    return ", ".join([*told, *differing])


_PASSING = ("seconds", "reference")
"""Figures of the components rung that differ from run to run."""
