"""`ernie-qa sweep` on the shipped miniature: what passes, is stopped early, or is left when interrupted."""

import json
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from ernie_qa import observer
from ernie_qa.cli import main
from ernie_qa.fidelity.lpips_weights import cache_path
from ernie_qa.recipe import REFERENCE, Recipe, find_recipe
from ernie_qa.record import load_record

WEIGHTS = cache_path()
GRID = """
schema = 1
summary = "one good, one bad"

[components]
transformer = "sdnq"

[grid.sdnq]
weights_dtype = ["uint2", "int8"]
use_quantized_matmul = [false]

[gates.small.limits."components.transformer_l2_max"]
max = 0.3
source = "between INT8 and UINT2 of the miniature (docs/limits.md)"

[gates.small.limits."images.lpips_mean"]
max = 0.5
about = "suite"
source = "chosen for this test"
"""


@pytest.fixture
def given(tmp_path: Path, small_suite: Path) -> list[str]:
    path = tmp_path / "grid.toml"
    path.write_text(GRID, encoding="utf-8")
    return ["sweep", str(path), "--suite", str(small_suite), "--device", "cpu"]


def test_a_sweep_stops_the_bad_arm_and_ends_in_a_front(
    given: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([*given, "--report", str(out)]) == 0
    said = capfd.readouterr().out
    assert any(line.startswith("*  2  int8") and line.endswith("front") for line in said.splitlines()), said
    assert "stopped early: components.transformer_l2_max[transformer]" in said
    assert "1 arm stopped early, 2 pictures not drawn" in said
    assert "an estimate" in said
    stopped, good = load_record(out / "uint2"), load_record(out / "int8")
    assert stopped.ended is not None
    assert not stopped.pictures
    assert len(good.pictures) == 2
    assert find_recipe(out / "recipes" / "int8.toml").hash == good.recipe.hash
    assert stopped.reference == good.reference == load_record(out / REFERENCE).hash
    document = json.loads((out / "verdict.json").read_text(encoding="utf-8"))
    assert {one["recipe"]: one["status"] for one in document["verdicts"]} == {"uint2": "fail", "int8": "pass"}
    assert document["unfinished"] == []
    page = (out / "sweep.html").read_text(encoding="utf-8")
    assert "<strong>front</strong>" in page
    assert ElementTree.parse(out / "sweep.svg").getroot().tag.endswith("svg")
    assert (out / "index.html").is_file()


def test_an_interrupted_sweep_keeps_what_ended_and_goes_on(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    load, out = observer.load_pipeline, tmp_path / "out"
    loads: list[str] = []

    def loading(model: Any, recipe: Recipe, device: str, **options: Any) -> Any:
        loads.append(recipe.name)
        if recipe.name == "int8" and loads.count("int8") == 1:
            raise KeyboardInterrupt
        return load(model, recipe, device, **options)

    monkeypatch.setattr(observer, "load_pipeline", loading)
    monkeypatch.setenv("ERNIE_QA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    shutil.copy(WEIGHTS, tmp_path / "cache")
    assert main([*given, "--resume", "--report", str(out)]) == 130
    assert "Interrupted, and not run to the end: int8" in capfd.readouterr().out
    document = json.loads((out / "verdict.json").read_text(encoding="utf-8"))
    assert document["unfinished"] == ["int8"]
    assert [one["recipe"] for one in document["verdicts"]] == ["uint2"]
    assert document["status"] == "fail"
    assert {one.parent.name for one in out.glob("*/record.json")} == {REFERENCE, "uint2"}
    assert main([*given, "--resume"]) == 0
    assert loads == [REFERENCE, "uint2", "int8", "int8"]
    assert "1 of 2 arms passes" in capfd.readouterr().out


def test_an_arm_that_breaks_off_does_not_end_the_sweep(
    given: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    load = observer.load_pipeline

    def loading(model: Any, recipe: Recipe, device: str, **options: Any) -> Any:
        if recipe.name == "uint2":
            raise RuntimeError("no such kernel")
        return load(model, recipe, device, **options)

    monkeypatch.setattr(observer, "load_pipeline", loading)
    assert main(given) == 0
    said = capfd.readouterr()
    assert [line for line in said.err.splitlines() if "uint2 broke off" in line and "no such kernel" in line]
    assert "1 of 2 arms passes" in said.out
    assert "no such kernel" not in said.out
    assert [line for line in said.out.splitlines() if "uint2" in line and line.endswith("broke off")]
