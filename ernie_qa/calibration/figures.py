"""Figures of BF16 beside BF16, under the names that limits have: images.lpips_mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ernie_qa.baseline.accepted import short
from ernie_qa.drawing import Drawn
from ernie_qa.errors import ErnieQAError
from ernie_qa.fidelity.extents import steps
from ernie_qa.fidelity.limits import IDENTICAL
from ernie_qa.fidelity.metrics import metrics
from ernie_qa.replay import difference, replayed
from ernie_qa.rungs import components, images
from ernie_qa.suite import another

if TYPE_CHECKING:
    from ernie_qa.picture import Picture
    from ernie_qa.record import Record
    from ernie_qa.suite import Suite
    from ernie_qa.teacher import Tape


def images_of(drawn: Mapping[str, Drawn], pictures: Iterable[Picture], device: str) -> dict[str, float]:
    """Every mean and worst score of `drawn` beside `pictures`, but what is infinite."""
    compared = [picture for picture in pictures if picture.case in drawn]
    scores = images.scored(drawn, compared, device)
    found = images.summarised(scores, [picture.case for picture in compared])
    named = {name: name.removeprefix(f"{images.NAME}.").rpartition("_") for name in images.LIMITS}
    values = {name: found[metric][statistic] for name, (metric, _, statistic) in named.items()}
    return {name: value for name, value in values.items() if value is not None and value != IDENTICAL}


def definitions() -> dict[str, str]:
    """The figures of pictures, and the start of the sha256 of how each is computed."""
    known = {metric.NAME: short(metric.DEFINITION) for metric in metrics()}
    named = {name: name.removeprefix(f"{images.NAME}.").rpartition("_")[0] for name in images.LIMITS}
    return {name: known[metric] for name, metric in named.items() if metric in known}


def parts_of(
    pipe: Any, suite: Suite, record: Record, number: int, step: Callable[[], None]
) -> dict[str, float]:
    """Every figure of the components rung when `pipe` is fed what `record` holds of the first `number` cases;
    `step` is called after each of them.

    ErnieQAError where other parts are called, or other ids made: that is no noise.
    """
    if not number or record.trajectories is None:
        return {}
    figures = replayed(pipe, suite, record.trajectories, number, {}, lambda case, seconds: step())
    ids = [
        f"{name}: other ids in {', '.join(cases)}" for name, cases in figures["tokenizers"].items() if cases
    ]
    if wrong := [*figures["missing"], *ids]:
        raise ErnieQAError(f"what was drawn is not the same: {'; '.join(wrong)}")
    found = {f"{components.NAME}.{name}": value for name, (value, _) in components.values(figures).items()}
    decoded = [one["l2"] for one in figures["vae"].values() if one]
    if decoded:
        found[f"{components.NAME}.vae_l2"] = None if None in decoded else max(decoded)
    return _finite(found)


def ceiling(
    pipe: Any,
    suite: Suite,
    record: Record,
    drawing: Callable[[Suite], Mapping[str, Drawn]],
    number: int,
    step: Callable[[], None],
) -> dict[str, float]:
    """How far BF16 is from `record`, its own, with another seed: pictures, and what the transformer and the
    VAE give; `step` is called after each of the latter. The other parts are fed no seed, and layers have no
    ceiling."""
    from safetensors.torch import load

    from ernie_qa.teacher import record as taped

    others = {case.id: another(case, 1) for case in suite.cases}
    drawn = drawing(replace(suite, cases=tuple(others.values())))
    renamed = {case: drawn[other.id] for case, other in others.items() if other.id in drawn}
    found = images_of(renamed, record.pictures, str(pipe._execution_device)) if renamed else {}
    if not number or record.trajectories is None:
        return found
    own = load(record.trajectories.content())
    curves, decoded = {}, []
    for case in suite.cases[:number]:
        other = taped(pipe, others[case.id], suite)
        step()
        curves[case.id] = _curve(own, case.id, other, others[case.id].id)
        decoded.append(
            difference(other[f"{others[case.id].id}/vae/decoded"], own[f"{case.id}/vae/decoded"])["l2"]
        )
    parts = components.values({"transformer": steps(curves)})
    named = {f"{components.NAME}.{name}": value for name, (value, _) in parts.items()}
    return found | _finite(named | {f"{components.NAME}.vae_l2": max(decoded)})


def _curve(own: Tape, case: str, tape: Tape, other: str) -> list[dict[str, Any]]:
    """The transformer's predictions of two seeds, call by call."""
    from ernie_qa.fidelity.components import cosine, relative_l2

    rows, call = [], 0
    while (name := f"transformer/{call}/prediction") and f"{case}/{name}" in own:
        pair = tape[f"{other}/{name}"], own[f"{case}/{name}"]
        timestep = float(own[f"{case}/transformer/{call}/timestep"][0])
        rows.append({"timestep": timestep, "l2": relative_l2(*pair), "cosine": cosine(*pair)})
        call += 1
    return rows


def _finite(found: Mapping[str, float | None]) -> dict[str, float]:
    """The same. ErnieQAError where a number is not finite: no change that ought not to matter does that."""
    values = {}
    for name, value in found.items():
        if value is None:
            raise ErnieQAError(f"{name} is not finite: this is a fault, and no noise")
        values[name] = value
    return values
