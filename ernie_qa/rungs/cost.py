"""Rung 6: what does it cost? Time, stage by stage, and memory: on a GPU against budgets, against BF16 of the
same session, and against what was accepted. docs/cost.md has the definitions.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from ernie_qa.baseline.accepted import Tracked
from ernie_qa.nvml import disqualified, joined, watching
from ernie_qa.parts import the_same
from ernie_qa.verdict import Check, Status

if TYPE_CHECKING:
    from ernie_qa.baseline.pictures import Pictures
    from ernie_qa.drawing import Drawn
    from ernie_qa.recipe import Limit
    from ernie_qa.record import Record
    from ernie_qa.rungs import Arm, Evidence, Figures

NAME = "cost"
ORDER = 6
RUNS = 3
"""How many accepted runs it takes to know how noisy a figure of this rung is."""
PEAK_SHARE = 0.01
"""What a peak may grow by beyond the range of those runs; on an H100 they agreed within 0.01 %
(docs/h100.md)."""
LATENCY_SHARE = 0.08
"""The same for seconds, and for the ratio to BF16 in the same session: chosen. Medians of three runs on H100s
were 0.2 to 4.5 % apart, and of ten in a row on a busier host up to 7 % over those, with no more of it in the
seconds than in the ratio (docs/h100.md)."""
SHORTEST = 0.5
"""Seconds a picture below which the host sets the pace: on the miniature they scattered by half from run to
run (docs/cost.md), so nothing is accepted of them."""

NONE_STEADY = (
    "no picture was steady: all but the first count, without those for which kernels were compiled; "
    "draw more, or once more with the kernels kept"
)
NOT_LOADED = "loading was not measured: load_pipeline did not make this pipeline"
ALONE = "there is no reference: observe with the bf16 record of this session"
RESIDENT, OFFLOADED = "resident", "model_offload"


@dataclass(frozen=True, slots=True)
class _Measure:
    """One figure that a recipe may limit: what it is, whether it is of time or of memory, against BF16, and
    of loading."""

    title: str
    unit: str
    timed: bool
    ratio: bool = False
    loading: bool = False


_MEASURES = {
    "latency": _Measure("steady latency a picture", "s", timed=True),
    "latency_ratio": _Measure("steady latency against BF16", "", timed=True, ratio=True),
    "first_image_cold": _Measure("first picture, kernels to compile", "s", timed=True),
    "first_image_warm": _Measure("first picture, kernels kept", "s", timed=True),
    "load": _Measure("loading", "s", timed=True, loading=True),
    "peak_allocated": _Measure("peak allocated while drawing", "B", timed=False),
    "peak_ratio": _Measure("peak allocated against BF16", "", timed=False, ratio=True),
    "load_peak_allocated": _Measure("peak allocated while loading", "B", timed=False, loading=True),
}
LIMITS: Mapping[str, str] = {f"{NAME}.{name}": "max" for name in _MEASURES}


def measure(arm: Arm) -> Generator[None, tuple[Drawn, ...], Figures]:
    """Figures:

    residency   "resident", or "model_offload" where components wait in main memory
    load        `seconds` and `peak` of loading; None for a pipeline from elsewhere
    pictures    by case, in the order drawn: `seconds`, `stages` (seconds by component), `peak`, `compiled`
                (how many kernels meanwhile; None on a CPU), and `enhanced` (prompt, tokens, seconds) where
                the prompt enhancer wrote; peaks are `ernie_qa.meter.peaks`
    clocks      what `ernie_qa.nvml` saw while the suite was drawn
    physical    bytes of memory that the GPU has; None on a CPU
    rehearsed   the case, seconds and kernels compiled of the first drawing, where the components rung did it,
                on a GPU; None where the first picture came first
    first       of an arm that was drawn in parts, each part's first case; else it is the first of all
    ratios      on a GPU the steady `latency_ratio` and `peak_ratio` to the `reference`, or `why` there are
                none

    The first picture begins in a clean memory window; between two pictures nothing is emptied.
    """
    from ernie_qa.meter import open_window, physical
    from ernie_qa.pipeline import provenance

    pipe: Any = arm.pipe
    place = pipe._execution_device
    origin = provenance(arm.pipe)
    open_window(place)
    with watching(place) as watch:
        drawn = yield
    figures = {
        "residency": OFFLOADED if origin and origin.offloaded else RESIDENT,
        "load": {"seconds": origin.load_seconds, "peak": dict(origin.load_peak)} if origin else None,
        "pictures": {one.case: _picture(one) for one in drawn},
        "clocks": watch.summary(),
        "physical": physical(place),
        "rehearsed": arm.rehearsed[0] if arm.rehearsed else None,
    }
    return figures | {"ratios": _ratios(figures, arm) if place.type == "cuda" else None}


def join(parts: Sequence[Figures], reference: Record | None) -> Figures:
    """The pictures of all parts, and what the first part's loading took."""
    same = the_same(NAME, [{key: part[key] for key in ("residency", "physical")} for part in parts])
    figures = {
        **parts[0],
        **same,
        "pictures": {case: one for part in parts for case, one in part["pictures"].items()},
        "first": [next(iter(part["pictures"])) for part in parts],
        "clocks": joined([part["clocks"] for part in parts]),
    }
    ratios = [part["ratios"] for part in parts]
    if None in ratios:
        return figures | {"ratios": None}
    refused = next((one for one in ratios if one.get("why", NONE_STEADY) != NONE_STEADY), None)
    if refused or reference is None:
        return figures | {"ratios": refused or {"why": ALONE}}
    return figures | {"ratios": _beside(figures, reference)}


