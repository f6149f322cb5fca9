"""Tesseract with Russian language data: it reads Cyrillic, one line at a time. The wheel of tesserocr holds
the engine, Debian's `tesseract-ocr-rus` the data."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_qa.errors import UnavailableError

if TYPE_CHECKING:
    from ernie_qa.fidelity.metrics import Pixels

NAME = "tesseract"
ORDER = 2
INSTALL = "pip install 'ernie-qa[text]' && apt-get install tesseract-ocr-rus"

LANGUAGE = "rus"
HEIGHT = 36
"""Pixels. The network in the language data takes lines of this height; what Tesseract brings to it by itself,
it reads worse (docs/text.md)."""
MARGIN = 9
"""Pixels of ground around a line: what is cut off closely is taken for no line at all."""
_PLACES = (
    "/usr/share/tesseract-ocr/5/tessdata",
    "/usr/share/tesseract-ocr/4.00/tessdata",
    "/usr/share/tessdata",
    "/usr/local/share/tessdata",
    "/opt/homebrew/share/tessdata",
)
"""Where Debian, other systems and Homebrew put language data."""
_LSTM_UNICHARSET = 21
"""Its place in a .traineddata file: TESSDATA_LSTM_UNICHARSET in tesseract's tessdatamanager.h."""


def version() -> str:
    """The engine, and the first digits of the sha256 of its language data."""
    engine = _tesserocr().tesseract_version().splitlines()[0]
    return f"{engine}, {LANGUAGE} {hashlib.sha256(_data().read_bytes()).hexdigest()[:12]}"


def alphabet() -> frozenset[str]:
    """The characters in the language data: asked of the file, for the engine names no end of its list."""
    _tesserocr()
    return frozenset(unicharset(_data()))


def read(lines: Sequence[Pixels]) -> list[str]:
    """The text of each picture of one line."""
    from PIL import Image, ImageOps

    engine, found = _engine(), []
    for line in lines:
        width = max(1, round(line.shape[1] * HEIGHT / line.shape[0]))
        sized = Image.fromarray(ink(line)).resize((width, HEIGHT), Image.Resampling.LANCZOS)
        engine.SetImage(ImageOps.expand(sized, MARGIN, 255))
        found.append(" ".join(engine.GetUTF8Text().split()))
    engine.Clear()
    return found


def ink(line: Pixels) -> Pixels:
    """How far each pixel is from the ground, from 255 (not at all) to 0: uint8 [H, W], dark on light.

    The ground is the median of the border. Left to make black and white of coloured lines itself, Tesseract
    reads nothing at all in some that are perfectly legible.
    """
    import numpy as np

    border = np.concatenate([line[0], line[-1], line[:, 0], line[:, -1]])
    distance = np.abs(line - np.median(border, axis=0)).max(axis=2)
    most = max(float(np.percentile(distance, 99)), 1.0)
    shade: Pixels = (255 - 255 * np.clip(distance / most, 0, 1)).astype(np.uint8)
    return shade


def unicharset(path: Path) -> tuple[str, ...]:
    """The characters that the network in a .traineddata file tells apart.

    The file begins with a count (int32) and the offset of every part (int64, -1 where it is absent); the part
    meant is text, a count and then a line a character, which is its first word. UnavailableError where it is
    no such file.
    """
    data = path.read_bytes()
    try:
        (count,) = struct.unpack_from("<i", data)
        offsets = struct.unpack_from(f"<{count}q", data, 4)
        start = offsets[_LSTM_UNICHARSET]
        end = min((one for one in offsets if one > start), default=len(data))
        first, *rows = data[start:end].decode().splitlines()
        characters = [row.split(" ")[0] for row in rows[: int(first)]]
    except (struct.error, IndexError, ValueError) as problem:
        raise UnavailableError(f"{path} is no language data of tesseract: {problem}; {INSTALL}") from problem
    # the first three stand for a space, a joined and a broken character
    return tuple(one for one in characters if len(one) == 1)


@cache
def _engine() -> Any:
    tesserocr = _tesserocr()
    return tesserocr.PyTessBaseAPI(
        path=str(_data().parent), lang=LANGUAGE, psm=tesserocr.PSM.SINGLE_LINE, oem=tesserocr.OEM.LSTM_ONLY
    )


def _tesserocr() -> Any:
    try:
        import tesserocr
    except ImportError as missing:
        raise UnavailableError(f"{NAME} cannot be imported ({missing}): {INSTALL}") from missing
    return tesserocr


def _data() -> Path:
    places = [os.environ["TESSDATA_PREFIX"]] if "TESSDATA_PREFIX" in os.environ else []
    for place in (*places, *_PLACES):
        if (path := Path(place) / f"{LANGUAGE}.traineddata").is_file():
            return path
    raise UnavailableError(
        f"tesseract's language data {LANGUAGE}.traineddata is not installed: {INSTALL}, or say in "
        "TESSDATA_PREFIX where it is"
    )
