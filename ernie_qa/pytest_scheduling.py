"""pytest-xdist's scheduling by recipe; only what distributes gates imports this."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    import pytest
    from xdist.workermanage import WorkerController


class RecipeScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """All gates of one recipe go to one worker, the recipe whose turn is first before the others; other tests
    go by their module, after the gates.

    `gates` is the recipe of each gate's test by the test's id, `turns` the turn of each recipe; both may fill
    until the collections are complete. The test in which a worker died is not run again, and the recipe's
    other tests run elsewhere, where they say that it died: xdist's own would run it until no worker is left.
    """

    def __init__(
        self, config: pytest.Config, log: Any, gates: Mapping[str, str], turns: Mapping[str, int]
    ) -> None:
        super().__init__(config, log)
        self._gates, self._turns = gates, turns

    def _split_scope(self, nodeid: str) -> str:
        # no file's path begins so
        return f"::{self._gates[nodeid]}" if nodeid in self._gates else str(super()._split_scope(nodeid))

    def _assign_work_unit(self, node: WorkerController) -> None:
        self.workqueue.move_to_end(min(self.workqueue, key=self._turn), last=False)
        super()._assign_work_unit(node)

    def _reschedule(self, node: WorkerController) -> None:
        # one that replaces a dead worker, and has not collected yet, while another one does
        if node in self.registered_collections:
            super()._reschedule(node)

    def _turn(self, scope: str) -> int:
        return self._turns[scope[2:]] if scope.startswith("::") else len(self._turns)

    def remove_node(self, node: WorkerController) -> str | None:
        workload = self.assigned_work.pop(node)
        left = [(unit, test) for unit in workload.values() for test, done in unit.items() if not done]
        if not left:
            return None
        unit, died = left[0]
        # xdist would put it back into the queue
        unit[died] = True
        self.workqueue.update({scope: unit for scope, unit in workload.items() if not all(unit.values())})
        for other in self.assigned_work:
            self._reschedule(other)
        return str(died)
