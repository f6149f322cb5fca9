"""One gate under two releases of sdnq: the one that is installed, and a wheel of it with a planted change."""

import importlib.metadata
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ernie_qa.record import load_record

NAME, CHANGED = "sdnq", "0.2.999"
PLACE = "sdnq/quant_utils.py"
SCALE = '.div_(dtype_dict[weights_dtype]["max"])'


def wheel_of(directory: Path, change: tuple[str, str]) -> Path:
    """The installed sdnq as a wheel of a later release, with one replacement."""
    found = importlib.metadata.distribution(NAME)
    assert found.files
    held = {
        str(file): Path(str(file.locate())).read_bytes()
        for file in found.files
        if file.suffix != ".pyc" and file.name not in ("RECORD", "INSTALLER", "direct_url.json", "REQUESTED")
    }
    source = held[PLACE].decode()
    assert change[0] in source
    held[PLACE] = source.replace(*change).encode()
    old, new = f"{NAME}-{found.version}.dist-info", f"{NAME}-{CHANGED}.dist-info"
    held = {name.replace(old, new): content for name, content in held.items()}
    said = held[f"{new}/METADATA"].replace(
        f"\nVersion: {found.version}\n".encode(), f"\nVersion: {CHANGED}\n".encode()
    )
    held[f"{new}/METADATA"] = said
    held[f"{new}/RECORD"] = "".join(f"{name},,\n" for name in (*held, f"{new}/RECORD")).encode()
    wheel = directory / f"{NAME}-{CHANGED}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in held.items():
            archive.writestr(name, content)
    return wheel


@dataclass(frozen=True)
class Run:
    done: subprocess.CompletedProcess[str]
    out: Path


@pytest.fixture(scope="module")
def coarser(
    tiny_model: Path,
    small_suite: Path,
    write_recipe: Callable[[str, float], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    """Both recipes pass with what is installed; with scales of 40 times as much one fails."""
    place = tmp_path_factory.mktemp("ab")
    wheel = wheel_of(place, (SCALE, f"{SCALE}.mul_(40)"))
    recipes = [
        f"--recipe={write_recipe(name, limit)}" for name, limit in (("lenient", 1.0), ("strict", 0.005))
    ]
    command = [sys.executable, "-m", "ernie_qa.cli", "ab", "--with", f"{NAME} @ {wheel.as_uri()}", *recipes]
    command += [f"--model={tiny_model}", f"--suite={small_suite}", "--device=cpu", "--all-rungs"]
    command += [f"--report={place / 'out'}"]
    return Run(subprocess.run(command, capture_output=True, text=True, check=False), place / "out")


def test_what_the_release_changes_is_told(coarser: Run) -> None:
    said = coarser.done.stdout
    assert coarser.done.returncode == 1, (said, coarser.done.stderr)
    assert said.startswith(f"A: as it is installed\nB: {NAME} @ {NAME}-{CHANGED}-py3-none-any.whl\n")
    assert f"A and B differ in packages.sdnq: {importlib.metadata.version(NAME)} / {CHANGED}\n" in said
    assert "BF16 is the same in both: 2 of 2 pictures to the bit\n" in said
    told = {tuple(line.split()[:2]): line.split()[2:] for line in said.splitlines()}
    assert told["strict", "verdict"] == ["PASS", "FAIL", "worse"]
    assert told["lenient", "verdict"] == ["PASS", "PASS", "same"]
    assert told["lenient", "images.lpips_mean"][2] == "worse"
    assert told["lenient:", "the"][-7:] == ["0", "of", "2", "pictures", "to", "the", "bit"]


def test_the_runs_and_the_table_are_kept(coarser: Run) -> None:
    table = (coarser.out / "ab.md").read_text(encoding="utf-8")
    assert "| strict | verdict | PASS | FAIL | worse |" in table
    releases = {
        side: load_record(coarser.out / side / "lenient").fingerprint.packages[NAME] for side in ("a", "b")
    }
    assert releases == {"a": importlib.metadata.version(NAME), "b": CHANGED}
    assert (coarser.out / "b" / "index.html").is_file()


def test_this_environment_stays_as_it_is(coarser: Run) -> None:
    assert importlib.metadata.version(NAME) != CHANGED
    assert (
        SCALE + ".mul_(40)"
        not in Path(str(importlib.metadata.distribution(NAME).locate_file(PLACE))).read_text()
    )


def test_a_gate_that_cannot_run_compares_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ernie_qa.cli", "ab", "--with", NAME, "--model", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    *_, why, last = done.stderr.splitlines()
    assert str(tmp_path) in why
    assert last == "ernie-qa: A, as it is installed: no verdict there, as told above: nothing is compared"
