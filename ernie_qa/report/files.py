"""A run on disk: a record a recipe, and all verdicts in one JSON document."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_qa.baseline.bundle import bundle_place
from ernie_qa.durable import cannot, write
from ernie_qa.durable import directory as whole
from ernie_qa.errors import InputError
from ernie_qa.judge import alone
from ernie_qa.recipe import REFERENCE, recipe_names
from ernie_qa.together import settle, together
from ernie_qa.verdict import Status

if TYPE_CHECKING:
    from ernie_qa.execute import Session
    from ernie_qa.recipe import Recipe
    from ernie_qa.record import Record
    from ernie_qa.verdict import Check, Verdict

SCHEMA = 1
DOCUMENT = "verdict.json"


def check_directory(directory: Path) -> None:
    """InputError where `directory` holds files, is one, or cannot be made: a report is never written over
    another, and that it cannot be written is told before anything is drawn.

    What a killed run left there is finished, where it was whole, or cleared away.
    """
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory}: not a directory; name a new or an empty one for the report")
    with _told(directory):
        settle(directory)
    if directory.is_dir() and any(directory.iterdir()):
        raise InputError(f"{directory}: not empty; name a new or an empty directory for the report")
    there = next(place for place in (directory, *directory.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{directory}: cannot be written: {there} takes no directory; name another place")


def document(session: Session) -> dict[str, Any]:
    """All verdicts as JSON values, each beside the hash of the record that it judges.

    A recipe that `broke` off, or that an interruption left `unfinished`, has no verdict, and all of them
    together are then no pass.
    """
    return {
        "schema": SCHEMA,
        "status": session.status,
        "model": session.plan.model.name,
        "suite": session.plan.suite.name,
        "seeds": session.plan.suite.seeds,
        "device": session.plan.device,
        "broke": session.broken,
        "unfinished": session.unfinished,
        "verdicts": [verdict_values(outcome.verdict, outcome.record) for outcome in session.outcomes],
    }


def verdict_values(verdict: Verdict, record: Record) -> dict[str, Any]:
    """One verdict, and the hash of the record that it judges, as JSON values."""
    return {
        "recipe": verdict.recipe,
        "status": verdict.status,
        "record": record.hash,
        "checks": [_values(check) for check in verdict.checks],
        "waivers": [{**asdict(waiver), "until": waiver.until.isoformat()} for waiver in verdict.waivers],
    }


def _values(check: Check) -> dict[str, Any]:
    """A check as JSON values; JSON has no infinity (PSNR of identical pictures), its message says it."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in (asdict(check) | {"position": check.position}).items()
    }


def save(directory: Path, session: Session) -> None:
    """Write `<recipe>/` (the record) for each arm, the reference among them, and verdict.json, in a directory
    that is there."""
    for recipe, record in session.records.items():
        record.save(directory / recipe)
    text = json.dumps(document(session), indent=2, ensure_ascii=False)
    write_whole(directory / DOCUMENT, text + "\n")


def write_whole(file: Path, text: str) -> None:
    """Write `file`, whole or not at all. InputError where it cannot be written."""
    with _told(file):
        write(file, text)


@contextmanager
def filling(directory: Path) -> Iterator[Path]:
    """A hidden directory in `directory` to write in; all that is in it takes its place there when the block
    ends well, or nothing. InputError where that cannot be."""
    with _told(directory), together(directory) as new:
        yield new


@contextmanager
def _told(place: Path) -> Iterator[None]:
    """InputError for what the system refuses while `place` is written."""
    try:
        yield
    except FileExistsError as problem:
        # what is in the way, of all that would be written
        raise InputError(cannot(Path(problem.filename or place), problem)) from None
    except OSError as problem:
        raise InputError(cannot(place, problem)) from None


def save_candidates(baselines: Path, session: Session) -> Path | None:
    """Keep the session's records in `baselines`/candidates, as a bundle for a person to accept or not; where.

    Nothing outside `candidates` is touched, and no earlier bundle written over. None without BF16's record.
    """
    reference = session.records.get(REFERENCE)
    if reference is None:
        return None
    bundle = bundle_place(baselines, reference)
    if not bundle.exists():
        with _told(bundle), whole(bundle) as new:
            save(new, session)
    return bundle


def next_step(baselines: Path, session: Session, bundle: Path) -> tuple[str, ...]:
    """What became of the bundle, what it lacks or has that nobody may accept, and the command that shows what
    accepting the rest would change."""
    shipped = recipe_names()
    reference = session.records.get(REFERENCE)
    recipes: list[Recipe] = []
    refused: list[Recipe] = []
    for recipe in session.plan.recipes:
        if record := session.records.get(recipe.name):
            passed = alone(record, reference, recipe).status is Status.PASS
            (recipes if passed else refused).append(recipe)
    named = ""
    if refused or any(recipe.name not in shipped for recipe in recipes):
        given = (recipe.name if recipe.name in shipped else str(recipe.path) for recipe in recipes)
        named = "".join(f" --recipe {shlex.quote(one)}" for one in given)
    command = (
        f"ernie-qa baseline diff {shlex.quote(str(bundle))} --baselines {shlex.quote(str(baselines))}{named}"
    )
    lacking = [name for name in (*session.broken, *session.unfinished) if name not in session.records]
    which = ", ".join(recipe.name for recipe in refused)
    return (
        f"kept as candidates, and nothing accepted: {bundle}",
        *([f"these candidates are not the whole run: {', '.join(lacking)} missing"] if lacking else ()),
        *([f"not to be accepted, for their own limits are not passed: {which}"] if refused else ()),
        *([f"see what would change: {command}"] if recipes else ()),
    )
