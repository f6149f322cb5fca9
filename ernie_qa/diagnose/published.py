"""What a quantized directory says of itself: which recipe it is, and how to run it. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ernie_qa.errors import InputError
from ernie_qa.frozen import Frozen
from ernie_qa.models.artifact import stored_method
from ernie_qa.models.find import Model
from ernie_qa.quantize.metadata import RUNTIME, SCHEMA
from ernie_qa.quantizers import checked_options, find_quantizer, quantizer_names, stored_quantization
from ernie_qa.recipe import Recipe, find_recipe, recipe_names
from ernie_qa.toml_input import SAFE_NAME, SAFE_NAME_RULE, Table, read_json

NAMED_IN = (RUNTIME, "quantization_metadata.json")
"""The files of a directory that may name its recipe."""
WHOLE = "quantization_config.json"
"""SDNQ's configuration for the whole pipeline."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """What `runtime_config.json` recommends for a call."""

    suite: str
    steps: int
    guidance: float
    use_pe: bool


@dataclass(frozen=True, slots=True)
class Published:
    """`recipe` is what the directory was quantized by, None where nothing says; `source` says how it was
    found, or why not. `named` is the recipe's (name, hash) in its files. `sampling` and `made_with` are the
    recommended settings and the releases that made it; `unread` says why they are not known, and `damaged`
    that the file which should is there and cannot be read."""

    recipe: Recipe | None
    source: str
    named: tuple[str, str] | None
    sampling: Sampling | None
    made_with: Mapping[str, str]
    unread: str
    damaged: bool


def published(model: Model, given: Recipe | str | Path | None = None) -> Published:
    """What the files of `model` say; `given` is the recipe where a person names it.

    InputError where nothing is stored quantized there, RecipeError where the given recipe is wrong.
    """
    methods = {name: stored_method(model, name) for name in model.components}
    if not any(methods.values()):
        raise InputError(f"{model.path}: holds nothing quantized: name the directory that gives bad pictures")
    sampling, made_with, unread = None, Frozen({}), ""
    try:
        sampling, made_with = _runtime(model.path / RUNTIME)
        if sampling is None:
            unread = f"{RUNTIME} recommends no settings: it was made without a suite"
    except InputError as problem:
        unread = str(problem)
    # a link to nothing is no absence either
    damaged = sampling is None and os.path.lexists(model.path / RUNTIME) and not unread.startswith(RUNTIME)
    named = _named(model.path)
    if given is not None:
        wanted = find_recipe(given)
        checked_options(wanted)
        return Published(wanted, "as given", named, sampling, made_with, unread, damaged)
    recipe, source = _recipe(model, methods, named)
    return Published(recipe, source, named, sampling, made_with, unread, damaged)


def _runtime(path: Path) -> tuple[Sampling | None, Frozen]:
    """InputError where there is no such file, or it is not laid out as ours."""
    table = read_json(path, InputError)
    table.schema(SCHEMA)
    made = table.table("made_with", optional=True)
    made_with = Frozen({name: made.text(name) for name in made})
    if table.frozen().get("sampling", ...) is None:
        return None, made_with
    said = table.table("sampling")
    sampling = Sampling(
        suite=said.text("suite", pattern=SAFE_NAME, allowed=SAFE_NAME_RULE),
        steps=said.integer("num_inference_steps", minimum=1, maximum=1000),
        guidance=said.number("guidance_scale", minimum=1, maximum=100),
        use_pe=said.boolean("use_pe"),
    )
    return sampling, made_with


def _named(directory: Path) -> tuple[str, str] | None:
    for name in NAMED_IN:
        try:
            recipe: Table = read_json(directory / name, InputError).table("recipe")
            return recipe.text("name"), recipe.text("hash")
        except InputError:
            continue
    return None


def _recipe(
    model: Model, methods: Mapping[str, str | None], named: tuple[str, str] | None
) -> tuple[Recipe | None, str]:
    shipped = [find_recipe(name) for name in recipe_names()]
    if named is not None:
        for recipe in shipped:
            if recipe.hash == named[1]:
                return recipe, "named by its own files"
        return None, f"{named[0]}, which made it, is no shipped recipe"
    known = quantizer_names()
    if unknown := sorted(method for method in methods.values() if method and method not in known):
        return None, f"no quantizer here is called {unknown[0]!r}"
    stored = {name: method for name, method in methods.items() if method}
    candidates = [recipe for recipe in shipped if dict(recipe.components) == stored]
    for recipe in candidates:
        if all(_claims(model.path / name, recipe, name) for name in stored):
            return recipe, "found by what its components say"
    for recipe in candidates:
        if _claims_whole(model.path / WHOLE, recipe):
            return recipe, f"found by its {WHOLE}; its components say otherwise"
    return None, "no shipped recipe quantizes so"


def _claims(component: Path, recipe: Recipe, name: str) -> bool:
    """Whether a stored component claims what `recipe` would have it claim."""
    quantizer = find_quantizer(recipe.components[name])
    claimed = quantizer.stored_flag(stored_quantization(component) or {})
    return dict(claimed) == dict(quantizer.expected_flag(checked_options(recipe)[recipe.components[name]]))


def _claims_whole(file: Path, recipe: Recipe) -> bool:
    """The same of the file for the whole pipeline, which says which quantizer it is of."""
    try:
        stored: Mapping[str, Any] = read_json(file, InputError).frozen()
    except InputError:
        return False
    name = stored.get("quant_method")
    if not isinstance(name, str) or set(recipe.components.values()) != {name}:
        return False
    quantizer = find_quantizer(name)
    return dict(quantizer.stored_flag(stored)) == dict(quantizer.expected_flag(checked_options(recipe)[name]))
