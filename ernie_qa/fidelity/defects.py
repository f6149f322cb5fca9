"""What makes a picture fail by itself, whatever it is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FLAT_SPAN = 8
"""Levels of 255. A picture whose every channel spans no more is blank; rounding noise does not save it."""


def nonfinite_values(count: int) -> str | None:
    """A defect where `count` of the decoder's values were NaN or infinite before rounding to uint8."""
    return f"{count} values are NaN or infinite" if count else None


def constant(pixels: NDArray[np.uint8]) -> str | None:
    """A defect where a uint8 [H, W, 3] picture is one colour, give or take FLAT_SPAN levels."""
    lowest, highest = pixels.min(axis=(0, 1)), pixels.max(axis=(0, 1))
    if (highest - lowest > FLAT_SPAN).any():
        return None
    return f"blank: no channel spans more than {FLAT_SPAN} of 255 levels"


def wrong_size(pixels: NDArray[np.uint8], width: int, height: int) -> str | None:
    """A defect where a [H, W, 3] picture is not `width` x `height` pixels."""
    if pixels.shape[:2] == (height, width):
        return None
    return f"{pixels.shape[1]}x{pixels.shape[0]} pixels instead of {width}x{height}"
