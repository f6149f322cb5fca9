"""Pairs of pictures taken through the text rung: measured, recorded and judged as real ones are; and the
pairs whose words differ, or do not, that it has to tell apart."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from ernie_qa.drawing import Drawn
from ernie_qa.faults import words
from ernie_qa.fingerprint import take_fingerprint
from ernie_qa.models.find import Model
from ernie_qa.recipe import Gate, Limit, find_recipe
from ernie_qa.record import Identity, ModelIdentity, Record
from ernie_qa.rungs import Arm, Evidence, text
from ernie_qa.suite import Case, Suite
from ernie_qa.verdict import Check, Status
from tests.posters import SIZES, Line, Poster, jpeg, noisy, poster, shifted

LIMITS = {
    "text.lines_lost_max": Limit(0.0, None, "a test"),
    "text.cer_rise_mean": Limit(0.01, None, "a test"),
}
CASE = "poster"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two pictures of which the `texts` are expected, and whether the rung has to tell them apart."""

    script: str
    name: str
    texts: tuple[str, ...]
    bf16: np.ndarray
    candidate: np.ndarray
    caught: bool


def told(texts: Sequence[str], bf16: np.ndarray, candidate: np.ndarray) -> dict[str, Check]:
    """What the rung says of the candidate beside BF16's picture: check name -> check."""
    height, width = bf16.shape[:2]
    case = Case(CASE, "a poster", width, height, 1, "words", tuple(texts))
    suite = Suite("posters", 1, "one poster", 1, 1.0, False, (case,), Path("posters.toml"))
    reference = _record("bf16", suite, bf16, None)
    record = _record("sdnq-int8", suite, candidate, reference)
    recipe = replace(find_recipe("sdnq-int8"), gates={suite.name: Gate(LIMITS)})
    return {check.name: check for check in text.judge(Evidence(record, reference, recipe))}


def failed(checks: dict[str, Check]) -> bool:
    """Whether the verdict would be a failure; AssertionError where a limit was not judged at all."""
    statuses = {checks[name].status for name in LIMITS}
    assert statuses <= {Status.PASS, Status.FAIL}, [str(check) for check in checks.values()]
    return Status.FAIL in statuses


def _record(recipe: str, suite: Suite, pixels: np.ndarray, reference: Record | None) -> Record:
    """What the real observe does around this rung."""
    found = find_recipe(recipe)
    model = Model(Path("model"), ModelIdentity("toy", None, "trained", "0" * 64), (), None)
    pipe = SimpleNamespace(_execution_device=torch.device("cpu"))
    measuring = text.measure(Arm(pipe, model, found, suite, reference))
    next(measuring)
    try:
        measuring.send((Drawn(CASE, pixels, 0, 0.1, {}, {}),))
    except StopIteration as stop:
        figures = stop.value
    return Record(
        schema=1,
        created="2026-11-22T12:00:00+00:00",
        model=model.identity,
        recipe=Identity(found.name, found.hash),
        suite=Identity(suite.name, suite.hash),
        fingerprint=take_fingerprint("cpu"),
        figures={text.NAME: figures},
        pictures=(),
        reference=reference.hash if reference else None,
    )


# Latin letters that look as the Cyrillic ones do (A for А, O for О) cannot be seen in a picture by anybody:
# R for Я and N for И can.
LATIN = (Line("Fleet Overview", 88), Line("42 vehicles", 64), Line("Export report", 48, "serif"))
CYRILLIC = (Line("ОСЕННИЙ ДЖАЗ", 88), Line("ЯРМАРКА", 72), Line("Дом культуры", 48, "serif"))
CHINESE = (Line("春天的花园", 96, "chinese"), Line("开放时间 上午九点", 56, "chinese"))
POSTERS = {
    "Latin": (SIZES[1], LATIN),
    "Cyrillic": (SIZES[0], CYRILLIC),
    "Chinese": (SIZES[3], CHINESE),
    "digits": (SIZES[2], (Line("HEAT PUMP", 88), Line("42", 64), Line("1,284 L", 40))),
}
"""Script -> size and lines."""
REWRITTEN = {
    "Latin": {"42 to 412": (1, "412 vehicles"), "letters swapped": (0, "Fleet Ovreview")},
    "Cyrillic": {
        "letters swapped": (0, "ОСЕНИНЙ ДЖАЗ"),
        "R for Я": (1, "RРМАРКА"),
        "N for И": (0, "ОСЕННNЙ ДЖАЗ"),
    },
    "Chinese": {"letters swapped": (0, "春天花的园")},
    "digits": {"42 to 412": (1, "412"), "letters swapped": (0, "HEAT PMUP")},
}
"""Script -> name -> the number of a line, and what stands there instead."""


def pairs(script: str) -> Iterator[Pair]:
    """Every pair of one of POSTERS: those that must be told apart, and then those that must not."""
    size, lines = POSTERS[script]
    texts = tuple(line.text for line in lines)
    bf16 = poster(size, lines, 7)
    for name, (at, other) in REWRITTEN[script].items():
        written = (*lines[:at], replace(lines[at], text=other), *lines[at + 1 :])
        yield Pair(script, name, texts, bf16.pixels, poster(size, written, 7).pixels, True)
    for name, candidate in _damaged(bf16):
        yield Pair(script, name, texts, bf16.pixels, candidate, True)
    harmless = {
        "JPEG, quality 50": jpeg(bf16.pixels, 50),
        "one pixel aside": shifted(bf16.pixels),
        "noise, sigma 3": noisy(bf16.pixels, 3, 1),
    }
    for name, candidate in harmless.items():
        yield Pair(script, name, texts, bf16.pixels, candidate, False)


def _damaged(bf16: Poster) -> Iterator[tuple[str, np.ndarray]]:
    yield "a word dropped", words.drop_word(bf16.pixels, bf16.boxes[-1])
    yield "a line blurred", words.blur_line(bf16.pixels, bf16.boxes[0])
