"""What a gate would need, as lines of 80 columns or as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ernie_qa.forecast import Arm, Forecast, Writing
    from ernie_qa.models.hub import Download

SCHEMA = 1
HEADER = ("arm", "peak memory", "load and draw")
UNKNOWN = "not measured"
ELSEWHERE = "elsewhere"
TOPIC_WIDTH = 10


def document(forecast: Forecast) -> dict[str, Any]:
    """The forecast as JSON values: sizes in bytes, times in seconds, null where nothing is known."""
    values = asdict(forecast) | {"seconds": forecast.seconds, "lacking": list(_lacking(forecast))}
    for entry in (*values["downloads"], *values["writings"]):
        entry["place"] = str(entry["place"])
    return {"schema": SCHEMA, "ready": forecast.ready, **values}


def forecast_lines(forecast: Forecast, *, width: int = 80) -> list[str]:
    """The topics, a table of the arms, what its figures mean, and last a line for each thing that is lacking."""
    lines = [*_heading(forecast), *_topics(forecast, width)]
    if forecast.arms:
        lines += ["", *_table(forecast), "", *_notes(forecast, width)]
    else:
        lines += ["", *_wrapped("All else can be told once the model is here.", width)]
    lacking = [line for said in _lacking(forecast) for line in _wrapped(f"lacking: {said}", width, "", "  ")]
    return [*lines, "", *lacking] if lacking else lines


def _heading(forecast: Forecast) -> Iterator[str]:
    if forecast.suite:
        yield f"{forecast.model} on suite {forecast.suite}, {forecast.device}: {forecast.machine}"
        yield ""


def _topics(forecast: Forecast, width: int) -> Iterator[str]:
    told = [("download", _fetched(download)) for download in forecast.downloads]
    told += [("disk", _written(writing)) for writing in forecast.writings]
    if forecast.weights is not None and forecast.available is not None:
        weights, available = _size(forecast.weights), _size(forecast.available)
        told.append(("memory", f"{available} available; in BF16 the model's weights take {weights}"))
    for topic, absent in (("download", "nothing"), ("disk", "no report and no candidates are asked for")):
        if topic not in dict(told):
            told.append((topic, absent))
    for topic, text in sorted(told, key=lambda pair: pair[0] != "download"):
        yield from _wrapped(text, width, f"{topic:<{TOPIC_WIDTH}}", " " * TOPIC_WIDTH)


def _fetched(download: Download) -> str:
    files = "" if download.files is None else f", {download.files} file{'s' if download.files != 1 else ''}"
    size = "" if download.bytes is None else f", {_size(download.bytes)}"
    return f"{download.name}{files}{size}, once, into {download.place}"


def _written(writing: Writing) -> str:
    bound = "at most" if writing.at_most else "about"
    return f"{bound} {_size(writing.bytes)} of {writing.what} in {writing.place}; {_size(writing.free)} free"


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
    if any(arm.seconds for arm in forecast.arms):
        yield from _wrapped(
            "As accepted runs measured it. Starting up and comparing the pictures come on top.", width
        )
    places = dict.fromkeys(
        place for arm in forecast.arms if not arm.here and arm.seconds for place in arm.measured_on
    )
    if places:
        yield from _wrapped(f"{ELSEWHERE}: on {'; on '.join(places)}", width, "", "  ")
    if any(arm.seconds is None for arm in forecast.arms):
        yield from _wrapped(
            f"{UNKNOWN}: no accepted run is known of the same recipe, model and suite; --baselines names where "
            "they are kept.",
            width,
            "",
            "  ",
        )


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


def _wrapped(text: str, width: int, first: str = "", others: str = "") -> list[str]:
    # a path stays whole, to be copied
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=others,
        break_on_hyphens=False,
        break_long_words=False,
    )
