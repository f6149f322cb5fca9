"""Rung 6: what does it cost? Times and memory are recorded, and not judged yet."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from statistics import median
from typing import TYPE_CHECKING, Any

from ernie_qa.verdict import Check, Status

if TYPE_CHECKING:
    from ernie_qa.pipeline import Drawn
    from ernie_qa.rungs import Arm, Evidence, Figures

NAME = "cost"
ORDER = 6
LIMITS: Mapping[str, str] = {}


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
