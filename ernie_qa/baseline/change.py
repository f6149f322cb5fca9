"""One accepted figure before and after: does it tighten or loosen, and by how much."""

from __future__ import annotations

from dataclasses import dataclass

from ernie_qa.baseline.accepted import Figure


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of one recipe, before and after; None where there is none."""

    recipe: str
    name: str
    old: Figure | None
    new: Figure | None

    @property
    def kind(self) -> str:
        """ "new", "gone", "same", "loosened" or "tightened": whether more or less would pass than before."""
        if self.old is None:
            return "new"
        if self.new is None:
            return "gone"
        if self.old.limit == self.new.limit:
            return "same"
        if self.new.limit is None:
            return "loosened"
        return "tightened" if self.old.keeps(self.new.limit) else "loosened"

    @property
    def loosens(self) -> bool:
        """Whether something would pass that does not pass now."""
        return self.kind in ("loosened", "gone")

    @property
    def factor(self) -> float | None:
        """How many times as far from the ideal the new limit lies; None where that says nothing."""
        if self.old is None or self.new is None or self.old.limit is None or self.new.limit is None:
            return None
        if self.old.ideal is None or self.old.limit == self.old.ideal:
            return None
        return abs(self.new.limit - self.old.ideal) / abs(self.old.limit - self.old.ideal)
