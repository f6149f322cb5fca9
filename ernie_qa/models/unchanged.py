"""Whether the parts of a live pipeline that no recipe touches still are what a model directory holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_qa.errors import ModelError
from ernie_qa.frozen import digest, thaw
from ernie_qa.toml_input import read_json

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

SMALL = 64 * 2**20
"""Bytes. A component that takes more on disk is compared by a sample, so that 16 GB need not be read."""

_HEAD = "lm_head.weight"
"""Tied to the embedding: some files hold it although the class that reads them has none."""
_RULES = ("added_tokens", "normalizer", "pre_tokenizer", "model", "post_processor", "decoder")


def tensor_differences(
    module: Module, directory: Path, *, sampled: bool = False, without: Iterable[str] = ()
) -> dict[str, Any]:
    """Compare the state of `module` with the safetensors in `directory`: names, shapes, dtypes and values.

    Values are compared bit for bit, those of all tensors or, `sampled`, of one matrix a file. Memory layout
    is no difference: `channels_last`. A dtype is, unless the live tensor is the BF16 that loading makes of a
    stored float. Gives `sha256` over all live tensors (name, dtype, shape, values in order; None if
    `sampled` or `without` any), `compared` (tensors by value) and `differing` (names). What belongs to the
    layers `without` is left out: they are quantized.
    """
    from safetensors import safe_open

    held = module.state_dict(keep_vars=True)
    layers = frozenset(map(bare, without))
    held = {name: tensor for name, tensor in held.items() if not _within(name, layers)}
    live = {name: tensor.detach() for name, tensor in held.items()}
    names = {bare(name): name for name in live}
    compared: dict[str, bool] = {}
    differing, met = set(), set()
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            kept = [name for name in stored.keys() if not _within(name, layers)]  # noqa: SIM118
            shapes = {name: tuple(stored.get_slice(name).get_shape()) for name in kept}
            chosen = _sample(shapes) if sampled else shapes.keys()
            for name, shape in shapes.items():
                ours = names.get(bare(name))
                if ours is None:
                    if not name.endswith(_HEAD):
                        differing.add(name)
                    continue
                met.add(ours)
                if tuple(live[ours].shape) != shape:
                    differing.add(ours)
                elif name in chosen:
                    compared[ours] = _same(stored.get_tensor(name), live[ours])
    differing |= {name for name, same in compared.items() if not same}
    stored_once = {id(held[name]) for name in met}
    # a weight tied to another one need not be stored again
    differing |= {name for name in held.keys() - met if id(held[name]) not in stored_once}
    return {
        "sha256": None if sampled or layers else _sha256(live),
        "compared": len(compared),
        "differing": sorted(differing),
    }


def _within(name: str, layers: frozenset[str]) -> bool:
    """Whether a tensor of that name belongs to one of `layers`, whose names are bare."""
    parts = bare(name).split(".")
    return any(".".join(parts[:end]) in layers for end in range(1, len(parts) + 1))


def is_small(directory: Path) -> bool:
    """Whether the safetensors in `directory` take at most `SMALL` bytes in total."""
    return sum(file.stat().st_size for file in directory.glob("*.safetensors")) <= SMALL


def bare(name: str) -> str:
    """`name` without the parts that come and go between what transformers stores and what it loads: a text
    encoder's `language_model.model.layers.0` is `language_model.layers.0` when live."""
    return ".".join(part for part in name.split(".") if part != "model")


def _sample(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """The middle one of a file's matrices by name, or of its tensors where it holds no matrix."""
    names = sorted(name for name, shape in shapes.items() if len(shape) > 1) or sorted(shapes)
    return names[len(names) // 2 :][:1]


def _same(stored: Tensor, live: Tensor) -> bool:
    import torch

    if type(live) is not torch.Tensor:
        return False
    loaded = stored.is_floating_point() and live.dtype == torch.bfloat16
    if stored.dtype != live.dtype and not loaded:
        return False
    # where the live one is: an embedding of full size takes 0.8 GB
    return torch.equal(stored.to(live.device, live.dtype), live)


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    import torch

    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # what another package packed has bytes that are its own matter, and differs already
        if type(tensor) is torch.Tensor:
            total.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def config_differences(config: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Compare a live configuration with the one in `file`, without the keys that begin with an underscore.

    Gives `sha256` over the live configuration, `compared` and `differing` (keys).
    """
    live = {key: value for key, value in config.items() if not key.startswith("_")}
    stored = {
        key: value for key, value in read_json(file, ModelError).frozen().items() if not key.startswith("_")
    }
    return {
        "sha256": hashlib.sha256(_canonical(live)).hexdigest(),
        "compared": len(live),
        # a key that the file leaves out has its default, and is there since that version of the class
        "differing": sorted(key for key in stored if _canonical(live.get(key)) != _canonical(stored[key])),
    }


def tokenizer_differences(tokenizer: Any, directory: Path) -> dict[str, Any]:
    """Compare a live tokenizer with the one in `directory`: tokens, how text is split, chat template.

    Gives `sha256` over the live one, `compared` (tokens) and `differing` (parts).
    """
    live = _parts(tokenizer)
    stamps = tuple(sorted((file.name, file.stat().st_mtime_ns) for file in directory.iterdir()))
    kind: Any = type(tokenizer)
    stored = _stored_parts(kind, directory, stamps)
    return {
        "sha256": digest(live),
        "compared": len(tokenizer),
        "differing": sorted(key for key in live.keys() | stored.keys() if live.get(key) != stored.get(key)),
    }


@cache
def _stored_parts(kind: Any, directory: Path, stamps: tuple[tuple[str, int], ...]) -> dict[str, str]:
    """Those of the tokenizer in `directory`, read once while its files' `stamps` stay: every arm of a run is
    compared with it."""
    return _parts(kind.from_pretrained(directory, local_files_only=True))


def _parts(tokenizer: Any) -> dict[str, str]:
    """The sha256 of each part."""
    special = {key: str(value) for key, value in tokenizer.special_tokens_map.items()}
    parts = {"chat_template": _sha256_of(tokenizer.chat_template), "special_tokens": _sha256_of(special)}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return parts | {"vocabulary": _sha256_of(tokenizer.get_vocab())}
    return parts | _rules(backend.to_str())


@lru_cache(maxsize=4)
def _rules(tokenizer: str) -> dict[str, str]:
    """The same of a tokenizer's JSON: kept, for it is the same in every arm and long at full size. Not of its
    truncation and padding: each call leaves its own there."""
    rules = json.loads(tokenizer)
    return {key: _sha256_of(rules.get(key)) for key in _RULES}


def _sha256_of(part: Any) -> str:
    return hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(thaw(value), sort_keys=True, default=str).encode()
