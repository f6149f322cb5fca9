"""Scales, zero points, codebooks and the order of groups, damaged slightly and badly."""

from __future__ import annotations

from typing import Any

from ernie_qa.faults import INT8, NF4, UINT4, fault

LAYER = "layers.3.mlp.up_proj"


def _scaled(layer: Any, factor: float) -> None:
    """Zero points too: they are what a quantized 0 stands for."""
    layer.scale.mul_(factor)
    if layer.zero_point is not None:
        layer.zero_point.mul_(factor)


@fault("INT8: one layer's scales 2 % off", rung="package", component="transformer", recipe=INT8)
def int8_two_percent(pipe: Any) -> None:
    _scaled(pipe.transformer.get_submodule(LAYER), 1.02)


@fault("UINT4: one layer's scales 2 % off", rung="package", component="transformer", recipe=UINT4)
def uint4_two_percent(pipe: Any) -> None:
    _scaled(pipe.transformer.get_submodule(LAYER), 1.02)


@fault("UINT4: one layer's scales 5 % off", rung="package", component="transformer", recipe=UINT4)
def uint4_five_percent(pipe: Any) -> None:
    _scaled(pipe.transformer.get_submodule("layers.6.self_attention.to_q"), 0.95)


@fault("UINT4: one layer's scales doubled", rung="package", component="transformer", recipe=UINT4)
def uint4_doubled(pipe: Any) -> None:
    _scaled(pipe.transformer.get_submodule(LAYER), 2.0)


@fault("UINT4: one layer's zero points one step off", rung="package", component="text_encoder", recipe=UINT4)
def zero_points(pipe: Any) -> None:
    layer = pipe.text_encoder.language_model.layers[1].mlp.gate_proj
    layer.zero_point.add_(layer.scale)


@fault("UINT4: groups of one layer in reverse order", rung="package", component="transformer", recipe=UINT4)
def groups_reversed(pipe: Any) -> None:
    layer = pipe.transformer.get_submodule(LAYER)
    layer.scale.copy_(layer.scale.flip(1))
    layer.zero_point.copy_(layer.zero_point.flip(1))


@fault("UINT4: nibbles of one layer swapped", rung="package", component="pe", recipe=UINT4)
def nibbles(pipe: Any) -> None:
    weight = pipe.pe.model.layers[1].mlp.up_proj.weight
    weight.copy_((weight << 4) | (weight >> 4))


@fault("INT8: one row's scale lost", rung="package", component="transformer", recipe=INT8)
def one_row(pipe: Any) -> None:
    pipe.transformer.get_submodule(LAYER).scale.flatten()[7] = 0.0


@fault("INT8: one scale is not a number", rung="package", component="text_encoder", recipe=INT8)
def not_a_number(pipe: Any) -> None:
    pipe.text_encoder.language_model.layers[0].mlp.up_proj.scale.flatten()[0] = float("nan")


@fault("NF4: one layer's second scales 2 % off", rung="package", component="transformer", recipe=NF4)
def nf4_two_percent(pipe: Any) -> None:
    pipe.transformer.get_submodule(LAYER).weight.quant_state.state2.absmax.mul_(1.02)


@fault("NF4: one layer's second scales 10 % off", rung="package", component="transformer", recipe=NF4)
def nf4_ten_percent(pipe: Any) -> None:
    pipe.transformer.get_submodule(LAYER).weight.quant_state.state2.absmax.mul_(1.1)


def _nf4_scaled(layer: Any, factor: float) -> None:
    state = layer.weight.quant_state
    state.state2.absmax.mul_(factor)
    state.offset.mul_(factor)


@fault("NF4: one layer's scales 2 % off", rung="package", component="transformer", recipe=NF4)
def nf4_scales_two_percent(pipe: Any) -> None:
    _nf4_scaled(pipe.transformer.get_submodule(LAYER), 1.02)


@fault("NF4: one layer's scales 5 % off", rung="package", component="transformer", recipe=NF4)
def nf4_scales_five_percent(pipe: Any) -> None:
    _nf4_scaled(pipe.transformer.get_submodule(LAYER), 1.05)


@fault("NF4: one layer's offset of scales lost", rung="package", component="pe", recipe=NF4)
def nf4_offset(pipe: Any) -> None:
    pipe.pe.model.layers[0].mlp.down_proj.weight.quant_state.offset.zero_()


@fault("NF4: FP4's codebook in one layer", rung="components", component="transformer", recipe=NF4)
def nf4_codebook(pipe: Any) -> None:
    import bitsandbytes.functional as bnb

    codebook: Any = bnb.get_4bit_type
    state = pipe.transformer.get_submodule(LAYER).weight.quant_state
    state.code = codebook("fp4", device="cpu")


@fault("NF4: blocks of one layer shifted by one", rung="package", component="text_encoder", recipe=NF4)
def nf4_blocks(pipe: Any) -> None:
    state = pipe.text_encoder.language_model.layers[2].mlp.down_proj.weight.quant_state
    state.absmax.copy_(state.absmax.roll(1))
