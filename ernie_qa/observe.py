"""Observing: a live pipeline draws a suite while every rung measures; the result is a record."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_qa.compile_cache import compiled_files
from ernie_qa.drawing import Drawn, draw, warm_up
from ernie_qa.errors import ErnieQAError, InputError, ModelError
from ernie_qa.fingerprint import take_fingerprint
from ernie_qa.judge import refusal, unsoundness
from ernie_qa.models.find import Model, find_model
from ernie_qa.picture import Picture
from ernie_qa.pipeline import provenance
from ernie_qa.recipe import Recipe, find_recipe
from ernie_qa.record import SCHEMA, Ended, Identity, Record
from ernie_qa.redaction import redacted
from ernie_qa.rungs import Arm, Figures, components, cost, rungs
from ernie_qa.spool import Spool
from ernie_qa.suite import Suite, check_sizes, find_suite

if TYPE_CHECKING:
    from diffusers import ErnieImagePipeline

    from ernie_qa.baseline.noise import Noise
    from ernie_qa.baseline.pictures import Pictures
    from ernie_qa.suite import Case

Progress = Callable[[int, int], None]
"""Called with the number of pictures drawn and of pictures to draw."""


def observe(
    pipe: ErnieImagePipeline,
    recipe: Recipe | str | Path,
    suite: Suite | str | Path,
    *,
    reference: Record | None = None,
    accepted: Pictures | None = None,
    model: Model | str | Path | None = None,
    teacher_cases: int = components.CASES,
    all_rungs: bool = False,
    progress: Progress = lambda drawn, of: None,
) -> Record:
    """Draw `suite` with `pipe` and record what it did and what it is; imports torch.

    The pipeline is taken as it is: `recipe` only says what it is meant to be. `reference` is the BF16 arm's
    record of the same model, suite, build and machine; without it the pictures are not compared. `accepted`,
    for the BF16 arm, are a baseline's pictures: how far BF16 has moved from them is measured. `model` is
    needed for a pipeline that `load_pipeline` did not make. Of so many `teacher_cases` BF16's arm records
    what its parts were fed, and every other arm is fed that. A required check that fails before a picture is
    drawn ends the arm there, unless `all_rungs` are to be measured. InputError where one of these is wrong.
    """
    arm = arm_of(
        pipe,
        recipe,
        suite,
        reference=reference,
        accepted=accepted,
        model=model,
        teacher_cases=teacher_cases,
    )
    observation = Observation(arm, all_rungs=all_rungs)
    try:
        while observation.left:
            progress(len(observation.drawn), len(arm.suite.cases))
            observation.warm_up()
            observation.draw()
        return observation.finish()
    finally:
        observation.close()


def arm_of(
    pipe: ErnieImagePipeline,
    recipe: Recipe | str | Path,
    suite: Suite | str | Path,
    *,
    reference: Record | None = None,
    accepted: Pictures | None = None,
    model: Model | str | Path | None = None,
    teacher_cases: int = components.CASES,
    timed_apart: bool = False,
) -> Arm:
    """What is to be observed, checked; the arguments and errors are those of `observe`, and `timed_apart` is
    `Arm`'s."""
    live: Any = pipe
    origin = provenance(pipe)
    if model is None and origin is None:
        raise ModelError("this pipeline does not say which model it is; pass model=")
    known = find_model(model) if model is not None else origin.model  # type: ignore[union-attr]
    artifact = origin.artifact if origin else None
    if teacher_cases < 0:
        raise InputError(f"{teacher_cases} teacher cases: needed is 0 or more")
    wanted, cases = find_recipe(recipe), find_suite(suite)
    arm = Arm(pipe, known, wanted, cases, reference, accepted, artifact, teacher_cases, timed_apart)
    check_sizes(arm.suite, live.vae_scale_factor, known.name)
    return arm


