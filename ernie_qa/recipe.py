"""A recipe: which components are quantized, how, and which limits the result must keep."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from ernie_qa.errors import RecipeError
from ernie_qa.frozen import Frozen, digest
from ernie_qa.toml_input import SAFE_NAME, SAFE_NAME_RULE, Table, did_you_mean, find_file, names_in, read_toml

SCHEMA = 1
REFERENCE = "bf16"
"""The recipe that all others are compared with."""
QUANTIZABLE = ("pe", "text_encoder", "transformer")
"""What a recipe may quantize; the VAE, the scheduler and the tokenizers stay as they are."""
REASONS = ("few_rows", "decoding", "idle")
"""Why a layer may do without the quantized kernel, see `Allowance`."""

GRID = "grid"
"""The part of a recipe that makes many of it, see `ernie_qa.sweep.grid`."""

_OWN_KEYS = ("schema", "summary", "components", "activation", "gates", GRID)
_DIRECTORY = Path(__file__).parent / "recipes"
_QUANTIZER = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_CHECK = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)+")
_CHECK_RULE = 'the name of a check, a rung and a figure in quotes, as "images.lpips_mean"'
_LABEL = re.compile(_CHECK.pattern + r"(\[[^\[\]]+\])?")
_LABEL_RULE = 'the name of a check, as "images.lpips_mean" or "activation.kernels[text_encoder]"'


ABOUT = ("pictures", "suite")
"""What a limit of picture scores is about, see `Limit`."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One bound on one figure. `source` says where it comes from; `provisional` that it was never
    measured on real weights.

    `about` matters for a mean over pictures. "pictures": whatever the suite's prompts may give; those that
    were drawn are a sample, and may be too few to tell. "suite": the very pictures that the suite's own seeds
    give, from which the bound was measured; they are all there, and nothing is left to chance.
    """

    max: float | None
    min: float | None
    source: str
    provisional: bool = False
    about: str = "pictures"


@dataclass(frozen=True, slots=True)
class Waiver:
    """A check that does not decide until a date, and why.

    `check` is its name, or its label where one component or case is meant: `activation.kernels[pe]`. `until`
    is the last day, in UTC.
    """

    check: str
    reason: str
    until: date


@dataclass(frozen=True, slots=True)
class Gate:
    """The limits for one suite, keyed by check name (`images.lpips_mean`), and what does not decide.

    `budgets` are limits that hold on one GPU model alone, and there instead of those in `limits`: the GPU's
    name, as torch gives it, -> check name -> limit.
    """

    limits: Mapping[str, Limit]
    informational: frozenset[str] = frozenset()
    waivers: tuple[Waiver, ...] = ()
    budgets: Mapping[str, Mapping[str, Limit]] = field(default_factory=lambda: Frozen({}))


@dataclass(frozen=True, slots=True)
class Allowance:
    """Layers that may do without the quantized kernel, and why.

    `layers` is an fnmatch pattern over `component.layer.name`; `when` is the only reason accepted:
    `few_rows` (fewer rows than the kernel takes), `decoding` (token by token), `idle` (never called).
    `suites` are the names of those it holds for; all where there is none.
    """

    layers: str
    when: str
    why: str
    suites: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is quantized (`components`: component -> quantizer), with which options (`options`: quantizer ->
    options as written, empty where there is no section), what may fall back, and the gates by suite."""

    name: str
    summary: str
    components: Mapping[str, str]
    options: Mapping[str, Mapping[str, Any]]
    allowances: tuple[Allowance, ...]
    gates: Mapping[str, Gate]
    path: Path

    @property
    def hash(self) -> str:
        """The sha256 over components and options as written: what changes a picture, not the limits."""
        return digest({"components": self.components, "options": self.options})

    def section(self, quantizer: str) -> Table:
        """The section of `quantizer`, to be checked by it: errors name this file and the key."""
        return Table(self.options[quantizer], self.path, quantizer, RecipeError)


def recipe_names() -> tuple[str, ...]:
    """The names of the shipped recipes."""
    return names_in(_DIRECTORY)


def find_recipe(recipe: Recipe | str | Path) -> Recipe:
    """The recipe that is meant: itself, the shipped one of that name, or the file at that path.

    A text with a path separator or the suffix .toml is a path. RecipeError if there is none or it is wrong,
    or if it holds a grid, which is many recipes.
    """
    if isinstance(recipe, Recipe):
        return recipe
    found, table = _read(recipe)
    if GRID in table:
        table.fail(
            GRID, f"this is many recipes; run them with `ernie-qa sweep {shlex.quote(str(found.path))}`"
        )
    return found


def find_grid(recipe: str | Path) -> tuple[Recipe, Table]:
    """The recipe of that name or path without its grid, and the grid. RecipeError as `find_recipe`'s, or if
    there is no grid."""
    found, table = _read(recipe)
    return found, table.table(GRID)


