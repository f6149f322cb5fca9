"""What a model's weights take in BF16, and which layers they make, by the headers of its files: no tensor is
read."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_qa.errors import ModelError
from ernie_qa.models.unchanged import bare
from ernie_qa.toml_input import one_line

if TYPE_CHECKING:
    from ernie_qa.models.find import Model

_READ = re.compile(r"(model|diffusion_pytorch_model)(-\d+-of-\d+)?\.safetensors")
"""The files that loading reads: not other precisions of the same weights, or a second copy of them."""
_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "U32": 4, "I32": 4, "U64": 8, "I64": 8}
_BF16 = 2
"""Bytes of a float, whatever it is stored as."""


def bf16_bytes(model: Model) -> int:
    """Bytes of all weights of `model` once loaded in BF16. ModelError where a file is damaged."""
    return sum(
        math.prod(part.get_shape()) * _BYTES.get(part.get_dtype(), _BF16)
        for component in model.components
        for _, part in _stored(model.path / component)
    )


def layer_names(model: Model, component: str) -> frozenset[str]:
    """The modules of one component that hold a weight, as its files name them, and as they are named once
    they are loaded. ModelError where a file is damaged."""
    stored = {
        name.removesuffix(".weight")
        for name, _ in _stored(model.path / component)
        if name.endswith(".weight")
    }
    return frozenset(stored | {bare(name) for name in stored})


def _stored(folder: Path) -> Iterator[tuple[str, Any]]:
    """The tensors in the files that loading reads, by name; of each its type and shape can be asked."""
    from safetensors import SafetensorError, safe_open

    for file in folder.glob("*.safetensors"):
        if not _READ.fullmatch(file.name):
            continue
        try:
            with safe_open(file, framework="np") as stored:
                for name in stored.keys():  # noqa: SIM118
                    yield name, stored.get_slice(name)
        except SafetensorError as problem:
            raise ModelError(one_line(f"{file}: damaged: {problem}; fetch it again")) from None
