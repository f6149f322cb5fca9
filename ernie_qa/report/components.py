"""The components rung's figures as lines: each part beside BF16's, the curve over the steps, the layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ernie_qa.fidelity.extents import ranked
from ernie_qa.report.wrap import table, wrapped
from ernie_qa.rungs import components

if TYPE_CHECKING:
    from ernie_qa.record import Record

SHOWN = 5
"""Layers of each component, unless all are asked for."""


def parts(figures: Mapping[str, Any]) -> Iterator[str]:
    """Each part's errors beside BF16's, at a glance; nothing where nothing was fed to it."""
    if not figures.get("reference"):
        return
    rows = []
    for name, key in (("text_encoder", "token"), ("transformer", "step")):
        one = figures[name]
        if one is None:
            rows.append((name, "never called", ""))
            continue
        rows.append(
            (
                name,
                f"relative error {_said(one['l2_mean'])} mean, {_said(one['l2_max'])} worst {key}",
                one["worst"],
            )
        )
    if pe := figures["pe"]:
        said = f"KL {_said(pe['kl_mean'])} mean, {_said(pe['kl_max'])} worst, top-1 {pe['top1']:.1%}"
        rows.append(("pe", said, f"of {pe['tokens']} tokens, text {pe['text']}"))
    decoded = [one for one in figures["vae"].values() if one]
    worst = max(decoded, key=lambda one: float("inf") if one["l2"] is None else one["l2"], default=None)
    if worst is not None:
        same = all(one["identical"] for one in decoded)
        rows.append(("vae", "identical" if same else f"relative error {_said(worst['l2'])}", ""))
    other = [what for found in figures["scheduler"].values() for what in found]
    rows.append(("scheduler", "as in BF16" if not other else "differs", "; ".join(other[:2])))
    for name, cases in figures["tokenizers"].items():
        rows.append((name, "ids as in BF16" if not cases else "other ids", ", ".join(cases)))
    yield from table(("fed BF16's inputs", "", ""), rows)
    yield from table(
        ("relative error of each step", ""),
        [(case, " ".join(_said(one["l2"]) for one in curve)) for case, curve in
         (figures["transformer"] or {"curve": {}})["curve"].items()],
    )  # fmt: skip


def explained(record: Record, *, whole: bool = False) -> Iterator[str]:
    """Every component's layers by how far off they are by themselves, under BF16's inputs."""
    figures = record.figures.get(components.NAME, {})
    yield f"{record.recipe.name} on {record.model.name}, suite {record.suite.name}"
    if record.ended and not figures.get("layers"):
        yield f"no layer was compared with BF16's: the arm ended at {record.ended.rung}: {record.ended.check}"
        yield from wrapped(record.ended.message, 100, "  ", "  ")
        return
    if not figures.get("layers"):
        yield f"no layer was compared with BF16's: {figures.get('why') or 'observe it again, with bf16'}"
        return
    for part in figures["layers"]:
        by_error = ranked(figures, part)
        if not any(layer.l2 is None or layer.l2 for layer in by_error):
            yield ""
            yield f"{part}: every layer gives what BF16's gives"
            continue
        by_gain = sorted(by_error, key=lambda one: -(float("inf") if one.off is None else one.off))
        for title, layers in (("by relative error", by_error), ("by gain", by_gain)):
            rows = [
                (
                    layer.name,
                    _said(layer.l2),
                    _said(layer.off),
                    "one row: its gain is not judged" if layer.rows == 1 else "",
                )
                for layer in (layers if whole else layers[:SHOWN])
            ]
            header = (f"{part}, {title}", "error", "gain off 1", "")
            yield from table(header, rows)


def _said(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3g}"
