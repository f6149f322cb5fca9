"""Mean and worst of what replaying found, and where the worst is. Plain values, no tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum, inf
from typing import Any

Calls = Mapping[str, Sequence[Mapping[str, Any]]]


def text(found: Calls) -> dict[str, Any] | None:
    """Over the tokens of all calls of the text encoder, by case; None without one."""
    tokens = [
        (error, cosine, f"{case}, token {number}" + (f" of call {call + 1}" if call else ""))
        for case, calls in found.items()
        for call, one in enumerate(calls)
        for number, (error, cosine) in enumerate(zip(one["l2"], one["cosine"], strict=True))
    ]
    return _extent(tokens)


def steps(found: Calls) -> dict[str, Any] | None:
    """Over the calls of the transformer, by case, with the `curve` of each case; None without one."""
    rows = [
        (one["l2"], one["cosine"], f"{case}, step {number + 1} at timestep {one['timestep']:g}")
        for case, curve in found.items()
        for number, one in enumerate(curve)
    ]
    extent = _extent(rows)
    return extent and {**extent, "curve": dict(found)}


def _extent(rows: Sequence[tuple[float, float, str]]) -> dict[str, Any] | None:
    """Mean and worst of errors and cosines, and where the worst error is; None of nothing."""
    if not rows:
        return None
    return {
        "l2_mean": fsum(row[0] for row in rows) / len(rows),
        "l2_max": max(row[0] for row in rows),
        "cosine_mean": fsum(row[1] for row in rows) / len(rows),
        "cosine_min": min(row[1] for row in rows),
        "worst": max(rows)[2],
    }


def spoken(found: Mapping[str, Mapping[str, Any]], written: bool) -> dict[str, Any] | None:
    """Over the prompt enhancer's tokens, by case; None where there are none. `written` says that BF16's wrote
    them."""
    nats = [
        (one, f"{case}, token {at}") for case, errors in found.items() for at, one in enumerate(errors["kl"])
    ]
    if not nats:
        return None
    same = [one for errors in found.values() for one in errors["same"]]
    return {
        "kl_mean": fsum(one for one, _ in nats) / len(nats),
        "kl_max": max(nats)[0],
        "worst": max(nats)[1],
        "top1": sum(same) / len(same),
        "tokens": len(nats),
        "text": "written by BF16" if written else "fixed",
    }


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer under BF16's inputs: the relative error `l2` of its output, how far `off` 1 its gain is, and
    of how many `rows` that is. None where a number is not finite."""

    name: str
    l2: float | None
    off: float | None
    rows: int


def ranked(figures: Mapping[str, Any], component: str) -> list[Layer]:
    """The layers of one component, the one whose own error is largest first."""
    layers = figures.get("layers", {}).get(component, {})
    found = [
        Layer(name, one["l2"], None if one["gain"] is None else abs(one["gain"] - 1), one["rows"])
        for name, one in layers.items()
    ]
    return sorted(found, key=lambda layer: -(inf if layer.l2 is None else layer.l2))
