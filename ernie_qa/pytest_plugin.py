"""pytest's side of ernie_qa: the options, the gates' parameters, checks as outcomes, the verdict table.

Inert until a test asks for `ernie_gate`: until then nothing else is imported and no mark is registered, and
a `gpu` mark on somebody's own tests stays theirs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

if TYPE_CHECKING:
    from ernie_qa.execute import Plan, Progress, Session
    from ernie_qa.recipe import Recipe
    from ernie_qa.verdict import Check, Verdict

MARKS = {
    "mini": "a gate of ernie_qa on the shipped miniature, on the CPU",
    "gpu": "a gate of ernie_qa on CUDA, for --ernie-model; without a usable GPU it fails",
}
OPTIONS = {
    "model": ("MODEL", "model to gate: 'mini', a diffusers directory, or a hub id (default: mini)"),
    "recipe": ("RECIPE", "recipe to gate, a shipped name or a TOML file; repeatable (default: all shipped)"),
    "suite": ("SUITE", "suite to draw, a shipped name or a TOML file (default: the model's own)"),
    "baselines": ("DIR", "accepted figures to compare with; candidates are kept beside them (default: none)"),
    "report": ("DIR", "write the records and verdict.json into this new or empty directory"),
    "update": (
        None,
        "keep the records as candidates in DIR/candidates of --ernie-baselines; accepts nothing",
    ),
    "require_baseline": (None, "where nothing was accepted for a recipe, its verdict is not comparable"),
}
_PLACES = ("baselines", "report")


@dataclass
class Run:
    """What one pytest run gates: a plan a device while tests are collected, one session when they run."""

    error: str = ""
    bundle: Path | None = None
    plans: dict[str, Plan] = field(default_factory=dict)
    session: Session | None = None


@dataclass(frozen=True)
class Arm:
    """What `ernie_gate` judges in one test."""

    recipe: Recipe
    device: str


RUN = pytest.StashKey[Run]()
Gate = Callable[..., None]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("ernie_qa", "gates for quantized ERNIE-Image pipelines (ernie_qa)")
    for name, (metavar, text) in OPTIONS.items():
        flag, key = f"--ernie-{name.replace('_', '-')}", f"ernie_{name}"
        if metavar is None:
            group.addoption(flag, action="store_true", default=None, dest=key, help=text)
            parser.addini(key, text, type="bool", default=False)
        elif name == "recipe":
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
        path_like = "/" in text or text.endswith(".toml")
        return str(root / text) if name in _PLACES or (path_like and (root / text).exists()) else text

    expanded = _at_home(value)
    return anchored(expanded) if isinstance(value, str) and value else [anchored(text) for text in expanded]


def _at_home(value: Any) -> Any:
    """`value`, or each text in it, with `~` expanded: no shell does so in `--option=~/path`."""
    if isinstance(value, str):
        return str(Path(value).expanduser()) if value.startswith("~") else value
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
    from ernie_qa.execute import plan
    from ernie_qa.report.files import check_directory

    model = setting(config, "model") or "mini"
    if config.getoption("markexpr").strip() == "mini":
        if config.getoption("ernie_model") not in (None, "mini"):
            raise InputError(f"-m mini gates the shipped miniature, not {model}; leave one of the two out")
        model = "mini"
    if report := setting(config, "report"):
        check_directory(Path(report))
    if setting(config, "update") and not setting(config, "baselines"):
        raise InputError(
            "--ernie-update keeps candidates beside the baselines: name them, --ernie-baselines DIR"
        )
    if setting(config, "update"):
        make_room(Path(setting(config, "baselines")))
    return plan(model, setting(config, "recipe"), setting(config, "suite") or None, device)


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
    arms = [
        cast(Arm, item.callspec.params["ernie_arm"])
        for item in items
        if isinstance(item, pytest.Function) and "ernie_arm" in item.fixturenames
    ]
    devices = {arm.device for arm in arms}
    if len(devices) > 1:
        raise pytest.UsageError("-m selects gates on the CPU and on the GPU; run them one after the other")
    for device in devices:
        run.session = _session(config, run.plans[device])


def _session(config: pytest.Config, plan: Plan) -> Session:
    from ernie_qa.execute import Session

    baselines = setting(config, "baselines")
    return Session(
        plan,
        baselines=Path(baselines) if baselines else None,
        require_baseline=setting(config, "require_baseline"),
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
    from ernie_qa.errors import BaselineError, ErnieQAError

    session = request.config.stash[RUN].session
    assert session is not None
    uncaptured = request.config.pluginmanager.get_plugin("capturemanager")
    assert uncaptured is not None

    def gate(rung: str | None = None, case: str | None = None) -> None:
        __tracebackhide__ = True
        try:
            session.prepare()
        except ErnieQAError as error:
            if isinstance(error, BaselineError) or ernie_arm.device != "cpu":
                # every other gate would end the same way
                request.session.shouldfail = str(error)
            raise pytest.fail.Exception(str(error), pytrace=False) from None
        try:
            # uncaptured, for the session itself keeps libraries quiet, and a failure shows the check alone
            with uncaptured.global_and_fixture_disabled():
                verdict = session.outcome(ernie_arm.recipe).verdict
        except ErnieQAError as error:
            raise pytest.fail.Exception(str(error), pytrace=False) from None
        if rung is None:
            _end(verdict)
            return
        checks = [check for check in verdict.checks if check.rung == rung and check.case == case]
        if not checks and not ernie_arm.recipe.components:
            pytest.skip(f"{verdict.recipe} is what the others are compared with")
        for check in checks:
            record_property(check.label, _figure(check))
        _end_rung(verdict, rung, checks)

    return gate


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
    status = worst(check.status for check in checks if check.required)
    if status in (Status.FAIL, Status.NOT_COMPARABLE):
        told = [check for check in checks if check.required and check.status is status]
        prefix = "not comparable: " if status is Status.NOT_COMPARABLE else ""
        pytest.fail("\n".join(f"{prefix}{check.label}: {check.message}" for check in told), pytrace=False)


def pytest_sessionfinish(session: pytest.Session) -> None:
    run = session.config.stash.get(RUN, None)
    if run is None or run.session is None or not run.session.outcomes:
        return
    from ernie_qa.report.files import save, save_candidates

    if report := setting(session.config, "report"):
        save(Path(report), run.session)
    if setting(session.config, "update"):
        run.bundle = save_candidates(Path(setting(session.config, "baselines")), run.session)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    run = config.stash.get(RUN, None)
    if run is None or run.session is None or not run.session.outcomes:
        return
    from ernie_qa.report.files import next_step
    from ernie_qa.report.terminal import lines

    plan = run.session.plan
    terminalreporter.write_sep("=", f"ernie_qa: {plan.model.name} on suite {plan.suite.name}, {plan.device}")
    verdicts = [outcome.verdict for outcome in run.session.outcomes]
    width = config.get_terminal_writer().fullwidth
    for line in lines(verdicts, colour=terminalreporter.hasmarkup, width=width):
        terminalreporter.write_line(line)
    if run.session.compared:
        terminalreporter.write_line("")
        terminalreporter.write_line(run.session.compared)
    if run.session.broken:
        terminalreporter.write_line(f"broke off, and not judged: {', '.join(run.session.broken)}")
    if run.bundle:
        terminalreporter.write_line("")
        for line in next_step(Path(setting(config, "baselines")), run.session, run.bundle):
            terminalreporter.write_line(line)
