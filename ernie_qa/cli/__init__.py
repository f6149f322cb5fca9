"""The command line, a module a command: each adds its parser in `add` and returns an exit code when run."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from ernie_qa.cli import (
    ab,
    baseline,
    calibrate,
    capsule,
    card,
    diagnose,
    doctor,
    explain,
    fits,
    gate,
    listings,
    quantize,
    repair,
    replica,
    report,
    selftest,
    show,
    sweep,
)
from ernie_qa.cli.exit_codes import BAD_INPUT, INTERRUPTED, OK
from ernie_qa.cli.parser import Parser
from ernie_qa.errors import ErnieQAError
from ernie_qa.toml_input import one_line, quoted

COMMANDS = (
    gate,
    ab,
    baseline,
    calibrate,
    capsule,
    card,
    diagnose,
    doctor,
    explain,
    fits,
    listings,
    quantize,
    repair,
    replica,
    report,
    selftest,
    show,
    sweep,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Errors are one line on stderr, an interruption too."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except ErnieQAError as error:
        print(f"ernie-qa: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("ernie-qa: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # the reader of a pipe has seen enough; what is still buffered must not raise again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as problem:
        where = quoted(str(problem.filename)) + ": " if problem.filename else ""
        print(one_line(f"ernie-qa: {where}{problem.strerror or problem}"), file=sys.stderr)
        return BAD_INPUT
    return code


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="ernie-qa",
        description="Is a quantized ERNIE-Image pipeline still good, and is it really running quantized?",
        epilog="first steps:\n"
        "  ernie-qa doctor                           is this machine ready\n"
        "  ernie-qa recipes                          what can be gated\n"
        "  ernie-qa gate --recipe sdnq-int8          gate one recipe on the shipped miniature\n"
        "  ernie-qa gate --help                      everything that a gate can be told",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"ernie-qa {version('ernie-qa')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    return parser
