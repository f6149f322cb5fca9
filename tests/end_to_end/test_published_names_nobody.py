"""What is published of an artifact names nobody and no machine: artifact, capsule, card, report."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ernie_qa.fidelity.lpips_weights import cache_path

USER, HOST = "kunigunde", "wartburg17"
TOKEN = "hf_" + "aBcDeFgHiJ" * 3
NAMED = f"""
import platform, socket, sys
socket.gethostname = platform.node = lambda: "{HOST}"
from ernie_qa.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def home(
    tiny_model: Path,
    small_suite: Path,
    write_recipe: Callable[[str, float], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Somebody's home directory, in which an artifact was made, gated and put into a capsule and a card."""
    home = tmp_path_factory.mktemp("homes") / USER
    home.mkdir()
    shutil.copytree(tiny_model, home / "model")
    suite, recipe = shutil.copy(small_suite, home), shutil.copy(write_recipe("lenient", 1.0), home)
    artifact = home / "tiny-int8"
    common = ["--recipe", recipe, "--device", "cpu"]
    commands: tuple[list[object], ...] = (
        ["quantize", home / "model", *common, "--output", artifact],
        ["gate", "--model", home / "model", *common, "--suite", suite, "--artifact", f"lenient={artifact}",
         "--report", home / "out"],
        ["capsule", "export", home / "model", artifact, *common, "--suite", suite, "-o", home / "a.capsule"],
        ["card", home / "out", "--artifact", artifact, "--suite", suite, "--recipe", recipe],
    )  # fmt: skip
    settings = {
        "HOME": str(home),
        "USER": USER,
        "LOGNAME": USER,
        "HF_TOKEN": TOKEN,
        "SDNQ_NOTE": f"{home}/cache {TOKEN}",
        "ERNIE_QA_CACHE": str(cache_path().parent),
    }
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-c", NAMED, *map(str, command)],
            cwd=home,
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        assert TOKEN not in done.stdout + done.stderr
    return home


@pytest.mark.parametrize(
    ("place", "holds"),
    [
        ("tiny-int8", {"runtime_config.json", "README.md", "record.json"}),
        ("out", {"verdict.json", "verdict.md", "index.html", "record.json"}),
        ("a.capsule", {"a.capsule"}),
    ],
)
def test_it_names_nobody(home: Path, place: str, holds: set[str]) -> None:
    files = [file for file in (home / place, *(home / place).rglob("*")) if file.is_file()]
    assert holds <= {file.name for file in files}
    for file in files:
        content = file.read_bytes()
        for word in (USER, HOST, TOKEN, str(home.parent)):
            assert word.encode() not in content, (file, word)


def test_the_setting_did_get_there(home: Path) -> None:
    assert '"~/cache <token>"' in (home / "out" / "lenient" / "record.json").read_text(encoding="utf-8")
