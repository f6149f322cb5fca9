"""A record: what one arm (model × recipe × machine) was observed to do. Immutable, readable without torch.

On disk it is a directory:

    record.json          figures, layer states, kernels, fingerprint, hashes
    pictures/<case>.png  what was drawn
    trajectories.safetensors
                         what BF16 fed each part, where that was recorded (ernie_qa.trajectories)

Schemas: 1 (the first).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from ernie_qa.durable import cannot, directory
from ernie_qa.errors import RecordError
from ernie_qa.fingerprint import Fingerprint, read_fingerprint
from ernie_qa.frozen import SHA256, SHA256_RULE, digest, freeze, thaw
from ernie_qa.picture import Picture, read_picture, write_pictures
from ernie_qa.spool import Spool
from ernie_qa.toml_input import SAFE_NAME, SAFE_NAME_RULE, Table, one_line, read_json
from ernie_qa.trajectories import FILE, Trajectories

SCHEMA = 1
MAX_JSON_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model was observed. `weights` is "trained", "random" or "unknown"; `models.find` says what is
    hashed.

    `revision` is the hub's commit, and `pinned` says whether it was asked for: False where a branch, a tag or
    nothing was, which may be another commit tomorrow. Both are None for a directory. Asking in another way
    makes no other model: `pinned` is not compared.
    """

    name: str
    revision: str | None
    weights: str
    hash: str
    pinned: bool | None = field(default=None, compare=False)

    def values(self) -> dict[str, Any]:
        """All of it as JSON values, which `read_model` reads; `pinned` only where it is known."""
        values = asdict(self)
        if self.pinned is None:
            del values["pinned"]
        return values


@dataclass(frozen=True, slots=True)
class Identity:
    """A recipe or suite as recorded: its name and the hash of all in it that changes a picture."""

    name: str
    hash: str


@dataclass(frozen=True, slots=True)
class Ended:
    """Where an arm ended before its suite was drawn: the `rung`, the label of its first required `check` that
    failed, and that check's `message`."""

    rung: str
    check: str
    message: str


@dataclass(frozen=True, slots=True)
class Record:
    """What one arm was observed to do.

    `created` is UTC in ISO 8601. `figures` are JSON values by rung, made read-only here; a figure that was
    not measured is None, and NaN is a ValueError. `reference` is the hash of the record that the figures
    were measured against, None for the reference itself. `artifact` is the directory that held `model` as the
    recipe quantized it; None where it was quantized in memory. `trajectories` are what BF16 fed each part,
    None where nobody recorded it. `ended` says why later rungs have no figures; None where the suite was
    drawn.
    """

    schema: int
    created: str
    model: ModelIdentity
    recipe: Identity
    suite: Identity
    fingerprint: Fingerprint
    figures: Mapping[str, Mapping[str, Any]]
    pictures: tuple[Picture, ...]
    reference: str | None
    artifact: ModelIdentity | None = None
    trajectories: Trajectories | None = None
    ended: Ended | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "figures", freeze(self.figures, "figures"))
        object.__setattr__(self, "pictures", tuple(self.pictures))
        names = [picture.case.casefold() for picture in self.pictures]
        if len(set(names)) != len(names):
            raise ValueError("pictures: two are of the same case")

    @property
    def hash(self) -> str:
        """The sha256 over all of the record, its pictures by the sha256 of their pixels, its trajectories by
        that of their file."""
        return digest(self._json())

    def save(self, path: Path) -> None:
        """Write the directory `path`, whole or not at all. RecordError if something is there already."""
        path = Path(path)
        if path.exists() or path.is_symlink():
            raise RecordError(
                one_line(f"{path}: exists already; a record is never overwritten, name another place")
            )
        text = json.dumps({**self._json(), "hash": self.hash}, indent=1, ensure_ascii=False, allow_nan=False)
        try:
            with directory(path) as new:
                write_pictures(self.pictures, new)
                (new / "record.json").write_text(text + "\n", encoding="utf-8")
                if self.trajectories is not None:
                    (new / FILE).write_bytes(self.trajectories.content())
        except OSError as problem:
            raise RecordError(cannot(path, problem)) from problem

    def _json(self) -> dict[str, Any]:
        values: dict[str, Any] = {
            "schema": self.schema,
            "created": self.created,
            "model": self.model.values(),
            "recipe": asdict(self.recipe),
            "suite": asdict(self.suite),
            "fingerprint": self.fingerprint.values(),
            "figures": thaw(self.figures),
            "pictures": [picture.entry() for picture in self.pictures],
            "reference": self.reference,
        }
        # only where there is one: the hashes of records without stay
        if self.artifact is not None:
            values["artifact"] = self.artifact.values()
        if self.trajectories is not None:
            values["trajectories"] = self.trajectories.sha256
        if self.ended is not None:
            values["ended"] = asdict(self.ended)
        return values


