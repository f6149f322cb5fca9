"""One command in a process of its own, which may kill itself before a call that changes a file."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

CHANGING = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate")


def tested(arguments: Sequence[str]) -> int:
    """pytest, as its own command runs it."""
    import pytest

    return int(pytest.main(list(arguments)))


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
