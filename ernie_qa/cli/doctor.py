"""`ernie-qa doctor`: whether this machine is ready, and what should change."""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ernie_qa.doctor import Finding

WORDS = {"ok": "ok", "advice": "advice", "missing": "MISSING"}
COLOURS = {"ok": "32", "advice": "33;1", "missing": "31;1"}
NOT_READY = 2
STATE_WIDTH, TOPIC_WIDTH = 9, 14


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    doctor = commands.add_parser(
        "doctor",
        help="say whether this machine is ready, and what should change",
        description="Look at what the gates need and at what slows them: packages, GPU, CPU, threads,\n"
        "LPIPS's weights, compilation, caches, the allocator, the disk. Nothing is\n"
        "fetched or changed.\n\n"
        "  ok       nothing to do\n"
        "  advice   the gates run, and the line below says what to change and why\n"
        "  MISSING  a gate cannot run here, or would refuse to",
        epilog="examples:\n"
        "  ernie-qa doctor\n"
        "      for the device that `ernie-qa gate` would choose here\n"
        "  ernie-qa doctor --device cuda && pytest -m gpu\n"
        "      stop a runner without a usable GPU before it loads anything\n"
        "  ernie-qa doctor --json > doctor.json\n"
        "      keep the findings, beside a report or for a bug\n\n"
        "exit codes: 0 nothing is missing, 2 something is",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    doctor.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        help="where the gates would run (cuda where there is a usable GPU, else cpu)",
    )
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON instead of the lines")
    doctor.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    from ernie_qa.doctor import State, examine

    findings = examine(options.device)
    ready = all(finding.state is not State.MISSING for finding in findings)
    if options.json:
        document = {"schema": 1, "ready": ready, "findings": [asdict(finding) for finding in findings]}
        print(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        print("\n".join(lines(findings, colour=colour)))
    return 0 if ready else NOT_READY


def lines(findings: Sequence[Finding], *, colour: bool = False, width: int = 80) -> list[str]:
    """A line or more a finding, its advice below it, and a summary."""
    shown = [line for finding in findings for line in _told(finding, colour, width)]
    return [*shown, "", *_wrapped(_summary(findings), width, "", "")]


def _told(finding: Finding, colour: bool, width: int) -> Iterator[str]:
    first = f"{WORDS[finding.state]:<{STATE_WIDTH}}{finding.topic:<{TOPIC_WIDTH}}"
    below = " " * STATE_WIDTH
    top, *rest = _wrapped(finding.found, width, first, below + " " * TOPIC_WIDTH)
    yield _paint(top, finding.state) if colour else top
    yield from rest
    if finding.advice:
        yield from _wrapped(finding.advice, width, below, below)


def _wrapped(text: str, width: int, first: str, others: str) -> list[str]:
    # a path or a setting stays whole, to be copied
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=others,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _summary(findings: Sequence[Finding]) -> str:
    topics = {state: [f.topic for f in findings if f.state == state] for state in WORDS}
    told = f"not ready, missing: {', '.join(topics['missing'])}" if topics["missing"] else "ready"
    if topics["advice"]:
        told += f"; should change: {', '.join(topics['advice'])}"
    return told


def _paint(line: str, state: str) -> str:
    word = WORDS[state]
    return f"\x1b[{COLOURS[state]}m{word}\x1b[0m{line[len(word) :]}"
