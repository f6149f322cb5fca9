"""Plans: what is resolved before anything loads, and every wrong argument told in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ernie_qa.errors import ErnieQAError, InputError, ModelError
from ernie_qa.plan import Plan, plan
from ernie_qa.recipe import REFERENCE

Planned = Callable[..., Plan]


@pytest.fixture
def planned(tiny_model: Path, small_suite: Path, write_recipe: Callable[[str, float], Path]) -> Planned:
    """`planned(**arguments)`: the plan for bf16 and a recipe named mine."""
    recipes = [REFERENCE, write_recipe("mine", 1.0)]

    def planned(**arguments: Any) -> Plan:
        return plan(tiny_model, recipes, small_suite, **arguments)

    return planned


@pytest.fixture(scope="module")
def artifact(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory whose transformer says that sdnq stored it; only configurations are read for a plan."""
    directory = Path(shutil.copytree(tiny_model, tmp_path_factory.mktemp("artifacts") / "tiny-int8"))
    config = directory / "transformer" / "config.json"
    stored = {**json.loads(config.read_text()), "quantization_config": {"quant_method": "sdnq"}}
    config.write_text(json.dumps(stored))
    return directory


def refused(planned: Planned, error: type[ErnieQAError] = InputError, **arguments: Any) -> str:
    with pytest.raises(error) as told:
        planned(**arguments)
    assert "\n" not in str(told.value)
    return str(told.value)


def test_without_artifacts_and_offloading(planned: Planned) -> None:
    found = planned()
    assert (dict(found.artifacts), found.offloaded, found.warnings) == ({}, frozenset(), ())
    # the reference is one of the recipes, and drawn once
    assert found.pictures == 4


def test_artifacts_and_offloaded_recipes_are_named(planned: Planned, artifact: Path) -> None:
    found = planned(artifacts=[f"mine={artifact}"], offload=["mine", REFERENCE])
    assert {name: model.path for name, model in found.artifacts.items()} == {"mine": artifact}
    assert found.offloaded == {"mine", REFERENCE}


def test_a_reference_that_nobody_asked_for_may_be_offloaded(
    tiny_model: Path, small_suite: Path, write_recipe: Callable[[str, float], Path]
) -> None:
    recipe = write_recipe("mine", 1.0)
    assert plan(tiny_model, [recipe], small_suite, offload=[REFERENCE]).offloaded == {REFERENCE}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("mine", "--artifact mine: needed is RECIPE=MODEL, a directory or a hub id"),
        ("mine=", "--artifact mine=: needed is RECIPE=MODEL"),
        ("", "--artifact : needed is RECIPE=MODEL"),
        ("mien=x", '--artifact mien: no recipe of this run; it has mine; did you mean "mine"?'),
        ("bf16=x", "--artifact bf16: no recipe of this run; it has mine"),
    ],
)
def test_an_artifact_that_is_none(planned: Planned, given: str, said: str) -> None:
    assert refused(planned, artifacts=[given]).startswith(said)


def test_one_artifact_a_recipe(planned: Planned, artifact: Path) -> None:
    said = refused(planned, artifacts=[f"mine={artifact}", f"mine={artifact}"])
    assert said.endswith("mine has an artifact already")


def test_an_artifact_has_to_be_there_and_what_the_recipe_says(
    planned: Planned, tiny_model: Path, artifact: Path, tmp_path: Path
) -> None:
    assert refused(planned, ModelError, artifacts=[f"mine={tmp_path / 'absent'}"]).startswith("no model ")
    assert "not stored quantized" in refused(planned, ModelError, artifacts=[f"mine={tiny_model}"])
    model = refused(lambda: plan(artifact, [REFERENCE], "mini"), ModelError)
    assert "name the BF16 model as the model, and this one as its artifact" in model
    assert f"--artifact RECIPE={artifact} with `ernie-qa gate`, --artifact {artifact} with" in model


@pytest.mark.parametrize("given", ["mien", ""])
def test_an_offloaded_recipe_that_is_none(planned: Planned, given: str) -> None:
    said = refused(planned, offload=[given])
    assert said.startswith(f"--offload {given}: no recipe of this run; it has bf16, ")
    assert said.endswith('did you mean "mine"?') == (given == "mien")
