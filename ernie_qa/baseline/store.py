"""The store on disk: finding what was accepted, and replacing it whole or not at all.

What is accepted for one model on one machine is one directory, and changes as one. A new state is written
beside it (`.<machine>.new-*`), committed by one rename (`.<machine>.ready`), and swapped in by two more. A
process killed before the commit changed nothing; killed after it, the next accept finishes the swap.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ernie_qa.baseline.accepted import Accepted, read_accepted
from ernie_qa.baseline.pictures import FOLDER, MANIFEST, Pictures, read_pictures
from ernie_qa.errors import BaselineError
from ernie_qa.frozen import Frozen
from ernie_qa.recipe import REFERENCE
from ernie_qa.record import Record, write_pictures
from ernie_qa.toml_input import SAFE_NAME, one_line

CANDIDATES = "candidates"


@dataclass(frozen=True, slots=True)
class Baseline:
    """What is accepted for one model on one machine: figures by recipe, and BF16's pictures if any."""

    path: Path
    accepted: Mapping[str, Accepted]
    pictures: Pictures | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "accepted", Frozen(self.accepted))


def place_of(root: Path, model: str, machine: str) -> Path:
    """The directory of `model` on `machine` below `root`, whether or not it is there."""
    return root / file_name(model) / file_name(machine)


def file_name(text: str) -> str:
    """`text` as the name of a file or directory: `NVIDIA H100 80GB HBM3` becomes `NVIDIA-H100-80GB-HBM3`."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.") or "unnamed"


def bundle_place(root: Path, reference: Record) -> Path:
    """Where a run keeps its records as candidates: named by model, machine, time and BF16's record."""
    when = datetime.fromisoformat(reference.created).strftime("%Y%m%dT%H%M%SZ")
    model, machine = file_name(reference.model.name), file_name(reference.fingerprint.machine)
    return root / CANDIDATES / f"{model}-{machine}-{when}-{reference.hash[:8]}"


def bundles_in(root: Path) -> tuple[Path, ...]:
    """The bundles that runs left below `root`, by name, and so by time for one model on one machine."""
    found = (path for path in (root / CANDIDATES).glob("*") if (path / REFERENCE / "record.json").is_file())
    return tuple(sorted(found))


def find_baseline(root: str | Path, model: str, machine: str) -> Baseline | None:
    """What was accepted below `root` for `model` on `machine` (a GPU's model, or "cpu"); None if nothing was.

    BaselineError if it was edited or damaged, or if an accept was killed half-way.
    """
    place = place_of(Path(root), model, machine)
    if _ready(place).exists():
        raise BaselineError(
            one_line(f"{place}: an accept was interrupted; run `ernie-qa baseline verify --finish` first")
        )
    return _read(place) if place.exists() else None


def verify(root: Path) -> tuple[Baseline, ...]:
    """Everything below `root`, read and checked. BaselineError for the first thing that is wrong."""
    if not root.is_dir():
        raise BaselineError(one_line(f"{root}: no such directory; name the directory of the baselines"))
    found = []
    for model in _directories(root):
        if model.name == CANDIDATES:
            continue
        for file in sorted(model.iterdir()):
            if file.name.startswith(".") or not file.is_dir():
                raise BaselineError(
                    one_line(
                        f"{file}: no baseline of a machine; if an accept left it, run "
                        f"`ernie-qa baseline verify --finish`, else remove it"
                    )
                )
            found.append(_read(file))
    return tuple(found)


