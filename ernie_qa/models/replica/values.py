"""The values of a replica's tensors: the same bytes on every machine, as fast as they can be written."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ernie_qa.models.replica.stored import Stored

POOL = 67_108_859
"""How many random values there are: the largest prime below 2**26. Tensors larger than the pool repeat it; no
width divides a prime, so that none of their rows is another one's copy."""
SEED_LIMIT = 2**128
"""Philox's key."""
CHUNK = 2**23
"""How many values are given at a time."""

_STEP = np.float32(1.0571e-6)
"""Between the 65,536 values that there are: a uniform distribution over them has standard deviation 0.02."""
_BLOCK = 2**20
"""How many values are computed at a time."""


class Values:
    """A pool of random BF16 values, out of which every tensor has a piece of its own.

    Only integer arithmetic, one float32 product each, and a rounding by integers are used, on the raw bits of
    a generator whose stream numpy promises to keep (NEP 19).
    """

    def __init__(self, seed: int, *, chunk: int = CHUNK) -> None:
        self._seed = seed
        self._chunk = chunk
        raw = np.random.Philox(key=seed).random_raw(-(-POOL // 4))
        self._pool = raw.astype("<u8", copy=False).view("<u2")[:POOL]
        for start in range(0, POOL, _BLOCK):
            self._pool[start : start + _BLOCK] = _bf16(self._pool[start : start + _BLOCK])

    def of(self, component: str, tensor: Stored) -> Iterator[np.ndarray[Any, Any]]:
        """The values of `tensor`, as pieces of its bytes in order.

        Matrices and convolutions are random, also those that their class sets to zero, for the output would
        be constant; norms and running variances are one; biases, means and counters zero.
        """
        count = math.prod(tensor.shape)
        role = tensor.name.rpartition(".")[2]
        if tensor.dtype == "I64":
            yield np.zeros(count, "<i8")
        elif len(tensor.shape) > 1:
            yield from self._random(f"{self._seed} {component} {tensor.values}", count)
        else:
            one = role in ("weight", "running_var")
            yield np.full(count, _bits(1.0 if one else 0.0), "<u2")

    def _random(self, name: str, count: int) -> Iterator[np.ndarray[Any, Any]]:
        at = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") % POOL
        while count:
            piece = self._pool[at : at + min(count, self._chunk)]
            yield piece
            count -= len(piece)
            at = (at + len(piece)) % POOL


def _bf16(whole: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """16 random bits each as the bits of a BF16 value in ±0.0346, rounded to nearest, ties to even."""
    centred = whole.astype(np.float32) - np.float32(32767.5)
    bits = (centred * _STEP).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")


def _bits(value: float) -> int:
    return int(np.float32(value).view(np.uint32) >> 16)
