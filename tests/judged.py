"""What a report says of a run, without what tells one run from another."""

import json
from pathlib import Path
from typing import Any


def verdicts(out: Path) -> list[dict[str, Any]]:
    """Recipe, status and checks of each verdict in a report; of what is timed, no figure."""
    found = json.loads((out / "verdict.json").read_text(encoding="utf-8"))["verdicts"]
    return [{key: one[key] for key in ("recipe", "status")} | {"checks": _checks(one)} for one in found]


def _checks(verdict: dict[str, Any]) -> list[tuple[str, str, Any]]:
    return [
        (check["name"], check["status"], None if check["rung"] == "cost" else check["measured"])
        for check in verdict["checks"]
    ]
