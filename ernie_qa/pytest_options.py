"""The options of the gates, their ini twins, and the plan and session that they describe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ernie_qa.exchange import Exchange
    from ernie_qa.execute import Session
    from ernie_qa.observer import Progress
    from ernie_qa.plan import Plan

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
    "timeout": (
        "SECONDS",
        "end a recipe of which one step, as loading or a picture, takes longer, and go on with the next; "
        "needs pytest-xdist, and is -n 1 where no -n is given (default: wait for ever)",
    ),
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


def devices_of(config: pytest.Config) -> tuple[str, ...]:
    """Those that -m may ask for; where that takes working out, both, and pytest selects by the marks."""
    expression = config.getoption("markexpr").strip()
    if expression == "gpu":
        return ("cuda",)
    return ("cpu", "cuda") if re.search(r"\bgpu\b", expression) else ("cpu",)


def plan_of(config: pytest.Config, device: str) -> Plan:
    """What will run on `device`, checked. InputError where an option is wrong."""
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


def timeout_of(config: pytest.Config) -> int:
    """Seconds that a step may take; 0 where nobody watches. UsageError where it is no whole number."""
    if not setting(config, "timeout"):
        return 0
    from ernie_qa.errors import InputError
    from ernie_qa.watchdog import MOST

    try:
        seconds = _number(config, "timeout") or 0
    except InputError as error:
        raise pytest.UsageError(str(error)) from None
    if seconds > MOST:
        raise pytest.UsageError(f"--ernie-timeout {seconds}: needed are seconds, {MOST} at most")
    return seconds


def session_of(
    config: pytest.Config, plan: Plan, exchange: Exchange | None = None, *, alone: bool = False
) -> Session:
    """The session of `plan` that the options ask for; `exchange` is for one of several workers, and `alone`
    says that nothing but gates runs in this process."""
    from ernie_qa.execute import Session

    baselines = setting(config, "baselines")
    return Session(
        plan,
        baselines=Path(baselines) if baselines else None,
        require_baseline=setting(config, "require_baseline"),
        any_allocator=setting(config, "any_allocator"),
        all_rungs=setting(config, "all_rungs"),
        progress=_live_line(config),
        exchange=exchange,
        # in any other process nobody is left to go on
        watchdog=exchange.watchdog(timeout) if exchange and (timeout := timeout_of(config)) else None,
        alone=alone,
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
