"""The gates as tests: their fixtures, and checks turned into outcomes. `pytest_plugin` registers them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ernie_qa.execute import Session
    from ernie_qa.plan import Plan
    from ernie_qa.recipe import Recipe
    from ernie_qa.verdict import Check, Verdict


@dataclass
class Run:
    """What one pytest run gates: a plan a device while tests are collected, one session when they run.

    `asked` are the recipes that it has gates of, `notes` lines for its end.
    """

    error: str = ""
    unwritten: str = ""
    bundle: Path | None = None
    plans: dict[str, Plan] = field(default_factory=dict)
    session: Session | None = None
    asked: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Arm:
    """What `ernie_gate` judges in one test."""

    recipe: Recipe
    device: str


RUN = pytest.StashKey[Run]()
Gate = Callable[..., None]


@pytest.fixture(scope="session")
def ernie_arm(request: pytest.FixtureRequest) -> Arm:
    """The recipe and device that a gate is about; ernie_qa parametrizes it."""
    arm: Arm = request.param
    return arm


@pytest.fixture
def ernie_gate(
    ernie_arm: Arm,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> Gate:
    """`ernie_gate(rung, case=None)`: judge this recipe, and end the test as its checks of that rung ended.

    The first call for a recipe loads it and draws the suite; all later ones share what was observed. Without
    a `case`, the checks that are not about a single case. A test that takes `ernie_case` runs once a case.
    `ernie_gate()` ends the test as the verdict did, whichever rung decided it.
    """
    session = _prepared(request, ernie_arm)

    def gate(rung: str | None = None, case: str | None = None) -> None:
        __tracebackhide__ = True
        with _in_one_line(request):
            outcome = session().outcome(ernie_arm.recipe)
        verdict = outcome.verdict
        if rung is None:
            record_property("ernie_qa.verdict", str(verdict.status))
            record_property("ernie_qa.record", outcome.record.hash)
            _end(verdict)
            return
        checks = [check for check in verdict.checks if check.rung == rung and check.case == case]
        if not checks and outcome.record.ended:
            # not measured at all: what says so is about no single case
            checks = [check for check in verdict.checks if check.rung == rung]
        if not checks and not ernie_arm.recipe.components:
            pytest.skip(f"{verdict.recipe} is what the others are compared with")
        for check in checks:
            record_property(check.label, _figure(check))
        _end_rung(verdict, rung, checks)

    return gate


@pytest.fixture
def ernie_draw(ernie_arm: Arm, request: pytest.FixtureRequest) -> Callable[[], None]:
    """`ernie_draw()`: load this recipe and draw the suite, under pytest-benchmark where that is active.

    The first picture shows what getting ready costs and stays out of its statistics; every other one is a
    round, with the device waited for. What other gates had drawn already is not drawn again.
    """
    prepared = _prepared(request, ernie_arm)
    plugins = request.config.pluginmanager

    def draw() -> None:
        __tracebackhide__ = True
        recipe = ernie_arm.recipe
        # pytest-benchmark would draw one picture there, and keep no time of it
        timed = plugins.has_plugin("benchmark") and not hasattr(request.config, "workerinput")
        with _in_one_line(request):
            session = prepared()
            left = session.begin(recipe) if timed else 0
            if left == len(session.plan.suite.cases):
                session.draw(recipe)
                left -= 1
        if left and timed:
            request.node.add_marker(pytest.mark.benchmark(timer=_timer(ernie_arm.device), group="a picture"))
            benchmark = request.getfixturevalue("benchmark")
            benchmark.name = recipe.name
            with _in_one_line(request):
                benchmark.pedantic(
                    session.draw, (recipe,), setup=lambda: session.warm_up(recipe), rounds=left
                )
        with _in_one_line(request):
            ended = session.outcome(recipe).record.ended
        if ended:
            pytest.skip(f"not drawn: the arm ended at {ended.rung}: {ended.check}")

    return draw


def _timer(device: str) -> Callable[[], float]:
    """Seconds on a monotonic clock, with nothing left to do on `device`: pytest-benchmark does not wait."""
    import torch

    from ernie_qa.meter import now

    place = torch.device(device)
    return lambda: now(place)


def _prepared(request: pytest.FixtureRequest, arm: Arm) -> Callable[[], Session]:
    """The session, once this machine is known to have what every arm needs."""

    def session() -> Session:
        __tracebackhide__ = True
        from ernie_qa.errors import BaselineError, ErnieQAError

        run = request.config.stash[RUN]
        found = run.session
        if found is None:
            request.session.shouldfail = run.error
            raise ErnieQAError(run.error)
        try:
            found.prepare()
        except ErnieQAError as error:
            if isinstance(error, BaselineError) or arm.device != "cpu":
                # every other gate would end the same way
                request.session.shouldfail = str(error)
            raise
        return found

    return session


@contextmanager
def _in_one_line(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test with what ernie_qa says of an error, and no traceback."""
    __tracebackhide__ = True
    from ernie_qa.errors import ErnieQAError

    capture = request.config.pluginmanager.get_plugin("capturemanager")
    assert capture is not None
    try:
        # uncaptured, for the session itself keeps libraries quiet, and a failure shows the check alone
        with capture.global_and_fixture_disabled():
            yield
    except ErnieQAError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None


def _figure(check: Check) -> str:
    return json.dumps({"measured": check.measured, "limit": check.limit, "status": check.status})


def _end(verdict: Verdict) -> None:
    """Turn a verdict into the outcome of a test."""
    __tracebackhide__ = True
    from ernie_qa.verdict import Status

    if verdict.status is not Status.PASS:
        labels = ", ".join(check.label for check in verdict.of(verdict.status)) or "nothing was shown"
        pytest.fail(f"{verdict.status}: {labels}", pytrace=False)


def _end_rung(verdict: Verdict, rung: str, checks: list[Check]) -> None:
    """Turn the checks of one rung, or of one case on it, into the outcome of a test."""
    __tracebackhide__ = True
    from ernie_qa.verdict import Status, worst

    if not checks:
        pytest.fail(f"not comparable: the rung {rung} made no check on {verdict.recipe}", pytrace=False)
    if all(check.status is Status.NOT_APPLICABLE for check in checks):
        pytest.skip(checks[0].message)
    if not any(check.required for check in checks):
        # it decides nothing; but what was not shown must not look like a pass either
        found = worst(check.status for check in checks)
        if found is not Status.PASS:
            pytest.skip(f"decides nothing: {next(one.message for one in checks if one.status is found)}")
    status = worst(check.status for check in checks if check.required)
    if status in (Status.FAIL, Status.NOT_COMPARABLE):
        told = [check for check in checks if check.required and check.status is status]
        prefix = "not comparable: " if status is Status.NOT_COMPARABLE else ""
        pytest.fail("\n".join(f"{prefix}{check.label}: {check.message}" for check in told), pytrace=False)
