"""Whether the parts of a live pipeline that no recipe touches still are what a model directory holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_qa.errors import ModelError
from ernie_qa.frozen import digest, thaw
from ernie_qa.toml_input import read_json

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

_RULES = ("normalizer", "pre_tokenizer", "model", "post_processor", "decoder")


def tensor_differences(module: Module, directory: Path) -> dict[str, Any]:
    """Compare every tensor of `module` with the safetensors in `directory`, bit for bit.

    Values count, not memory layout: `channels_last` is no difference. A stored tensor is first cast to the
    live one's dtype, as loading does, but to no type of less than 16 bits. Gives `sha256` over all live
    tensors (name, dtype, shape, values in order), `compared` and `differing` (names).
    """
    import torch
    from safetensors import safe_open

    live = {name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}
    differing = dict.fromkeys(live, True)
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118 - safe_open is no mapping
                ours = live.get(name)
                differing[name] = ours is None or not _same(stored.get_tensor(name), ours)
    total = hashlib.sha256()
    for name, tensor in sorted(live.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return {
        "sha256": total.hexdigest(),
        "compared": len(differing),
        "differing": sorted(name for name, wrong in differing.items() if wrong),
    }


def _same(stored: Tensor, live: Tensor) -> bool:
    import torch

    if stored.dtype != live.dtype and live.element_size() < 2:
        return False
    return torch.equal(stored.to(live.dtype), live)


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
    stored = _parts(type(tokenizer).from_pretrained(directory, local_files_only=True))
    return {
        "sha256": digest({key: digest(part) for key, part in live.items()}),
        "compared": len(tokenizer),
        "differing": sorted(key for key in live.keys() | stored.keys() if live.get(key) != stored.get(key)),
    }


def _parts(tokenizer: Any) -> dict[str, Any]:
    parts: dict[str, Any] = {"vocabulary": tokenizer.get_vocab(), "chat_template": tokenizer.chat_template}
    parts["special_tokens"] = {key: str(value) for key, value in tokenizer.special_tokens_map.items()}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        rules = json.loads(backend.to_str())
        # not its truncation and padding: each call leaves its own there
        parts |= {key: rules.get(key) for key in _RULES}
    return parts


def _canonical(value: Any) -> bytes:
    return json.dumps(thaw(value), sort_keys=True, default=str).encode()
