"""How far a long command is: a bar on a terminal, a line from time to time in a log."""

import os
import pty

import pytest

from ernie_qa.cli import bar as bars
from ernie_qa.cli.bar import progress_bar


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(bars, "time", found)
    return found


def test_a_log_gets_a_line_from_time_to_time(clock: Clock, capfd: pytest.CaptureFixture[str]) -> None:
    with progress_bar("picture", 40, 10) as bar:
        for seconds, recipe in (
            (1, "bf16"),
            (29, "bf16"),
            (31, "sdnq-int8"),
            (59, "sdnq-int8"),
            (95, "bnb-nf4"),
        ):
            clock.now = seconds
            bar.on(1, recipe)
        bar.say("no such kernel")
    assert capfd.readouterr().err.splitlines() == [
        "ernie-qa: sdnq-int8: 13 of 40 pictures after 0:31",
        "ernie-qa: bnb-nf4: 15 of 40 pictures after 1:35",
        "ernie-qa: no such kernel",
    ]


def test_bytes_are_told_as_such(clock: Clock, capfd: pytest.CaptureFixture[str]) -> None:
    with progress_bar("B") as bar:
        clock.now = 45
        bar.at(12_340_000_000, 31_400_000_000, "transformer")
    assert capfd.readouterr().err == "ernie-qa: transformer: 12.3 of 31.4 GB after 0:45\n"


def test_a_short_command_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with progress_bar("step") as bar:
        bar.at(1, 2, "loading")
    assert capfd.readouterr().err == ""


def test_a_terminal_gets_a_bar(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    monkeypatch.setattr(bars.os, "dup", lambda _: theirs)
    clock.now = 100
    with progress_bar("picture", 40, 10) as bar:
        bar.on(1, "sdnq-int8")
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert "sdnq-int8:  28%" in shown
    assert "11/40" in shown
    assert "ernie-qa:" not in shown
