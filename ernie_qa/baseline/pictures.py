"""BF16's accepted pictures, which tell later whether BF16 itself has moved: by metrics, never by hash.

The manifest holds the sha256 of each picture's pixels, which guards the files against edits.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ernie_qa.errors import BaselineError, RecordError
from ernie_qa.frozen import SHA256, SHA256_RULE, digest
from ernie_qa.picture import Picture, read_picture
from ernie_qa.record import Record
from ernie_qa.toml_input import one_line, read_json

SCHEMA = 1
FOLDER = "pictures"
MANIFEST = "manifest.json"
LARGEST = 256 * 256
"""Pixels. Larger pictures stay out of git, so a baseline keeps none of them."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """The pictures of the BF16 record whose hash is `record`."""

    record: str
    pictures: tuple[Picture, ...]

    @property
    def hash(self) -> str:
        """The sha256 over the pixels of all of them: what a record says it was compared with."""
        return pictures_hash(self.pictures)

    def text(self) -> str:
        """The manifest."""
        return json.dumps({**self._json(), "hash": digest(self._json())}, indent=1) + "\n"

    def _json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "record": self.record,
            "pictures": [picture.entry() for picture in self.pictures],
        }


def pictures_hash(pictures: Sequence[Picture]) -> str:
    """The sha256 over which cases there are and what their pixels are."""
    return digest({picture.case: picture.sha256 for picture in pictures})


def pictures_of(record: Record) -> Pictures | None:
    """The pictures of a BF16 record as a baseline keeps them; None where they are too large to be kept."""
    if not record.pictures or any(picture.width * picture.height > LARGEST for picture in record.pictures):
        return None
    return Pictures(record.hash, record.pictures)


def read_pictures(directory: Path) -> Pictures | None:
    """The pictures below `directory`, None where it keeps none.

    BaselineError if the manifest or a picture is missing, was edited, or a file is there nobody accepted.
    """
    folder = directory / FOLDER
    if not folder.exists():
        return None
    table = read_json(folder / MANIFEST, BaselineError)
    table.schema(SCHEMA)
    declared = table.text("hash", pattern=SHA256, allowed=SHA256_RULE)
    record = table.text("record", pattern=SHA256, allowed=SHA256_RULE)
    try:
        found = Pictures(record, tuple(read_picture(entry, directory) for entry in table.tables("pictures")))
    except RecordError as error:
        raise BaselineError(f"{error} (an accepted picture: restore it from version control)") from None
    table.finish()
    if digest(found._json()) != declared:
        raise BaselineError(
            one_line(f"{table.file}: was edited: its contents do not match its hash; restore it")
        )
    known = {MANIFEST, *(f"{picture.case}.png" for picture in found.pictures)}
    for file in sorted(folder.iterdir()):
        if file.name not in known:
            raise BaselineError(one_line(f"{file}: not in {MANIFEST}, so nobody accepted it; remove it"))
    return found
