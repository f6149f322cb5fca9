"""Clocks and memory windows."""

from __future__ import annotations

import gc
import re
import time
from typing import TYPE_CHECKING

from ernie_qa.errors import InputError, UnavailableError

if TYPE_CHECKING:
    import torch


def require_device(device: str) -> None:
    """InputError where `device` is not "cpu", "cuda" or "cuda:N"; UnavailableError, with the reason, where it
    cannot compute."""
    if device == "cpu":
        return
    if not re.fullmatch(r"cuda(:\d{1,3})?", device):
        raise InputError(f"no device {device!r}: allowed are cpu, cuda and cuda:N")
    import torch

    if not torch.version.cuda:
        raise UnavailableError(f"no usable GPU: torch {torch.__version__} was built without CUDA")
    try:
        torch.ones(8, device=device).sum().item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UnavailableError(f"no usable GPU: {reason}") from error


def now(device: torch.device) -> float:
    """Seconds on a monotonic clock, with nothing still running on `device`."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
    return time.perf_counter()


def open_window(device: torch.device) -> None:
    """Begin a clean memory window: nothing left to collect, no cached blocks, peaks at what is in use."""
    gc.collect()
    if device.type == "cuda":
        import torch

        torch.cuda.empty_cache()
    reset_peaks(device)


def reset_peaks(device: torch.device) -> None:
    """Count peaks from here on, from what is in use; cached blocks stay, as between two pictures."""
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)


def peaks(device: torch.device) -> dict[str, int | None]:
    """Peak bytes since they were last reset: torch's own on a GPU; on a CPU the whole process's resident
    set since it started, for the system keeps no other."""
    if device.type == "cuda":
        import torch

        return {
            "allocated": torch.cuda.max_memory_allocated(device),
            "reserved": torch.cuda.max_memory_reserved(device),
            "resident": None,
        }
    import resource

    # Linux counts in KiB
    return {
        "allocated": None,
        "reserved": None,
        "resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
