"""Where faults are tried: sound arms, damage to copies of them, and the verdict on that."""

from __future__ import annotations

import copy
import inspect
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ernie_qa.drawing import Drawn
from ernie_qa.errors import ErnieQAError
from ernie_qa.faults import BF16, Fault
from ernie_qa.judge import judge
from ernie_qa.observe import Observation, arm_of
from ernie_qa.picture import Picture
from ernie_qa.pipeline import load_pipeline
from ernie_qa.quiet import hushed
from ernie_qa.recipe import Limit, find_recipe
from ernie_qa.record import Record
from ernie_qa.rungs import cost, images, text
from ernie_qa.selftest.row import Row, apart, first, row, unseen

if TYPE_CHECKING:
    from diffusers import ErnieImagePipeline

    from ernie_qa.recipe import Recipe
    from ernie_qa.rungs import Arm

MODEL, SUITE = "mini", "mini"
TEXT = frozenset({text.NAME})
"""The rungs of which a recipe's informational checks decide here. The miniature's words are informational
because an engine need not be installed; without one they are not comparable, which is no pass."""
COST = 1.25
"""What a costly fault may cost, beside the sound arm's ratios to BF16."""


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
            if caught := first(verdict):
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
            return row(fault, unseen(fault, refused, broke), (), "", began, broke or "")
        recipe = _strict(fault.recipe)
        if fault.rung == cost.NAME and sound:
            recipe = _budgeted(recipe, sound.record)
        verdict = judge(record, reference, recipe)
        apart_in = apart(sound.record, record) if fault.clean and sound else ""
        return row(fault, first(verdict), verdict.checks, apart_in, began, "")

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
        drawn = tuple(replace(one, picture=pixels[one.case]) for one in sound.drawn)
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
