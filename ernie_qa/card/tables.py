"""The tables of a card, filled from records and from nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from ernie_qa.card.cells import MISSING, code, mib, reduction, score, seconds, shown, size, times
from ernie_qa.card.costs import Costs, costs
from ernie_qa.fidelity.metrics import metrics
from ernie_qa.rungs import images, package, text

if TYPE_CHECKING:
    from ernie_qa.card.subject import Subject
    from ernie_qa.record import Record
    from ernie_qa.suite import Suite

LEFT, RIGHT = Markup("---"), Markup("---:")


@dataclass(frozen=True, slots=True)
class Table:
    """`columns` are titles and how they are aligned; `rows` have a cell for each, text or Markup."""

    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[Any, ...], ...]

    def __str__(self) -> str:
        """As Markdown, a row a line; every cell is escaped that is no Markup."""
        titles, aligned = zip(*self.columns, strict=True)
        lines = [titles, aligned, *self.rows]
        return "\n".join("| " + " | ".join(map(shown, line)) + " |" for line in lines)


def totals(subject: Subject) -> Table:
    """All files of both directories."""
    before, after = _sizes(subject)
    return Table(
        (("Item", LEFT), ("Total size", RIGHT), ("Reduction", RIGHT)),
        ((subject.names[0], size(before), ""), (subject.names[1], size(after), reduction(before, after))),
    )


def smaller(subject: Subject) -> str:
    """The totals in a sentence; "" where one was not measured."""
    before, after = _sizes(subject)
    if not before or not after:
        return ""
    if after > before:
        return f"The quantized directory is larger than the original by {after / before - 1:.2%}."
    return (
        f"The quantized directory is {after / before:.1%} of the original (1/{before / after:.1f}), "
        f"{1 - after / before:.2%} less."
    )


def weights(subject: Subject) -> Table:
    """The safetensors files of each component."""
    before, after = (_components(one) for one in (subject.bf16, subject.record))
    rows = [
        (
            code(name),
            size(_bytes(before.get(name))),
            size(_bytes(one)),
            reduction(_bytes(before.get(name)), _bytes(one)),
            one["quantizer"] or "as it was",
        )
        for name, one in after.items()
    ]
    titles = (("Before quantization", RIGHT), ("After quantization", RIGHT), ("Reduction", RIGHT))
    return Table((("Component", LEFT), *titles, ("Quantizer", LEFT)), tuple(rows))


def measured(subject: Subject) -> Table:
    """Loading, the first picture, and the steady ones, a model a row."""
    rows = []
    for name, found in zip(subject.names, _both(subject), strict=True):
        hot = found.hot
        rows.append(
            (
                name,
                _enhancer(subject.suite),
                seconds(found.load),
                mib(found.load_peaks, "allocated"),
                seconds(found.cold),
                mib(found.cold_peaks, "allocated"),
                seconds(hot.mean),
                seconds(hot.median),
                mib(hot.peaks, "allocated"),
            )
        )
    titles = ("PE", "Load s", "Load peak VRAM MiB", "Cold inference s", "Cold peak VRAM MiB")
    hots = ("Hot mean s/img", "Hot median s/img", "Hot peak VRAM MiB")
    return Table((("Model", LEFT), *((title, RIGHT) for title in (*titles, *hots))), tuple(rows))


def runtimes(subject: Subject) -> Table:
    """The steady pictures: their range, and what torch reserved and allocated."""
    rows = []
    for name, found in zip(subject.names, _both(subject), strict=True):
        hot = found.hot
        rows.append(
            (
                name,
                _enhancer(subject.suite),
                seconds(found.cold),
                seconds(hot.mean),
                seconds(hot.median),
                f"{seconds(hot.least)}-{seconds(hot.most)}" if hot.pictures else MISSING,
                mib(hot.peaks, "reserved"),
                mib(hot.peaks, "allocated"),
            )
        )
    titles = ("PE", "Cold s", "Hot mean s/img", "Hot median s/img", "Hot range s/img")
    peaks = ("Hot peak torch reserved MiB", "Hot peak torch allocated MiB")
    return Table((("Runtime", LEFT), *((title, RIGHT) for title in (*titles, *peaks))), tuple(rows))


def beside(subject: Subject) -> Table:
    """The two models beside each other, and how they differ in words, where one machine measured both."""
    left, right = _both(subject)
    said = times if _one_machine(subject) else _not_comparable
    peaks = [one.hot.peaks for one in (left, right)]
    rows = [
        (title, *(f"{seconds(one)} s" if one is not None else MISSING for one in pair), said(*pair, *words))
        for title, pair, words in (
            ("Load time", (left.load, right.load), ("faster", "slower")),
            ("Hot inference time, median", (left.hot.median, right.hot.median), ("faster", "slower")),
            ("Load and first picture", (left.total, right.total), ("faster", "slower")),
        )
    ]
    before, after = (one.get("reserved") for one in peaks)
    cells = [f"{mib(one, 'reserved')} MiB" if one.get("reserved") else MISSING for one in peaks]
    rows.append(("Peak reserved VRAM", *cells, said(before, after, "less", "more")))
    return Table(
        (("Metric", LEFT), *((name, RIGHT) for name in subject.names), ("Observation", LEFT)), tuple(rows)
    )


def stages(subject: Subject) -> Table:
    """Where a steady picture's time goes: each component's seconds and share."""
    hots = [one.hot for one in _both(subject)]
    found = dict.fromkeys(stage for hot in hots for stage in hot.stages)
    rows: list[tuple[Any, ...]] = []
    for stage in found:
        took = [hot.stages.get(stage, 0.0) if hot.pictures else None for hot in hots]
        if any(took):
            rows.append((code(stage), *(_part(one, hot.mean) for one, hot in zip(took, hots, strict=True))))
    rest = [None if hot.mean is None else max(0.0, hot.mean - sum(hot.stages.values())) for hot in hots]
    if rows:
        rows.append(("the rest", *(_part(one, hot.mean) for one, hot in zip(rest, hots, strict=True))))
    return Table((("Stage", LEFT), *((f"{name}, s/img", RIGHT) for name in subject.names)), tuple(rows))


def quality(subject: Subject) -> Table:
    """Every case: its scores against BF16's picture, and how many of the expected words were read in both;
    below them the suite's means and worst ones."""
    figures = subject.record.figures.get(images.NAME, {})
    words = [one.figures.get(text.NAME, {}).get("cases", {}) for one in (subject.bf16, subject.record)]
    known = list(metrics())
    rows: list[tuple[Any, ...]] = []
    for number, case in enumerate(subject.suite.cases):
        one = figures.get("cases", {}).get(case.id, {})
        cells = [score(one.get("scores", {}).get(metric.NAME)) for metric in known]
        read = [_words(each.get(case.id)) for each in words] if case.text else ["none asked", "none asked"]
        defects = "; ".join(one["defects"]) or "none" if one else MISSING
        rows.append((f"{number:02}", code(case.id), *cells, *read, defects))
    for title, key in (("mean", "mean"), ("worst", None)):
        cells = []
        for metric in known:
            found = figures.get("metrics", {}).get(metric.NAME, {})
            cells.append(score(found.get(key or ("max" if metric.BETTER == "lower" else "min"))))
        rows.append(("", title, *cells, "", "", ""))
    scores = [(f"{metric.NAME.upper()} {metric.UNIT}".rstrip(), RIGHT) for metric in known]
    read_columns = (("Words read, BF16", RIGHT), ("Words read", RIGHT), ("Defects", LEFT))
    return Table(((Markup("#"), RIGHT), ("Prompt ID", LEFT), *scores, *read_columns), tuple(rows))


