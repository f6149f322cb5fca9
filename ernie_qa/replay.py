"""A part at a time, fed what BF16 fed it: how far off is what it gives? `ernie_qa.teacher` has the tape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from ernie_qa.drawing import rehearse
from ernie_qa.fidelity.components import cosine, divergence, gain, relative_l2, tokens
from ernie_qa.fidelity.extents import spoken, steps, text
from ernie_qa.meter import now
from ernie_qa.teacher import USED, Tape, logits, previous, probed, tapped, token_ids
from ernie_qa.wiring import Wiring

if TYPE_CHECKING:
    import torch
    from diffusers import ErnieImagePipeline

    from ernie_qa.suite import Case, Suite
    from ernie_qa.trajectories import Trajectories


def replayed(
    pipe: ErnieImagePipeline,
    suite: Suite,
    trajectories: Trajectories,
    number: int,
    words: Mapping[str, str],
    rehearsed: Callable[[str, float], None],
) -> dict[str, Any]:
    """The figures of the components rung for at most `number` recorded cases, as JSON values.

    `words` are what BF16's prompt enhancer wrote, by case. `rehearsed` is told each case that was drawn, and
    in how many seconds, without what comparing took.
    """
    from safetensors.torch import load

    # safetensors gives them in any order
    tape = dict(sorted(load(trajectories.content()).items()))
    fed = [case for case in suite.cases if f"{case.id}/scheduler/sigmas" in tape][:number]
    live: Any = pipe
    found: dict[str, Replay] = {}
    said: dict[str, dict[str, Any]] = {}
    missing: list[str] = []
    for case in fed:
        found[case.id] = one = Replay(pipe, case, suite, tape, layers=not found)
        one.draw(words.get(case.id))
        missing += [f"{case.id}: {what}" for what in one.missing]
        rehearsed(case.id, one.seconds)
    for case in fed:
        if f"pe/{case.id}/ids" in tape and getattr(live, "pe", None) is not None:
            said[case.id] = pe_errors(pipe, case, tape, layers=not said)
    if not said and any(name.startswith("pe/") for name in tape):
        missing.append("pe: this pipeline has none")
    layers = {part: layers for one in found.values() for part, layers in one.layers.items()}
    if said:
        layers["pe"] = next(iter(said.values()))["layers"]
    return plain(
        {
            "cases": list(found),
            "text_encoder": text({case: one.text for case, one in found.items()}),
            "transformer": steps({case: one.steps for case, one in found.items()}),
            "pe": spoken(said, any(case.id in words for case in fed)),
            "vae": {case: one.vae for case, one in found.items()},
            "scheduler": {case: one.scheduler for case, one in found.items()},
            "fed": {case: one.fed for case, one in found.items()},
            "tokenizers": other_ids(pipe, suite, tape),
            "missing": missing,
            "layers": layers,
        }
    )


def other_ids(pipe: ErnieImagePipeline, suite: Suite, tape: Tape) -> dict[str, list[str]]:
    """Tokenizer -> the cases of which it makes other ids than BF16's."""
    ours = {key: ids.tolist() for key, ids in token_ids(pipe, suite).items()}
    found: dict[str, list[str]] = {}
    for key, ids in tape.items():
        if key.startswith("ids/"):
            _, tokenizer, case = key.split("/", 2)
            found.setdefault(tokenizer, []).extend([] if ours.get(key) == ids.tolist() else [case])
    return found


def taught(tape: Tape, case: str, part: str, call: int) -> dict[str, torch.Tensor]:
    """What BF16's was fed in that call of `part`, by name, as far as `tape` says."""
    at = f"{case}/{part}"
    names: dict[str, Sequence[str]] = {}
    if part == "text_encoder":
        names = {"input_ids": [f"{at}/{call}/ids"]}
    elif part == "transformer" and (index := tape.get(f"{at}/{call}/text")) is not None:
        states = f"{case}/text/{int(index)}"
        names = {name: [f"{at}/{call}/{name}"] for name in ("hidden_states", "timestep")}
        names |= {"text_bth": [f"{states}/bth"], "text_lens": [f"{states}/lens"]}
    elif part == "scheduler":
        # most of what a step is given stands there already
        names = {
            "model_output": [f"{at}/{call}/model_output", f"{case}/transformer/{call}/prediction"],
            "sample": [f"{at}/{call}/sample", f"{at}/{call - 1}/prev"],
        }
    elif part == "vae":
        names = {"z": [f"{at}/latents"]}
    known = {name: next((key for key in keys if key in tape), None) for name, keys in names.items()}
    return {name: tape[key] for name, key in known.items() if key is not None}


