"""How far two outputs of one part are apart, when both were fed the same. Pure functions on tensors.

All of them compute in float64, on the device of `bf16`; what is not finite on either side gives `inf` for an
error and -1 for an agreement, the worst there is.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def relative_l2(ours: Tensor, bf16: Tensor) -> float:
    """|ours - bf16| / |bf16|, Euclidean norms over all values of two tensors of one shape: 0 and up.

    0 where the two are equal, also where both are zero throughout.
    """
    one, other = _double(ours, bf16)
    apart, size = float((one - other).norm()), float(other.norm())
    if apart == 0:
        return 0.0
    share = apart / size if size else math.inf
    return share if math.isfinite(share) else math.inf


def cosine(ours: Tensor, bf16: Tensor) -> float:
    """The cosine of the angle between the two as vectors, -1 to 1; 1 where they are equal."""
    one, other = _double(ours, bf16)
    return _cosines(one.reshape(1, -1), other.reshape(1, -1))[0]


def tokens(ours: Tensor, bf16: Tensor) -> tuple[list[float], list[float]]:
    """`relative_l2` and `cosine` of each row of two [tokens, width] tensors."""
    one, other = _double(ours, bf16)
    errors = [relative_l2(*pair) for pair in zip(one, other, strict=True)]
    return errors, _cosines(one, other)


def divergence(ours: Tensor, bf16: Tensor) -> tuple[list[float], list[bool]]:
    """Of two [tokens, vocabulary] tensors of logits, for each token: the Kullback-Leibler divergence of our
    distribution from BF16's, sum p ln(p / q) with p BF16's, in nats, 0 and up; and whether the likeliest next
    token is the same.
    """
    import torch

    found: list[float] = []
    for one, other in zip(ours, bf16, strict=True):
        q, p = (torch.log_softmax(row, -1) for row in _double(one, other))
        nats = float((p.exp() * (p - q)).sum())
        # rounding alone makes it negative
        found.append(max(nats, 0.0) if math.isfinite(nats) else math.inf)
    same = ours.to(bf16.device).argmax(-1) == bf16.argmax(-1)
    return found, [bool(one) for one in same]


def gain(ours: Tensor, bf16: Tensor) -> float:
    """The factor by which `ours` is `bf16` and noise that does not go with it: <ours, bf16> / <bf16, bf16>,
    1 for equal ones. Noise of quantization averages out in it; a scale that is off does not.
    """
    one, other = (value.reshape(-1) for value in _double(ours, bf16))
    size = float(other @ other)
    factor = float(one @ other) / size if size else 1.0
    return factor if math.isfinite(factor) else math.inf


def _double(ours: Tensor, bf16: Tensor) -> tuple[Tensor, Tensor]:
    if ours.shape != bf16.shape:
        raise ValueError(f"{tuple(ours.shape)} and {tuple(bf16.shape)} are not of one shape")
    other = bf16.detach().double()
    return ours.detach().to(other.device).double(), other


def _cosines(ours: Tensor, bf16: Tensor) -> list[float]:
    found = []
    for one, other in zip(ours, bf16, strict=True):
        sizes = float(one.norm() * other.norm())
        value = float(one @ other) / sizes if sizes else float(bool((one == other).all()))
        found.append(min(1.0, max(-1.0, value)) if math.isfinite(value) else -1.0)
    return found
