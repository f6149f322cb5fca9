"""SDNQ: weights of 1 to 8 bits, and matrix products in int8 on the quantized weights.

`use_quantized_matmul` is the switch that lies most easily: the configuration, each layer, and each call have
their own say in it. See docs/activation.md.
"""

from __future__ import annotations

import copy
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_qa.errors import ModelError
from ernie_qa.quantizers import ComponentSource, stored_quantization
from ernie_qa.quantizers.layers import LayerState, dtype_name
from ernie_qa.quantizers.saving import ONE_FILE, bits_per_weight, edit_config, write_json
from ernie_qa.quantizers.watching import Call, Watch, own_forward, tell_apart, watching
from ernie_qa.toml_input import Table

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module

NAME = "sdnq"
SUMMARY = "SDNQ: 1 to 8 bit weights, int8 matrix products"
PACKAGES = ("sdnq",)
DEVICES = frozenset({"cpu", "cuda"})

_DTYPE = re.compile(r"u?int[1-8]|fp[1-8]|float[1-8]_e\dm\d(fn|fnu)?|float8_e5m2")
_DTYPE_RULE = "a type as SDNQ names it, of at most 8 bits: uint4, int8, float8_e4m3fn"
CONFIG_FILE = "quantization_config.json"
"""What sdnq calls it."""

_FLAGS = ("weights_dtype", "use_quantized_matmul")
_MATMUL = ("int8", "uint8", "float8_e4m3fn", "float16")
_FEW_ROWS = 32
"""With fewer rows a layer dequantizes, whatever the flags say (sdnq 0.2.8, layers/linear/linear_int8.py)."""
_KERNEL_FUNCTIONS = ("int8_matmul", "uint8_matmul", "fp8_matmul", "fp16_matmul")
_KERNEL_OPS = frozenset(
    {
        "sdnq::scaled_mm",  # Triton, CUDA
        "sdnq::triton_mm",  # CUDA with SDNQ_USE_TRITON_SCALED_MM=0
        "sdnq::openvino_int_mm",  # CPU with OpenVINO
        "sdnq::openvino_fp_mm",
        "aten::_int_mm",  # CPU, and CUDA with SDNQ_USE_TRITON_MM=0
        "aten::_scaled_mm",  # float8 without Triton
    }
)


def check_options(table: Table) -> Mapping[str, Any]:
    """The options that a recipe may set; names and defaults are `sdnq.SDNQConfig`'s.

    `group_size` counts weights that share a scale: 0 lets SDNQ choose, -1 is one a row.
    `quantized_matmul_dtype` may be left out: int8 for integers. `use_quantized_matmul` has no default: a
    recipe says whether it wants the quantized kernel.
    """
    options: dict[str, Any] = {
        "weights_dtype": table.text("weights_dtype", pattern=_DTYPE, allowed=_DTYPE_RULE),
        "group_size": table.integer("group_size", 0, minimum=-1, maximum=2**20),
        "dequantize_fp32": table.boolean("dequantize_fp32", True),
        "use_quantized_matmul": table.boolean("use_quantized_matmul"),
        "use_svd": table.boolean("use_svd", False),
        "svd_rank": table.integer("svd_rank", 32, minimum=1, maximum=4096),
        "use_hadamard": table.boolean("use_hadamard", False),
        "modules_to_not_convert": table.strings("modules_to_not_convert", ()),
        "modules_to_not_use_matmul": table.strings("modules_to_not_use_matmul", ()),
    }
    if "quantized_matmul_dtype" in table:
        options["quantized_matmul_dtype"] = table.choice("quantized_matmul_dtype", _MATMUL)
    return options


def prepare(device: str) -> None:
    """Import sdnq, without compilation on a CPU unless the environment says otherwise."""
    # sdnq reads it once, when imported: set later, it would not say what sdnq does
    if device == "cpu" and "sdnq" not in sys.modules and "SDNQ_USE_TORCH_COMPILE" not in os.environ:
        # compiled, each new shape costs 5 to 60 s on a CPU
        os.environ["SDNQ_USE_TORCH_COMPILE"] = "0"
        # it would then warn with every configuration that it is not compiled
        logging.getLogger("sdnq").setLevel(logging.ERROR)
    # must come before any load: the import registers SDNQ with transformers
    import_module("sdnq")


