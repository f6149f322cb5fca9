"""What plain values amount to: each function judges one thing that `examine` saw."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from packaging.requirements import Requirement

from ernie_qa.allocator import REMEDY, VARIABLES, runaway
from ernie_qa.fingerprint import PACKAGES, Fingerprint

GIB = 2**30
BF16_CAPABILITY = (8, 0)
INT8_CAPABILITY = (7, 5)
"""The compute capabilities from which on there are tensor cores for BF16, and for int8."""

OWN_CONTEXT = 2 * GIB
"""More than a CUDA context and a few small tensors take."""
TIMES = {"AVX512-BF16": "30 s", "AVX2 alone": "4 min 54 s"}
"""What `pytest -m mini` takes on two cores, by the instructions that torch may use (torch 2.14.1, README)."""
_TIMES = " and ".join(f"{time} on two cores with {name}" for name, time in TIMES.items())
_NO_CAP = {"ATEN_CPU_CAPABILITY": ("",), "DNNL_MAX_CPU_ISA": ("", "ALL", "DEFAULT")}
"""What leaves torch, and oneDNN, all instructions; for torch "default" is the least of all."""
_SDNQ_OFF = ("0", "false", "no")
_VANISHING = (Path("/tmp"), Path("/dev/shm"), Path("/run"))


class State(StrEnum):
    """What a finding amounts to."""

    OK = "ok"
    ADVICE = "advice"
    """It works, and should change."""
    MISSING = "missing"
    """A gate cannot run here, or would refuse to."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `advice` is one sentence, what to do and why; empty where all is well."""

    topic: str
    state: State
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU that computes. `total` and `free` are bytes, this process's own context counted as used; `others`
    is how many other processes compute on it, as far as the driver tells."""

    name: str
    driver: str | None
    capability: tuple[int, int]
    total: int
    free: int
    others: int


def packages(versions: Mapping[str, str | None], declared: Sequence[str]) -> Finding:
    """`versions` maps each package, those that `declared` requires among them, to its version or None."""
    wrong = {
        need.name: need
        for need in map(Requirement, declared)
        if (found := versions[need.name]) is None or not need.specifier.contains(found, prereleases=True)
    }
    told = ", ".join(
        f"{name} {versions[name] or 'absent'}"
        + (f" (needs {wrong[name].specifier or 'any'})" if name in wrong else "")
        for name in dict.fromkeys((*PACKAGES, *wrong))
    )
    if not wrong:
        return Finding("packages", State.OK, told)
    needs = " ".join(f"'{need}'" for need in wrong.values())
    return Finding("packages", State.MISSING, told, f"Run `pip install {needs}`: ernie_qa needs them.")


def no_gpu(reason: str, required: bool) -> Finding:
    """`reason` is why no GPU can be used; `required` whether gates would run on one all the same."""
    if not required:
        enough = "a CPU is enough for mini, a full-size model needs a GPU"
        return Finding("device", State.OK, f"cpu, {reason.partition('. ')[0]}; {enough}")
    mend = "Make `nvidia-smi` list a GPU that this torch supports"
    if "without CUDA" in reason:
        mend = "Install a torch that was built with CUDA"
    return Finding("device", State.MISSING, reason, f"{mend}, or gate on the CPU with `--device cpu`.")


def memory(gpu: Gpu) -> Finding:
    """The GPU, how much of it is free, and whether something else is on it."""
    room = f"{gpu.free / GIB:.1f} of {gpu.total / GIB:.1f} GiB free"
    told = f"{gpu.name}, driver {gpu.driver or 'unknown'}, {room}"
    # a container does not see others' processes, only the memory that they hold
    if not gpu.others and gpu.total - gpu.free <= OWN_CONTEXT:
        return Finding("device", State.OK, told)
    told += f", other processes on it: {gpu.others or 'hidden from here'}"
    mend = "End what else runs there, or choose another GPU with CUDA_VISIBLE_DEVICES"
    return Finding("device", State.ADVICE, told, f"{mend}: it takes memory and stretches the times.")


def tensor_cores(capability: tuple[int, int]) -> Finding:
    """What a GPU of this compute capability multiplies quickly."""
    told = f"compute capability {'.'.join(map(str, capability))}, tensor cores for "
    if capability >= BF16_CAPABILITY:
        return Finding("tensor cores", State.OK, f"{told}BF16 and int8")
    told += "int8 but not for BF16" if capability >= INT8_CAPABILITY else "neither BF16 nor int8"
    mend = "Gate on a GPU of compute capability 8.0 or later: BF16 is emulated on this one"
    if capability == (7, 5):
        mend += ", and bitsandbytes' native 4-bit is reported to collapse on it"
    return Finding("tensor cores", State.ADVICE, told, f"{mend}.")


def instructions(machine: Fingerprint) -> Finding:
    """The CPU's instructions that torch uses, and whether a setting caps them."""
    told = f"{machine.cpu}, {' '.join(machine.instruction_set)}"
    settings = machine.settings
    caps = [name for name, free in _NO_CAP.items() if settings.get(name, "").upper() not in free]
    if caps:
        told += f", capped by {' and '.join(f'{name}={settings[name]}' for name in caps)}"
        mend = (
            f"Unset {' and '.join(caps)}: records made with and without a cap cannot be compared, and on a "
        )
        return Finding("cpu", State.ADVICE, told, f"{mend}CPU the gates on mini take {_TIMES}.")
    return Finding("cpu", State.OK, told if machine.gpu else f"{told}; the gates on mini take {_TIMES}")


