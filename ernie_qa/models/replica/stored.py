"""Which tensors go to which safetensors file of a component, and that file's header."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

_BYTES = {"BF16": 2, "I64": 8}


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of a file: its `dtype` as safetensors calls it, "BF16" or "I64". Its values are those of the
    tensor `values`: itself, or the one that it is tied to."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    values: str

    @property
    def size(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * _BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class File:
    """A safetensors file to write: `tensors` in the order of their bytes."""

    name: str
    tensors: tuple[Stored, ...]

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.size for tensor in self.tensors)

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self.header()) + self.tensor_bytes

    def header(self) -> bytes:
        """What precedes the tensors: the header's length in eight bytes, and the header, in which spaces fill
        up a multiple of eight bytes. The same bytes as the safetensors library writes."""
        entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        start = 0
        for tensor in self.tensors:
            end = start + tensor.size
            entries[tensor.name] = {
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "data_offsets": [start, end],
            }
            start = end
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text


def files_of(module: Any, stem: str, largest: int) -> tuple[File, ...]:
    """The files that `save_pretrained` would make of `module`, at most `largest` bytes of tensors in each.

    A tied matrix is there under each of its names: the original is saved so, and loads tied.
    """
    from huggingface_hub import split_state_dict_into_shards_factory

    tensors = {tensor.name: tensor for tensor in _stored(module)}
    split = split_state_dict_into_shards_factory(
        tensors,
        get_storage_size=lambda tensor: tensor.size,
        filename_pattern=stem + "{suffix}.safetensors",
        max_shard_size=largest,
    )
    return tuple(
        File(
            name,
            # the library's order: wide types first, so that every tensor is aligned
            tuple(sorted((tensors[key] for key in keys), key=lambda one: (-_BYTES[one.dtype], one.name))),
        )
        for name, keys in split.filename_to_tensors.items()
    )


def _stored(module: Any) -> list[Stored]:
    stored = _as_saved(module, module.state_dict(keep_vars=True))
    first: dict[int, str] = {}
    return [
        Stored(
            name,
            tuple(tensor.shape),
            "BF16" if tensor.is_floating_point() else "I64",
            # tied names share one parameter
            first.setdefault(id(tensor), name),
        )
        for name, tensor in stored.items()
    ]


def _as_saved(module: Any, held: dict[str, Any]) -> dict[str, Any]:
    """`held` under the names that transformers gives tensors in a file; diffusers keeps them."""
    from transformers import PreTrainedModel
    from transformers.core_model_loading import revert_weight_conversion

    return revert_weight_conversion(module, held) if isinstance(module, PreTrainedModel) else held
