"""The one file to attach to a bug report: a diagnosis without whose machine it is.

Out go the home directory, user and host names, access tokens and the directories above what was given. Texts
are cleaned before they are written as JSON.
"""

from __future__ import annotations

import getpass
import io
import json
import platform
import re
import socket
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_qa.diagnose.findings import MATTERS
from ernie_qa.errors import InputError
from ernie_qa.redaction import redacted, without_homes, without_secrets
from ernie_qa.toml_input import one_line

if TYPE_CHECKING:
    from ernie_qa.diagnose import Diagnosis

SCHEMA = 1
TOLD = (*MATTERS, "cpu", "threads")
"""The doctor's topics that are told: the others are about gates, and name directories."""
NAME, PICTURE = "diagnosis.json", "diagnosis.png"
SUFFIXES = (".json", ".zip")


def check_output(file: Path) -> None:
    """InputError where a diagnosis cannot be written to `file`."""
    if file.suffix not in SUFFIXES:
        raise InputError(one_line(f"{file}: needed is a file that ends in {' or '.join(SUFFIXES)}"))
    for one in (file, file.with_suffix(".png")):
        if one.exists() and (one == file or file.suffix == ".json"):
            raise InputError(one_line(f"{one}: exists already; name another file"))
    if not file.parent.is_dir():
        raise InputError(one_line(f"{file.parent}: no such directory; make it, or name another"))


def write(found: Diagnosis, file: Path, *given: Path) -> tuple[Path, ...]:
    """Write `found` to `file`, JSON or a zip of it, and the picture beside it or into it; the files written.

    `given` are the paths that were named on the command line: only their last parts are kept. InputError
    where it cannot be written.
    """
    text = json.dumps(document(found, *given), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    content = {NAME: text.encode("utf-8", "backslashreplace")}
    if found.picture is not None:
        content[PICTURE] = found.picture
    if file.suffix == ".zip":
        contents = {file: _zipped(content)}
    else:
        places = {NAME: file, PICTURE: file.with_suffix(".png")}
        contents = {places[name]: data for name, data in content.items()}
    for place, data in contents.items():
        try:
            with place.open("xb") as opened:
                opened.write(data)
        except OSError as problem:
            raise InputError(one_line(f"{place}: cannot be written: {problem.strerror or problem}")) from None
    return tuple(contents)


def _zipped(content: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            # without a time, which ZipInfo has none of by itself
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def document(found: Diagnosis, *given: Path) -> dict[str, Any]:
    """All of it as JSON values, cleaned."""
    ran = found.ran
    looked = ran.looked if ran else None
    values = {
        "schema": SCHEMA,
        "clean": found.clean,
        "model": found.model,
        "recipe": {"name": found.recipe, "source": found.source},
        "findings": [asdict(one) for one in found.findings],
        "not_looked_at": list(found.unseen),
        "settings": [
            {name: asdict(setting) for name, setting in call.settings.items()} for call in found.calls
        ],
        "recommended": asdict(found.sampling) if found.sampling else None,
        "checks": [asdict(one) for one in looked.checks] if looked else None,
        "figures": looked.figures if looked else None,
        "capsule": {
            "file": found.capsule,
            "findings": [asdict(one) for one in ran.compared],
            "notes": list(ran.notes),
        }
        if ran and ran.compared is not None
        else None,
        "memory": {**found.memory, "peaks": ran.peaks if ran else None},
        "environment": {
            "doctor": [asdict(one) for one in found.machine if one.topic in TOLD],
            "fingerprint": found.fingerprint.values(),
        },
    }
    cleaned: dict[str, Any] = redacted(values, cleaner(*given))
    return cleaned


def cleaner(*given: Path) -> Callable[[str], str]:
    """What takes this machine's names out of a text; of the paths `given` it leaves the last part."""
    above = {
        f"{form.parent}/"
        for path in given
        for form in (path, path.absolute(), path.resolve())
        if form.parent not in (Path(), Path("/"))
    }
    order = sorted(above, key=len, reverse=True)
    words = dict.fromkeys(_users(), "<user>") | dict.fromkeys(_hosts(), "<host>")

    def clean(text: str) -> str:
        text = without_secrets(text)
        for directory in order:
            text = text.replace(directory, "")
        text = without_homes(text)
        for word, instead in words.items():
            text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])", instead, text)
        return text

    return clean


def _users() -> set[str]:
    found = {Path.home().name}
    # a container may give its user no name
    with suppress(KeyError, OSError):
        found.add(getpass.getuser())
    return found - {""}


def _hosts() -> set[str]:
    names = {socket.gethostname(), platform.node()}
    return (names | {name.partition(".")[0] for name in names}) - {"", "localhost"}
