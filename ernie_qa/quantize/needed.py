"""Bytes: what is on disk, and about how much a quantized model will take there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any

from ernie_qa.errors import ModelError
from ernie_qa.models.find import Model
from ernie_qa.quantizers import find_quantizer
from ernie_qa.recipe import Recipe
from ernie_qa.toml_input import read_json

BESIDE = 64 * 2**20
"""Bytes that must be free beyond the estimate, for configurations and the file system's own share."""
_UNTOUCHED = ("embed", "lm_head")
"""Parts of the names of matrices that quantizers leave alone."""


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a directory; what links lead to counts."""
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files if file.is_file())


def estimate(
    model: Model,
    recipe: Recipe,
    options: Mapping[str, Mapping[str, Any]],
    device: str,
    components: Iterable[str],
) -> int:
    """About how many bytes the `components` of `model` take when `recipe` has quantized them, and `BESIDE`.

    From the shapes in the headers of its safetensors, and the bits that each quantizer says it needs for a
    weight. It is within some per cent of a large model's true size: a disk that passes may still fill up.
    """
    total = BESIDE
    for component in components:
        folder, name = model.path / component, recipe.components.get(component)
        if name is None:
            total += size_of(folder)
            continue
        bits = find_quantizer(name).stored_bits(device, options[name])
        tied = read_json(folder / "config.json", ModelError).frozen().get("tie_word_embeddings")
        files = sorted(folder.glob("*.safetensors"))
        total += sum(_stored(file, bits, options[name], tied is True) for file in files)
    return total


def _stored(file: Path, bits: float, options: Mapping[str, Any], tied: bool) -> int:
    from safetensors import safe_open

    excepted = (*_UNTOUCHED, *options.get("modules_to_not_convert", ()))
    total = 0.0
    with safe_open(file, framework="numpy") as opened:
        for name in opened.keys():  # noqa: SIM118
            if tied and name.startswith("lm_head."):
                # the original may hold the embedding twice; what is loaded and saved has it once
                continue
            shape = opened.get_slice(name).get_shape()
            matrix = len(shape) == 2 and not any(part in name for part in excepted)
            # what is not quantized is loaded, and stored, in BF16
            total += prod(shape) * (bits if matrix else 16) / 8
    return int(total)
