"""The directory that outlives a run, and small JSON files in it."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from ernie_qa.durable import write


def cache_directory() -> Path:
    """$ERNIE_QA_CACHE, or $XDG_CACHE_HOME/ernie_qa, or ~/.cache/ernie_qa; nothing is created."""
    if own := os.environ.get("ERNIE_QA_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ernie_qa"


def kept(path: Path) -> Any:
    """The JSON value in that file; None where there is none that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def keep(path: Path, value: Any) -> None:
    """Write a JSON value there, whole or not at all. What cannot be written is not kept."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, json.dumps(value, ensure_ascii=False))