def fed(
    inputs: Mapping[str, Any], instead: Mapping[str, torch.Tensor], place: torch.device
) -> dict[str, Any]:
    """`inputs` of a part, by name, with what stands in `instead` in their stead, on `place`."""
    return dict(inputs) | {name: _as(one, inputs.get(name)).to(place) for name, one in instead.items()}


class Replay:
    """Draws one case in which every part is fed what `tape` holds; what it found is in its figures.

    text       a call of the text encoder each: `l2` and `cosine` of every token's hidden states
    steps      a call of the transformer each: `timestep`, `l2` and `cosine` of its prediction
    vae        `identical`, `l2`, `max_abs` (of values in -1 to 1, as they are decoded)
    scheduler  what differs from BF16's, in words
    fed        part -> what else reached it than ought to have, in words (`ernie_qa.wiring`)
    layers     component -> layer -> `l2` and `gain` of its output on `rows` rows of BF16's input
    missing    what one of the two drawings called more often than the other
    seconds    the drawing took, without what comparing took
    """

    def __init__(
        self, pipe: ErnieImagePipeline, case: Case, suite: Suite, tape: Tape, *, layers: bool = False
    ) -> None:
        live: Any = pipe
        self._live = live
        self._case, self._suite, self._tape, self._layers = case, suite, tape, layers
        self._counts: Counter[str] = Counter()
        self._place: torch.device = live._execution_device
        self._comparing = 0.0
        self.fed: dict[str, list[str]] = {}
        self.text: list[dict[str, Any]] = []
        self.steps: list[dict[str, Any]] = []
        self.vae: dict[str, Any] | None = None
        self.scheduler: list[str] = []
        self.layers: dict[str, Any] = {}
        self.missing: list[str] = []
        self.seconds = 0.0

    def draw(self, prompt: str | None = None) -> None:
        """Draw and compare; `prompt` is what BF16's prompt enhancer wrote."""
        self._wiring = Wiring(self._live, prompt or self._case.prompt, self._suite.guidance > 1)
        self.fed = self._wiring.found
        began = now(self._place)
        with self._wiring.listening(), tapped(self._live, self._before, self._after):
            rehearse(self._live, self._case, self._suite, prompt=prompt)
        self.seconds = now(self._place) - began - self._comparing
        self._compare_schedule()
        for part, key in (("text_encoder", "states"), ("transformer", "prediction"), ("scheduler", "prev")):
            wanted = sum(
                name.startswith(f"{self._case.id}/{part}/") and name.endswith(f"/{key}")
                for name in self._tape
            )
            if self._counts[part] != wanted:
                self.missing.append(f"{part}: called {self._counts[part]} times, in BF16 {wanted}")

    def _at(self, name: str) -> torch.Tensor | None:
        return self._tape.get(f"{self._case.id}/{name}")

    def _before(self, part: str, inputs: dict[str, Any]) -> dict[str, Any]:
        began, call = now(self._place), self._counts[part]
        instead = taught(self._tape, self._case.id, part, call)
        # what another schedule ends with is the scheduler's fault, and is told there
        self._wiring.before(part, call, inputs, {} if part == "vae" and self.scheduler else instead)
        self._comparing += now(self._place) - began
        return fed(inputs, instead, self._place)

    def _after(self, part: str, inputs: dict[str, Any], output: Any) -> None:
        began, call = now(self._place), self._counts[part]
        self._counts[part] += 1
        self._wiring.after(part, call, inputs, output)
        if part == "text_encoder":
            self._compare_text(call, output)
        elif part == "transformer":
            self._compare_step(call, output)
        elif part == "scheduler":
            self._compare_scheduled(call, output)
        elif part == "vae" and (bf16 := self._at("vae/decoded")) is not None:
            self.vae = difference(output[0], bf16)
        if self._layers and probed(part, call, self._suite):
            self.layers[part] = layer_errors(getattr(self._live, part), part, self._tape, self._place)
        self._comparing += now(self._place) - began

    def _compare_text(self, call: int, output: Any) -> None:
        bf16 = self._at(f"text_encoder/{call}/states")
        if bf16 is not None:
            errors, cosines = tokens(output.hidden_states[USED][0].cpu(), bf16)
            self.text.append({"l2": errors, "cosine": cosines})

    def _compare_step(self, call: int, output: Any) -> None:
        bf16 = self._at(f"transformer/{call}/prediction")
        if bf16 is not None:
            ours, timestep = output[0].cpu(), self._tape[f"{self._case.id}/transformer/{call}/timestep"]
            self.steps.append(
                {
                    "timestep": float(timestep[0]),
                    "l2": relative_l2(ours, bf16),
                    "cosine": cosine(ours, bf16),
                }
            )

    def _compare_scheduled(self, call: int, output: Any) -> None:
        bf16 = self._at(f"scheduler/{call}/prev")
        if bf16 is not None and not self.scheduler:
            found = difference(previous(output), bf16)
            if not found["identical"]:
                self.scheduler.append(f"its step {call + 1} by {found['l2']:.3g} relative")

    def _compare_schedule(self) -> None:
        import torch

        for name in ("sigmas", "timesteps"):
            ours, bf16 = getattr(self._live.scheduler, name).cpu(), self._at(f"scheduler/{name}")
            if bf16 is None or torch.equal(ours, bf16):
                continue
            if ours.shape != bf16.shape:
                self.scheduler.append(f"{len(ours)} {name}, in BF16 {len(bf16)}")
            else:
                at = int((ours != bf16).nonzero()[0])
                self.scheduler.append(
                    f"{name} from number {at}: {float(ours[at]):.6g}, in BF16 {float(bf16[at]):.6g}"
                )


