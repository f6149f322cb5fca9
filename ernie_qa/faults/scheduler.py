"""Schedules that are not the base's: shift, steps, order, arithmetic."""

from __future__ import annotations

from typing import Any

from ernie_qa.faults import INT8, NF4, UINT4, fault


@fault("shift 2.5 in the scheduler's configuration", rung="package", component="scheduler", recipe=UINT4)
def shift_configured(pipe: Any) -> None:
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, shift=2.5)


@fault("shift 2.9 behind the configuration's back", rung="components", component="scheduler", recipe=NF4)
def shift_set(pipe: Any) -> None:
    pipe.scheduler.set_shift(2.9)


@fault("another scheduler class", rung="package", component="scheduler", recipe=INT8)
def other_class(pipe: Any) -> None:
    from diffusers import FlowMatchLCMScheduler

    # of the same configuration: it draws new noise in every step
    pipe.scheduler = FlowMatchLCMScheduler.from_config(pipe.scheduler.config)


def _timed(pipe: Any, changed: Any) -> None:
    """`set_timesteps` with other sigmas than the pipeline asks for."""
    original = pipe.scheduler.set_timesteps
    pipe.scheduler.set_timesteps = lambda sigmas=None, **options: original(sigmas=changed(sigmas), **options)


@fault("one step fewer", rung="components", component="scheduler", recipe=UINT4)
def one_step_fewer(pipe: Any) -> None:
    _timed(pipe, lambda sigmas: sigmas[:-1])


@fault("two sigmas exchanged", rung="components", component="scheduler", recipe=NF4)
def sigmas_exchanged(pipe: Any) -> None:
    _timed(pipe, lambda sigmas: sigmas[[0, 1, 2, 4, 3, 5, 6, 7]])


@fault("sigmas end early", rung="components", component="scheduler", recipe=UINT4)
def ends_early(pipe: Any) -> None:
    _timed(pipe, lambda sigmas: sigmas * 0.95 + 0.05)


def _stepping(pipe: Any, changed: Any) -> None:
    """`step` with another prediction than the transformer's."""
    original = pipe.scheduler.step

    def step(model_output: Any, timestep: Any, sample: Any) -> Any:
        return original(changed(model_output, timestep), timestep, sample)

    pipe.scheduler.step = step


@fault("steps 5 % too long", rung="components", component="scheduler", recipe=UINT4)
def steps_too_long(pipe: Any) -> None:
    _stepping(pipe, lambda prediction, timestep: prediction * 1.05)


@fault("the last step 10 % too long", rung="components", component="scheduler", recipe=UINT4)
def last_step_too_long(pipe: Any) -> None:
    scheduler = pipe.scheduler
    _stepping(
        pipe,
        lambda prediction, timestep: prediction * (1.1 if timestep == scheduler.timesteps[-1] else 1.0),
    )
