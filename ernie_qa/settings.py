"""What a session is told beside its plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ernie_qa.record import Record


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user chose for all arms; the fields are `ernie_qa.execute.Session`'s."""

    baselines: Path | None = None
    require_baseline: bool = False
    any_allocator: bool = False
    all_rungs: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """The part of one arm that a session is for: the ids of the `cases` that it draws; the BF16 `reference`
    that was drawn elsewhere, None where BF16 is the arm; whether that was timed in an `earlier` run; and what
    keeps kernels `apart` that are compiled here (`ernie_qa.exchange.Exchange`)."""

    cases: tuple[str, ...]
    reference: Record | None
    earlier: bool = False
    apart: str = ""
