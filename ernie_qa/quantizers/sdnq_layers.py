"""SDNQ's layers: what they are, what `options` make SDNQ itself choose, and its weights made afresh."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ernie_qa.quantizers.layers import LayerState, dtype_name
from ernie_qa.quantizers.watching import own_forward as forward_of_its_own

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module


def describe(module: Module, options: Mapping[str, Any]) -> tuple[LayerState, ...]:
    """The state of every SDNQ layer and every plain Linear, beside what `options` make SDNQ itself choose."""
    excluded = _excluded(module, options)
    return tuple(
        _quantized(name, layer, options)
        if hasattr(layer, "sdnq_dequantizer")
        else _plain(name, layer, excluded)
        for name, layer in _layers(module)
    )


def weight(layer: Any, shape: tuple[int, ...], device: torch.device) -> Tensor | None:
    """The layer's weight in float32; None for what is no Linear."""
    if layer.original_class.__name__ != "Linear":
        return None
    live = _dequantized(layer, device)
    # stored turned though its switch says otherwise: how it runs is another rung's to say
    turned = live.shape != shape and live.shape == shape[::-1]
    return live.T.contiguous() if turned else live


def held(layer: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What the layer's weight is computed from."""
    dequantizer = layer.sdnq_dequantizer
    settings = {name: str(value) for name, value in vars(dequantizer).items()}
    classes = {"dequantizer": _place(type(dequantizer)), "layer": _place(layer.original_class)}
    return _tensors(layer), settings | classes


def fresh_weight(layer: Any, bf16: Tensor, options: Mapping[str, Any]) -> Tensor:
    """The weight in float32 that SDNQ makes of `bf16`."""
    # what runs without the kernel has other groups in some types; whether it may is `describe`'s to say
    same_groups = {**options, "group_size": layer.sdnq_dequantizer.group_size or -1}
    with _given_factors(layer, bf16):
        return _dequantized(made(bf16.clone(), same_groups), bf16.device)


@contextmanager
def _given_factors(layer: Any, bf16: Tensor) -> Iterator[None]:
    """The layer's own low-rank factors for what is quantized meanwhile, where it has some: SDNQ draws others
    each time, at random, and scales that hold another remainder are not alike."""
    if getattr(layer, "svd_up", None) is None:
        yield
        return
    quantizer: Any = import_module("sdnq.quantizer")
    turned = layer.sdnq_dequantizer.use_quantized_matmul
    up, down = (
        one.detach().to(bf16.device).T if turned else one.detach().to(bf16.device)
        for one in (layer.svd_up, layer.svd_down)
    )

    def given(weight: Tensor, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
        return weight.float() - (up @ down).float(), up.clone(), down.clone()

    own = quantizer.apply_svdquant
    quantizer.apply_svdquant = given
    try:
        yield
    finally:
        quantizer.apply_svdquant = own


def sdnq_config(options: Mapping[str, Any]) -> Any:
    """SDNQ's own configuration of a recipe's options."""
    from sdnq import SDNQConfig

    return SDNQConfig(
        **{key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
    )


def _layers(module: Module) -> Iterator[tuple[str, Any]]:
    import torch

    for name, layer in module.named_modules():
        if hasattr(layer, "sdnq_dequantizer") or isinstance(layer, torch.nn.Linear):
            yield name, layer


def own_forward(layer: Any) -> bool:
    """Whether an SDNQ layer runs another forward than its class's."""
    from sdnq.layers import SDNQLayer

    return forward_of_its_own(layer, SDNQLayer.forward)


def _excluded(module: Any, options: Mapping[str, Any]) -> list[str]:
    """The names that SDNQ leaves alone in this class of module, sorted, asked of SDNQ afresh: the
    module's own configuration could have been edited."""
    from sdnq.utils import add_module_skip_keys
    from transformers import PreTrainedModel
    from transformers.quantizers.base import HfQuantizer

    config = sdnq_config(options)
    if isinstance(module, PreTrainedModel):
        config.modules_to_not_convert += HfQuantizer.get_modules_to_not_convert(
            module, add_default_skips=True
        )
    # SDNQ and transformers go through sets, which each process orders anew, and the first that fits is named
    return sorted(add_module_skip_keys(module, config)[1].modules_to_not_convert)


def _plain(name: str, layer: Any, excluded: list[str]) -> LayerState:
    from sdnq import SDNQConfig

    weight, limits = layer.weight, SDNQConfig()
    why = _skips(name, excluded)
    if not why and weight.numel() < limits.minimum_allowed_numel:
        why = f"fewer than {limits.minimum_allowed_numel} weights"
    elif not why and weight.shape[-1] < limits.minimum_allowed_channel_size:
        why = f"fewer than {limits.minimum_allowed_channel_size} input channels"
    size = weight.numel() * weight.element_size()
    stored = {"weights_dtype": dtype_name(weight.dtype)}
    bits = 8 * weight.element_size()
    return LayerState(name, tuple(weight.shape), False, False, why, bits, size, 0, 0, stored, {}, {})


def _skips(name: str, excluded: list[str]) -> str:
    """Why SDNQ leaves a layer of that name alone; empty where none of `excluded` means it."""
    from sdnq.utils import check_param_name_in

    named = check_param_name_in(f"{name}.weight", excluded)
    return "" if named is None else f"SDNQ skips {named}"


def _quantized(name: str, layer: Any, options: Mapping[str, Any]) -> LayerState:
    from sdnq import common
    from sdnq.utils import check_param_name_in

    dequantizer = layer.sdnq_dequantizer
    shape = tuple(dequantizer.original_shape)
    kernel, expected = False, {"weights_dtype": options["weights_dtype"]}
    if layer.original_class.__name__ == "Linear":
        named = check_param_name_in(f"{name}.weight", list(options["modules_to_not_use_matmul"]))
        kernel = options["use_quantized_matmul"] and named is None
        wanted = tuple(sorted({**options, "use_quantized_matmul": kernel}.items()))
        expected = _expected(shape[-1], wanted, str(layer.weight.device))
    sides = [getattr(layer, key, None) for key in common.sdnq_keys - {"weight"}]
    return LayerState(
        name=name,
        shape=shape,
        quantized=True,
        kernel=kernel,
        # what a release of sdnq skips by itself is no promise of the recipe
        excluded=_skips(name, list(options["modules_to_not_convert"])),
        bits=dequantizer.num_bits,
        bytes=layer.weight.numel() * layer.weight.element_size(),
        side_bytes=sum(side.numel() * side.element_size() for side in sides if side is not None),
        unlisted=0,
        weight=_weight(layer),
        runtime={**_runtime(layer), "compiled": common.use_torch_compile},
        expected=expected,
    )


@cache
def _expected(in_features: int, options: tuple[tuple[str, Any], ...], device: str) -> dict[str, Any]:
    """What this sdnq makes of `options` for a Linear with that many inputs: it is asked, on 32 rows of zeros,
    for it chooses groups and types itself and its choices change between releases."""
    from sdnq.forward import get_forward_func

    wanted = dict(options)
    layer = probe(in_features, 32, wanted, device)
    kernel, matmul = wanted["use_quantized_matmul"], layer.sdnq_dequantizer.quantized_matmul_dtype
    # a shape that the kernel refuses is refused here too: what the recipe wants is what counts
    forward = _place(get_forward_func("Linear", matmul, kernel))
    return {**_weight(layer), **_runtime(layer), "use_quantized_matmul": kernel, "forward": forward}


def probe(in_features: int, out_features: int, options: Mapping[str, Any], device: str) -> Any:
    """A Linear of zeros, as SDNQ quantizes it on `device`."""
    import torch

    return made(torch.zeros(out_features, in_features, dtype=torch.bfloat16, device=device), options)


def made(weight: Tensor, options: Mapping[str, Any]) -> Any:
    """A Linear of that BF16 weight, which it takes, as SDNQ quantizes it."""
    import torch
    from sdnq import sdnq_quantize_layer

    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    # SDNQ enters what it skips into the configuration that it is given, and warns with each that is made
    config = copy.deepcopy(_shared_config(tuple(sorted(options.items()))))
    return sdnq_quantize_layer(layer, config, torch_dtype=torch.bfloat16)[0].eval()


@cache
def _shared_config(options: tuple[tuple[str, Any], ...]) -> Any:
    return sdnq_config(dict(options))


def _tensors(layer: Any) -> dict[str, Tensor]:
    from sdnq import common

    named = {key: getattr(layer, key, None) for key in sorted(common.sdnq_keys)}
    return {key: value.detach() for key, value in named.items() if value is not None}


def _dequantized(layer: Any, place: torch.device) -> Tensor:
    import torch

    found: Tensor = layer.sdnq_dequantizer(
        **{key: value.to(place) for key, value in _tensors(layer).items()},
        # stored turned for the matrix product
        skip_quantized_matmul=layer.sdnq_dequantizer.use_quantized_matmul,
        # each new shape would be compiled for this one call
        skip_compile=True,
        dtype=torch.float32,
    )
    return found


def _weight(layer: Any) -> dict[str, Any]:
    dequantizer = layer.sdnq_dequantizer
    return {
        "weights_dtype": dequantizer.weights_dtype,
        "group_size": dequantizer.group_size,
        "storage_dtype": dtype_name(layer.weight.dtype),
        "scale_dtype": dtype_name(layer.scale.dtype),
        "zero_point": layer.zero_point is not None,
        "svd": layer.svd_up is not None,
        "hadamard": dequantizer.use_hadamard,
    }


def _runtime(layer: Any) -> dict[str, Any]:
    dequantizer = layer.sdnq_dequantizer
    return {
        "use_quantized_matmul": dequantizer.use_quantized_matmul,
        "matmul_dtype": dequantizer.quantized_matmul_dtype,
        "forward": _place(layer.forward_func),
        "own_forward": own_forward(layer),
    }


def _place(function: Any) -> str:
    return f"{function.__module__}.{function.__qualname__}"
