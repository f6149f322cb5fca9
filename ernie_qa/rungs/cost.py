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
"""How many accepted runs it takes to know how noisy a figure of this rung is."""
PEAK_SHARE = 0.01
"""What the peak may grow by beyond the range of those runs; on an H100 they agreed to the byte."""


def measure(arm: Arm) -> Generator[None, tuple[Drawn, ...], Figures]:
    """Figures: `load_seconds` (None for a pipeline from elsewhere), `seconds` and `peak_bytes` by case in the
    order drawn, see `ernie_qa.meter.peaks`; the first picture begins in a clean memory window."""
    from ernie_qa.meter import open_window
    from ernie_qa.pipeline import provenance

    pipe: Any = arm.pipe
    open_window(pipe._execution_device)
    drawn = yield
    origin = provenance(arm.pipe)
    return {
        "load_seconds": origin.load_seconds if origin else None,
        "seconds": {one.picture.case: one.seconds for one in drawn},
        "peak_bytes": {one.picture.case: one.peak for one in drawn},
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
    """On a GPU: the median peak allocated over all but the first picture, judged once three runs know it.

    The median, since kernels are tuned in the first picture of a size, which takes memory of its own.
    """
    figures = record.figures.get(NAME)
    if figures is None or record.fingerprint.gpu is None:
        return
    steady = [float(peak["allocated"]) for peak in figures["peak_bytes"].values()][1:]
    if steady:
        peak = median(steady)
        yield Tracked(f"{NAME}.peak_allocated", peak, "lower", "B", ideal=0.0, share=PEAK_SHARE, runs=RUNS)
