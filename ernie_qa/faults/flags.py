"""Pipelines that do not run as their configuration says, and configurations that say something else."""

from __future__ import annotations

from typing import Any

from ernie_qa.faults import INT8, NF4, UINT4, fault

LAYER = "layers.3.mlp.up_proj"


@fault("quantized matmul off everywhere, flags on", rung="activation", component="transformer", recipe=INT8)
def kernels_off(pipe: Any) -> None:
    from sdnq.loader import apply_sdnq_options_to_model

    for name in ("transformer", "text_encoder", "pe"):
        part = apply_sdnq_options_to_model(getattr(pipe, name), use_quantized_matmul=False)
        part.quantization_config.use_quantized_matmul = True


@fault("one layer dequantizes, flags on", rung="activation", component="transformer", recipe=UINT4)
def one_layer_dequantizes(pipe: Any) -> None:
    from sdnq.layers.linear.forward import quantized_linear_forward

    pipe.transformer.get_submodule(LAYER).forward_func = quantized_linear_forward


@fault("flag off, kernels on", rung="activation", component="text_encoder", recipe=INT8)
def flag_off(pipe: Any) -> None:
    pipe.text_encoder.quantization_config.use_quantized_matmul = False


@fault("flag says INT8, weights are UINT4", rung="activation", component="pe", recipe=UINT4)
def flag_says_another_type(pipe: Any) -> None:
    pipe.pe.quantization_config.weights_dtype = "int8"


@fault("one layer's matmul switched off", rung="activation", component="pe", recipe=INT8)
def one_switch_off(pipe: Any) -> None:
    pipe.pe.model.layers[1].mlp.up_proj.sdnq_dequantizer.use_quantized_matmul = False


@fault("one block is fed sixteen rows at a time", rung="activation", component="transformer", recipe=INT8)
def too_few_rows(pipe: Any) -> None:
    import torch

    mlp = pipe.transformer.layers[3].mlp
    whole = mlp.forward
    mlp.forward = lambda rows: torch.cat([whole(some) for some in rows.split(16)])


@fault("one NF4 layer dequantizes in its forward", rung="activation", component="transformer", recipe=NF4)
def nf4_dequantizes(pipe: Any) -> None:
    from bitsandbytes.functional import dequantize_4bit
    from torch.nn.functional import linear

    layer = pipe.transformer.get_submodule(LAYER)
    weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    layer.forward = lambda rows: linear(rows, weight.to(rows.dtype))


@fault("flag says no double quantization", rung="activation", component="transformer", recipe=NF4)
def nf4_flag(pipe: Any) -> None:
    pipe.transformer.config.quantization_config.bnb_4bit_use_double_quant = False


@fault("one NF4 layer computes in float32", rung="activation", component="transformer", recipe=NF4)
def nf4_computes_in_float32(pipe: Any) -> None:
    import torch

    layer = pipe.transformer.get_submodule(LAYER)
    layer.compute_dtype, layer.compute_type_is_set = torch.float32, True
