"""What this machine has for the gates, and what should change. Nothing is loaded, drawn or fetched.

`examine` looks at the machine; the functions of `findings` say what the values that it saw amount to.
"""

from __future__ import annotations

import getpass
import importlib.metadata
import math
import os
import platform
import re
import shutil
import subprocess
import sysconfig
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

from ernie_qa import compile_cache
from ernie_qa.doctor import findings
from ernie_qa.doctor.findings import Finding, Gpu, State
from ernie_qa.errors import UnavailableError
from ernie_qa.fidelity.lpips_weights import (
    COMMAND,
    cache_path,
    read_cached,
    read_torchvision,
    torchvision_path,
)
from ernie_qa.fidelity.text.engines import engines
from ernie_qa.fidelity.text.reading import reader
from ernie_qa.fingerprint import PACKAGES, take_fingerprint, version_of
from ernie_qa.meter import require_device, room

if TYPE_CHECKING:
    import torch

    from ernie_qa.fingerprint import Fingerprint

__all__ = ["Finding", "State", "examine"]


def examine(device: str | None = None) -> tuple[Finding, ...]:
    """All findings for gates on `device`: "cpu", "cuda" or "cuda:N"; None is what a gate would choose.

    Imports torch. InputError where `device` is none of these.
    """
    home = re.compile(rf"(?<![\w.-]){re.escape(str(Path.home()))}(?![\w.-])")
    return tuple(
        replace(finding, found=home.sub("~", finding.found), advice=home.sub("~", finding.advice))
        for finding in _look(device)
    )


def _look(asked: str | None) -> Iterator[Finding]:
    yield Finding("python", State.OK, f"{platform.python_version()}, {platform.platform()}")
    declared = _declared()
    names = (*PACKAGES, *(Requirement(text).name for text in declared))
    versions = {name: version_of(name) for name in names}
    yield findings.packages(versions, declared)
    device = asked or "cpu"
    kept: dict[str, str] = {}
    if broken := _broken_torch():
        mend = "Run `pip install --force-reinstall torch torchvision`: every gate needs torch."
        yield Finding("torch", State.MISSING, f"cannot be imported: {broken}", mend)
    else:
        device = asked or _visible_device()
        yield from _look_with_torch(asked, device)
        kept = compile_cache.settings(device)
    yield findings.compilation(device, os.environ, _lacking(os.environ))
    # as a gate would set it
    yield findings.kernel_cache(device, *_kernel_caches({**kept, **os.environ}))
    if version_of("huggingface-hub"):
        from huggingface_hub import constants

        cache = Path(constants.HF_HUB_CACHE).absolute()
        yield findings.hub_cache(cache, constants.HF_HUB_OFFLINE, *room(cache))
    yield findings.allocator(device, os.environ)
    yield findings.disk(Path.cwd(), *room(Path.cwd()))


def _look_with_torch(asked: str | None, device: str) -> Iterator[Finding]:
    import torch

    machine = take_fingerprint("cpu")
    if asked == "cpu":
        yield Finding("device", State.OK, "cpu, as asked")
    else:
        others = _computing_elsewhere()
        try:
            require_device("cuda" if device == "cpu" else device)
        except UnavailableError as error:
            yield findings.no_gpu(str(error), required=device != "cpu")
        else:
            machine = take_fingerprint(device)
            gpu = _gpu(torch.device(device), machine, others)
            yield findings.memory(gpu)
            yield findings.tensor_cores(gpu.capability)
    yield findings.instructions(machine)
    cores = len(os.sched_getaffinity(0))
    limit = cpu_limit(Path("/sys/fs/cgroup"))
    usable = min(cores, max(1, math.ceil(limit))) if limit else cores
    yield findings.threads(machine.threads, usable, os.cpu_count() or cores, os.getloadavg()[0])
    yield _lpips()
    yield _words()


def _declared() -> list[str]:
    """What the installed ernie-qa requires here, without its extras."""
    needs = map(Requirement, importlib.metadata.requires("ernie-qa") or ())
    return [str(need) for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]


def _broken_torch() -> str:
    """Why torch cannot be imported, in a line, or nothing."""
    try:
        import_module("torch")
    except (ImportError, OSError) as error:
        return str(error).strip().partition("\n")[0]
    return ""


