"""What an interrupted run left, for the same run to go on with: the records of the arms that had ended.

They lie in the cache directory, under a name that stands for all that the run was asked for, and go when it
ends whole. docs/decisions/0011-what-a-resumed-run-takes.md says what of them is taken, and why.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_qa.baseline.store import files_about
from ernie_qa.cache_directory import cache_directory
from ernie_qa.durable import cannot, discard, held
from ernie_qa.errors import ErnieQAError, InputError, UnavailableError
from ernie_qa.exchange import Exchange
from ernie_qa.fingerprint import sources, take_fingerprint
from ernie_qa.frozen import digest
from ernie_qa.pieces import arm_of
from ernie_qa.recipe import REFERENCE

if TYPE_CHECKING:
    from ernie_qa.plan import Plan

FOLDER = "unfinished"
KEPT_DAYS = 14
"""How long nobody may go on with a run before the next resumable one removes what it left."""


@contextmanager
def unfinished(plan: Plan, **asked: Any) -> Iterator[tuple[Exchange, tuple[str, ...]]]:
    """What earlier runs of this `plan`, `asked` in this way, left: an exchange with the arms that had ended,
    and in a line each what else was there. Held against other processes until the block ends.

    `asked` is whatever else an arm's figures hang on, JSON values and directories of baselines. InputError
    where another process is at this run, UnavailableError where nothing can be kept. Nothing is removed at
    the end: that is `finished`'s.
    """
    root = cache_directory().absolute() / FOLDER
    place = root / _key(plan, asked)
    with ExitStack() as stack:
        try:
            root.mkdir(parents=True, exist_ok=True)
            _forget_old(root, place)
            stack.enter_context(held(place))
            # what is gone on with is young again
            os.utime(place)
            exchange = Exchange(place, "gate")
            exchange.make()
            found, told = _ended(exchange)
        except BlockingIOError:
            raise InputError(f"{place}: another process is at this run; wait until it has ended") from None
        except OSError as problem:
            raise UnavailableError(cannot(place, problem)) from problem
        yield replace(exchange, earlier=found), told


def finished(exchange: Exchange) -> None:
    """Remove what the run left: it ended whole."""
    with suppress(OSError):
        discard(exchange.directory)


def _ended(exchange: Exchange) -> tuple[frozenset[str], tuple[str, ...]]:
    """The arms whose record is there and can be read, and why others are not taken; these are removed."""
    found, told = set(), []
    for name in exchange.begun:
        try:
            record = exchange.record(name)
        except ErnieQAError as problem:
            told.append(f"{name} is drawn again: {problem}")
            record = None
        if record:
            found.add(name)
        else:
            exchange.forget(name)
    exchange.forget_steps()
    if found and REFERENCE not in {arm_of(name) for name in found}:
        # their figures are distances to a record that is no more
        told.append(f"without {REFERENCE}'s record, drawn again: {', '.join(sorted(found))}")
        for name in found:
            exchange.forget(name)
        found = set()
    return frozenset(found), tuple(told)


def _key(plan: Plan, asked: dict[str, Any]) -> str:
    """Sixteen digits for all that a run was asked for, the build and the machine; but for the GPU, which may
    hang when it is touched, and which a verdict compares with BF16's."""
    values = {
        "sources": sources(),
        "fingerprint": take_fingerprint("cpu").values(),
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "model": plan.model.identity.hash,
        "suite": plan.suite.hash,
        "recipes": {recipe.name: recipe.hash for recipe in plan.recipes},
        "artifacts": {name: model.identity.hash for name, model in plan.artifacts.items()},
        "offloaded": sorted(plan.offloaded),
        "teacher_cases": plan.teacher_cases,
        "device": plan.device,
        **{
            name: _stored(value, plan.model.name) if isinstance(value, Path) else value
            for name, value in asked.items()
        },
    }
    return digest(values)[:16]


def _stored(baselines: Path, model: str) -> dict[str, str]:
    """What is accepted and calibrated there for `model`, by file."""
    files = files_about(baselines, model).items()
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files}


def _forget_old(root: Path, own: Path) -> None:
    """Remove what nobody has gone on with for long, and nobody is at."""
    for place in root.iterdir():
        with suppress(OSError):
            if place != own and time.time() - place.stat().st_mtime > KEPT_DAYS * 86400:
                with held(place):
                    discard(place)
