"""The arms of a gate or a sweep: one after the other in this process, or, where a timeout is set, in one that
can be ended."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

from ernie_qa.cli.bar import progress_bar
from ernie_qa.cli.exit_codes import BAD_INPUT, OK
from ernie_qa.errors import ErnieQAError
from ernie_qa.exchange import Exchange
from ernie_qa.execute import Session
from ernie_qa.recipe import REFERENCE
from ernie_qa.trajectories import Trajectories
from ernie_qa.unfinished import finished, unfinished

if TYPE_CHECKING:
    from ernie_qa.plan import Plan
    from ernie_qa.record import Record
    from ernie_qa.settings import Settings

_ERROR = "error"
"""The file in which a worker says why no other one is to go on."""


@dataclass(frozen=True, slots=True)
class _Share:
    """What a worker is given; `timeout` are the seconds that a step may take."""

    plan: Plan
    settings: Settings
    exchange: Exchange
    timeout: int


def run(plan: Plan, settings: Settings, timeout: int, kept: Exchange | None = None) -> Session:
    """Run the plan's arms under a progress bar on stderr.

    With a `timeout`, in seconds, a worker runs them and this process looks at no GPU: a step that takes
    longer ends the worker, its stacks are told on stderr, and another worker goes on with the next recipe.
    What is `kept` of an earlier run is not drawn again, and the rest is left there. ErnieQAError where there
    is no BF16 to compare with.
    """
    return _supervised(plan, settings, timeout, kept) if timeout else _run(plan, settings, kept)


def let_go(kept: Exchange | None, session: Session) -> None:
    """Remove what is kept of a run that has ended whole, and been told."""
    if kept and not session.broken and not session.unfinished:
        finished(kept)


@contextmanager
def resumable(plan: Plan, settings: Settings, resume: bool, **asked: Any) -> Iterator[Exchange | None]:
    """Where arms are kept for the same run to go on with, and what an earlier one left there is told; None
    without `resume`. What else was `asked` for belongs to the run. Errors are those of `unfinished`."""
    if not resume:
        yield None
        return
    asked |= {"all_rungs": settings.all_rungs, "baselines": settings.baselines}
    with unfinished(plan, **asked) as (kept, told):
        for line in told:
            print(f"ernie-qa: {line}", file=sys.stderr)
        if kept.earlier:
            print(
                f"ernie-qa: drawn before, and not again: {', '.join(sorted(kept.earlier))}", file=sys.stderr
            )
        yield kept


def _run(plan: Plan, settings: Settings, exchange: Exchange | None = None, timeout: int = 0) -> Session:
    begun = exchange.begun if exchange else ()
    with progress_bar("picture", plan.pictures, len(begun) * len(plan.suite.cases)) as bar:

        def progress(recipe: str, drawn: int, wanted: int) -> None:
            bar.on(drawn > 0, recipe)

        session = Session(
            plan,
            baselines=settings.baselines,
            require_baseline=settings.require_baseline,
            any_allocator=settings.any_allocator,
            all_rungs=settings.all_rungs,
            progress=progress,
            exchange=exchange,
            watchdog=exchange.watchdog(timeout) if exchange and timeout else None,
            alone=True,
        )
        try:
            if timeout:
                # what is missing here is told once, and no other worker is tried
                session.prepare()
            # what a worker before this one left is not drawn again, and judged by who started it
            for recipe in (one for one in plan.recipes if not timeout or one.name not in begun):
                try:
                    session.outcome(recipe)
                except ErnieQAError as error:
                    if REFERENCE in session.broken or len(plan.recipes) == 1:
                        raise
                    if timeout and exchange and session.leaked and recipe.name not in exchange.begun:
                        break
                    # what the others showed is not lost
                    arm = "" if recipe.name in str(error) else f"{recipe.name}: "
                    bar.say(f"{arm}{error}")
                # a worker that goes on has a clean GPU
                if timeout and session.leaked:
                    break
        except KeyboardInterrupt:
            if not session.records:
                raise
            session.interrupt()
        if session.leaked:
            bar.say(session.leaked)
    return session


def _supervised(plan: Plan, settings: Settings, timeout: int, kept: Exchange | None = None) -> Session:
    session = Session(plan, baselines=settings.baselines, require_baseline=settings.require_baseline)
    names = {REFERENCE, *(recipe.name for recipe in plan.recipes)}
    with tempfile.TemporaryDirectory(prefix="ernie_qa-") if not kept else nullcontext() as directory:
        common = kept or Exchange(Path(directory or ""), "gate")
        common.make()
        interrupted, workers = False, 0
        try:
            while names > (begun := set(common.begun)):
                workers += 1
                exchange = replace(common, worker=f"{workers}")
                code = _worked(_Share(plan, settings, exchange, timeout))
                _tell(common, set(common.begun) - begun, code, len(plan.recipes) == 1)
        except KeyboardInterrupt:
            interrupted = True
        # nobody knows how the arm that was interrupted would have ended
        ended = [name for name in common.begun if common.is_told(name) or not interrupted]
        records, _ = common.gather(ended)
        if interrupted and not records:
            raise KeyboardInterrupt
        session.adopt({name: _whole(record) for name, record in records.items()}, ended, names)
    if interrupted:
        session.interrupt()
    return session


def _whole(record: Record) -> Record:
    """The record with its trajectories in memory: the directory that they lie in goes."""
    kept = record.trajectories
    return replace(record, trajectories=Trajectories.from_bytes(kept.content())) if kept else record


def _worked(share: _Share) -> int:
    """The exit code of a worker that runs the recipes that nobody has begun."""
    # Ctrl-C is for this process alone, and what the worker started ends with it
    process = subprocess.Popen(
        # -P: what lies in the current directory, a model's perhaps, is not what is imported
        [sys.executable, "-P", "-m", "ernie_qa.cli.arms"],
        stdin=subprocess.PIPE,
        process_group=0,
    )
    try:
        assert process.stdin is not None
        # one that died before it read says so by its code
        with suppress(BrokenPipeError):
            process.stdin.write(pickle.dumps(share))
            process.stdin.flush()
        return process.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _tell(left: Exchange, begun: Collection[str], code: int, alone: bool) -> None:
    """Tell what a worker that has ended could not tell of the arms that it had `begun`. ErnieQAError where no
    other worker is to go on."""
    lost = sorted(set(begun) - set(left.gather(begun)[0]))
    for name in lost if begun else [""]:
        if stuck := left.hung(name):
            print(indent(stuck.stack.rstrip(), "  "), file=sys.stderr)
    if (left.directory / _ERROR).is_file():
        raise ErnieQAError((left.directory / _ERROR).read_text(encoding="utf-8"))
    if not begun:
        stuck = left.hung("")
        said = (
            f"the process that runs the recipes began none and ended: exit code {code}; leave out --timeout"
        )
        raise ErnieQAError(stuck.why if stuck else said)
    for name in lost:
        if alone or name == REFERENCE:
            raise ErnieQAError(left.ended(name))
        if not (left.directory / "broke" / name).exists():
            print(f"ernie-qa: {left.ended(name)}", file=sys.stderr)


def _work() -> int:
    """A worker's whole life: it ends with the process that started it, which holds the other end of stdin."""
    share: _Share = pickle.load(sys.stdin.buffer)

    def follow() -> None:
        # sys.stdin would be locked when the interpreter ends
        os.read(0, 1)
        os._exit(BAD_INPUT)

    threading.Thread(target=follow, daemon=True).start()
    try:
        _run(share.plan, share.settings, share.exchange, share.timeout)
    except ErnieQAError as error:
        (share.exchange.directory / _ERROR).write_text(str(error), encoding="utf-8")
        return BAD_INPUT
    return OK


if __name__ == "__main__":
    sys.exit(_work())
