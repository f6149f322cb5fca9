"""Triplets: BF16's picture, the candidate's, where they differ; the worst first, as WebP beside the page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ernie_qa.fidelity.metrics import metrics
from ernie_qa.rungs import cost, images, text
from ernie_qa.suite import recorded_suite
from ernie_qa.wording import figure

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ernie_qa.picture import Picture
    from ernie_qa.record import Record
    from ernie_qa.report.compare import Comparison
    from ernie_qa.report.shown import Shown
    from ernie_qa.suite import Case, Suite

DIRECTORY = "_pictures"
"""Beside the page. No recipe's record can be there: a name begins with a letter or a digit."""
LOSSLESS = 512 * 512
"""Pixels up to which a picture is stored without loss; larger ones at quality 90. The map of the differences
is always made from the record's own pixels."""
WORST_BY = "lpips"
Scores = tuple[tuple[str, str], ...]
"""Names and values, in words."""
STOPS = ((0, 0, 4), (66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164))
"""The map's colours from no difference to the whole range: six points of matplotlib's inferno."""


@dataclass(frozen=True, slots=True)
class Triplet:
    """One case: the addresses of the two pictures and the map (None where there is none), scores and words.

    `worst` is the largest difference of one value, in 8 bits; `why` says why nothing is beside the picture.
    """

    case: str
    prompt: str
    enhanced: str
    focus: str
    width: int
    height: int
    left: str | None
    right: str
    map: str | None
    scores: Scores
    worst: int | None
    words: tuple[tuple[str, str], ...]
    defects: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Triplets:
    """Those of one record, the names of the two sides, how many cases more it has, and why there are none."""

    shown: tuple[Triplet, ...]
    left: str
    right: str
    more: int
    why: str

    @property
    def paired(self) -> bool:
        """Whether any case stands beside another's."""
        return any(one.left for one in self.shown)


def of(
    shown: Shown, directory: Path, suite: Suite | None, most: int, comparison: Comparison | None
) -> Triplets:
    """The triplets of one record; its pictures are written into `directory` as far as they are shown."""
    record, other, left = shown.record, shown.reference, "BF16"
    if comparison is not None:
        if record.hash == comparison.a.hash:
            return Triplets((), "", "", 0, f"beside those of {comparison.names[1]}, below")
        other, left = comparison.a, comparison.names[0]
    if not record.pictures:
        why = "the record holds no pictures"
        if record.ended:
            why = f"the arm ended at {record.ended.rung}, before a picture was drawn: {record.ended.check}"
        return Triplets((), left, shown.label, 0, why)
    theirs = {picture.case: picture for picture in other.pictures} if other else {}
    why = _unlike(record, other)
    if why:
        theirs = {}
    if record.reference is None and comparison is None:
        why = "measured against no other record"
    cases = _cases(record, suite)
    worst_first = sorted(record.pictures, key=lambda one: _badness(record, one.case))
    # scores are against BF16: of two records that are neither's reference each has its own
    beside = other if comparison is not None and other and record.reference != other.hash else None
    found = tuple(
        replace(one, scores=_both(one.scores, _stored(beside, one.case), left, shown.label))
        if beside
        else one
        for one in (
            _triplet(record, picture, theirs.get(picture.case), cases.get(picture.case), directory, why)
            for picture in worst_first[:most]
        )
    )
    return Triplets(found, left, shown.label, len(record.pictures) - len(found), why)


def difference_map(
    left: npt.NDArray[np.uint8], right: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.uint8], int]:
    """Where two [H, W, 3] uint8 pictures differ, as a [H, W, 3] uint8 picture, and the largest difference of
    one value, 0 to 255.

    A pixel's colour is the square root of its largest difference: 0, 1, 16, 64 and 255 are 0, 1/16, 1/4, 1/2
    and all of the way. One scale for all pictures, so that two maps can be compared.
    """
    import numpy as np

    difference = np.abs(left.astype(np.int16) - right.astype(np.int16)).max(axis=2)
    way = np.sqrt(np.arange(256) / 255) * (len(STOPS) - 1)
    channels = zip(*STOPS, strict=True)
    colours = np.stack([np.interp(way, np.arange(len(STOPS)), one) for one in channels], axis=1)
    return colours.round().astype(np.uint8)[difference], int(difference.max())