def _picture(drawn: Drawn) -> dict[str, Any]:
    figures = {
        "seconds": drawn.seconds,
        "stages": dict(drawn.stages),
        "peak": dict(drawn.peak),
        "compiled": drawn.compiled,
    }
    return figures | ({"enhanced": asdict(drawn.enhanced)} if drawn.enhanced else {})


def written(record: Record) -> dict[str, str]:
    """Case -> the prompt that the prompt enhancer wrote; empty where the suite does without it."""
    pictures = record.figures.get(NAME, {}).get("pictures", {})
    return {case: one["enhanced"]["prompt"] for case, one in pictures.items() if "enhanced" in one}


def took(record: Record) -> tuple[float | None, int | None]:
    """Seconds of loading and drawing, and the peak bytes while drawing, allocated on a GPU and resident on a
    CPU; None where nobody measured."""
    figures = record.figures.get(NAME, {})
    pictures = figures.get("pictures", {}).values()
    load = figures.get("load")
    seconds = [one["seconds"] + one.get("enhanced", {}).get("seconds", 0.0) for one in pictures]
    peaks = [one["peak"].get("allocated") or one["peak"].get("resident") for one in pictures]
    total = sum(seconds) + (load["seconds"] if load else 0.0)
    return (total or None) if seconds else None, max((peak for peak in peaks if peak), default=None)


def judge(evidence: Evidence) -> Iterator[Check]:
    """On a GPU a check a limit, and what was measured without one; on a CPU what was recorded."""
    record = evidence.record
    figures = record.figures.get(NAME, {})
    if not figures.get("pictures"):
        message = "the record holds no figures of this rung: observe the recipe again"
        status = Status.NOT_COMPARABLE if _limits(evidence) else Status.NOT_APPLICABLE
        yield Check(f"{NAME}.latency", NAME, status, message, required=bool(_limits(evidence)))
        return
    if record.fingerprint.gpu is None:
        typical = median(one["seconds"] for one in figures["pictures"].values())
        message = f"{typical:.2f} s a picture (median); on a CPU recorded, not judged"
        yield Check(
            f"{NAME}.latency", NAME, Status.NOT_APPLICABLE, message, False, measured=typical, unit="s"
        )
        return
    found, limits = measured(record), _limits(evidence)
    for name, what in _MEASURES.items():
        limit = limits.get(f"{NAME}.{name}")
        if name in found or (limit and not name.startswith("first_image")):
            yield _check(name, what, found.get(name), limit, evidence)
    for case, one in figures["pictures"].items():
        if "enhanced" in one:
            yield _enhanced(case, one["enhanced"])


