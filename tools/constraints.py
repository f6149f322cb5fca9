"""Write .github/constraints.txt: the releases in this environment of all that `ernie-qa[dev]` needs.

    python tools/constraints.py

Run it in an environment in which the tests passed. Torch, torchvision and what they bring (Triton, CUDA's
libraries) are left out: which build fits is the machine's to say, and .github/oldest.txt has the oldest.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PLACE = Path(__file__).parents[1] / ".github" / "constraints.txt"
HEAD = """\
# The releases that the tests pass with, as constraints: pip install -c .github/constraints.txt -e '.[dev]'
# Written by tools/constraints.py, which says what is left out.
"""
OF_THE_MACHINE = re.compile(r"torch|torchvision|triton|nvidia-(?!ml-py$).*|cuda-.*")


def releases() -> dict[str, str]:
    """Distribution -> release of all that is needed here, by whichever way."""
    found: dict[str, str] = {}
    left = [Requirement("ernie-qa[dev]")]
    seen = set[tuple[str, frozenset[str]]]()
    while left:
        wanted = left.pop()
        name, extras = canonicalize_name(wanted.name), frozenset(wanted.extras)
        if (name, extras) in seen or OF_THE_MACHINE.fullmatch(name):
            continue
        seen.add((name, extras))
        try:
            here = distribution(name)
        except PackageNotFoundError:
            raise SystemExit(f"{name} is not installed here: pip install -e '.[dev]' first") from None
        if name != "ernie-qa":
            found[name] = here.version
        for text in here.requires or ():
            one = Requirement(text)
            if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                left.append(one)
    return dict(sorted(found.items()))


def main() -> None:
    """Write the file and say how many there are."""
    lines = [f"{name}=={version}\n" for name, version in releases().items()]
    PLACE.write_text(HEAD + "".join(lines), encoding="utf-8")
    print(f"{PLACE.name}: {len(lines)} releases")


if __name__ == "__main__":
    main()
