"""The transformer compiled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ernie_qa.changes import change
from ernie_qa.errors import UnavailableError


@change("compiled", "the transformer compiled by torch.compile")
def transformer(pipe: Any) -> Iterator[None]:
    import torch
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    # whoever listens to the transformer stays outside of what is compiled
    pipe.transformer.forward = torch.compile(pipe.transformer.forward)
    try:
        yield
        if not counters["stats"]["unique_graphs"]:
            raise UnavailableError("compiled: torch.compile made no graph of the transformer")
    finally:
        del pipe.transformer.forward
        torch._dynamo.reset()