def _as(value: torch.Tensor, wanted: Any) -> torch.Tensor:
    """BF16's `value` in the type of what it stands for, where this pipeline computes in another."""
    if value.is_floating_point() and hasattr(wanted, "is_floating_point") and wanted.is_floating_point():
        return value.to(wanted.dtype)
    return value


def difference(ours: torch.Tensor, bf16: torch.Tensor) -> dict[str, Any]:
    """Whether two tensors are bit for bit the same, else how far apart."""
    import torch

    found = ours.detach().cpu()
    if found.shape != bf16.shape:
        return {"identical": False, "l2": float("inf"), "max_abs": float("inf")}
    apart = (found.double() - bf16.double()).abs().max()
    return {
        "identical": found.dtype == bf16.dtype and torch.equal(found, bf16),
        "l2": relative_l2(found, bf16),
        "max_abs": float(apart) if apart.isfinite() else float("inf"),
    }


def pe_errors(pipe: ErnieImagePipeline, case: Case, tape: Tape, *, layers: bool = False) -> dict[str, Any]:
    """`kl` and `same` (is the likeliest next token BF16's?) after each token of BF16's text; with `layers`,
    what the prompt enhancer's layers give."""
    live: Any = pipe
    bf16 = tape[f"pe/{case.id}/logits"]
    ours = logits(pipe, tape[f"pe/{case.id}/ids"], len(bf16)).cpu()
    nats, same = divergence(ours, bf16)
    # after its forward, for where components are offloaded it is on the GPU only then
    found = layer_errors(live.pe, "pe", tape, live._execution_device) if layers else {}
    return {"kl": nats, "same": same, "layers": found}


def layer_errors(component: Any, name: str, tape: Tape, place: torch.device) -> dict[str, dict[str, Any]]:
    """Layer -> how far its output is from BF16's when it is fed BF16's rows.

    On a GPU the rows are repeated to the shape that BF16's call had: the kernels of a drawing run, and none
    is compiled for another. On a CPU they are fed as they are, too few for SDNQ's int8 kernel: without VNNI
    its products saturate, which is the machine's fault and would hide the layer's.
    """
    import torch

    found = {}
    prefix = f"layers/{name}/"
    for key, outputs in tape.items():
        if not key.startswith(prefix) or not key.endswith("/outputs"):
            continue
        layer = key.removeprefix(prefix).removesuffix("/outputs")
        try:
            module = component.get_submodule(layer)
        except AttributeError:
            continue
        rows = tape[f"{prefix}{layer}/rows"]
        shape = [int(size) for size in tape[f"{prefix}{layer}/shape"]]
        count = prod(shape[:-1])
        fed = rows
        if place.type == "cuda":
            fed = rows.repeat(-(-count // len(rows)), 1)[:count].reshape(shape)
        if module.weight.dtype in (torch.float32, torch.float16):
            fed = fed.to(module.weight.dtype)
        with torch.no_grad():
            made = module(fed.to(place))
        made = made.reshape(-1, made.shape[-1])[: len(rows)].cpu()
        found[layer] = {"l2": relative_l2(made, outputs), "gain": gain(made, outputs), "rows": len(rows)}
    return found


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with numbers that JSON cannot hold as None."""
    import math

    def of(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: of(one) for key, one in value.items()}
        if isinstance(value, list):
            return [of(one) for one in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return of(values)  # type: ignore[no-any-return]
