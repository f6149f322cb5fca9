"""A card for the miniature by each quantizer, from a gate's records: its figures and its code."""

import os
import subprocess
import sys
from pathlib import Path
from statistics import fmean, median

import numpy as np
import pytest
from PIL import Image

from ernie_qa.card.cells import seconds
from ernie_qa.card.usage import DEVICE
from ernie_qa.cli import main
from ernie_qa.record import Record, load_record
from ernie_qa.suite import find_suite
from ernie_qa.wording import figure
from tests.cards import code, tables

RECIPES = {"sdnq-uint4-static": "sdnq", "bnb-nf4": "bitsandbytes"}
NF4_ON_A_CPU = """
from diffusers.quantizers.bitsandbytes import BnB4BitDiffusersQuantizer as Quantizer
Quantizer.validate_environment = lambda self, *args, **kwargs: None
Quantizer.update_device_map = lambda self, device_map: device_map
"""
"""diffusers alone demands a GPU, and takes "cpu" in a device map for offloading."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts by each recipe, `out` of one gate, and the cards in the artifacts' directories."""
    place = tmp_path_factory.mktemp("cards")
    gate = ["gate", "--device", "cpu", "--report", str(place / "out")]
    for recipe in RECIPES:
        options = ["--recipe", recipe, "--output", str(place / recipe), "--device", "cpu"]
        assert main(["quantize", "mini", *options]) == 0
        gate += ["--recipe", recipe, "--artifact", f"{recipe}={place / recipe}"]
    assert main(gate) == 0
    for recipe in RECIPES:
        options = ["--artifact", str(place / recipe), "--license", "apache-2.0"]
        assert main(["card", str(place / "out"), *options]) == 0
    return place


def opened(place: Path, recipe: str) -> tuple[str, Record, Record]:
    """The card, and the two records that are beside it."""
    records = [load_record(place / recipe / "metrics" / name) for name in ("bf16", recipe)]
    return (place / recipe / "README.md").read_text(encoding="utf-8"), records[0], records[1]


@pytest.mark.parametrize("recipe", RECIPES)
def test_its_figures_are_the_records(place: Path, recipe: str) -> None:
    text, bf16, record = opened(place, recipe)
    found = tables(text)
    both = (bf16, record)
    assert [row[1] for row in found["Item"]] == [
        f"{one.figures['package']['disk_bytes']:,} B" for one in both
    ]
    for name, *sizes, reduction, quantizer in found["Component Quantizer"]:
        before, after = (one.figures["package"]["components"][name.strip("`")]["disk_bytes"] for one in both)
        assert sizes == [f"{before:,} B", f"{after:,} B"]
        assert reduction == f"{1 - after / before:.2%}"
        assert quantizer == ("as it was" if name == "`vae`" else RECIPES[recipe])
    for row, runtime, one in zip(found["Model"], found["Runtime"], both, strict=True):
        cost = one.figures["cost"]
        took = [drawn["seconds"] for drawn in cost["pictures"].values()]
        cold, hot = took[0], took[1:]
        assert [row[2], row[4]] == [seconds(cost["load"]["seconds"]), seconds(cold)]
        assert row[6:8] == runtime[3:5] == [seconds(fmean(hot)), seconds(median(hot))]
        assert runtime[5] == f"{seconds(min(hot))}-{seconds(max(hot))}"
        # there is no GPU
        assert {row[3], row[5], row[8], *runtime[6:]} == {"not measured"}
    scores, words = record.figures["images"], record.figures["text"]["cases"]
    for row, case in zip(found["# Defects"], scores["cases"], strict=False):
        given = scores["cases"][case]["scores"]
        assert row[1] == f"`{case}`"
        assert row[2:5] == [figure(given[name]) for name in ("lpips", "psnr", "ssim")]
        if case in words:
            read = words[case]["strings"]
            assert row[6] == f"{sum(one['found'] for one in read)} of {sum(one['words'] for one in read)}"
    assert found["# Defects"][-2][2] == figure(scores["metrics"]["lpips"]["mean"])
    assert found["# Defects"][-1][2] == figure(scores["metrics"]["lpips"]["max"])
    assert [row[1:4] for row in found["# Focus"]] == [
        [f"`{case.id}`", f"{case.width}x{case.height}", str(case.seed)] for case in find_suite("mini").cases
    ]
    assert [row[2] for row in found["Rung"][:4]] == ["pass"] * 4
    assert "pass, as the gate judged it" in text


@pytest.mark.parametrize("recipe", RECIPES)
def test_its_pictures_are_there(place: Path, recipe: str) -> None:
    text, _, _ = opened(place, recipe)
    written = {file.name for file in (place / recipe / "comparison").iterdir()}
    assert written == {"_matrix.webp", *(f"{case.id}.webp" for case in find_suite("mini").cases)}
    for name in written:
        assert f"(comparison/{name})" in text
        with Image.open(place / recipe / "comparison" / name) as picture:
            assert picture.width > 600


@pytest.mark.parametrize("recipe", RECIPES)
def test_its_code_draws_in_a_fresh_process(place: Path, recipe: str, tmp_path: Path) -> None:
    """From beside the artifact, whose directory's name the code loads."""
    text, _, _ = opened(place, recipe)
    program = code(text)
    assert program.count(DEVICE) == 1
    program = program.replace(DEVICE, 'device = "cpu"')
    if recipe == "bnb-nf4":
        program = NF4_ON_A_CPU + program
    program += "\nimport sys\nassert not any(name.split('.')[0] == 'ernie_qa' for name in sys.modules)\n"
    (tmp_path / recipe).symlink_to(place / recipe)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "SDNQ_USE_TORCH_COMPILE": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    case = find_suite("mini").cases[0]
    drawn = np.asarray(Image.open(tmp_path / "picture.png"))
    assert drawn.shape == (case.height, case.width, 3)
    assert drawn.std() > 10
    switched = [f"{name} True" for name in ("pe", "text_encoder", "transformer")]
    assert done.stdout.splitlines() == (switched if recipe == "sdnq-uint4-static" else [])
