"""One drawn picture, as a PNG that must hold just the pixels that were declared, in memory or spooled."""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_qa.errors import RecordError
from ernie_qa.frozen import SHA256, SHA256_RULE
from ernie_qa.spool import Spool, Spooled
from ernie_qa.toml_input import CASE_NAME, SAFE_NAME_RULE, Table, one_line

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MAX_PIXELS = 64 * 2**20
"""A picture of more is neither kept nor decoded; Pillow itself would stop at 179 million."""
_PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"


@dataclass(frozen=True, slots=True)
class Picture:
    """One drawn picture: `png` decodes to `height` × `width` × 3 uint8; `sha256` is over those raw bytes."""

    case: str
    width: int
    height: int
    sha256: str
    _png: bytes | Spooled = field(compare=False, repr=False)

    @classmethod
    def from_pixels(cls, case: str, pixels: npt.NDArray[np.uint8]) -> Picture:
        """The picture of [H, W, 3] uint8 RGB `pixels`. ValueError for any other shape, type or case id."""
        import numpy as np
        from PIL import Image

        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            raise ValueError(f"{case}: pixels are {pixels.dtype} {pixels.shape}, needed is uint8 [H, W, 3]")
        height, width = pixels.shape[:2]
        if width * height > MAX_PIXELS:
            raise ValueError(
                f"{case}: {width}x{height} is more than the {MAX_PIXELS} pixels a picture may have"
            )
        if not CASE_NAME.fullmatch(case):
            raise ValueError(f"{case!r}: a case's id has {SAFE_NAME_RULE}")
        raw = np.ascontiguousarray(pixels).tobytes()
        file = io.BytesIO()
        Image.frombytes("RGB", (width, height), raw).save(file, "PNG")
        return cls(case, width, height, hashlib.sha256(raw).hexdigest(), file.getvalue())

    @property
    def png(self) -> bytes:
        """The file."""
        return self._png if isinstance(self._png, bytes) else self._png.content()

    def spooled(self, spool: Spool) -> Picture:
        """The same picture, its PNG in `spool` and no longer in memory."""
        return replace(self, _png=spool.keep(self.png))

    def entry(self) -> dict[str, Any]:
        """What a document says of the picture: all but the PNG."""
        return {"case": self.case, "width": self.width, "height": self.height, "sha256": self.sha256}

    def pixels(self) -> npt.NDArray[np.uint8]:
        """The picture as a new [H, W, 3] uint8 RGB array. RecordError if the PNG is not what was declared."""
        import numpy as np

        raw = _decode(self.png, self.width, self.height, self.case)
        return np.frombuffer(bytearray(raw), np.uint8).reshape(self.height, self.width, 3)


def pixels_hash(pixels: npt.NDArray[np.uint8]) -> str:
    """The sha256 over the raw bytes of [H, W, 3] uint8 `pixels`: what a picture's `sha256` is."""
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def write_pictures(pictures: Iterable[Picture], directory: Path) -> None:
    """Write `directory`/pictures/<case>.png, as `read_picture` reads them."""
    (directory / "pictures").mkdir(parents=True)
    for picture in pictures:
        (directory / "pictures" / f"{picture.case}.png").write_bytes(picture.png)


def read_picture(entry: Table, directory: Path) -> Picture:
    """The picture that `entry` declares, from `directory`/pictures. RecordError if missing or edited."""
    case = entry.text("case", pattern=CASE_NAME, allowed=SAFE_NAME_RULE)
    width = entry.integer("width", minimum=1, maximum=MAX_PIXELS)
    height = entry.integer("height", minimum=1, maximum=MAX_PIXELS // width)
    sha256 = entry.text("sha256", pattern=SHA256, allowed=SHA256_RULE)
    entry.finish()
    file = directory / "pictures" / f"{case}.png"
    # a PNG of noise is hardly larger than its pixels; one that is twice as large hides something
    bound = 2 * 3 * width * height + 2**16
    try:
        if not file.resolve().is_relative_to(directory.resolve()) or not file.is_file():
            raise RecordError(one_line(f"{file}: no such picture in the record"))
        with file.open("rb") as opened:
            png = opened.read(bound + 1)
    except OSError as problem:
        raise RecordError(one_line(f"{file}: cannot be read: {problem.strerror or problem}")) from None
    if len(png) > bound:
        raise RecordError(one_line(f"{file}: larger than a picture of {width}x{height} can be"))
    if hashlib.sha256(_decode(png, width, height, str(file))).hexdigest() != sha256:
        raise RecordError(one_line(f"{file}: was edited: its pixels do not match the record's sha256"))
    return Picture(case, width, height, sha256, png)


def _decode(png: bytes, width: int, height: int, where: str) -> bytes:
    """The raw RGB bytes of `png`, whose own header must declare `width` × `height` before it is decoded."""
    from PIL import Image

    if png[:16] != _PNG_START or len(png) < 26:
        raise RecordError(one_line(f"{where}: not a PNG file"))
    found = struct.unpack(">II", png[16:24])
    if found != (width, height):
        raise RecordError(
            one_line(f"{where}: found {found[0]}x{found[1]} pixels, the record says {width}x{height}")
        )
    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            if image.mode != "RGB":
                raise RecordError(
                    one_line(f"{where}: found a PNG of mode {image.mode}, allowed is RGB of 8 bits")
                )
            return image.tobytes()
    except (OSError, ValueError, SyntaxError, IndexError) as problem:  # Pillow, on short chunks
        raise RecordError(one_line(f"{where}: a damaged PNG file: {problem}")) from None
