"""Drawing: one case becomes pixels, with what it took, stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ernie_qa.meter import Stopwatch, now, peaks, reset_peaks
from ernie_qa.spool import Spool, Spooled

if TYPE_CHECKING:
    import numpy as np
    import torch
    from diffusers import ErnieImagePipeline

    from ernie_qa.suite import Case, Suite

STAGES = ("pe", "text_encoder", "transformer", "vae")
"""The components whose share of a picture's time is measured, in the order in which they run."""


@dataclass(frozen=True, slots=True)
class Enhanced:
    """What the prompt enhancer made of a prompt: the one it wrote, in how many `tokens` and `seconds`."""

    prompt: str
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Drawn:
    """What drawing one case gave: `picture` holds its `pixels`, or their shape and where they are spooled.

    `nonfinite` counts the values that were NaN or infinite as the VAE decoded them. `seconds` is how long it
    took, the device waited for and the prompt enhancer not counted, and `stages` what of that each component
    took. `peak` are the bytes of memory at their highest, see `ernie_qa.meter.peaks`. `enhanced` is None
    where the suite does without the prompt enhancer. `compiled` is how many kernels were compiled meanwhile,
    None where nobody looked.
    """

    case: str
    picture: np.ndarray[Any, Any] | tuple[tuple[int, ...], Spooled]
    nonfinite: int
    seconds: float
    stages: Mapping[str, float]
    peak: Mapping[str, int | None]
    enhanced: Enhanced | None = None
    compiled: int | None = None

    @property
    def pixels(self) -> np.ndarray[Any, Any]:
        """uint8 RGB [H, W, 3]; of a spooled picture a new array."""
        import numpy as np

        if not isinstance(self.picture, tuple):
            return self.picture
        shape, spooled = self.picture
        return np.frombuffer(bytearray(spooled.content()), np.uint8).reshape(shape)

    def spooled(self, spool: Spool) -> Drawn:
        """The same, its pixels in `spool` and no longer in memory."""
        pixels = self.pixels
        return replace(self, picture=(pixels.shape, spool.keep(pixels.tobytes())))


