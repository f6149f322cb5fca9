"""Where arms are drawn: in this process, in one that can be ended, or on the workers of a cluster."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ernie_qa.cli.arguments import check_timeout
from ernie_qa.errors import InputError

if TYPE_CHECKING:
    from ernie_qa.cluster.dask import Cluster
    from ernie_qa.exchange import Exchange
    from ernie_qa.execute import Session
    from ernie_qa.plan import Plan
    from ernie_qa.settings import Settings


def add_cluster(command: ArgumentParser) -> None:
    """Where else arms may be drawn."""
    command.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="draw on the workers of the Dask scheduler at this address, as tcp://host:8786, and judge here",
    )
    command.add_argument(
        "--chunk",
        type=int,
        metavar="N",
        help="with --cluster, give a worker N cases at a time, 0 for all of a recipe's (all of them, and of "
        "BF16, for which the others wait, a share each)",
    )


@dataclass(frozen=True, slots=True)
class Where:
    """What the options say: seconds that a step may take, 0 for any time; or a `cluster`, None for this
    machine, and how many cases a worker there is given at a time (`ernie_qa.cluster.run`)."""

    timeout: int
    cluster: Cluster | None
    chunk: int | None = None

    def planned(self, plan: Plan, device: str | None) -> Plan:
        """The plan on that `device`, or on the one that is there. UnavailableError where it is not."""
        from ernie_qa.meter import require_device
        from ernie_qa.plan import visible_device

        if self.cluster:
            return replace(plan, device=device or self.cluster.device)
        plan = replace(plan, device=device or visible_device())
        if not self.timeout:
            # else a worker looks at it, which can be ended: a GPU that hangs may do so at the first touch
            require_device(plan.device)
        return plan

    @property
    def asked(self) -> dict[str, int | None]:
        """What of it a run that goes on must have in common with the one before."""
        return {"chunk": self.chunk} if self.cluster else {}

    def run(self, plan: Plan, settings: Settings, kept: Exchange | None = None) -> Session:
        """Run the arms there under a progress bar. Errors are those of `ernie_qa.cli.arms.run` and
        `ernie_qa.cluster.run`."""
        if self.cluster:
            return _run_on(self.cluster, plan, settings, self.chunk, kept)
        from ernie_qa.cli.arms import run

        return run(plan, settings, self.timeout, kept)


HERE = Where(0, None)


@contextmanager
def where(options: Namespace) -> Iterator[Where]:
    """Where `options` say, connected until the block ends. InputError where they contradict each other;
    errors are also those of `ernie_qa.cluster.dask.connected`."""
    check_timeout(options.timeout)
    if options.cluster is None:
        if options.chunk is not None:
            raise InputError("--chunk: is what a cluster's workers are given: say --cluster ADDRESS too")
        yield Where(options.timeout, None)
        return
    if options.timeout:
        raise InputError(
            "--timeout: ends a process of this machine, and none of a cluster's; leave one of the two out"
        )
    from ernie_qa.cluster.dask import connected

    with connected(options.cluster) as cluster:
        yield Where(0, cluster, options.chunk)


def _run_on(
    cluster: Cluster, plan: Plan, settings: Settings, chunk: int | None, kept: Exchange | None
) -> Session:
    from ernie_qa.cli.bar import progress_bar
    from ernie_qa.cluster import run

    workers = cluster.workers(plan.device)
    with progress_bar("picture", plan.pictures) as bar:

        def progress(recipe: str, drawn: int) -> None:
            bar.on(drawn, recipe)

        return run(plan, settings, workers, chunk=chunk, kept=kept, progress=progress, told=bar.say)
