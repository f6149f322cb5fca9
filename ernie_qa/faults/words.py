"""Damage to one line of text in a picture, made of the picture's own glyphs.

Every fault takes a uint8 RGB [H, W, 3] picture and a box (left, top, right, bottom, in pixels) around one
upright line of text on a plain ground, a pixel or more beyond its letters, and returns a new picture.
ValueError where the box lies outside the picture or holds fewer glyphs than the fault needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]
    Mask = NDArray[np.bool_]

Box = tuple[int, int, int, int]

INK = 0.5
"""A pixel is ink where it is more than this share of the way from the ground to what differs most from it:
half, so that the soft edges of two letters do not join them."""
SPACE = 0.3
"""Of the line's height: a wider gap parts two words. Of the pairs of letters in DejaVu Sans and Serif and
WenQuanYi Micro Hei 99 in 100 are at most 0.26 of a capital's height apart, and with a space between them 99
in 100 are 0.33 or more."""
MARK = 0.5
"""Of the line's height: what is lower is a dot, a dash or a quotation mark, and is no letter."""
ALIKE = 0.3
"""Share of the ink of two glyphs, laid one over the other, that must lie apart for them to be different."""
BLUR = 0.5
"""Standard deviation of the blur, in heights of the line: a letter is mixed with both its neighbours."""


def swap_letters(picture: Pixels, box: Box) -> Pixels:
    """Two neighbouring letters of one word exchange places: the two that differ most."""
    line = _line(picture, box, 2)
    pairs = [
        first
        for first in range(len(line.glyphs) - 1)
        if line.letter(first) and line.letter(first + 1) and line.gap(first) <= SPACE * line.height
    ]
    first = max(pairs, key=lambda one: _apart(line.mask(one), line.mask(one + 1)), default=None)
    if first is None or _apart(line.mask(first), line.mask(first + 1)) < ALIKE:
        raise ValueError(f"the box {box} holds no two neighbouring letters that differ")
    cells = line.cells()
    cells[first], cells[first + 1] = cells[first + 1], cells[first]
    return line.written(cells)


def drop_word(picture: Pixels, box: Box, word: int = -1) -> Pixels:
    """The word of that number (-1 is the last) is painted over with the colour of the ground."""
    line = _line(picture, box, 1)
    breaks = [at + 1 for at in range(len(line.glyphs) - 1) if line.gap(at) > SPACE * line.height]
    words = list(zip([0, *breaks], [*breaks, len(line.glyphs)], strict=True))
    if not -len(words) <= word < len(words):
        raise ValueError(f"the box {box} holds {len(words)} words, and none of number {word}")
    import numpy as np

    cells = line.cells()
    for at in range(*words[word]):
        cells[at] = np.broadcast_to(line.ground, cells[at].shape)
    return line.written(cells)


def repeat_glyph(picture: Pixels, box: Box, glyph: int = -1) -> Pixels:
    """The glyph of that number (-1 is the last) stands there twice, as 42 becomes 422.

    What is right of it moves into the free ground there; where that is too narrow, the line is squeezed.
    """
    line = _line(picture, box, 1)
    if not -len(line.glyphs) <= glyph < len(line.glyphs):
        raise ValueError(f"the box {box} holds {len(line.glyphs)} glyphs, and none of number {glyph}")
    cells = line.cells()
    at = glyph % len(cells)
    return line.written([*cells[: at + 1], *cells[at:]])


def mirror_letter(picture: Pixels, box: Box) -> Pixels:
    """The least symmetric letter is mirrored: И becomes N, and R becomes Я."""
    line = _line(picture, box, 1)
    letters = [at for at in range(len(line.glyphs)) if line.letter(at)]
    at = max(letters, key=lambda one: _apart(line.mask(one), line.mask(one)[:, ::-1]), default=None)
    if at is None or _apart(line.mask(at), line.mask(at)[:, ::-1]) < ALIKE:
        raise ValueError(f"the box {box} holds no letter that its mirror image differs from")
    cells = line.cells()
    cells[at] = cells[at][:, ::-1]
    return line.written(cells)


