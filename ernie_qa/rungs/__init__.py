"""The ladder of evidence, a file a rung.

A rung is a module with

    NAME      what its figures, checks, gate file and page in docs are called
    ORDER     its place on the ladder: cheap rungs first
    LIMITS    the limits that a recipe may set for it: name -> "max" or "min", the bound that keeps out damage
    measure(arm)      a generator: it runs up to its one `yield` before the suite is drawn, and yields the
                      figures that it has by then, which are judged at once, or None; it receives what was
                      drawn, and returns figures (JSON values)
    join(parts, reference)
                      the figures of an arm of which each of `parts` holds those of some cases, in the
                      cases' order, measured against `reference`; ErnieQAError where the parts disagree
                      (`ernie_qa.parts`)
    judge(evidence)   yields checks; it imports no torch
    track(record, pictures)
                      yields the figures that a baseline holds on to (`ernie_qa.baseline.accepted.Tracked`);
                      `pictures` are BF16's accepted ones, if there are any; it imports no torch

A new rung is a new file here and nothing else.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from ernie_qa.errors import RecipeError
from ernie_qa.fidelity.metrics import metrics
from ernie_qa.fingerprint import differences, same_build_and_machine
from ernie_qa.quantizers import checked_options, find_quantizer
from ernie_qa.recipe import Recipe
from ernie_qa.toml_input import did_you_mean

if TYPE_CHECKING:
    from concurrent.futures import Future

    from diffusers import ErnieImagePipeline

    from ernie_qa.baseline.accepted import Tracked
    from ernie_qa.baseline.pictures import Pictures
    from ernie_qa.drawing import Drawn
    from ernie_qa.models.find import Model
    from ernie_qa.quantizers import LayerState, Quantizer, Watching
    from ernie_qa.recipe import Gate, Limit
    from ernie_qa.record import Record
    from ernie_qa.suite import Suite
    from ernie_qa.trajectories import Trajectories
    from ernie_qa.verdict import Check

Figures = Mapping[str, Any]

BASELINE = "baseline"
"""What the checks against accepted figures begin with: `baseline.images.lpips_mean`."""


@dataclass(frozen=True, slots=True)
class Arm:
    """What is being observed: a live pipeline, what it is said to be, and the `watches` over it.

    `accepted` are the pictures that BF16 drew when a person accepted them; None for all other arms.
    `artifact` is the directory that it was loaded from as the recipe had quantized it, None where `model` was
    quantized in memory. Each of `after` is called with every picture once it is drawn; what it begins ends
    before the next one is drawn and timed, and so runs beside that one's warm-up.

    `teacher_cases` is how many cases BF16's arm records for the others, which are then fed them. A rung
    leaves what it recorded in `kept`. `timed_apart` says that the reference was timed in an earlier run.
    Where a case was drawn for the components rung before the first picture, it is in `rehearsed`: its id,
    seconds, and how many kernels were compiled.
    """

    pipe: ErnieImagePipeline
    model: Model
    recipe: Recipe
    suite: Suite
    reference: Record | None
    accepted: Pictures | None = None
    artifact: Model | None = None
    teacher_cases: int = 0
    timed_apart: bool = False
    kept: list[Trajectories] = field(default_factory=list, compare=False, repr=False)
    rehearsed: list[dict[str, Any]] = field(default_factory=list, compare=False, repr=False)
    watches: list[Watching] = field(default_factory=list, compare=False, repr=False)
    after: list[Callable[[Drawn], Future[Any] | None]] = field(
        default_factory=list, compare=False, repr=False
    )
    _seen: dict[str, Seen] = field(default_factory=dict, compare=False, repr=False)

    @property
    def stored(self) -> Model:
        """What the pipeline was loaded from."""
        return self.artifact or self.model

    @contextmanager
    def unwatched(self) -> Iterator[None]:
        """Without the hooks of any watch, which are put back at the end."""
        # they wrap the same functions, one around the other
        for watch in reversed(self.watches):
            watch.off()
        try:
            yield
        finally:
            for watch in self.watches:
                watch.on()

    def seen(self, component: str) -> Seen:
        """What the component's quantizer sees in it. Read once for all rungs, before the first forward: some
        CPUs repack NF4 weights in that."""
        if component not in self._seen:
            pipe: Any = self.pipe
            name = self.recipe.components[component]
            quantizer, options = find_quantizer(name), checked_options(self.recipe)[name]
            # one proof a quantizer: all components have its options from the same recipe
            proved = next((one for one in self._seen.values() if one.quantizer is quantizer), None)
            probe = proved.probe if proved else quantizer.prove(str(pipe._execution_device), options)
            states = () if probe else quantizer.describe(getattr(pipe, component), options)
            self._seen[component] = Seen(quantizer, options, probe, tuple(states))
        return self._seen[component]


@dataclass(frozen=True, slots=True)
class Seen:
    """One quantized component: its quantizer and checked `options`, `probe`, why that cannot tell anything
    here (None where it can), and then the `states` of its layers."""

    quantizer: Quantizer
    options: Mapping[str, Any]
    probe: str | None
    states: tuple[LayerState, ...]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a verdict is made from."""

    record: Record
    reference: Record | None
    recipe: Recipe

    @property
    def gate(self) -> Gate | None:
        """The recipe's limits for the suite that was drawn; None where it sets none."""
        return self.recipe.gates.get(self.record.suite.name)

    @property
    def limits(self) -> Mapping[str, Limit]:
        """The gate's limits, with the budgets of the record's own GPU over them; empty without a gate."""
        if self.gate is None:
            return {}
        return {**self.gate.limits, **self.gate.budgets.get(self.record.fingerprint.gpu or "", {})}

    def other_reference(self, measured: str, figures: str) -> str | None:
        """Why `figures` ("the scores were") that were measured against the record of the hash `measured` must
        not be judged with this reference; None where they may."""
        if self.reference is None:
            return f"{figures} measured against record {measured[:12]}: judge with that record as reference"
        if measured != self.reference.hash or self.record.reference != measured:
            return (
                f"{figures} measured against record {measured[:12]}, and the reference given is "
                f"{self.reference.hash[:12]}: judge with the former"
            )
        ours, theirs = self.record.fingerprint, self.reference.fingerprint
        if not same_build_and_machine(ours, theirs):
            differing = "; ".join(differences(ours, theirs)[:3])
            return f"the reference is of another build or machine ({differing}): observe bf16 again here"
        return None


