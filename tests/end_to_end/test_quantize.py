"""The miniature as an artifact: drawn by plain diffusers code, bit for bit, and gated."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ernie_qa.cli import main
from ernie_qa.pipeline import load_pipeline
from ernie_qa.suite import find_suite
from tests import plain_usage

RECIPES = {"sdnq-uint4-static": "sdnq", "bnb-nf4": "bitsandbytes"}


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("artifacts")
    for recipe in RECIPES:
        options = ["--recipe", recipe, "--output", str(place / recipe), "--device", "cpu"]
        assert main(["quantize", "mini", *options]) == 0
    return {recipe: place / recipe for recipe in RECIPES}


@pytest.mark.parametrize("recipe", RECIPES)
def test_plain_diffusers_draws_what_was_quantized_in_memory(
    artifacts: dict[str, Path], tmp_path: Path, recipe: str
) -> None:
    first, second = find_suite("mini").cases[:2]
    requests = [
        {
            "prompt": case.prompt,
            "width": case.width,
            "height": case.height,
            "seed": case.seed,
            "steps": 8,
            "use_pe": use_pe,
        }
        for case, use_pe in ((first, False), (second, False), (first, True))
    ]
    (tmp_path / "requests.json").write_text(json.dumps(requests), encoding="utf-8")
    arguments = [RECIPES[recipe], artifacts[recipe], "cpu", tmp_path / "out.npz", tmp_path / "requests.json"]
    done = subprocess.run(
        [sys.executable, plain_usage.__file__, *map(str, arguments)],
        cwd=tmp_path,
        env={**os.environ, "SDNQ_USE_TORCH_COMPILE": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pipe = load_pipeline("mini", recipe, "cpu")
    # as plain code has it
    pipe.vae.to(memory_format=torch.contiguous_format)
    with np.load(tmp_path / "out.npz") as plain:
        for number, request in enumerate(requests):
            ours = plain_usage.draw(pipe, "cpu", request)
            assert ours.std() > 10
            assert np.array_equal(ours, plain[str(number)])
        assert not np.array_equal(plain["0"], plain["2"])


def test_the_gate_passes(artifacts: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        text
        for recipe, place in artifacts.items()
        for text in ("--recipe", recipe, "--artifact", f"{recipe}={place}")
    ]
    assert main(["gate", "--device", "cpu", "--json", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "pass"