def _visible_device() -> str:
    import torch

    # where the driver is too old it warns; the device's own finding says so
    with warnings.catch_warnings(action="ignore"):
        return "cuda" if torch.cuda.is_available() else "cpu"


def _computing_elsewhere() -> list[str]:
    """The GPU of each other process that computes on one, as the driver names it."""
    query = ["nvidia-smi", "--query-compute-apps=pid,gpu_uuid", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = (line.partition(",") for line in found.stdout.splitlines())
    return [gpu.strip() for pid, _, gpu in rows if pid.strip() != str(os.getpid())]


def _gpu(device: torch.device, machine: Fingerprint, others: list[str]) -> Gpu:
    import torch

    free, total = torch.cuda.mem_get_info(device)
    properties = torch.cuda.get_device_properties(device)
    return Gpu(
        name=properties.name,
        driver=machine.driver,
        capability=(properties.major, properties.minor),
        total=total,
        free=free,
        others=sum(gpu.endswith(str(properties.uuid)) for gpu in others),
    )


def cpu_limit(groups: Path) -> float | None:
    """How many cores the control group mounted at `groups` allows; None where it sets no limit."""
    try:
        if (unified := groups / "cpu.max").is_file():
            quota, period = unified.read_text().split()
        else:
            quota, period = (
                (groups / "cpu" / f"cpu.cfs_{part}_us").read_text() for part in ("quota", "period")
            )
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):
        # no such file, or "max"
        return None


def _lpips() -> Finding:
    """Whether the weights of LPIPS are here, found as a gate finds them; they are read and not fetched."""
    path, known = cache_path(), torchvision_path()
    fetching = f"Run `{COMMAND}`"
    try:
        read_cached(path)
        return Finding("lpips", State.OK, f"{path}, verified")
    except UnavailableError:
        pass  # torchvision's will do
    if known.is_file():
        try:
            read_torchvision(known)
            return Finding("lpips", State.OK, f"{known}, verified")
        except UnavailableError:
            mend = f"Delete this file and run `{COMMAND}`: no gate takes other weights."
            return Finding("lpips", State.MISSING, f"{known} is damaged", mend)
    if path.exists():
        mend = f"{fetching} with a network, which replaces them: no gate takes other weights."
        return Finding("lpips", State.MISSING, f"{path} holds other weights, or is damaged", mend)
    mend = f"{fetching} ahead of time: the first gate fetches them, and without a network it cannot."
    return Finding("lpips", State.ADVICE, f"not yet in {path}", mend)


def _words() -> Finding:
    """Whether the engines that read words in pictures are here."""
    found: list[str] = []
    lacking: dict[str, str] = {}
    for engine in engines():
        try:
            found += [version for version in reader([engine]).versions.values() if version not in found]
        except UnavailableError as missing:
            lacking[str(missing).removesuffix(f": {engine.INSTALL}")] = engine.INSTALL
    if not lacking:
        return Finding("words", State.OK, ", ".join(found))
    mend = f"Run `{list(lacking.values())[-1]}`: without it nobody reads the words in pictures."
    return Finding("words", State.ADVICE, "; ".join([*found, *lacking]), mend)


def _lacking(environment: Mapping[str, str]) -> list[str]:
    """What Triton builds its launchers with and does not find, looked for where Triton does."""
    compiler = environment.get("CC") or shutil.which("gcc") or shutil.which("clang")
    headers = Path(sysconfig.get_config_var("INCLUDEPY") or "") / "Python.h"
    return [name for name, found in (("C compiler", compiler), ("Python.h", headers.is_file())) if not found]


def _kernel_caches(environment: Mapping[str, str]) -> tuple[Path, Path]:
    """Where torch's compiler and Triton keep kernels; nothing is created, as torch's own function would."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid_{os.getuid()}"
    inductor = environment.get("TORCHINDUCTOR_CACHE_DIR") or f"{tempfile.gettempdir()}/torchinductor_{user}"
    home = environment.get("TRITON_HOME") or Path.home()
    triton = environment.get("TRITON_CACHE_DIR") or Path(home, ".triton", "cache")
    return Path(inductor).absolute(), Path(triton).absolute()