def _limits(evidence: Evidence) -> dict[str, Limit]:
    """The limits of this rung; absolute ones stand in the budgets of a GPU model."""
    return {name: limit for name, limit in evidence.limits.items() if name in LIMITS}


def measured(record: Record) -> dict[str, float]:
    """What of `_MEASURES` a record from a GPU tells."""
    figures = record.figures[NAME]
    found: dict[str, float] = {}
    if pictures := list(steady(figures).values()):
        found["latency"] = median(one["seconds"] for one in pictures)
        found["peak_allocated"] = float(median(one["peak"]["allocated"] for one in pictures))
    # who was fed BF16's inputs before its first picture was ready by then
    first = figures.get("rehearsed") or next(iter(figures["pictures"].values()))
    found["first_image_cold" if first["compiled"] else "first_image_warm"] = first["seconds"]
    if load := figures["load"]:
        found["load"] = load["seconds"]
        if peak := load["peak"].get("allocated"):
            found["load_peak_allocated"] = float(peak)
    return found | {name: ratio for name, ratio in figures["ratios"].items() if name in _MEASURES}


def steady(figures: Figures) -> dict[str, Any]:
    """The pictures that took what they always take, by case: not the first of a process, and none for which
    kernels were compiled or tuned, which costs seconds and memory of its own. None at all where that leaves
    fewer than half: they would speak for too many others."""
    first = figures.get("first", list(figures["pictures"])[:1])
    others = [(case, one) for case, one in figures["pictures"].items() if case not in first]
    found = {case: one for case, one in others if not one["compiled"]}
    return found if 2 * len(found) >= len(others) else {}


def _ratios(figures: Figures, arm: Arm) -> dict[str, Any]:
    """Steady latency and peak against BF16's, picture by picture, the median of them."""
    reference = arm.reference
    if reference is None:
        return {"why": ALONE}
    if arm.timed_apart:
        return {"why": "BF16 was timed in an earlier run, which this one goes on with: run without --resume"}
    if (reference.model.hash, reference.suite.hash) != (arm.model.identity.hash, arm.suite.hash):
        return {"why": "the reference is of another model or suite: observe bf16 with this one"}
    return _beside(figures, reference)


def _beside(figures: Figures, reference: Record) -> dict[str, Any]:
    theirs = reference.figures.get(NAME, {})
    if not theirs.get("pictures"):
        return {"why": "the reference holds no figures of this rung: observe bf16 again"}
    if figures["residency"] != theirs["residency"]:
        return {
            "why": f"this arm is {figures['residency']} and BF16 {theirs['residency']}: run both in one way"
        }
    if disturbed := disqualified(theirs["clocks"]):
        return {"why": f"while BF16 was drawn, {disturbed}"}
    ours, others = steady(figures), steady(theirs)
    pairs = [(one, others[case]) for case, one in ours.items() if case in others]
    if not pairs:
        return {"why": NONE_STEADY}
    return {
        "reference": reference.hash,
        "latency_ratio": median(one["seconds"] / other["seconds"] for one, other in pairs),
        "peak_ratio": median(one["peak"]["allocated"] / other["peak"]["allocated"] for one, other in pairs),
    }


def _check(name: str, what: _Measure, value: float | None, limit: Limit | None, evidence: Evidence) -> Check:
    said = f"{what.title} {_said(value, what.unit)}" if value is not None else what.title
    if name == "latency" and value is not None:
        said += _shares(evidence.record)
    if limit is None:
        message = f"{said}; no limit for this GPU"
        return _named(name, Status.NOT_APPLICABLE, message, False, measured=value, unit=what.unit)
    provisional = ", provisional" if limit.provisional else ""
    bound = limit.min if value is not None and limit.min is not None and value < limit.min else limit.max
    bounds = [f"at most {_said(limit.max, what.unit)}"] if limit.max is not None else []
    bounds += [f"at least {_said(limit.min, what.unit)}"] if limit.min is not None else []
    said += f", {' and '.join(bounds)} ({limit.source}{provisional})"
    if why := _disturbed(evidence, what, value):
        status, said = Status.NOT_COMPARABLE, f"{said}: {why}"
    elif value is not None and (bound is None or value <= bound) and bound != limit.min:
        status = Status.PASS
    else:
        status, said = Status.FAIL, f"{said}: compare its stages and clocks with an earlier record's"
    return _named(name, status, said, True, measured=value, limit=bound, unit=what.unit)


