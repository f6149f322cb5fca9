"""Rung 6: what does it cost? Times and memory are recorded, and not judged yet."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from statistics import median
from typing import TYPE_CHECKING, Any

from ernie_qa.baseline.accepted import Tracked
from ernie_qa.verdict import Check, Status

if TYPE_CHECKING:
    from ernie_qa.baseline.pictures import Pictures
    from ernie_qa.pipeline import Drawn
    from ernie_qa.record import Record
    from ernie_qa.rungs import Arm, Evidence, Figures

NAME = "cost"
ORDER = 6
LIMITS: Mapping[str, str] = {}
RUNS = 3
LATENCY_SHARE = 0.10
PEAK_SHARE = 0.01


def measure(arm: Arm) -> Generator[None, tuple[Drawn, ...], Figures]:
    """Figures: `load_seconds` (None for a pipeline from elsewhere), `seconds` by case in the order drawn, and
    `peak_bytes` while the suite was drawn, see `ernie_qa.meter.peaks`."""
    from ernie_qa.meter import open_window, peaks
    from ernie_qa.pipeline import provenance

    pipe: Any = arm.pipe
    device = pipe._execution_device
    open_window(device)
    drawn = yield
    origin = provenance(arm.pipe)
    return {
        "load_seconds": origin.load_seconds if origin else None,
        "seconds": {one.picture.case: one.seconds for one in drawn},
        "peak_bytes": peaks(device),
    }


def judge(evidence: Evidence) -> Iterator[Check]:
    """One check that says what was recorded and never decides."""
    figures = evidence.record.figures.get(NAME)
    if figures is None or not figures["seconds"]:
        return
    seconds = list(figures["seconds"].values())
    typical = median(seconds)
    message = f"{typical:.2f} s a picture (median), the first took {seconds[0]:.2f} s; recorded, not judged"
    yield Check(f"{NAME}.latency", NAME, Status.NOT_APPLICABLE, message, False, measured=typical, unit="s")


def track(record: Record, pictures: Pictures | None) -> Iterator[Tracked]:
    """On a GPU: the median latency after the first picture, and the peak allocated while drawing.

    Both need three runs before a limit is set, for one run does not know its noise.
    """
    figures = record.figures.get(NAME)
    if figures is None or record.fingerprint.gpu is None:
        return
    steady = list(figures["seconds"].values())[1:]
    if steady:
        yield Tracked(
            f"{NAME}.latency", median(steady), "lower", "s", ideal=0.0, share=LATENCY_SHARE, runs=RUNS
        )
    if (peak := figures["peak_bytes"]["allocated"]) is not None:
        yield Tracked(
            f"{NAME}.peak_allocated", float(peak), "lower", "B", ideal=0.0, share=PEAK_SHARE, runs=RUNS
        )
