"""The gates under pytest-xdist: a GPU a worker, a recipe on one of them, and one process that writes.

A worker observes the recipes that it is given and judges them for its tests. The controller loads no
model and uses no GPU: it starts the longest recipe first, judges the records that the workers left in a
directory of this host, and writes the report and the candidates. Inert unless a run that sets an option of
ernie_qa, on the command line or in the ini file, or names its gates, is distributed; xdist is not imported
before.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ernie_qa.pytest_gates import RUN, Run
from ernie_qa.pytest_options import OPTIONS, devices_of, plan_of, session_of, setting, timeout_of

if TYPE_CHECKING:
    from ernie_qa.exchange import Exchange
    from ernie_qa.plan import Plan

UNASKED = (
    "under pytest-xdist gates are handed out by recipe, and this run does not say that it has gates: "
    "add an option of ernie_qa, as --ernie-model=mini, or leave out -n"
)
UNPINNED = (
    "these gates run on the GPU, and under pytest-xdist only `-m gpu` alone gives each worker a GPU of its "
    "own: say that, or leave out -n"
)
UNWATCHED = (
    "--ernie-timeout: what hangs can only be ended with its process, and no other one is left to go on here: "
    "install the extra xdist, and leave out -n 0 and -p no:xdist"
)
NO_TABLE = (
    "pytest-benchmark is off under pytest-xdist: no table here, the records hold each picture's seconds"
)

_INPUT = "ernie_qa"
"""What a worker finds its share under: the `directory`, its `gpu` as an entry of CUDA_VISIBLE_DEVICES (empty
where the run is on no GPU), its `part` of what is kept apart, and `among` how many workers it is one."""


@dataclass
class Host:
    """What the controller knows: of each gate's test its recipe, and of each recipe its turn."""

    directory: Path
    gpus: tuple[str, ...] = ()
    gates: dict[str, str] = field(default_factory=dict)
    turns: dict[str, int] = field(default_factory=dict)
    plan: Plan | None = None


HOST = pytest.StashKey[Host]()


def is_worker(config: pytest.Config) -> bool:
    """Whether this process is one of pytest-xdist's workers."""
    return hasattr(config, "workerinput")


def exchange_of(config: pytest.Config, recipes: int = 1) -> Exchange | None:
    """Where this worker leaves its records, of a run with gates of so many recipes; None in any other
    process, and where the run is not distributed by recipe."""
    share = _share(config)
    if not share:
        return None
    from ernie_qa.exchange import Exchange

    worker: Any = config
    # who has no recipe has no part in BF16 either
    among = min(share["among"], recipes)
    return Exchange(Path(share["directory"]), worker.workerinput["workerid"], share["part"], among=among)


def refusal(config: pytest.Config, device: str) -> str | None:
    """Why this worker must not run gates on `device`; None where it may, or is no worker."""
    if not is_worker(config):
        return None
    share = _share(config)
    if not share:
        return UNASKED
    return UNPINNED if device == "cuda" and not share["gpu"] and share["among"] > 1 else None


def tell(config: pytest.Config, gates: Mapping[str, str], device: str, error: str = "") -> bool:
    """Tell the controller which recipe each test of this worker's collection is about, by the test's id, or
    what is wrong with the options. Returns whether there is a controller that listens."""
    exchange = exchange_of(config)
    if exchange is None:
        return False
    found = {"gates": dict(gates), "device": device, "error": error}
    (exchange.directory / f"{exchange.worker}.json").write_text(json.dumps(found), encoding="utf-8")
    return True


def _share(config: pytest.Config) -> dict[str, Any]:
    found: dict[str, Any] = getattr(config, "workerinput", {}).get(_INPUT, {})
    return found


def concerned(config: pytest.Config) -> bool:
    """Whether a run says, before anything is collected, that it is about gates."""
    return any(setting(config, name) for name in OPTIONS) or any(
        "ernie_qa.gates" in str(argument) for argument in config.args
    )


def _on_gpus(config: pytest.Config) -> bool:
    return devices_of(config) == ("cuda",)


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """With `-m gpu -n auto` a worker a GPU, and no more than there are recipes; else what xdist says."""
    if not (concerned(config) and _on_gpus(config)):
        return None
    from ernie_qa.gpus import visible_gpus
    from ernie_qa.recipe import recipe_names

    # without a GPU one worker fails with the reason
    return max(1, min(len(visible_gpus()), len(setting(config, "recipe") or recipe_names())))


@pytest.hookimpl(wrapper=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, Any, Any]:
    """With a timeout, and before xdist looks at its options: one worker, where none was asked for."""
    if timeout_of(config) and not is_worker(config) and not _watched(config):
        if not config.pluginmanager.has_plugin("xdist") or config.getoption("numprocesses") == 0:
            raise pytest.UsageError(UNWATCHED)
        config.option.numprocesses = 1
    return (yield)


def _watched(config: pytest.Config) -> bool:
    """Whether the run has workers already, or runs no test, or under a debugger that somebody sits at."""
    quiet = ("collectonly", "usepdb", "help", "version")
    return any(config.getoption(name, None) for name in (*quiet, "tx", "numprocesses"))


