"""pytest's side of ernie_qa: the options, the gates' parameters, checks as outcomes, the verdict table.

Inert until a test asks for `ernie_gate`: until then nothing else is imported and no mark is registered, and
a `gpu` mark on somebody's own tests stays theirs.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from ernie_qa.pytest_gates import RUN, Arm, Run, ernie_arm, ernie_draw, ernie_gate

__all__ = ["ernie_arm", "ernie_draw", "ernie_gate"]

if TYPE_CHECKING:
    from ernie_qa.execute import Progress, Session
    from ernie_qa.plan import Plan
    from ernie_qa.recipe import Recipe

MARKS = {
    "mini": "a gate of ernie_qa on the shipped miniature, on the CPU",
    "gpu": "a gate of ernie_qa on CUDA, for --ernie-model; without a usable GPU it fails",
}
OPTIONS = {
    "model": ("MODEL", "model to gate: 'mini', a diffusers directory, or a hub id (default: mini)"),
    "recipe": ("RECIPE", "recipe to gate, a shipped name or a TOML file; repeatable (default: all shipped)"),
    "suite": ("SUITE", "suite to draw, a shipped name or a TOML file (default: the model's own)"),
    "seeds": ("N", "draw every case with N seeds, its own and others (default: 1)"),
    "artifact": ("RECIPE=MODEL", "directory or hub id that holds a recipe quantized already; repeatable"),
    "offload": ("RECIPE", "keep this recipe's components in main memory until they are called; repeatable"),
    "teacher_cases": ("N", "feed each part what BF16 fed it in the first N cases (default: 2)"),
    "all_rungs": (None, "measure every rung, even where a required check failed before a picture was drawn"),
    "any_allocator": (None, "measure even where the allocator's settings let reserved memory run away"),
    "baselines": ("DIR", "accepted figures to compare with; candidates are kept beside them (default: none)"),
    "report": (
        "DIR",
        "write records, verdict.json and a page into this new or empty directory",
    ),
    "update": (
        None,
        "keep the records as candidates in DIR/candidates of --ernie-baselines; accepts nothing",
    ),
    "require_baseline": (None, "where nothing was accepted for a recipe, its verdict is not comparable"),
}
_PLACES = ("baselines", "report")
_REPEATED = ("recipe", "artifact", "offload")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("ernie_qa", "gates for quantized ERNIE-Image pipelines (ernie_qa)")
    for name, (metavar, text) in OPTIONS.items():
        flag, key = f"--ernie-{name.replace('_', '-')}", f"ernie_{name}"
        if metavar is None:
            group.addoption(flag, action="store_true", default=None, dest=key, help=text)
            parser.addini(key, text, type="bool", default=False)
        elif name in _REPEATED:
            group.addoption(flag, action="append", metavar=metavar, dest=key, help=text)
            parser.addini(key, text, type="args", default=[])
        else:
            group.addoption(flag, metavar=metavar, dest=key, help=text)
            parser.addini(key, text, type="string", default="")


def setting(config: pytest.Config, name: str) -> Any:
    """The option, else its ini twin, in which relative paths start at the ini file; falsy without either."""
    given = config.getoption(f"ernie_{name}")
    if given is not None:
        return _at_home(given)
    value = config.getini(f"ernie_{name}")
    if isinstance(value, bool):
        return value
    root = config.inipath.parent if config.inipath else config.rootpath

    def anchored(text: str) -> str:
        # of an artifact, RECIPE=MODEL, the model
        before, equals, place = text.rpartition("=") if name == "artifact" else ("", "", text)
        path_like = "/" in place or place.endswith(".toml")
        if name in _PLACES or (path_like and (root / place).exists()):
            place = str(root / place)
        return before + equals + place

    expanded = _at_home(value)
    return anchored(expanded) if isinstance(value, str) and value else [anchored(text) for text in expanded]


def _at_home(value: Any) -> Any:
    """`value`, or each text in it, with `~` expanded: no shell does so in `--option=~/path`."""
    if isinstance(value, str):
        before, equals, place = value.rpartition("=")
        return before + equals + str(Path(place).expanduser()) if place.startswith("~") else value
    return [_at_home(text) for text in value] if isinstance(value, list) else value


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
        for device in _devices(metafunc.config):
            plan = run.plans.get(device) or _plan(metafunc.config, device)
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


def _devices(config: pytest.Config) -> tuple[str, ...]:
    """Those that -m may ask for; where that takes working out, both, and pytest selects by the marks."""
    expression = config.getoption("markexpr").strip()
    if expression == "gpu":
        return ("cuda",)
    return ("cpu", "cuda") if re.search(r"\bgpu\b", expression) else ("cpu",)


def _plan(config: pytest.Config, device: str) -> Plan:
    from ernie_qa.baseline.bundle import make_room
    from ernie_qa.errors import InputError
    from ernie_qa.plan import plan
    from ernie_qa.report.files import check_directory

    model, own = setting(config, "model") or "mini", True
    if config.getoption("markexpr").strip() == "mini":
        if config.getoption("ernie_model") not in (None, "mini"):
            raise InputError(f"-m mini gates the shipped miniature, not {model}; leave one of the two out")
        model, own = "mini", False
    if report := setting(config, "report"):
        check_directory(Path(report))
    if setting(config, "update") and not setting(config, "baselines"):
        raise InputError(
            "--ernie-update keeps candidates beside the baselines: name them, --ernie-baselines DIR"
        )
    if setting(config, "update"):
        make_room(Path(setting(config, "baselines")))
    return plan(
        model,
        setting(config, "recipe"),
        setting(config, "suite") or None,
        device,
        seeds=_number(config, "seeds"),
        # what an ini file says of these is about its own model
        artifacts=setting(config, "artifact") if own else config.getoption("ernie_artifact") or (),
        offload=setting(config, "offload") if own else config.getoption("ernie_offload") or (),
        teacher_cases=_number(config, "teacher_cases"),
    )


def _number(config: pytest.Config, name: str) -> int | None:
    """What an option says that takes a number; None where it is not given."""
    from ernie_qa.errors import InputError

    text = setting(config, name)
    if text and not (text.isascii() and text.isdecimal()):
        raise InputError(f"--ernie-{name.replace('_', '-')} {text}: needed is a whole number")
    return int(text) if text else None


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
    if run.error:
        raise pytest.UsageError(run.error)
    _draw_first(items)
    devices = {arm.device for arm in map(_arm, items) if arm}
    if len(devices) > 1:
        raise pytest.UsageError("-m selects gates on the CPU and on the GPU; run them one after the other")
    for device in devices:
        run.session = _session(config, run.plans[device])


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


def _session(config: pytest.Config, plan: Plan) -> Session:
    from ernie_qa.execute import Session

    baselines = setting(config, "baselines")
    return Session(
        plan,
        baselines=Path(baselines) if baselines else None,
        require_baseline=setting(config, "require_baseline"),
        any_allocator=setting(config, "any_allocator"),
        all_rungs=setting(config, "all_rungs"),
        progress=_live_line(config),
    )


def _live_line(config: pytest.Config) -> Progress:
    """One line that is rewritten while an arm runs, where somebody is watching."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not reporter.isatty:
        return lambda recipe, drawn, wanted: None

    def show(recipe: str, drawn: int, wanted: int) -> None:
        reporter.ensure_newline()
        if drawn < wanted:
            reporter.rewrite(f"{recipe}: picture {drawn + 1} of {wanted}", erase=True)
        else:
            reporter.rewrite("", erase=True)
            reporter.rewrite("")

    return show


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    run = session.config.stash.get(RUN, None)
    if run is None or run.session is None:
        return
    # -x ends a run as Ctrl-C does, with an exit code of failed tests
    if exitstatus == pytest.ExitCode.INTERRUPTED or session.shouldfail or session.shouldstop:
        run.session.interrupt({arm.recipe.name for arm in map(_arm, session.items) if arm})
    if not run.session.outcomes:
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
    if run is None or run.session is None or not run.session.outcomes:
        return
    from ernie_qa.report.files import next_step
    from ernie_qa.report.terminal import lines

    plan = run.session.plan
    terminalreporter.write_sep("=", f"ernie_qa: {plan.model.name} on suite {plan.suite.title}, {plan.device}")
    verdicts = [outcome.verdict for outcome in run.session.outcomes]
    width = config.get_terminal_writer().fullwidth
    for line in lines(verdicts, colour=terminalreporter.hasmarkup, width=width):
        terminalreporter.write_line(line)
    if run.session.compared:
        terminalreporter.write_line("")
        terminalreporter.write_line(run.session.compared)
        terminalreporter.write_line(run.session.floor)
    for warning in plan.warnings:
        terminalreporter.write_line(warning)
    if run.session.broken:
        terminalreporter.write_line(f"broke off, and not judged: {', '.join(run.session.broken)}")
    if run.session.unfinished:
        terminalreporter.write_line(f"interrupted, and not judged: {', '.join(run.session.unfinished)}")
    if run.unwritten:
        terminalreporter.write_line(f"ERROR: {run.unwritten}", red=True)
    if run.bundle:
        terminalreporter.write_line("")
        for line in next_step(Path(setting(config, "baselines")), run.session, run.bundle):
            terminalreporter.write_line(line)
