"""Observing: a live pipeline draws a suite while every rung measures; the result is a record."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_qa.errors import ErnieQAError, ModelError
from ernie_qa.fingerprint import take_fingerprint
from ernie_qa.models.find import Model, find_model
from ernie_qa.pipeline import Drawn, draw, provenance
from ernie_qa.recipe import Recipe, find_recipe
from ernie_qa.record import SCHEMA, Identity, Record
from ernie_qa.rungs import Arm, Figures, rungs
from ernie_qa.suite import Suite, check_sizes, find_suite

if TYPE_CHECKING:
    from diffusers import ErnieImagePipeline

    from ernie_qa.baseline.pictures import Pictures

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
    progress: Progress = lambda drawn, of: None,
) -> Record:
    """Draw `suite` with `pipe` and record what it did and what it is; imports torch.

    The pipeline is taken as it is: `recipe` only says what it is meant to be. `reference` is the BF16 arm's
    record of the same model, suite, build and machine; without it the pictures are not compared. `accepted`,
    for the BF16 arm, are a baseline's pictures: how far BF16 has moved from them is measured. `model` is
    needed for a pipeline that `load_pipeline` did not make. InputError where one of these is wrong.
    """
    live: Any = pipe
    origin = provenance(pipe)
    if model is None and origin is None:
        raise ModelError("this pipeline does not say which model it is; pass model=")
    known = find_model(model) if model is not None else origin.model  # type: ignore[union-attr]
    artifact = origin.artifact if origin else None
    arm = Arm(pipe, known, find_recipe(recipe), find_suite(suite), reference, accepted, artifact)
    check_sizes(arm.suite, live.vae_scale_factor, known.name)
    fingerprint = take_fingerprint(str(live._execution_device))
    figures, drawn = _measured(arm, progress)
    return Record(
        schema=SCHEMA,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        model=known.identity,
        recipe=Identity(arm.recipe.name, arm.recipe.hash),
        suite=Identity(arm.suite.name, arm.suite.hash),
        fingerprint=fingerprint,
        figures=figures,
        pictures=tuple(one.picture for one in drawn),
        reference=reference.hash if reference else None,
        artifact=artifact.identity if artifact else None,
    )


def _measured(arm: Arm, progress: Progress) -> tuple[dict[str, Figures], tuple[Drawn, ...]]:
    """Run every rung's measuring half around the drawing of the suite."""
    halves = {rung.NAME: rung.measure(arm) for rung in rungs()}
    try:
        for half in halves.values():
            next(half)
        drawn: list[Drawn] = []
        for case in arm.suite.cases:
            progress(len(drawn), len(arm.suite.cases))
            drawn.append(draw(arm.pipe, case, arm.suite))
        figures = {}
        # windows nest: the last one opened, around the drawing alone, closes first
        for name, half in reversed(halves.items()):
            try:
                half.send(tuple(drawn))
            except StopIteration as end:
                figures[name] = end.value
            else:
                raise ErnieQAError(f"the rung {name} did not end after the suite was drawn")
        return {name: figures[name] for name in halves}, tuple(drawn)
    finally:
        # what a rung hung into the pipeline must not outlive a failure
        for half in halves.values():
            half.close()