def load(source: ComponentSource, options: Mapping[str, Any]) -> Module:
    """Quantize the component while it loads, or load it as it was stored, then apply the matmul switch.

    The switch is applied explicitly whatever was stored: older loaders left it off.
    """
    import torch

    prepare(source.device)
    from sdnq.loader import apply_sdnq_options_to_model

    stored = stored_quantization(source.path)
    if stored is not None and stored.get("quant_method") != NAME:
        raise ModelError(f"{source.path}: already quantized by {stored.get('quant_method')!r}, not by sdnq")
    kwargs: dict[str, Any] = {
        "dtype": torch.bfloat16,
        "use_safetensors": True,
        "local_files_only": True,
    }
    if stored is None:
        config = _config(options)
        if source.device != "cpu":
            config.quantization_device = config.return_device = source.device
        kwargs["quantization_config"] = config
    module: Module = source.cls.from_pretrained(source.path, **kwargs)
    module = apply_sdnq_options_to_model(module, use_quantized_matmul=options["use_quantized_matmul"])
    return module.to(source.device).eval()


def save(module: Module, folder: Path, options: Mapping[str, Any]) -> None:
    """`save_pretrained`, and the configuration as it was applied, in `config.json` and in SDNQ's own
    `quantization_config.json`: diffusers keeps a dict of what it was before."""
    live: Any = module
    live.save_pretrained(folder, max_shard_size=ONE_FILE)
    config = _stored_config(live.quantization_config)
    edit_config(folder, quantization_config=config)
    write_json(folder / CONFIG_FILE, config)


def stored_bits(device: str, options: Mapping[str, Any]) -> float:
    """Of a layer of 4096 × 64, which SDNQ is asked to quantize."""
    return bits_per_weight(_probe(4096, 64, options, device), 4096 * 64)


