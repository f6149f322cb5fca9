"""What becomes the baseline: what bundles would change, and accepting it. Nothing here needs torch.

Several bundles of one model on one machine are taken together as runs of the same thing, which is how the
noise of a figure is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from textwrap import shorten

from ernie_qa import regression
from ernie_qa.baseline.accepted import Accepted, Figure, Run, figure_of, is_drift
from ernie_qa.baseline.bundle import Bundle, subject
from ernie_qa.baseline.change import Change
from ernie_qa.baseline.pictures import Pictures, pictures_of
from ernie_qa.baseline.store import Baseline, finish, locked, place_of, promote, read_baseline
from ernie_qa.errors import BaselineError
from ernie_qa.judge import alone
from ernie_qa.recipe import REFERENCE, Recipe, find_recipe, recipe_names
from ernie_qa.record import Record
from ernie_qa.rungs import cost
from ernie_qa.toml_input import one_line
from ernie_qa.verdict import Check, Status

LONGEST = 120
"""Characters of one check's message in an error, which is one line."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """What accepting would make (`new`) of what is accepted now (`current`, None where nothing is).

    `moved` says how BF16 has moved since, where it has: only a rebase may take that.
    """

    current: Baseline | None
    new: Baseline
    changes: tuple[Change, ...]
    moved: str

    @property
    def loosened(self) -> tuple[Change, ...]:
        """The changes that need a flag of their own."""
        return tuple(change for change in self.changes if change.loosens)


def propose(
    root: Path,
    bundles: Sequence[Bundle],
    *,
    why: str,
    by: str,
    recipes: Sequence[Recipe] = (),
    rebase: bool = False,
    look: bool = False,
) -> Proposal:
    """What accepting `bundles` below `root` would change, within `locked`; nothing is written.

    `recipes` are those to accept, all of the bundles without any; a recipe that is not shipped must be among
    them. With `rebase` everything is replaced, BF16's pictures too. BaselineError where a record may not be
    accepted: it does not pass its own limits, or BF16 has moved and this is no rebase. Who only wants to
    `look` is then shown what a rebase would change.
    """
    base = bundles[0].reference
    _check_runs(bundles)
    place = place_of(root, base.model.name, base.fingerprint.machine)
    current = read_baseline(place)
    chosen = _chosen(bundles, recipes, with_reference=rebase or current is None)
    for bundle in bundles:
        _check_passes(bundle, chosen)
    moved = _moved(bundles[0], current) if current else ""
    rebase = rebase or bool(look and moved)
    said = (by, datetime.now(UTC).isoformat(timespec="seconds"), why)
    if rebase or current is None:
        pictures = pictures_of(base)
        start = Baseline(place, {REFERENCE: _accepted([base], pictures, *said)}, pictures)
    else:
        start = current
    for bundle in bundles:
        if why_not := _moved(bundle, start):
            raise BaselineError(one_line(f"{bundle.path}: {why_not}"))
    accepted = dict(start.accepted)
    for recipe in chosen:
        runs = [bundle.records[recipe.name] for bundle in bundles]
        if len({run.artifact.hash if run.artifact else None for run in runs}) > 1:
            raise BaselineError(f"{recipe.name}: runs of different artifacts, or of one and of none: choose")
        accepted[recipe.name] = _accepted(runs, start.pictures, *said)
    new = Baseline(place, accepted, start.pictures)
    return Proposal(current, new, tuple(_changes(current, accepted)), moved)


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

    BaselineError as there, if another command is at work, if a limit would lie below the noise floor, or if a
    figure would loosen without `loosen`.
    """
    if not why.strip() or not why.isprintable():
        raise BaselineError(
            "an acceptance needs a reason in one printable line: say why these figures are right"
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise BaselineError(one_line(f"{root}: cannot be made: {problem.strerror or problem}")) from problem
    with locked(root):
        finish(root)
        proposal = propose(root, bundles, why=why, by=by, recipes=recipes, rebase=rebase)
        if proposal.loosened and not loosen:
            named = [f"{change.recipe} {change.name}" for change in proposal.loosened]
            more = f" and {len(named) - 3} more" if len(named) > 3 else ""
            raise BaselineError(
                f"these would loosen: {', '.join(named[:3])}{more}; `ernie-qa baseline diff` shows by how "
                f"much; if that is right, say --loosen"
            )
        promote(proposal.new)
    return proposal


def _check_runs(bundles: Sequence[Bundle]) -> None:
    seen: dict[str, Path] = {}
    for bundle in bundles:
        if subject(bundle.reference) != subject(bundles[0].reference):
            raise BaselineError(
                one_line(f"{bundle.path}: of another model, suite or machine than {bundles[0].path}")
            )
        if same := seen.get(bundle.reference.hash):
            raise BaselineError(one_line(f"{bundle.path}: the same run as {same}; name each once"))
        seen[bundle.reference.hash] = bundle.path


def _chosen(bundles: Sequence[Bundle], recipes: Sequence[Recipe], *, with_reference: bool) -> list[Recipe]:
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
    names = (set(given) if given else held) | ({REFERENCE} if with_reference else set())
    return [
        given.get(name) or find_recipe(name)
        for name in sorted(names, key=lambda name: (name != REFERENCE, name))
    ]


def _check_passes(bundle: Bundle, recipes: Iterable[Recipe]) -> None:
    for recipe in recipes:
        record = bundle.records[recipe.name]
        if record.recipe.hash != recipe.hash:
            raise BaselineError(
                one_line(
                    f"{bundle.path / recipe.name}: made with another recipe ({record.recipe.hash[:12]}) than "
                    f"{recipe.path} ({recipe.hash[:12]}): name the file that it was made with, --recipe FILE"
                )
            )
        verdict = alone(record, bundle.reference, recipe)
        if verdict.status is not Status.PASS:
            raise BaselineError(
                one_line(
                    f"{bundle.path / recipe.name}: does not pass its own limits: "
                    f"{_shortly(verdict.of(verdict.status))}; see it with `ernie-qa report`"
                )
            )


def _shortly(checks: Sequence[Check]) -> str:
    """The first of `checks` with its figures, or with how its message begins, and how many more there are."""
    if not checks:
        return "nothing was shown"
    first, more = checks[0], f" and {len(checks) - 1} more" if len(checks) > 1 else ""
    if first.measured is not None and first.limit is not None:
        why = f"measured {first.measured:.4g}, limit {first.limit:.4g} {first.unit}".rstrip()
    else:
        why = shorten(first.message, LONGEST, placeholder=" …")
    return f"{first.label}: {why}{more}"


def _moved(bundle: Bundle, baseline: Baseline) -> str:
    """How the bundle's BF16 is not the accepted one; empty where it is."""
    bf16 = baseline.accepted[REFERENCE]
    if (bf16.model.hash, bf16.suite.hash) != (bundle.reference.model.hash, bundle.reference.suite.hash):
        return f"another model or suite than {baseline.path} holds: rebase, with all arms"
    return regression.moved(bundle.reference, baseline)


def _accepted(runs: Sequence[Record], pictures: Pictures | None, by: str, when: str, why: str) -> Accepted:
    first = runs[0]
    return Accepted(
        model=first.model,
        machine=first.fingerprint.machine,
        recipe=first.recipe,
        suite=first.suite,
        by=by,
        when=when,
        why=why,
        runs=tuple(map(_run, runs)),
        figures=_figures(runs, pictures),
        artifact=first.artifact.hash if first.artifact else None,
    )


def _run(record: Record) -> Run:
    seconds, peak = cost.took(record)
    return Run(
        record=record.hash,
        reference=record.reference,
        created=record.created,
        fingerprint=record.fingerprint,
        seconds=seconds,
        peak_bytes=peak,
    )


def _figures(runs: Sequence[Record], pictures: Pictures | None) -> dict[str, Figure]:
    """The figures of `runs`, each with the limit that they set together. BaselineError where one lacks one.

    How far BF16 moved is known of the runs that were compared with the pictures, the first always among them.
    """
    found = [regression.tracked(record, pictures) for record in runs]
    figures = {}
    for name in dict.fromkeys(name for run in found for name in run):
        measured = [run[name] for run in found if name in run]
        if len(measured) < len(runs) and not is_drift(name):
            raise BaselineError(f"{runs[0].recipe.name}: not every run measured {name}: observe again")
        figures[name] = figure_of(measured)
    return figures


def _changes(current: Baseline | None, accepted: Mapping[str, Accepted]) -> Iterator[Change]:
    """What becomes of each figure. Those of another model, suite or artifact are not the same figures."""
    before = dict(current.accepted) if current else {}
    for recipe in dict.fromkeys((*accepted, *before)):
        old, new = before.get(recipe), accepted.get(recipe)
        if old is new:
            continue
        was: Mapping[str, Figure] = old.figures if old else {}
        now: Mapping[str, Figure] = new.figures if new else {}
        if old and new and _subject(old) != _subject(new):
            yield from (Change(recipe, name, figure, None) for name, figure in was.items())
            was = {}
        for name in dict.fromkeys((*now, *was)):
            yield Change(recipe, name, was.get(name), now.get(name))


def _subject(accepted: Accepted) -> tuple[str, str, str | None]:
    return accepted.model.hash, accepted.suite.hash, accepted.artifact
