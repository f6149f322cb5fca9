"""When the text rung reads, and what it does where it cannot."""

import sys
from collections.abc import Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from threading import Semaphore
from time import sleep
from typing import Any

import numpy as np
import pytest

from ernie_qa.drawing import Drawn
from ernie_qa.fidelity.text import engines
from ernie_qa.fidelity.text.engines import rapidocr, tesseract
from ernie_qa.record import Record
from ernie_qa.rungs import Arm, text
from ernie_qa.suite import Case, Suite
from ernie_qa.verdict import Status
from tests.words import (
    BF16,
    CYRILLIC,
    FINGERPRINT,
    LATIN,
    LIMIT,
    SUITE,
    arm,
    drawn,
    gated,
    judge,
    measured,
    record,
)

observing = import_module("ernie_qa.observe")
BLANK = np.full((112, 152, 3), 90, np.uint8)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ERNIE_QA_CACHE", str(tmp_path / "cache"))


def test_real_pictures_are_read_and_judged() -> None:
    bf16 = record(measured(arm(), drawn()))
    found = bf16.figures["text"]
    assert (found["expected"], found["why"]) == (2, None)
    assert found["engines"] == {
        "lines": rapidocr.version(),
        "rapidocr": rapidocr.version(),
        "tesseract": tesseract.version(),
    }
    assert found["cases"].keys() == {LATIN, CYRILLIC}
    (latin,), (cyrillic,) = (found["cases"][case]["strings"] for case in (LATIN, CYRILLIC))
    assert latin == {
        "expected": "LIGHT", "engine": "rapidocr", "read": "LIGHT",
        "errors": 0, "length": 5, "words": 1, "found": 1,
    }  # fmt: skip
    assert (cyrillic["engine"], cyrillic["errors"]) == ("tesseract", 0)

    same = judge(record(measured(arm(), drawn()), bf16), bf16, gated(cer_rise_max=0.0, lines_lost_max=0.0))
    assert {check.status for check in same.values() if check.required} == {Status.PASS}
    worse = judge(record(measured(arm(), drawn(L=BLANK)), bf16), bf16, gated(cer_rise_mean=0.49))
    check = worse["text.cer_rise_mean"]
    assert (check.status, check.measured) == (Status.FAIL, 0.5)
    assert f"worst is {LATIN} with 1" in check.message
    assert worse[f"text.cer[{LATIN}]"].measured == 1.0
    assert worse[f"text.cer[{CYRILLIC}]"].measured == 0.0


def test_random_weights_are_not_read() -> None:
    found = measured(arm(weights="random"), drawn())
    assert (found["cases"], found["engines"]) == ({}, {})
    (check,) = judge(record(found, BF16, "random"), BF16, LIMIT).values()
    assert (check.name, check.status) == ("text.cer_rise_mean", Status.NOT_APPLICABLE)
    assert "random" in check.message


def test_a_suite_without_texts_is_not_applicable(monkeypatch: pytest.MonkeyPatch) -> None:
    # nor is any engine asked for
    monkeypatch.setattr(engines, "engine_for", None)
    silent = measured(arm(replace(SUITE, cases=SUITE.cases[2:])), drawn()[2:])
    (check,) = judge(record(silent, BF16), BF16, LIMIT).values()
    assert (check.status, check.message) == (Status.NOT_APPLICABLE, "suite few expects no text")


@pytest.mark.parametrize(
    ("package", "command"),
    [
        ("tesserocr", "pip install 'ernie-qa[text]' && apt-get install tesseract-ocr-rus"),
        ("rapidocr", "pip install 'ernie-qa[text]'"),
        ("rapidfuzz", "pip install 'ernie-qa[text]'"),
    ],
)
def test_a_missing_engine_is_not_comparable_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, package: str, command: str
) -> None:
    monkeypatch.setattr(engines, "_known", engines._known.__wrapped__)
    monkeypatch.setattr(rapidocr, "_engine", rapidocr._engine.__wrapped__)
    monkeypatch.setitem(sys.modules, package, None)
    found = record(measured(arm(), drawn()), BF16)
    (check,) = judge(found, BF16, LIMIT).values()
    assert (check.name, check.status, check.required) == (
        "text.cer_rise_mean",
        Status.NOT_COMPARABLE,
        True,
    )
    assert package in check.message
    assert "two scripts" not in check.message
    assert command in check.message
    # a recipe without such a limit is told, and not held up
    (check,) = judge(found, BF16, gated()).values()
    assert (check.name, check.status, check.required) == ("text.cer", Status.NOT_COMPARABLE, False)
    assert command in check.message


