"""The miniature's whole world: procedural posters, their captions, and the short requests for them.

A poster is a plain ground, a large shape, a small shape in a corner, and one word along an edge. Its caption
says all of that in one fixed sentence pattern; shapes are drawn with a little jitter that the caption does
not tell, so that different seeds give different pictures.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FORMATS = {(128, 128): "square", (112, 152): "tall", (152, 112): "wide", (176, 96): "panoramic"}
"""Sizes (width, height) in pixels, and what captions call them."""

COLOURS = {
    "red": (200, 44, 40),
    "orange": (238, 134, 36),
    "yellow": (248, 212, 64),
    "green": (40, 140, 84),
    "blue": (36, 84, 168),
    "purple": (116, 60, 152),
    "pink": (242, 156, 186),
    "black": (26, 26, 30),
    "white": (248, 246, 240),
}
INKS = {"black", "white"}
DARK_GROUNDS = {"red", "green", "blue", "purple", "black"}
SHAPES = ("circle", "square", "triangle", "star", "ring", "diamond")
PLACES = {"on the left": 0.30, "in the middle": 0.50, "on the right": 0.70}
CORNERS = {
    "upper left": (0.14, 0.18),
    "upper right": (0.86, 0.18),
    "lower left": (0.14, 0.82),
    "lower right": (0.86, 0.82),
}
EDGES = ("top", "bottom")
LATIN = (
    "MUSIC", "CINEMA", "DANCE", "BAKERY", "GARDEN", "PLANET",
    "SUMMER", "COFFEE", "TRAVEL", "THEATRE", "LIGHT", "RIVER",
)  # fmt: skip
CYRILLIC = (
    "МУЗЫКА", "ТЕАТР", "ВЕСНА", "КОНЦЕРТ", "ГОРОД", "ЗИМА",
    "КНИГА", "ПРАЗДНИК", "ЦИРК", "ЯРМАРКА", "МОРЕ", "ЛУНА",
)  # fmt: skip
WORDS = LATIN + CYRILLIC

_SUPERSAMPLING = 3
_BAND = 30  # height in pixels of the band along the edge that the word has to itself


@dataclass(frozen=True, slots=True)
class Poster:
    """All that a caption says."""

    width: int
    height: int
    ground: str
    large: tuple[str, str]  # colour, shape
    place: str
    small: tuple[str, str]
    corner: str
    word: str
    ink: str
    edge: str

    @property
    def caption(self) -> str:
        """The full description: what the text encoder reads (46 tokens with the start token)."""
        return (
            f"A {FORMATS[self.width, self.height]} poster with a plain {self.ground} ground. "
            f"A large {' '.join(self.large)} stands {self.place}, "
            f"and a small {' '.join(self.small)} stands at the {self.corner}. "
            f"The word {self.word} is written in bold {self.ink} letters along the {self.edge} of the poster."
        )

    @property
    def request(self) -> str:
        """The short form that the prompt enhancer turns into the caption."""
        place = self.place.removeprefix("on the ").removeprefix("in the ")
        return (
            f"{self.ground}, {' '.join(self.large)} {place}, {' '.join(self.small)} {self.corner}, "
            f"{self.word} {self.ink} {self.edge}"
        )


def random_poster(rng: random.Random, size: tuple[int, int] | None = None) -> Poster:
    """Draw a poster; `size` (width, height) fixes its format."""
    width, height = size or rng.choice(list(FORMATS))
    ground, large, small = rng.sample(list(COLOURS), 3)
    place = rng.choice(list(PLACES))
    clear_of = {"on the left": "right", "on the right": "left"}.get(place, "")
    return Poster(
        width=width,
        height=height,
        ground=ground,
        large=(large, rng.choice(SHAPES)),
        place=place,
        small=(small, rng.choice(SHAPES)),
        corner=rng.choice([corner for corner in CORNERS if clear_of in corner]),
        word=rng.choice(WORDS),
        ink="white" if ground in DARK_GROUNDS else "black",
        edge=rng.choice(EDGES),
    )


def held_out(poster: Poster) -> bool:
    """Whether training must never see this caption: one in fifty, by the caption's hash."""
    return hashlib.sha256(poster.caption.encode()).digest()[0] % 50 == 0


