"""The arms of a sweep, one after the other; each one's record and verdict are on disk when it has ended."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ernie_qa.errors import ErnieQAError
from ernie_qa.execute import Session
from ernie_qa.recipe import REFERENCE
from ernie_qa.report.files import DOCUMENT, document, write_whole
from ernie_qa.verdict import Status, worst

if TYPE_CHECKING:
    from ernie_qa.plan import Plan


@dataclass(frozen=True, slots=True)
class Swept:
    """What ran, the error of each arm that broke off in one line, and the seconds that all took."""

    session: Session
    errors: Mapping[str, str]
    seconds: float


def run(
    plan: Plan,
    *,
    all_rungs: bool = False,
    directory: Path | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, arm: None,
) -> Swept:
    """Run the arms of `plan`; BF16 first, and once.

    An arm that breaks off is kept among the errors, and the next one begins; ErnieQAError where BF16 does.
    With a `directory` the record of each arm and all verdicts so far are written there as it ends. An
    interruption ends the sweep with what there is; where there is nothing it is raised.
    """
    begin = time.monotonic()
    cases = len(plan.suite.cases)
    ended: list[str] = []

    def told(recipe: str, drawn: int, wanted: int) -> None:
        if drawn == wanted:
            ended.append(recipe)
        progress(len(ended) * cases + drawn % wanted, plan.pictures, recipe)

    session = Session(plan, all_rungs=all_rungs, progress=told)
    errors: dict[str, str] = {}
    try:
        for recipe in plan.recipes:
            try:
                session.outcome(recipe)
            except ErnieQAError as error:
                if REFERENCE not in session.records:
                    raise
                errors[recipe.name] = str(error)
            if directory:
                _keep(directory, session)
    except KeyboardInterrupt:
        if not session.records:
            raise
        session.interrupt()
        if directory:
            _keep(directory, session)
    return Swept(session, errors, time.monotonic() - begin)


def _keep(directory: Path, session: Session) -> None:
    """Write what `directory` lacks of the session, and the verdicts so far: a killed sweep leaves them."""
    for name, record in session.records.items():
        if not (directory / name).exists():
            record.save(directory / name)
    told = document(session)
    ended = {*session.records, *session.broken}
    left = [recipe.name for recipe in session.plan.recipes if recipe.name not in ended]
    if left:
        status = worst([session.status, Status.NOT_COMPARABLE])
        told = {**told, "status": status, "unfinished": left}
    write_whole(directory / DOCUMENT, json.dumps(told, indent=2, ensure_ascii=False) + "\n")
