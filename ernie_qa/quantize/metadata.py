"""The files beside the components: what was done, and how to run it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ernie_qa.allocator import VARIABLES
from ernie_qa.models.find import MANIFEST_SCHEMA, Model
from ernie_qa.quantizers import find_quantizer
from ernie_qa.recipe import Recipe
from ernie_qa.suite import Suite

SCHEMA = 1
RUNTIME = "runtime_config.json"
_TERMS = ("LICENSE*", "LICENCE*", "NOTICE*", "COPYING*")
"""Files beside `model_index.json` that have to go with any copy of a model."""
_LIBRARIES = ("diffusers", "transformers", "safetensors", "torch")


def versions(recipe: Recipe) -> dict[str, str]:
    """The releases that decide what is written: of the libraries, and of the recipe's quantizers."""
    packages = {package for name in recipe.components.values() for package in find_quantizer(name).PACKAGES}
    found = {}
    for package in sorted(packages | set(_LIBRARIES)):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def described(model: Model, recipe: Recipe, device: str, releases: Mapping[str, str]) -> dict[str, Any]:
    """All that decides the bytes of an artifact."""
    return {"model": model.identity.hash, "recipe": recipe.hash, "device": device, "versions": releases}


def write_metadata(
    place: Path,
    model: Model,
    recipe: Recipe,
    options: Mapping[str, Mapping[str, Any]],
    suite: Suite | None,
) -> None:
    """Write `model_index.json`, each quantizer's metadata, `runtime_config.json`, a manifest where the model
    has one, and copies of its licences to `place`. No time, path or machine is in them: the same work makes
    the same files."""
    shutil.copyfile(model.path / "model_index.json", place / "model_index.json")
    for pattern in _TERMS:
        for file in sorted(model.path.glob(pattern)):
            if file.is_file():
                shutil.copyfile(file, place / file.name)
    for name in sorted(set(recipe.components.values())):
        facts = {
            **_base(model, recipe),
            "quantized": _quantized(model, recipe, name),
            "kept": [one for one in model.components if one not in recipe.components],
            "versions": versions(recipe),
        }
        for title, content in find_quantizer(name).metadata(options[name], facts).items():
            _write(place / title, content)
    _write(place / RUNTIME, runtime(model, recipe, options, suite))
    if model.manifest:
        _write(place / "ernie_qa.json", _manifest(model, recipe))


def runtime(
    model: Model, recipe: Recipe, options: Mapping[str, Mapping[str, Any]], suite: Suite | None
) -> dict[str, Any]:
    """The recommendations for running it, as JSON values."""
    loading = {}
    for name in sorted(set(recipe.components.values())):
        components = _quantized(model, recipe, name)
        loading[name] = {"components": components, **find_quantizer(name).loading(options[name])}
    return {
        "schema": SCHEMA,
        **_base(model, recipe),
        "made_with": versions(recipe),
        "loading": {"dtype": "bfloat16", "quantizers": loading},
        "memory": {
            # pytorch issue 123548: each of the two alone is sound
            "allocator": {
                "recommended": "default",
                "variables": list(VARIABLES),
                "never_together": ["expandable_segments:True", "max_split_size_mb"],
            },
            "keep_resident": True,
            "empty_cache_between_pictures": False,
        },
        "sampling": None
        if suite is None
        else {
            "suite": suite.name,
            "num_inference_steps": suite.steps,
            "guidance_scale": suite.guidance,
            "use_pe": suite.use_pe,
        },
    }


def _quantized(model: Model, recipe: Recipe, quantizer: str) -> list[str]:
    """The components of the model that `quantizer` quantizes."""
    return [name for name, by in recipe.components.items() if by == quantizer and name in model.components]


def _base(model: Model, recipe: Recipe) -> dict[str, Any]:
    identity = model.identity
    return {
        "base_model": {"name": identity.name, "revision": identity.revision, "hash": identity.hash},
        "recipe": {"name": recipe.name, "hash": recipe.hash},
    }


def _manifest(model: Model, recipe: Recipe) -> dict[str, Any]:
    assert model.manifest is not None
    return {
        "schema": MANIFEST_SCHEMA,
        "name": f"{model.name}-{recipe.name}"[:100],
        "weights": model.manifest.weights,
        "suite": model.manifest.suite,
        "summary": f"{model.name} as the recipe {recipe.name} quantizes it",
    }


def _write(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
