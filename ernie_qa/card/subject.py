"""What a card is about: an artifact, the record that was taken of it, BF16's record, and the suite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ernie_qa.card.runtime import Runtime, read_runtime
from ernie_qa.errors import RecordError, SuiteError
from ernie_qa.models.find import Model, find_model
from ernie_qa.recipe import REFERENCE
from ernie_qa.record import Record
from ernie_qa.report.shown import Shown, from_disk
from ernie_qa.suite import Suite, recorded_suite
from ernie_qa.toml_input import SAFE_NAME, one_line


@dataclass(frozen=True, slots=True)
class Subject:
    """`shown` is the artifact's record with its verdict; `bf16` the record that it was measured against."""

    artifact: Model
    runtime: Runtime
    shown: Shown
    bf16: Record
    suite: Suite

    @property
    def record(self) -> Record:
        """What was observed of the artifact."""
        return self.shown.record

    @property
    def names(self) -> tuple[str, str]:
        """What tables and pictures call BF16 and the artifact."""
        return "Original BF16", self.record.recipe.name

    @property
    def random(self) -> bool:
        """Whether its weights are random, so that its pictures mean nothing."""
        return self.record.model.weights == "random"


def find_subject(
    places: Sequence[Path],
    artifact: Path,
    suite: str | Path | None = None,
    recipes: Sequence[str | Path] = (),
) -> Subject:
    """The one record among `places` that was taken of `artifact`, and all that belongs to it.

    Places, recipes and suite are as `report.shown.from_disk` and `ernie_qa.suite.find_suite` take them.
    ModelError for a directory that `quantize` did not write, RecordError where no record is of it, or the
    record it was measured against is missing or of another model or suite, SuiteError without the suite.
    """
    model = find_model(Path(artifact))
    runtime = read_runtime(model)
    found = from_disk(places, recipes)
    of_it = [one for one in found if one.record.artifact and one.record.artifact.hash == model.identity.hash]
    if len(of_it) != 1:
        raise RecordError(one_line(_none(found, runtime, artifact) if not of_it else _several(of_it)))
    (shown,) = of_it
    name = shown.record.recipe.name
    if not SAFE_NAME.fullmatch(name) or name == REFERENCE:
        raise RecordError(
            one_line(f"record {shown.record.hash[:12]}: {name} is no name for a recipe; gate it again")
        )
    if shown.record.model.hash != runtime.base_hash:
        raise RecordError(
            one_line(
                f"{shown.label}: it was measured beside another model, {shown.record.model.name}, than "
                f"{runtime.base}, which {artifact} was made from; gate it with --model {runtime.base}"
            )
        )
    bf16 = _reference(shown, found)
    drawn = recorded_suite(shown.record.suite.name, shown.record.suite.hash, suite)
    if drawn is None:
        title = shown.record.suite.name
        raise SuiteError(
            one_line(f"{suite or title}: not the suite {title} that was drawn; name its file with --suite")
        )
    return Subject(model, runtime, shown, bf16, drawn)


def _reference(shown: Shown, found: Sequence[Shown]) -> Record:
    """BF16's record. RecordError where it cannot stand beside the artifact's."""
    record = shown.record
    fault = ""
    if shown.reference is None:
        fault = "bf16's record, that it was measured against, is not there"
        others = [one.record for one in found if one.record.recipe.name == REFERENCE]
        for what in ("model", "suite"):
            ours = getattr(record, what)
            for theirs in (getattr(one, what) for one in others):
                if theirs.hash != ours.hash:
                    fault = f"bf16's record is of another {what}, {theirs.name}, and this of {ours.name}"
    else:
        for what in ("model", "suite"):
            ours, theirs = getattr(record, what), getattr(shown.reference, what)
            if theirs.hash != ours.hash:
                fault = f"it was measured against another {what}, {theirs.name}, and is of {ours.name}"
    if fault or shown.reference is None:
        raise RecordError(
            one_line(
                f"{shown.label}: {fault}; name the directory that one `ernie-qa gate --report` wrote, which "
                "has both"
            )
        )
    return shown.reference


def _none(found: Sequence[Shown], runtime: Runtime, artifact: Path) -> str:
    same = [one.record for one in found if one.record.recipe.hash == runtime.recipe_hash]
    if any(one.artifact is None for one in same):
        what = f"the record of {runtime.recipe} was quantized in memory, so it says nothing of these files"
    elif same:
        what = f"the record of {runtime.recipe} was taken of other files"
    else:
        labels = ", ".join(one.label for one in found) or "none"
        what = f"no record of it: found {labels}"
    return (
        f"{artifact}: {what}; gate it with --artifact {runtime.recipe}={artifact} --report DIR, and name DIR"
    )


def _several(found: Sequence[Shown]) -> str:
    labels = ", ".join(one.label for one in found)
    return f"{len(found)} records of this artifact ({labels}): name the directory of one of them"
