"""What a record says of time and memory, as a card's tables want it. None is what nobody measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from ernie_qa.nvml import disqualified
from ernie_qa.rungs import cost

if TYPE_CHECKING:
    from ernie_qa.record import Record

ENHANCER = "pe"
Peaks = Mapping[str, int | None]


@dataclass(frozen=True, slots=True)
class Hot:
    """The steady pictures (`ernie_qa.rungs.cost.steady`): how many, seconds of each of them in the mean, the
    median and at both ends, the highest peaks in bytes, each stage's mean seconds, and the prompt enhancer's,
    which are in none of the others. None of them where no picture was steady, nor the last without enhancer.
    """

    pictures: int
    mean: float | None
    median: float | None
    least: float | None
    most: float | None
    peaks: Peaks
    stages: Mapping[str, float]
    enhancer: float | None


NONE_STEADY = Hot(0, None, None, None, None, {}, {}, None)


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds and bytes of one record.

    `cold` is the first picture; `compiled` how many kernels were compiled meanwhile, None on a CPU.
    `cold_peaks` is empty where that picture was drawn before the suite, whose peaks are kept. `disturbed`
    says what else the GPU was busy with.
    """

    residency: str
    load: float | None
    load_peaks: Peaks
    cold: float | None
    cold_peaks: Peaks
    compiled: int | None
    hot: Hot
    disturbed: str

    @property
    def total(self) -> float | None:
        """Seconds of loading and the first picture."""
        return None if self.load is None or self.cold is None else self.load + self.cold


def costs(record: Record) -> Costs:
    """The costs in `record`; all None where it holds no figures of that rung."""
    figures = record.figures.get(cost.NAME, {})
    drawn = list(figures.get("pictures", {}).values())
    if not drawn:
        return Costs("", None, {}, None, {}, None, NONE_STEADY, "")
    load, rehearsed = figures["load"], figures.get("rehearsed")
    first = rehearsed or drawn[0]
    return Costs(
        residency=figures["residency"],
        load=load["seconds"] if load else None,
        load_peaks=load["peak"] if load else {},
        cold=first["seconds"],
        cold_peaks={} if rehearsed else drawn[0]["peak"],
        compiled=first["compiled"],
        hot=_hot(list(cost.steady(figures).values())),
        disturbed=disqualified(figures["clocks"]) or "",
    )


def _hot(pictures: list[Any]) -> Hot:
    if not pictures:
        return NONE_STEADY
    seconds = [one["seconds"] for one in pictures]
    enhanced = [one["enhanced"]["seconds"] for one in pictures if "enhanced" in one]
    # what the enhancer took stands among the stages, and not in a picture's seconds
    stages = dict.fromkeys(stage for one in pictures for stage in one["stages"] if stage != ENHANCER)
    return Hot(
        pictures=len(pictures),
        mean=fmean(seconds),
        median=median(seconds),
        least=min(seconds),
        most=max(seconds),
        peaks={
            kind: _highest(one["peak"].get(kind) for one in pictures) for kind in ("allocated", "reserved")
        },
        stages={name: fmean(one["stages"].get(name, 0.0) for one in pictures) for name in stages},
        enhancer=fmean(enhanced) if enhanced else None,
    )


def _highest(values: Iterable[int | None]) -> int | None:
    found = list(values)
    return None if None in found else max(value for value in found if value is not None)
