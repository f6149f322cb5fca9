"""Which parts of a directory that is being written are done: what an interrupted run leaves to the next one.

A part is a component, in a folder of its name. It is written under another name, which it changes for its own
when it is whole; only then it is listed. What is not listed is half, and is removed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ernie_qa.durable import flush_all, move, write
from ernie_qa.frozen import digest

PARTIAL = ".partial"
"""The folder that a part is written in; no component's name begins with a dot."""
_LIST = "parts.json"


@dataclass(frozen=True, slots=True)
class Part:
    """One component: its `quantizer`, None where it was copied, bytes of its files, and what making it took.

    `peak_allocated` is what torch held at most on the GPU meanwhile, None on a CPU and for a copy;
    `peak_resident` what the process had held in main memory until then, mapped files included.
    """

    name: str
    quantizer: str | None
    before: int
    after: int
    seconds: float
    peak_allocated: int | None
    peak_resident: int


class Parts:
    """The parts of one undertaking, which `what` tells from any other: model, recipe, versions, device."""

    def __init__(self, what: Mapping[str, Any]) -> None:
        self._key = digest(what)

    def of(self, hidden: Path) -> tuple[Part, ...]:
        """The parts that are whole in `hidden`, in the order they were made; none if it is of another."""
        try:
            stored = json.loads((hidden / _LIST).read_text(encoding="utf-8"))
            if stored["key"] != self._key:
                return ()
            listed = tuple(Part(**entry) for entry in stored["parts"])
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return ()
        return tuple(part for part in listed if (hidden / part.name).is_dir())

    def add(self, hidden: Path, part: Part) -> None:
        """Give what was written in `PARTIAL` its name, and list it."""
        flush_all(hidden / PARTIAL)
        move(hidden / PARTIAL, hidden / part.name)
        parts = [asdict(one) for one in (*self.of(hidden), part)]
        write(hidden / _LIST, json.dumps({"key": self._key, "parts": parts}, indent=1) + "\n")

    def kept(self, hidden: Path) -> bool:
        """Whether a part in `hidden` is whole; if so, whatever else is there is removed."""
        whole = {part.name for part in self.of(hidden)}
        if not whole:
            return False
        for entry in hidden.iterdir():
            if entry.is_dir() and entry.name not in whole:
                shutil.rmtree(entry, ignore_errors=True)
            elif not entry.is_dir() and entry.name != _LIST:
                entry.unlink(missing_ok=True)
        return True

    def forget(self, hidden: Path) -> None:
        """Remove the list: the directory is whole."""
        (hidden / _LIST).unlink()