_NO_RECORD = "a directory without a record.json; name one that --report wrote a record to"


def load_record(path: str | Path) -> Record:
    """The record in the directory `path`, with every hash checked.

    RecordError if it is missing, of a later schema, damaged, or was edited, or the directory is that of a
    report, which holds several.
    """
    path = Path(path)
    if path.name == "record.json":
        path = path.parent
    if path.is_dir() and not (path / "record.json").exists():
        arms = ", ".join(sorted(str(one.parent) for one in path.glob("*/record.json")))
        what = f"a directory of several records; name one of {arms}" if arms else _NO_RECORD
        raise RecordError(one_line(f"{path}: {what}"))
    table = read_json(path / "record.json", RecordError, MAX_JSON_BYTES)
    schema = table.schema(SCHEMA)
    declared = table.text("hash", pattern=SHA256, allowed=SHA256_RULE)
    created = table.text("created")
    if not _is_utc(created):
        table.wrong("created", "a UTC time in ISO 8601, as 2026-11-22T12:00:00+00:00")
    figures, spool = table.table("figures"), Spool()
    try:
        record = Record(
            schema=schema,
            created=created,
            model=read_model(table.table("model")),
            recipe=read_identity(table.table("recipe")),
            suite=read_identity(table.table("suite")),
            fingerprint=read_fingerprint(table.table("fingerprint")),
            figures={rung: figures.table(rung).frozen() for rung in figures},
            pictures=tuple(read_picture(entry, path).spooled(spool) for entry in table.tables("pictures")),
            reference=table.text_or_null("reference"),
            artifact=read_model(table.table("artifact")) if "artifact" in table else None,
            trajectories=_trajectories(table, path) if "trajectories" in table else None,
            ended=_ended(table.table("ended")) if "ended" in table else None,
        )
    except ValueError as problem:
        raise RecordError(one_line(f"{table.file}: {problem}")) from None
    table.finish()
    if record.hash != declared:
        raise RecordError(
            one_line(f"{table.file}: was edited: its contents do not match its hash; observe again")
        )
    return record


def _is_utc(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).utcoffset() == timedelta(0)
    except ValueError:
        return False


def _trajectories(table: Table, path: Path) -> Trajectories:
    sha256 = table.text("trajectories", pattern=SHA256, allowed=SHA256_RULE)
    return Trajectories.from_file(path / FILE, sha256)


def _ended(table: Table) -> Ended:
    ended = Ended(table.text("rung"), table.text("check"), table.text("message"))
    table.finish()
    return ended


def read_model(table: Table) -> ModelIdentity:
    """A model as a stored document holds it."""
    model = ModelIdentity(
        name=table.text("name"),
        revision=table.text_or_null("revision"),
        weights=table.choice("weights", ("trained", "random", "unknown")),
        hash=table.text("hash", pattern=SHA256, allowed=SHA256_RULE),
        pinned=table.boolean("pinned") if "pinned" in table else None,
    )
    table.finish()
    return model


def read_identity(table: Table) -> Identity:
    """A recipe or suite as a stored document holds it."""
    name = table.text("name", pattern=SAFE_NAME, allowed=SAFE_NAME_RULE)
    identity = Identity(name, table.text("hash", pattern=SHA256, allowed=SHA256_RULE))
    table.finish()
    return identity
