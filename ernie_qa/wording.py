"""Numbers as a reader expects them: what is counted in its right form, figures without an exponent."""

from decimal import Decimal

DIGITS = 4
SMALLEST, LARGEST = 1e-9, 1e12
"""Beyond these a figure keeps its exponent: zeros alone would not be read either."""


def counted(count: int, one: str, several: str = "") -> str:
    """`count` with what it counts: "1 layer", "2 layers", or with `several` for another plural."""
    return f"{count} {one if count == 1 else several or one + 's'}"


def figure(value: float, digits: int = DIGITS) -> str:
    """`value` to so many significant digits, written out: 0.00009379 can be read beside 0.0001159."""
    said = f"{value:.{digits}g}"
    return f"{Decimal(said):f}" if "e" in said and SMALLEST <= abs(value) < LARGEST else said