class Rung(Protocol):
    NAME: str
    ORDER: int
    LIMITS: Mapping[str, str]

    def measure(self, arm: Arm) -> Generator[Figures | None, tuple[Drawn, ...], Figures]: ...

    def join(self, parts: Sequence[Figures], reference: Record | None) -> Figures: ...

    def judge(self, evidence: Evidence) -> Iterator[Check]: ...

    def track(self, record: Record, pictures: Pictures | None) -> Iterator[Tracked]: ...


@cache
def rungs() -> tuple[Rung, ...]:
    """All rungs, the cheapest first."""
    found = (import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
    return tuple(sorted((cast("Rung", module) for module in found), key=lambda rung: rung.ORDER))


def check_limits(recipe: Recipe) -> None:
    """RecipeError where a limit of `recipe` would keep nothing out: no rung judges that figure, or the bound
    is on its good side alone. Or everything: it lies where no figure can be."""
    for suite, gate in recipe.gates.items():
        place = f"{recipe.path}: gates.{suite}"
        _check_limits(gate.limits, f"{place}.limits")
        for gpu, limits in gate.budgets.items():
            _check_limits(limits, f'{place}.budgets."{gpu}"')
        for name in sorted(gate.informational):
            _check_rung(name, f"{place}.informational")
            if name.startswith(f"{BASELINE}."):
                raise RecipeError(
                    f"{place}.informational: {name!r} would never be compared again: use a waiver, which ends"
                )
        for waiver in gate.waivers:
            _check_rung(waiver.check, f"{place}.waivers")


def _check_limits(limits: Mapping[str, Limit], place: str) -> None:
    known = {name: bound for rung in rungs() for name, bound in rung.LIMITS.items()}
    for name, limit in limits.items():
        if name not in known:
            raise RecipeError(
                f"{place}: no rung judges {name!r}{did_you_mean(name, known) or ';'} "
                f"allowed are {', '.join(sorted(known))}"
            )
        if limit.about == "suite" and not name.startswith("images."):
            raise RecipeError(f'{place}.{name}: about = "suite" is for limits on images; leave it out')
        if getattr(limit, known[name]) is None:
            raise RecipeError(
                f"{place}.{name}: has no {known[name]}, the bound that keeps out damage; add it"
            )
        if known[name] == "max" and limit.max is not None and limit.max < 0:
            raise RecipeError(
                f"{place}.{name}.max: found {limit.max:g}, and no such figure is below 0: nothing would pass"
            )
        ideal = next((one.IDEAL for one in metrics() if name.startswith(f"images.{one.NAME}_")), None)
        if known[name] == "min" and ideal is not None and (limit.min or 0) > ideal:
            raise RecipeError(
                f"{place}.{name}.min: found {limit.min:g}, and no such figure is above {ideal:g}: nothing "
                "would pass"
            )


def _check_rung(check: str, place: str) -> None:
    """RecipeError where no rung makes checks of that name, nor the comparison with the baseline."""
    names = (*(rung.NAME for rung in rungs()), BASELINE)
    rung = check.partition(".")[0]
    if rung not in names:
        raise RecipeError(
            f"{place}: {check!r} belongs to no rung; rungs are {', '.join(names)}{did_you_mean(rung, names)}"
        )
