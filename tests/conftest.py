"""Inputs that several tests share: a tiny model, a small suite, recipes for them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ernie_qa.recipe import Recipe
from ernie_qa.record import Record

CAPTION = (
    "A square poster with a plain red ground. A large yellow circle stands at the upper left, and a small "
    "white star stands at the lower right. The word КОНЦЕРТ is written in large black letters along the "
    "bottom of the poster."
)
SUITE = """
schema = 1
version = 1
summary = "two small posters"
steps = 2
guidance = 1.0
use_pe = false
"""
CASE = """
[[cases]]
id = "{name}"
prompt = "{caption}"
width = 64
height = 64
seed = {seed}
focus = "a poster"
"""
RECIPE = """
schema = 1
summary = "an INT8 transformer"

[components]
transformer = "sdnq"

[sdnq]
weights_dtype = "int8"
group_size = 0
dequantize_fp32 = false
use_quantized_matmul = true

[[activation.allow]]
layers = "transformer.adaLN_modulation.*"
when = "few_rows"
why = "it sees one row an image"

[[activation.allow]]
layers = "transformer.final_norm.linear"
when = "few_rows"
why = "it sees one row an image"

[gates.small.limits."images.lpips_mean"]
max = {lpips}
about = "suite"
source = "chosen for this test"
"""


@pytest.fixture(autouse=True)
def no_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step's summary is about the run that GitHub started, not about those inside its tests."""
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in a directory without a manifest: nothing says that its pictures mean nothing."""
    from tests.tiny import save_tiny

    directory = save_tiny(tmp_path_factory.mktemp("models") / "tiny")
    (directory / "ernie_qa.json").unlink()
    return directory


@pytest.fixture(scope="session")
def small_suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cases of 64 × 64 pixels, two steps."""
    path = tmp_path_factory.mktemp("suites") / "small.toml"
    cases = (CASE.format(name=name, caption=CAPTION, seed=seed) for seed, name in enumerate(("one", "two")))
    path.write_text(SUITE + "".join(cases), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def write_recipe(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, float], Path]:
    """`write_recipe(name, lpips)`: INT8 in the transformer, mean LPIPS on `small_suite` at most `lpips`."""

    def write(name: str, lpips: float) -> Path:
        path = tmp_path_factory.mktemp("recipes") / f"{name}.toml"
        path.write_text(RECIPE.format(lpips=lpips), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def observed(
    tiny_model: Path, small_suite: Path, write_recipe: Callable[[str, float], Path]
) -> tuple[Recipe, dict[str, Record]]:
    """A lenient INT8 recipe, and what it and BF16 were observed to do on the tiny model."""
    from ernie_qa.execute import Session
    from ernie_qa.plan import plan

    session = Session(plan(tiny_model, [write_recipe("lenient", 1.0)], small_suite))
    (outcome,) = session
    assert outcome.verdict.status == "pass", str(outcome.verdict)
    return session.plan.recipes[0], session.records


@pytest.fixture(scope="session")
def whole(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Recipe -> the tiny model as it was quantized to a directory, undisturbed."""
    from ernie_qa.quantize import quantize
    from tests.quantizing import NF4, QMM

    place = tmp_path_factory.mktemp("whole")
    for recipe in (QMM, NF4):
        quantize(tiny_model, recipe, place / recipe, device="cpu")
    return {recipe: place / recipe for recipe in (QMM, NF4)}
