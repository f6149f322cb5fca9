"""Bundles: what a run leaves for a person to accept or not, a directory with one record a recipe."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ernie_qa.baseline.store import CANDIDATES, file_name
from ernie_qa.durable import cannot, clear, write
from ernie_qa.errors import BaselineError
from ernie_qa.recipe import REFERENCE
from ernie_qa.record import Record, load_record
from ernie_qa.toml_input import one_line


@dataclass(frozen=True, slots=True)
class Bundle:
    """The records of one run, by recipe; all were measured against its own BF16 record."""

    path: Path
    records: Mapping[str, Record]

    @property
    def reference(self) -> Record:
        """The BF16 record."""
        return self.records[REFERENCE]


def bundle_place(root: Path, reference: Record) -> Path:
    """Where a run keeps its records as candidates: named by model, machine, time and BF16's record."""
    when = datetime.fromisoformat(reference.created).strftime("%Y%m%dT%H%M%SZ")
    model, machine = file_name(reference.model.name), file_name(reference.fingerprint.machine)
    return root / CANDIDATES / f"{model}-{machine}-{when}-{reference.hash[:8]}"


def make_room(root: Path) -> None:
    """Make the directory for candidates below `root`. BaselineError if nothing could be kept there:
    better told before a run than after it."""
    place = root / CANDIDATES
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise BaselineError(cannot(place, problem)) from problem
    clear(place)
    ignore = place / ".gitignore"
    try:
        # `git add baselines` is the next step after an accept, and candidates are no part of it
        if not ignore.exists():
            write(ignore, "*\n")
    except OSError as problem:
        raise BaselineError(cannot(ignore, problem)) from problem
    if not os.access(place, os.W_OK | os.X_OK):
        raise BaselineError(one_line(f"{place}: cannot be written to, so no candidates can be kept there"))


def bundles_in(root: Path) -> tuple[Path, ...]:
    """The bundles that runs left below `root`, by name, and so by time for one model on one machine."""
    found = (path for path in (root / CANDIDATES).glob("*") if (path / REFERENCE / "record.json").is_file())
    # a run that was killed while it wrote leaves one with a leading dot
    return tuple(sorted(path for path in found if not path.name.startswith(".")))


def load_bundle(path: Path) -> Bundle:
    """The bundle in the directory `path`. BaselineError, or RecordError for one of its records."""
    if not (path / REFERENCE / "record.json").is_file():
        raise BaselineError(
            one_line(f"{path}: no bundle: it holds no {REFERENCE}/record.json; name one that a run left")
        )
    records = {file.parent.name: load_record(file.parent) for file in sorted(path.glob("*/record.json"))}
    base = records[REFERENCE]
    for name, record in records.items():
        if record.recipe.name != name:
            raise BaselineError(
                one_line(f"{path / name}: holds a record of {record.recipe.name}; put it back")
            )
        if name != REFERENCE and record.reference != base.hash:
            raise BaselineError(
                one_line(f"{path / name}: was measured against another BF16 record than {path / REFERENCE}")
            )
        if subject(record) != subject(base):
            raise BaselineError(one_line(f"{path / name}: of another model, suite or machine than BF16"))
    return Bundle(path, records)


def subject(record: Record) -> tuple[str, str, str]:
    """What a record is about, its recipe apart: model, suite, machine."""
    return record.model.hash, record.suite.hash, record.fingerprint.machine
