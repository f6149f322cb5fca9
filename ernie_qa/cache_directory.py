"""Where ernie_qa keeps what it can get again."""

import os
from pathlib import Path


def cache_directory() -> Path:
    """$ERNIE_QA_CACHE, or $XDG_CACHE_HOME/ernie_qa, or ~/.cache/ernie_qa; nothing is created."""
    if own := os.environ.get("ERNIE_QA_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ernie_qa"
