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
    """The hub's snapshot of `repo`, without files of the `ignored` suffixes; its folder is named by the commit.

    Under HF_HUB_OFFLINE, or without `fetch`, only the cache is looked at. ModelError if it is not to be had.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    patterns = [f"*{suffix}" for suffix in sorted(ignored)]
    try:
        return Path(
            snapshot_download(
                repo, revision=revision, local_files_only=offline or not fetch, ignore_patterns=patterns
            )
        )
    except (OSError, ValueError, HfHubHTTPError) as problem:
        reason = f"{type(problem).__name__}: {(str(problem).strip().splitlines() or ['?'])[0]}"
        where = "on the hub"
        if offline:
            where = "in the local cache (HF_HUB_OFFLINE is set)"
        elif not fetch:
            where = "in the local cache, and the hub does not say what it holds"
        what = f"{repo}@{revision}" if revision else repo
        raise ModelError(f"{what}: no such directory here, and not to be had {where}: {reason}") from None


def missing(repo: str, revision: str | None, ignored: Iterable[str]) -> Download | None:
    """What `snapshot` would fetch of `repo`, by the hub's own list of its files.

    None where all of them are in the cache, or where the hub does not answer or does not know `repo`.
    """
    from huggingface_hub import constants, model_info, try_to_load_from_cache
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of whichever httpx it uses

    # snapshot_download's own dry run would move the cached branch to a commit that is not in the cache
    try:
        listed = model_info(repo, revision=revision, files_metadata=True)
    except (OSError, ValueError, HTTPError):
        return None
    lacking = [
        file
        for file in listed.siblings or ()
        if PurePosixPath(file.rfilename).suffix not in ignored
        and not isinstance(try_to_load_from_cache(repo, file.rfilename, revision=listed.sha), str)
    ]
    if not lacking:
        return None
    return Download(
        f"{repo}@{revision}" if revision else repo,
        Path(constants.HF_HUB_CACHE),
        len(lacking),
        sum(file.size or 0 for file in lacking),
    )
