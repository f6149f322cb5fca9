"""bitsandbytes: 4-bit weights (NF4, FP4) with 16-bit arithmetic, by its own kernels on CUDA and on a CPU."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_qa.errors import ModelError
from ernie_qa.quantizers import ComponentSource, stored_quantization
from ernie_qa.quantizers.bitsandbytes_layers import (
    FLAGS,
    describe,
    is_quantized,
    own_forward,
    probe,
    torch_dtype,
)
from ernie_qa.quantizers.bitsandbytes_layers import fresh_weight as fresh_weight
from ernie_qa.quantizers.bitsandbytes_layers import held as held
from ernie_qa.quantizers.bitsandbytes_layers import weight as weight
from ernie_qa.quantizers.layers import LayerState, dtype_name
from ernie_qa.quantizers.saving import ONE_FILE, bits_per_weight, edit_config
from ernie_qa.quantizers.watching import Call, Watch, tell_apart, watching
from ernie_qa.toml_input import Table

if TYPE_CHECKING:
    from torch.nn import Module

NAME = "bitsandbytes"
SUMMARY = "bitsandbytes: 4-bit weights (NF4 or FP4), arithmetic in 16 bits"
PACKAGES = ("bitsandbytes",)
DEVICES = frozenset({"cpu", "cuda"})

_KERNEL_OPS = frozenset(
    {
        "bitsandbytes::gemm_4bit",  # CUDA, and CPUs without AVX512-BF16
        "bitsandbytes::gemv_4bit",  # CPUs with AVX512-BF16, with any number of rows
    }
)


def check_options(table: Table) -> Mapping[str, Any]:
    """The options that a recipe may set: those of `BitsAndBytesConfig` in 4 bits, without their prefix."""
    return {
        "quant_type": table.choice("quant_type", ("nf4", "fp4"), "nf4"),
        "double_quant": table.boolean("double_quant", True),
        "compute_dtype": table.choice("compute_dtype", ("bfloat16", "float16", "float32"), "bfloat16"),
        "modules_to_not_convert": table.strings("modules_to_not_convert", ()),
    }


def keeping(options: Mapping[str, Any], component: str, layers: Collection[str]) -> Mapping[str, Any]:
    """transformers leaves alone whatever ends in a name, unless that begins with ^; diffusers knows no ^. So
    the name of a layer of the transformer may mean one of the language models too."""
    anchor = "" if component == "transformer" else "^"
    # with a list of our own transformers no longer leaves the prompt enhancer's head alone by itself
    before = options.get("modules_to_not_convert") or ("lm_head",)
    return {**options, "modules_to_not_convert": (*before, *(f"{anchor}{layer}" for layer in layers))}


def prepare(device: str) -> None:
    """Import bitsandbytes."""
    import_module("bitsandbytes")


def load(source: ComponentSource, options: Mapping[str, Any]) -> Module:
    """Quantize the component while it loads, or load it as it was stored."""
    import torch

    stored = stored_quantization(source.path)
    if stored is not None and stored.get("quant_method") != NAME:
        raise ModelError(
            f"{source.path}: already quantized by {stored.get('quant_method')!r}, not by bitsandbytes"
        )
    kwargs: dict[str, Any] = {
        "dtype": torch.bfloat16,
        "device_map": {"": source.device},
        "use_safetensors": True,
        "local_files_only": True,
    }
    if stored is None:
        kwargs["quantization_config"] = _config(source.library, options)
    on_cpu = source.device == "cpu" and source.library == "diffusers"
    with _diffusers_on_cpu() if on_cpu else nullcontext():
        module: Module = source.cls.from_pretrained(source.path, **kwargs)
    return module.eval()


def save(module: Module, folder: Path, options: Mapping[str, Any]) -> None:
    """`save_pretrained`, past diffusers' demand for a GPU."""
    live: Any = module
    with _diffusers_on_cpu():
        live.save_pretrained(folder, max_shard_size=ONE_FILE)
    edit_config(folder)


def stored_bits(device: str, options: Mapping[str, Any]) -> float:
    """Of a layer of 1024 × 1024, which bitsandbytes is asked to quantize."""
    return bits_per_weight(probe(options, device, 1024), 1024 * 1024)


