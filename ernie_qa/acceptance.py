"""From what runs left behind to what people accept: bundles, what would change, and promoting it.

A bundle is a directory with one record a recipe, BF16's among them: what `--ernie-update` leaves in
`candidates/`, or a report. Several bundles of one model on one machine are taken together as runs of the same
thing, which is how the noise of a figure is known. Nothing here needs torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ernie_qa import regression
from ernie_qa.baseline.accepted import Accepted, Figure, Run, figure_of, is_drift
from ernie_qa.baseline.change import Change
from ernie_qa.baseline.pictures import Pictures, pictures_of
from ernie_qa.baseline.store import (
    Baseline,
    find_baseline,
    finish,
    locked,
    place_of,
    promote,
)
from ernie_qa.errors import BaselineError
from ernie_qa.judge import judge
from ernie_qa.recipe import REFERENCE, Recipe, find_recipe, recipe_names
from ernie_qa.record import Record, load_record
from ernie_qa.toml_input import one_line
from ernie_qa.verdict import Status


@dataclass(frozen=True, slots=True)
class Bundle:
    """The records of one run, by recipe; all were measured against its own BF16 record."""

    path: Path
    records: Mapping[str, Record]

    @property
    def reference(self) -> Record:
        """The BF16 record."""
        return self.records[REFERENCE]


@dataclass(frozen=True, slots=True)
class Proposal:
    """What accepting would make of what is accepted now (`current`, None where nothing is)."""

    place: Path
    current: Baseline | None
    accepted: Mapping[str, Accepted]
    pictures: Pictures | None
    changes: tuple[Change, ...]

    @property
    def loosened(self) -> tuple[Change, ...]:
        """The changes that need a flag of their own."""
        return tuple(change for change in self.changes if change.loosens)


def load_bundle(path: Path) -> Bundle:
    """The bundle in the directory `path`. BaselineError, or RecordError for one of its records."""
    if not (path / REFERENCE / "record.json").is_file():
        raise BaselineError(
            one_line(f"{path}: no bundle: it holds no {REFERENCE}/record.json; name one that a run left")
        )
    records = {file.parent.name: load_record(file.parent) for file in sorted(path.glob("*/record.json"))}
    base = records[REFERENCE]
    for name, record in records.items():
        if record.recipe.name != name:
            raise BaselineError(
                one_line(f"{path / name}: holds a record of {record.recipe.name}; put it back")
            )
        if name != REFERENCE and record.reference != base.hash:
            raise BaselineError(
                one_line(f"{path / name}: was measured against another BF16 record than {path / REFERENCE}")
            )
        if _what(record) != _what(base):
            raise BaselineError(one_line(f"{path / name}: of another model, suite or machine than BF16"))
    return Bundle(path, records)


def propose(
    root: Path,
    bundles: Sequence[Bundle],
    *,
    why: str,
    by: str,
    recipes: Sequence[Recipe] = (),
    rebase: bool = False,
) -> Proposal:
    """What accepting `bundles` below `root` would change; nothing is written.

    `recipes` are those to accept, all of the bundles without any; a recipe that is not shipped must be among
    them. With `rebase` everything is replaced, BF16's pictures too. BaselineError where a record may not be
    accepted: it does not pass its own limits, or BF16 has moved and this is no rebase.
    """
    base = bundles[0].reference
    for bundle in bundles[1:]:
        if _what(bundle.reference) != _what(base):
            raise BaselineError(
                one_line(f"{bundle.path}: of another model, suite or machine than {bundles[0].path}")
            )
    machine = base.fingerprint.machine
    current = find_baseline(root, base.model.name, machine)
    chosen = _chosen(bundles, recipes, current, rebase)
    for bundle in bundles:
        _check_passes(bundle, chosen)
    pictures = current.pictures if current and not rebase else pictures_of(base)
    if current and not rebase:
        for bundle in bundles:
            _check_unmoved(bundle, current)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    accepted = {} if rebase or not current else dict(current.accepted)
    for recipe in chosen:
        runs = [bundle.records[recipe.name] for bundle in bundles]
        made = Accepted(
            model=base.model,
            machine=machine,
            recipe=runs[0].recipe,
            suite=base.suite,
            by=by,
            when=when,
            why=why,
            pictures=pictures.hash if pictures and recipe.name == REFERENCE else None,
            runs=tuple(map(_run, runs)),
            figures=_figures(runs, pictures),
        )
        accepted[recipe.name] = made
    changes = tuple(_changes(current, accepted))
    return Proposal(place_of(root, base.model.name, machine), current, accepted, pictures, changes)


def accept(
    root: Path,
    bundles: Sequence[Bundle],
    *,
    why: str,
    by: str,
    recipes: Sequence[Recipe] = (),
    rebase: bool = False,
    loosen: bool = False,
) -> Proposal:
    """Make what `propose` says the accepted state, whole or not at all.

    BaselineError as there, if another accept is at work, or if a figure would loosen without `loosen`.
    """
    if not why.strip():
        raise BaselineError("an acceptance needs a reason: say why these figures are right, with --reason")
    with locked(root):
        finish(root)
        proposal = propose(root, bundles, why=why, by=by, recipes=recipes, rebase=rebase)
        if proposal.loosened and not loosen:
            named = ", ".join(f"{change.recipe} {change.name}" for change in proposal.loosened[:3])
            raise BaselineError(
                f"{len(proposal.loosened)} figures would loosen ({named}): `ernie-qa baseline diff` shows by "
                f"how much; if that is right, say --loosen"
            )
        promote(proposal.place, proposal.accepted, proposal.pictures)
    return proposal


def _what(record: Record) -> tuple[str, str, str]:
    return record.model.hash, record.suite.hash, record.fingerprint.machine


def _chosen(
    bundles: Sequence[Bundle], recipes: Sequence[Recipe], current: Baseline | None, rebase: bool
) -> list[Recipe]:
    """The recipes to accept, BF16 first where it must be among them."""
    held = set.intersection(*(set(bundle.records) for bundle in bundles))
    given = {recipe.name: recipe for recipe in recipes}
    for name in given.keys() - held:
        raise BaselineError(
            one_line(f"{bundles[0].path}: holds no record of {name}; it has {', '.join(sorted(held))}")
        )
    unknown = sorted(held - given.keys() - set(recipe_names()))
    if unknown and not given:
        raise BaselineError(
            f"{unknown[0]} is no shipped recipe: name its file, --recipe {unknown[0]}.toml, and every "
            f"other one to accept"
        )
    names = set(given) if given else held
    if rebase or not current:
        names.add(REFERENCE)
    if rebase and current and (missing := sorted(current.accepted.keys() - names)):
        raise BaselineError(
            f"a rebase replaces all arms at once, and {', '.join(missing)} is accepted and not offered: "
            f"run all of them, or remove {missing[0]}.json first"
        )
    return [
        given.get(name) or find_recipe(name)
        for name in sorted(names, key=lambda name: (name != REFERENCE, name))
    ]


def _check_passes(bundle: Bundle, recipes: Iterable[Recipe]) -> None:
    for recipe in recipes:
        record = bundle.records[recipe.name]
        verdict = judge(record, None if recipe.name == REFERENCE else bundle.reference, recipe)
        if verdict.status is not Status.PASS:
            told = verdict.of(verdict.status)
            why = f"{told[0].label}: {told[0].message}" if told else "nothing was shown"
            raise BaselineError(
                one_line(
                    f"{bundle.path / recipe.name}: {verdict.status} by its own limits, so it cannot be "
                    f"accepted: {why}"
                )
            )


def _check_unmoved(bundle: Bundle, current: Baseline) -> None:
    """BaselineError where BF16 is not where it was accepted: the figures would be of two stacks."""
    bf16 = current.accepted[REFERENCE]
    if (bf16.model.hash, bf16.suite.hash) != (bundle.reference.model.hash, bundle.reference.suite.hash):
        raise BaselineError(
            one_line(f"{bundle.path}: of another model or suite than {current.path}: rebase, with all arms")
        )
    for check in regression.drift(bundle.reference, bf16, current.pictures):
        if check.status is Status.FAIL:
            raise BaselineError(f"BF16 itself has moved: {check.message}")
        if check.status is Status.NOT_COMPARABLE:
            raise BaselineError(
                one_line(
                    f"{bundle.path}: BF16 was not compared with the accepted pictures: run again with "
                    f"--ernie-baselines {current.path.parent.parent}, or rebase"
                )
            )


def _run(record: Record) -> Run:
    cost = record.figures.get("cost", {})
    seconds = [cost.get("load_seconds"), *cost.get("seconds", {}).values()]
    peaks = [
        peak.get("allocated") or peak.get("resident") for peak in cost.get("peak_bytes", {}).values() if peak
    ]
    return Run(
        record=record.hash,
        reference=record.reference,
        created=record.created,
        fingerprint=record.fingerprint,
        seconds=math.fsum(one for one in seconds if one is not None) or None,
        peak_bytes=max((peak for peak in peaks if peak), default=None),
    )


def _figures(runs: Sequence[Record], pictures: Pictures | None) -> dict[str, Figure]:
    """The figures of `runs`, each with the limit that they set together. BaselineError where one lacks one.

    How far BF16 moved is known of the runs that were compared with the pictures, the first always among them.
    """
    found = [regression.tracked(record, pictures) for record in runs]
    figures = {}
    for name in found[0]:
        measured = [run[name] for run in found if name in run]
        if len(measured) < len(runs) and not is_drift(name):
            raise BaselineError(f"{runs[0].recipe.name}: not every run measured {name}: observe again")
        figures[name] = figure_of(measured)
    return figures


def _changes(current: Baseline | None, accepted: Mapping[str, Accepted]) -> Iterable[Change]:
    for recipe, new in accepted.items():
        old = current.accepted.get(recipe) if current else None
        if old is new:
            continue
        before: Mapping[str, Figure] = old.figures if old else {}
        for name in dict.fromkeys((*new.figures, *before)):
            yield Change(recipe, name, before.get(name), new.figures.get(name))
    if current:
        for recipe in current.accepted.keys() - accepted.keys():
            for name, figure in current.accepted[recipe].figures.items():
                yield Change(recipe, name, figure, None)
