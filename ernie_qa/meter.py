"""Clocks, memory windows, and what is free."""

from __future__ import annotations

import gc
import os
import re
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


class Stopwatch:
    """How long calls took on a device, by name, without making it wait: CUDA's own events are asked at the
    end; on a CPU the process's clock."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._running: dict[str, Any] = {}
        self._spans: list[tuple[str, Any, Any]] = []
        self.calls: Counter[str] = Counter()

    def start(self, name: str) -> None:
        """A call of `name` begins."""
        self._running[name] = self._mark()

    def stop(self, name: str) -> None:
        """The call of `name` that began last ends."""
        self._spans.append((name, self._running.pop(name), self._mark()))
        self.calls[name] += 1

    def seconds(self) -> dict[str, float]:
        """What all calls of each name took together. The device must have been waited for, see `now`."""
        total: dict[str, float] = {}
        for name, start, stop in self._spans:
            # CUDA counts milliseconds
            took = start.elapsed_time(stop) / 1000 if self._device.type == "cuda" else stop - start
            total[name] = total.get(name, 0.0) + took
        return total

    def _mark(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        import torch

        event: Any = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event


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
    """Bytes of memory at their highest since they were last reset.

    On a GPU what torch `allocated` and `reserved`, and what the driver counts as used by whoever is on it
    (`driver`, now: torch keeps what it reserved). On a CPU the whole process's `resident` set since it
    started, for the system keeps no other.
    """
    if device.type == "cuda":
        import torch

        free, total = torch.cuda.mem_get_info(device)
        return {
            "allocated": torch.cuda.max_memory_allocated(device),
            "reserved": torch.cuda.max_memory_reserved(device),
            "driver": total - free,
            "resident": None,
        }
    return {"allocated": None, "reserved": None, "driver": None, "resident": peak_resident()}


def peak_resident() -> int:
    """Bytes of main memory that the process held at most since it started, pages of mapped files included."""
    import resource

    # Linux counts in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def physical(device: torch.device) -> int | None:
    """Bytes of memory that a GPU has; None for a CPU."""
    if device.type != "cuda":
        return None
    import torch

    return torch.cuda.mem_get_info(device)[1]


def available(device: torch.device) -> int:
    """Bytes of memory that can still be had: the GPU's own free ones, or on a CPU the machine's, without what
    would be swapped, and no more than the control group allows."""
    if device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0]
    rows = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(rows["MemAvailable"].split()[0]) * 1024
    return min(free, memory_limit(Path("/sys/fs/cgroup")) or free)


def memory_limit(groups: Path) -> int | None:
    """Bytes that the control group mounted at `groups` may hold; None where it sets no limit."""
    for limit in (groups / "memory.max", groups / "memory" / "memory.limit_in_bytes"):
        if limit.is_file():
            # "max" where there is none
            said = limit.read_text().strip()
            return int(said) if said.isdigit() else None
    return None


def room(path: Path) -> tuple[int, bool]:
    """Bytes free on the disk of `path`, and whether it can be written, or made where it is not there."""
    there = next(place for place in (path, *path.parents) if place.exists())
    return shutil.disk_usage(there).free, os.access(there, os.W_OK)