def loading(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """`import sdnq` registers it; its switch is to be set on each component whatever was stored."""
    return {
        "import_first": ["sdnq"],
        "after_loading": {
            "function": "sdnq.loader.apply_sdnq_options_to_model",
            "arguments": {"use_quantized_matmul": options["use_quantized_matmul"]},
        },
    }


def metadata(options: Mapping[str, Any], facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration for the whole pipeline, where sdnq's own `save_sdnq_model` puts it."""
    return {CONFIG_FILE: _stored_config(_config(options))}


def config_flag(module: Module) -> Mapping[str, Any]:
    """`weights_dtype` and `use_quantized_matmul` as the component's own configuration has them."""
    config = getattr(module, "quantization_config", None)
    if config is None:
        return {}
    return {key: getattr(config, key, None) for key in _FLAGS}


def stored_flag(stored: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same of a stored component's `quantization_config`."""
    return {key: stored.get(key) for key in _FLAGS}


def expected_flag(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """What `config_flag` should give."""
    return {key: options[key] for key in _FLAGS}


def describe(module: Module, options: Mapping[str, Any]) -> tuple[LayerState, ...]:
    """The state of every SDNQ layer and every plain Linear, beside what `options` make SDNQ itself choose."""
    excluded = _excluded(module, options)
    return tuple(
        _quantized(name, layer, options)
        if hasattr(layer, "sdnq_dequantizer")
        else _plain(name, layer, excluded)
        for name, layer in _layers(module)
    )


def weights(layer: Any, bf16: Tensor, options: Mapping[str, Any]) -> tuple[Tensor, Tensor] | None:
    """The layer's weight and the one that SDNQ makes of `bf16`, in float32; None for what is no Linear."""
    if layer.original_class.__name__ != "Linear":
        return None
    live = _dequantized(layer, bf16.device)
    # stored turned though its switch says otherwise: how it runs is another rung's to say
    turned = live.shape != bf16.shape and live.shape == bf16.shape[::-1]
    # what runs without the kernel has other groups in some types; whether it may is `describe`'s to say
    same_groups = {**options, "group_size": layer.sdnq_dequantizer.group_size or -1}
    with _given_factors(layer, bf16):
        fresh = _dequantized(_made(bf16.clone(), same_groups), bf16.device)
    return live.T.contiguous() if turned else live, fresh


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


def watch(module: Module) -> AbstractContextManager[Watch]:
    """Count, for every SDNQ layer of `module`, the calls that enter SDNQ's quantized matrix products."""
    from sdnq.forward import get_forward_func
    from sdnq.utils import check_param_name_in, check_quantized_matmul_is_allowed

    config = getattr(module, "quantization_config", None)
    skipped = list(getattr(config, "modules_to_not_use_matmul", None) or ())

    def reason(name: str, layer: Any, call: Call) -> str:
        dequantizer = layer.sdnq_dequantizer
        kind, matmul = layer.original_class.__name__, dequantizer.quantized_matmul_dtype
        if _own_forward(layer) or layer.forward_func is not get_forward_func(
            kind, matmul, dequantizer.use_quantized_matmul
        ):
            return "forward"
        if not dequantizer.use_quantized_matmul:
            # SDNQ adds the layers that it refuses for their shape to the list of skipped ones: shape first
            if not check_quantized_matmul_is_allowed(True, *dequantizer.original_shape[:2]):
                return "shape"
            named = check_param_name_in(f"{name}.weight", skipped) is not None
            return "skipped" if named else "dequantized"
        if call.rows < _FEW_ROWS:
            return "decoding" if call.decoding else "few_rows"
        return "no_kernel"

    layers = {name: layer for name, layer in module.named_modules() if hasattr(layer, "sdnq_dequantizer")}
    return watching(module, layers, reason, _KERNEL_OPS, _kernel_functions())


def prove(device: str, options: Mapping[str, Any]) -> str | None:
    """Two layers of 128 × 128 made by SDNQ's own code: one set up to run the quantized kernel, one not; of
    the recipe's types where it wants the kernel, else of int8, which every device multiplies. None where
    `describe` and `watch` tell them apart."""
    import torch

    prepare(device)
    if not options["use_quantized_matmul"]:
        options = {**options, "weights_dtype": "int8", "quantized_matmul_dtype": "int8"}
    try:
        from sdnq.common import sdnq_version

        pair = torch.nn.Sequential(
            *(_probe(128, 128, {**options, "use_quantized_matmul": on}, device) for on in (True, False))
        )
        with watch(pair) as seen:
            rows = torch.linspace(-1, 1, 64 * 128, device=device, dtype=torch.bfloat16).reshape(64, 128)
            problem = tell_apart(seen, pair, rows)
        flags = [state.runtime["use_quantized_matmul"] for state in describe(pair, options)]
        if flags != [True, False]:
            problem = problem or f"the layers' own switches read {flags}"
    except (AttributeError, ImportError, KeyError, TypeError) as moved:
        # names inside sdnq that this file relies on: another release may have renamed them
        return f"the probe does not know this sdnq: {type(moved).__name__}: {moved}"
    return f"the probe does not know sdnq {sdnq_version} on {device}: {problem}" if problem else None


def _config(options: Mapping[str, Any]) -> Any:
    from sdnq import SDNQConfig

    return SDNQConfig(
        **{key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
    )


def _stored_config(config: Any) -> dict[str, Any]:
    """`config` as JSON values that are the same on every machine and in every process."""
    values = {**config.to_dict(), "quantization_device": None, "return_device": None}
    # SDNQ makes lists of sets, and those have no order
    return {key: sorted(value) if isinstance(value, list) else value for key, value in values.items()}


def _kernel_functions() -> list[tuple[Any, str]]:
    places = [("layers.linear.linear_", name) for name in _KERNEL_FUNCTIONS]
    places += [("layers.conv.conv_", f"conv_{name}") for name in _KERNEL_FUNCTIONS]
    return [
        (import_module(f"sdnq.{prefix}{name.removeprefix('conv_').removesuffix('_matmul')}"), name)
        for prefix, name in places
    ]


def _layers(module: Module) -> Iterator[tuple[str, Any]]:
    import torch

    for name, layer in module.named_modules():
        if hasattr(layer, "sdnq_dequantizer") or isinstance(layer, torch.nn.Linear):
            yield name, layer


def _own_forward(layer: Any) -> bool:
    from sdnq.layers import SDNQLayer

    return own_forward(layer, SDNQLayer.forward)


def _excluded(module: Any, options: Mapping[str, Any]) -> list[str]:
    """The names that SDNQ leaves alone in this class of module, asked of SDNQ afresh: the module's own
    configuration could have been edited."""
    from sdnq.utils import add_module_skip_keys
    from transformers import PreTrainedModel
    from transformers.quantizers.base import HfQuantizer

    config = _config(options)
    if isinstance(module, PreTrainedModel):
        config.modules_to_not_convert += HfQuantizer.get_modules_to_not_convert(
            module, add_default_skips=True
        )
    names: list[str] = add_module_skip_keys(module, config)[1].modules_to_not_convert
    return names


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
    layer = _probe(in_features, 32, wanted, device)
    kernel, matmul = wanted["use_quantized_matmul"], layer.sdnq_dequantizer.quantized_matmul_dtype
    # a shape that the kernel refuses is refused here too: what the recipe wants is what counts
    forward = _place(get_forward_func("Linear", matmul, kernel))
    return {**_weight(layer), **_runtime(layer), "use_quantized_matmul": kernel, "forward": forward}


def _probe(in_features: int, out_features: int, options: Mapping[str, Any], device: str) -> Any:
    import torch

    return _made(torch.zeros(out_features, in_features, dtype=torch.bfloat16, device=device), options)


def _made(weight: Tensor, options: Mapping[str, Any]) -> Any:
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
    return _config(dict(options))


def _dequantized(layer: Any, place: torch.device) -> Tensor:
    import torch
    from sdnq import common

    held = {key: getattr(layer, key, None) for key in common.sdnq_keys}
    found: Tensor = layer.sdnq_dequantizer(
        **{key: value.detach().to(place) for key, value in held.items() if value is not None},
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
        "own_forward": _own_forward(layer),
    }


def _place(function: Any) -> str:
    return f"{function.__module__}.{function.__qualname__}"
