"""The store on disk: finding what was accepted, and replacing it whole or not at all.

What is accepted for one model on one machine is one directory, and changes as one. A new state is written
beside it (`ernie_qa.durable`), committed by one rename (`.<machine>.ready`), and swapped in by two more. A
process killed before the commit changed nothing; killed after it, the next accept finishes the swap. Readers
wait for a writer that is at work.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ernie_qa.baseline.accepted import Accepted, read_accepted
from ernie_qa.baseline.lock import locked
from ernie_qa.baseline.pictures import FOLDER, MANIFEST, Pictures, read_pictures
from ernie_qa.durable import cannot, clear, directory, discard, move
from ernie_qa.errors import BaselineError
from ernie_qa.frozen import SHA256, SHA256_RULE, Frozen, digest
from ernie_qa.picture import write_pictures
from ernie_qa.recipe import REFERENCE
from ernie_qa.toml_input import SAFE_NAME, one_line, read_json

SCHEMA = 1
INDEX = "index.json"
"""Names every recipe that is accepted beside it, with the hash of its file, and the hash of the pictures: a
file that was removed, or is of an earlier state, does not fit."""
CANDIDATES = "candidates"
NOISE = "noise"
"""Holds the noise floors (`ernie_qa.baseline.noise`)."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """What is accepted for one model on one machine: figures by recipe, and BF16's pictures if any."""

    path: Path
    accepted: Mapping[str, Accepted]
    pictures: Pictures | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "accepted", Frozen(self.accepted))

    def index(self) -> dict[str, Any]:
        """What index.json holds, but for its own hash."""
        return {
            "schema": SCHEMA,
            "recipes": {name: one.hash for name, one in sorted(self.accepted.items())},
            "pictures": self.pictures.hash if self.pictures else None,
        }


def place_of(root: Path, model: str, machine: str) -> Path:
    """The directory of `model` on `machine` below `root`, whether or not it is there."""
    return root / file_name(model) / file_name(machine)


