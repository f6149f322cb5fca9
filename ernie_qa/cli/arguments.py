"""Options that several commands have, with one meaning and one help each."""

from __future__ import annotations

from argparse import ArgumentParser

from ernie_qa.errors import InputError
from ernie_qa.watchdog import MOST


def add_model(command: ArgumentParser) -> None:
    """The BF16 model, `mini` where none is named."""
    command.add_argument(
        "--model",
        default="mini",
        metavar="MODEL",
        help="a shipped name, a diffusers directory or a hub id (mini)",
    )


def add_suite(command: ArgumentParser) -> None:
    """The suite, None for the model's own."""
    command.add_argument(
        "--suite", metavar="SUITE", help="a shipped name or a TOML file (the one that the model names)"
    )


def add_device(command: ArgumentParser) -> None:
    """Where to run, None for wherever there is a GPU."""
    command.add_argument(
        "--device", choices=("cpu", "cuda"), help="where to run (cuda where there is a usable GPU, else cpu)"
    )


def add_session(command: ArgumentParser) -> None:
    """How arms are run."""
    command.add_argument(
        "--all-rungs",
        action="store_true",
        help="measure every rung, even where a required check failed before a picture was drawn",
    )
    add_any_allocator(command)
    command.add_argument(
        "--timeout",
        type=int,
        default=0,
        metavar="SECONDS",
        help="end a recipe of which one step, as loading or a picture, takes longer, tell where it hung, "
        "and go on with the next (0: wait for ever)",
    )


def check_timeout(seconds: int) -> None:
    """InputError where `--timeout` is no time that a step may take."""
    if not 0 <= seconds <= MOST:
        raise InputError(f"--timeout {seconds}: needed are seconds, {MOST} at most, or 0 for none")


def add_any_allocator(command: ArgumentParser) -> None:
    """Whether settings under which no peak can be compared are taken."""
    command.add_argument(
        "--any-allocator",
        action="store_true",
        help="measure even under allocator settings that let reserved memory run away",
    )


def add_resume(command: ArgumentParser) -> None:
    """Whether what ends before it is whole can be gone on with."""
    command.add_argument(
        "--resume",
        action="store_true",
        help="keep each recipe's record until the run has ended; the same command then goes on where one was "
        "killed, and draws nothing again",
    )