def test_a_text_that_no_engine_can_read_is_not_comparable() -> None:
    mixed = replace(SUITE.cases[0], prompt="the words Сity", text=("Сity",))
    found = record(measured(arm(replace(SUITE, cases=(mixed,))), drawn()[:1]), BF16)
    (check,) = judge(found, BF16, LIMIT).values()
    assert check.status is Status.NOT_COMPARABLE
    assert (
        'no engine can read "Сity": rapidocr does not know с; tesseract does not know i t y' in check.message
    )


class Slow:
    """A rung that begins something on every picture, which ends some time after the next warm-up began."""

    NAME = "slow"

    def __init__(self) -> None:
        self.warm_ups = Semaphore(0)
        self.begun: list[Future[bool]] = []
        self.waited: list[bool] = []

    def measure(self, of: Arm) -> Generator[None, tuple[Drawn, ...], Mapping[str, Any]]:
        with ThreadPoolExecutor(1) as pool:

            def begin(one: Drawn) -> Future[bool]:
                self.begun.append(pool.submit(self.work))
                return self.begun[-1]

            of.after.append(begin)
            pictures = yield
            return {"pictures": len(pictures), "beside": [one.result() for one in self.begun]}

    def work(self) -> bool:
        beside = self.warm_ups.acquire(timeout=20)
        sleep(0.05)
        return beside


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    """Observing as on a GPU that draws the miniature's accepted pictures, with this rung and a slow one."""
    rung, pictures = Slow(), {one.case: one for one in drawn()}

    def draw(pipe: Any, case: Case, suite: Suite, prompt: str | None) -> Drawn:
        rung.waited.append(all(one.done() for one in rung.begun))
        return pictures[case.id]

    monkeypatch.setattr(observing, "draw", draw)
    monkeypatch.setattr(observing, "warm_up", lambda *_, **__: rung.warm_ups.release())
    monkeypatch.setattr(observing, "take_fingerprint", lambda place: FINGERPRINT)
    monkeypatch.setattr(observing, "rungs", lambda: (rung, text))
    return rung


def observed(of: Arm, slow: Slow) -> Record:
    observation = observing.Observation(of)
    while observation.left:
        observation.warm_up()
        observation.draw()
    # the last picture has no warm-up after it
    slow.warm_ups.release()
    return observation.finish()


def test_on_a_gpu_reading_runs_beside_the_warm_up_and_ends_before_the_next_picture(
    monkeypatch: pytest.MonkeyPatch, slow: Slow
) -> None:
    read: list[str] = []
    strings = text._strings
    monkeypatch.setattr(
        text, "_strings", lambda case, *others: read.append(case.id) or strings(case, *others)
    )
    of = arm(device="cuda")
    found = observed(of, slow)
    assert len(of.after) == 2
    assert slow.waited == [True, True, True]
    assert found.figures["slow"] == {"pictures": 3, "beside": (True, True, True)}
    # each once, and what has no text never
    assert read == [LATIN, CYRILLIC]
    cases = found.figures["text"]["cases"]
    assert [one["errors"] for case in cases.values() for one in case["strings"]] == [0, 0]


def test_on_a_cpu_nothing_is_read_between_pictures() -> None:
    of = arm()
    measuring = text.measure(of)
    next(measuring)
    assert of.after == []
    measuring.close()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_engine_that_breaks_leaves_the_other_rungs_figures(
    monkeypatch: pytest.MonkeyPatch, slow: Slow, device: str
) -> None:
    def broken(lines: object) -> list[str]:
        raise RuntimeError("out of ink")

    monkeypatch.setattr(tesseract, "read", broken)
    slow.warm_ups.release(9)
    found = observed(arm(device=device), slow)
    assert found.figures["slow"]["pictures"] == 3
    assert found.figures["text"]["why"] == "reading broke off: RuntimeError: out of ink"
    assert found.figures["text"]["cases"] == {}
    ours = replace(found, reference=BF16.hash)
    check = judge(ours, BF16, LIMIT)["text.cer_rise_mean"]
    assert (check.status, check.required) == (Status.NOT_COMPARABLE, True)
    assert "out of ink" in check.message
