"""The VAE: its weights, its type, and what it decodes."""

from __future__ import annotations

from typing import Any

from ernie_qa.faults import INT8, NF4, UINT4, fault


@fault("one weight of the VAE one ulp off", rung="package", component="vae", recipe=INT8)
def one_weight(pipe: Any) -> None:
    import torch

    pipe.vae.decoder.conv_in.weight.data.view(torch.int16)[0, 0, 0, 0] ^= 1


@fault("the VAE in float16", rung="package", component="vae", recipe=NF4)
def half(pipe: Any) -> None:
    import torch

    pipe.vae.to(torch.float16)
    decode = pipe.vae.decode
    pipe.vae.decode = lambda z, **options: decode(z.to(torch.float16), **options)


@fault("statistics of the latents 2 % off", rung="package", component="vae", recipe=UINT4)
def statistics(pipe: Any) -> None:
    pipe.vae.bn.running_var.mul_(1.04)


@fault("decoded 3 % too bright", rung="components", component="vae", recipe=UINT4)
def too_bright(pipe: Any) -> None:
    decode = pipe.vae.decode
    pipe.vae.decode = lambda z, **options: tuple(one * 1.03 for one in decode(z, **options))


@fault("latents rounded to a quarter before decoding", rung="components", component="vae", recipe=NF4)
def rounded(pipe: Any) -> None:
    decode = pipe.vae.decode
    pipe.vae.decode = lambda z, **options: decode((z * 4).round() / 4, **options)


@fault("a layer of the decoder skipped", rung="components", component="vae", recipe=INT8)
def layer_skipped(pipe: Any) -> None:
    pipe.vae.decoder.mid_block.resnets[0].forward = lambda states, *args, **options: states


@fault("the VAE's weights in 8 bits", rung="package", component="vae", recipe=UINT4)
def eight_bits(pipe: Any) -> None:
    for weight in pipe.vae.decoder.parameters():
        step = weight.abs().max() / 127
        weight.copy_((weight / step).round() * step)
