"""Other attention kernels. Where a call cannot be done by the one that is preferred, the next does it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ernie_qa.changes import change, on_a_gpu


def _prefer(name: str) -> Any:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    first = getattr(SDPBackend, name)
    others = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    return sdpa_kernel([first, *(one for one in others if one is not first)], set_priority=True)


@change("math-attention", "attention by the math kernel")
def math(pipe: Any) -> Iterator[None]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):
        yield


@change("flash-attention", "attention by the flash kernel, where it can", unless=on_a_gpu)
def flash(pipe: Any) -> Iterator[None]:
    with _prefer("FLASH_ATTENTION"):
        yield


@change("efficient-attention", "attention by the memory-efficient kernel, where it can", unless=on_a_gpu)
def efficient(pipe: Any) -> Iterator[None]:
    with _prefer("EFFICIENT_ATTENTION"):
        yield


@change("cudnn-attention", "attention by cuDNN, where it can", unless=on_a_gpu)
def cudnn(pipe: Any) -> Iterator[None]:
    with _prefer("CUDNN_ATTENTION"):
        yield


@change("eager-attention", "attention of the language models without a kernel of its own")
def eager(pipe: Any) -> Iterator[None]:
    found = {
        one: one.config._attn_implementation for one in (pipe.text_encoder, getattr(pipe, "pe", None)) if one
    }
    for model in found:
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        for model, before in found.items():
            model.set_attn_implementation(before)
