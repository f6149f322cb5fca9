"""Where a gate's time goes, arm by arm: loading, each rung before and after the suite, warming up, drawing.

    python benchmarks/phases.py replica --device cuda --teacher-cases 0
    python benchmarks/phases.py mini --recipe sdnq-int8 --profile 25

The arms of one gate in this process, without its report. The last line of an arm is what drawing took beside
the pictures' own seconds, as the record has them. With --profile the functions of ernie_qa that took longest
are printed as well; everything then takes longer.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import re
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ernie_qa.execute import Session
from ernie_qa.plan import plan
from ernie_qa.rungs import cost

if TYPE_CHECKING:
    from ernie_qa.record import Record
    from ernie_qa.watchdog import Watchdog


class Clock:
    """Told of every step, as a session's watchdog is; it keeps the seconds by recipe and step."""

    def __init__(self) -> None:
        self.spent: dict[str, Counter[str]] = {}
        self._now = ("", "between arms")
        self._since = time.perf_counter()

    def step(self, recipe: str, doing: str) -> None:
        """A step begins, and the one before has ended."""
        self._book()
        name = re.sub(r" (for )?picture .*", "", doing)
        before = name.startswith("measuring ") and "drawing" not in self.spent.get(recipe, ())
        self._now = (recipe, f"{name}, before" if before else name)

    def rest(self) -> None:
        """The step has ended, and none begins."""
        self._book()
        self._now = (self._now[0], "between steps")

    def _book(self) -> None:
        now = time.perf_counter()
        recipe, name = self._now
        self.spent.setdefault(recipe, Counter())[name] += now - self._since
        self._since = now


def told(spent: Counter[str], record: Record | None) -> None:
    """Print what one arm took, the longest first, and of the drawing what was none."""
    for name, seconds in spent.most_common():
        if seconds >= 0.005:
            print(f"  {seconds:8.2f} s  {name}")
    pictures = record.figures.get(cost.NAME, {}).get("pictures", {}).values() if record else ()
    beside = spent["drawing"] - sum(one["seconds"] for one in pictures)
    if pictures:
        print(f"  {beside:8.2f} s  of the drawing beside {len(pictures)} pictures' own seconds")


def main() -> None:
    """Run the arms and print where the time went."""
    began = time.perf_counter()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("model", help="a model, as `ernie-qa gate --model` takes it")
    parser.add_argument("--recipe", action="append", default=[])
    parser.add_argument("--suite")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--teacher-cases", type=int)
    parser.add_argument("--baselines", type=Path)
    parser.add_argument("--all-rungs", action="store_true", help="draw also what a cheap rung refuses")
    parser.add_argument("--profile", type=int, metavar="N", help="print the N functions that took longest")
    options = parser.parse_args()
    clock, profile = Clock(), cProfile.Profile()
    wanted = plan(
        options.model, options.recipe, options.suite, options.device, teacher_cases=options.teacher_cases
    )
    watchdog = cast("Watchdog", clock)
    session = Session(wanted, baselines=options.baselines, all_rungs=options.all_rungs, watchdog=watchdog)
    with profile if options.profile else nullcontext():
        session.prepare()
        for outcome in session:
            print(f"{outcome.verdict.recipe}: {outcome.verdict.status}", flush=True)
        clock.rest()
    records: dict[str, Any] = session.records
    for recipe, spent in clock.spent.items():
        print(f"\n{recipe or 'getting ready'}: {spent.total():.2f} s")
        told(spent, records.get(recipe))
    print(f"\ntogether {time.perf_counter() - began:.2f} s, the first imports not counted")
    if options.profile:
        stats: Any = pstats.Stats(profile)
        stats.sort_stats("cumtime").print_stats("ernie_qa/", options.profile)


if __name__ == "__main__":
    main()
