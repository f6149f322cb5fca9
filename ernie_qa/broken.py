"""What an arm that breaks off leaves: one line, and nothing in memory."""

from __future__ import annotations

import gc
import re
import traceback
from collections.abc import Iterator
from pathlib import Path

from ernie_qa.redaction import without_secrets

_ON_A_GPU = re.compile(r"CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED")
"""What torch's allocator says, and libraries that allocate past it."""
_IN_MAIN = re.compile(r"[Cc]an(?:'t|not) allocate memory|not enough memory: you tried to allocate")
"""What torch's allocator for the CPU says, and the system of ENOMEM, whichever library passes it on."""

KEPT = 128 * 2**20
"""Bytes that libraries may keep on a GPU for as long as the process lives: chosen. BF16 of the full size
peaks at 31,873 MiB (docs/h100.md), of which this is 0.4 %."""


def ran_out(error: BaseException, said: str = "") -> tuple[str, str] | None:
    """Of which memory there was not enough, "GPU" or "main", and who said so in one line; None where `error`,
    what led to it, and what a library `said` beside it are about something else."""
    for one in (error, *_led_to(error)):
        text = str(one)
        if type(one).__name__ == "OutOfMemoryError" or _ON_A_GPU.search(text):
            return "GPU", _line(text)
        if isinstance(one, MemoryError) or _IN_MAIN.search(text):
            return "main", _line(text) or type(one).__name__
    if _ON_A_GPU.search(said):
        return "GPU", said
    return ("main", said) if _IN_MAIN.search(said) else None


def _led_to(error: BaseException) -> Iterator[BaseException]:
    left, seen = [error.__cause__, error.__context__], {id(error)}
    while left:
        one = left.pop(0)
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            left += [one.__cause__, one.__context__]
            yield one


def _line(text: str) -> str:
    """The line of `text` that says so, else its first."""
    lines = text.strip().splitlines()
    return next((one for one in lines if _ON_A_GPU.search(one) or _IN_MAIN.search(one)), "".join(lines[:1]))


def forget(error: BaseException) -> None:
    """Take the frames from `error` and from all that led to it: whoever keeps it would keep the pipeline
    alive in them, and in the closures of their functions, beside the next one."""
    for one in (error, *_led_to(error)):
        traceback.clear_frames(one.__traceback__)
        one.__traceback__ = None


def told(error: BaseException) -> str:
    """What a library raised, in one line, and where."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    said = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {without_secrets(said)} ({Path(last.filename).name}, line {last.lineno})"


def held(device: str) -> int:
    """Bytes on a GPU that torch's allocator has given out and not got back; 0 on a CPU, which nobody asks."""
    if device == "cpu":
        return 0
    import torch

    return torch.cuda.memory_allocated(device)


def release(device: str) -> None:
    """Give back what a dropped pipeline held: modules sit in reference cycles until collected."""
    gc.collect()
    if device != "cpu":
        import torch

        torch.cuda.empty_cache()


def settle() -> None:
    """Leave out of later collections what is in memory now: half a million objects that imports made, through
    which each collection would walk. What becomes garbage of them later stays, so this is for a process of
    one's own, once no pipeline is left in it."""
    gc.collect()
    gc.freeze()
