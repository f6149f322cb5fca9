"""A GPU's clocks and health while something is timed, as NVIDIA's management library tells them.

That library counts GPUs without regard to CUDA_VISIBLE_DEVICES, so the one that torch means is found by its
UUID. In a container it names processes by their numbers outside, or names none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

REASONS = {
    "applications_clocks_setting": 0x2,
    "sw_power_cap": 0x4,
    "hw_slowdown": 0x8,
    "sync_boost": 0x10,
    "sw_thermal_slowdown": 0x20,
    "hw_thermal_slowdown": 0x40,
    "hw_power_brake": 0x80,
    "display_clock_setting": 0x100,
}
"""Why a GPU's clocks are not at their highest: bits of nvmlClocksEventReasons in nvml.h, without idleness."""

DISQUALIFYING = {
    "hw_thermal_slowdown": "the GPU ran too hot, and the hardware slowed it down",
    "sw_thermal_slowdown": "the GPU ran too hot, and the driver slowed it down",
    "hw_power_brake": "the power supply slowed the GPU down",
    "hw_slowdown": "the hardware at least halved the GPU's clocks",
}
"""The reasons under which times cannot be compared. A power cap by the driver is no such reason: a GPU that
works hard may always run under it."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a GPU: MHz, degrees Celsius, watts, a mask of `REASONS`, bytes that all processes use, how
    many others compute there. None is what could not be read, or for `others` not be told."""

    sm_clock: int | None
    temperature: int | None
    power: float | None
    reasons: int | None
    used: int | None
    others: int | None


class Watch:
    """What was seen since `watching` began."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.power_limit: float | None = None
        self.error: str | None = None

    def summary(self) -> dict[str, Any]:
        """JSON values: `samples`, how many; `sm_clock_mhz`, least, median, most; `temperature_c`, the most;
        `power_w`, median and most; `power_limit_w`; `reasons`, in how many samples each of `REASONS` held;
        `device_used_bytes`, the most that all processes used; `other_processes`, the most that computed there
        beside this one; `error`, why nothing could be read.

        None is what could not be read: all of it on a CPU, without an error.
        """
        clocks, power = self._read("sm_clock"), self._read("power")
        reasons = self._read("reasons")
        return {
            "samples": len(self.samples),
            "sm_clock_mhz": [min(clocks), median(clocks), max(clocks)] if clocks else None,
            "temperature_c": max(self._read("temperature"), default=None),
            "power_w": [median(power), max(power)] if power else None,
            "power_limit_w": self.power_limit,
            "reasons": {name: sum(bool(mask & bit) for mask in reasons) for name, bit in REASONS.items()}
            if reasons
            else None,
            "device_used_bytes": max(self._read("used"), default=None),
            "other_processes": max(self._read("others"), default=None),
            "error": self.error,
        }

    def _read(self, field: str) -> list[Any]:
        values = (getattr(sample, field) for sample in tuple(self.samples))
        return [value for value in values if value is not None]


def joined(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One summary of several windows: the extremes of all, sums of samples, and of medians the
    median; an error where nothing was read in any of them."""

    def read(key: str) -> list[Any]:
        return [one[key] for one in summaries if one[key] is not None]

    clocks, power, reasons = read("sm_clock_mhz"), read("power_w"), read("reasons")
    return {
        "samples": sum(read("samples")),
        "sm_clock_mhz": [
            min(one[0] for one in clocks),
            median(one[1] for one in clocks),
            max(one[2] for one in clocks),
        ]
        if clocks
        else None,
        "temperature_c": max(read("temperature_c"), default=None),
        "power_w": [median(one[0] for one in power), max(one[1] for one in power)] if power else None,
        "power_limit_w": min(read("power_limit_w"), default=None),
        "reasons": {name: sum(one[name] for one in reasons) for name in REASONS} if reasons else None,
        "device_used_bytes": max(read("device_used_bytes"), default=None),
        "other_processes": max(read("other_processes"), default=None),
        "error": None if any(read("samples")) else next(iter(read("error")), None),
    }


@contextmanager
def watching(device: torch.device | str, period: float = 1.0) -> Iterator[Watch]:
    """Look at the GPU `device` at once and then every `period` seconds, in a thread, until the block ends.

    On a CPU nothing is looked at. Where the library is missing or refuses, the summary says so; nothing is
    raised.
    """
    import torch

    watch = Watch()
    place = torch.device(device)
    if place.type != "cuda":
        yield watch
        return
    try:
        import pynvml

        pynvml.nvmlInit()
    except ImportError as problem:
        watch.error = f"nvidia-ml-py cannot be imported: {problem}"
        yield watch
        return
    except pynvml.NVMLError as problem:
        watch.error = f"NVML: {problem}"
        yield watch
        return
    thread, done = None, threading.Event()
    try:
        index = torch.cuda.current_device() if place.index is None else place.index
        try:
            handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(index).uuid}")
        except pynvml.NVMLError as problem:
            watch.error = f"NVML does not know the GPU {place}: {problem}"
        else:
            watch.power_limit = _watts(lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle))
            thread = threading.Thread(
                target=_watch, args=(watch, handle, period, done), name="ernie_qa-nvml", daemon=True
            )
            thread.start()
        yield watch
    finally:
        done.set()
        if thread:
            thread.join()
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _watch(watch: Watch, handle: Any, period: float, done: threading.Event) -> None:
    while True:
        seen = _look(handle)
        if seen == Sample(None, None, None, None, None, None):
            watch.error = watch.error or "NVML answers nothing about this GPU"
        else:
            watch.error = None
            watch.samples.append(seen)
        if done.wait(period):
            return


def _look(handle: Any) -> Sample:
    import pynvml

    return Sample(
        sm_clock=_ask(lambda: int(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM))),
        temperature=_ask(lambda: int(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))),
        power=_watts(lambda: pynvml.nvmlDeviceGetPowerUsage(handle)),
        reasons=_reasons(handle),
        used=_ask(lambda: int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)),
        others=_ask(
            lambda: _others([one.pid for one in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)])
        ),
    )


def _reasons(handle: Any) -> int | None:
    import pynvml

    reasons = _ask(lambda: int(pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle)))
    if reasons is None:
        # an older driver knows the old name alone
        reasons = _ask(lambda: int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)))
    return reasons


def _others(listed: list[int]) -> int | None:
    """How many of the processes `listed` are not this one, which computes there as well.

    It is one of them, if by a foreign number as in a container. None where none is listed: the list is
    hidden from here.
    """
    return len(set(listed)) - 1 if listed else None


def _ask(reading: Callable[[], T]) -> T | None:
    """One reading; None where this GPU or its driver does not tell."""
    import pynvml

    try:
        return reading()
    except pynvml.NVMLError:
        return None


def _watts(reading: Callable[[], int]) -> float | None:
    """A reading in milliwatts as watts."""
    found = _ask(reading)
    return None if found is None else found / 1000


def disqualified(summary: Mapping[str, Any]) -> str | None:
    """Why times taken in that window cannot be compared; None where nothing is known to speak against it.

    What could not be read disqualifies nothing: the summary says that it is unknown.
    """
    for name, why in DISQUALIFYING.items():
        if seen := (summary["reasons"] or {}).get(name, 0):
            return f"{why} ({name} in {seen} of {summary['samples']} samples)"
    if beside := summary["other_processes"]:
        return f"{beside} other {'process' if beside == 1 else 'processes'} computed on the GPU"
    return None
