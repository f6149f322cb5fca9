"""How a quantized layer's weight differs from the one that its quantizer makes of BF16's, and whether that is
rounding. Figures on tensors, and faults of figures; the latter need no torch.

`live` is the layer's weight [out, in], `fresh` what quantizing `bf16` afresh makes. The same code on the same
device makes the same; another device, another release or an artifact's rounding of its scales to BF16 do not,
so each bound is what such rounding does not reach, and none is a share of an error that was measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

GAIN = 0.005
"""How far a layer's gain may be from its fresh one's. A scale that is rounded to BF16 is off by up to 0.4 %,
up as often as down: over the scales of a layer that averages out."""
SPREAD = 0.01
"""How far the slope of a layer's scales over its fresh ones may be from 1, or else `SIGMAS` of its standard
errors where those are more: that of scales which hardly differ tells nothing."""
SIGMAS = 4.0
ERROR = 2.0
"""At most how many times the error of its fresh one a row's may be: twice is one bit of precision lost."""
ROUNDED = 2.0**-9
"""BF16's own relative error: a row that is quantized better than that is compared with that."""

_GOLDEN, _MIX = 0x1E3779B97F4A7C15, (0x3F58476D1CE4E5B9, 0x14D049BB133111EB)
"""SplitMix64's odd constants, each without its first bit, for which an int64 has no room."""
_AT_ONCE, _IN_CACHE = 1 << 24, 1 << 18
"""Values mixed together, at up to 24 bytes each: on a GPU 0.4 GB, on a CPU what its cache holds, which
takes a quarter of the time."""

UNKNOWN: Mapping[str, Any] = {"gain": None, "spread": None, "sigma": None, "error": None, "row": 0}
"""`weight_figures` of a layer that has none."""


def weight_figures(live: Tensor, fresh: Tensor, bf16: Tensor, group: int) -> dict[str, Any]:
    """Of three [out, in] weights, the first two float32. `group` weights in a row's order share a scale; all
    of a row where that is not positive or does not divide them.

    gain     <live, bf16> / <fresh, bf16> - 1
    spread   least-squares slope of the groups' largest magnitudes over the fresh ones' - 1, both around their
             means; 0 where these are all alike
    sigma    the standard error of that slope
    error    |live - bf16| / |fresh - bf16| of the `row` where it is largest, the latter at least a tenth of
             the layer's mean, and `ROUNDED` of the row

    None for a number that is not finite.
    """
    import torch

    if live.shape != bf16.shape or fresh.shape != bf16.shape:
        return dict(UNKNOWN)
    wide = bf16.float()
    scale = _dot(fresh, wide)
    gain = _dot(live, wide) / scale - 1 if scale else 0.0
    apart, due = ((one - wide).norm(dim=1).double() for one in (live, fresh))
    due = due.clamp(min=float(due.square().mean().sqrt()) / 10).maximum(ROUNDED * wide.norm(dim=1).double())
    # nothing is due of nothing
    ratio = torch.where(apart == 0, 0.0, apart / due).nan_to_num(nan=math.inf)
    row = int(ratio.argmax())
    width = group if group > 0 and wide.numel() % group == 0 else wide.shape[1]
    ours, theirs = (one.reshape(-1, width).abs().amax(dim=1).double() for one in (live, fresh))
    slope, sigma = _slope(ours - ours.mean(), theirs - theirs.mean())
    found = {"gain": gain, "spread": slope - 1, "sigma": sigma, "error": float(ratio[row])}
    return {key: value if math.isfinite(value) else None for key, value in found.items()} | {"row": row}


def _slope(ours: Tensor, theirs: Tensor) -> tuple[float, float]:
    size = float(theirs.square().sum())
    if not size or len(theirs) < 3:
        return 1.0, 0.0
    slope = float(ours @ theirs) / size
    left = float((ours - slope * theirs).square().sum()) / (len(theirs) - 2)
    return slope, math.sqrt(left / size)


def _dot(one: Tensor, other: Tensor) -> float:
    # by rows, whose sums are short, and then exactly: 50 million products in float32 lose what is looked for
    return float((one * other).sum(dim=1).double().sum())


def sum_of_bits(tensors: Iterable[Tensor], device: torch.device) -> str:
    """Sixteen hex digits for the values of tensors of any shape and dtype, one after the other; on that
    device: others where one bit, or the place of two values, differs, but for one in 2^64. Shapes and dtypes
    are not in it.

    The sum modulo 2^64 of each eight bytes and their place, mixed as in SplitMix64 (Steele, Lea and Flood,
    "Fast splittable pseudorandom number generators", 2014). It is no safeguard against somebody who means to.
    """
    import torch

    total = torch.zeros((), dtype=torch.int64, device=device)
    at = 0
    for words in _words(tensors, device):
        words += torch.arange(at, at + len(words), device=device).mul_(_GOLDEN)
        at += len(words)
        total += _mixed(words).sum()
    # waited for once: a GPU is asked for thousands of layers' tensors
    return f"{int(total) % 2**64:016x}"


def _words(tensors: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
    """The bytes of all tensors, copied to int64 of so many at once, the last ones filled up with zeros."""
    import torch

    room = left = 8 * (_IN_CACHE if device.type == "cpu" else _AT_ONCE)
    pieces: list[Tensor] = []
    for tensor in tensors:
        whole = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        while len(whole):
            pieces.append(whole[:left].to(device))
            whole, left = whole[left:], left - len(pieces[-1])
            if not left:
                yield torch.cat(pieces).view(torch.int64)
                pieces, left = [], room
    if pieces:
        pieces.append(torch.zeros(left % 8, dtype=torch.uint8, device=device))
        yield torch.cat(pieces).view(torch.int64)


def _mixed(values: Tensor) -> Tensor:
    """SplitMix64's mixing of int64 values, one to one and in their place. An int64 wraps around as its
    uint64 does, but its shift brings the sign along, which is taken off."""
    values *= _MIX[0]
    values ^= (values >> 30).bitwise_and_(2**34 - 1)
    values *= _MIX[1]
    values ^= (values >> 27).bitwise_and_(2**37 - 1)
    return values


def misfits(layers: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[float, str, str]]:
    """The layers -> `weight_figures` with a figure that is beyond its bound: how many times the bound it is,
    the layer, and what is wrong, in words."""
    for name, found in layers.items():
        gain, spread, sigma, error = (found[key] for key in ("gain", "spread", "sigma", "error"))
        if None in (gain, spread, sigma, error):
            yield math.inf, name, "not finite, or its parts do not fit together"
        elif error > ERROR:
            yield (
                error / ERROR,
                name,
                f"the error of row {found['row']} is {error:.3g} times what it ought to be",
            )
        elif abs(gain) > GAIN:
            yield abs(gain) / GAIN, name, f"{gain:+.2%} too strong"
        elif abs(spread) > max(SPREAD, SIGMAS * sigma):
            yield abs(spread) / SPREAD, name, f"its scales spread by {spread:+.2%} too much"
