"""The gate tested: every fault of the corpus is done to a sound arm, and the verdict has to name it; every
clean variant has to pass. docs/selftest.md has what was found.

It runs the shipped miniature: BF16 is observed once and is the reference of all, and each recipe's sound arm
once, as soon as a fault needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

from ernie_qa.errors import InputError, UnavailableError
from ernie_qa.faults import Fault, corpus
from ernie_qa.fidelity.text.engines import engines
from ernie_qa.fidelity.text.reading import reader
from ernie_qa.selftest.bench import bench
from ernie_qa.selftest.row import Row
from ernie_qa.toml_input import did_you_mean


@dataclass(frozen=True, slots=True)
class Result:
    """All rows, and the entries that `skipped` for want of their device."""

    rows: tuple[Row, ...]
    skipped: tuple[Fault, ...]
    seconds: float

    @property
    def faults(self) -> tuple[Row, ...]:
        """The rows of faults."""
        return tuple(row for row in self.rows if not row.fault.clean)

    @property
    def killed(self) -> tuple[Row, ...]:
        """The faults that were caught."""
        return tuple(row for row in self.faults if row.caught_by)

    @property
    def clean_runs(self) -> tuple[Row, ...]:
        """The clean variants that differ in bits."""
        return tuple(row for row in self.rows if row.fault.clean and row.counts)

    @property
    def false_alarms(self) -> tuple[Row, ...]:
        """The clean variants that were not passed over, bits or not."""
        return tuple(row for row in self.rows if row.fault.clean and row.caught_by)

    @property
    def sound(self) -> bool:
        """Whether every fault was caught that is not known to survive, and no clean variant was."""
        return all(row.caught_by or row.fault.survives for row in self.faults) and not self.false_alarms


def chosen(names: Sequence[str] = (), recipes: Sequence[str] = ()) -> tuple[Fault, ...]:
    """The entries of those names and recipes, all without any. InputError where one is unknown, or a name is
    of another recipe."""
    known = corpus()
    for given, allowed in ((names, [one.name for one in known]), (recipes, [one.recipe for one in known])):
        for name in given:
            if name not in allowed:
                raise InputError(
                    f"no fault {'of recipe' if given is recipes else 'named'} {name!r}; "
                    f"--list shows all{did_you_mean(name, sorted(set(allowed)))}"
                )
    found = [one for one in known if not names or one.name in names]
    if recipes and (others := [one for one in found if one.recipe not in recipes]) and names:
        raise InputError(f"the fault {others[0].name!r} is done to {others[0].recipe}: leave out --recipe")
    return tuple(one for one in found if not recipes or one.recipe in recipes)


def selftest(
    faults: Sequence[Fault] = (),
    device: str = "cpu",
    progress: Callable[[str, int, int], None] = lambda name, done, of: None,
) -> Result:
    """Try `faults`, all of the corpus without any; `progress` is told the next one's name, how many are done,
    and of how many. UnavailableError, before anything is loaded, where an engine of the text rung is not
    installed: it decides here, and no arm would pass."""
    try:
        reader(engines())
    except UnavailableError as missing:
        raise UnavailableError(f"selftest needs what reads words in pictures: {missing}") from missing
    wanted = faults or corpus()
    kinds = {"cpu", device.partition(":")[0]}
    runnable = [one for one in wanted if one.device in kinds]
    rows = []
    began = perf_counter()
    with bench(device) as stand:
        for done, one in enumerate(runnable):
            progress(one.name, done, len(runnable))
            rows.append(stand.tried(one))
    skipped = tuple(one for one in wanted if one.device not in kinds)
    return Result(tuple(rows), skipped, perf_counter() - began)
