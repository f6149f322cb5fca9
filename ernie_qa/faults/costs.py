"""What takes longer or more memory than it did. On a CPU costs are recorded and not judged, so these need a
GPU; the limits there are what the sound arm of the same session took, and a quarter more."""

from __future__ import annotations

from typing import Any

from ernie_qa.faults import INT8, NF4, UINT4, fault


def _slower(module: Any, factor: int) -> None:
    """The same work, so many times."""
    forward = module.forward

    def repeated(*args: Any, **options: Any) -> Any:
        for _ in range(factor - 1):
            forward(*args, **options)
        return forward(*args, **options)

    module.forward = repeated


@fault("the transformer computes every step twice", rung="cost", recipe=INT8, device="cuda")
def slow_transformer(pipe: Any) -> None:
    _slower(pipe.transformer, 2)


@fault("the VAE's decoder waits for half a second", rung="cost", recipe=NF4, device="cuda")
def slow_decoder(pipe: Any) -> None:
    import time

    pipe.vae.decoder.register_forward_pre_hook(lambda *_: time.sleep(0.5))


@fault("a copy of the weights in float32 kept", rung="cost", recipe=UINT4, device="cuda")
def kept_copy(pipe: Any) -> None:
    import torch

    weights = [one for one in pipe.transformer.parameters() if one.is_floating_point()]
    pipe.transformer.kept = [torch.zeros(8 * 2**20, device=one.device) for one in weights]