def _unlike(record: Record, other: Record | None) -> str:
    """Why the pictures must not be laid beside those of `other`; empty where they may."""
    if other is None:
        return "the record it was measured against is not at hand" if record.reference else ""
    if record.model.hash != other.model.hash:
        return f"not comparable: {other.recipe.name} drew another model, {other.model.name}"
    if record.suite.hash != other.suite.hash:
        return f"not comparable: {other.recipe.name} drew another suite, {other.suite.name}"
    return ""


def _cases(record: Record, suite: Suite | None) -> Mapping[str, Case]:
    """The cases that were drawn, where a suite is at hand that is the recorded one."""
    found = recorded_suite(record.suite.name, record.suite.hash, suite)
    return {case.id: case for case in found.cases} if found else {}


def _badness(record: Record, case: str) -> tuple[int, float]:
    """What is damaged first, then what has no score, then the highest LPIPS."""
    one = record.figures.get(images.NAME, {}).get("cases", {}).get(case, {})
    score = one.get("scores", {}).get(WORST_BY)
    if one.get("defects"):
        return 0, 0.0
    if not isinstance(score, int | float) or not math.isfinite(score):
        return 1, 0.0
    return 2, -float(score)


def _triplet(
    record: Record, picture: Picture, other: Picture | None, case: Case | None, directory: Path, why: str
) -> Triplet:
    right = picture.pixels()
    left_file = map_file = worst = None
    if other is not None and (other.width, other.height) != (picture.width, picture.height):
        why = f"not comparable: the other picture has {other.width} × {other.height} pixels"
    elif other is not None:
        left = other.pixels()
        heat, worst = difference_map(left, right)
        left_file = _written(left, directory, other.sha256)
        map_file = _written(heat, directory, f"{other.sha256[:16]}-{picture.sha256[:16]}")
    elif not why:
        why = "missing in the other record"
    figures = record.figures.get(images.NAME, {}).get("cases", {}).get(picture.case, {})
    words = record.figures.get(text.NAME, {}).get("cases", {}).get(picture.case, {})
    drawn = record.figures.get(cost.NAME, {}).get("pictures", {}).get(picture.case, {})
    return Triplet(
        case=picture.case,
        prompt=case.prompt if case else "",
        enhanced=drawn.get("enhanced", {}).get("prompt") or "",
        focus=case.focus if case else "",
        width=picture.width,
        height=picture.height,
        left=left_file,
        right=_written(right, directory, picture.sha256),
        map=map_file,
        scores=_stored(record, picture.case),
        worst=worst,
        words=tuple((one["expected"], one["read"]) for one in words.get("strings", ())),
        defects=tuple(figures.get("defects", ())),
        why=why,
    )


def _both(ours: Scores, theirs: Scores, left: str, right: str) -> Scores:
    """The scores of both sides, each by its name: none of them is of the pair that is shown."""
    known = dict(theirs)
    return tuple(
        (f"{name} against BF16:", f"{right} {value}, {left} {known.get(name, 'missing')}")
        for name, value in ours
    )


def _stored(record: Record, case: str) -> Scores:
    scores = record.figures.get(images.NAME, {}).get("cases", {}).get(case, {}).get("scores", {})
    found = []
    for metric in metrics():
        if metric.NAME in scores:
            value = scores[metric.NAME]
            said = figure(value) if isinstance(value, int | float) else str(value)
            found.append((metric.NAME.upper(), said))
    return tuple(found)


def _written(pixels: npt.NDArray[np.uint8], directory: Path, name: str) -> str:
    """The address of `pixels` as WebP below `directory`; one that several records share is written once."""
    from PIL import Image

    file = directory / DIRECTORY / f"{name[:33]}.webp"
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        small = pixels.shape[0] * pixels.shape[1] <= LOSSLESS
        Image.fromarray(pixels).save(file, "WEBP", lossless=small, quality=90)
    return f"{DIRECTORY}/{file.name}"


@cache
def legend() -> tuple[tuple[int, str], ...]:
    """Differences of one value, and their colours, for the map's key."""
    import numpy as np

    wanted = (0, 1, 4, 16, 64, 255)
    steps = np.zeros((1, len(wanted), 3), np.uint8)
    steps[0, :, 0] = wanted
    colours, _ = difference_map(steps, np.zeros_like(steps))
    return tuple(
        (value, "#" + bytes(colour).hex()) for value, colour in zip(wanted, colours[0].tolist(), strict=True)
    )
