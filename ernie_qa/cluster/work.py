"""What a worker does: it observes one chunk with its own copy of the model, and gives back a record."""

from __future__ import annotations

import os
import platform
import re
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from ernie_qa.broken import held, told
from ernie_qa.cluster.chunks import Chunk
from ernie_qa.compile_cache import WORKER
from ernie_qa.errors import ErnieQAError, InputError, ModelError
from ernie_qa.fingerprint import sources
from ernie_qa.frozen import Frozen
from ernie_qa.gpus import VISIBLE
from ernie_qa.models.find import Model, find_model
from ernie_qa.observer import Observer
from ernie_qa.settings import Part, Settings

if TYPE_CHECKING:
    from ernie_qa.plan import Plan
    from ernie_qa.record import Record

TRIES = 2
"""How many workers a chunk may end before nobody tries it again."""

_BEFORE: dict[str, int] = {}
"""Device -> what torch held on it before this process's first chunk."""
_ALONE = Lock()
"""Two arms never share a process: a scheduler may give a worker with several threads several chunks."""


@dataclass(frozen=True, slots=True)
class Task:
    """One `chunk` of `plan`. `places` says what finds the models of the plan, which are paths on the caller's
    host: "" for the model itself, a recipe's name for its artifact. `begun` counts how often the chunk of a
    name was begun, None where whoever runs it never begins it anew by himself. `sources` is the caller's
    `ernie_qa.fingerprint.sources`. `earlier` says that BF16 was timed in an earlier run."""

    plan: Plan
    settings: Settings
    chunk: Chunk
    places: Mapping[str, str]
    sources: str
    begun: Callable[[str], int] | None
    earlier: bool


@dataclass(frozen=True, slots=True)
class Done:
    """The record of a chunk, which was begun so many times before it came to its end."""

    record: Record
    begun: int


@dataclass(frozen=True, slots=True)
class Broke:
    """Why a chunk has no record, in one line."""

    why: str


def places(plan: Plan) -> Mapping[str, str]:
    """`Task.places` of `plan`."""
    return Frozen({"": plan.model.address, **{name: one.address for name, one in plan.artifacts.items()}})


def work(task: Task, baselines: Mapping[str, bytes], reference: Record | None) -> Done | Broke:
    """Observe the chunk against the BF16 `reference`, None where BF16 is what is drawn.

    `baselines` are the files of what is accepted, by path. Nothing is raised that is about the arm.
    """
    with _ALONE:
        begun = task.begun(task.chunk.name) if task.begun else 1
        if begun > TRIES:
            return Broke(
                f"{task.chunk} ended {TRIES} workers and is not tried again: look at their logs and memory"
            )
        try:
            return Done(_observed(task, baselines, reference), begun)
        except Exception as error:
            # its own log is where to look further
            traceback.print_exception(error)
            why = str(error) if isinstance(error, ErnieQAError) else told(error)
            return Broke(f"worker on {platform.node()}: {why}")


def _observed(task: Task, baselines: Mapping[str, bytes], reference: Record | None) -> Record:
    if task.sources != sources():
        raise InputError("runs another ernie_qa than the caller: install the same code there")
    plan, chunk, settings = _here(task), task.chunk, task.settings
    with _unpacked(baselines) as directory:
        observer = Observer(
            plan,
            replace(settings, baselines=directory if settings.baselines else None),
            part=Part(chunk.cases, reference, task.earlier, _apart(), _BEFORE.get(plan.device)),
        )
        observer.prepare()
        _BEFORE.setdefault(plan.device, held(plan.device))
        return observer.record(chunk.recipe)


def _apart() -> str:
    """What tells this worker's GPU from the others of its host; the first keeps what a gate alone would."""
    visible = os.environ.get(VISIBLE, "")
    return "" if visible in ("", "0") else WORKER + re.sub(r"[^A-Za-z0-9]+", "-", visible)


def _here(task: Task) -> Plan:
    """The plan with this host's models; ModelError where one is not the caller's."""
    plan = task.plan
    found = {
        name: _same(find_model(place), plan.artifacts[name] if name else plan.model)
        for name, place in task.places.items()
        if name in ("", task.chunk.recipe.name)
    }
    return replace(
        plan,
        model=found.pop(""),
        artifacts=Frozen(found),
        # what the parts are fed is recorded by the chunk that draws it
        teacher_cases=0 if task.chunk.number else plan.teacher_cases,
    )


def _same(here: Model, wanted: Model) -> Model:
    if here.identity.hash != wanted.identity.hash:
        raise ModelError(f"{here.path}: holds another model than the caller's {wanted.name}: copy it anew")
    # how it was asked for, and what it is called, is the caller's to say
    return replace(here, identity=wanted.identity, asked=wanted.asked)


@contextmanager
def _unpacked(files: Mapping[str, bytes]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ernie_qa-") as directory:
        for name, content in files.items():
            file = Path(directory) / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        yield Path(directory)