def _disturbed(evidence: Evidence, what: _Measure, value: float | None) -> str | None:
    """Why a figure must not be judged; None where it may."""
    figures = evidence.record.figures[NAME]
    if value is None:
        why = figures["ratios"].get("why") if what.ratio else None
        return why or (NOT_LOADED if what.loading else NONE_STEADY)
    if what.ratio and (why := evidence.other_reference(figures["ratios"]["reference"], "the ratio was")):
        return why
    if not what.ratio and figures["residency"] != RESIDENT:
        return f"the limit is for a resident pipeline, and this one is {figures['residency']}"
    # nobody watches while a pipeline is loaded
    if what.timed and not what.loading and (why := disqualified(figures["clocks"])):
        return why
    peaks = [one["peak"].get("reserved") or 0 for one in figures["pictures"].values()]
    if figures["physical"] and max(peaks) > figures["physical"]:
        return "more was reserved than the GPU has: the driver spilled into main memory"
    return None


def _shares(record: Record) -> str:
    """The range of the steady pictures, and each stage's share of their time."""
    others = list(steady(record.figures[NAME]).values())
    seconds = [one["seconds"] for one in others]
    total = sum(seconds)
    stages = {stage: sum(one["stages"].get(stage, 0.0) for one in others) for stage in others[0]["stages"]}
    shares = ", ".join(f"{stage} {spent / total:.0%}" for stage, spent in stages.items() if stage != "pe")
    if unread := record.figures[NAME]["clocks"].get("error"):
        shares += f"; clocks unread: {unread}"
    return f" (median; mean {total / len(seconds):.3g}, {min(seconds):.3g} to {max(seconds):.3g}; {shares})"


def _enhanced(case: str, enhanced: Mapping[str, Any]) -> Check:
    tokens, seconds = enhanced["tokens"], enhanced["seconds"]
    rate = f"{tokens / seconds:.1f} tokens a second" if seconds else "no time"
    message = f"{case}: the prompt enhancer wrote {tokens} tokens in {seconds:.2f} s ({rate}), counted apart"
    return Check(
        f"{NAME}.enhancing",
        NAME,
        Status.NOT_APPLICABLE,
        message,
        False,
        case=case,
        measured=seconds,
        unit="s",
    )


def _named(name: str, status: Status, message: str, required: bool, **figures: Any) -> Check:
    return Check(f"{NAME}.{name}", NAME, status, message, required, **figures)


def _said(value: float, unit: str) -> str:
    if unit == "B":
        return f"{value / 2**20:,.0f} MiB"
    return f"{value:.3g} {unit}".rstrip()


def track(record: Record, pictures: Pictures | None) -> Iterator[Tracked]:
    """On a GPU: medians over all but the first picture, judged once three runs know their noise.

    Seconds of a disturbed run, and of a model so small that the host sets the pace, are not held on to.
    """
    figures = record.figures.get(NAME, {})
    if not figures.get("pictures") or record.fingerprint.gpu is None:
        return
    found = measured(record)
    # offloaded figures are others: their definition says so
    residency = "" if figures["residency"] == RESIDENT else figures["residency"]
    for name in ("peak_allocated", "load_peak_allocated"):
        if name in found:
            yield _tracked(name, found[name], PEAK_SHARE, residency)
    if found.get("latency", 0.0) >= SHORTEST and not disqualified(figures["clocks"]):
        yield _tracked("latency", found["latency"], LATENCY_SHARE, residency)
        if "latency_ratio" in found:
            yield _tracked("latency_ratio", found["latency_ratio"], LATENCY_SHARE, residency)


def _tracked(name: str, value: float, share: float, definition: str) -> Tracked:
    unit = _MEASURES[name].unit
    return Tracked(
        f"{NAME}.{name}", value, "lower", unit, ideal=0.0, share=share, runs=RUNS, definition=definition
    )
