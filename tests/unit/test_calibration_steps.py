"""How far calibrating is, here and in another process."""

import sys

from ernie_qa.calibration.process import followed
from ernie_qa.calibration.steps import Steps


def test_what_ends_early_or_takes_more_moves_nothing_after_it() -> None:
    seen: list[tuple[str, int, int]] = []
    step = Steps({"one": 2, "two": 3, "three": 1}, lambda *told: seen.append(told))
    step.begin("one")
    for _ in range(3):
        step()
    step.begin("two")
    step()
    step.begin("three")
    assert seen == [
        *(("one", done, 6) for done in (0, 1, 2, 2)),
        *(("two", done, 6) for done in (2, 3)),
        ("three", 5, 6),
    ]


def test_a_process_is_followed_and_its_last_words_are_kept() -> None:
    told: list[None] = []
    code = "import os, sys; print('.'); print('..'); print('.'); print('first', file=sys.stderr); "
    code += "sys.exit(os.environ['SAID'])"
    ended = followed([sys.executable, "-c", code], {"SAID": "the last line"}, lambda: told.append(None))
    assert ended == (1, "the last line")
    assert len(told) == 2
