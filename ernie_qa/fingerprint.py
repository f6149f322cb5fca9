"""What a record was made with: the build (packages, driver) and the machine, but no host name and no home."""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from ernie_qa.errors import UnavailableError
from ernie_qa.frozen import Frozen, thaw
from ernie_qa.redaction import kept
from ernie_qa.toml_input import Table

PACKAGES = (
    "ernie-qa",
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "sdnq",
    "bitsandbytes",
    "lpips",
    "torchmetrics",
)
SETTINGS = (
    "ATEN_CPU_CAPABILITY",
    "DNNL_MAX_CPU_ISA",
    "HF_HUB_OFFLINE",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "TORCHDYNAMO_DISABLE",
)
"""The environment settings that are recorded, beside every SDNQ_*."""

_INSTRUCTION_SETTINGS = ("ATEN_CPU_CAPABILITY", "DNNL_MAX_CPU_ISA")
_CPU_FLAGS = ("avx512_bf16", "amx_bf16", "amx_int8")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The build and the machine of one record.

    `packages` maps a distribution to its version, None where it is absent. `instruction_set` is the one torch
    uses, followed by the CPU's BF16 and tile extensions. `threads` are torch's own. `gpu` and what follows it
    are None on a CPU. `settings` holds the environment settings that were set.
    """

    python: str
    platform: str
    packages: Mapping[str, str | None]
    cpu: str
    instruction_set: tuple[str, ...]
    threads: int
    gpu: str | None
    driver: str | None
    cuda: str | None
    compute_capability: str | None
    settings: Mapping[str, str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "packages", Frozen(self.packages))
        object.__setattr__(self, "settings", Frozen(self.settings))
        object.__setattr__(self, "instruction_set", tuple(self.instruction_set))

    def values(self) -> dict[str, Any]:
        """All of it as JSON values, which `read_fingerprint` reads."""
        return {field.name: thaw(getattr(self, field.name)) for field in fields(self)}

    @property
    def machine(self) -> str:
        """The GPU's model, or `cpu`."""
        return self.gpu or "cpu"


def machine_of(device: str) -> str:
    """What baselines call the machine behind `device`: the GPU's model, or `cpu`."""
    if device == "cpu":
        return "cpu"
    import torch

    return torch.cuda.get_device_name(torch.device(device))


def take_fingerprint(device: str) -> Fingerprint:
    """The fingerprint of this process on `device`: `cpu`, `cuda` or `cuda:N`.

    UnavailableError if there is no such GPU.
    """
    import torch

    gpu = driver = cuda = capability = None
    if device != "cpu":
        where = torch.device(device)
        if (
            where.type != "cuda"
            or not torch.cuda.is_available()
            or (where.index or 0) >= torch.cuda.device_count()
        ):
            raise UnavailableError(
                f"no device {device} here: torch sees {torch.cuda.device_count()} CUDA GPUs"
            )
        gpu = torch.cuda.get_device_name(where)
        driver = _driver()
        cuda = torch.version.cuda
        capability = ".".join(map(str, torch.cuda.get_device_capability(where)))
    cpu, flags = _cpu()
    return Fingerprint(
        python=platform.python_version(),
        platform=_platform(),
        packages={name: version_of(name) for name in PACKAGES},
        cpu=cpu,
        instruction_set=(
            torch.backends.cpu.get_cpu_capability(),
            *(flag for flag in _CPU_FLAGS if flag in flags),
        ),
        threads=torch.get_num_threads(),
        gpu=gpu,
        driver=driver,
        cuda=cuda,
        compute_capability=capability,
        settings=_settings(os.environ),
    )


def read_fingerprint(table: Table) -> Fingerprint:
    """The fingerprint as a stored record holds it."""
    packages, settings = table.table("packages"), table.table("settings")
    fingerprint = Fingerprint(
        python=table.text("python"),
        platform=table.text("platform"),
        packages={name: packages.text_or_null(name) for name in packages},
        cpu=table.text("cpu"),
        instruction_set=table.strings("instruction_set"),
        threads=table.integer("threads", minimum=1),
        gpu=table.text_or_null("gpu"),
        driver=table.text_or_null("driver"),
        cuda=table.text_or_null("cuda"),
        compute_capability=table.text_or_null("compute_capability"),
        settings={name: settings.text(name) for name in settings},
    )
    table.finish()
    return fingerprint


def differences(a: Fingerprint, b: Fingerprint) -> tuple[str, ...]:
    """The fields in which `a` and `b` differ, as `packages.torch: 2.11.0 / 2.14.1`, for messages; first those
    that `same_build_and_machine` counts."""
    left, right = _flat(a), _flat(b)
    names = sorted(_differing(a, b), key=_counts, reverse=True)
    return tuple(f"{name}: {_said(left.get(name))} / {_said(right.get(name))}" for name in names)


def same_build_and_machine(a: Fingerprint, b: Fingerprint) -> bool:
    """Whether BF16 must give the same pictures in both.

    Of the settings only those count that choose the CPU's instructions: the others concern the quantized
    arms, memory or downloads. Threads count on a CPU: pictures with four are not those with two
    (docs/baselines.md).
    """
    counted = [name for name in _differing(a, b) if _counts(name)]
    return not counted or (a.gpu is not None and counted == ["threads"])


def _counts(name: str) -> bool:
    return name.removeprefix("settings.") in (name, *_INSTRUCTION_SETTINGS)


def _differing(a: Fingerprint, b: Fingerprint) -> list[str]:
    left, right = _flat(a), _flat(b)
    return [name for name in dict.fromkeys((*left, *right)) if left.get(name) != right.get(name)]


def _flat(fingerprint: Fingerprint) -> dict[str, object]:
    flat: dict[str, object] = {}
    for field in fields(fingerprint):
        value = getattr(fingerprint, field.name)
        if isinstance(value, Mapping):
            flat.update({f"{field.name}.{name}": item for name, item in value.items()})
        else:
            flat[field.name] = value
    return flat


def _said(value: object) -> str:
    if value is None:
        return "none"
    return " ".join(value) if isinstance(value, tuple) else str(value)


def version_of(package: str) -> str | None:
    """The installed version of a distribution, None where it is absent."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _platform() -> str:
    """System, architecture and C library: a kernel's full name may say whose machine it is."""
    return " ".join(filter(None, (platform.system(), platform.machine(), *platform.libc_ver())))


def _cpu() -> tuple[str, frozenset[str]]:
    """The CPU's model and its flags, as Linux names them."""
    said = {"model name": platform.machine(), "flags": ""}
    try:
        for line in Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines():
            name, _, value = line.partition(":")
            said[name.strip()] = value.strip()
    except OSError:
        pass  # not Linux: the architecture has to do
    return said["model name"], frozenset(said["flags"].split())


@cache
def sources() -> str:
    """A hash of this package's code, which is edited without another version where it is developed."""
    found = hashlib.sha256()
    package = Path(__file__).parent
    for file in sorted(package.rglob("*.py")):
        found.update(f"{file.relative_to(package)}\0{file.stat().st_size}\0".encode() + file.read_bytes())
    return found.hexdigest()


@cache
def _driver() -> str | None:
    """The NVIDIA driver's version, which torch does not know; it is asked once a process."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.split("\n")[0].strip() or None


def _settings(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: kept(value)
        for name, value in sorted(environment.items())
        if name in SETTINGS or name.startswith("SDNQ_")
    }
