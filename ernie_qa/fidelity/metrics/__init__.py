"""Picture metrics, a file each; found here by discovery.

A metric is a module with

    NAME          what figures, limits and checks call it: `lpips` is judged as images.lpips_mean
    UNIT          the unit of a score, empty where it has none
    BETTER        "lower" or "higher"
    IDEAL         the score of identical pictures, None where that is infinite
    NOISE         "mean" and "worst" -> the change of a suite's score that means nothing: twice what was
                  measured where nothing that matters had changed (docs/baselines.md); None where there is no
                  IDEAL, and then no baseline holds the metric
    DEFINITION    one line with every parameter: a score without them means nothing
    score(reference, candidate, device)
                  one float a pair of pictures, `inf` allowed, NaN not

A new metric is a new file here and nothing else. Heavy imports belong inside `score`: judging reads the
constants without torch.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Literal, Protocol, cast

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Pixels = NDArray[np.uint8]


class Metric(Protocol):
    """What a metric module offers."""

    NAME: str
    UNIT: str
    BETTER: Literal["lower", "higher"]
    IDEAL: float | None
    NOISE: Mapping[str, float] | None
    DEFINITION: str

    def score(self, reference: Sequence[Pixels], candidate: Sequence[Pixels], device: str) -> list[float]:
        """Score each pair of uint8 [H, W, 3] pictures; the two of a pair are of one size."""
        ...


@cache
def metrics() -> tuple[Metric, ...]:
    """All metrics, sorted by name."""
    found = (import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
    return tuple(sorted((cast("Metric", module) for module in found), key=lambda metric: metric.NAME))


def paired(
    reference: Sequence[Pixels], candidate: Sequence[Pixels], device: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each pair as two float64 [1, 3, H, W] tensors in 0..255 on `device`.

    One pair at a time, not a batch: a score then depends on nothing but its two pictures, and memory on
    one picture's size. ValueError where the two are not uint8 [H, W, 3] of one size: broadcasting would
    score them without a word.
    """
    import torch

    for first, second in zip(reference, candidate, strict=True):
        for picture in (first, second):
            if picture.dtype != "uint8" or picture.ndim != 3 or picture.shape[2] != 3:
                raise ValueError(f"a picture is {picture.dtype} {picture.shape}; it must be uint8 [H, W, 3]")
        if first.shape != second.shape:
            raise ValueError(f"a pair differs in size: {first.shape} and {second.shape}")
        one, other = (
            torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].to(device=device, dtype=torch.float64)
            for picture in (first, second)
        )
        yield one, other
