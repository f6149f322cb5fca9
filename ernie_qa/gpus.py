"""The GPUs that a process may use, told without torch: that would open a context on one of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible_gpus() -> tuple[str, ...]:
    """Each GPU that this process may use, as one entry of CUDA_VISIBLE_DEVICES; empty where there is none.

    Without a setting by name: CUDA counts the fastest first where NVIDIA's driver counts by slot.
    """
    setting = os.environ.get(VISIBLE)
    names = _names() if setting is None else ()
    return names or within(setting, count())


def within(setting: str | None, present: int) -> tuple[str, ...]:
    """Of so many GPUs that are `present`, those that the `setting` of CUDA_VISIBLE_DEVICES allows.

    As CUDA reads it: without a setting all are, and the first entry that is none (-1, one that is not there)
    hides what follows. An entry is a number, or the name of a GPU or of a part of one (`GPU-...`, `MIG-...`),
    which is taken as it is. One that is given twice counts once.
    """
    if setting is None:
        return tuple(map(str, range(present)))
    found: dict[str, None] = {}
    for entry in (part.strip() for part in setting.split(",")):
        named = entry.startswith(("GPU-", "MIG-"))
        if not named and not (entry.isascii() and entry.isdecimal() and int(entry) < present):
            break
        found[entry if named else str(int(entry))] = None
    return tuple(found)


def count() -> int:
    """How many GPUs NVIDIA's driver knows; 0 where there is none, or nobody to ask."""
    return _asked(lambda pynvml: int(pynvml.nvmlDeviceGetCount())) or 0


def _names() -> tuple[str, ...]:
    """The name (`GPU-...`) of each GPU that NVIDIA's driver knows; empty where it tells none."""

    def names(pynvml: Any) -> tuple[str, ...]:
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return tuple(str(pynvml.nvmlDeviceGetUUID(handle)) for handle in handles)

    return _asked(names) or ()


def model_of(gpu: str) -> str | None:
    """The model of one of `visible_gpus`, as torch names it too; None where it cannot be told."""

    def name(pynvml: Any) -> str:
        number = gpu.isdecimal()
        find = pynvml.nvmlDeviceGetHandleByIndex if number else pynvml.nvmlDeviceGetHandleByUUID
        return str(pynvml.nvmlDeviceGetName(find(int(gpu) if number else gpu)))

    return _asked(name)


def _asked(question: Callable[[Any], T]) -> T | None:
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        return question(pynvml)
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()
