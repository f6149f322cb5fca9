"""pytest's side of ernie_qa: the gates' parameters, what a run leaves, the verdict table.

Inert until a test asks for `ernie_gate`: until then nothing else is imported and no mark is registered, and
a `gpu` mark on somebody's own tests stays theirs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from ernie_qa.pytest_gates import RUN, Arm, Run, ernie_arm, ernie_draw, ernie_gate
from ernie_qa.pytest_options import OPTIONS, devices_of, plan_of, pytest_addoption, session_of, setting
from ernie_qa.pytest_workers import (
    exchange_of,
    gather,
    is_worker,
    pytest_cmdline_main,
    pytest_configure,
    pytest_configure_node,
    pytest_xdist_auto_num_workers,
    pytest_xdist_make_scheduler,
    pytest_xdist_node_collection_finished,
    refusal,
    tell,
)

# pytest finds fixtures and hooks here
__all__ = [
    "OPTIONS",
    "ernie_arm",
    "ernie_draw",
    "ernie_gate",
    "pytest_addoption",
    "pytest_cmdline_main",
    "pytest_configure",
    "pytest_configure_node",
    "pytest_xdist_auto_num_workers",
    "pytest_xdist_make_scheduler",
    "pytest_xdist_node_collection_finished",
]

if TYPE_CHECKING:
    from ernie_qa.plan import Plan
    from ernie_qa.recipe import Recipe

MARKS = {
    "mini": "a gate of ernie_qa on the shipped miniature, on the CPU",
    "gpu": "a gate of ernie_qa on CUDA, for --ernie-model; without a usable GPU it fails",
}


def register_marks(config: pytest.Config) -> None:
    """Make the marks known: the plugin does so when it meets a gate, a conftest may do so at once."""
    known = {line.split(":")[0] for line in config.getini("markers")}
    for mark, text in MARKS.items():
        if mark not in known:
            config.addinivalue_line("markers", f"{mark}: {text}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each gate its recipes and cases. What is wrong with them is told once, when all are collected."""
    if "ernie_arm" not in metafunc.fixturenames:
        return
    from ernie_qa.errors import InputError

    register_marks(metafunc.config)
    run = metafunc.config.stash.setdefault(RUN, Run())
    arms, cases = [], []
    try:
        for device in devices_of(metafunc.config):
            plan = run.plans.get(device) or plan_of(metafunc.config, device)
            run.plans[device] = plan
            cases = [case.id for case in plan.suite.cases]
            arms += [
                pytest.param(Arm(recipe, device), id=_arm_id(recipe, device), marks=_marks(plan))
                for recipe in plan.recipes
            ]
    except InputError as error:
        run.error = str(error)
    # the scope makes pytest run all gates of one recipe before it turns to the next
    metafunc.parametrize("ernie_arm", arms, indirect=True, scope="session")
    if "ernie_case" in metafunc.fixturenames:
        metafunc.parametrize("ernie_case", cases)


def _arm_id(recipe: Recipe, device: str) -> str:
    return recipe.name if device == "cpu" else f"{recipe.name}@{device}"


def _marks(plan: Plan) -> list[pytest.MarkDecorator]:
    if plan.device == "cuda":
        return [pytest.mark.gpu]
    return [pytest.mark.mini] if plan.model.name == "mini" else []


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    run = config.stash.get(RUN, None)
    if run is None:
        return
    try:
        _make_ready(config, run, items)
    except pytest.UsageError as error:
        if not is_worker(config):
            raise
        # raised here it would end the worker, and xdist would start another
        run.error = str(error)
        if tell(config, {}, "", run.error):
            items.clear()


def _make_ready(config: pytest.Config, run: Run, items: list[pytest.Item]) -> None:
    if run.error:
        raise pytest.UsageError(run.error)
    _draw_first(items)
    gates = {item.nodeid: arm for item in items if (arm := _arm(item))}
    devices = {arm.device for arm in gates.values()}
    if len(devices) > 1:
        raise pytest.UsageError("-m selects gates on the CPU and on the GPU; run them one after the other")
    for device in devices:
        if why := refusal(config, device):
            raise pytest.UsageError(why)
        run.asked = {arm.recipe.name for arm in gates.values()}
        exchange, alone = exchange_of(config, len(run.asked)), len(gates) == len(items)
        run.session = session_of(config, run.plans[device], exchange, alone=alone)
        tell(config, {test: arm.recipe.name for test, arm in gates.items()}, device)


