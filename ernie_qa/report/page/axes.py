"""Axes of the page's drawings: places in a frame of fixed size, and round numbers along them."""

from __future__ import annotations

import math
from dataclasses import dataclass

LEFT, TOP, WIDTH, HEIGHT = 56, 12, 560, 200
"""The frame, in the drawing's own units; it grows with the page."""
COLOURS = 6
"""In the page's style, for lines and points; beyond them dashes and numbers tell those apart."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A place along an axis, in the drawing's units, and what stands there; `value` is in the figure's."""

    at: float
    label: str
    value: float = 0.0


def across(value: float, least: float, most: float) -> float:
    """The horizontal place of `value` between `least` and `most`."""
    return LEFT + WIDTH * (value - least) / (most - least)


def up(value: float, along: tuple[Tick, ...]) -> float:
    """The vertical place of `value`, from 0 at the foot to the last tick at the head."""
    return TOP + HEIGHT * (1 - value / along[-1].value)


def ticks(most: float) -> tuple[Tick, ...]:
    """Three to six round numbers from 0 to at least `most`, which is above 0, along the vertical axis."""
    values = round_numbers(most)
    return tuple(Tick(TOP + HEIGHT * (1 - value / values[-1]), f"{value:g}", value) for value in values)


def round_numbers(most: float) -> tuple[float, ...]:
    """0 and its multiples of 1, 2 or 5 times a power of ten, up to the first that is at least `most`."""
    power = 10.0 ** math.floor(math.log10(most / 4))
    step = next(one * power for one in (1, 2, 5, 10) if one * power * 5 >= most)
    count = math.ceil(most / step - 1e-9)
    return tuple(float(f"{number * step:.6g}") for number in range(count + 1))
