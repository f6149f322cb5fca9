"""What engines read in a picture, kept by the picture's hash: an unchanged picture is read once."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ernie_qa.cache_directory import cache_directory
from ernie_qa.errors import UnavailableError
from ernie_qa.fidelity.text.engines import Engine, rapidocr
from ernie_qa.frozen import digest
from ernie_qa.record import pixels_hash

if TYPE_CHECKING:
    from ernie_qa.fidelity.metrics import Pixels

SHORTEST = 512
"""Pixels. A picture with a shorter side is enlarged, by a whole number: the miniature's letters are 10 to 15
pixels high, and PP-OCR's network takes lines of 48."""

FORM = 2
"""Counted up whenever lines are found, cut or prepared otherwise: what was kept before is then read again."""


@dataclass(frozen=True, slots=True)
class Reader:
    """The engines that a suite needs, each with its version, and the `finder` of lines with its own: what a
    reading hangs on besides the picture."""

    versions: Mapping[Engine, str]
    finder: str


def reader(engines: Iterable[Engine]) -> Reader:
    """Those engines. UnavailableError where one, or what finds lines and scores them, is not installed."""
    if find_spec("rapidfuzz") is None:
        raise UnavailableError(f"rapidfuzz is not installed: {rapidocr.INSTALL}")
    return Reader({engine: engine.version() for engine in engines}, rapidocr.version())


def read(picture: Pixels, by: Reader) -> dict[str, tuple[str, ...]]:
    """Engine -> the lines that it reads in uint8 RGB [H, W, 3], from top to bottom."""
    key = digest([FORM, pixels_hash(picture), SHORTEST, by.finder, sorted(by.versions.values())])
    path = cache_directory() / "text" / key[:2] / f"{key}.json"
    kept = _kept(path)
    if kept is None or kept.keys() != {engine.NAME for engine in by.versions}:
        lines = rapidocr.find_lines(_enlarged(picture))
        kept = {engine.NAME: tuple(engine.read(lines)) for engine in by.versions}
        _keep(path, kept)
    return kept


def _enlarged(picture: Pixels) -> Pixels:
    import numpy as np
    from PIL import Image

    factor = -(-SHORTEST // min(picture.shape[:2]))
    if factor == 1:
        return picture
    size = (picture.shape[1] * factor, picture.shape[0] * factor)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def _kept(path: Path) -> dict[str, tuple[str, ...]] | None:
    """What was kept there; None where there is nothing that can be used."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): tuple(map(str, lines)) for name, lines in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return None


def _keep(path: Path, found: dict[str, tuple[str, ...]]) -> None:
    # what cannot be kept is read again
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(found, file, ensure_ascii=False)
        Path(name).replace(path)
