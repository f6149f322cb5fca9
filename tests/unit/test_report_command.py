"""`ernie-qa report` and `compare`: what is refused in one line."""

from pathlib import Path

import pytest

from ernie_qa.cli import main
from ernie_qa.recipe import Recipe
from ernie_qa.record import Record
from ernie_qa.suite import find_suite

Observed = tuple[Recipe, dict[str, Record]]


@pytest.fixture
def stored(observed: Observed, tmp_path: Path) -> Path:
    """A record on disk, of the small suite."""
    observed[1]["lenient"].save(tmp_path / "lenient")
    return tmp_path / "lenient"


def refused(arguments: list[object], output: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What is said on one line; nothing is written."""
    assert main([*map(str, arguments), "--output", str(output)]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert not output.exists()
    return said.err


@pytest.mark.parametrize("command", ["report", "compare"])
def test_what_cannot_be_shown_is_refused(
    stored: Path, small_suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    given: list[object] = [command, stored, stored]
    place = tmp_path / "page"
    said = refused([*given, "--pictures", -1], place, capsys)
    assert said == "ernie-qa: --pictures -1: needed is 0 or more\n"
    said = refused([*given, "--suite", "turbo10"], place, capsys)
    assert said.startswith(
        f"ernie-qa: --suite turbo10: no record here drew it as it is now ({hash_of('turbo10')})"
    )
    assert f"they drew small ({hash_of(small_suite)})" in said
    assert (
        main([*map(str, given), "--suite", str(small_suite), "--pictures", "0", "--output", str(place)]) == 0
    )


def hash_of(suite: str | Path) -> str:
    return find_suite(suite).hash[:12]