def loading(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The libraries know it themselves."""
    return {"import_first": [], "after_loading": None}


def metadata(options: Mapping[str, Any], facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """What was done to which component, as `BitsAndBytesConfig` names it."""
    flags = {name: options[key] for key, name in FLAGS.items()}
    left = list(options["modules_to_not_convert"])
    settings = {"quant_method": NAME, "load_in_4bit": True, **flags, "llm_int8_skip_modules": left}
    return {"quantization_metadata.json": {"schema": 1, **settings, **facts}}


def config_flag(module: Module) -> Mapping[str, Any]:
    """What the component's own configuration claims of its 4-bit weights; empty where it has none."""
    config = getattr(getattr(module, "config", None), "quantization_config", None)
    if config is None:
        return {}
    return _flag({key: getattr(config, key, None) for key in ("load_in_4bit", *FLAGS.values())})


def stored_flag(stored: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same of a stored component's `quantization_config`."""
    return _flag(stored)


def _flag(config: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: config.get(name) for key, name in FLAGS.items()}
    found["compute_dtype"] = dtype_name(found["compute_dtype"])
    return {"load_in_4bit": bool(config.get("load_in_4bit"))} | found


def expected_flag(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """What `config_flag` should give."""
    return {"load_in_4bit": True} | {key: options[key] for key in FLAGS}


def watch(module: Module) -> AbstractContextManager[Watch]:
    """Count, for every 4-bit layer of `module`, the calls that enter bitsandbytes' 4-bit matrix product."""
    import bitsandbytes

    def reason(name: str, layer: Any, call: Call) -> str:
        return "forward" if own_forward(layer) else "no_kernel"

    layers = {name: layer for name, layer in module.named_modules() if is_quantized(layer)}
    return watching(module, layers, reason, _KERNEL_OPS, [(bitsandbytes, "matmul_4bit")])


def prove(device: str, options: Mapping[str, Any]) -> str | None:
    """Two 4-bit layers of 64 × 64: one as bitsandbytes made it, one that dequantizes and multiplies in full
    precision. None where `describe` and `watch` tell them apart."""
    import torch

    try:
        import bitsandbytes

        pair = torch.nn.Sequential(probe(options, device), probe(options, device)).eval()
        states = describe(pair, options)
        wrong = {
            key for state in states for key, want in state.expected.items() if _value(state, key) != want
        }
        with watch(pair) as seen:
            _dequantize_in_forward(pair[1])
            rows = torch.linspace(-1, 1, 64 * 64, device=device, dtype=torch.bfloat16).reshape(64, 64)
            problem = tell_apart(seen, pair, rows)
        if wrong:
            problem = problem or f"a layer just made reads otherwise: {', '.join(sorted(wrong))}"
    except (AttributeError, ImportError, KeyError, TypeError) as moved:
        # names inside bitsandbytes that this file relies on: another release may have renamed them
        return f"the probe does not know this bitsandbytes: {type(moved).__name__}: {moved}"
    version = bitsandbytes.__version__
    return f"the probe does not know bitsandbytes {version} on {device}: {problem}" if problem else None


def _config(library: str, options: Mapping[str, Any]) -> Any:
    # two classes of one name: diffusers' on a text encoder is a TypeError
    config: Any = import_module(library).BitsAndBytesConfig
    return config(
        load_in_4bit=True,
        bnb_4bit_quant_type=options["quant_type"],
        bnb_4bit_use_double_quant=options["double_quant"],
        bnb_4bit_compute_dtype=torch_dtype(options["compute_dtype"]),
        llm_int8_skip_modules=list(options["modules_to_not_convert"]) or None,
    )


@contextmanager
def _diffusers_on_cpu() -> Iterator[None]:
    """Let diffusers quantize to 4 bits on a CPU, for as long as the context is open.

    bitsandbytes has CPU kernels and transformers uses them; diffusers refuses with "No GPU found" before it
    asks, and takes "cpu" in a device map for offloading. Quantizing, saving, reloading and running all work
    once these two checks are out of the way.
    """
    quantizer: Any = import_module("diffusers.quantizers.bitsandbytes").BnB4BitDiffusersQuantizer
    originals = quantizer.validate_environment, quantizer.update_device_map
    quantizer.validate_environment = lambda self, *args, **kwargs: None
    quantizer.update_device_map = lambda self, device_map: device_map or {"": "cpu"}
    try:
        yield
    finally:
        quantizer.validate_environment, quantizer.update_device_map = originals


def _dequantize_in_forward(layer: Any) -> None:
    from bitsandbytes.functional import dequantize_4bit
    from torch.nn.functional import linear

    layer.forward = lambda rows: linear(rows, dequantize_4bit(layer.weight.data, layer.weight.quant_state))


def _value(state: LayerState, key: str) -> Any:
    return {**state.weight, **state.runtime}.get(key)
