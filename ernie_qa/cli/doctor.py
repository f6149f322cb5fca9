"""`ernie-qa doctor`: whether this machine is ready, and what should change."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict

from ernie_qa.cli.exit_codes import BAD_INPUT, OK


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
    from ernie_qa.report.doctor import lines

    findings = examine(options.device)
    ready = all(finding.state is not State.MISSING for finding in findings)
    if options.json:
        document = {"schema": 1, "ready": ready, "findings": [asdict(finding) for finding in findings]}
        print(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        print("\n".join(lines(findings, colour=colour)))
    return OK if ready else BAD_INPUT