def latents(pipe: ErnieImagePipeline, case: Case) -> torch.Tensor:
    """The noise that `case` starts from: [1, channels, height / factor, width / factor], float32, on the CPU.

    CUDA's generator differs between GPUs and with the dtype; drawn so, every arm starts from the same.
    """
    import torch

    live: Any = pipe
    factor = live.vae_scale_factor
    shape = (1, live.transformer.config.in_channels, case.height // factor, case.width // factor)
    return torch.randn(shape, generator=torch.Generator().manual_seed(case.seed), dtype=torch.float32)


def draw(pipe: ErnieImagePipeline, case: Case, suite: Suite, *, prompt: str | None = None) -> Drawn:
    """Draw one case as `suite` says, leaving the caller's random state and progress bars as they were.

    Where the suite uses the prompt enhancer it runs, is timed apart, and what it wrote is drawn, unless
    `prompt` is given: what BF16's wrote, so that all arms draw the same words. An answer without words leaves
    the case's own prompt.
    """
    import torch

    live: Any = pipe
    place = live._execution_device
    watch = Stopwatch(place)
    reset_peaks(place)
    devices = range(torch.cuda.device_count())
    with _quiet(live), torch.random.fork_rng(devices=devices), _timed(live, watch):
        enhanced = _enhance(live, case, watch) if suite.use_pe and live.pe is not None else None
        written = enhanced.prompt if enhanced and prompt is None else prompt
        began = now(place)
        images, nonfinite = _images(live, case, suite, written or case.prompt, suite.steps)
        seconds = now(place) - began
    spent = watch.seconds()
    return Drawn(
        case=case.id,
        picture=_rounded(images[0]),
        nonfinite=nonfinite,
        seconds=seconds,
        stages={stage: spent[stage] for stage in STAGES if stage in spent},
        peak=peaks(place),
        enhanced=enhanced,
    )


def warm_up(pipe: ErnieImagePipeline, case: Case, suite: Suite, *, prompt: str | None = None) -> None:
    """One step of `case`, thrown away: kernels are chosen, tuned and loaded for its size and for the length
    of its words, or of `prompt`, and the picture then costs what it always will."""
    rehearse(pipe, case, suite, prompt=prompt, steps=1)


def rehearse(
    pipe: ErnieImagePipeline, case: Case, suite: Suite, *, prompt: str | None = None, steps: int | None = None
) -> None:
    """Draw `case` as `draw` does, from `prompt` if there is one, in `steps` if given, and keep nothing."""
    import torch

    live: Any = pipe
    with _quiet(live), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        _images(live, case, suite, prompt or case.prompt, steps or suite.steps)
    now(live._execution_device)


def _images(live: Any, case: Case, suite: Suite, prompt: str, steps: int) -> tuple[Any, int]:
    """The pictures as floats in [0, 1], and how many values were not finite."""
    import torch

    found: list[torch.Tensor] = []
    # here, for diffusers clamps the picture afterwards, and an infinite value becomes white
    hook = live.vae.decoder.register_forward_hook(
        lambda module, inputs, decoded: found.append((~torch.isfinite(decoded)).sum())
    )
    try:
        images = live(
            prompt=prompt,
            height=case.height,
            width=case.width,
            num_inference_steps=steps,
            guidance_scale=suite.guidance,
            latents=latents(live, case).to(live._execution_device, live.transformer.dtype),
            use_pe=False,
            output_type="np",
        ).images
    finally:
        hook.remove()
    return images, sum(int(count) for count in found)


def _enhance(live: Any, case: Case, watch: Stopwatch) -> Enhanced:
    """Let the prompt enhancer write; it samples from the global generator, which `case` seeds."""
    import torch

    torch.manual_seed(case.seed)
    before, began = watch.calls["pe"], now(live._execution_device)
    written = live._enhance_prompt_with_pe(
        case.prompt, live._execution_device, width=case.width, height=case.height
    )
    seconds = now(live._execution_device) - began
    # a forward a token: the first one reads the prompt and gives one as well
    return Enhanced(written, watch.calls["pe"] - before, seconds)


@contextmanager
def _timed(live: Any, watch: Stopwatch) -> Iterator[None]:
    """Time every call of the stages by `watch`; the VAE's `decode` is no forward, and is wrapped instead."""
    with ExitStack() as stack:
        for stage in STAGES[:-1]:
            module = getattr(live, stage, None)
            if module is None:
                continue
            starts, ends = partial(_start, watch, stage), partial(_stop, watch, stage)
            # outermost, so that what other hooks add and offloading moves is counted
            stack.callback(module.register_forward_pre_hook(starts, prepend=True).remove)
            stack.callback(module.register_forward_hook(ends, always_call=True).remove)
        attributes = vars(live.vae)
        # somebody may have put a decode of his own there, a compiled one
        restore = {"decode": attributes["decode"]} if "decode" in attributes else {}
        live.vae.decode = _wrapped(live.vae.decode, watch)
        stack.callback(attributes.update, restore)
        stack.callback(attributes.pop, "decode")
        yield


def _start(watch: Stopwatch, stage: str, *_: Any) -> None:
    watch.start(stage)


def _stop(watch: Stopwatch, stage: str, *_: Any) -> None:
    watch.stop(stage)


def _wrapped(decode: Callable[..., Any], watch: Stopwatch) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        watch.start("vae")
        try:
            return decode(*args, **kwargs)
        finally:
            watch.stop("vae")

    return timed


@contextmanager
def _quiet(live: Any) -> Iterator[None]:
    """Without the pipeline's own progress bar, and with its settings as they were afterwards."""
    bars = getattr(live, "_progress_bar_config", {})
    live.set_progress_bar_config(**{**bars, "disable": True})
    try:
        yield
    finally:
        live.set_progress_bar_config(**bars)


def _rounded(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """uint8 pixels as diffusers makes them of floats in [0, 1]; NaN becomes 0."""
    import numpy as np

    pixels: np.ndarray[Any, Any] = (np.nan_to_num(image) * 255).round().astype(np.uint8)
    return pixels
