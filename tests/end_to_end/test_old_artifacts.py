"""What releases of sdnq and bitsandbytes saved loads and runs under the one that is installed."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from packaging.version import Version

from ernie_qa.execute import Outcome, Session
from ernie_qa.pipeline import load_pipeline
from ernie_qa.plan import plan
from ernie_qa.quiet import hushed
from ernie_qa.verdict import Status
from tests import plain_usage
from tests.conftest import CAPTION
from tests.old_artifacts.make import ARCHIVE, HERE, RELEASES
from tests.unit.test_oldest import PROJECT

REQUEST = {"prompt": CAPTION, "width": 64, "height": 64, "seed": 0, "steps": 2, "use_pe": False}
SAVED = [
    (recipe, f"{package}-{version}")
    for recipe, (package, versions) in RELEASES.items()
    for version in versions
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(directory, filter="data")
    return directory / "artifacts"


@pytest.fixture(scope="module")
def fresh(place: Path, small_suite: Path) -> dict[str, Outcome]:
    """Recipe -> what the installed release makes of the BF16 model, and how it is judged."""
    recipes = [str(HERE / f"{recipe}.toml") for recipe in RELEASES]
    return {one.verdict.recipe: one for one in Session(plan(place / "base", recipes, small_suite))}


def test_every_supported_release_saved_one() -> None:
    wanted = {one.name: one.specifier for one in map(Requirement, PROJECT["dependencies"])}
    for package, versions in RELEASES.values():
        (lowest,) = (Version(one.version) for one in wanted[package] if one.operator == ">=")
        assert min(map(Version, versions)) <= lowest


def test_none_says_where_it_was_made(place: Path) -> None:
    files = list(place.rglob("*.json"))
    assert len(files) > 10
    assert [file for file in files if "_name_or_path" in file.read_text(encoding="utf-8")] == []


@pytest.mark.parametrize(("recipe", "saved"), SAVED)
def test_it_passes_and_draws_what_quantizing_anew_draws(
    place: Path, small_suite: Path, fresh: dict[str, Outcome], recipe: str, saved: str
) -> None:
    given = plan(
        place / "base",
        [str(HERE / f"{recipe}.toml")],
        small_suite,
        artifacts=[f"{recipe}={place / saved}"],
    )
    (outcome,) = Session(given)
    assert outcome.verdict.status is Status.PASS, str(outcome.verdict)
    pictures = [picture.sha256 for picture in outcome.record.pictures]
    assert pictures == [picture.sha256 for picture in fresh[recipe].record.pictures]
    assert len(set(pictures)) == 2


@pytest.fixture(scope="module")
def plain(place: Path) -> dict[str, np.ndarray]:
    """Recipe -> what plain code draws with what the installed release makes of the BF16 model."""
    found = {}
    for recipe in RELEASES:
        with hushed():
            pipe = load_pipeline(place / "base", HERE / f"{recipe}.toml", "cpu")
            # as plain code has it
            pipe.vae.to(memory_format=torch.contiguous_format)
            found[recipe] = plain_usage.draw(pipe, "cpu", REQUEST)
    return found


@pytest.mark.parametrize(
    ("recipe", "saved"),
    [
        ("old-uint4", "sdnq-0.2.2"),
        ("old-uint4", "sdnq-0.2.8"),
        *((recipe, saved) for recipe, saved in SAVED if recipe == "old-nf4"),
    ],
)
def test_plain_code_draws_the_same_in_a_fresh_process(
    place: Path, plain: dict[str, np.ndarray], tmp_path: Path, recipe: str, saved: str
) -> None:
    requests, out = tmp_path / "requests.json", tmp_path / "out.npz"
    requests.write_text(json.dumps([REQUEST]))
    package, _ = RELEASES[recipe]
    command = [sys.executable, plain_usage.__file__, package, place / saved, "cpu", out, requests]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (drawn,) = np.load(out).values()
    assert np.array_equal(drawn, plain[recipe])
