"""What BF16 fed each part, beside its record: one safetensors file, held by its hash and read when needed.

Imports no torch: who reads the tensors does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ernie_qa.errors import RecordError
from ernie_qa.toml_input import one_line

FILE = "trajectories.safetensors"
"""Its name in a record's directory."""


@dataclass(frozen=True, slots=True)
class Trajectories:
    """A safetensors file of `size` bytes and that `sha256`: in memory, or on disk until it is read."""

    sha256: str
    size: int
    _source: bytes | Path = field(compare=False, repr=False)

    @classmethod
    def from_bytes(cls, content: bytes) -> Trajectories:
        """The trajectories that `content`, a safetensors file, holds."""
        return cls(hashlib.sha256(content).hexdigest(), len(content), content)

    @classmethod
    def from_file(cls, file: Path, sha256: str) -> Trajectories:
        """Those in `file`. RecordError where it is missing, cannot be read, or is not of that `sha256`."""
        try:
            if file.is_symlink() or not file.is_file():
                raise RecordError(one_line(f"{file}: missing, but record.json names it; observe again"))
            with file.open("rb") as opened:
                found = hashlib.file_digest(opened, "sha256").hexdigest()
            size = file.stat().st_size
        except OSError as problem:
            raise RecordError(one_line(f"{file}: cannot be read: {problem.strerror or problem}")) from None
        if found != sha256:
            raise RecordError(one_line(f"{file}: {_EDITED}"))
        return cls(sha256, size, file)

    def content(self) -> bytes:
        """The whole file. RecordError where it has gone, or changed since."""
        if isinstance(self._source, bytes):
            return self._source
        try:
            content = self._source.read_bytes()
        except OSError as problem:
            raise RecordError(
                one_line(f"{self._source}: cannot be read: {problem.strerror or problem}")
            ) from None
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise RecordError(one_line(f"{self._source}: {_EDITED}"))
        return content

    def __reduce__(self) -> tuple[Callable[[bytes], Trajectories], tuple[bytes]]:
        # a file is of one host, and what is pickled may go to another
        return Trajectories.from_bytes, (self.content(),)


_EDITED = "was edited: it does not match the record's sha256; observe again"
