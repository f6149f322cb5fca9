"""Making a capsule's tensors small enough to ship: first what tells least is left out, and each step is said
in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

from ernie_qa.capsules.container import PUBLISHED, kind_of

if TYPE_CHECKING:
    import torch

Tensors = dict[str, "torch.Tensor"]
Step = tuple[str, Callable[[Tensors], Tensors]]

PE_TOKENS = 16
SIDE = 256
"""Pixels of the middle of a decoded picture."""


def trimmed(tensors: Tensors, most: int) -> tuple[Tensors, tuple[str, ...]]:
    """`tensors`, of at most `most` bytes if that can be reached, and what was left out for it, in words."""
    left_out: list[str] = []
    for said, step in _steps(tensors):
        if size(tensors) <= most:
            break
        smaller = step(tensors)
        if size(smaller) < size(tensors):
            tensors = smaller
            left_out.append(said)
    return tensors, tuple(left_out)


def first_steps(tape: Mapping[str, torch.Tensor]) -> Tensors:
    """A tape with the scheduler's first step alone, and all that it was given: the sigmas say the rest, and
    each step is as large as a picture's latents."""
    found = {}
    for name, tensor in tape.items():
        case, _, what = name.partition("/scheduler/")
        if not what or what in ("sigmas", "timesteps") or what.startswith("0/"):
            found[name] = tensor
        if what == "0/prev":
            given = f"{case}/scheduler/0/model_output"
            found[given] = tape[given if given in tape else f"{case}/transformer/0/prediction"].clone()
    return dict(sorted(found.items()))


def size(tensors: Mapping[str, torch.Tensor]) -> int:
    """Bytes of all of them."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def middle(decoded: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The [.., height, width] middle of [.., H, W]; all of it where it is no larger."""
    top, left = max(decoded.shape[-2] - height, 0) // 2, max(decoded.shape[-1] - width, 0) // 2
    return decoded[..., top : top + height, left : left + width].contiguous()


def _steps(tensors: Mapping[str, torch.Tensor]) -> Iterator[Step]:
    yield f"all but {PE_TOKENS} tokens of the prompt enhancer", _fewer_tokens
    yield f"all but the middle {SIDE} x {SIDE} pixels of what the VAE gives", _smaller_pictures
    yield "what BF16's layers give (their errors are in the figures)", _without_bf16_layers
    yield "what BF16's parts give (their errors are in the figures)", _without_bf16_parts
    for rows in (8, 4, 2):
        yield f"all but {rows} rows of a layer", partial(_fewer_rows, rows=rows)
    cases = [name.split("/")[0] for name in tensors if name.endswith("/scheduler/sigmas")]
    own = list(dict.fromkeys(case for case in cases if case != PUBLISHED.rstrip("/")))
    for case in reversed(own):
        said = f"all but the first, a middle and the last call of the transformer in {case}"
        yield said, partial(_fewer_calls, case=case)
    yield "all but one row of a layer", partial(_fewer_rows, rows=1)
    for case in reversed(own[1:]):
        yield f"the case {case}", partial(_without_case, case=case)


def _fewer_tokens(tensors: Tensors) -> Tensors:
    return {
        name: tensor[-PE_TOKENS:].clone() if name.endswith("/logits") else tensor
        for name, tensor in tensors.items()
    }


def _smaller_pictures(tensors: Tensors) -> Tensors:
    return {
        name: middle(tensor, SIDE, SIDE) if name.endswith("/vae/decoded") else tensor
        for name, tensor in tensors.items()
    }


def _fewer_rows(tensors: Tensors, rows: int) -> Tensors:
    return {
        name: _spread(tensor, rows) if kind_of(name) == "layers" and not name.endswith("/shape") else tensor
        for name, tensor in tensors.items()
    }


def _spread(tensor: torch.Tensor, rows: int) -> torch.Tensor:
    """So many rows out of the inside: a text begins with a token whose few huge values hide all others."""
    count = len(tensor)
    if count <= rows:
        return tensor
    return tensor[[(2 * at + 1) * count // (2 * rows) for at in range(rows)]].clone()


def _without_bf16_layers(tensors: Tensors) -> Tensors:
    return _without(tensors, lambda name: name.startswith("layers/") and name.endswith("/outputs"))


def _without_bf16_parts(tensors: Tensors) -> Tensors:
    """Without what no check compares with; the scheduler's first step is compared with BF16's own."""
    ends = ("/states", "/prediction", "/logits", "/decoded")
    return _without(tensors, lambda name: not name.startswith(PUBLISHED) and name.endswith(ends))


def _without(tensors: Tensors, needless: Callable[[str], bool]) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if not needless(name)}


def _fewer_calls(tensors: Tensors, case: str) -> Tensors:
    prefix = f"{case}/transformer/"
    calls = sorted({int(name.split("/")[2]) for name in tensors if name.startswith(prefix)})
    keep = {calls[0], calls[len(calls) // 2], calls[-1]} if calls else set()
    return {
        name: tensor
        for name, tensor in tensors.items()
        if not name.removeprefix(PUBLISHED).startswith(prefix)
        or int(name.removeprefix(PUBLISHED).split("/")[2]) in keep
    }


def _without_case(tensors: Tensors, case: str) -> Tensors:
    return {
        name: tensor
        for name, tensor in tensors.items()
        if case not in name.removeprefix(PUBLISHED).split("/")[:2] or kind_of(name) in ("layers", "ids")
    }
