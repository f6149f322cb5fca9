"""What commands leave that are killed while they run: the old or the new, from which the next run goes on?

    python benchmarks/kills --kills 120 --seed 1
    python benchmarks/kills --kills 10 --seed 2 --command accept --command report
    python benchmarks/kills --each --command accept --command card

Each command really runs, on the shipped miniature and one small case, in a process of its own: a fork of this
one, so that torch is imported once. It is killed with all of its process group (SIGKILL), in turn at a moment
drawn uniformly from how long it takes undisturbed, and just before a call drawn uniformly from those that
change a file in its output (open for writing, mkdir, rename, remove, rmdir, fsync), which an audit hook
counts. Then it must hold, of a copy, that everything accepted verifies and that the output is the old or
the new and nothing else; and, where it was killed, that the same command succeeds and leaves nothing hidden.

Exit code 1 where something did not hold: the place is then kept and named.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from importlib import import_module
from itertools import cycle
from pathlib import Path

from ground import Command, Ground
from process import run_to_its_end, started

from ernie_qa.baseline.lock import OWNER
from ernie_qa.cli import main as ernie_qa
from ernie_qa.durable import is_left
from ernie_qa.together import HIDDEN

IMPORTED = ("diffusers.pipelines.ernie_image", "lpips", "sdnq", "torchmetrics.image", "pytest")


@dataclass
class Found:
    """What was found of one command's kills."""

    seconds: float = 0.0
    calls: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    hidden: int = 0
    told: int = 0
    late: int = 0
    at: Counter[str] = field(default_factory=Counter)


def hidden_in(place: Path) -> list[str]:
    """What a command leaves only when it is killed."""
    marks = (".ready", ".previous", ".ernie-qa-unfinished", ".ernie-qa-replaced")
    return [
        str(path.relative_to(place))
        for path in place.rglob(".*")
        if is_left(path.name) or path.name in (HIDDEN, OWNER) or path.name.endswith(marks)
    ]


def killed(command: Command, at: Path, log: Path, found: Found, n: int, random_: random.Random) -> bool:
    """Run it and kill it before its `n`-th call, for 0 at a moment; whether it was still running."""
    child = started(command.run, command.arguments(at), log, at if n else None, n)
    if not n:
        time.sleep(random_.uniform(0, found.seconds))
        try:
            os.killpg(child, signal.SIGKILL)
        except ProcessLookupError:
            # not yet in a group of its own
            os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL), f"ended with {code}: {log.read_text()}"
    if code and n:
        found.at[log.with_name("calls").read_text().split()[1]] += 1
    return code != 0


def looked_at(ground: Ground, command: Command, at: Path, log: Path, found: Found) -> None:
    """What was left, of a copy; then the same command again."""
    found.hidden += bool(hidden_in(at))
    copy = at.with_name("copy")
    shutil.copytree(at, copy, symlinks=True)
    check = ["baseline", "verify", "--baselines", str(copy / "baselines")]
    code = run_to_its_end(ernie_qa, check, log)
    if code:
        assert "--finish" in log.read_text(), log.read_text()
        found.told += 1
        code = run_to_its_end(ernie_qa, [*check, "--finish"], log)
        assert code == 0, log.read_text()
    state = command.state(copy)
    found.states[state] += 1
    code = run_to_its_end(command.run, command.arguments(at), log)
    if command.refused_once_done and state.endswith(("new", "new report")):
        assert code, "a whole report was written over"
        assert "not empty; name a new" in log.read_text(), log.read_text()
    else:
        assert code == 0, f"again: {code}: {log.read_text()}"
    assert not hidden_in(at), hidden_in(at)
    shutil.rmtree(copy)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=120, help="so many in all (120)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    parser.add_argument("--each", action="store_true", help="before each call once, and at no other moment")
    parser.add_argument("--command", action="append", help="only this one; may be repeated (all)")
    options = parser.parse_args()
    # what takes seconds to import, once for all
    for name in IMPORTED:
        import_module(name)

    random_ = random.Random(options.seed)
    place = Path(tempfile.mkdtemp(prefix="ernie_qa-kills-"))
    log = place / "log"
    ground = Ground(place)
    commands = ground.commands()
    chosen = options.command or list(commands)
    results = {name: Found() for name in chosen}
    for name, found in results.items():
        at = place / "at"
        shutil.copytree(ground.start, at, symlinks=True)
        began = time.monotonic()
        child = started(commands[name].run, commands[name].arguments(at), log, at, -1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        found.seconds = time.monotonic() - began
        assert code == 0, f"{name}, undisturbed: {code}: {log.read_text()}"
        assert commands[name].state(at).startswith("new"), name
        found.calls = int(log.with_name("calls").read_text().split()[0])
        shutil.rmtree(at)
    each = [(name, n) for name, found in results.items() for n in range(1, found.calls + 1)]
    drawn = (
        (name, random_.randint(1, results[name].calls) if by_call else 0)
        for by_call in cycle((True, False))
        for name in chosen
    )
    for name, n in each if options.each else drawn:
        if not options.each and sum(found.kills.total() for found in results.values()) >= options.kills:
            break
        at = place / "at"
        shutil.copytree(ground.start, at, symlinks=True)
        found = results[name]
        try:
            if killed(commands[name], at, log, found, n, random_):
                found.kills["call" if n else "time"] += 1
                looked_at(ground, commands[name], at, log, found)
            else:
                found.late += 1
        except Exception as problem:
            print(
                f"{name}, killed {f'before call {n}' if n else 'at a moment'}: {problem!r}; kept is {at}",
                file=sys.stderr,
            )
            return 1
        shutil.rmtree(at)
    told(results)
    shutil.rmtree(place)
    return 0


def told(results: dict[str, Found]) -> None:
    """Print what was found as a table in Markdown: how long a command takes, how many calls change files, how
    often it was killed, what was there then, and how often hidden files were left and `verify` said so."""
    print("| command | s | calls | killed at a moment | before a call | found | something left | told |")
    print("|---|---:|---:|---:|---:|---|---:|---:|")
    for name, found in results.items():
        states = ", ".join(f"{count} {state}" for state, count in sorted(found.states.items()))
        kills = f"{found.kills['time']} | {found.kills['call']} | {states}"
        print(f"| {name} | {found.seconds:.1f} | {found.calls} | {kills} | {found.hidden} | {found.told} |")
    calls = sum((found.at for found in results.values()), Counter[str]())
    print("\nbefore: " + ", ".join(f"{count} {call}" for call, count in calls.most_common()))
    print(f"ended before the kill, and not counted: {sum(found.late for found in results.values())}")
    print(f"kills: {sum(found.kills.total() for found in results.values())}, and nothing lost")


if __name__ == "__main__":
    sys.exit(main())
