import tomllib
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONSTRAINTS = [
    line
    for line in (ROOT / ".github" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]
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
    optional = (one for name in ("cluster", "text", "xdist") for one in extras[name])
    lower_bounds = versions((*PROJECT["dependencies"], *optional), ">=")
    assert [package for package, bounds in lower_bounds.items() if len(bounds) != 1] == []
    pins = [line for line in OLDEST.splitlines() if not line.startswith("#")]
    assert versions(pins, "==") == lower_bounds


def test_the_constraints_hold_every_dependency_that_the_machine_does_not_choose() -> None:
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *(line for name in extras for line in extras[name])]
    pins = {canonicalize_name(name): found for name, found in versions(CONSTRAINTS, "==").items()}
    assert all(len(found) == 1 for found in pins.values())
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        if name not in ("ernie-qa", "torch", "torchvision"):
            assert pins[name][0] in requirement.specifier, name
