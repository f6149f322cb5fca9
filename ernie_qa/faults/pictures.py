"""Pictures damaged after they were drawn: all of them, or the words of one."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from ernie_qa.faults import INT8, NF4, UINT4, clean, fault
from ernie_qa.faults.words import Box, blur_line, drop_word, mirror_letter, repeat_glyph, swap_letters

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pictures = dict[str, NDArray[np.uint8]]

LIGHT: tuple[str, Box] = ("02-technical-diagram", (35, 2, 119, 27))
FAIR: tuple[str, Box] = ("08-restaurant-menu-board", (4, 3, 124, 26))
MUSIC: tuple[str, Box] = ("04-public-domain-painter-fusion", (4, 101, 123, 124))
"""Cases of the miniature's suite, and where the word stands in the picture."""


def _each(pictures: Pictures, damaged: Any) -> None:
    for case, pixels in pictures.items():
        pictures[case] = damaged(pixels)


def _resampled(pixels: Any, share: float) -> Any:
    import numpy as np
    from PIL import Image

    height, width = pixels.shape[:2]
    small = Image.fromarray(pixels).resize(
        (round(width * share), round(height * share)), Image.Resampling.BICUBIC
    )
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), np.uint8)


@fault("one picture is blank", rung="images", recipe=NF4, at="pictures")
def blank(pictures: Pictures) -> None:
    pictures["03-four-panel-comic"][...] = 0


@fault("one picture in another size", rung="images", recipe=UINT4, at="pictures")
def other_size(pictures: Pictures) -> None:
    pictures[LIGHT[0]] = pictures[LIGHT[0]][:-8]


@fault("pictures shifted by two pixels", rung="images", recipe=UINT4, at="pictures")
def shifted(pictures: Pictures) -> None:
    import numpy as np

    _each(pictures, lambda pixels: np.roll(pixels, 2, axis=1))


@fault("noise of sigma 4 on all pictures", rung="images", recipe=NF4, at="pictures")
def noisy(pictures: Pictures) -> None:
    import numpy as np

    drawn = np.random.default_rng(1)
    _each(pictures, lambda one: (one + drawn.normal(0, 4, one.shape)).clip(0, 255).astype(np.uint8))


@fault("pictures as JPEG of quality 30", rung="images", recipe=UINT4, at="pictures")
def jpeg(pictures: Pictures) -> None:
    import numpy as np
    from PIL import Image

    def saved(pixels: Any) -> Any:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=30)
        return np.asarray(Image.open(file).convert("RGB"), np.uint8)

    _each(pictures, saved)


@fault("pictures drawn at half the size and enlarged", rung="images", recipe=NF4, at="pictures")
def enlarged(pictures: Pictures) -> None:
    _each(pictures, lambda pixels: _resampled(pixels, 0.5))


@fault("a faint grid over all pictures", rung="images", recipe=UINT4, at="pictures")
def gridded(pictures: Pictures) -> None:
    def lined(pixels: Any) -> Any:
        grid = pixels.astype(int)
        grid[::8] += 8
        grid[:, ::8] += 8
        return grid.clip(0, 255).astype("uint8")

    _each(pictures, lined)


@fault("two pictures swapped", rung="images", recipe=INT8, at="pictures")
def swapped(pictures: Pictures) -> None:
    one, other = "00-cyrillic-poster", "06-glass-still-life"
    pictures[one], pictures[other] = pictures[other], pictures[one]


@fault("red and blue exchanged in one picture", rung="images", recipe=NF4, at="pictures")
def channels(pictures: Pictures) -> None:
    case = "09-isometric-city-map"
    pictures[case] = pictures[case][..., ::-1].copy()


@fault("pictures five levels darker", rung="images", recipe=INT8, at="pictures")
def darker(pictures: Pictures) -> None:
    _each(pictures, lambda pixels: (pixels.astype(int) - 5).clip(0).astype("uint8"))


def _written(pictures: Pictures, where: tuple[str, Box], damage: Any) -> None:
    case, box = where
    pictures[case] = damage(pictures[case], box)


@fault("two letters of one word swapped", rung="text", recipe=UINT4, at="pictures")
def letters_swapped(pictures: Pictures) -> None:
    _written(pictures, FAIR, swap_letters)


@fault("a letter doubled", rung="text", recipe=NF4, at="pictures")
def letter_doubled(pictures: Pictures) -> None:
    _written(pictures, LIGHT, repeat_glyph)


@fault("a letter mirrored", rung="text", recipe=NF4, at="pictures")
def letter_mirrored(pictures: Pictures) -> None:
    _written(pictures, MUSIC, mirror_letter)


@fault("a word missing", rung="text", recipe=UINT4, at="pictures")
def word_missing(pictures: Pictures) -> None:
    _written(pictures, LIGHT, drop_word)


@fault("a word blurred", rung="text", recipe=UINT4, at="pictures")
def word_blurred(pictures: Pictures) -> None:
    _written(pictures, MUSIC, blur_line)


@clean("one level of one channel in one pixel in fifty", recipe=NF4, at="pictures")
def one_level(pictures: Pictures) -> None:
    import numpy as np

    drawn = np.random.default_rng(2)
    _each(pictures, lambda one: one ^ (drawn.random(one.shape) < 0.02).astype(np.uint8))
