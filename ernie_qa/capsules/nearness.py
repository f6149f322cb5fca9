"""Whether the layers and parts here give what a capsule's publisher got: exactly where numbers are whole,
within floors where they round. docs/capsule.md has what the floors were measured on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from ernie_qa.capsules.capsule import Capsule
from ernie_qa.capsules.container import PUBLISHED, kind_of
from ernie_qa.capsules.sameness import Finding, judged, lacking
from ernie_qa.capsules.trimming import middle
from ernie_qa.quantizers.layers import listed
from ernie_qa.wording import counted

if TYPE_CHECKING:
    import torch

Tape = Mapping[str, "torch.Tensor"]

LAYER = 0.005
"""Relative error of a layer's output beside the published one, fed the same few rows. Measured: 0.00014 at
most, between AVX2 and AVX512 on one CPU, five recipes, 249 layers. Where one machine rounds dequantized
weights to BF16 and another does not, they differ by 0.0017 at most (2 ** -9 / sqrt(3), and once more for the
output): thrice that is allowed, for no GPU was measured against a CPU."""
GAIN = 0.002
"""Its gain's distance from 1, in which rounding averages out. Measured: 0.00001 at most, on the same."""
VAE = 0.01
"""Relative error of what the VAE gives. Measured: 0.0041 at most (threads, math attention, AVX2)."""
STEP = 0.0005
"""Relative error of the scheduler's first step; 0 wherever it was measured. A value of which the fused
product rounds otherwise is 2 ** -8 off."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of what a part gives beside the published one: relative error of a token's hidden states (`text`) and
    of a step's prediction (`step`), the worst; mean KL divergence of the next token in nats (`kl`)."""

    text: float
    step: float
    kl: float


DEQUANTIZING = Limits(0.012, 0.025, 0.001)
"""Without int8 products. Measured: 0.0057, 0.0116, 0.00003 at most (math attention, threads, AVX2)."""
INT8 = Limits(0.02, 0.07, 0.001)
"""With them activations are rounded to int8 too, and more moves. Measured: 0.0090, 0.0348, 0.00003."""
SATURATING = Limits(0.15, 0.15, 0.02)
"""Where one machine's int8 products saturate. Measured, AVX2 beside AVX512: 0.0709, 0.0744, 0.0100."""


def same_answers(
    capsule: Capsule, tape: Tape, made: Tape, *, exact_int8: bool, steps: int | None
) -> Iterator[Finding]:
    """What every layer and part gives beside what the published ones gave. `made` is what the pipeline here
    makes of `tape` (`ernie_qa.capsules.answers`); `exact_int8` says whether this machine's int8 products are
    exact."""
    for component in capsule.parts:
        yield from _same_layers(component, tape, made)
    exact = exact_int8 and capsule.exact_int8
    yield from _same_text(tape, made, _limits(capsule, "text_encoder", exact))
    yield from _same_steps(tape, made, _limits(capsule, "transformer", exact), steps)
    yield from _same_pe(tape, made, _limits(capsule, "pe", exact))
    yield from _worst("vae", "what it decodes", tape, made, _names(tape, "vae", "decoded"), VAE)
    yield from _same_ids(tape, made)
    yield from _same_schedule(tape, made)
    yield from _same_calls(tape, made, steps)


def _limits(capsule: Capsule, component: str, exact: bool) -> Limits:
    part = capsule.parts.get(component)
    states = part.states.values() if part else ()
    if not any(state.get("runtime.use_quantized_matmul") for state in states):
        return DEQUANTIZING
    return INT8 if exact else SATURATING


def _same_layers(component: str, tape: Tape, made: Tape) -> Iterator[Finding]:
    from ernie_qa.fidelity.components import gain

    prefix = f"{PUBLISHED}layers/{component}/"
    faults: list[tuple[float, str, str]] = []
    largest, count = 0.0, 0
    for name in tape:
        if not name.startswith(prefix):
            continue
        layer = name.removeprefix(prefix).removesuffix("/outputs")
        count += 1
        ours = made.get(name.removeprefix(PUBLISHED))
        error = _error(ours, tape[name])
        off = inf if ours is None or error == inf else abs(gain(ours, tape[name]) - 1)
        largest = max(largest, error)
        if not (error <= LAYER and off <= GAIN):
            wrong = "missing, or not finite" if error == inf else f"{error:.3g} off, its gain {off:.3g}"
            faults.append((error, layer, f"{layer} ({wrong})"))

    if not count:
        return
    faults.sort(key=lambda one: -one[0])
    said = [text for _, _, text in faults]
    if said:
        said[0] = f"{len(said)} of {count} layers give something else: {said[0]}"
    passed = f"{counted(count, 'layer gives', 'layers give')} what the published ones give: "
    passed += f"{largest:.2g} apart at most"
    yield judged(
        component,
        "layers",
        said,
        passed,
        layers=tuple(layer for _, layer, _ in faults),
        measured=None if largest == inf else largest,
        limit=LAYER,
    )


def _error(ours: torch.Tensor | None, published: torch.Tensor) -> float:
    from ernie_qa.fidelity.components import relative_l2

    return inf if ours is None or ours.shape != published.shape else relative_l2(ours, published)


