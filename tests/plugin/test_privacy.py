"""What a gate prints and writes names neither tokens nor whose machine it is, whatever libraries say."""

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ernie_qa.cli import main

from .conftest import Gated

USER, HOST = "kunigunde", "wartburg17"
TOKEN = "hf_" + "aBcDeFgHiJ" * 3
SECRET = "correct-horse-battery"
PLANTED = f'''
"""Libraries that say all that they know, on a machine with a name."""
import os, platform, socket
from ernie_qa import observer
from ernie_qa.quantizers import sdnq
from ernie_qa.rungs import text

socket.gethostname = platform.node = lambda: "{HOST}"
load, fresh_weight = observer.load_pipeline, sdnq.fresh_weight

def loading(model, recipe, device, **options):
    if recipe.name == "broken":
        token, secret = os.environ["HF_TOKEN"], os.environ["STORE_PASSWORD"]
        url = f"https://me:{{secret}}@there"
        raise RuntimeError(f"403 for {{url}} with {{token}}, {{secret}}: see {{model.path}}/pe")
    return load(model, recipe, device, **options)

def moved(*given):
    place = os.environ["HOME"] + "/venv/sdnq/__init__.py"
    raise ImportError(f"cannot import name 'x' from 'sdnq' ({{place}}), {TOKEN}")

observer.load_pipeline, sdnq.fresh_weight = loading, moved
'''


@dataclass(frozen=True)
class Run:
    done: subprocess.CompletedProcess[str]
    home: Path

    def written(self) -> dict[str, bytes]:
        """Name -> content of every file that was written."""
        places = ("out", "kept", "summary.md")
        files = (file for name in places for file in (self.home / name, *(self.home / name).rglob("*")))
        return {str(file.relative_to(self.home)): file.read_bytes() for file in files if file.is_file()}


@pytest.fixture(scope="module")
def run(
    gated: Gated,
    tiny_model: Path,
    small_suite: Path,
    write_recipe: Callable[[str, float], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    """In somebody's home directory: a recipe that passes, one that fails, and one that breaks off."""
    home = tmp_path_factory.mktemp("homes") / USER
    home.mkdir()
    shutil.copytree(tiny_model, home / "model")
    shutil.copy(small_suite, home)
    (home / "zplanted.py").write_text(PLANTED)
    names = ("lenient", "strict", "broken")
    for name in names:
        text = write_recipe(name, 0.0 if name == "strict" else 1.0).read_text(encoding="utf-8")
        (home / f"{name}.toml").write_text(text, encoding="utf-8")
    done = gated(
        home,
        *("-p", "zplanted", f"--ernie-model={home / 'model'}", "--ernie-suite=small.toml"),
        *(f"--ernie-recipe={home / name}.toml" for name in names),
        *("--ernie-report=out", "--ernie-baselines=kept", "--ernie-update"),
        environment={
            "HOME": str(home),
            "USER": USER,
            "LOGNAME": USER,
            "HF_TOKEN": TOKEN,
            "STORE_PASSWORD": SECRET,
            "SDNQ_NOTE": f"{home}/cache {TOKEN}",
            "PYTHONPATH": os.pathsep.join([str(home), os.environ.get("PYTHONPATH", "")]),
            "GITHUB_STEP_SUMMARY": str(home / "summary.md"),
        },
    )
    return Run(done, home)


def test_no_secret_is_printed(run: Run) -> None:
    assert run.done.returncode == pytest.ExitCode.TESTS_FAILED, run.done.stdout + run.done.stderr
    printed = run.done.stdout + run.done.stderr
    assert "broken broke off: RuntimeError: 403 for https://there with <token>, <token>: see " in printed
    assert TOKEN not in printed
    assert SECRET not in printed


def test_what_is_written_names_nobody(run: Run) -> None:
    written = run.written()
    names = {Path(name).name for name in written}
    assert {"verdict.json", "verdict.md", "index.html", "record.json", "one.png", "summary.md"} <= names
    # the planted words did get there, without what they named
    said = written["out/lenient/record.json"].decode()
    assert "cannot import name 'x' from 'sdnq' (~/venv/sdnq/__init__.py), <token>" in said
    assert '"SDNQ_NOTE"' in said
    for name, content in written.items():
        for word in (USER, HOST, TOKEN, SECRET, str(run.home.parent)):
            assert word.encode() not in content, (name, word)


def test_a_stored_record_is_shown_without_them(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(run.home))
    page = tmp_path / "page"
    # the recipe of a record is known by its name alone
    assert main(["report", str(run.home / "out" / "lenient"), "--output", str(page)]) in (0, 3)
    for file in page.rglob("*"):
        if file.is_file():
            assert USER.encode() not in file.read_bytes(), file
