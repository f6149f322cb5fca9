"""bitsandbytes' 4-bit layers: what they are, what ought to be left alone, and its weights made afresh."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ernie_qa.quantizers.layers import LayerState, dtype_name
from ernie_qa.quantizers.watching import own_forward as forward_of_its_own

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module

FLAGS = {
    "quant_type": "bnb_4bit_quant_type",
    "double_quant": "bnb_4bit_use_double_quant",
    "compute_dtype": "bnb_4bit_compute_dtype",
}
"""What a recipe calls them, and `BitsAndBytesConfig`."""


def describe(module: Module, options: Mapping[str, Any]) -> tuple[LayerState, ...]:
    """The state of every Linear, quantized or not."""
    import torch

    excluded = _excluded(module, options)
    return tuple(
        _quantized(name, layer, options, _skips(module, name, options["modules_to_not_convert"]))
        if is_quantized(layer)
        else _plain(name, layer, _skips(module, name, excluded))
        for name, layer in module.named_modules()
        if isinstance(layer, torch.nn.Linear)
    )


def weight(layer: Any, shape: tuple[int, ...], device: torch.device) -> Tensor | None:
    """The layer's weight in float32."""
    from bitsandbytes.functional import dequantize_4bit

    data, state = _unpacked(layer)
    return dequantize_4bit(data.to(device), _on(state, device)).float()


def held(layer: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What the layer's weight is computed from."""
    import torch

    data, state = _unpacked(layer)
    found = {"weight": data, **vars(state)}
    if inner := found.pop("state2"):
        found |= {f"state2.{name}": value for name, value in vars(inner).items()}
    tensors = {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}
    return tensors, {name: str(value) for name, value in found.items() if name not in tensors}


def fresh_weight(layer: Any, bf16: Tensor, options: Mapping[str, Any]) -> Tensor:
    """The weight in float32 that bitsandbytes makes of `bf16`."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, made = quantize_4bit(
        bf16,
        blocksize=layer.weight.quant_state.blocksize,
        compress_statistics=options["double_quant"],
        quant_type=options["quant_type"],
    )
    return dequantize_4bit(packed, made).float()


def _unpacked(layer: Any) -> tuple[Any, Any]:
    """The codes and their state, as they were before a forward on a CPU with AVX512-BF16 repacked them."""
    import bitsandbytes.functional as bnb

    data, state = layer.weight.data, layer.weight.quant_state
    if not getattr(state, "packing_format_for_cpu", False):
        return data, state
    # it changes the state that it is given
    unpack: Any = bnb._convert_weight_packed_for_cpu_inverse
    found: tuple[Any, Any] = unpack(data, copy.deepcopy(state))
    return found


def _on(state: Any, place: torch.device) -> Any:
    if state.absmax.device == place:
        return state
    # it moves itself
    moved = copy.deepcopy(state)
    moved.to(place)
    return moved


def is_quantized(layer: Any) -> bool:
    """Whether it is one of bitsandbytes' 4-bit layers, and holds quantized weights."""
    return isinstance(layer, _linear4bit()) and getattr(layer.weight, "quant_state", None) is not None


def own_forward(layer: Any) -> bool:
    """Whether its forward is another than the one that bitsandbytes gave it."""
    return forward_of_its_own(layer, _linear4bit().forward)


def _linear4bit() -> Any:
    from bitsandbytes.nn.modules import Linear4bit

    return Linear4bit


def _excluded(module: Module, options: Mapping[str, Any]) -> list[str]:
    """The names that stay in full precision in this class of module, asked of transformers afresh: the
    module's own configuration could have been edited."""
    from transformers import PreTrainedModel
    from transformers.quantizers.base import HfQuantizer

    named = list(options["modules_to_not_convert"])
    if not isinstance(module, PreTrainedModel):
        return named
    found = HfQuantizer.get_modules_to_not_convert(
        module, named or None, list(module._keep_in_fp32_modules or ())
    )
    return list(found)


def _skips(module: Module, name: str, excluded: Iterable[str]) -> str:
    """Why bitsandbytes leaves a layer of `module` alone; empty where none of `excluded` means its name."""
    from transformers import PreTrainedModel
    from transformers.quantizers.quantizers_utils import should_convert_module

    if isinstance(module, PreTrainedModel):
        means = (key for key in excluded if not should_convert_module(name, [key]))
    else:
        means = (
            key for key in excluded if name == key or name.startswith(f"{key}.") or key in name.split(".")
        )
    why = next(means, "")
    return f"bitsandbytes skips {why}" if why else ""


def _plain(name: str, layer: Any, excluded: str) -> LayerState:
    weight = layer.weight
    size = weight.numel() * weight.element_size()
    return LayerState(
        name=name,
        shape=tuple(weight.shape),
        quantized=False,
        kernel=False,
        excluded=excluded,
        bits=8 * weight.element_size(),
        bytes=size,
        side_bytes=0,
        unlisted=0,
        weight={"weights_dtype": dtype_name(weight.dtype)},
        runtime={},
        expected={},
    )


def _quantized(name: str, layer: Any, options: Mapping[str, Any], excluded: str) -> LayerState:
    import torch

    weight, state = layer.weight, layer.weight.quant_state
    inner = getattr(state, "state2", None)
    sides = [
        state.absmax,
        state.code,
        state.offset,
        getattr(inner, "absmax", None),
        getattr(inner, "code", None),
    ]
    side_bytes = sum(side.numel() * side.element_size() for side in sides if isinstance(side, torch.Tensor))
    return LayerState(
        name=name,
        shape=tuple(state.shape),
        quantized=True,
        kernel=True,
        excluded=excluded,
        bits=4,
        bytes=weight.numel() * weight.element_size(),
        side_bytes=side_bytes,
        unlisted=side_bytes,
        weight={
            "quant_type": state.quant_type,
            "double_quant": _double_quant(state),
            "blocksize": state.blocksize,
            "storage_dtype": dtype_name(weight.dtype),
        },
        runtime={"compute_dtype": dtype_name(layer.compute_dtype), "own_forward": own_forward(layer)},
        expected={key: options[key] for key in FLAGS} | {"storage_dtype": "uint8", "own_forward": False},
    )


def _double_quant(state: Any) -> bool:
    # the first forward on a CPU with AVX512-BF16 unpacks the scales and keeps the truth here
    repacked = getattr(state, "packing_format_for_cpu", False)
    return bool(state.original_nested if repacked else state.nested)


def probe(options: Mapping[str, Any], device: str, width: int = 64) -> Any:
    """A 4-bit layer of `width` × `width`, quantized from random weights in BF16."""
    import torch

    # a new layer draws its weights: not from the random numbers of what is being observed
    with torch.random.fork_rng(devices=[]):
        layer = _linear4bit()(
            width,
            width,
            bias=False,
            compute_dtype=torch_dtype(options["compute_dtype"]),
            compress_statistics=options["double_quant"],
            quant_type=options["quant_type"],
        )
    return layer.to(torch.bfloat16).to(device)


def torch_dtype(name: str) -> Any:
    """torch's type of that name."""
    import torch

    return getattr(torch, name)
