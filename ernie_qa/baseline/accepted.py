"""Accepted figures: one recipe on one machine, as a small JSON document that a person can read in a diff.

Schemas: 1 (the first), 2 (a figure may hold the scores of single pictures that it was made of).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ernie_qa.errors import BaselineError
from ernie_qa.fingerprint import Fingerprint, read_fingerprint
from ernie_qa.frozen import SHA256, SHA256_RULE, Frozen, digest
from ernie_qa.record import Identity, ModelIdentity, read_identity, read_model
from ernie_qa.toml_input import Table, one_line, read_json

SCHEMA = 2
DRIFT = "drift_"
"""What the name of a figure begins with, after its rung's, that says how far BF16 itself has moved."""
BETTER = ("lower", "higher")

_FIGURE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)+(\[[A-Za-z0-9._-]+\])?")
_FIGURE_RULE = "the name of a figure, as images.lpips_mean or package.memory_bytes[transformer]"


@dataclass(frozen=True, slots=True)
class Tracked:
    """A figure of one record that a baseline holds on to; a rung's `track` yields them.

    What its noise is made of: `floor`, in the figure's own unit, is what it may change where nothing that
    matters did; `share` is the part of its distance from `ideal` that it may get worse by. Where both are
    zero and all accepted runs agree, any change for the worse fails. `runs` is how many runs it takes to know
    its noise: with fewer no limit is set. `against_bf16` says that it was measured against BF16's pictures.
    `scores` are those of single cases, where it is their mean.
    """

    name: str
    value: float
    better: str
    unit: str = ""
    ideal: float | None = None
    floor: float = 0.0
    share: float = 0.0
    runs: int = 1
    against_bf16: bool = False
    definition: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Figure:
    """One accepted figure: what each run measured, and the `limit` that follows, None where it is only kept.

    `better` is "lower" or "higher"; `ideal` is the value that nothing betters (LPIPS 0, SSIM 1), if any;
    `definition` the start of the sha256 of how it was computed, empty where there is but one way. `scores`
    are the typical ones of single cases, where it is their mean.
    """

    measured: tuple[float, ...]
    limit: float | None
    better: str
    unit: str
    ideal: float | None
    definition: str = ""
    scores: Mapping[str, float] = field(default_factory=lambda: Frozen({}))

    @property
    def typical(self) -> float:
        """The median of what was measured, the worse of two in the middle."""
        return _typical(self.measured, self.better)

    def values(self) -> dict[str, Any]:
        """All of it as JSON values; `scores` only where there are some."""
        values = {
            "measured": self.measured,
            "limit": self.limit,
            "better": self.better,
            "unit": self.unit or None,
            "ideal": self.ideal,
            "definition": self.definition or None,
        }
        return values | ({"scores": dict(self.scores)} if self.scores else {})

    def is_of(self, tracked: Tracked) -> bool:
        """Whether `tracked` was computed as this figure was."""
        return self.definition == short(tracked.definition)

    @property
    def noise(self) -> float | None:
        """How far a figure may be from the typical one, in its unit; None where there is no limit."""
        return None if self.limit is None else abs(self.limit - self.typical)

    def keeps(self, value: float) -> bool:
        """Whether `value` is within the limit; True where there is none."""
        if self.limit is None:
            return True
        return value <= self.limit if self.better == "lower" else value >= self.limit


@dataclass(frozen=True, slots=True)
class Run:
    """Where one run's figures came from: the record's hash, its reference's, when, on what, and what it took.

    `seconds` is what loading and drawing took; `peak_bytes` the peak while drawing: allocated on a GPU,
    resident on a CPU; None where nobody measured.
    """

    record: str
    reference: str | None
    created: str
    fingerprint: Fingerprint
    seconds: float | None
    peak_bytes: int | None


@dataclass(frozen=True, slots=True)
class Accepted:
    """The figures of one recipe on one machine that a person accepted: who, when (UTC, ISO 8601) and why.

    `artifact` is the hash of the artifact that was loaded; None where the model was quantized in memory.
    """

    model: ModelIdentity
    machine: str
    recipe: Identity
    suite: Identity
    by: str
    when: str
    why: str
    runs: tuple[Run, ...]
    figures: Mapping[str, Figure]
    artifact: str | None = None
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        object.__setattr__(self, "figures", Frozen(self.figures))

    @property
    def hash(self) -> str:
        """The sha256 over all of it."""
        return digest(self._json())

    def text(self) -> str:
        """The document, a line a figure, so that a diff shows which one changed."""
        document = {**self._json(), "hash": self.hash}
        figures = document["figures"]
        lines = ",\n".join(
            f"  {json.dumps(name)}: {json.dumps(figures[name], ensure_ascii=False)}" for name in figures
        )
        document["figures"] = {}
        text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
        return (
            text.replace('"figures": {}', f'"figures": {{\n{lines}\n }}' if lines else '"figures": {}') + "\n"
        )

    def _json(self) -> dict[str, Any]:
        return {
            "schema": self.schema,
            "model": self.model.values(),
            # only where there is one: the hashes of what was accepted without stay
            **({} if self.artifact is None else {"artifact": self.artifact}),
            "machine": self.machine,
            "recipe": asdict(self.recipe),
            "suite": asdict(self.suite),
            "by": self.by,
            "when": self.when,
            "why": self.why,
            "figures": {name: figure.values() for name, figure in self.figures.items()},
            "runs": [
                {
                    "record": run.record,
                    "reference": run.reference,
                    "created": run.created,
                    "seconds": run.seconds,
                    "peak_bytes": run.peak_bytes,
                    "fingerprint": run.fingerprint.values(),
                }
                for run in self.runs
            ],
        }


