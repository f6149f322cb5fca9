"""What reaches each part on its way through the pipeline, beside what ought to: identities, with no limit
that depends on a device or a recipe.

While a case is replayed every part is fed BF16's inputs, so what the pipeline itself hands to the next one
is known: BF16's ids, latents and timesteps, this pipeline's own text states and predictions. A part is also
heard inside, for what is wrapped around it may change what goes in or comes out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from ernie_qa.teacher import USED, previous

if TYPE_CHECKING:
    from torch import Tensor

STEP = 2.0**-7
"""The largest distance between neighbours of BF16, relative: a value that was rounded otherwise is at most so
far off."""

TAUGHT: Mapping[str, Mapping[str, str]] = {
    "text_encoder": {"input_ids": "ids"},
    "transformer": {"hidden_states": "latents", "timestep": "timestep"},
    "scheduler": {"sample": "latents"},
    "vae": {"z": "latents"},
}
"""Part -> which of its inputs the pipeline must bring as it brings them to BF16's, and what they are."""


class Wiring:
    """`found` says by part, in words, what else reached it than ought to have, each once.

    `before` and `after` are told every call of a part, with what the pipeline brings and what it is `taught`;
    `prompt` is what is drawn, and `guided` says that a prediction is made of two.
    """

    def __init__(self, live: Any, prompt: str, guided: bool) -> None:
        self._live, self._prompt, self._guided = live, prompt, guided
        self._heard: dict[str, Tensor] = {}
        self._states: list[Tensor] = []
        self._prediction: Tensor | None = None
        self._stepped: Tensor | None = None
        self.found: dict[str, list[str]] = {part: [] for part in TAUGHT}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear what the text encoder's last layer and the first layer of the VAE's decoding are fed."""
        language = getattr(self._live.text_encoder, "language_model", self._live.text_encoder)
        vae = self._live.vae
        # the hidden states before a layer are those that it is fed
        inside = {"text_encoder": language.layers[USED + 1], "vae": vae.post_quant_conv or vae.decoder}
        with ExitStack() as stack:
            for part, layer in inside.items():

                def heard(_: Any, args: Any, kwargs: Any, part: str = part) -> None:
                    self._heard[part] = args[0] if args else next(iter(kwargs.values()))

                stack.callback(layer.register_forward_pre_hook(heard, with_kwargs=True).remove)
            yield

    def before(self, part: str, call: int, inputs: Mapping[str, Any], taught: Mapping[str, Any]) -> None:
        """Look at what the pipeline brings to that call of `part`."""
        self._heard.pop(part, None)
        for name, what in TAUGHT[part].items():
            bf16, own = taught.get(name), self._own(name, call)
            known = [one for one in (bf16, own) if one is not None]
            if bf16 is not None and not any(same(inputs[name], one) for one in known):
                self._note(part, f"fed other {what} than BF16's", call)
        if part == "transformer":
            for states, length in zip(inputs["text_bth"], inputs["text_lens"], strict=True):
                if self._states and not any(same(states[: int(length)], own) for own in self._states):
                    self._note(part, "fed other text states than the text encoder gave", call)
        elif (
            part == "scheduler"
            and self._prediction is not None
            and not self._guided
            and not same(inputs["model_output"], self._prediction)
        ):
            self._note(part, "fed another prediction than the transformer gave", call)

    def _own(self, name: str, call: int) -> Tensor | None:
        """What this pipeline's own tokenizer or scheduler gave, which have checks of their own."""
        import torch

        live = self._live
        if name == "input_ids" and call == 0:
            return torch.tensor([live.tokenizer(self._prompt)["input_ids"]])
        if name == "timestep" and call < len(live.scheduler.timesteps):
            timesteps: Tensor = live.scheduler.timesteps
            return timesteps[call].to(live.transformer.dtype).reshape(1)
        return self._stepped if name in ("hidden_states", "sample") else None

    def after(self, part: str, call: int, inputs: Mapping[str, Any], output: Any) -> None:
        """Look at what became of what `part` was fed in that call."""
        heard = self._heard.get(part)
        if part == "text_encoder":
            given = output.hidden_states[USED]
            self._states.append(given[0])
            if heard is not None and not same(given, heard):
                self._note(part, "gave other states than its layers made", call)
        elif part == "transformer":
            self._prediction = output[0]
        elif part == "scheduler":
            self._stepped = previous(output)
        elif part == "vae" and heard is not None:
            # of a tile or a slice nobody can say
            whole = heard.shape == inputs["z"].shape
            if whole and not same(heard, inputs["z"]):
                self._note(part, "decoded other latents than it was fed", call)

    def _note(self, part: str, what: str, call: int) -> None:
        if not any(one.startswith(what) for one in self.found[part]):
            self.found[part].append(f"{what}, in call {call + 1}")


def same(ours: Tensor, wanted: Tensor) -> bool:
    """Whether two tensors are equal, floats each within one step of BF16."""
    import torch

    if ours.shape != wanted.shape:
        return False
    wanted = wanted.to(ours.device)
    if not ours.is_floating_point():
        return torch.equal(ours, wanted)
    one, other = ours.float(), wanted.float()
    # what is not a number is not within anything
    return bool(((one - other).abs() <= STEP * other.abs()).all())
