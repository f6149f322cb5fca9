"""Fewer instructions, other threads, another GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from ernie_qa.changes import change, process


def _not_a_cpu(device: str) -> str | None:
    return "the work is the GPU's" if device.startswith("cuda") else None


def _no_more_than_avx2(device: str) -> str | None:
    import torch

    if not (why := _not_a_cpu(device)) and not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        why = "torch uses no more than AVX2 here"
    return why


@process("avx2", "no instructions beyond AVX2", unless=_no_more_than_avx2)
def avx2() -> Mapping[str, str]:
    return {"ATEN_CPU_CAPABILITY": "avx2", "DNNL_MAX_CPU_ISA": "AVX2"}


@change("threads", "another number of threads", unless=_not_a_cpu)
def threads(pipe: Any) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2 if before == 1 else 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _one_gpu(device: str) -> str | None:
    if not device.startswith("cuda"):
        return "needs two GPUs"
    import torch

    if device not in ("cuda", "cuda:0"):
        return "the other GPU is compared with the first: pass --device cuda:0"
    return None if torch.cuda.device_count() > 1 else "there is one GPU here"


@process("another-gpu", "another GPU of this machine", unless=_one_gpu)
def another_gpu() -> Mapping[str, str]:
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "0,1").split(",")
    return {"CUDA_VISIBLE_DEVICES": seen[1].strip()}
