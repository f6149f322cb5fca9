"""Layers, blocks and components that are not quantized, or otherwise than the recipe says, or are others."""

from __future__ import annotations

import copy
from typing import Any

from ernie_qa.faults import BF16, INT8, NF4, UINT4, fault

LAYER = "layers.3.mlp.up_proj"


def _other(pipe: Any, component: str, recipe: str) -> Any:
    """That component of the miniature as another recipe has it."""
    import diffusers
    import torch
    import transformers

    from ernie_qa.models.find import find_model
    from ernie_qa.quantizers import ComponentSource, checked_options, find_quantizer
    from ernie_qa.recipe import find_recipe

    model, found, place = find_model("mini").path, find_recipe(recipe), pipe._execution_device
    library, name = {
        "transformer": (diffusers, "ErnieImageTransformer2DModel"),
        "text_encoder": (transformers, "Mistral3Model"),
        "pe": (transformers, "Ministral3ForCausalLM"),
    }[component]
    if component not in found.components:
        plain: Any = getattr(library, name)
        return plain.from_pretrained(model / component, dtype=torch.bfloat16).to(place).eval()
    quantizer = found.components[component]
    source = ComponentSource(model, component, library.__name__, name, str(place))
    return find_quantizer(quantizer).load(source, checked_options(found)[quantizer])


def _taken(pipe: Any, part: str, place: str, recipe: str) -> None:
    getattr(pipe, part).set_submodule(place, _other(pipe, part, recipe).get_submodule(place))


@fault("UINT4: one layer left in BF16", rung="package", component="transformer", recipe=UINT4)
def one_plain_layer(pipe: Any) -> None:
    _taken(pipe, "transformer", LAYER, BF16)


@fault("NF4: one layer left in BF16", rung="package", component="text_encoder", recipe=NF4)
def one_plain_nf4_layer(pipe: Any) -> None:
    _taken(pipe, "text_encoder", "language_model.layers.1.mlp.up_proj", BF16)


@fault("INT8: one block left in BF16", rung="package", component="transformer", recipe=INT8)
def one_plain_block(pipe: Any) -> None:
    _taken(pipe, "transformer", "layers.5", BF16)


@fault("NF4: the prompt enhancer left in BF16", rung="package", component="pe", recipe=NF4)
def plain_component(pipe: Any) -> None:
    pipe.pe = _other(pipe, "pe", BF16)


@fault("UINT4: one layer in INT8", rung="package", component="transformer", recipe=UINT4)
def other_bits(pipe: Any) -> None:
    _taken(pipe, "transformer", LAYER, INT8)


@fault("NF4: the text encoder by the other quantizer", rung="package", component="text_encoder", recipe=NF4)
def other_quantizer(pipe: Any) -> None:
    pipe.text_encoder = _other(pipe, "text_encoder", UINT4)


@fault("NF4: one layer without double quantization", rung="package", component="transformer", recipe=NF4)
def no_double_quantization(pipe: Any) -> None:
    _requantized(pipe.transformer.get_submodule(LAYER), "nf4", nested=False)


@fault("NF4: one layer in FP4", rung="package", component="transformer", recipe=NF4)
def fp4(pipe: Any) -> None:
    _requantized(pipe.transformer.get_submodule(LAYER), "fp4", nested=True)


def _requantized(layer: Any, kind: str, *, nested: bool) -> None:
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn.modules import Params4bit

    made: Any = Params4bit
    plain = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    layer.weight = made(plain, False, quant_type=kind, compress_statistics=nested).to(plain.device)
    layer.quant_state = layer.weight.quant_state


@fault("two blocks exchanged", rung="package", component="transformer", recipe=UINT4)
def blocks_exchanged(pipe: Any) -> None:
    blocks = pipe.transformer.layers
    blocks[2], blocks[5] = blocks[5], blocks[2]


@fault("one block skipped", rung="components", component="transformer", recipe=INT8)
def block_skipped(pipe: Any) -> None:
    pipe.transformer.layers[4].forward = lambda rows, *args, **options: rows


@fault("one block's weights from its neighbour", rung="package", component="transformer", recipe=NF4)
def block_doubled(pipe: Any) -> None:
    pipe.transformer.layers[4] = copy.deepcopy(pipe.transformer.layers[5])


@fault("one layer cut to two bits", rung="package", component="transformer", recipe=UINT4)
def twice(pipe: Any) -> None:
    weight = pipe.transformer.get_submodule(LAYER).weight
    # two bits of each four are gone
    weight.bitwise_and_(0b11001100)


@fault("one norm of a block halved", rung="package", component="transformer", recipe=UINT4)
def norm_halved(pipe: Any) -> None:
    pipe.transformer.layers[3].adaLN_mlp_ln.weight.mul_(0.5)


@fault("an adapter left in one layer", rung="components", component="transformer", recipe=UINT4)
def adapter(pipe: Any) -> None:
    import torch

    down = torch.randn(256, 4, generator=torch.Generator().manual_seed(1)).bfloat16() / 16
    layer = pipe.transformer.get_submodule(LAYER)
    layer.register_forward_hook(lambda _, fed, given: given + (fed[0] @ down).mean(-1, keepdim=True))


@fault("the sign of one layer turned", rung="package", component="pe", recipe=INT8)
def sign(pipe: Any) -> None:
    pipe.pe.model.layers[0].self_attn.o_proj.scale.neg_()
