"""The ladder of evidence, a file a rung.

A rung is a module with

    NAME      what its figures, checks, gate file and page in docs are called
    ORDER     its place on the ladder: cheap rungs first
    TITLE     the question it answers
    LIMITS    the names of the limits that a recipe may set for it
    measure(arm)      a generator: it runs up to its one `yield` before the suite is drawn, receives what
                      was drawn, and returns figures (JSON values)
    judge(evidence)   yields checks; it imports no torch

A new rung is a new file here and nothing else.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from diffusers import ErnieImagePipeline

    from ernie_qa.models.find import Model
    from ernie_qa.recipe import Gate, Recipe
    from ernie_qa.record import Picture, Record
    from ernie_qa.suite import Suite
    from ernie_qa.verdict import Check

Figures = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Drawn:
    """What drawing one case gave: the picture, and how many of its values were not finite before rounding."""

    picture: Picture
    nonfinite: int


@dataclass(frozen=True, slots=True)
class Arm:
    """What is being observed: a live pipeline, and what it is said to be."""

    pipe: ErnieImagePipeline
    model: Model
    recipe: Recipe
    suite: Suite
    reference: Record | None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a verdict is made from."""

    record: Record
    reference: Record | None
    recipe: Recipe

    @property
    def gate(self) -> Gate | None:
        """The recipe's limits for the suite that was drawn; None where it sets none."""
        return self.recipe.gates.get(self.record.suite.name)


class Rung(Protocol):
    NAME: str
    ORDER: int
    TITLE: str
    LIMITS: frozenset[str]

    def measure(self, arm: Arm) -> Generator[None, tuple[Drawn, ...], Figures]: ...

    def judge(self, evidence: Evidence) -> Iterator[Check]: ...


@cache
def rungs() -> tuple[Rung, ...]:
    """All rungs, the cheapest first."""
    found = (import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
    return tuple(sorted((cast("Rung", module) for module in found), key=lambda rung: rung.ORDER))
