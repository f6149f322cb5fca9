"""The transformer's calls with as much again beside them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ernie_qa.changes import change

LONGER = 8
"""Tokens."""


@change("batch-of-two", "the transformer beside a picture of longer words")
def two(pipe: Any) -> Iterator[None]:
    import torch
    from torch.nn.functional import pad

    forward = pipe.transformer.forward

    def doubled(hidden_states: Any, timestep: Any, text_bth: Any, text_lens: Any, **options: Any) -> Any:
        # the other picture's words are longer, and so these are padded
        padded = pad(text_bth, (0, 0, 0, LONGER))
        twice = [torch.cat([one, one]) for one in (hidden_states, timestep, padded)]
        twice.append(torch.cat([text_lens, text_lens + LONGER]))
        given = forward(*twice, **options)
        return tuple(one[: len(hidden_states)] for one in given)

    pipe.transformer.forward = doubled
    try:
        yield
    finally:
        del pipe.transformer.forward
