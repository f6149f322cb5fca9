"""Whether what runs here is, to the bit, what a capsule's publisher ran; `ernie_qa.capsules.nearness`
compares what it gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ernie_qa.capsules.capsule import Capsule, Part
from ernie_qa.quantizers import find_quantizer
from ernie_qa.quantizers.layers import listed
from ernie_qa.verdict import Status
from ernie_qa.wording import counted

if TYPE_CHECKING:
    from ernie_qa.fingerprint import Fingerprint


@dataclass(frozen=True, slots=True)
class Finding:
    """What was compared of one component: `about` is flag, states, weights, kernels, layers, outputs, ids,
    sigmas, calls, stored or recipe. `layers` are those that differ."""

    component: str | None
    about: str
    status: Status
    message: str
    layers: tuple[str, ...] = ()
    measured: float | None = None
    limit: float | None = None


def judged(component: str, about: str, faults: Sequence[str], passed: str, **more: Any) -> Finding:
    """FAIL with the first of `faults`, PASS with `passed` where there is none."""
    status = Status.FAIL if faults else Status.PASS
    return Finding(component, about, status, listed(faults) if faults else passed, **more)


def lacking(component: str, about: str) -> Finding:
    """What a capsule holds nothing of says nothing."""
    said = "the capsule holds nothing to compare it with: ask its publisher for a whole one"
    return Finding(component, about, Status.NOT_COMPARABLE, said)


def same_parts(capsule: Capsule, ours: Mapping[str, Part], here: Fingerprint) -> Iterator[Finding]:
    """What can be told before anything runs: configuration, states of layers, and bytes of tensors."""
    for name in dict.fromkeys((*capsule.parts, *ours)):
        theirs, mine = capsule.parts.get(name), ours.get(name)
        if theirs is None or mine is None:
            said = "it is missing here" if mine is None else "it was not published"
            yield Finding(name, "states", Status.FAIL, said)
            continue
        if theirs.artifact and mine.artifact:
            faults = _differing(mine.stored, theirs.stored, dict.fromkeys((*theirs.stored, *mine.stored)))
            yield judged(name, "stored", faults, "its files say what the published ones say")
        if theirs.quantizer is not None or mine.quantizer is not None:
            keys = dict.fromkeys((*theirs.flag, *mine.flag))
            faults = _differing(mine.flag, theirs.flag, keys)
            yield judged(name, "flag", faults, "its configuration says what the published one says")
        yield from _same_states(name, mine, theirs, _same_release(mine, capsule, here))
        yield _same_weights(name, mine, theirs, _same_release(mine, capsule, here))


def _same_release(mine: Part, capsule: Capsule, here: Fingerprint) -> bool:
    """Whether the quantizer's packages are those that it was published with."""
    if mine.quantizer is None:
        return True
    packages = find_quantizer(mine.quantizer).PACKAGES
    return all(here.packages.get(one) == capsule.fingerprint.packages.get(one) for one in packages)


def _differing(mine: Mapping[str, Any], theirs: Mapping[str, Any], keys: Mapping[str, None]) -> list[str]:
    return [
        f"{key} {mine.get(key)}, published {theirs.get(key)}"
        for key in keys
        if mine.get(key) != theirs.get(key)
    ]


def _same_states(name: str, mine: Part, theirs: Part, same_release: bool) -> Iterator[Finding]:
    faults = {}
    for layer in dict.fromkeys((*theirs.states, *mine.states)):
        ours, published = mine.states.get(layer, {}), theirs.states.get(layer, {})
        ours, published = _of(ours, same_release), _of(published, same_release)
        keys = dict.fromkeys((*published, *ours))
        if not ours or not published:
            faults[layer] = f"{layer} ({'missing' if not ours else 'not published'})"
        elif ours.get("quantized") is not published.get("quantized"):
            faults[layer] = f"{layer} ({'' if ours.get('quantized') else 'not '}quantized here)"
        elif wrong := _differing(ours, published, keys):
            faults[layer] = f"{layer} ({'; '.join(wrong)})"
    if theirs.states or mine.states:
        count = sum(bool(state.get("quantized")) for state in theirs.states.values())
        passed = f"{counted(count, 'layer')} quantized as published"
        yield judged(name, "states", list(faults.values()), passed, layers=tuple(faults))


def _of(state: Mapping[str, Any], same_release: bool) -> dict[str, Any]:
    """What is compared of a layer's state: where a function stands is its release's matter."""
    return {key: value for key, value in state.items() if same_release or key != "runtime.forward"}


def _same_weights(name: str, mine: Part, theirs: Part, same_release: bool) -> Finding:
    """Plain tensors are equal to the bit; those of quantized layers are where both were read from files by
    one release, for quantizing once more may round otherwise."""
    moved = {
        layer
        for layer, state in theirs.states.items()
        if _of(state, same_release) != _of(mine.states.get(layer, {}), same_release)
    }
    quantized = {
        layer for layer, state in (*theirs.states.items(), *mine.states.items()) if state.get("quantized")
    }
    exact = mine.artifact and theirs.artifact and same_release
    faults, unequal, skipped = [], 0, 0
    for tensor in dict.fromkeys((*theirs.tensors, *mine.tensors)):
        ours, published = mine.tensors.get(tensor), theirs.tensors.get(tensor)
        layer = tensor if tensor in quantized else tensor.rpartition(".")[0]
        if ours == published:
            continue
        if layer in moved:
            skipped += tensor in theirs.tensors
        elif layer in quantized and not exact:
            unequal += 1
        else:
            word = "missing" if ours is None else "not published" if published is None else "other bytes"
            faults.append(f"{tensor} ({word})")
    layers = tuple(one.partition(" (")[0] for one in faults)
    count = len(theirs.tensors)
    passed = f"{count - unequal - skipped} of {count} tensors and quantized layers are equal to the bit"
    passed += ", the others are judged by what they give" if unequal else ""
    passed += f", {skipped} in layers that are set up otherwise were not compared" if skipped else ""
    return judged(name, "weights", faults, passed, layers=layers)


def same_kernels(capsule: Capsule, ours: Mapping[str, Part]) -> Iterator[Finding]:
    """Whether as large a share of each layer's calls ran the quantized kernel."""
    for name, theirs in capsule.parts.items():
        if theirs.quantizer is None or name not in ours:
            continue
        faults = []
        for layer, (total, kernel) in theirs.calls.items():
            calls, ran = ours[name].calls.get(layer, (0, 0))
            if total and (not calls or ran * total != kernel * calls):
                faults.append(f"{layer} (ran it in {ran} of {calls} calls, published {kernel} of {total})")
        count = sum(kernel for _, kernel in ours[name].calls.values())
        layers = tuple(one.partition(" (")[0] for one in faults)
        passed = "each layer ran the quantized kernel in as large a share of its calls as published "
        passed += f"({count} here)"
        yield judged(name, "kernels", faults, passed, layers=layers)
