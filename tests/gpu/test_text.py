"""Words are read while a real GPU works, and not while it is timed. Run by `pytest -m gpu`."""

from collections.abc import Callable
from importlib import import_module
from time import perf_counter
from typing import Any

import pytest

from ernie_qa.errors import UnavailableError
from ernie_qa.execute import Session
from ernie_qa.fidelity.text import reading
from ernie_qa.fidelity.text.engines import engines
from ernie_qa.recipe import REFERENCE, find_recipe
from ernie_qa.rungs import text
from tests.gpu.few import few

pytestmark = pytest.mark.gpu

Span = tuple[float, float]


def test_pictures_are_read_beside_warm_ups_and_never_beside_a_timed_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    try:
        reading.reader(engines())
    except UnavailableError as missing:
        pytest.skip(str(missing))
    spans: dict[str, list[Span]] = {"read": [], "warm up": [], "draw": []}

    def timed(module: Any, name: str, kind: str) -> None:
        called: Callable[..., Any] = getattr(module, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            began = perf_counter()
            try:
                return called(*args, **kwargs)
            finally:
                spans[kind].append((began, perf_counter()))

        monkeypatch.setattr(module, name, call)

    timed(text, "_strings", "read")
    # the package's own name for it is the function
    observe = import_module("ernie_qa.observe")
    timed(observe, "warm_up", "warm up")
    timed(observe, "draw", "draw")
    # an earlier run's readings would take no time
    monkeypatch.setattr(reading, "_kept", lambda *_: None)
    record = Session(few(REFERENCE)).outcome(find_recipe(REFERENCE)).record

    reads, warm_ups, draws = spans.values()
    print({kind: [f"{end - began:.3f} s" for began, end in found] for kind, found in spans.items()})
    assert [len(found) for found in spans.values()] == [3, 2, 3]
    assert all(_overlap(read, warm_up) for read, warm_up in zip(reads[:2], warm_ups, strict=True))
    assert not any(_overlap(read, draw) for read in reads for draw in draws)
    found = record.figures[text.NAME]["cases"].values()
    assert [one["errors"] for case in found for one in case["strings"]] == [0, 0, 0]


def _overlap(one: Span, other: Span) -> bool:
    return one[0] < other[1] and other[0] < one[1]
