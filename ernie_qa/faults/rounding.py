"""Clean variants: what changes bits and must change no verdict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ernie_qa.changes.attention import math
from ernie_qa.faults import INT8, NF4, UINT4, Fault, clean


@clean("UINT4: attention by the math kernel", recipe=UINT4)
def math_attention(pipe: Any) -> Iterator[None]:
    yield from math(pipe)


@clean("NF4: attention by the math kernel", recipe=NF4)
def math_attention_nf4(pipe: Any) -> Iterator[None]:
    yield from math(pipe)


@clean("INT8: attention by the math kernel", recipe=INT8)
def math_attention_int8(pipe: Any) -> Iterator[None]:
    yield from math(pipe)


@clean("UINT4: eager attention in the language models", recipe=UINT4)
def eager(pipe: Any) -> None:
    pipe.text_encoder.set_attn_implementation("eager")
    pipe.pe.set_attn_implementation("eager")


@clean("NF4: eager attention in the language models", recipe=NF4)
def eager_nf4(pipe: Any) -> None:
    eager(pipe)


@clean("INT8: eager attention in the language models", recipe=INT8)
def eager_int8(pipe: Any) -> None:
    eager(pipe)


@clean("attention over keys in reverse order", recipe=NF4)
def reversed_keys(pipe: Any) -> Iterator[None]:
    import torch.nn.functional as functional

    original = functional.scaled_dot_product_attention

    def turned(query: Any, key: Any, value: Any, attn_mask: Any = None, *args: Any, **options: Any) -> Any:
        # a sum in another order is the same but for rounding
        if options.get("is_causal") or (args and len(args) > 1):
            return original(query, key, value, attn_mask, *args, **options)
        mask = None if attn_mask is None else attn_mask.flip(-1)
        return original(query, key.flip(-2), value.flip(-2), mask, *args, **options)

    functional.scaled_dot_product_attention = turned
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = original


@clean("deterministic algorithms", recipe=UINT4)
def deterministic(pipe: Any) -> Iterator[None]:
    import torch

    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@clean("the VAE in the default memory layout", recipe=NF4)
def default_layout(pipe: Any) -> None:
    import torch

    pipe.vae.to(memory_format=torch.contiguous_format)


@clean("the VAE decodes in float32 and rounds", recipe=INT8)
def vae_float32(pipe: Any) -> None:
    import copy

    import torch

    exact = copy.deepcopy(pipe.vae).float()

    def decode(z: Any, **options: Any) -> Any:
        return tuple(one.to(torch.bfloat16) for one in exact.decode(z.float(), **options))

    pipe.vae.decode = decode


def _rounded_otherwise(pipe: Any, part: str, places: Any, seed: int = 1) -> None:
    """The sums of these layers one BF16 ulp off in half of the places, drawn at random."""
    import torch

    drawn = torch.Generator().manual_seed(seed)

    def off(_: Any, fed: Any, given: Any) -> Any:
        turned = torch.randint(0, 2, given.shape, generator=drawn, dtype=torch.int16)
        return (given.view(torch.int16) ^ turned).view(given.dtype)

    for name, layer in getattr(pipe, part).named_modules():
        if name.endswith(places):
            layer.register_forward_hook(off)


@clean("INT8: MLPs of the transformer round otherwise", recipe=INT8)
def mlps_round(pipe: Any) -> None:
    _rounded_otherwise(pipe, "transformer", "linear_fc2")


@clean("UINT4: attention of the transformer rounds otherwise", recipe=UINT4)
def attention_rounds(pipe: Any) -> None:
    _rounded_otherwise(pipe, "transformer", "to_out.0")


@clean("UINT4: MLPs of the transformer round otherwise", recipe=UINT4)
def mlps_round_uint4(pipe: Any) -> None:
    _rounded_otherwise(pipe, "transformer", "linear_fc2")


@clean("INT8: the text encoder rounds otherwise", recipe=INT8)
def encoder_rounds_int8(pipe: Any) -> None:
    _rounded_otherwise(pipe, "text_encoder", ("o_proj", "down_proj"))


@clean("NF4: the text encoder rounds otherwise", recipe=NF4)
def encoder_rounds(pipe: Any) -> None:
    _rounded_otherwise(pipe, "text_encoder", ("o_proj", "down_proj"))


@clean("NF4: the prompt enhancer rounds otherwise", recipe=NF4)
def enhancer_rounds(pipe: Any) -> None:
    _rounded_otherwise(pipe, "pe", ("o_proj", "down_proj"))


def _latents(pipe: Any, change: Any) -> None:
    from ernie_qa.faults.inputs import calling

    calling(pipe, latents=change)


def _ulp(given: Any, seed: int) -> Any:
    import torch

    turned = torch.randint(
        0, 2, given.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int16
    )
    return (given.view(torch.int16) ^ turned).view(given.dtype)


@clean("INT8: latents rounded otherwise", recipe=INT8)
def latents_int8(pipe: Any) -> None:
    _latents(pipe, lambda given: _ulp(given, 1))


@clean("UINT4: latents rounded otherwise", recipe=UINT4)
def latents_uint4(pipe: Any) -> None:
    _latents(pipe, lambda given: _ulp(given, 2))


@clean("NF4: latents rounded otherwise", recipe=NF4)
def latents_nf4(pipe: Any) -> None:
    _latents(pipe, lambda given: _ulp(given, 3))


def _scales(layer: Any, seed: int) -> None:
    import torch

    bits = layer.scale.view(torch.int16)
    bits[:: 10 + seed] ^= 1


@clean("INT8: one scale in ten one ulp off", recipe=INT8)
def scales_ulp(pipe: Any) -> None:
    _scales(pipe.transformer.get_submodule("layers.3.mlp.up_proj"), 0)


@clean("UINT4: one scale in ten of each block one ulp off", recipe=UINT4)
def all_scales_ulp(pipe: Any) -> None:
    for at, block in enumerate(pipe.transformer.layers):
        _scales(block.mlp.gate_proj, at)


@clean("UINT4: a batch of two", recipe=UINT4)
def batch_of_two(pipe: Any) -> None:
    import torch

    forward = pipe.transformer.forward

    def doubled(hidden_states: Any, timestep: Any, text_bth: Any, text_lens: Any, **options: Any) -> Any:
        twice = [torch.cat([one, one]) for one in (hidden_states, timestep, text_bth, text_lens)]
        given = forward(*twice, **options)
        return tuple(one[:1] for one in given)

    pipe.transformer.forward = doubled


@clean("NF4: a batch of two", recipe=NF4)
def batch_of_two_nf4(pipe: Any) -> None:
    batch_of_two(pipe)


@clean("INT8: a batch of two", recipe=INT8)
def batch_of_two_int8(pipe: Any) -> None:
    batch_of_two(pipe)


@clean("the last weight of a group one level off", recipe=UINT4)
def one_level(pipe: Any) -> None:
    pipe.transformer.get_submodule("layers.3.mlp.up_proj").weight[::4096] ^= 1


@clean("text states padded", recipe=NF4)
def padded(pipe: Any) -> None:
    from torch.nn.functional import pad

    forward = pipe.transformer.forward

    def longer(hidden_states: Any, timestep: Any, text_bth: Any, text_lens: Any, **options: Any) -> Any:
        return forward(hidden_states, timestep, pad(text_bth, (0, 0, 0, 7)), text_lens, **options)

    pipe.transformer.forward = longer


@clean("the timestep's embedding in float32", recipe=UINT4)
def float32_embedding(pipe: Any) -> None:
    norm = pipe.transformer.final_norm.norm
    forward = norm.forward
    norm.forward = lambda rows, *args: forward(rows.float(), *args).to(rows.dtype)


_SUMS = {
    "MLPs of the transformer": ("transformer", "linear_fc2"),
    "attention of the transformer": ("transformer", "to_out.0"),
    "the text encoder": ("text_encoder", ("o_proj", "down_proj")),
}


def rounded_otherwise(number: int) -> tuple[Fault, ...]:
    """So many clean variants beside those of the corpus: in every one the sums of some layers, or the
    latents, are rounded otherwise in half of the places, which another seed draws."""
    found = []
    kinds = [(recipe, what) for recipe in (UINT4, NF4, INT8) for what in (*_SUMS, "latents")]
    for seed in range(number):
        recipe, what = kinds[seed % len(kinds)]

        def damage(pipe: Any, what: str = what, seed: int = 1000 + seed) -> None:
            if what in _SUMS:
                _rounded_otherwise(pipe, *_SUMS[what], seed)
            else:
                _latents(pipe, lambda given: _ulp(given, seed))

        found.append(Fault(f"{what} rounded otherwise, seed {seed}", "rounding", recipe, "pipe", damage))
    return tuple(found)
