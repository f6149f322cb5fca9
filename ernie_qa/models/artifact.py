"""Artifacts: a second directory that holds a model as a recipe has quantized it. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ernie_qa.errors import ModelError
from ernie_qa.models.find import Model
from ernie_qa.quantizers import quantizer_names, stored_quantization
from ernie_qa.recipe import Recipe
from ernie_qa.toml_input import one_line, read_json


def check_artifact(model: Model, recipe: Recipe, artifact: Model | None = None, *, instead: str = "") -> None:
    """ModelError where `model` is not the BF16 one, or `artifact` does not hold what `recipe` says.

    Only the configurations are read: which components are stored quantized, and by what. What their layers
    hold is for the package rung to find out. `instead` says where the caller takes an artifact, if it does.
    """
    for component in model.components:
        if (method := stored_method(model, component)) is not None:
            place = model.path / component
            raise _wrong(
                f"{place}: stored quantized by {method!r}: name the BF16 model as the model{instead}"
            )
    if artifact is None:
        return
    if not recipe.components:
        raise _wrong(f"{artifact.path}: recipe {recipe.name} quantizes nothing, so it has no artifact")
    if lacking := sorted(set(model.components) - set(artifact.components)):
        raise _wrong(f"{artifact.path}: has no {lacking[0]}, which {model.name} has: save the whole pipeline")
    check_stored(artifact, recipe)


def check_stored(artifact: Model, recipe: Recipe) -> None:
    """ModelError where a component of `artifact` is stored otherwise than `recipe` says."""
    for component in artifact.components:
        _check_component(artifact, component, recipe)


def check_sizes_of(model: Model, artifact: Model) -> None:
    """ModelError where a number in a configuration of `artifact` is not that of `model`: then it is made of
    another model. Numbers that only one of the two has are nobody's fault: releases add some."""
    for component in model.components:
        for name in ("config.json", "scheduler_config.json"):
            file, base = artifact.path / component / name, model.path / component / name
            if not (file.is_file() and base.is_file()):
                continue
            ours = dict(_numbers(read_json(file, ModelError).frozen()))
            for key, wanted in _numbers(read_json(base, ModelError).frozen()):
                if ours.get(key, wanted) != wanted:
                    raise _wrong(
                        f"{file}: {key} is {ours[key]}, and {wanted} in {model.name}: name what was made of "
                        "this model"
                    )


def _numbers(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, int | float]]:
    for key, value in values.items():
        if key.startswith("_") or key == "quantization_config":
            continue
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{above}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{above}{key}", value


def _check_component(artifact: Model, component: str, recipe: Recipe) -> None:
    """ModelError where one component is stored otherwise than the recipe says."""
    place, wanted = artifact.path / component, recipe.components.get(component)
    method = stored_method(artifact, component)
    if wanted is None and method is not None:
        raise _wrong(
            f"{place}: stored quantized by {method!r}, but recipe {recipe.name} leaves it in BF16: name the "
            "recipe that it was made by"
        )
    if wanted is not None and method is None:
        raise _wrong(
            f"{place}: not stored quantized, but recipe {recipe.name} quantizes it with {wanted}: name the "
            "directory that was saved after quantizing"
        )
    # who quantized under a name of its own is for the quantizer to tell
    if method != wanted and method in quantizer_names():
        raise _wrong(
            f"{place}: already quantized by {method!r}, not by {wanted}: name the recipe that it was made by"
        )


def stored_method(model: Model, component: str) -> str | None:
    """What quantized the stored component; None for a plain one, and for one that holds no weights."""
    if not (model.path / component / "config.json").is_file():
        return None
    stored = stored_quantization(model.path / component)
    return None if stored is None else str(stored.get("quant_method"))


def _wrong(message: str) -> ModelError:
    return ModelError(one_line(message))