def is_drift(name: str) -> bool:
    """Whether the figure of that name says how far BF16 itself has moved: `images.drift_lpips_mean`."""
    return name.partition(".")[2].startswith(DRIFT)


def figure_of(runs: Sequence[Tracked]) -> Figure:
    """The accepted figure that several runs' measurements of one make.

    Its limit is the worst of them and, beyond that, the largest of: the range of the runs, the floor, and the
    share of the worst one's distance from the ideal. BaselineError where they were not computed in one way.
    """
    ways = list(dict.fromkeys(run.definition for run in runs))
    if len(ways) > 1:
        raise BaselineError(
            f"{runs[0].name}: the runs computed it differently: {'; '.join(ways)}: accept runs of one command"
        )
    first, values = runs[0], tuple(run.value for run in runs)
    limit = None
    if len(values) >= first.runs:
        worst = _worst(values, first.better)
        distance = 0.0 if first.ideal is None else abs(worst - first.ideal)
        noise = max(max(values) - min(values), first.floor, first.share * distance)
        limit = worst + noise if first.better == "lower" else worst - noise
    shared = [case for case in first.scores if all(case in run.scores for run in runs)]
    scores = {case: _typical([run.scores[case] for run in runs], first.better) for case in shared}
    definition = short(first.definition)
    return Figure(values, limit, first.better, first.unit, first.ideal, definition, Frozen(scores))


def read_accepted(path: Path) -> Accepted:
    """The accepted figures in the file `path`. BaselineError if it is missing, damaged, edited, or later."""
    table = read_json(path, BaselineError)
    schema = table.schema(SCHEMA)
    declared = _sha256(table, "hash")
    figures = table.table("figures")
    accepted = Accepted(
        model=read_model(table.table("model")),
        machine=table.text("machine"),
        recipe=read_identity(table.table("recipe")),
        suite=read_identity(table.table("suite")),
        by=table.text("by"),
        when=table.text("when"),
        why=table.text("why"),
        runs=tuple(map(_run, table.tables("runs"))),
        figures={name: _figure(figures, name) for name in figures},
        artifact=_sha256(table, "artifact") if "artifact" in table else None,
        schema=schema,
    )
    table.finish()
    if accepted.hash != declared:
        raise BaselineError(
            one_line(
                f"{path}: was edited: its contents do not match its hash; restore it from version control"
            )
        )
    return accepted


def _sha256(table: Table, key: str) -> str:
    return table.text(key, pattern=SHA256, allowed=SHA256_RULE)


def short(definition: str) -> str:
    """The start of the sha256 of how a figure is computed, empty where there is but one way."""
    return hashlib.sha256(definition.encode()).hexdigest()[:12] if definition else ""


def _typical(values: Sequence[float], better: str) -> float:
    return sorted(values, reverse=better == "higher")[len(values) // 2]


def _worst(values: Sequence[float], better: str) -> float:
    return max(values) if better == "lower" else min(values)


def _figure(figures: Table, name: str) -> Figure:
    if not _FIGURE.fullmatch(name):
        figures.fail(name, f"needed is {_FIGURE_RULE}")
    entry = figures.table(name)
    scores = entry.table("scores", optional=True)
    figure = Figure(
        measured=entry.numbers("measured"),
        limit=entry.number_or_null("limit"),
        better=entry.choice("better", BETTER),
        unit=entry.text_or_null("unit") or "",
        ideal=entry.number_or_null("ideal"),
        definition=entry.text_or_null("definition") or "",
        scores=Frozen({case: scores.number(case) for case in scores}),
    )
    entry.finish()
    return figure


def _run(entry: Table) -> Run:
    peak = entry.number_or_null("peak_bytes")
    run = Run(
        record=_sha256(entry, "record"),
        reference=entry.text_or_null("reference"),
        created=entry.text("created"),
        fingerprint=read_fingerprint(entry.table("fingerprint")),
        seconds=entry.number_or_null("seconds"),
        peak_bytes=None if peak is None else int(peak),
    )
    entry.finish()
    return run
