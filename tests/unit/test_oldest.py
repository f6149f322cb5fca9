import tomllib
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OLDEST = (ROOT / ".github" / "oldest.txt").read_text(encoding="utf-8")


def versions(lines: Iterable[str], operator: str) -> dict[str, list[Version]]:
    """The versions that each requirement names with `operator`, by package."""
    requirements = [Requirement(line) for line in lines]
    found = {
        requirement.name: [
            Version(part.version) for part in requirement.specifier if part.operator == operator
        ]
        for requirement in requirements
    }
    assert len(found) == len(requirements), "a package is named twice"
    return found


def test_it_pins_every_dependency_to_its_lower_bound() -> None:
    extras = PROJECT["optional-dependencies"]
    lower_bounds = versions(PROJECT["dependencies"] + extras["text"] + extras["xdist"], ">=")
    assert [package for package, bounds in lower_bounds.items() if len(bounds) != 1] == []
    pins = [line for line in OLDEST.splitlines() if not line.startswith("#")]
    assert versions(pins, "==") == lower_bounds
