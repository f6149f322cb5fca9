"""Plans: what is resolved before anything loads, and every wrong argument told in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ernie_qa.errors import ErnieQAError, InputError, ModelError, RecipeError
from ernie_qa.plan import Plan, plan
from ernie_qa.recipe import REFERENCE, find_recipe

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


@pytest.fixture
def changed(write_recipe: Callable[[str, float], Path]) -> Callable[[str, str], Path]:
    """`changed(old, new)`: a recipe with one thing in it put otherwise."""

    def change(old: str, new: str) -> Path:
        path = write_recipe("mine", 1.0)
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")
        return path

    return change


def test_limits_for_a_suite_that_nobody_knows_are_refused(
    tiny_model: Path, small_suite: Path, changed: Callable[[str, str], Path]
) -> None:
    wrong = changed("gates.small", "gates.turbo1")
    with pytest.raises(RecipeError) as told:
        plan(tiny_model, [wrong], small_suite)
    assert str(told.value) == (
        f"{wrong}: gates.turbo1: no suite of this name: shipped are base50, mini, turbo10, this run's is "
        f'small, and no turbo1.toml lies beside the recipe; did you mean "turbo10"?'
    )
    # limits for another run: of a shipped suite, or of one of the recipe's own
    for known in ("mini", "nearby"):
        path = changed("gates.small", f"gates.{known}")
        shutil.copy(small_suite, path.with_name("nearby.toml"))
        assert plan(tiny_model, [path], small_suite).recipes[0].gates.keys() == {known}


def test_an_allowance_for_a_suite_that_nobody_knows_is_refused(
    tiny_model: Path, small_suite: Path, changed: Callable[[str, str], Path]
) -> None:
    path = changed('when = "few_rows"', 'when = "few_rows"\nsuites = ["smal"]')
    with pytest.raises(RecipeError, match=r'activation\.allow\[0\]\.suites: .*; did you mean "small"\?'):
        plan(tiny_model, [path], small_suite)


def test_an_allowance_that_matches_no_layer_is_told(
    tiny_model: Path, small_suite: Path, changed: Callable[[str, str], Path]
) -> None:
    path = changed("transformer.adaLN_modulation.*", "transformer.adaln.*")
    found = plan(tiny_model, [path], small_suite)
    assert found.warnings == (
        f'warning: {path}: activation.allow: no layer of tiny is named as "transformer.adaln.*", so it '
        "allows nothing",
    )
    assert plan("mini", ["sdnq-int8", "bnb-nf4"]).warnings == ()


def test_a_recipe_without_limits_for_the_suite_is_told_of(
    tiny_model: Path, small_suite: Path, write_recipe: Callable[[str, float], Path]
) -> None:
    """It would be drawn for nothing: without limits there is no verdict."""
    limited = write_recipe("limited", 1.0)
    assert plan(tiny_model, [limited, "bf16"], small_suite).warnings == ()
    (warning,) = plan(tiny_model, [limited, "sdnq-int8"], small_suite).warnings
    path = find_recipe("sdnq-int8").path
    assert warning.startswith(f"warning: {path}: has no limits for the suite small, so its verdict is not")
