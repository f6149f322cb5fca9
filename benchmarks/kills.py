"""What commands leave that are killed while they run: the old or the new, from which the next run goes on?

    python benchmarks/kills.py --kills 120 --seed 1
    python benchmarks/kills.py --kills 10 --seed 2 --command accept --command report
    python benchmarks/kills.py --each --command accept --command card

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
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from itertools import cycle
from pathlib import Path
from typing import Any

from ernie_qa.baseline.bundle import bundles_in, load_bundle
from ernie_qa.baseline.lock import OWNER
from ernie_qa.baseline.noise import verify_noise
from ernie_qa.baseline.store import verify
from ernie_qa.card import FILES
from ernie_qa.cli import main as ernie_qa
from ernie_qa.durable import is_left
from ernie_qa.record import load_record
from ernie_qa.report.files import check_directory
from ernie_qa.together import HIDDEN, settle
from ernie_qa.toml_input import parse_json

IMPORTED = ("diffusers.pipelines.ernie_image", "lpips", "sdnq", "torchmetrics.image", "pytest")
CHANGING = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate")
SUITE = '''schema = 1
version = 1
summary = "one small poster"
steps = 2
guidance = 1.0
use_pe = false
[[cases]]
id = "one"
prompt = """A square poster with a plain red ground. A large yellow circle stands at the upper left, a small \
white star stands at the lower right. The word КОНЦЕРТ is written in large black letters along the bottom."""
width = 64
height = 64
seed = 1
focus = "a poster"
'''
RECIPE = """schema = 1
summary = "an INT8 transformer"
[components]
transformer = "sdnq"
[sdnq]
weights_dtype = "int8"
group_size = 0
dequantize_fp32 = false
use_quantized_matmul = true
[[activation.allow]]
layers = "transformer.adaLN_modulation.*"
when = "few_rows"
why = "it sees one row an image"
[[activation.allow]]
layers = "transformer.final_norm.linear"
when = "few_rows"
why = "it sees one row an image"
[gates.suite.limits."images.lpips_mean"]
max = 1.0
about = "suite"
source = "what is looked at here is files"
"""
OTHER = "sdnq-int8"
"""What another recipe makes of the model takes the place of what the first made."""


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


@dataclass(frozen=True)
class Command:
    """One command: its arguments, below which directory it writes, and what `state` of it there is there."""

    run: Callable[[list[str]], Any]
    arguments: Callable[[Path], list[str]]
    state: Callable[[Path], str]
    refused_once_done: bool = False


class Ground:
    """What all kills start from: an artifact, and two runs, the first accepted and on the card."""

    def __init__(self, place: Path) -> None:
        self.place = place
        (place / "suite.toml").write_text(SUITE, encoding="utf-8")
        self.recipe = str(place / "mine.toml")
        Path(self.recipe).write_text(RECIPE, encoding="utf-8")
        self.start = place / "start"
        self.start.mkdir()
        artifact = self.start / "artifact"
        for recipe, target in ((self.recipe, artifact), (OTHER, place / "other")):
            self.must(["quantize", "mini", "--recipe", recipe, "--output", str(target)])
        self.runs = [place / name for name in ("run1", "run2")]
        for run in self.runs:
            self.must([*self.gate(), "--report", str(run)])
        self.must(self.accept(self.runs[0], self.start))
        self.must(self.card(self.runs[0], self.start))

    def gate(self) -> list[str]:
        given = ["--recipe", self.recipe, "--artifact", f"mine={self.start / 'artifact'}"]
        suite = str(self.place / "suite.toml")
        return ["gate", "--model", "mini", *given, "--suite", suite, "--device", "cpu"]

    def accept(self, run: Path, place: Path) -> list[str]:
        given = ["--reason", str(run.name), "--by", "kills", "--recipe", self.recipe, "--loosen"]
        return ["baseline", "accept", str(run), *given, "--baselines", str(place / "baselines")]

    def card(self, run: Path, place: Path) -> list[str]:
        given = ["--license", run.name, "--overwrite", "--suite", str(self.place / "suite.toml")]
        return [
            "card",
            str(run),
            "--artifact",
            str(place / "artifact"),
            *given,
            "--recipe",
            self.recipe,
        ]

    def must(self, arguments: list[str]) -> None:
        log = self.place / "log"
        code = run_to_its_end(ernie_qa, arguments, log)
        assert code == 0, f"{arguments} ended with {code}: {log.read_text()}"

    def commands(self) -> dict[str, Command]:
        floor = ["calibrate", "mini", "--suite", str(self.place / "suite.toml"), "--device", "cpu"]
        floor += ["--change", "again", "--teacher-cases", "1"]
        project = ["--pyargs", "ernie_qa.gates", "-m", "mini", "-q", "--ernie-artifact"]
        project += [f"mine={self.start / 'artifact'}"]
        project += ["--ernie-recipe", self.recipe, "-p", "no:cacheprovider"]
        project += ["--ernie-suite", str(self.place / "suite.toml"), "--rootdir", str(self.place)]
        quantize = ["quantize", "mini", "--recipe", OTHER, "--overwrite", "--output"]
        return {
            "update": Command(
                ernie_qa,
                lambda at: [*self.gate(), "--update", "--baselines", str(at / "baselines")],
                self.updated,
            ),
            "accept": Command(ernie_qa, lambda at: self.accept(self.runs[1], at), self.accepted),
            "report": Command(
                ernie_qa,
                lambda at: [*self.gate(), "--report", str(at / "out")],
                self.reported,
                refused_once_done=True,
            ),
            "card": Command(ernie_qa, lambda at: self.card(self.runs[1], at), self.carded),
            "quantize": Command(ernie_qa, lambda at: [*quantize, str(at / "artifact")], self.quantized),
            "calibrate": Command(
                ernie_qa, lambda at: [*floor, "--baselines", str(at / "baselines")], self.calibrated
            ),
            "pytest": Command(
                tested,
                lambda at: [
                    *project,
                    f"--ernie-baselines={at / 'baselines'}",
                    "--ernie-update",
                    f"--ernie-report={at / 'out'}",
                ],
                lambda at: f"{self.updated(at)} bundle, {self.reported(at)} report",
                refused_once_done=True,
            ),
        }

    def accepted(self, at: Path) -> str:
        (found,) = verify(at / "baselines")
        runs = [load_record(run / "mine").hash for run in self.runs]
        number = runs.index(found.accepted["mine"].runs[0].record)
        assert found.accepted["mine"].why == self.runs[number].name
        if number == 0:
            self._as_it_was(at / "baselines" / "mini")
        return ("old", "new")[number]

    def updated(self, at: Path) -> str:
        self._as_it_was(at / "baselines" / "mini")
        bundles = [load_bundle(path) for path in bundles_in(at / "baselines")]
        assert all(set(one.records) == {"bf16", "mine"} for one in bundles)
        assert len(bundles) <= 1
        return "new" if bundles else "old"

    def calibrated(self, at: Path) -> str:
        self._as_it_was(at / "baselines" / "mini")
        return "new" if verify_noise(at / "baselines") else "old"

    def reported(self, at: Path) -> str:
        place = at / "out"
        if place.exists():
            settle(place)
        if not place.exists() or not list(place.iterdir()):
            check_directory(place)
            return "old"
        names = {entry.name for entry in place.iterdir()}
        assert {"bf16", "mine", "verdict.json", "verdict.md", "index.html"} <= names, names
        stored = parse_json((place / "verdict.json").read_text(encoding="utf-8"))
        hashes = {load_record(place / name).hash for name in ("bf16", "mine")}
        assert {verdict["record"] for verdict in stored["verdicts"]} <= hashes
        assert "</html>" in (place / "index.html").read_text(encoding="utf-8")
        return "new"

    def carded(self, at: Path) -> str:
        place = at / "artifact"
        settle(place, FILES)
        text = (place / "README.md").read_text(encoding="utf-8")
        (number,) = [n for n, run in enumerate(self.runs) if f"license: {run.name}\n" in text]
        for name in ("bf16", "mine"):
            assert load_record(place / "metrics" / name) == load_record(self.runs[number] / name)
        assert all(file.read_bytes()[8:12] == b"WEBP" for file in (place / "comparison").glob("*.webp"))
        return ("old", "new")[number]

    def quantized(self, at: Path) -> str:
        place = at / "artifact"
        if not place.exists():
            # the next run gives it its name back
            place = at / ".artifact.ernie-qa-replaced"
            assert tree(place) == tree(self.start / "artifact")
            return "old, moved aside"
        return {tree(self.start / "artifact"): "old", tree(self.place / "other"): "new"}[tree(place)]

    def _as_it_was(self, place: Path) -> None:
        assert tree(place) == tree(self.start / "baselines" / "mini"), f"{place} was changed"


def tree(place: Path) -> str:
    """A hash over every file below `place`."""
    found = hashlib.sha256()
    for file in sorted(path for path in place.rglob("*") if path.is_file()):
        found.update(f"{file.relative_to(place)}\0{file.stat().st_size}\0".encode() + file.read_bytes())
    return found.hexdigest()


def tested(arguments: Sequence[str]) -> int:
    """pytest, as its own command runs it."""
    import pytest

    return int(pytest.main(list(arguments)))


def hidden_in(place: Path) -> list[str]:
    """What a command leaves only when it is killed."""
    marks = (".ready", ".previous", ".ernie-qa-unfinished", ".ernie-qa-replaced")
    return [
        str(path.relative_to(place))
        for path in place.rglob(".*")
        if is_left(path.name) or path.name in (HIDDEN, OWNER) or path.name.endswith(marks)
    ]


def started(
    run: Callable[[list[str]], Any], arguments: list[str], log: Path, below: Path | None = None, n: int = 0
) -> int:
    """The process that runs it, in a group of its own; it kills itself before the `n`-th call that changes a
    file `below`."""
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        os.setpgid(0, 0)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(log.parent)
        sys.argv = ["pytest" if run is tested else "ernie-qa", *arguments]
        if below:
            counting(str(below), n, log.with_name("calls"))
        code = int(run(arguments))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 99
    except BaseException as problem:
        print(repr(problem), flush=True)
    finally:
        sys.stdout.flush()
        os._exit(code)


def counting(below: str, n: int, told: Path) -> None:
    """Count the calls of this process that change a file `below` a directory; `told` has how many so far."""
    count, tell, fsync = [0], os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), os.fsync

    def counted(name: str, path: object) -> None:
        if str(path).startswith(below):
            count[0] += 1
            os.pwrite(tell, f"{count[0]} {name}".ljust(40).encode(), 0)
            if count[0] == n:
                os.killpg(0, signal.SIGKILL)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGING or (
            event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and arguments[0] != tell
        ):
            counted(event, arguments[0])

    def flushed(handle: int) -> None:
        counted("os.fsync", Path(f"/proc/self/fd/{handle}").readlink())
        fsync(handle)

    os.fsync = flushed
    sys.addaudithook(hook)


def run_to_its_end(run: Callable[[list[str]], Any], arguments: list[str], log: Path) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(started(run, arguments, log), 0)[1])


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
