"""Labels on pictures, in a font that can write them."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

    Font = FreeTypeFont | ImageFont

FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial.ttf", "arial.ttf")
"""Fonts with Latin, Cyrillic and Greek, looked for where the system keeps fonts. Without one of them Pillow's
own is used, which has Latin alone."""
LONGEST = 400
"""Letters of a label that are looked at: more find no place on any picture."""
_NEVER = "\U0010fffe"
"""No font has it: what is drawn for it stands for all that is missing."""


@cache
def font(size: int) -> Font:
    """The first of `FONTS` that is installed, `size` pixels an em."""
    from PIL import ImageFont

    for name in FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def legible(text: str, of: Font) -> bool:
    """Whether the font has every letter of `text`."""
    missing = bytes(of.getmask(_NEVER))
    return all(letter.isspace() or bytes(of.getmask(letter)) != missing for letter in text[:LONGEST])


def write(pen: ImageDraw, at: tuple[int, int], text: str, of: Font, width: int, fill: str) -> None:
    """Write `text` in one line, its upper left corner `at`, cut where it is wider than `width` pixels."""
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text[:LONGEST]).split())
    if pen.textlength(text, font=of) > width:
        while text and pen.textlength(f"{text}...", font=of) > width:
            text = text[:-1]
        text = f"{text.rstrip()}..."
    pen.text(at, text, font=of, fill=fill)
