"""A record: what one arm (model × recipe × machine) was observed to do. Immutable, readable without torch.

On disk it is a directory:

    record.json          figures, layer states, kernels, fingerprint, hashes
    pictures/<case>.png  what was drawn
    trajectories.safetensors
                         what BF16 fed each part, where that was recorded (ernie_qa.trajectories)

Schemas: 1 (the first).
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import struct
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_qa.errors import RecordError
from ernie_qa.fingerprint import Fingerprint, read_fingerprint
from ernie_qa.frozen import digest, freeze, thaw
from ernie_qa.toml_input import CASE_NAME, SAFE_NAME, SAFE_NAME_RULE, Table, one_line, read_json
from ernie_qa.trajectories import FILE, Trajectories

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SCHEMA = 1
MAX_PIXELS = 64 * 2**20
"""A picture of more is neither kept nor decoded; Pillow itself would stop at 179 million."""
MAX_JSON_BYTES = 64 * 2**20

SHA256 = re.compile(r"[0-9a-f]{64}")
SHA256_RULE = "a sha256, 64 hex digits"
_PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"


@dataclass(frozen=True, slots=True)
class Picture:
    """One drawn picture: `png` decodes to `height` × `width` × 3 uint8; `sha256` is over those raw bytes."""

    case: str
    width: int
    height: int
    sha256: str
    png: bytes

    @classmethod
    def from_pixels(cls, case: str, pixels: npt.NDArray[np.uint8]) -> Picture:
        """The picture of [H, W, 3] uint8 RGB `pixels`. ValueError for any other shape, type or case id."""
        import numpy as np
        from PIL import Image

        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            raise ValueError(f"{case}: pixels are {pixels.dtype} {pixels.shape}, needed is uint8 [H, W, 3]")
        height, width = pixels.shape[:2]
        if width * height > MAX_PIXELS:
            raise ValueError(
                f"{case}: {width}x{height} is more than the {MAX_PIXELS} pixels a picture may have"
            )
        if not CASE_NAME.fullmatch(case):
            raise ValueError(f"{case!r}: a case's id has {SAFE_NAME_RULE}")
        raw = np.ascontiguousarray(pixels).tobytes()
        file = io.BytesIO()
        Image.frombytes("RGB", (width, height), raw).save(file, "PNG")
        return cls(case, width, height, pixels_hash(pixels), file.getvalue())

    def entry(self) -> dict[str, Any]:
        """What a document says of the picture: all but the PNG."""
        return {"case": self.case, "width": self.width, "height": self.height, "sha256": self.sha256}

    def pixels(self) -> npt.NDArray[np.uint8]:
        """The picture as a new [H, W, 3] uint8 RGB array. RecordError if the PNG is not what was declared."""
        import numpy as np

        raw = _decode(self.png, self.width, self.height, self.case)
        return np.frombuffer(bytearray(raw), np.uint8).reshape(self.height, self.width, 3)


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
        temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}"
        try:
            write_pictures(self.pictures, temporary)
            text = json.dumps(
                {**self._json(), "hash": self.hash}, indent=1, ensure_ascii=False, allow_nan=False
            )
            (temporary / "record.json").write_text(text + "\n", encoding="utf-8")
            if self.trajectories is not None:
                (temporary / FILE).write_bytes(self.trajectories.content())
            temporary.rename(path)
        except OSError as problem:
            raise RecordError(
                one_line(f"{path}: cannot be written: {problem.strerror or problem}")
            ) from problem
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

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


def pixels_hash(pixels: npt.NDArray[np.uint8]) -> str:
    """The sha256 over the raw bytes of [H, W, 3] uint8 `pixels`: what a picture's `sha256` is."""
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def write_pictures(pictures: Iterable[Picture], directory: Path) -> None:
    """Write `directory`/pictures/<case>.png, as `read_picture` reads them."""
    (directory / "pictures").mkdir(parents=True)
    for picture in pictures:
        (directory / "pictures" / f"{picture.case}.png").write_bytes(picture.png)


def load_record(path: str | Path) -> Record:
    """The record in the directory `path`, with every hash checked.

    RecordError if it is missing, of a later schema, damaged, or was edited.
    """
    path = Path(path)
    table = read_json(path / "record.json", RecordError, MAX_JSON_BYTES)
    schema = table.schema(SCHEMA)
    declared = table.text("hash", pattern=SHA256, allowed=SHA256_RULE)
    created = table.text("created")
    if not _is_utc(created):
        table.wrong("created", "a UTC time in ISO 8601, as 2026-11-22T12:00:00+00:00")
    figures = table.table("figures")
    try:
        record = Record(
            schema=schema,
            created=created,
            model=read_model(table.table("model")),
            recipe=read_identity(table.table("recipe")),
            suite=read_identity(table.table("suite")),
            fingerprint=read_fingerprint(table.table("fingerprint")),
            figures={rung: figures.table(rung).frozen() for rung in figures},
            pictures=tuple(read_picture(entry, path) for entry in table.tables("pictures")),
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


def read_picture(entry: Table, directory: Path) -> Picture:
    """The picture that `entry` declares, from `directory`/pictures. RecordError if missing or edited."""
    case = entry.text("case", pattern=CASE_NAME, allowed=SAFE_NAME_RULE)
    width = entry.integer("width", minimum=1, maximum=MAX_PIXELS)
    height = entry.integer("height", minimum=1, maximum=MAX_PIXELS // width)
    sha256 = entry.text("sha256", pattern=SHA256, allowed=SHA256_RULE)
    entry.finish()
    file = directory / "pictures" / f"{case}.png"
    # a PNG of noise is hardly larger than its pixels; one that is twice as large hides something
    bound = 2 * 3 * width * height + 2**16
    try:
        if not file.resolve().is_relative_to(directory.resolve()) or not file.is_file():
            raise RecordError(one_line(f"{file}: no such picture in the record"))
        with file.open("rb") as opened:
            png = opened.read(bound + 1)
    except OSError as problem:
        raise RecordError(one_line(f"{file}: cannot be read: {problem.strerror or problem}")) from None
    if len(png) > bound:
        raise RecordError(one_line(f"{file}: larger than a picture of {width}x{height} can be"))
    if hashlib.sha256(_decode(png, width, height, str(file))).hexdigest() != sha256:
        raise RecordError(one_line(f"{file}: was edited: its pixels do not match the record's sha256"))
    return Picture(case, width, height, sha256, png)


def _decode(png: bytes, width: int, height: int, where: str) -> bytes:
    """The raw RGB bytes of `png`, whose own header must declare `width` × `height` before it is decoded."""
    from PIL import Image

    if png[:16] != _PNG_START or len(png) < 26:
        raise RecordError(one_line(f"{where}: not a PNG file"))
    found = struct.unpack(">II", png[16:24])
    if found != (width, height):
        raise RecordError(
            one_line(f"{where}: found {found[0]}x{found[1]} pixels, the record says {width}x{height}")
        )
    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            if image.mode != "RGB":
                raise RecordError(
                    one_line(f"{where}: found a PNG of mode {image.mode}, allowed is RGB of 8 bits")
                )
            return image.tobytes()
    except (OSError, ValueError, SyntaxError, IndexError) as problem:  # Pillow, on short chunks
        raise RecordError(one_line(f"{where}: a damaged PNG file: {problem}")) from None