def pytest_configure(config: pytest.Config) -> None:
    """In the controller: make the directory, and pin each worker to a GPU before it starts."""
    if not _distributes(config) or not concerned(config):
        return
    from xdist.workermanage import parse_tx_spec_config

    from ernie_qa.exchange import Exchange
    from ernie_qa.gpus import VISIBLE, visible_gpus

    if config.getoption("dist") == "each":
        raise pytest.UsageError("--dist each would run every gate in every worker; leave it out")
    specs = parse_tx_spec_config(config)
    if foreign := [spec for spec in specs if not spec.startswith("popen")]:
        raise pytest.UsageError(
            f"--tx {foreign[0]}: the gates' workers share a directory of this host; say -n"
        )
    if any(f"env:{VISIBLE}=" in spec for spec in specs):
        raise pytest.UsageError(f"--tx with {VISIBLE}: a worker gets one of those set for the run; say -n")
    host = Host(Path(tempfile.mkdtemp(prefix="ernie_qa-")))
    config.add_cleanup(lambda: shutil.rmtree(host.directory, ignore_errors=True))
    Exchange(host.directory, "controller").make()
    config.stash[HOST] = host
    if _on_gpus(config):
        host.gpus = visible_gpus()
        config.option.tx = pinned(specs, host.gpus)


def _distributes(config: pytest.Config) -> bool:
    """Whether this process is about to hand tests out to workers."""
    option = config.option
    return (
        getattr(option, "dist", "no") != "no" and bool(getattr(option, "tx", ())) and not option.collectonly
    )


def pinned(specs: Sequence[str], gpus: Sequence[str]) -> list[str]:
    """The workers' `specs` (execnet's) with a GPU each, set in the worker's environment before it imports
    anything, and for whoever replaces it. UsageError where there are more workers than `gpus`; without any,
    one worker stays as it is, and fails with the reason."""
    if len(specs) > max(1, len(gpus)):
        there = f"{len(gpus)} GPU{'s' if len(gpus) != 1 else ''}"
        raise pytest.UsageError(
            f"{len(specs)} workers for {there}: timing runs never share one; say -n {max(1, len(gpus))}"
        )
    from ernie_qa.gpus import VISIBLE

    return [f"{spec}//env:{VISIBLE}={gpu}" for spec, gpu in zip(specs, gpus, strict=False)] or list(specs)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """In the controller: hand a worker its share."""
    from ernie_qa.compile_cache import WORKER
    from ernie_qa.gpus import VISIBLE

    host = node.config.stash.get(HOST, None)
    if host is None:
        return
    gpu = node.gateway.spec.env.get(VISIBLE, "") if host.gpus else ""
    # the first keeps what one process alone would find
    part = f"{WORKER}{host.gpus.index(gpu)}" if gpu and gpu != host.gpus[0] else ""
    among = len(node.nodemanager.specs)
    node.workerinput[_INPUT] = {"directory": str(host.directory), "gpu": gpu, "part": part, "among": among}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any, ids: Sequence[str]) -> None:
    """In the controller: read what a worker collected, before anything is handed out."""
    config: pytest.Config = node.config
    host = config.stash.get(HOST, None)
    if host is None:
        return
    file = host.directory / f"{node.gateway.id}.json"
    if host.plan is not None or not file.is_file():
        return
    told = json.loads(file.read_text(encoding="utf-8"))
    if told["error"]:
        raise pytest.UsageError(told["error"])
    host.gates.update(told["gates"])
    host.plan = plan_of(config, told["device"])
    host.turns.update(_turns(config, host.plan, host.gpus))


def _turns(config: pytest.Config, plan: Plan, gpus: Sequence[str]) -> dict[str, int]:
    """Recipe -> its turn."""
    from ernie_qa.gpus import model_of
    from ernie_qa.turns import accepted_seconds, longest_first

    machine, baselines = (model_of(gpus[0]) or "") if gpus else "cpu", setting(config, "baselines")
    seconds = accepted_seconds(Path(baselines) if baselines else None, plan.model.name, machine)
    names = longest_first((recipe.name for recipe in plan.recipes), seconds)
    return {name: turn for turn, name in enumerate(names)}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """In the controller: the scheduler that keeps a recipe on one worker."""
    host = config.stash.get(HOST, None)
    if host is None:
        return None
    from ernie_qa.pytest_scheduling import RecipeScheduling

    return RecipeScheduling(config, log, host.gates, host.turns)


def gather(session: pytest.Session) -> None:
    """In the controller: judge what the workers left, as if this process had observed it."""
    config = session.config
    host = config.stash.get(HOST, None)
    if host is None or host.plan is None:
        return
    from ernie_qa.errors import ErnieQAError
    from ernie_qa.exchange import Exchange
    from ernie_qa.verdict import Status

    run = config.stash.setdefault(RUN, Run())
    run.session, run.asked = session_of(config, host.plan), set(host.gates.values())
    exchange = Exchange(host.directory, "controller")
    begun = exchange.begun
    if session.exitstatus == pytest.ExitCode.INTERRUPTED:
        # nobody knows how the others would have ended
        begun = tuple(name for name in begun if exchange.is_told(name))
    try:
        records, run.notes = exchange.gather(begun)
        stuck = (exchange.hung(name) for name in ("", *begun))
        run.notes += [one.stack.rstrip() for one in stuck if one]
        run.session.adopt(records, begun, run.asked)
    except ErnieQAError as error:
        run.notes.append(str(error))
    asked = {recipe for test, recipe in host.gates.items() if "test_verdict.py::" in test}
    judged = {one.verdict.recipe: one.verdict.status for one in run.session.outcomes}
    # what this process judges otherwise than a worker did, or could not judge at all, is not green
    if run.notes or any(judged.get(recipe) is not Status.PASS for recipe in asked):
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
    if run.session.outcomes and config.pluginmanager.has_plugin("benchmark"):
        run.notes.append(NO_TABLE)
