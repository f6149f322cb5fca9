"""What a live pipeline's parts and layers give when BF16's inputs are fed to them: the other side of a tape
(`ernie_qa.teacher`), under the same names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ernie_qa.capsules.container import PUBLISHED
from ernie_qa.drawing import rehearse
from ernie_qa.replay import fed, taught
from ernie_qa.teacher import USED, Tape, kept, logits, previous, tapped, token_ids

if TYPE_CHECKING:
    import torch
    from diffusers import ErnieImagePipeline

    from ernie_qa.suite import Case, Suite


class _Enough(Exception):
    """As many steps were taken as were asked for."""


def answered(
    pipe: ErnieImagePipeline,
    suite: Suite,
    tape: Tape,
    words: Mapping[str, str],
    *,
    steps: int | None = None,
) -> dict[str, torch.Tensor]:
    """What `pipe` makes of `tape`: for each case in it that the suite has.

    Gives `CASE/text_encoder/N/states`, `CASE/transformer/N/prediction`, `CASE/scheduler/0/prev, sigmas,
    timesteps`, `CASE/vae/decoded`, `ids/TOKENIZER/CASE` and `pe/CASE/logits` as a tape does, and
    `CASE/calls/PART`, how often each part was called; on the CPU. `words` are what BF16's prompt enhancer
    wrote, by case. With `steps`, a case is drawn no further than that, and the VAE is fed all the same.
    """
    live: Any = pipe
    found = dict(token_ids(pipe, suite))
    for case in suite.cases:
        if f"{case.id}/scheduler/sigmas" in tape:
            found |= _drawn(pipe, case, suite, tape, words.get(case.id), steps)
        if f"pe/{case.id}/ids" in tape and getattr(live, "pe", None) is not None:
            theirs = f"pe/{case.id}/logits"
            count = len(tape[theirs] if theirs in tape else tape[PUBLISHED + theirs])
            found[f"pe/{case.id}/logits"] = kept(logits(pipe, tape[f"pe/{case.id}/ids"], count))
    return found


def _drawn(
    pipe: ErnieImagePipeline, case: Case, suite: Suite, tape: Tape, prompt: str | None, steps: int | None
) -> dict[str, torch.Tensor]:
    import torch

    live: Any = pipe
    place = live._execution_device
    found: dict[str, torch.Tensor] = {}
    counts: Counter[str] = Counter()

    def before(part: str, inputs: dict[str, Any]) -> dict[str, Any]:
        return fed(inputs, taught(tape, case.id, part, counts[part]), place)

    def after(part: str, inputs: dict[str, Any], output: Any) -> None:
        call, name = counts[part], f"{case.id}/{part}"
        counts[part] += 1
        if part == "text_encoder":
            found[f"{name}/{call}/states"] = kept(output.hidden_states[USED][0])
        elif part == "transformer":
            found[f"{name}/{call}/prediction"] = kept(output[0])
        elif part == "scheduler" and call == 0:
            found[f"{name}/0/prev"] = kept(previous(output))
        elif part == "vae":
            found[f"{name}/decoded"] = kept(output[0])
        if part == "scheduler" and counts[part] == steps:
            raise _Enough

    with tapped(pipe, before, after):
        try:
            rehearse(pipe, case, suite, prompt=prompt)
        except _Enough:
            with torch.no_grad():
                live.vae.decode(tape[f"{case.id}/vae/latents"].to(place), return_dict=False)
    for name in ("sigmas", "timesteps"):
        found[f"{case.id}/scheduler/{name}"] = kept(getattr(live.scheduler, name))
    return found | {f"{case.id}/calls/{part}": torch.tensor(count) for part, count in counts.items()}


def layers_answered(pipe: ErnieImagePipeline, tape: Tape) -> dict[str, torch.Tensor]:
    """`layers/COMPONENT/LAYER/outputs`: what each layer makes of its rows, as few as they are: the weights
    decide that, not a kernel that one machine has and another has not."""
    import torch

    live: Any = pipe
    found = {}
    for key, rows in tape.items():
        _, _, place = key.partition("layers/")
        if not key.startswith("layers/") or not place.endswith("/rows"):
            continue
        component, layer, _ = place.split("/")
        try:
            module = getattr(live, component).get_submodule(layer)
        except AttributeError:
            continue
        given = rows
        if module.weight.dtype in (torch.float32, torch.float16):
            given = rows.to(module.weight.dtype)
        with torch.no_grad():
            made = module(given.to(live._execution_device))
        found[f"layers/{place.removesuffix('/rows')}/outputs"] = kept(made)
    return found
