"""Comparison pictures for a card: a pair for each case, BF16's and the candidate's, and a matrix of them.

All are WebP and labelled. In a pair, a picture that would be tiny is shown at a whole multiple, pixel by
pixel; larger ones, and all in the matrix, are resampled to fit.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ernie_qa.card.cells import score
from ernie_qa.card.labels import font, legible, write
from ernie_qa.errors import RecordError
from ernie_qa.rungs import images
from ernie_qa.toml_input import one_line

if TYPE_CHECKING:
    from PIL.Image import Image

    from ernie_qa.card.subject import Subject
    from ernie_qa.picture import Picture
    from ernie_qa.suite import Case

DIRECTORY = "comparison"
MATRIX = "_matrix.webp"
"""No case's: an id begins with a letter or a digit."""
PAIR_SIDE, PAIR_BYTES = 768, 300_000
"""Pixels of a picture's longer side in a pair, and the bytes that a pair may have."""
CELL_SIDE, MATRIX_BYTES = 320, 1_500_000
"""The same for the matrix."""
MOST = 20
"""Cases in the matrix: two beside each other and ten rows."""
ALL_BYTES = 12_000_000
"""Of all pairs: with many cases each may have less than `PAIR_BYTES`."""
QUALITIES = (90, 82, 74, 66, 58, 50)
GAP, LABEL = 12, 22
PAPER, INK, FAINT, FRAME = "#f5f5f3", "#1b1b1f", "#5a5a60", "#c8c8c4"


@dataclass(frozen=True, slots=True)
class Pair:
    """One case: BF16's picture, the candidate's, and how they are scored, in words."""

    case: Case
    bf16: Picture
    candidate: Picture
    scored: str


def pairs(subject: Subject) -> tuple[Pair, ...]:
    """The cases that both drew, in the suite's order. RecordError where there is none."""
    left, right = ({one.case: one for one in record.pictures} for record in (subject.bf16, subject.record))
    found = tuple(
        Pair(case, left[case.id], right[case.id], _scored(subject, case.id))
        for case in subject.suite.cases
        if case.id in left and case.id in right
    )
    if not found:
        ended = subject.record.ended
        lacking = "bf16's record" if right else f"{subject.shown.label}'s record"
        why = f", which ended at {ended.rung} before one was drawn ({ended.check})" if ended else ""
        raise RecordError(
            one_line(
                f"no picture in {lacking}{why}: gate the artifact again, or --no-pictures for a card without"
            )
        )
    return found


def write_pictures(found: Sequence[Pair], names: tuple[str, str], directory: Path) -> None:
    """Write `CASE.webp` for each pair and `MATRIX` into the new directory `directory`."""
    directory.mkdir()
    most = min(PAIR_BYTES, ALL_BYTES // len(found))
    for one in found:
        (directory / f"{one.case.id}.webp").write_bytes(_webp(pair(one, names), most))
    (directory / MATRIX).write_bytes(_webp(matrix(found[:MOST], names), MATRIX_BYTES))


def pair(one: Pair, names: tuple[str, str]) -> Image:
    """The case's two pictures side by side, below its id and focus, and each below its own name."""
    from PIL import Image, ImageDraw

    sides = [_fitted(picture, PAIR_SIDE) for picture in (one.bf16, one.candidate)]
    width, height = (max(side.size[axis] for side in sides) for axis in (0, 1))
    step = width + GAP
    captions = (names[0], _joined(names[1], one.scored))
    top = 2 * GAP + 2 * LABEL + 10
    sheet = Image.new("RGB", (2 * step + GAP, top + height + GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    write(pen, (GAP, GAP), _title(one.case), font(LABEL), 2 * step - GAP, INK)
    for number, (side, name) in enumerate(zip(sides, captions, strict=True)):
        left = GAP + number * step
        write(pen, (left, GAP + LABEL + 8), name, font(LABEL), width, FAINT)
        sheet.paste(side, (left, top))
    return sheet


def matrix(found: Sequence[Pair], names: tuple[str, str]) -> Image:
    """All pairs: a case is a block with its id and score above its two pictures; two blocks in a row."""
    from PIL import Image, ImageDraw

    across = 2 if len(found) > 2 else 1
    step = CELL_SIDE + GAP // 2
    block = 2 * step + GAP
    sides = [[_resampled(picture, CELL_SIDE) for picture in (one.bf16, one.candidate)] for one in found]
    rows = [range(at, min(at + across, len(found))) for at in range(0, len(found), across)]
    heights = [max(side.height for at in row for side in sides[at]) + 2 * LABEL + 34 for row in rows]
    sheet = Image.new("RGB", (across * block + GAP, sum(heights) + GAP), PAPER)
    pen, top = ImageDraw.Draw(sheet), GAP
    for row, height in zip(rows, heights, strict=True):
        for column, at in enumerate(row):
            left = GAP + column * block
            title = _joined(found[at].case.id, found[at].scored)
            write(pen, (left, top), title, font(LABEL), 2 * step - GAP, INK)
            for number, (side, name) in enumerate(zip(sides[at], names, strict=True)):
                place = left + number * step
                write(pen, (place, top + LABEL + 8), name, font(LABEL), CELL_SIDE, FAINT)
                sheet.paste(side, (place, top + 2 * LABEL + 20))
        top += height
    return sheet


def _title(case: Case) -> str:
    """The case's id, and its focus where the font can write it."""
    return f"{case.id}: {case.focus}" if legible(case.focus, font(LABEL)) else case.id


def _joined(name: str, scored: str) -> str:
    return f"{name}, {scored}" if scored else name


def _scored(subject: Subject, case: str) -> str:
    """The case's LPIPS, or what is damaged."""
    one = subject.record.figures.get(images.NAME, {}).get("cases", {}).get(case, {})
    if one.get("defects"):
        return "; ".join(one["defects"])
    found = one.get("scores", {}).get("lpips")
    return "" if found is None else f"LPIPS {score(found)}"


def _fitted(picture: Picture, side: int) -> Image:
    """The picture in a square of `side` pixels: at a whole multiple where it fits, else smaller."""
    from PIL import Image

    times = side // max(picture.width, picture.height)
    if not times:
        return _resampled(picture, side)
    size = (picture.width * times, picture.height * times)
    return _framed(Image.fromarray(picture.pixels()).resize(size, Image.Resampling.NEAREST))


def _resampled(picture: Picture, side: int) -> Image:
    """The picture with a longer side of `side` pixels."""
    from PIL import Image

    share = side / max(picture.width, picture.height)
    size = (max(1, round(picture.width * share)), max(1, round(picture.height * share)))
    return _framed(Image.fromarray(picture.pixels()).resize(size, Image.Resampling.LANCZOS))


def _framed(image: Image) -> Image:
    """With a line around it, for a picture as light as the paper."""
    from PIL import Image

    framed = Image.new("RGB", (image.width + 2, image.height + 2), FRAME)
    framed.paste(image, (1, 1))
    return framed


def _webp(sheet: Image, most: int) -> bytes:
    """`sheet` as WebP of at most `most` bytes: of less quality, then of fewer pixels, until it fits."""
    from PIL import Image

    while True:
        for quality in QUALITIES:
            file = io.BytesIO()
            sheet.save(file, "WEBP", quality=quality, method=4)
            if file.tell() <= most:
                return file.getvalue()
        sheet = sheet.resize(
            (max(1, sheet.width * 3 // 4), max(1, sheet.height * 3 // 4)), Image.Resampling.LANCZOS
        )
