"""What is calibrated, and what it may be compared with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ernie_qa.errors import InputError
from ernie_qa.models.find import Model, find_model, vae_scale_factor
from ernie_qa.recipe import REFERENCE, find_recipe
from ernie_qa.record import Record, load_record
from ernie_qa.rungs.components import CASES
from ernie_qa.suite import Suite, check_sizes, find_suite


@dataclass(frozen=True, slots=True)
class Subject:
    """What is calibrated: a model with a suite on a device, the first `cases` of it (all without a number),
    and `teacher_cases` of these for the parts."""

    model: Model
    suite: Suite
    device: str
    cases: int | None = None
    teacher_cases: int = CASES

    @property
    def drawn(self) -> Suite:
        """The cases that are drawn, as they stand."""
        return replace(self.suite, cases=self.suite.cases[: self.cases], use_pe=False)

    @property
    def pictures(self) -> bool:
        """Whether pictures are compared: those of random weights are noise."""
        return self.model.weights != "random"


def subject(
    model: str, suite: str | None, device: str, cases: int | None, teacher_cases: int = CASES
) -> Subject:
    """What is to be calibrated, checked. InputError where something is wrong."""
    found = find_model(model)
    wanted = suite or found.suite
    if wanted is None:
        raise InputError(f"{found.path}: no ernie_qa.json here names a suite for this model; say which one")
    known = find_suite(wanted)
    check_sizes(known, vae_scale_factor(found), found.name)
    if cases is not None and not 1 <= cases <= len(known.cases):
        raise InputError(f"--cases {cases}: allowed are 1 to {len(known.cases)}, the cases of {known.name}")
    if teacher_cases < 0:
        raise InputError(f"{teacher_cases} teacher cases: needed is 0 or more")
    return Subject(found, known, device, cases, teacher_cases)


def other(path: Path, of: Subject) -> Record:
    """A record of BF16 from elsewhere. InputError where it is not of the same model and suite."""
    record = load_record(path)
    for kind, ours, theirs in (
        ("recipe", find_recipe(REFERENCE).hash, record.recipe.hash),
        ("model", of.model.identity.hash, record.model.hash),
        ("suite", of.suite.hash, record.suite.hash),
    ):
        if ours != theirs:
            raise InputError(
                f"--against {path}: of another {kind} ({theirs[:12]}) than this ({ours[:12]}): make it with "
                "`ernie-qa calibrate MODEL --record DIR` there"
            )
    if of.suite.use_pe and not record.figures == {}:
        raise InputError(
            f"--against {path}: its pictures were drawn of what the prompt enhancer wrote: make it with "
            "`ernie-qa calibrate MODEL --record DIR` there"
        )
    if record.trajectories is None:
        raise InputError(f"--against {path}: it holds no trajectories: observe bf16 again there")
    missing = {case.id for case in of.drawn.cases} - {picture.case for picture in record.pictures}
    if of.pictures and missing:
        raise InputError(
            f"--against {path}: it has no picture of {', '.join(sorted(missing))}: --cases there"
        )
    return record