def _read(recipe: str | Path) -> tuple[Recipe, Table]:
    path = find_file(recipe, _DIRECTORY, "recipe", RecipeError)
    table = read_toml(path, RecipeError)
    table.schema(SCHEMA)
    summary = table.text("summary")
    components = _components(table.table("components"))
    options = {name: table.table(name, optional=True).frozen() for name in sorted(set(components.values()))}
    allowances = _allowances(table.table("activation", optional=True), components)
    gates = _gates(table.table("gates", optional=True))
    for key in table:
        if key not in (*_OWN_KEYS, *options):
            own, used = ", ".join(_OWN_KEYS), ", ".join(options) or "none"
            close = did_you_mean(key, _OWN_KEYS)
            if not close and did_you_mean(key, options):
                close = "; is one of the two misspelt?"
            table.fail(
                key, f"no part of a recipe ({own}) and no quantizer that a component uses ({used}){close}"
            )
    found = Recipe(path.stem, summary, Frozen(components), Frozen(options), allowances, Frozen(gates), path)
    return found, table


def _components(table: Table) -> dict[str, str]:
    rule = "the name of a quantizer, as sdnq or bitsandbytes"
    found = {
        name: table.text(name, pattern=_QUANTIZER, allowed=rule) for name in QUANTIZABLE if name in table
    }
    for key in table:
        if key not in QUANTIZABLE:
            table.fail(
                key, f"unknown component; allowed: {', '.join(QUANTIZABLE)}{did_you_mean(key, QUANTIZABLE)}"
            )
    for component, quantizer in found.items():
        if quantizer in _OWN_KEYS:
            table.fail(
                component, f'"{quantizer}" names a part of the recipe, not a quantizer; needed is {rule}'
            )
    return found


def _allowances(activation: Table, components: Mapping[str, str]) -> tuple[Allowance, ...]:
    allowances = []
    for entry in activation.tables("allow", optional=True):
        layers = entry.text("layers")
        component = layers.partition(".")[0]
        if component not in components or layers == component:
            entry.wrong(
                "layers",
                "a pattern that begins with a quantized component and a dot, as "
                f'"{next(iter(components), "transformer")}.*"{did_you_mean(component, components)}',
            )
        suites = entry.strings("suites", (), pattern=SAFE_NAME, allowed=SAFE_NAME_RULE)
        allowances.append(Allowance(layers, entry.choice("when", REASONS), entry.text("why"), suites))
        entry.finish()
    activation.finish()
    return tuple(allowances)


def _gates(table: Table) -> dict[str, Gate]:
    gates = {}
    for suite in table:
        if not SAFE_NAME.fullmatch(suite):
            table.fail(suite, f"no name of a suite; allowed are {SAFE_NAME_RULE}")
        gate = table.table(suite)
        limits = _limits(gate.table("limits", optional=True))
        budgets = gate.table("budgets", optional=True)
        found = {gpu: _budget(budgets, gpu) for gpu in budgets}
        informational = gate.strings("informational", (), pattern=_CHECK, allowed=_CHECK_RULE)
        waivers = tuple(map(_waiver, gate.tables("waivers", optional=True)))
        gate.finish()
        gates[suite] = Gate(limits, frozenset(informational), waivers, Frozen(found))
    return gates


def _waiver(entry: Table) -> Waiver:
    waiver = Waiver(
        check=entry.text("check", pattern=_LABEL, allowed=_LABEL_RULE),
        reason=entry.text("reason"),
        until=entry.day("until"),
    )
    entry.finish()
    return waiver


def _limits(table: Table) -> Mapping[str, Limit]:
    return Frozen({name: _limit(table, name) for name in table})


def _budget(budgets: Table, gpu: str) -> Mapping[str, Limit]:
    if gpu != gpu.strip() or not gpu.isprintable() or not gpu or _CHECK.fullmatch(gpu):
        budgets.fail(gpu, 'needed is the name of a GPU as torch gives it, as "NVIDIA H100 80GB HBM3"')
    return _limits(budgets.table(gpu))


def _limit(limits: Table, name: str) -> Limit:
    if not _CHECK.fullmatch(name):
        limits.fail(name, f"needed is {_CHECK_RULE}")
    entry = limits.table(name)
    bounds = {key: entry.number(key) if key in entry else None for key in ("max", "min")}
    low, high = bounds["min"], bounds["max"]
    if low is None and high is None:
        entry.fail(None, "a limit needs max, min or both")
    if low is not None and high is not None and low > high:
        entry.fail(None, f"min {low:g} is above max {high:g}")
    limit = Limit(
        high,
        low,
        entry.text("source"),
        entry.boolean("provisional", False),
        entry.choice("about", ABOUT, "pictures"),
    )
    entry.finish()
    return limit