def _same_text(tape: Tape, made: Tape, limits: Limits) -> Iterator[Finding]:
    from ernie_qa.fidelity.components import tokens

    errors = []
    for name in _names(tape, "text_encoder", "states"):
        ours = made.get(name.removeprefix(PUBLISHED))
        same = ours is not None and ours.shape == tape[name].shape
        found = tokens(ours, tape[name])[0] if ours is not None and same else [inf]
        errors += [(error, f"token {number} of {_call(name)}") for number, error in enumerate(found)]
    yield from _extent("text_encoder", "a token's hidden states", errors, limits.text)


def _same_steps(tape: Tape, made: Tape, limits: Limits, steps: int | None) -> Iterator[Finding]:
    kept = _names(tape, "transformer", "prediction")
    if steps is not None:
        # the others were not asked for
        kept = [name for name in kept if name.removeprefix(PUBLISHED) in made]
    yield from _worst("transformer", "a step's prediction", tape, made, kept, limits.step)


def _same_pe(tape: Tape, made: Tape, limits: Limits) -> Iterator[Finding]:
    from ernie_qa.fidelity.components import divergence

    for name in _names(tape, "pe", "logits"):
        ours = made.get(name.removeprefix(PUBLISHED))
        same = ours is not None and ours.shape == tape[name].shape
        nats = divergence(ours, tape[name])[0] if ours is not None and same else [inf]
        mean = sum(nats) / len(nats)
        what = "KL divergence from the published one's next token, mean, nats"
        yield from _extent("pe", what, [(mean, _call(name))], limits.kl)


def _worst(
    component: str, what: str, tape: Tape, made: Tape, kept: Sequence[str], limit: float
) -> Iterator[Finding]:
    errors = []
    for name in kept:
        ours = made.get(name.removeprefix(PUBLISHED))
        if ours is not None and component == "vae":
            ours = middle(ours, *tape[name].shape[-2:])
        errors.append((_error(ours, tape[name]), _call(name)))
    yield from _extent(component, what, errors, limit)


def _call(name: str) -> str:
    return name.removeprefix(PUBLISHED).rpartition("/")[0]


def _extent(
    component: str, what: str, errors: Sequence[tuple[float, str]], limit: float
) -> Iterator[Finding]:
    if not errors:
        return
    worst, where = max(errors)
    told = "missing or of another shape" if worst == inf else f"{worst:.3g} off the published"
    said = f"{what}: {told}, {limit:g} allowed ({where})"
    yield judged(
        component,
        "outputs",
        [] if worst <= limit else [said],
        said,
        measured=None if worst == inf else worst,
        limit=limit,
    )


def _same_ids(tape: Tape, made: Tape) -> Iterator[Finding]:
    faults: dict[str, list[str]] = {}
    for name, ids in tape.items():
        if name.startswith("ids/"):
            _, tokenizer, case = name.split("/", 2)
            found, ours = faults.setdefault(tokenizer, []), made.get(name)
            if ours is None or ours.tolist() != ids.tolist():
                found.append(case)
    if not faults:
        yield lacking("tokenizer", "ids")
    for tokenizer, cases in faults.items():
        said = [f"other ids than published for {listed(cases)}"] if cases else []
        yield judged(tokenizer, "ids", said, "the ids of every prompt are the published ones")


def _same_schedule(tape: Tape, made: Tape) -> Iterator[Finding]:
    faults, seen = [], set()
    for name, bf16 in tape.items():
        case, _, what = name.partition("/scheduler/")
        if name.startswith(PUBLISHED) or what not in ("sigmas", "timesteps", "0/prev"):
            continue
        ours = made.get(name)
        seen.add(what)
        if what == "0/prev" and (error := _error(ours, bf16)) > STEP:
            faults.append(f"{case}: its first step is {error:.3g} off, {STEP:g} allowed")
        elif what != "0/prev" and (ours is None or ours.tolist() != bf16.tolist()):
            faults.append(f"{case}: other {what}")
    if len(seen) < 3 and not faults:
        yield lacking("scheduler", "sigmas")
        return
    yield judged("scheduler", "sigmas", faults, "sigmas, timesteps and a first step are the published ones")


def _same_calls(tape: Tape, made: Tape, steps: int | None) -> Iterator[Finding]:
    faults, seen = [], False
    for name, count in tape.items():
        if not name.startswith(PUBLISHED) or "/calls/" not in name:
            continue
        seen = True
        case, part = name.removeprefix(PUBLISHED).split("/calls/")
        ours = made.get(f"{case}/calls/{part}")
        if steps is not None and part in ("transformer", "scheduler"):
            continue
        if ours is None or int(ours) != int(count):
            called = 0 if ours is None else int(ours)
            faults.append(f"{case}: {part} is called {called} times, published {int(count)}")
    if not seen:
        yield lacking("pipeline", "calls")
        return
    yield judged("pipeline", "calls", faults, "every part is called as often as published")


def _names(tensors: Iterable[str], kind: str, end: str) -> list[str]:
    """Those `tensors` of the published arm's that are of `kind` and whose name ends so."""
    return [
        name
        for name in tensors
        if name.startswith(PUBLISHED) and kind_of(name) == kind and name.endswith(f"/{end}")
    ]
