"""Pipelines that draw something else than they are asked for: latents, seed, words, guidance."""

from __future__ import annotations

from typing import Any

from ernie_qa.faults import INT8, NF4, UINT4, fault


def calling(pipe: Any, **changed: Any) -> None:
    """Change what the pipeline is called with: an argument each, a function of what it was."""
    original: Any = type(pipe)

    def call(self: Any, *args: Any, **options: Any) -> Any:
        return original.__call__(
            self, *args, **{**options, **{key: change(options.get(key)) for key, change in changed.items()}}
        )

    pipe.__class__ = type(original.__name__, (original,), {"__call__": call})


@fault("latents of another seed", rung="components", recipe=INT8)
def other_seed(pipe: Any) -> None:
    import torch

    drawn = torch.Generator().manual_seed(0)
    calling(pipe, latents=lambda given: torch.randn(given.shape, generator=drawn).to(given.dtype))


@fault("latents 3 % too strong", rung="components", recipe=UINT4)
def strong_latents(pipe: Any) -> None:
    calling(pipe, latents=lambda given: given * 1.03)


@fault("one channel of the latents lost", rung="components", recipe=NF4)
def lost_channel(pipe: Any) -> None:
    import torch

    def lost(given: Any) -> Any:
        return torch.cat([torch.zeros_like(given[:, :1]), given[:, 1:]], dim=1)

    calling(pipe, latents=lost)


@fault("latents mirrored", rung="components", recipe=UINT4)
def mirrored_latents(pipe: Any) -> None:
    calling(pipe, latents=lambda given: given.flip(-1))


@fault("the prompt's last words cut off", rung="components", recipe=INT8)
def cut_prompt(pipe: Any) -> None:
    calling(pipe, prompt=lambda given: given[: len(given) // 2])


@fault("the prompt in lower case", rung="components", recipe=NF4)
def lower_case(pipe: Any) -> None:
    calling(pipe, prompt=str.lower)


@fault("guidance where the suite has none", rung="running", recipe=UINT4)
def guided(pipe: Any) -> None:
    calling(pipe, guidance_scale=lambda given: 3.0)


@fault("one step more than asked", rung="components", component="scheduler", recipe=NF4)
def one_step_more(pipe: Any) -> None:
    calling(pipe, num_inference_steps=lambda given: given + 1)
