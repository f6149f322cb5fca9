"""BF16 drawn by another process, for what a process has from its beginning to its end."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from os import environ
from pathlib import Path
from threading import Timer

from ernie_qa.calibration.subject import Subject
from ernie_qa.errors import UnavailableError
from ernie_qa.record import Record, load_record

SECONDS = 3600
"""What it may take, at most."""
STEP = "."
"""The line that `--steps` prints after each step."""


def drawn_elsewhere(of: Subject, environment: Mapping[str, str], step: Callable[[], None]) -> Record:
    """What a process with this beside its environment draws; `step` is called for each of its steps.

    UnavailableError where it ends in an error, or takes longer than `SECONDS`.
    """
    with tempfile.TemporaryDirectory(prefix="ernie_qa-calibrate-") as directory:
        place = Path(directory) / "record"
        command = [sys.executable, "-P", "-m", "ernie_qa.cli", "calibrate", str(of.model.path)]
        command += ["--suite", str(of.suite.path), "--device", of.device, "--record", str(place), "--steps"]
        command += ["--cases", str(len(of.drawn.cases)), "--teacher-cases", str(of.teacher_cases)]
        code, said = followed(command, environment, step)
        if code:
            raise UnavailableError(f"its process ended in an error: {said or f'exit code {code}'}")
        record = load_record(place)
        # the directory goes, and the tape with it
        assert record.trajectories is not None
        tape = type(record.trajectories).from_bytes(record.trajectories.content())
        return replace(record, trajectories=tape)


def followed(command: list[str], environment: Mapping[str, str], step: Callable[[], None]) -> tuple[int, str]:
    """The exit code of a command, and the last line that it said on stderr."""
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            command, env={**environ, **environment}, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        timer = Timer(SECONDS, process.kill)
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line == f"{STEP}\n":
                    step()
            code = process.wait()
        finally:
            timer.cancel()
            process.kill()
        errors.seek(0)
        lines = errors.read().decode(errors="replace").strip().splitlines()
    return code, next(iter(lines[-1:]), "")