class Observation:
    """One arm while it is observed, a picture at a time: the rungs' windows are open from the start to
    `finish` or `close`.

    The rungs begin in the ladder's order. What one of them knows then is judged at once, and a required check
    that fails ends the arm: nothing is left to draw. Not with `all_rungs`, nor where its limit lies below the
    floor of `noise`. `step` is called with a rung's name before it measures. Of the suite only `cases` are
    drawn, where their ids are given; `ernie_qa.join` makes one record of such parts.
    """

    def __init__(
        self,
        arm: Arm,
        *,
        all_rungs: bool = False,
        noise: Noise | None = None,
        step: Callable[[str], None] = lambda rung: None,
        cases: Collection[str] | None = None,
    ) -> None:
        live: Any = arm.pipe
        self._cases = tuple(case for case in arm.suite.cases if cases is None or case.id in cases)
        self.arm = arm
        self._step = step
        self._place = live._execution_device
        self._fingerprint = take_fingerprint(str(self._place))
        self._prompts = cost.written(arm.reference) if arm.reference else {}
        self._spool = Spool()
        self.drawn: list[Drawn] = []
        self._begun: list[Future[Any]] = []
        self._halves: dict[str, Generator[Figures | None, tuple[Drawn, ...], Figures]] = {}
        self._known: dict[str, Figures] = {}
        self.ended: Ended | None = None
        # what is wrong with the reference is no reason to refuse this arm
        sound = arm.reference if arm.reference and not unsoundness(arm.reference) else None
        try:
            for rung in rungs():
                step(rung.NAME)
                self._halves[rung.NAME] = rung.measure(arm)
                known = next(self._halves[rung.NAME])
                if known is None:
                    continue
                # a library's words may name a directory
                self._known[rung.NAME] = redacted(known)
                if not all_rungs and (
                    failed := refusal(self._record(self._known, ()), sound, arm.recipe, rung, noise)
                ):
                    self.ended = Ended(rung.NAME, failed.label, failed.message)
                    break
        except BaseException:
            self.close()
            raise

    @property
    def left(self) -> tuple[Case, ...]:
        """The cases that are not drawn yet; none where the arm ended before."""
        return () if self.ended else self._cases[len(self.drawn) :]

    @property
    def _steady(self) -> bool:
        """Whether the next picture is one that is timed for what it always takes."""
        return bool(self.drawn) and self._place.type == "cuda"

    def warm_up(self) -> None:
        """On a GPU, one step of the next picture: kernels are then chosen and loaded for its size and words,
        and have been counted. Not for the first picture, which shows what that costs."""
        if self._steady:
            case = self.left[0]
            warm_up(self.arm.pipe, case, self.arm.suite, prompt=self._prompts.get(case.id))
            # whoever times `draw` is not to time what was begun on the picture before
            wait(self._begun)

    def draw(self) -> Drawn:
        """Draw the next case; a steady picture without the hooks that count, for they cost time."""
        case, before = self.left[0], compiled_files()
        # what was begun on the picture before must not share the machine with this one
        wait(self._begun)
        with self.arm.unwatched() if self._steady else nullcontext():
            drawn = draw(self.arm.pipe, case, self.arm.suite, prompt=self._prompts.get(case.id))
        if self._place.type == "cuda":
            drawn = replace(drawn, compiled=compiled_files() - before)
        # what grows with the cases must not grow in memory
        drawn = drawn.spooled(self._spool)
        self.drawn.append(drawn)
        self._begun = [begun for begin in self.arm.after if (begun := begin(drawn))]
        return drawn

    def finish(self) -> Record:
        """The record of all that was drawn; every window closes."""
        if self.ended:
            self.close()
            return self._record(self._known, ())
        figures: dict[str, Figures] = {}
        # windows nest: the last one opened, around the drawing alone, closes first
        for name, half in reversed(self._halves.items()):
            self._step(name)
            try:
                half.send(tuple(self.drawn))
            except StopIteration as end:
                figures[name] = redacted(end.value)
            else:
                raise ErnieQAError(f"the rung {name} did not end after the suite was drawn")
        return self._record({name: figures[name] for name in self._halves}, self._pictures())

    def _record(self, figures: Mapping[str, Figures], pictures: tuple[Picture, ...]) -> Record:
        arm = self.arm
        return Record(
            schema=SCHEMA,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            model=arm.model.identity,
            recipe=Identity(arm.recipe.name, arm.recipe.hash),
            suite=Identity(arm.suite.name, arm.suite.hash),
            fingerprint=self._fingerprint,
            figures=figures,
            pictures=pictures,
            reference=arm.reference.hash if arm.reference else None,
            artifact=arm.artifact.identity if arm.artifact else None,
            trajectories=next(iter(arm.kept), None),
            ended=self.ended,
        )

    def close(self) -> None:
        """Take back what the rungs hung into the pipeline, also after a failure."""
        for half in self._halves.values():
            half.close()

    def _pictures(self) -> tuple[Picture, ...]:
        """What was drawn, compressed on all cores; nothing of random weights, whose pictures are noise."""
        if self.arm.model.weights == "random":
            return ()
        spool = Spool()

        def compressed(one: Drawn) -> Picture:
            return Picture.from_pixels(one.case, one.pixels).spooled(spool)

        with ThreadPoolExecutor() as pool:
            return tuple(pool.map(compressed, self.drawn))
