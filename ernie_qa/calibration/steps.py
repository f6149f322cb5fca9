"""How far calibrating is. A step is a picture drawn, or a case that the parts are fed, which draws it too."""

from __future__ import annotations

from collections.abc import Callable, Mapping

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many steps are done, and of how many."""


class Steps:
    """The steps of several undertakings, each of so many: name -> steps, in their order.

    Called once a step. One that ends early, or takes more, moves none of those after it.
    """

    def __init__(self, sizes: Mapping[str, int], progress: Progress) -> None:
        self._sizes = sizes
        self._progress = progress
        self._name = ""
        self._done = 0

    def begin(self, name: str) -> None:
        """The next undertaking."""
        self._name, self._done = name, 0
        self._tell()

    def __call__(self) -> None:
        self._done = min(self._done + 1, self._sizes[self._name])
        self._tell()

    def _tell(self) -> None:
        names = list(self._sizes)
        before = sum(self._sizes[name] for name in names[: names.index(self._name)])
        self._progress(self._name, before + self._done, sum(self._sizes.values()))