def file_name(text: str) -> str:
    """`text` as the name of a file or directory: `NVIDIA H100 80GB HBM3` becomes `NVIDIA-H100-80GB-HBM3`."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.") or "unnamed"


def files_about(root: Path, model: str) -> dict[str, Path]:
    """All files below `root` that say what was accepted or calibrated for `model`, by their path below it."""
    places = (root / file_name(model), root / NOISE / file_name(model))
    files = sorted(file for place in places for file in place.rglob("*") if file.is_file())
    return {file.relative_to(root).as_posix(): file for file in files}


def find_baseline(root: str | Path, model: str, machine: str) -> Baseline | None:
    """What was accepted below `root` for `model` on `machine` (a GPU's model, or "cpu"); None if nothing was.

    BaselineError if `root` is no directory, if what was accepted was edited or damaged, or if an accept was
    killed half-way.
    """
    with locked(Path(root), exclusive=False):
        return read_baseline(place_of(Path(root), model, machine))


def read_baseline(place: Path) -> Baseline | None:
    """The baseline in `place`, within `locked`; None if there is none. BaselineError as `find_baseline`."""
    if _ready(place).exists():
        raise BaselineError(
            one_line(f"{place}: an accept was interrupted; run `ernie-qa baseline verify --finish` first")
        )
    if not place.exists() and not place.is_symlink():
        return None
    with _told_in_one_line(place):
        return _read(place, place.name, place.parent.name)


def verify(root: Path) -> tuple[Baseline, ...]:
    """Everything below `root`, read and checked. BaselineError for the first thing that is wrong."""
    found = []
    for above, places in (("two levels", [root]), ("one level", root.glob("*"))):
        if any((place / INDEX).is_file() for place in places):
            raise BaselineError(one_line(f"{root}: lies within the baselines: name the directory {above} up"))
    with locked(root, exclusive=False), _told_in_one_line(root):
        for model in _directories(root):
            for file in sorted(model.iterdir()):
                if file.name.startswith(".") or not file.is_dir():
                    raise BaselineError(
                        one_line(
                            f"{file}: no baseline of a machine; if an accept left it, run "
                            f"`ernie-qa baseline verify --finish`, else remove it"
                        )
                    )
                found.append(_read(file, file.name, model.name))
    return tuple(found)


def finish(root: Path) -> tuple[Path, ...]:
    """Complete or clear away what killed accepts left below `root`, within `locked`; what was completed."""
    with _told_in_one_line(root, written=True):
        for place in (root, *(path for path in root.rglob("*") if path.is_dir())):
            clear(place)
        return tuple(
            place
            for model in _directories(root)
            for place in sorted({_place(file) for file in model.glob(".*")})
            if _recover(place)
        )


def promote(new: Baseline) -> None:
    """Make `new` what is accepted in its place, within `locked`. BaselineError if it can't be written."""
    place = new.path
    with _told_in_one_line(place, written=True):
        if place.is_symlink():
            raise BaselineError(one_line(f"{place}: a link; make it a directory of its own"))
        try:
            with directory(_ready(place)) as staging:
                for recipe, one in new.accepted.items():
                    (staging / f"{recipe}.json").write_text(one.text(), encoding="utf-8")
                index = new.index()
                text = json.dumps({**index, "hash": digest(index)}, indent=1)
                (staging / INDEX).write_text(text + "\n", encoding="utf-8")
                if new.pictures is not None:
                    write_pictures(new.pictures.pictures, staging)
                    (staging / FOLDER / MANIFEST).write_text(new.pictures.text(), encoding="utf-8")
                # what nobody could read must not replace what everybody could
                _read(staging, place.name, place.parent.name)
            _recover(place)
        except BaseException:
            with suppress(OSError):
                _take_back(place)
            raise


def _take_back(place: Path) -> None:
    """Undo what `promote` committed and could not finish; where the new state is in place, it stays."""
    ready, previous = _ready(place), _previous(place)
    if ready.exists():
        if previous.exists() and not place.exists():
            with suppress(OSError):
                move(previous, place)
        if place.exists() or not previous.exists():
            discard(ready)
    elif previous.exists() and place.exists():
        discard(previous)


@contextmanager
def _told_in_one_line(place: Path, *, written: bool = False) -> Iterator[None]:
    """BaselineError for what the system refuses, while `place` is read or `written`."""
    try:
        yield
    except OSError as problem:
        if written:
            raise BaselineError(cannot(place, problem)) from problem
        where = problem.filename or place
        raise BaselineError(one_line(f"{where}: {problem.strerror or problem}")) from problem


def _recover(place: Path) -> bool:
    """Finish what a killed `promote` began; whether there was anything. Each step may be repeated."""
    ready, previous = _ready(place), _previous(place)
    begun = ready.exists()
    if begun:
        if place.exists():
            if previous.exists():
                shutil.rmtree(previous)
            move(place, previous)
        move(ready, place)
    if previous.exists():
        shutil.rmtree(previous)
    return begun


def _ready(place: Path) -> Path:
    return place.parent / f".{place.name}.ready"


def _previous(place: Path) -> Path:
    return place.parent / f".{place.name}.previous"


def _place(file: Path) -> Path:
    """The baseline that a hidden directory of `promote` is about: `.cpu.ready` is about `cpu`."""
    return file.parent / file.name.removeprefix(".").rpartition(".")[0]


def _directories(root: Path) -> list[Path]:
    """The models below `root`."""
    found = (path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return sorted(path for path in found if path.name not in (CANDIDATES, NOISE))


def _read(place: Path, machine: str, model: str) -> Baseline:
    """The baseline in `place`, each file checked alone and against the others."""
    index = read_json(place / INDEX, BaselineError)
    index.schema(SCHEMA)
    declared = index.text("hash", pattern=SHA256, allowed=SHA256_RULE)
    accepted = {}
    for file in sorted(place.iterdir()):
        if file.name in (FOLDER, INDEX):
            continue
        if file.suffix != ".json" or not SAFE_NAME.fullmatch(file.name):
            raise BaselineError(one_line(f"{file}: no part of a baseline; remove it"))
        accepted[file.stem] = _accepted(file, model, machine)
    found = Baseline(place, accepted, read_pictures(place))
    _check_index(index.frozen(), found, declared)
    base = accepted[REFERENCE]
    for recipe, one in accepted.items():
        if (one.model.hash, one.suite.hash) != (base.model.hash, base.suite.hash):
            raise BaselineError(
                one_line(
                    f"{place / recipe}.json: of another model or suite than {REFERENCE}.json; restore it"
                )
            )
    return found


def _check_index(index: Mapping[str, Any], found: Baseline, declared: str) -> None:
    """BaselineError where the files in a place are not those that were accepted together."""
    place, wanted = found.path, found.index()
    named = index.get("recipes")
    recipes = named if isinstance(named, Mapping) else {}
    for recipe in sorted(recipes.keys() | wanted["recipes"].keys() | {REFERENCE}):
        file = place / f"{recipe}.json"
        if recipe not in wanted["recipes"]:
            raise BaselineError(one_line(f"{file}: is missing, and was accepted; restore it"))
        if recipes.get(recipe) != wanted["recipes"][recipe]:
            raise BaselineError(one_line(f"{file}: not the one that {INDEX} names; restore both"))
    if index.get("pictures") != wanted["pictures"]:
        raise BaselineError(one_line(f"{place / FOLDER}: not the pictures that {INDEX} names; restore both"))
    if digest(wanted) != declared:
        raise BaselineError(one_line(f"{place / INDEX}: was edited; restore it from version control"))


def _accepted(file: Path, model: str, machine: str) -> Accepted:
    one = read_accepted(file)
    wanted = (file.stem, machine, model)
    found = (one.recipe.name, file_name(one.machine), file_name(one.model.name))
    if found != wanted:
        raise BaselineError(
            one_line(f"{file}: holds {' of '.join(found)}: it was moved or renamed; put it back")
        )
    if any(len(figure.measured) > len(one.runs) for figure in one.figures.values()) or not one.runs:
        raise BaselineError(one_line(f"{file}: holds figures of more runs than it names; restore it"))
    return one
