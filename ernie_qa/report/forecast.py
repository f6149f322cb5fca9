"""What a gate would need, as lines of 80 columns or as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ernie_qa.report.wrap import wrapped

if TYPE_CHECKING:
    from ernie_qa.forecast import Arm, Forecast, Writing
    from ernie_qa.models.hub import Download

SCHEMA = 1
HEADER = ("arm", "peak memory", "load and draw")
UNKNOWN = "not measured"
ELSEWHERE = "elsewhere"
KEPT = "nothing is kept without --report or --update"
TOPIC_WIDTH = 10


def document(forecast: Forecast) -> dict[str, Any]:
    """The forecast as JSON values: sizes in bytes, times in seconds, null where nothing is known."""
    values = asdict(forecast) | {"seconds": forecast.seconds, "lacking": list(_lacking(forecast))}
    for entry in (*values["downloads"], *values["writings"]):
        entry["place"] = str(entry["place"])
    return {"schema": SCHEMA, "ready": forecast.ready, **values}


def forecast_lines(forecast: Forecast, *, width: int = 80) -> list[str]:
    """The topics, a table of the arms, what its figures mean, the plan's warnings, and a line for each thing
    that is lacking."""
    lines = [*_heading(forecast), *_topics(forecast, width)]
    if forecast.arms:
        lines += ["", *_table(forecast), "", *_notes(forecast, width)]
    else:
        lines += ["", *wrapped("All else can be told once the model is here.", width)]
    for warning in forecast.warnings:
        lines += ["", *wrapped(warning, width, "", "  ")]
    lacking = [line for said in _lacking(forecast) for line in wrapped(f"lacking: {said}", width, "", "  ")]
    return [*lines, "", *lacking] if lacking else lines


def _heading(forecast: Forecast) -> Iterator[str]:
    if forecast.suite:
        yield f"{forecast.model} on suite {forecast.suite}, {forecast.device}: {forecast.machine}"
        yield ""


def _topics(forecast: Forecast, width: int) -> Iterator[str]:
    told = {
        "download": [_fetched(download) for download in forecast.downloads] or ["nothing"],
        "disk": [_written(writing) for writing in forecast.writings] or [KEPT],
    }
    if forecast.weights is not None and forecast.available is not None:
        weights, available = _size(forecast.weights), _size(forecast.available)
        told["memory"] = [f"{available} available; in BF16 the model's weights take {weights}"]
    for topic, texts in told.items():
        for text in texts:
            yield from wrapped(text, width, f"{topic:<{TOPIC_WIDTH}}", " " * TOPIC_WIDTH)


def _fetched(download: Download) -> str:
    files = "" if download.files is None else f", {download.files} file{'s' if download.files != 1 else ''}"
    size = "" if download.bytes is None else f", {_size(download.bytes)}"
    return f"{download.name}{files}{size}, once, into {download.place}"


def _written(writing: Writing) -> str:
    bound = "at most" if writing.at_most else "about"
    return (
        f"{_size(writing.free)} free for {writing.place}; {writing.what} take {bound} {_size(writing.bytes)}"
    )


def _table(forecast: Forecast) -> Iterator[str]:
    rows = [HEADER, *map(_row, forecast.arms)]
    if forecast.seconds:
        mark = "" if all(arm.here for arm in forecast.arms) else f" {ELSEWHERE}"
        rows.append(("together", "", _range(forecast.seconds) + mark))
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _row(arm: Arm) -> tuple[str, str, str]:
    peak = UNKNOWN if arm.peak_bytes is None else _size(arm.peak_bytes)
    if arm.seconds is None:
        return arm.recipe, peak, UNKNOWN
    return arm.recipe, peak, _range(arm.seconds) + ("" if arm.here else f" {ELSEWHERE}")


def _notes(forecast: Forecast, width: int) -> Iterator[str]:
    """What the table's figures are, and are not."""
    notes = []
    if any(arm.seconds for arm in forecast.arms):
        notes.append("Measured in accepted runs. Starting up and comparing come on top.")
    machines = [arm.measured_on for arm in forecast.arms if arm.seconds and not arm.here]
    named = dict.fromkeys(machine for several in machines for machine in several)
    notes += [f"{ELSEWHERE}: {machine}" for machine in named]
    if any(arm.seconds is None for arm in forecast.arms):
        notes.append(f"{UNKNOWN}: no run of this recipe, model and suite was accepted in --baselines")
    for note in notes:
        yield from wrapped(note, width, "", "  ")


def _lacking(forecast: Forecast) -> Iterator[str]:
    if forecast.short_of_memory and forecast.available is not None:
        yield f"memory: needed are {_size(forecast.needed)}, available are {_size(forecast.available)}"
    for writing in forecast.short_of_disk:
        if writing.writable:
            yield f"disk: {_written(writing)}"
        else:
            yield f"disk: {writing.place} cannot be written"


def _range(seconds: tuple[float, float]) -> str:
    low, high = map(_duration, seconds)
    return low if low == high else f"{low} to {high}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(max(1, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _size(size: int) -> str:
    """`size` bytes in the largest unit of which there is one, as the doctor shows them."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} B"
