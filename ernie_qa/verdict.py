"""What judging ends in: checks, and the verdict over them."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from enum import StrEnum


class Status(StrEnum):
    """The four outcomes of a check."""

    PASS = "pass"
    FAIL = "fail"
    NOT_COMPARABLE = "not_comparable"
    """It should have been judged and could not be."""
    NOT_APPLICABLE = "not_applicable"
    """It does not concern this arm."""


def worst(statuses: Iterable[Status]) -> Status:
    """What several outcomes amount to: `fail`, else `not_comparable`, else `pass`, else `not_applicable`."""
    found = set(statuses)
    order = (Status.FAIL, Status.NOT_COMPARABLE, Status.PASS)
    return next((status for status in order if status in found), Status.NOT_APPLICABLE)


@dataclass(frozen=True, slots=True)
class Check:
    """One measured figure against one limit.

    `measured` and `limit` are in `unit`, or None where the check is not about a number; `message` says
    what was measured, the limit, where, and what to look at next. `floor` is how far BF16 is from itself
    under changes that ought not to matter, and `ceiling` with other seeds; None where that is not known.
    """

    name: str
    rung: str
    status: Status
    message: str
    required: bool = True
    component: str | None = None
    case: str | None = None
    measured: float | None = None
    limit: float | None = None
    unit: str = ""
    floor: float | None = None
    ceiling: float | None = None

    @property
    def position(self) -> float | None:
        """(measured - floor) / (ceiling - floor): 0 is as far as BF16 is from itself where nothing that
        matters has changed, 1 as far as with another seed; below 0 it is nearer. None without one of them."""
        if self.measured is None or self.floor is None or self.ceiling in (None, self.floor):
            return None
        assert self.ceiling is not None
        return (self.measured - self.floor) / (self.ceiling - self.floor)

    @property
    def label(self) -> str:
        """The name, with where it was measured: `images.lpips[00-poster]`, `activation.ran[transformer]`."""
        where = ", ".join(place for place in (self.component, self.case) if place)
        return f"{self.name}[{where}]" if where else self.name

    def __str__(self) -> str:
        """One line: status, label, and what was measured beside its limit."""
        figures = [
            f"{word} {value:.6g}"
            for word, value in (("measured", self.measured), ("limit", self.limit))
            if value is not None
        ]
        unit = f" {self.unit}" if self.unit and figures else ""
        status = self.status if self.required else f"({self.status})"
        return f"{status:<16} {self.label:<44} {', '.join(figures)}{unit}".rstrip()


@dataclass(frozen=True, slots=True)
class WaiverUse:
    """One waiver of the recipe: the check's name or label, why, the last day it holds, whether that is past,
    and how many checks it is about (none: it is about a check that nobody makes)."""

    check: str
    reason: str
    until: date
    expired: bool
    checks: int

    def __str__(self) -> str:
        """One line."""
        state = "ended" if self.expired else "until"
        about = "" if self.checks else "; no check has this name"
        return f"waiver of {self.check} {state} {self.until}: {self.reason}{about}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """All checks of one record, what was waived, and what they amount to."""

    recipe: str
    checks: tuple[Check, ...]
    waivers: tuple[WaiverUse, ...] = ()

    @property
    def status(self) -> Status:
        """`fail` if a required check failed, else `not_comparable` if a required one is, else `pass`.

        A verdict without a single passed required check is `not_comparable`: nothing was shown.
        """
        found = worst(check.status for check in self.checks if check.required)
        return Status.NOT_COMPARABLE if found is Status.NOT_APPLICABLE else found

    def of(self, status: Status) -> tuple[Check, ...]:
        """The required checks that ended in `status`."""
        return tuple(check for check in self.checks if check.required and check.status == status)

    def __str__(self) -> str:
        """A table, a check a line; what decided against a pass follows in words. Brackets: informational."""
        told = (*self.of(Status.FAIL), *self.of(Status.NOT_COMPARABLE))
        return "\n".join(
            [
                f"{self.recipe}: {self.status}",
                *(f"  {check}" for check in self.checks),
                *(f"  {waiver}" for waiver in self.waivers),
                *(f"{check.label}: {check.message}" for check in told),
            ]
        )
