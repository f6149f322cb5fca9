"""Which layers are worth keeping in BF16, by what a failed arm's record and verdict say. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, prod
from typing import TYPE_CHECKING

from ernie_qa.fidelity.extents import ranked
from ernie_qa.quantizers.layers import LayerState, ungrouped
from ernie_qa.rungs import components, images, package, text
from ernie_qa.verdict import Status

if TYPE_CHECKING:
    from ernie_qa.record import Record
    from ernie_qa.suite import Suite
    from ernie_qa.verdict import Check, Verdict

BF16 = 2
"""Bytes of a weight."""
_DRAWING = ("text_encoder", "transformer")
"""What makes the pictures, whatever the suite."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One quantized layer: the relative `error` of its output under BF16's inputs, infinite where a number is
    not finite; how far `off` 1 its gain is, 0 where it was measured on one row; and how many bytes `more` it
    takes in BF16."""

    component: str
    name: str
    error: float
    off: float
    more: int

    @property
    def worth(self) -> float:
        """Error removed a byte. Errors that have nothing to do with each other add up in squares."""
        return self.error**2 / max(self.more, 1)


def quantized(record: Record) -> dict[str, tuple[str, ...]]:
    """Component -> the names of its layers that are quantized."""
    return {part: tuple(states) for part, states in _states(record).items()}


def layers(record: Record) -> tuple[Layer, ...]:
    """The quantized layers of which an error was measured, the worthiest first."""
    figures, found = record.figures[components.NAME], []
    for part, states in _states(record).items():
        for one in ranked(figures, part):
            if (state := states.get(one.name)) is None:
                continue
            more = prod(state.shape) * BF16 - state.bytes - state.side_bytes
            # one row is too little for noise to average out
            off = 0.0 if one.rows < 2 else inf if one.off is None else one.off
            found.append(Layer(part, one.name, inf if one.l2 is None else one.l2, off, more))
    return tuple(sorted(found, key=lambda layer: (-layer.worth, layer.component, layer.name)))


def beyond_help(verdict: Verdict) -> Check | None:
    """The first check in the way of a pass that no kept layer mends: it failed for another reason, or nothing
    was measured to be judged. None where there is none."""
    failed, unsure = verdict.of(Status.FAIL), verdict.of(Status.NOT_COMPARABLE)
    hopeless = (check for check in (*failed, *unsure) if not _mendable(check))
    return next(iter((*hopeless, *(check for check in unsure if check.measured is None))), None)


def needed(found: Iterable[Layer], verdict: Verdict) -> frozenset[Layer]:
    """The layers that are beyond a limit on single layers by themselves: a layer is fed BF16's rows, so
    whatever else is kept, they would fail."""
    limits = {
        (check.component, key): check.limit
        for check in verdict.of(Status.FAIL)
        if (key := _key(check)).startswith("layer_") and check.limit is not None
    }
    return frozenset(
        layer
        for layer in found
        if layer.error > limits.get((layer.component, "layer_l2_max"), inf)
        or layer.off > limits.get((layer.component, "layer_gain_max"), inf)
        or (layer.error == inf and (layer.component, "layer_l2_max") in limits)
    )


def optional(
    found: Sequence[Layer],
    must: frozenset[Layer],
    verdict: Verdict,
    suite: Suite,
    names: Mapping[str, Collection[str]],
) -> tuple[Layer, ...]:
    """The layers that may be kept beside those that `must` be, in the order in which they are tried: those of
    components with a failed figure of the whole part, then, where pictures or words failed, those of the
    other components that have a part in these. `names` are all quantized layers by component.

    The last layer of a component stays quantized: without any it is another recipe."""
    failed = verdict.of(Status.FAIL)
    own = {check.component for check in failed if _key(check) and not _key(check).startswith("layer_")}
    drawing = {*_DRAWING, *(("pe",) if suite.use_pe else ())}
    pictures = any(check.rung in (images.NAME, text.NAME) for check in failed)
    left = [
        layer
        for layer in found
        if layer not in must and (layer.component in own or (pictures and layer.component in drawing))
    ]
    left.sort(key=lambda layer: layer.component not in own)
    for part, whole in names.items():
        mine = [layer for layer in left if layer.component == part]
        kept = sum(layer.component == part for layer in must)
        if mine and kept + len(mine) == len(whole):
            left.remove(mine[-1])
    return tuple(left)


def _mendable(check: Check) -> bool:
    return check.rung in (images.NAME, text.NAME) or bool(_key(check))


def _key(check: Check) -> str:
    """Of a check of the components rung on a figure that a recipe may limit, which figure; else empty."""
    measure = components.MEASURES.get(check.name.removeprefix(f"{components.NAME}."))
    return measure.key if measure and check.rung == components.NAME else ""


def _states(record: Record) -> dict[str, dict[str, LayerState]]:
    found = record.figures[package.NAME]["components"]
    return {
        part: {state.name: state for state in ungrouped(LayerState, one["layers"]) if state.quantized}
        for part, one in found.items()
        if one["quantizer"] is not None
    }
