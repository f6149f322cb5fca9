"""Scores of single pictures against those that were accepted for the same pictures. Imports no torch.

A mean that has risen may have risen by chance; pairs know how much chance there is (docs/statistics.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

from ernie_qa.fidelity.statistics import LEVEL, OFFSET, Regression, attainable, holm, regression_gate

if TYPE_CHECKING:
    from ernie_qa.baseline.accepted import Figure, Tracked


SMALLEST = 10 * OFFSET
"""The least mean of accepted scores whose pairs decide: of smaller ones the offset hides a ratio. The
miniature has 0.0035 in LPIPS and 0.01 in 1 - SSIM; published 4 and 8-bit pipelines 0.07 to 0.36 in LPIPS."""


def paired(figures: Mapping[str, Figure], found: Mapping[str, Tracked]) -> dict[str, Regression]:
    """What the pairs say of each of `figures` whose scores were accepted, and are there again in `found`.

    p is adjusted by Holm over the figures of a rung. Without those whose pairs are so few that even all of
    them worse would not rule out chance, 6 for two metrics, and those whose scores are next to nothing.
    """
    compared: dict[str, Regression] = {}
    ready = {name: figures[name] for name in figures if _has_pairs(figures[name], found.get(name))}
    for rung in dict.fromkeys(_rung(name) for name in ready):
        named = {name: figure for name, figure in ready.items() if _rung(name) == rung}
        alone = {name: _regression(figure, found[name]) for name, figure in named.items()}
        adjusted = holm({name: one.p for name, one in alone.items()})
        few = LEVEL / len(alone)
        compared |= {
            name: replace(one, p=adjusted[name])
            for name, one in alone.items()
            if attainable(one.pairs, few) > 0
        }
    return compared


def _rung(name: str) -> str:
    return name.partition(".")[0]


def _has_pairs(figure: Figure, found: Tracked | None) -> bool:
    if found is None or not figure.scores or figure.ideal is None or not figure.is_of(found):
        return False
    if fmean(_distances(figure.scores, figure)) < SMALLEST:
        return False
    return figure.scores.keys() <= found.scores.keys()


def _regression(figure: Figure, found: Tracked) -> Regression:
    return regression_gate(_distances(found.scores, figure), _distances(figure.scores, figure))


def _distances(scores: Mapping[str, float], figure: Figure) -> list[float]:
    """How far the figure's cases are from its ideal: 1 - SSIM."""
    ideal = figure.ideal or 0.0
    return [abs(scores[case] - ideal) for case in figure.scores]
