"""The noise floor: how far BF16 is from BF16 under changes that ought not to matter, by change; and the
ceiling, how far it is from itself with other seeds. One JSON document a model, machine and suite:

    <root>/noise/<model>/<machine>/<suite>.json

It is not among the accepted figures: nobody accepts it, it is measured, and may be measured anew at any time.

Schemas: 1 (the first), 2 (how each figure is computed, and how many cases the suite has).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ernie_qa.baseline.lock import locked
from ernie_qa.baseline.store import NOISE, file_name
from ernie_qa.durable import cannot, is_left, write
from ernie_qa.errors import BaselineError
from ernie_qa.fingerprint import Fingerprint, read_fingerprint
from ernie_qa.frozen import SHA256, SHA256_RULE, Frozen, digest
from ernie_qa.record import Identity, ModelIdentity, Record, read_identity, read_model
from ernie_qa.suite import more_seeds
from ernie_qa.toml_input import SAFE_NAME, Table, one_line, read_json

SCHEMA = 2


@dataclass(frozen=True, slots=True)
class Moved:
    """How far BF16 moved under one change: `figures` by name, as images.lpips_mean, each at its worst.

    `same` of `pictures` have not a bit changed. `cases` were drawn, and of so many `teacher_cases` each part
    was fed the same. `reference` is the hash of the record that it is measured against, made on `build`;
    `changed` is where the change was made, the same build but for a change of the process. `created` is UTC
    in ISO 8601. What is infinite (PSNR of the same pictures) is not among the figures.
    """

    title: str
    figures: Mapping[str, float]
    same: int
    pictures: int
    cases: int
    teacher_cases: int
    seconds: float
    created: str
    reference: str
    build: Fingerprint
    changed: Fingerprint

    def __post_init__(self) -> None:
        object.__setattr__(self, "figures", Frozen(self.figures))

    @property
    def deterministic(self) -> bool:
        """Whether not a bit of a picture, no relative error and no KL divergence is other than without it."""
        errors = (value for name, value in self.figures.items() if name.endswith(_ERRORS))
        return self.same == self.pictures and not any(errors)


_ERRORS = ("_l2", "_l2_mean", "_l2_max", "_kl_mean", "_kl_max")


@dataclass(frozen=True, slots=True)
class Floor:
    """The floor of one figure: its worst `value`, and the change that made it."""

    value: float
    change: str


@dataclass(frozen=True, slots=True)
class Noise:
    """What was measured for one model and suite on one machine: by change, and the `ceiling` by figure.

    The suite has so many `cases`; `definitions` are figure -> the start of the sha256 of how it is computed,
    of those that have one. Neither is known of schema 1.
    """

    model: ModelIdentity
    machine: str
    suite: Identity
    changes: Mapping[str, Moved]
    ceiling: Mapping[str, float]
    cases: int = 0
    definitions: Mapping[str, str] = field(default_factory=lambda: Frozen({}))
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        object.__setattr__(self, "changes", Frozen(self.changes))
        object.__setattr__(self, "ceiling", Frozen(self.ceiling))
        object.__setattr__(self, "definitions", Frozen(self.definitions))

    @property
    def hash(self) -> str:
        """The sha256 over all of it."""
        return digest(self._json())

    def floor(self, figure: str, bound: str) -> Floor | None:
        """The worst of `figure` under any change: the largest where `bound`, which keeps out damage, is
        "max", else the least. None where nobody measured it."""
        found = [
            Floor(one.figures[figure], name) for name, one in self.changes.items() if figure in one.figures
        ]
        choose = max if bound == "max" else min
        return choose(found, key=lambda one: one.value, default=None)

    @property
    def deterministic(self) -> bool:
        """Whether no change moved BF16 by a bit."""
        return bool(self.changes) and all(one.deterministic for one in self.changes.values())

    @property
    def partial(self) -> str | None:
        """Why this is no floor of the whole suite; None where it is."""
        few = min((one.cases for one in self.changes.values()), default=self.cases)
        return None if few >= self.cases else f"it was measured in {few} of {self.cases} cases"

    def unlike(self, record: Record) -> str | None:
        """Why this is not the floor of `record`; None where it is."""
        if record.fingerprint.machine != self.machine:
            return f"it was measured on {self.machine}"
        if record.model.hash != self.model.hash:
            return f"it was measured with another model {self.model.name} ({self.model.hash[:12]})"
        if more_seeds(record.suite.hash, self.suite.hash) is None:
            return f"it was measured with another suite {self.suite.name} ({self.suite.hash[:12]})"
        return self.partial

    def text(self) -> str:
        """The document."""
        return json.dumps({**self._json(), "hash": self.hash}, indent=1, ensure_ascii=False) + "\n"

    def _json(self) -> dict[str, Any]:
        return {
            "schema": self.schema,
            "model": self.model.values(),
            "machine": self.machine,
            "suite": asdict(self.suite),
            "changes": {name: _values(one) for name, one in self.changes.items()},
            "ceiling": dict(self.ceiling),
            # only where it has them: the hashes of earlier ones stay
            **({"cases": self.cases, "definitions": dict(self.definitions)} if self.schema > 1 else {}),
        }


def _values(moved: Moved) -> dict[str, Any]:
    values = {field: getattr(moved, field) for field in Moved.__slots__}
    return values | {
        "figures": dict(moved.figures),
        "build": moved.build.values(),
        "changed": moved.changed.values(),
    }


def noise_file(root: Path, model: str, machine: str, suite: str) -> Path:
    """Where that of a whole suite lies below `root`, whether or not it is there."""
    return root / NOISE / file_name(model) / file_name(machine) / f"{file_name(suite)}.json"


def _file(root: Path, noise: Noise) -> Path:
    file = noise_file(root, noise.model.name, noise.machine, noise.suite.name)
    few = min(one.cases for one in noise.changes.values()) if noise.partial else None
    # beside the whole suite's, which it must not replace
    return file if few is None else file.with_name(f"{file.stem}.first-{few}.json")


def find_noise(root: Path, model: str, machine: str, suite: str) -> Noise | None:
    """What was measured below `root`; None where nobody did. BaselineError where the file is damaged."""
    with locked(root, exclusive=False):
        file = noise_file(root, model, machine, suite)
        return read_noise(file) if file.exists() else None


def make_noise_room(root: Path) -> None:
    """Make the directory for floors below `root`. BaselineError if nothing could be kept there: better told
    before minutes of measuring than after."""
    place = root / NOISE
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise BaselineError(cannot(place, problem)) from problem
    if not os.access(place, os.W_OK | os.X_OK):
        raise BaselineError(one_line(f"{place}: cannot be written to, so no floor can be kept there"))


def save_noise(root: Path, new: Noise) -> Path:
    """Write `new` below `root`, whole or not at all, with what the file there holds of other changes of the
    same model and suite. BaselineError where it cannot be written, or another command is at work."""
    file = _file(root, new)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with locked(root):
            if file.exists():
                new = _joined(read_noise(file), new)
            # what nobody could read must not replace what everybody could
            write(file, new.text(), check=read_noise)
    except OSError as problem:
        raise BaselineError(cannot(file, problem)) from problem
    return file


def _joined(old: Noise, new: Noise) -> Noise:
    if any(_of(old)[key] != value for key, value in _of(new).items()):
        return new
    changes = {**old.changes, **new.changes}
    return replace(new, changes=changes, ceiling=new.ceiling or old.ceiling)


def _of(noise: Noise) -> dict[str, object]:
    """What must be the same of two floors for one to hold changes of both."""
    return {"model": noise.model.hash, "suite": noise.suite.hash, "definitions": noise.definitions}


def verify_noise(root: Path) -> tuple[tuple[Path, Noise], ...]:
    """Every floor below `root`, read and checked. BaselineError for the first thing that is wrong."""
    with locked(root, exclusive=False):
        return tuple(_placed(root))


def _placed(root: Path) -> Iterator[tuple[Path, Noise]]:
    for file in sorted(path for path in (root / NOISE).rglob("*") if not path.is_dir()):
        if is_left(file.name):
            raise BaselineError(
                one_line(f"{file}: left by a calibrate; `ernie-qa baseline verify --finish` clears it away")
            )
        if file.suffix != ".json" or not SAFE_NAME.fullmatch(file.name):
            raise BaselineError(one_line(f"{file}: no noise floor; remove it"))
        found = read_noise(file)
        if file != _file(root, found):
            raise BaselineError(
                one_line(
                    f"{file}: holds the floor of {found.model.name} on {found.machine}, suite "
                    f"{found.suite.name}: it was moved or renamed; put it back"
                )
            )
        yield file, found


def read_noise(file: Path) -> Noise:
    """The floor in `file`. BaselineError if it is missing, damaged, edited, or later."""
    table = read_json(file, BaselineError)
    schema = table.schema(SCHEMA)
    declared = table.text("hash", pattern=SHA256, allowed=SHA256_RULE)
    changes = table.table("changes")
    found = Noise(
        model=read_model(table.table("model")),
        machine=table.text("machine"),
        suite=read_identity(table.table("suite")),
        changes={name: _moved(changes.table(name)) for name in changes},
        ceiling=_numbers(table.table("ceiling")),
        cases=table.integer("cases", minimum=1) if schema > 1 else 0,
        definitions=_texts(table.table("definitions")) if schema > 1 else {},
        schema=schema,
    )
    table.finish()
    if found.hash != declared:
        raise BaselineError(
            one_line(
                f"{file}: was edited: its contents do not match its hash; restore it, or calibrate again"
            )
        )
    return found


def _moved(entry: Table) -> Moved:
    found = Moved(
        title=entry.text("title"),
        figures=_numbers(entry.table("figures")),
        same=entry.integer("same", minimum=0),
        pictures=entry.integer("pictures", minimum=0),
        cases=entry.integer("cases", minimum=0),
        teacher_cases=entry.integer("teacher_cases", minimum=0),
        seconds=entry.number("seconds", minimum=0),
        created=entry.text("created"),
        reference=entry.text("reference", pattern=SHA256, allowed=SHA256_RULE),
        build=read_fingerprint(entry.table("build")),
        changed=read_fingerprint(entry.table("changed")),
    )
    entry.finish()
    return found


def _numbers(table: Table) -> Mapping[str, float]:
    return Frozen({name: table.number(name) for name in table})


def _texts(table: Table) -> Mapping[str, str]:
    return Frozen({name: table.text(name) for name in table})