def training_poster(rng: random.Random, size: tuple[int, int] | None = None) -> Poster:
    """A poster that is not held out."""
    while held_out(poster := random_poster(rng, size)):
        pass
    return poster


def held_out_posters(count: int, seed: int) -> list[Poster]:
    """`count` posters that training never saw, the four sizes in turn."""
    rng = random.Random(seed)
    sizes = list(FORMATS)
    found: list[Poster] = []
    while len(found) < count:
        if held_out(poster := random_poster(rng, sizes[len(found) % len(sizes)])):
            found.append(poster)
    return found


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans-Bold.ttf", size)


@lru_cache(maxsize=1024)
def word_mask(word: str, width: int, edge: str, height: int) -> np.ndarray:
    """Coverage of the word in [0, 1], float32 [height, width]: where the ink is."""
    size = next(s for s in range(24, 8, -1) if _font(s).getlength(word) <= 0.90 * width)
    mask = Image.new("L", (width, height), 0)
    centre = _BAND / 2 if edge == "top" else height - _BAND / 2
    ImageDraw.Draw(mask).text((width / 2, centre), word, fill=255, font=_font(size), anchor="mm")
    return np.asarray(mask, np.float32) / 255


def band_rows(poster: Poster) -> slice:
    """The rows that the word has to itself."""
    return slice(0, _BAND) if poster.edge == "top" else slice(poster.height - _BAND, poster.height)


def _outline(shape: str, x: float, y: float, r: float) -> list[tuple[float, float]]:
    if shape == "square":
        corners, turn, radii = 4, np.pi / 4, [r * 1.15]
    elif shape == "diamond":
        corners, turn, radii = 4, 0.0, [r * 1.15]
    elif shape == "triangle":
        corners, turn, radii = 3, -np.pi / 2, [r * 1.2]
    else:
        corners, turn, radii = 10, -np.pi / 2, [r * 1.2, r * 0.5]
    angles = turn + 2 * np.pi * np.arange(corners) / corners
    return [
        (x + radii[i % len(radii)] * np.cos(a), y + radii[i % len(radii)] * np.sin(a))
        for i, a in enumerate(angles)
    ]


def _stamp(
    draw: ImageDraw.ImageDraw, shape: str, colour: str, ground: str, x: float, y: float, r: float
) -> None:
    x, y, r = (v * _SUPERSAMPLING for v in (x, y, r))
    if shape in ("circle", "ring"):
        draw.ellipse((x - r, y - r, x + r, y + r), fill=COLOURS[colour])
        if shape == "ring":
            draw.ellipse((x - r * 0.55, y - r * 0.55, x + r * 0.55, y + r * 0.55), fill=COLOURS[ground])
    else:
        draw.polygon(_outline(shape, x, y, r), fill=COLOURS[colour])


def draw_poster(poster: Poster, rng: random.Random | None = None) -> np.ndarray:
    """Render to uint8 [height, width, 3]; `rng` jitters the shapes, None draws them exactly in place."""
    width, height, area = poster.width, poster.height, poster.height - _BAND
    top = _BAND if poster.edge == "top" else 0
    shift = (lambda: rng.uniform(-3, 3)) if rng else (lambda: 0.0)
    stretch = (lambda: rng.uniform(0.92, 1.08)) if rng else (lambda: 1.0)
    base = min(area, 0.8 * width)
    canvas = Image.new("RGB", (width * _SUPERSAMPLING, height * _SUPERSAMPLING), COLOURS[poster.ground])
    draw = ImageDraw.Draw(canvas)
    x, y = PLACES[poster.place] * width + shift(), top + area / 2 + shift()
    _stamp(draw, poster.large[1], poster.large[0], poster.ground, x, y, 0.30 * base * stretch())
    x, y = CORNERS[poster.corner]
    x, y = x * width + shift(), top + y * area + shift()
    _stamp(draw, poster.small[1], poster.small[0], poster.ground, x, y, 0.12 * base * stretch())
    picture = np.asarray(canvas.reduce(_SUPERSAMPLING), np.float32)
    mask = word_mask(poster.word, width, poster.edge, height)[..., None]
    picture = picture * (1 - mask) + np.asarray(COLOURS[poster.ink], np.float32) * mask
    return picture.round().astype(np.uint8)
