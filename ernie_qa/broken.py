"""What an arm that breaks off leaves: one line, and nothing in memory."""

from __future__ import annotations

import gc
import traceback
from pathlib import Path

from ernie_qa.redaction import without_secrets


def forget(error: BaseException) -> None:
    """Take the frames from `error` and from all that led to it: whoever keeps it would keep the pipeline
    alive in them, and in the closures of their functions, beside the next one."""
    left, seen = [error], set()
    while left:
        one = left.pop()
        if id(one) not in seen:
            seen.add(id(one))
            traceback.clear_frames(one.__traceback__)
            one.__traceback__ = None
            left += [more for more in (one.__cause__, one.__context__) if more]


def told(error: BaseException) -> str:
    """What a library raised, in one line, and where."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    said = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {without_secrets(said)} ({Path(last.filename).name}, line {last.lineno})"


def release(device: str) -> None:
    """Give back what a dropped pipeline held: modules sit in reference cycles until collected."""
    gc.collect()
    if device != "cpu":
        import torch

        torch.cuda.empty_cache()
