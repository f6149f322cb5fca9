"""Where torch's compiler and Triton keep what they compiled, so that it is compiled once a machine and build.

What a run needs for that, read in torch 2.14.1, triton 3.8.0 and sdnq 0.2.8, is both directories and no more:

- TORCHINDUCTOR_CACHE_DIR is read at every use (torch/_inductor/runtime/cache_dir_utils.py) and is in /tmp by
  default. The caches of graphs (fxgraph/, aotautograd/) and of Inductor's own tuning are on by default
  (torch/_inductor/config.py, torch/_functorch/config.py).
- TRITON_CACHE_DIR is read at every use (triton/knobs.py). Where it is unset, Inductor sets it, for the whole
  process, to a directory below its own with its first kernel (torch/_inductor/runtime/triton_heuristics.py).
- What `@triton.autotune` chose is kept beside the kernels where the decorator says cache_results=True, as all
  in sdnq/kernels do, or where TRITON_CACHE_AUTOTUNING=1 was set when it ran (triton/runtime/autotuner.py).
  That variable would add nothing here.
- Importing sdnq compiles a test function (sdnq/common.py), and Inductor then writes its default directory to
  the environment, where it looks like the user's choice: hence `keep` comes before that import.
"""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path

from ernie_qa.cache_directory import cache_directory
from ernie_qa.fingerprint import version_of
from ernie_qa.frozen import digest

INDUCTOR = "TORCHINDUCTOR_CACHE_DIR"
TRITON = "TRITON_CACHE_DIR"
WORKER = "worker-"
"""What the name of each part begins with: one for each process but the first of those that run at once."""


def keep(device: str, apart: str = "") -> Path | None:
    """Have this process keep its compiled kernels in a directory of this GPU, build and SDNQ's settings.

    `apart` names a part of it, `WORKER` and more, for one of several processes at once: `compiled_files`
    counts all that grows. What is kept in its other parts is taken over. Returns that directory, or None
    where nothing changes: on a CPU, without a usable GPU, where it cannot be written, or where both variables
    are set already. A variable that is set stays as it is. To be called before sdnq is imported: what
    compiled earlier went elsewhere, and the variables look set.
    """
    wanted = settings(device, apart)
    try:
        for path in wanted.values():
            Path(path).mkdir(parents=True, exist_ok=True)
    except OSError:
        # kernels are compiled again: slow, and right
        return None
    for name, path in wanted.items():
        os.environ.setdefault(name, path)
    kept = [Path(path) for name, path in wanted.items() if os.environ[name] == path]
    for mine in kept:
        first = mine.parent.parent if apart else mine.parent
        for other in (first, *sorted(first.glob(f"{WORKER}*"))):
            if other != mine.parent:
                _link(other / mine.name, mine)
    return kept[0].parent if kept else None


def _link(there: Path, here: Path) -> None:
    """Take over by hard links what another process has compiled, so that a kernel is compiled once a machine
    and not once a worker. Files of both compilers are renamed to their place, and never written in again."""
    for folder, _, files in os.walk(there):
        inside = Path(folder).relative_to(there)
        # what is being written, and who waits for that
        if inside.name.startswith("tmp.") or inside.parts[:1] == ("locks",):
            continue
        try:
            (here / inside).mkdir(exist_ok=True)
            known = {one.name for one in (here / inside).iterdir()}
        except OSError:
            continue
        for name in files:
            if name not in known and not name.startswith("."):
                # where the disk knows no links, or is full, it is compiled again
                with suppress(OSError):
                    os.link(f"{folder}/{name}", here / inside / name)


def settings(device: str, apart: str = "") -> dict[str, str]:
    """What `keep` would set where it is not set: variable -> directory. Empty where it would set nothing at
    all; nothing is created."""
    if device == "cpu":
        return {}
    key = _key(device)
    if key is None:
        return {}
    place = cache_directory().absolute() / "compile" / key / apart
    found = {INDUCTOR: place / "inductor", TRITON: place / "triton"}
    if not all(map(_writable, found.values())):
        return {}
    return {name: str(path) for name, path in found.items()}


def _key(device: str) -> str | None:
    """Sixteen digits for all that decides what is compiled, but the driver; None without a usable GPU."""
    import torch

    where = torch.device(device)
    if not torch.cuda.is_available() or (where.index or 0) >= torch.cuda.device_count():
        return None
    return digest(
        {
            "gpu": torch.cuda.get_device_name(where),
            "capability": torch.cuda.get_device_capability(where),
            "cuda": torch.version.cuda,
            "python": platform.python_version_tuple()[:2],
            "packages": {name: version_of(name) for name in ("torch", "triton", "sdnq")},
            "settings": {name: value for name, value in os.environ.items() if name.startswith("SDNQ_")},
        }
    )[:16]


def _writable(place: Path) -> bool:
    """Whether `place` is a directory that can be written, or can be made."""
    try:
        there = next(path for path in (place, *place.parents) if path.exists())
    except OSError:
        return False
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def compiled_files() -> int:
    """How many compiled results the two directories hold now: it grows when something is compiled.

    Counted are Triton's entries, one a kernel, a launcher or a choice of `@triton.autotune`, and Inductor's
    graphs and modules of code. 0 where the variables are unset or nothing is there.
    """
    found = 0
    if triton := os.environ.get(TRITON):
        found += sum(entry.is_dir() for entry in _entries(triton))
    if inductor := os.environ.get(INDUCTOR):
        # fxgraph/ab/fab.../, and ab/cab....py
        for part in _entries(f"{inductor}/fxgraph"):
            found += len(_entries(part.path))
        for part in _entries(inductor):
            if len(part.name) == 2:
                found += sum(entry.name.endswith(".py") for entry in _entries(part.path))
    return found


def _entries(place: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(place) as entries:
            return list(entries)
    except OSError:
        # not there yet, or gone since it was listed
        return []
