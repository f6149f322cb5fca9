"""SDNQ: weights of 1 to 8 bits, and matrix products in int8 on the quantized weights.

`use_quantized_matmul` is the switch that lies most easily: the configuration, each layer, and each call have
their own say in it. See docs/activation.md.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_qa.errors import ModelError
from ernie_qa.quantizers import ComponentSource, stored_quantization
from ernie_qa.quantizers.saving import ONE_FILE, bits_per_weight, edit_config, write_json
from ernie_qa.quantizers.sdnq_layers import describe, own_forward, probe, sdnq_config
from ernie_qa.quantizers.sdnq_layers import fresh_weight as fresh_weight
from ernie_qa.quantizers.sdnq_layers import held as held
from ernie_qa.quantizers.sdnq_layers import weight as weight
from ernie_qa.quantizers.watching import Call, Watch, tell_apart, watching
from ernie_qa.toml_input import Table

if TYPE_CHECKING:
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


def keeping(options: Mapping[str, Any], component: str, layers: Collection[str]) -> Mapping[str, Any]:
    """Named as SDNQ names a weight: it then means that one of a component, and no part of another name."""
    before = options.get("modules_to_not_convert", ())
    return {**options, "modules_to_not_convert": (*before, *(f"{layer}.weight" for layer in layers))}


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
        config = sdnq_config(options)
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
    return bits_per_weight(probe(4096, 64, options, device), 4096 * 64)


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
    return {CONFIG_FILE: _stored_config(sdnq_config(options))}


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


def watch(module: Module) -> AbstractContextManager[Watch]:
    """Count, for every SDNQ layer of `module`, the calls that enter SDNQ's quantized matrix products."""
    from sdnq.forward import get_forward_func
    from sdnq.utils import check_param_name_in, check_quantized_matmul_is_allowed

    config = getattr(module, "quantization_config", None)
    skipped = list(getattr(config, "modules_to_not_use_matmul", None) or ())

    def reason(name: str, layer: Any, call: Call) -> str:
        dequantizer = layer.sdnq_dequantizer
        kind, matmul = layer.original_class.__name__, dequantizer.quantized_matmul_dtype
        if own_forward(layer) or layer.forward_func is not get_forward_func(
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
            *(probe(128, 128, {**options, "use_quantized_matmul": on}, device) for on in (True, False))
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
