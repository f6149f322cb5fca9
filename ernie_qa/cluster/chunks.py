"""What a worker is given: some cases of one arm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ernie_qa.errors import InputError

if TYPE_CHECKING:
    from ernie_qa.plan import Plan
    from ernie_qa.recipe import Recipe
    from ernie_qa.suite import Suite


@dataclass(frozen=True, slots=True)
class Chunk:
    """The `cases` (ids) that are drawn in one piece with `recipe`: piece `number`, from 0, of so many."""

    recipe: Recipe
    cases: tuple[str, ...]
    number: int
    of: int

    @property
    def name(self) -> str:
        """A file's name, which no other chunk of a run has; of a whole arm, the recipe's."""
        return self.recipe.name if self.of == 1 else f"{self.recipe.name}+{self.number}"

    def __str__(self) -> str:
        """What messages call it."""
        return (
            self.recipe.name if self.of == 1 else f"{self.recipe.name} (part {self.number + 1} of {self.of})"
        )


def chunks(recipe: Recipe, suite: Suite, size: int) -> tuple[Chunk, ...]:
    """The suite in pieces of at most `size` cases, in its order; in one piece where that is 0."""
    cases = [case.id for case in suite.cases]
    step = size or len(cases)
    pieces = [tuple(cases[at : at + step]) for at in range(0, len(cases), step)]
    return tuple(Chunk(recipe, piece, number, len(pieces)) for number, piece in enumerate(pieces))


def check_size(size: int, plan: Plan) -> None:
    """InputError where chunks of so many cases cannot be drawn apart: the first holds what parts are fed."""
    fed = min(plan.teacher_cases, len(plan.suite.cases))
    if size < 0 or 0 < size < fed:
        raise InputError(
            f"--chunk {size}: needed are {max(1, fed)} cases or more, as many as are fed to the parts "
            "(--teacher-cases), or 0 for whole recipes"
        )