def prompts(suite: Suite) -> Table:
    """The suite's cases."""
    return Table(
        ((Markup("#"), RIGHT), ("Prompt ID", LEFT), ("Size", RIGHT), ("Seed", RIGHT), ("Focus", LEFT)),
        tuple(
            (f"{number:02}", code(case.id), f"{case.width}x{case.height}", case.seed, case.focus)
            for number, case in enumerate(suite.cases)
        ),
    )


def notes(subject: Subject) -> Iterator[str]:
    """What has to be known to read the tables of time and memory."""
    record = subject.record
    if record.fingerprint.gpu is None:
        yield "Measured on a CPU: there is no GPU memory to measure, and times say nothing of a GPU."
    if not _one_machine(subject):
        other = subject.bf16.fingerprint
        yield f"{subject.names[0]} was measured on another machine: {other.gpu or other.cpu}."
    for name, found in zip(subject.names, _both(subject), strict=True):
        if found.compiled:
            yield f"{name}: {found.compiled} kernels were compiled while the cold picture was drawn."
        elif found.compiled == 0:
            yield f"{name}: no kernel was compiled for the cold picture: there was none, or it had been kept."
        if found.hot.enhancer is not None:
            yield (
                f"{name}: the prompt enhancer took {seconds(found.hot.enhancer)} s/img more (mean), which is "
                "in none of the times above."
            )
        if found.residency and found.residency != "resident":
            yield f"{name}: components wait in main memory until they are called ({found.residency})."
        if found.disturbed:
            yield f"{name}: the times are disturbed: {found.disturbed}."
        if found.cold is not None and not found.hot.pictures:
            yield f"{name}: no picture was steady: kernels were compiled for most of them."


def _one_machine(subject: Subject) -> bool:
    ours, theirs = subject.record.fingerprint, subject.bf16.fingerprint
    return (ours.gpu, ours.cpu) == (theirs.gpu, theirs.cpu)


def _not_comparable(before: float | None, after: float | None, less: str, more: str) -> str:
    return "not comparable"


def _both(subject: Subject) -> tuple[Costs, Costs]:
    return costs(subject.bf16), costs(subject.record)


def _sizes(subject: Subject) -> tuple[int | None, int | None]:
    before, after = (
        one.figures.get(package.NAME, {}).get("disk_bytes") for one in (subject.bf16, subject.record)
    )
    return before, after


def _components(record: Record) -> Mapping[str, Any]:
    found: Mapping[str, Any] = record.figures.get(package.NAME, {}).get("components", {})
    return found


def _bytes(component: Mapping[str, Any] | None) -> int | None:
    return component["disk_bytes"] if component else None


def _enhancer(suite: Suite) -> str:
    return "on" if suite.use_pe else "off"


def _part(took: float | None, whole: float | None) -> str:
    if took is None or not whole:
        return MISSING
    return f"{seconds(took)} ({took / whole:.0%})"


def _words(case: Mapping[str, Any] | None) -> str:
    if case is None:
        return MISSING
    found, words = (sum(one[key] for one in case["strings"]) for key in ("found", "words"))
    return f"{found} of {words}"
