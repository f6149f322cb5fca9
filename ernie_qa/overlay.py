"""Python environments that lie over this one: the same packages, but for the releases that are asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from ernie_qa.errors import InputError, UnavailableError
from ernie_qa.toml_input import one_line

_HERE = "ernie_qa_over.pth"
_BELOW = ("site-packages", "dist-packages")
# what of a package is found first, in the order in which imports look
_ASK = """
import json, sys
from importlib.metadata import PackageNotFoundError, version
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def requirements(texts: Sequence[str]) -> tuple[Requirement, ...]:
    """The requirements that `texts` name, as `sdnq==0.2.8` or `sdnq @ file:///tmp/sdnq.whl`.

    InputError for what pip would not read, and for releases that ernie_qa itself does not run with.
    """
    own = [Requirement(text) for text in requires("ernie-qa") or ()]
    needs = {canonicalize_name(one.name): one.specifier for one in own if one.marker is None}
    found = []
    for text in texts:
        try:
            wanted = Requirement(text)
        except InvalidRequirement as problem:
            raise InputError(
                one_line(f"--with {text}: {problem}; name a release as pip does, as in sdnq==0.2.8")
            ) from None
        exact = [one.version for one in wanted.specifier if one.operator == "==" and "*" not in one.version]
        allowed = needs.get(canonicalize_name(wanted.name), SpecifierSet())
        if not all(allowed.contains(version, prereleases=True) for version in exact):
            raise InputError(f"--with {text}: ernie-qa needs {wanted.name}{allowed}; name one of those")
        found.append(wanted)
    return tuple(found)


def overlay(directory: Path, wanted: Sequence[Requirement]) -> Path:
    """Make an environment in the new `directory`, and return its interpreter.

    pip installs there what is `wanted` and what that needs; all else is found where this interpreter finds
    it. UnavailableError where pip is not here, or cannot install it, or something else is found first.
    """
    _make(directory)
    python = directory / "bin" / "python"
    if wanted:
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += ["--no-input", "--no-warn-conflicts", *map(str, wanted)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UnavailableError(_why(wanted, done.stdout + done.stderr))
        _check(python, wanted)
    return python


def _make(directory: Path) -> None:
    try:
        venv.create(directory, symlinks=True, with_pip=False)
    except OSError as problem:
        raise UnavailableError(
            one_line(f"{directory}: no environment can be made there: {problem.strerror or problem}")
        ) from None
    (site,) = directory.glob("lib/python*/site-packages")
    below = [str(Path(one).absolute()) for one in sys.path if Path(one).name in _BELOW]
    # addsitedir, for an editable install is a .pth file itself; what is in `site` stays first
    (site / _HERE).write_text(
        "".join(f"import site; site.addsitedir({one!r})\n" for one in below), encoding="utf-8"
    )


def _check(python: Path, wanted: Sequence[Requirement]) -> None:
    """UnavailableError where imports would not find what pip has installed."""
    names = [one.name for one in wanted]
    asked = subprocess.run([python, "-c", _ASK, *names], capture_output=True, text=True, check=True)
    found = json.loads(asked.stdout)
    for one in wanted:
        version = found.get(one.name)
        if version is None or not one.specifier.contains(version, prereleases=True):
            blame = "PYTHONPATH has another" if os.environ.get("PYTHONPATH") else "another lies before it"
            raise UnavailableError(f"--with {one}: imports find {one.name} {version}: {blame}; take it away")


def _why(wanted: Sequence[Requirement], said: str) -> str:
    """What pip said in one line."""
    asked = ", ".join(map(str, wanted))
    if "No module named pip" in said:
        return f"--with {asked}: pip is missing in this environment: `python -m ensurepip` adds it"
    errors = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR: ")]
    told = errors[-1] if errors else (said.strip().splitlines() or ["pip failed and said nothing"])[-1]
    return one_line(f"--with {asked}: pip cannot install it: {told}")
