"""Posters with known words at the real suite's sizes, drawn with PIL: what the text rung is shown."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

DEJAVU = ("/usr/share/fonts/truetype/dejavu", "/usr/share/fonts/TTF", "/usr/share/fonts/dejavu-sans-fonts")
FONTS = {
    "sans": ("DejaVuSans-Bold.ttf", DEJAVU, "fonts-dejavu-core"),
    "serif": ("DejaVuSerif.ttf", DEJAVU, "fonts-dejavu-core"),
    "chinese": (
        "wqy-microhei.ttc",
        ("/usr/share/fonts/truetype/wqy", "/usr/share/fonts/wqy-microhei"),
        "fonts-wqy-microhei",
    ),
}
"""Font -> its file, where Debian and others put it, and Debian's package."""
SIZES = ((1024, 1024), (896, 1200), (1200, 896), (1376, 768))
"""Width and height of the real suite's cases."""
COLOURS = (
    ("#f6f1e3", "#1b1b1f"),
    ("#f08a24", "#1b1b1f"),
    ("#20294a", "#f4f1ea"),
    ("#2a8a57", "#ffffff"),
    ("#f2c8d4", "#40204f"),
    ("#fbd93a", "#1b1b1f"),
)
"""Ground and ink."""
MARGIN = 56
"""Pixels from the left and the upper edge to the words."""
LEADING = 1.5
"""Of the font's size: from line to line, whatever stands in them."""

Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Line:
    """A text in a font of FONTS, `size` pixels an em."""

    text: str
    size: int
    font: str = "sans"


@dataclass(frozen=True, slots=True)
class Poster:
    """What was drawn: uint8 RGB [H, W, 3], and the box around each line (left, top, right, bottom)."""

    pixels: np.ndarray
    boxes: tuple[Box, ...]


def font_path(font: str) -> Path:
    """FileNotFoundError, with the command that installs it, where it is not installed."""
    file, places, package = FONTS[font]
    for place in places:
        if (path := Path(place) / file).is_file():
            return path
    raise FileNotFoundError(f"{file} is not installed: apt-get install {package}")


def needs_fonts(*fonts: str) -> None:
    """Skip the test where one of them is not installed."""
    for font in fonts:
        try:
            font_path(font)
        except FileNotFoundError as missing:
            pytest.skip(str(missing))


def poster(size: tuple[int, int], lines: tuple[Line, ...], seed: int) -> Poster:
    """Lines from the upper left downwards on a plain ground, and coloured shapes below them.

    `seed` decides colours and shapes. A line never moves for what is written in another one. ValueError where
    the lines do not fit.
    """
    random = np.random.default_rng(seed)
    ground, ink = COLOURS[random.integers(len(COLOURS))]
    image = Image.new("RGB", size, ground)
    pen = ImageDraw.Draw(image)
    top, boxes = MARGIN, []
    for line in lines:
        font = ImageFont.truetype(font_path(line.font), line.size)
        # by its base line: what stands in the line must not move it
        pen.text((MARGIN, top + line.size), line.text, font=font, fill=ink, anchor="ls")
        left, above, right, below = pen.textbbox((MARGIN, top + line.size), line.text, font=font, anchor="ls")
        boxes.append((int(left) - 8, int(above) - 6, int(right) + 9, int(below) + 7))
        top += round(LEADING * line.size)
    if top > size[1] or max((box[2] for box in boxes), default=0) > size[0]:
        raise ValueError(f"the lines do not fit on {size[0]}x{size[1]}")
    _shapes(pen, size, top, random)
    return Poster(np.asarray(image), tuple(boxes))


def _shapes(pen: ImageDraw.ImageDraw, size: tuple[int, int], top: int, random: np.random.Generator) -> None:
    """Three shapes in the rows below `top`."""
    free = size[1] - top - MARGIN
    for at, draw in enumerate((pen.ellipse, pen.rectangle, pen.rounded_rectangle)):
        side = int(min(free, size[0] // 4) * random.uniform(0.5, 1))
        if side < 16:
            return
        left = size[0] * at // 3 + int(random.integers(size[0] // 3 - side))
        above = top + int(random.integers(free - side + 1))
        colour = tuple(int(level) for level in random.integers(60, 200, 3))
        options = {"radius": side // 4} if draw == pen.rounded_rectangle else {}
        draw((left, above, left + side, above + side), fill=colour, **options)


def jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    """Through JPEG of that quality and back."""
    import io

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


def shifted(pixels: np.ndarray) -> np.ndarray:
    """One pixel to the right and down; the edges are repeated."""
    return np.pad(pixels, ((1, 0), (1, 0), (0, 0)), mode="edge")[:-1, :-1]


def noisy(pixels: np.ndarray, sigma: float, seed: int) -> np.ndarray:
    """With gaussian noise of that standard deviation, in levels of 255."""
    noise = np.random.default_rng(seed).normal(0, sigma, pixels.shape)
    return (pixels + noise).round().clip(0, 255).astype(np.uint8)


def rescaled(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Resized by `factor` and back."""
    image = Image.fromarray(pixels)
    other = image.resize(
        (round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC
    )
    return np.asarray(other.resize(image.size, Image.Resampling.BICUBIC))
