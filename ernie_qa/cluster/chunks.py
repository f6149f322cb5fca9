"""What a worker is given: some cases of one arm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ernie_qa.errors import InputError
from ernie_qa.pieces import piece_name

if TYPE_CHECKING:
    from ernie_qa.pieces import Pieces
    from ernie_qa.plan import Plan
    from ernie_qa.recipe import Recipe


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
        return piece_name(self.recipe.name, self.number, self.of)

    def __str__(self) -> str:
        """What messages call it."""
        return (
            self.recipe.name if self.of == 1 else f"{self.recipe.name} (part {self.number + 1} of {self.of})"
        )


def chunks(recipe: Recipe, pieces: Pieces) -> tuple[Chunk, ...]:
    """One a piece."""
    return tuple(Chunk(recipe, cases, number, len(pieces)) for number, cases in enumerate(pieces))


def check_size(size: int | None, plan: Plan) -> None:
    """InputError where chunks of so many cases cannot be drawn apart: the first holds what parts are fed."""
    fed = min(plan.teacher_cases, len(plan.suite.cases))
    if size is None:
        return
    if size < 0 or 0 < size < fed:
        raise InputError(
            f"--chunk {size}: needed are {max(1, fed)} cases or more, as many as are fed to the parts "
            "(--teacher-cases), or 0 for whole recipes"
        )
