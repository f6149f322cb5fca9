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
    """The part of one arm that a process draws: the ids of its `cases`.

    `reference` is the BF16 record that was drawn elsewhere, in an `earlier` run perhaps; None where BF16 is
    the arm. `apart` keeps kernels apart that are compiled here (`ernie_qa.exchange.Exchange`). `before` are
    the bytes that torch held on the GPU before this process's first arm, None where this is that one.
    """

    cases: tuple[str, ...]
    reference: Record | None
    earlier: bool = False
    apart: str = ""
    before: int | None = None
