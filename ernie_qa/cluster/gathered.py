"""What came back from workers: parts become records, and are kept where somebody may go on with the run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ernie_qa.errors import ErnieQAError
from ernie_qa.join import join
from ernie_qa.pieces import piece_name
from ernie_qa.recipe import REFERENCE
from ernie_qa.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Callable

    from ernie_qa.cluster.chunks import Chunk
    from ernie_qa.exchange import Exchange
    from ernie_qa.record import Record


class Gathered:
    """The `records` of the arms that are whole, and why others `broke` off; `earlier` says whether BF16's was
    there before. What is `kept` of an arm are its parts, and from when it is whole that instead. `told` is
    called with a line about what is kept and of no use."""

    def __init__(self, kept: Exchange | None, told: Callable[[str], None]) -> None:
        self.records: dict[str, Record] = {}
        self.broke: dict[str, str] = {}
        self.earlier = False
        self._kept = kept
        self._told = told
        self._parts: dict[str, dict[int, Record]] = {}
        self._spool = Spool()

    def find(self, chunk: Chunk) -> bool:
        """Take what an earlier run kept of `chunk`; False where that is nothing, or was measured against
        another BF16, and then goes. ErnieQAError where it is damaged."""
        if not self._kept or chunk.name not in self._kept.earlier:
            return False
        found = self._kept.record(chunk.name)
        bf16 = self.records.get(REFERENCE)
        if found is None or found.reference != (bf16.hash if bf16 else None):
            self._told(f"{chunk} is drawn again: what was kept was measured against another BF16")
            self._kept.forget(chunk.name)
            return False
        self.earlier = self.earlier or chunk.recipe.name == REFERENCE
        self._take(chunk, found)
        return True

    def take(self, chunk: Chunk, found: Record) -> None:
        """Take in what a worker observed. ErnieQAError where it cannot be kept, or does not fit the arm's
        other parts; of these nothing stays kept."""
        if self._kept:
            self._kept.begin(chunk.name)
            self._kept.keep(chunk.name, found)
        self._take(chunk, found)

    def break_off(self, recipe: str, why: str) -> bool:
        """Say why an arm has no record; False where that was said before."""
        if recipe in self.broke:
            return False
        self.broke[recipe] = why
        return True

    def _take(self, chunk: Chunk, found: Record) -> None:
        name = chunk.recipe.name
        pictures = tuple(picture.spooled(self._spool) for picture in found.pictures)
        parts = self._parts.setdefault(name, {})
        parts[chunk.number] = found = replace(found, pictures=pictures)
        if found.ended:
            # before a picture was drawn: the other parts would add none
            self.records[name] = found
        elif len(parts) == chunk.of:
            self.records[name] = self._joined(chunk)

    def _joined(self, last: Chunk) -> Record:
        name, of = last.recipe.name, last.of
        parts = [self._parts[name][number] for number in range(of)]
        try:
            whole = join(parts, None if name == REFERENCE else self.records[REFERENCE])
        except ErnieQAError:
            # parts that an earlier run drew with other workers would never fit
            self._forget(name, of)
            raise
        if self._kept and of > 1:
            self._forget(name, of)
            self._kept.begin(name)
            self._kept.keep(name, whole)
        return whole

    def _forget(self, recipe: str, of: int) -> None:
        if self._kept:
            for number in range(of):
                self._kept.forget(piece_name(recipe, number, of))
