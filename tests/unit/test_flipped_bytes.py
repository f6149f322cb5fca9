"""One bit anywhere in what was accepted is found: in every file of the shipped baselines."""

import random
import shutil
from pathlib import Path

import pytest

from ernie_qa.cli import main

SHIPPED = Path(__file__).parents[2] / "baselines"
FILES = sorted(file.relative_to(SHIPPED) for file in SHIPPED.rglob("*.*") if file.suffix in (".json", ".png"))
FLIPS = 8


def test_every_file_is_looked_at() -> None:
    assert {file.suffix for file in FILES} == {".json", ".png"}
    rest = {file.name for file in SHIPPED.rglob("*") if file.is_file()} - {file.name for file in FILES}
    assert rest <= {"README.md"}


@pytest.fixture(scope="module")
def baselines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(SHIPPED, tmp_path_factory.mktemp("copied") / "baselines")


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_flipped_bit_is_found(file: Path, baselines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (baselines / file).read_bytes()
    chance = random.Random(str(file))
    for _ in range(FLIPS):
        place = chance.randrange(len(whole))
        flipped = bytearray(whole)
        flipped[place] ^= 1 << chance.randrange(8)
        (baselines / file).write_bytes(flipped)
        assert main(["baseline", "verify", "--baselines", str(baselines)]) == 2, (place, bytes(flipped))
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        assert said[0].startswith("ernie-qa: ")
        assert str(file.parent) in said[0] or str(file.parent.parent) in said[0]
    (baselines / file).write_bytes(whole)
