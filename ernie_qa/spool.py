"""Bytes that wait on disk and not in memory, in a file without a name: the kernel frees it with the last that
holds it, however the process ends."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from ernie_qa.durable import cannot
from ernie_qa.errors import UnavailableError


class Spool:
    """One such file, below TMPDIR. UnavailableError where it cannot be made. Threads may share it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._size = 0
        try:
            # without a buffer, what does not fit is told by `keep`
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed with the last that needs it
        except OSError as problem:
            raise UnavailableError(f"pictures wait in a temporary file: {problem}; set TMPDIR") from None

    def keep(self, content: bytes) -> Spooled:
        """Write `content` at the end. UnavailableError where there is no room for it."""
        with self._lock:
            at, left = self._size, memoryview(content)
            try:
                while left:
                    left = left[os.pwrite(self._file.fileno(), left, self._size) :]
                    self._size = at + len(content) - len(left)
            except OSError as problem:
                self._size = at
                raise UnavailableError(cannot(Path(tempfile.gettempdir()), problem)) from None
        return Spooled(self, at, len(content))

    def read(self, at: int, size: int) -> bytes:
        """`size` bytes that were kept, `at` that offset."""
        return os.pread(self._file.fileno(), size, at)


@dataclass(frozen=True, slots=True, eq=False)
class Spooled:
    """Some bytes of a spool, for as long as somebody holds them; pickled, they are bytes."""

    _spool: Spool
    _at: int
    _size: int

    def content(self) -> bytes:
        """The bytes themselves."""
        return self._spool.read(self._at, self._size)

    def __reduce__(self) -> tuple[type[bytes], tuple[bytes]]:
        return bytes, (self.content(),)
