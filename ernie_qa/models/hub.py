"""Models on the Hugging Face hub: what would be fetched, and fetching it into the user's cache."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ernie_qa.errors import ModelError


@dataclass(frozen=True, slots=True)
class Download:
    """What is fetched into the cache at `place`: how many `files`, and their `bytes`; None where unknown."""

    name: str
    place: Path
    files: int | None = None
    bytes: int | None = None


def snapshot(repo: str, revision: str | None, ignored: Iterable[str], *, fetch: bool = True) -> Path:
    """The hub's snapshot of `repo`, without the files of `ignored` suffixes; the commit is its folder's name.

    Under HF_HUB_OFFLINE, or without `fetch`, only the cache is looked at. ModelError if it is not to be had.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of whichever httpx it uses

    local = _offline() or not fetch
    patterns = [f"*{suffix}" for suffix in sorted(ignored)]
    try:
        return Path(
            snapshot_download(repo, revision=revision, local_files_only=local, ignore_patterns=patterns)
        )
    except (OSError, ValueError, HTTPError) as problem:
        where = "in the local cache" if local else "on the hub"
        raise _absent(repo, revision, where, problem) from None


def missing(repo: str, revision: str | None, ignored: Iterable[str]) -> Download | None:
    """What `snapshot` would fetch of `repo`, by the hub's own list of its files; nothing is fetched.

    None where all of it is in the cache, or something is and the hub does not answer. ModelError where it
    does not, or does not know `repo`, and nothing is in the cache.
    """
    from huggingface_hub import constants, model_info, try_to_load_from_cache
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    # not snapshot_download's own dry run: it moves the cached branch to a commit that is not in the cache
    try:
        listed = model_info(repo, revision=revision, files_metadata=True)
    except (OSError, ValueError, HTTPError) as problem:
        try:
            snapshot(repo, revision, ignored, fetch=False)
        except ModelError:
            if _offline():
                raise
            where = "on the hub, so that its size is unknown"
            raise _absent(repo, revision, where, problem) from None
        return None
    lacking = [
        file
        for file in listed.siblings or ()
        if PurePosixPath(file.rfilename).suffix not in ignored
        and not isinstance(try_to_load_from_cache(repo, file.rfilename, revision=listed.sha), str)
    ]
    if not lacking:
        return None
    size = sum(file.size or 0 for file in lacking)
    return Download(_named(repo, revision), Path(constants.HF_HUB_CACHE), len(lacking), size)


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _absent(repo: str, revision: str | None, where: str, problem: Exception) -> ModelError:
    reason = f"{type(problem).__name__}: {(str(problem).strip().splitlines() or ['?'])[0]}"
    set_so = " (HF_HUB_OFFLINE is set)" if _offline() else ""
    return ModelError(
        f"{_named(repo, revision)}: no such directory here, and not to be had {where}{set_so}: {reason}"
    )


def _named(repo: str, revision: str | None) -> str:
    return f"{repo}@{revision}" if revision else repo
