"""What the doctor says, as a person reads it."""

import re
from pathlib import Path

import pytest

from ernie_qa.cli import main
from ernie_qa.doctor import Finding, State, examine
from ernie_qa.report.doctor import lines

SOME = (
    Finding("packages", State.OK, "torch 2.14.1, " * 12),
    Finding(
        "lpips", State.ADVICE, "not yet in " + "/a/long/path" * 8, "Fetch them: " + "a gate needs them " * 9
    ),
    Finding("device", State.MISSING, "no usable GPU", "Make it work."),
)


def test_lines_fit_80_columns_and_keep_a_path_whole() -> None:
    shown = lines(SOME)
    assert [line for line in shown if len(line) > 80] == [" " * 23 + "/a/long/path" * 8]
    assert "\x1b" not in "".join(shown)


def test_advice_stands_below_its_topic() -> None:
    shown = lines(SOME)
    assert shown[-4:-2] == ["MISSING  device        no usable GPU", " " * 9 + "Make it work."]
    assert shown[-1] == "not ready, missing: device; should change: lpips"
    assert lines(SOME[:2])[-1] == "ready; should change: lpips"
    assert lines(SOME[:1])[-1] == "ready"


def test_colour_changes_nothing_but_the_colour() -> None:
    coloured = lines(SOME, colour=True)
    assert [re.sub(r"\x1b\[[\d;]*m", "", line) for line in coloured] == lines(SOME)
    assert coloured != lines(SOME)


def test_help_has_an_example_and_the_exit_codes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit, match="0"):
        main(["doctor", "--help"])
    text = capsys.readouterr().out
    assert "ernie-qa doctor --device cuda && pytest -m gpu" in text
    assert "exit codes: 0 nothing is missing, 2 something is" in text
    assert max(map(len, text.splitlines())) <= 80


def test_every_line_is_explained_in_the_docs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([a-z ]+) \|", page, flags=re.MULTILINE)
    assert {finding.topic for finding in examine("cpu")} | {"torch", "tensor cores"} <= set(rows)