def finish(root: Path) -> tuple[Path, ...]:
    """Complete or clear away what killed accepts left below `root`, within `locked`; what was completed."""
    return tuple(
        place
        for model in _directories(root)
        for place in sorted({_place(file) for file in model.glob(".*")})
        if _recover(place)
    )


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Keep other accepts away from `root`. BaselineError if one is at work; a killed one leaves no lock."""
    root.mkdir(parents=True, exist_ok=True)
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BaselineError(
                one_line(f"{root}: another accept is at work here; wait until it has ended")
            ) from None
        yield
    finally:
        os.close(handle)


def promote(place: Path, accepted: Mapping[str, Accepted], pictures: Pictures | None) -> Baseline:
    """Replace all that is accepted in `place`, within `locked`. BaselineError if it can't be written."""
    staging = place.parent / f".{place.name}.new-{uuid.uuid4().hex}"
    try:
        _recover(place)
        staging.mkdir(parents=True)
        for recipe, one in sorted(accepted.items()):
            (staging / f"{recipe}.json").write_text(one.text(), encoding="utf-8")
        if pictures is not None:
            write_pictures(pictures.pictures, staging)
            (staging / FOLDER / MANIFEST).write_text(pictures.text(), encoding="utf-8")
        # what nobody could read must not replace what everybody could
        _read(staging, place.name)
        staging.rename(_ready(place))
        _recover(place)
    except OSError as problem:
        raise BaselineError(
            one_line(f"{place}: cannot be written: {problem.strerror or problem}")
        ) from problem
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return _read(place)


def _recover(place: Path) -> bool:
    """Finish what a killed `promote` began; whether there was anything. Each step may be repeated."""
    ready, previous = _ready(place), place.parent / f".{place.name}.previous"
    begun = ready.exists()
    if begun:
        if place.exists():
            shutil.rmtree(previous, ignore_errors=True)
            place.rename(previous)
        ready.rename(place)
    shutil.rmtree(previous, ignore_errors=True)
    for abandoned in place.parent.glob(f".{place.name}.new-*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    return begun


def _ready(place: Path) -> Path:
    return place.parent / f".{place.name}.ready"


def _place(file: Path) -> Path:
    """The baseline that a hidden directory of `promote` is about: `.cpu.ready` is about `cpu`."""
    return file.parent / file.name.removeprefix(".").rpartition(".")[0]


def _directories(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _read(place: Path, machine: str | None = None) -> Baseline:
    """The baseline in `place`, each file checked alone and against the others."""
    accepted = {}
    for file in sorted(place.iterdir()):
        if file.name == FOLDER:
            continue
        if file.suffix != ".json" or not SAFE_NAME.fullmatch(file.name):
            raise BaselineError(one_line(f"{file}: no part of a baseline; remove it"))
        one = read_accepted(file)
        _check_place(file, one, place.parent.name, machine or place.name)
        accepted[file.stem] = one
    if accepted and REFERENCE not in accepted:
        raise BaselineError(
            one_line(f"{place}: {REFERENCE}.json is missing: the others are measured against it; restore it")
        )
    for recipe, one in accepted.items():
        base = accepted[REFERENCE]
        if (one.model.hash, one.suite.hash) != (base.model.hash, base.suite.hash):
            raise BaselineError(
                one_line(
                    f"{place / recipe}.json: of another model or suite than {REFERENCE}.json; rebase all"
                )
            )
    pictures = read_pictures(place)
    named = accepted[REFERENCE].pictures if accepted else None
    if named != (pictures.hash if pictures else None):
        raise BaselineError(
            one_line(
                f"{place / FOLDER}: not the pictures that {REFERENCE}.json was accepted with; restore them"
            )
        )
    return Baseline(place, accepted, pictures)


def _check_place(file: Path, one: Accepted, model: str, machine: str) -> None:
    wanted = (file.stem, machine, model)
    found = (one.recipe.name, file_name(one.machine), file_name(one.model.name))
    if found != wanted:
        raise BaselineError(
            one_line(f"{file}: holds {' of '.join(found)}: it was moved or renamed; put it back")
        )
    if any(len(figure.measured) > len(one.runs) for figure in one.figures.values()) or not one.runs:
        raise BaselineError(one_line(f"{file}: holds figures of more runs than it names; accept them again"))
