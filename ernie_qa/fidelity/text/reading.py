"""What engines read in a picture, kept by the picture's hash: an unchanged picture is read once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ernie_qa.cache_directory import cache_directory, keep, kept
from ernie_qa.errors import UnavailableError
from ernie_qa.fidelity.text.columns import columns
from ernie_qa.fidelity.text.engines import Engine, rapidocr
from ernie_qa.fingerprint import version_of
from ernie_qa.frozen import digest
from ernie_qa.picture import pixels_hash

if TYPE_CHECKING:
    from ernie_qa.fidelity.metrics import Pixels

SHORTEST = 512
"""Pixels. A picture with a shorter side is enlarged, by a whole number: the miniature's letters are 10 to 15
pixels high, and PP-OCR's network takes lines of 48."""

FORM = 4
"""Counted up whenever lines are found, cut or prepared otherwise: what was kept before is then read again."""


@dataclass(frozen=True, slots=True)
class Reader:
    """The engines that a suite needs, each with its version, and the `finder` of lines with its own: what a
    reading hangs on besides the picture."""

    versions: Mapping[Engine, str]
    finder: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read in one picture: engine -> its lines, from top to bottom, and the places of those lines
    that stand below each other."""

    lines: Mapping[str, tuple[str, ...]]
    columns: tuple[tuple[int, ...], ...]


def reader(engines: Iterable[Engine]) -> Reader:
    """Those engines. UnavailableError where one, or what finds lines and scores them, is not installed."""
    if find_spec("rapidfuzz") is None:
        raise UnavailableError(f"rapidfuzz is not installed: {rapidocr.INSTALL}")
    return Reader({engine: engine.version() for engine in engines}, rapidocr.version())


def read(picture: Pixels, by: Reader) -> Reading:
    """What those engines read in uint8 RGB [H, W, 3], now or when it was kept."""
    prepared = (version_of("numpy"), version_of("pillow"))
    key = digest([FORM, pixels_hash(picture), by.finder, sorted(by.versions.values()), prepared])
    path = cache_directory() / "text" / key[:2] / f"{key}.json"
    if (known := _known(path, by)) is not None:
        return known
    found = rapidocr.find_lines(_enlarged(picture))
    boxes, lines = [box for box, _ in found], [line for _, line in found]
    reading = Reading(
        lines={engine.NAME: tuple(engine.read(lines)) for engine in by.versions}, columns=columns(boxes)
    )
    keep(path, asdict(reading))
    return reading


def _enlarged(picture: Pixels) -> Pixels:
    import numpy as np
    from PIL import Image

    factor = -(-SHORTEST // min(picture.shape[:2]))
    if factor == 1:
        return picture
    size = (picture.shape[1] * factor, picture.shape[0] * factor)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def _known(path: Path, by: Reader) -> Reading | None:
    """What was kept there; None where there is nothing that can be used."""
    held = kept(path)
    try:
        lines = {engine.NAME: tuple(held["lines"][engine.NAME]) for engine in by.versions}
        chains = tuple(tuple(chain) for chain in held["columns"])
    except (KeyError, TypeError):
        return None
    whole = all(isinstance(line, str) for read in lines.values() for line in read)
    counts = {len(read) for read in lines.values()}
    places = range(min(counts, default=0))
    if not whole or len(counts) != 1 or any(at not in places for chain in chains for at in chain):
        return None
    return Reading(lines, chains)
