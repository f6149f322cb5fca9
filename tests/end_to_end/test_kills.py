"""Commands that are killed at random: what docs/crash_safety.md tells of hundreds, of ten."""

import re
import subprocess
import sys
from pathlib import Path

KILLS = Path(__file__).parents[2] / "benchmarks" / "kills"


def test_ten_kills_lose_nothing() -> None:
    command = [sys.executable, str(KILLS), "--kills", "10", "--seed", "3"]
    for name in ("accept", "report", "card", "quantize"):
        command += ["--command", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("kills: 10, and nothing lost\n")
    rows = re.findall(r"^\| (\w+) \| [\d.]+ \| (\d+) \| (\d+) \| (\d+) \|", done.stdout, re.MULTILINE)
    assert [name for name, *_ in rows] == ["accept", "report", "card", "quantize"]
    assert sum(int(moment) + int(call) for *_, moment, call in rows) == 10
    assert all(int(calls) > 20 for _, calls, *_ in rows)