def _draw_first(items: list[pytest.Item]) -> None:
    """Move each arm's drawing before its gates: pytest-benchmark then times the only drawing there is."""
    gates = [(index, item, arm) for index, item in enumerate(items) if (arm := _arm(item))]
    order = list(dict.fromkeys((arm.recipe.name, arm.device) for _, _, arm in gates))

    def turn(item: pytest.Item, arm: Arm) -> tuple[int, bool]:
        draws = "ernie_draw" in cast(pytest.Function, item).fixturenames
        return order.index((arm.recipe.name, arm.device)), not draws

    moved = sorted(gates, key=lambda gate: turn(gate[1], gate[2]))
    for (index, _, _), (_, item, _) in zip(gates, moved, strict=True):
        items[index] = item


def _arm(item: pytest.Item) -> Arm | None:
    """What `item` is a gate of; None for a test that is none."""
    if not isinstance(item, pytest.Function) or "ernie_arm" not in item.fixturenames:
        return None
    return cast(Arm, item.callspec.params["ernie_arm"])


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if is_worker(session.config):
        return
    gather(session)
    run = session.config.stash.get(RUN, None)
    if run is None or run.session is None:
        return
    # -x ends a run as Ctrl-C does, with an exit code of failed tests
    if exitstatus == pytest.ExitCode.INTERRUPTED or session.shouldfail or session.shouldstop:
        run.session.interrupt(run.asked)
    # BF16's record stands, though nobody asked for its verdict
    if not run.session.records:
        return
    from ernie_qa.errors import ErnieQAError
    from ernie_qa.report.files import save_candidates
    from ernie_qa.report.written import summarize, write_report

    # candidates first: they are what a person accepts, and the report can be made of them again
    try:
        summarize(run.session)
        if setting(session.config, "update"):
            run.bundle = save_candidates(Path(setting(session.config, "baselines")), run.session)
        if report := setting(session.config, "report"):
            write_report(Path(report), run.session)
    except (ErnieQAError, OSError) as problem:
        # raised from here it would take the verdict table with it
        run.unwritten = str(problem)
        session.exitstatus = session.exitstatus or pytest.ExitCode.USAGE_ERROR


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    run = config.stash.get(RUN, None)
    if run is None or run.session is None:
        return
    if not (run.session.outcomes or run.session.unfinished or run.notes):
        return
    from ernie_qa.report.files import next_step
    from ernie_qa.report.terminal import lines

    plan = run.session.plan
    terminalreporter.write_sep("=", f"ernie_qa: {plan.model.name} on suite {plan.suite.title}, {plan.device}")
    width = config.get_terminal_writer().fullwidth
    if verdicts := [outcome.verdict for outcome in run.session.outcomes]:
        for line in lines(verdicts, colour=terminalreporter.hasmarkup, width=width):
            terminalreporter.write_line(line)
    if run.session.compared:
        terminalreporter.write_line("")
        terminalreporter.write_line(run.session.compared)
        terminalreporter.write_line(run.session.floor)
    for warning in plan.warnings:
        terminalreporter.write_line(warning)
    if run.session.leaked:
        terminalreporter.write_line(run.session.leaked)
    if run.session.broken:
        terminalreporter.write_line(f"broke off, and not judged: {', '.join(run.session.broken)}")
    if run.session.unfinished:
        terminalreporter.write_line(f"interrupted, and not judged: {', '.join(run.session.unfinished)}")
    for note in run.notes:
        terminalreporter.write_line(note)
    if run.unwritten:
        terminalreporter.write_line(f"ERROR: {run.unwritten}", red=True)
    if run.bundle:
        terminalreporter.write_line("")
        for line in next_step(Path(setting(config, "baselines")), run.session, run.bundle):
            terminalreporter.write_line(line)
