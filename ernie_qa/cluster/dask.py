"""Workers that a Dask scheduler knows: found by the scheduler's address, placed by the resource `GPU`.

Dask gives what a lost worker was at to another one by itself, four times as it is set up. How often a chunk
was begun is therefore counted where all workers see it, in events of the scheduler's.
"""

from __future__ import annotations

import logging
import pickle
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from ernie_qa.cluster.dispatch import GRACE, Workers
from ernie_qa.errors import InputError, UnavailableError
from ernie_qa.toml_input import one_line

if TYPE_CHECKING:
    from distributed import Client

RESOURCE = "GPU"
"""What a worker with a GPU of its own has one of."""
ON_A_GPU = {RESOURCE: 1}
START = f"dask worker ADDRESS --nthreads 1 --resources {RESOURCE}=1"
"""How one is started."""
_ADDRESS = re.compile(r"((tcp|tls|ucx|wss?)://)?[^\s/]+:\d{1,5}")
INLINE = 8 * 2**20
"""Bytes that are sent with each task: Dask warns of 10 MB."""
PATIENCE = 20
"""Seconds in which a scheduler has to answer: chosen."""


@dataclass(frozen=True, slots=True)
class Begun:
    """How often a chunk of one run was begun; called by workers, which find the scheduler by themselves."""

    run: str

    def __call__(self, chunk: str) -> int:
        from distributed import Event

        # an event a time: whether one is set is answered at once, and no answer is never taken for a no
        for time in count(1):
            event = Event(f"ernie-qa-{self.run}-{chunk}-{time}")
            if not event.is_set():
                event.set()
                break
        return time


@dataclass(frozen=True, slots=True)
class Cluster:
    """A scheduler that answers."""

    address: str
    client: Client

    @property
    def device(self) -> str:
        """Where its workers draw: "cuda" where one has a GPU as a resource, else "cpu"."""
        return "cuda" if any(_has(one, ON_A_GPU) for one in self._workers()) else "cpu"

    def workers(self, device: str) -> Workers:
        """Its workers for `device`. UnavailableError where there is none."""
        found = self._workers()
        if not found:
            raise UnavailableError(
                f"--cluster {self.address}: no worker there; start some: dask worker {self.address} "
                "--nthreads 1"
            )
        if device == "cuda" and self.device != "cuda":
            raise UnavailableError(
                f"--cluster {self.address}: none of its {len(found)} workers has a GPU as a resource; start "
                f"one a GPU: {START.replace('ADDRESS', self.address)}"
            )
        placed = ON_A_GPU if device == "cuda" else {}
        return Workers(
            self.client.get_executor(pure=False, **({"resources": placed} if placed else {})),
            share=lambda value: _shared(self.client, value),
            begun=Begun(uuid.uuid4().hex[:12]),
            count=lambda: self._count(placed),
        )

    def _count(self, placed: Mapping[str, int]) -> int:
        try:
            return len([one for one in self._workers() if _has(one, placed)])
        except OSError:
            # the scheduler itself is gone
            return 0

    def _workers(self) -> list[dict[str, Any]]:
        return list(self.client.scheduler_info(n_workers=-1)["workers"].values())


def _shared(client: Client, value: Any) -> Any:
    """What stands for `value` in many calls: itself where it is small, for nothing of that can be lost."""
    if len(pickle.dumps(value)) <= INLINE:
        return value
    # to all workers, for what one holds alone is lost with it; in a list, for a dict goes item by item
    return client.scatter([value], broadcast=True, hash=False, timeout=GRACE)[0]


def _has(worker: Mapping[str, Any], resources: Mapping[str, int]) -> bool:
    there = worker.get("resources", {})
    return all(there.get(name, 0) >= count for name, count in resources.items())


@contextmanager
def connected(address: str) -> Iterator[Cluster]:
    """The scheduler at `address`, as `tcp://host:8786`, until the block ends.

    UnavailableError where nobody answers or Dask is not installed, InputError where it is no address.
    """
    try:
        from distributed import Client
    except ImportError:
        raise UnavailableError("--cluster needs Dask: pip install 'ernie-qa[cluster]'") from None
    if not _ADDRESS.fullmatch(address):
        raise InputError(one_line(f"--cluster {address!r}: no address; needed is one as tcp://host:8786"))
    # what becomes of lost workers is told by whoever waits for them
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        client = Client(address, timeout=PATIENCE, set_as_default=False, name="ernie-qa")
    except (OSError, TimeoutError) as problem:
        why = one_line(str(problem).strip() or type(problem).__name__)
        raise UnavailableError(
            f"--cluster {address}: no scheduler answers there ({why}); start one: dask scheduler"
        ) from None
    except (ValueError, TypeError) as problem:
        raise InputError(
            one_line(f"--cluster {address}: no address ({problem}); needed is one as tcp://host:8786")
        ) from None
    with client:
        yield Cluster(address, client)