def blur_line(picture: Pixels, box: Box) -> Pixels:
    """The line is blurred until nobody can read it."""
    import numpy as np
    from PIL import Image, ImageFilter

    line = _line(picture, box, 1)
    left, top, right, bottom = box
    blur = ImageFilter.GaussianBlur(BLUR * line.height)
    damaged = picture.copy()
    damaged[top:bottom, left:right] = np.asarray(
        Image.fromarray(picture[top:bottom, left:right]).filter(blur), np.uint8
    )
    return damaged


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of text: its `ground` colour, the `ink` in the rows of its box over the picture's whole width,
    its `glyphs` as columns (first, last + 1), and the `height` of its ink in pixels."""

    picture: Pixels
    rows: slice
    ground: Pixels
    ink: Mask
    glyphs: tuple[tuple[int, int], ...]
    height: int

    def mask(self, glyph: int) -> Mask:
        """The ink of one glyph."""
        return self.ink[:, slice(*self.glyphs[glyph])]

    def gap(self, glyph: int) -> int:
        """Pixels between this glyph and the next."""
        return self.glyphs[glyph + 1][0] - self.glyphs[glyph][1]

    def letter(self, glyph: int) -> bool:
        """Whether it is as high as a letter or a digit."""
        return _extent(self.mask(glyph)) >= MARK * self.height

    def edges(self) -> list[int]:
        """Where the cells of the glyphs begin, and where the last one ends: amid the gaps."""
        between = [self.glyphs[at][1] + self.gap(at) // 2 for at in range(len(self.glyphs) - 1)]
        margin = max(1, round(0.05 * self.height))
        first, last = self.glyphs[0][0] - margin, self.glyphs[-1][1] + margin
        return [max(first, 0), *between, min(last, self.ink.shape[1])]

    def cells(self) -> list[Pixels]:
        """The pixels of every glyph with half of the gaps around it."""
        edges = self.edges()
        return [self.picture[self.rows, start:end].copy() for start, end in pairwise(edges)]

    def written(self, cells: list[Pixels]) -> Pixels:
        """The picture with those cells in the place of the line, squeezed where there is no room for them."""
        import numpy as np
        from PIL import Image

        start, *_, end = self.edges()
        strip = np.concatenate(cells, axis=1)
        taken = np.flatnonzero(self.ink[:, end:].any(axis=0))
        free = int(taken[0]) if taken.size else self.ink.shape[1] - end
        room = end - start + free
        if strip.shape[1] > room:
            squeezed = Image.fromarray(strip).resize((room, strip.shape[0]), Image.Resampling.LANCZOS)
            strip = np.asarray(squeezed, np.uint8)
        damaged = self.picture.copy()
        damaged[self.rows, start : start + strip.shape[1]] = strip
        return damaged


def _line(picture: Pixels, box: Box, needed: int) -> _Line:
    """What stands in the box; ValueError where it is fewer than `needed` glyphs."""
    import numpy as np

    left, top, right, bottom = box
    if not (0 <= left < right <= picture.shape[1] and 0 <= top < bottom <= picture.shape[0]):
        raise ValueError(f"the box {box} lies outside the picture of {picture.shape[1]}x{picture.shape[0]}")
    inside = picture[top:bottom, left:right]
    border = np.concatenate([inside[0], inside[-1], inside[:, 0], inside[:, -1]])
    ground = np.median(border, axis=0).astype(np.uint8)
    far = np.abs(picture[top:bottom].astype(np.int16) - ground).max(axis=2)
    ink = far > max(INK * far[:, left:right].max(), 1)
    columns = ink[:, left:right].any(axis=0)
    turns = np.flatnonzero(np.diff(np.concatenate([[False], columns, [False]]))) + left
    glyphs = tuple((int(start), int(end)) for start, end in turns.reshape(-1, 2))
    if len(glyphs) < needed:
        raise ValueError(f"the box {box} holds {len(glyphs)} glyphs, and {needed} are needed")
    return _Line(picture, slice(top, bottom), ground, ink, glyphs, _extent(ink[:, left:right]))


def _extent(ink: Mask) -> int:
    """Pixels from the highest ink to the lowest."""
    import numpy as np

    rows = np.flatnonzero(ink.any(axis=1))
    return int(rows[-1] + 1 - rows[0])


def _apart(one: Mask, other: Mask) -> float:
    """The share of the ink of two glyphs that lies apart where one is laid over the other."""
    import numpy as np

    width = max(one.shape[1], other.shape[1])
    first, second = (
        np.pad(mask, ((0, 0), ((width - mask.shape[1]) // 2, -(-(width - mask.shape[1]) // 2))))
        for mask in (one, other)
    )
    return float((first ^ second).sum() / (first | second).sum())