def threads(count: int, cores: int, machine_cores: int, load: float) -> Finding:
    """`count` threads in torch; `cores` of the machine's are for this process to use; `load` is how many
    processes ran or waited for a core, on average over the last minute."""
    told = f"{count} in torch for {cores} usable cores; load {load:.1f} on {machine_cores}"
    if count > cores:
        mend = f"Set OMP_NUM_THREADS={cores}: threads that wait for a core hold up all the others."
        return Finding("threads", State.ADVICE, told, mend)
    if load > machine_cores / 2 and load + count > machine_cores:
        mend = "Wait for what else runs, or give each cores of its own with `taskset`"
        why = "two OpenMP processes on the same cores slow each other severely"
        return Finding("threads", State.ADVICE, told, f"{mend}: {why}.")
    return Finding("threads", State.OK, told)


def compilation(device: str, environment: Mapping[str, str], lacking: Sequence[str]) -> Finding:
    """Whether SDNQ compiles, as it should on a GPU and should not on a CPU; `lacking` is what Triton needs to
    build its kernels and does not find."""
    value = environment.get("SDNQ_USE_TORCH_COMPILE")
    off = [name for name in ("TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE") if environment.get(name) == "1"]
    if value is not None and value.lower() in _SDNQ_OFF:
        off.append("SDNQ_USE_TORCH_COMPILE")
    told = ", ".join(f"{name}={environment[name]}" for name in off)
    if device == "cpu" and value is not None and not off:
        mend = "Unset SDNQ_USE_TORCH_COMPILE: compiled, every new shape takes 5 to 60 s on a CPU."
        return Finding("compilation", State.ADVICE, f"on: SDNQ_USE_TORCH_COMPILE={value}", mend)
    if device == "cpu":
        told = told or "ernie_qa sets SDNQ_USE_TORCH_COMPILE=0 for a CPU"
        return Finding("compilation", State.OK, f"off: {told}")
    if off:
        why = "uncompiled, sdnq 0.2.8's Triton kernels failed on an H100 (docs/gpu.md)"
        mend = f"Unset {' and '.join(off)}: {why}."
        return Finding("compilation", State.MISSING, f"off: {told}", mend)
    if lacking:
        mend = "Install what is lacking, on Debian with `apt install gcc python3-dev`"
        why = "Triton compiles with it, and SDNQ needs Triton"
        return Finding(
            "compilation", State.MISSING, f"found no {' and no '.join(lacking)}", f"{mend}: {why}."
        )
    return Finding("compilation", State.OK, "on, as SDNQ needs it on a GPU")


def kernel_cache(device: str, inductor: Path, triton: Path) -> Finding:
    """Where compiled kernels are kept, and whether they stay there."""
    told = f"{inductor} (torch), {triton} (Triton)"
    if device == "cpu":
        return Finding("kernel cache", State.OK, f"{told}; unused while nothing is compiled")
    vanishing = (Path(tempfile.gettempdir()), *_VANISHING)
    lost = [
        f"{name}=~/.cache/{name.partition('_')[0].lower()}"
        for name, path in (("TORCHINDUCTOR_CACHE_DIR", inductor), ("TRITON_CACHE_DIR", triton))
        if any(path.is_relative_to(place) for place in vanishing)
    ]
    if not lost:
        return Finding("kernel cache", State.OK, told)
    mend = f"Run `export {' '.join(lost)}`: a temporary directory may not outlive the job, and without its "
    why = "kernels the first INT8 picture took 41 s on an H100, later ones half a second (docs/gpu.md)"
    return Finding("kernel cache", State.ADVICE, told, f"{mend}{why}.")


def hub_cache(path: Path, offline: bool, free: int, writable: bool) -> Finding:
    """Where the hub's models are kept; `free` is in bytes."""
    told = f"{path}, {free / GIB:.1f} GiB free" + ("" if writable else ", not writable")
    if offline:
        return Finding(
            "hub cache", State.OK, f"{told}; HF_HUB_OFFLINE is set: models are only looked up there"
        )
    if writable and free >= GIB:
        return Finding("hub cache", State.OK, told)
    mend = (
        "Set HF_HUB_CACHE to a directory with room that you may write to: no model can be fetched into this."
    )
    return Finding("hub cache", State.ADVICE, told, mend)


def allocator(device: str, environment: Mapping[str, str]) -> Finding:
    """How torch's memory allocator on a GPU is set."""
    settings = {name: environment[name] for name in VARIABLES if environment.get(name)}
    if not settings:
        return Finding("allocator", State.OK, "torch's defaults")
    told = ", ".join(f"{name}={value}" for name, value in settings.items())
    if device == "cpu":
        return Finding("allocator", State.OK, f"{told}; without effect on a CPU")
    if runaway(settings):
        mend = f"{REMEDY[0].upper()}{REMEDY[1:]}; a gate refuses them without --any-allocator."
        return Finding("allocator", State.MISSING, told, mend)
    if len(set(settings.values())) > 1:
        mend = (
            "Unset PYTORCH_CUDA_ALLOC_CONF: it is the other's old name, and parts of torch differ in which "
        )
        return Finding("allocator", State.ADVICE, told, f"{mend}of the two they read.")
    return Finding("allocator", State.OK, told)


def disk(path: Path, free: int, writable: bool) -> Finding:
    """Where a report would be written; `free` is in bytes."""
    told = f"{path}, {free / GIB:.1f} GiB free" + ("" if writable else ", not writable")
    if writable and free >= GIB:
        return Finding("disk", State.OK, told)
    mend = (
        "Work in, or give `--report`, a directory that you may write to, on a disk with at least 1 GiB free"
    )
    return Finding("disk", State.ADVICE, told, f"{mend}: records and pictures go there.")
