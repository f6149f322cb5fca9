"""NVML's Python half is real here; its library, which needs a driver, answers from a table."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import torch

from ernie_qa.frozen import freeze
from ernie_qa.nvml import REASONS, disqualified, watching

CALM: dict[str, Any] = {
    "nvmlDeviceGetClockInfo": 1980,
    "nvmlDeviceGetTemperature": 41,
    "nvmlDeviceGetPowerUsage": 350_000,
    "nvmlDeviceGetEnforcedPowerLimit": 700_000,
    "nvmlDeviceGetCurrentClocksEventReasons": 0x1,
    "nvmlDeviceGetCurrentClocksThrottleReasons": 0x1,
    "nvmlDeviceGetMemoryInfo": 5 * 2**30,
    "nvmlDeviceGetComputeRunningProcesses_v3": [4711],
}
READINGS = {
    "nvmlDeviceGetClockInfo": "sm_clock_mhz",
    "nvmlDeviceGetTemperature": "temperature_c",
    "nvmlDeviceGetPowerUsage": "power_w",
    "nvmlDeviceGetEnforcedPowerLimit": "power_limit_w",
    "nvmlDeviceGetMemoryInfo": "device_used_bytes",
    "nvmlDeviceGetComputeRunningProcesses_v3": "other_processes",
}
ERRORS = {
    pynvml.NVML_ERROR_NOT_SUPPORTED,
    pynvml.NVML_ERROR_NO_PERMISSION,
    pynvml.NVML_ERROR_GPU_IS_LOST,
    pynvml.NVML_ERROR_UNKNOWN,
}


class Library:
    """libnvidia-ml as `answers` has it: what is missing there it does not export. `refusals` are codes that
    calls return."""

    def __init__(self, answers: dict[str, Any], refusals: dict[str, int]) -> None:
        self.answers, self.refusals = answers, refusals
        self.open = 0
        self.asked: list[bytes] = []

    def __getattr__(self, name: str) -> Callable[..., int]:
        if name == "nvmlErrorString":
            raise AttributeError(name)
        known = ("nvmlInitWithFlags", "nvmlShutdown", "nvmlDeviceGetHandleByUUID", *self.answers)
        if name not in known:
            raise AttributeError(name)
        return lambda *given: self.refusals.get(name) or self._answer(name, *given)

    def _answer(self, name: str, *given: Any) -> int:
        if name in ("nvmlInitWithFlags", "nvmlShutdown"):
            self.open += 1 if name == "nvmlInitWithFlags" else -1
        elif name == "nvmlDeviceGetHandleByUUID":
            self.asked.append(given[0].value)
        elif name == "nvmlDeviceGetMemoryInfo":
            given[-1]._obj.used = self.answers[name]
        elif name == "nvmlDeviceGetComputeRunningProcesses_v3":
            return self._processes(*given)
        else:
            given[-1]._obj.value = self.answers[name]
        return pynvml.NVML_SUCCESS

    def _processes(self, handle: Any, count: Any, listed: Any) -> int:
        pids = self.answers["nvmlDeviceGetComputeRunningProcesses_v3"]
        if pids and not listed:
            count._obj.value = len(pids)
            return pynvml.NVML_ERROR_INSUFFICIENT_SIZE
        for row, pid in zip(listed or (), pids, strict=False):
            row.pid = pid
        count._obj.value = len(pids)
        return pynvml.NVML_SUCCESS


Install = Callable[..., Library]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    def install(refusals: dict[str, int] | None = None, /, **answers: Any) -> Library:
        library = Library({**CALM, **answers}, refusals or {})
        monkeypatch.setattr(pynvml, "nvmlLib", library)
        monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
        return library

    known = SimpleNamespace(uuid="6f9d2a3c-0000-1111-2222-333344445555")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: known)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    return install


def seen(device: str = "cuda:0") -> dict[str, Any]:
    with watching(device, period=0.001) as watch:
        pass
    summary = watch.summary()
    freeze(summary)
    json.dumps(summary, allow_nan=False)
    return summary


def test_a_calm_gpu(install: Install) -> None:
    library = install()
    found = seen()
    assert found.pop("samples") >= 1
    assert found.pop("reasons") == dict.fromkeys(REASONS, 0)
    assert found == {
        "sm_clock_mhz": [1980, 1980, 1980],
        "temperature_c": 41,
        "power_w": [350.0, 350.0],
        "power_limit_w": 700.0,
        "device_used_bytes": 5 * 2**30,
        "other_processes": 0,
        "error": None,
    }
    assert set(library.asked) == {b"GPU-6f9d2a3c-0000-1111-2222-333344445555"}
    assert library.open == 0
    assert disqualified(seen("cuda")) is None


def test_samples_come_until_the_end(install: Install) -> None:
    library = install()
    with watching("cuda:0", period=0.001) as watch:
        while len(watch.samples) < 3:
            pass
        library.answers["nvmlDeviceGetClockInfo"] = 1200
        least = watch.summary()["samples"]
        while watch.summary()["samples"] < least + 3:
            pass
    found = watch.summary()
    assert found["sm_clock_mhz"][0] == 1200
    assert found["sm_clock_mhz"][2] == 1980
    assert len(watch.samples) == found["samples"] >= 6


@pytest.mark.parametrize("name", sorted(READINGS))
@pytest.mark.parametrize("code", sorted(ERRORS))
def test_one_reading_that_fails_loses_no_other(install: Install, name: str, code: int) -> None:
    install({name: code})
    found = seen()
    assert found["error"] is None
    assert [reading for reading in found if found[reading] is None and reading != "error"] == [READINGS[name]]


def test_reasons_are_counted_by_name(install: Install) -> None:
    install(nvmlDeviceGetCurrentClocksEventReasons=0x4 | 0x20)
    found = seen()
    assert {name for name, count in found["reasons"].items() if count == found["samples"]} == {
        "sw_power_cap",
        "sw_thermal_slowdown",
    }


def test_the_bits_are_those_of_the_library() -> None:
    assert {
        "applications_clocks_setting": pynvml.nvmlClocksEventReasonApplicationsClocksSetting,
        "sw_power_cap": pynvml.nvmlClocksEventReasonSwPowerCap,
        "hw_slowdown": pynvml.nvmlClocksThrottleReasonHwSlowdown,
        "sync_boost": pynvml.nvmlClocksEventReasonSyncBoost,
        "sw_thermal_slowdown": pynvml.nvmlClocksEventReasonSwThermalSlowdown,
        "hw_thermal_slowdown": pynvml.nvmlClocksThrottleReasonHwThermalSlowdown,
        "hw_power_brake": pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown,
        "display_clock_setting": pynvml.nvmlClocksEventReasonDisplayClockSetting,
    } == REASONS


def test_an_older_driver_knows_the_reasons_by_their_old_name(install: Install) -> None:
    library = install(nvmlDeviceGetCurrentClocksThrottleReasons=0x4)
    del library.answers["nvmlDeviceGetCurrentClocksEventReasons"]
    found = seen()
    assert found["reasons"]["sw_power_cap"] == found["samples"]
    del library.answers["nvmlDeviceGetCurrentClocksThrottleReasons"]
    pynvml._nvmlGetFunctionPointer_cache.clear()
    assert seen()["reasons"] is None


@pytest.mark.parametrize(("listed", "others"), [([], None), ([4711], 0), ([4711, 4712, 4711], 1)])
def test_others_on_the_gpu(install: Install, listed: list[int], others: int | None) -> None:
    install(nvmlDeviceGetComputeRunningProcesses_v3=listed)
    assert seen()["other_processes"] == others


@pytest.mark.parametrize("name", ["nvmlInitWithFlags", "nvmlDeviceGetHandleByUUID"])
@pytest.mark.parametrize("code", sorted(ERRORS))
def test_a_library_that_refuses_ends_nothing(install: Install, name: str, code: int) -> None:
    library = install({name: code})
    found = seen()
    assert found["error"]
    assert found["samples"] == library.open == 0
    assert all(found[reading] is None for reading in READINGS.values())
    assert disqualified(found) is None


def test_a_gpu_about_which_nothing_is_told(install: Install) -> None:
    install(dict.fromkeys(CALM, pynvml.NVML_ERROR_NOT_SUPPORTED))
    assert seen()["error"] == "NVML answers nothing about this GPU"


def test_a_shutdown_that_fails_ends_nothing(install: Install) -> None:
    install({"nvmlShutdown": pynvml.NVML_ERROR_UNKNOWN})
    assert seen()["error"] is None


def test_a_machine_without_the_library(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install()

    def absent(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "CDLL", absent)
    assert "Shared Library Not Found" in seen()["error"]


def test_the_block_may_raise(install: Install) -> None:
    library = install()
    with pytest.raises(ZeroDivisionError), watching("cuda:0"):
        raise ZeroDivisionError
    assert library.open == 0


def test_a_cpu_is_not_looked_at() -> None:
    found = seen("cpu")
    assert found.pop("samples") == 0
    assert set(found.values()) == {None}
    assert disqualified({**found, "samples": 0}) is None


@pytest.mark.parametrize(
    ("mask", "why"),
    [
        (0x40, "the GPU ran too hot, and the hardware slowed it down (hw_thermal_slowdown in "),
        (0x20, "the GPU ran too hot, and the driver slowed it down (sw_thermal_slowdown in "),
        (0x80, "the power supply slowed the GPU down (hw_power_brake in "),
        (0x4 | 0x2 | 0x1, None),
    ],
)
def test_what_makes_times_incomparable(install: Install, mask: int, why: str | None) -> None:
    install(nvmlDeviceGetCurrentClocksEventReasons=mask)
    found = disqualified(seen())
    assert found is None if why is None else (found or "").startswith(why)


def test_another_process_makes_times_incomparable(install: Install) -> None:
    install(nvmlDeviceGetComputeRunningProcesses_v3=[1, 2, 3])
    assert disqualified(seen()) == "2 other processes computed on the GPU"
    install(nvmlDeviceGetComputeRunningProcesses_v3=[1, 2])
    assert disqualified(seen()) == "1 other process computed on the GPU"
