"""One hash-pinned source distribution from the user's own package index, downloaded and never run.

`pip download` would run the package's setup.py, and fetch a build backend for it, only to learn a name
that is known. unearth finds and downloads, and does no more; which index it asks is what pip would ask.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ernie_qa.errors import UnavailableError

if TYPE_CHECKING:
    from unearth import Link, PackageFinder


def download_sdist(package: str, version: str, sha256: str, directory: Path) -> Path:
    """Download the source distribution of `package` == `version`, with a progress bar on stderr.

    Returns the archive's path: in `directory`, or where a local index keeps it. UnavailableError where no
    index answers, none has it, or its sha256 is another.
    """
    from httpx2 import HTTPError
    from tqdm import tqdm
    from unearth.errors import UnpackError

    finder = _finder(package)
    hashes = {"sha256": [sha256]}
    try:
        best = finder.find_best_match(f"{package}=={version}").best if finder.sources else None
        if best is None:
            raise UnavailableError(
                f"no package index that pip is set up for answers with {package} {version}"
            )
        with tqdm(desc=f"{package} {version}", unit="B", unit_scale=True, delay=0.2) as bar:

            def report(link: Link, completed: int, total: int | None) -> None:
                bar.total = total
                bar.update(completed - bar.n)

            return finder.download(best.link, directory, hashes, download_reporter=report)
    except (HTTPError, UnpackError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UnavailableError(f"downloading {package} {version} failed: {reason}") from error


def _finder(package: str) -> PackageFinder:
    """A finder over the indexes that pip is configured for; without sources where pip may not ask any."""
    from unearth import PackageFinder

    settings = _pip_settings()

    def values(key: str) -> list[str]:
        return settings.get(key, "").split()

    if values("no-index") and values("no-index")[0].lower() not in ("0", "false", "no", "off"):
        finder = PackageFinder(no_binary=[package], find_links=values("find-links"))
        if not values("find-links"):
            finder.sources.clear()
        return finder
    finder = PackageFinder(
        index_urls=values("index-url"), trusted_hosts=values("trusted-host"), no_binary=[package]
    )
    for url in values("extra-index-url"):
        finder.add_index_url(url)
    for link in values("find-links"):
        finder.add_find_links(link)
    return finder


def _pip_settings() -> dict[str, str]:
    """What `pip download` would go by: files, their own section, then PIP_* variables. Empty without pip."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    found: dict[str, dict[str, str]] = {"global": {}, "download": {}, ":env:": {}}
    for line in listing.stdout.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if section in found:
            found[section][key] = str(ast.literal_eval(value))
    return found["global"] | found["download"] | found[":env:"]
