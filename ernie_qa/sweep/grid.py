"""A recipe's grid: lists of options and of components, and the recipes that all their combinations make.

[grid]
components = [["transformer"], ["text_encoder", "transformer"]]

[grid.sdnq]
weights_dtype = ["int8", "uint4"]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_qa.errors import RecipeError
from ernie_qa.frozen import Frozen, digest
from ernie_qa.quantizers import checked_options
from ernie_qa.recipe import GRID, REFERENCE, find_grid
from ernie_qa.toml_input import SAFE_NAME, did_you_mean, one_line
from ernie_qa.wording import counted

if TYPE_CHECKING:
    from ernie_qa.recipe import Recipe
    from ernie_qa.toml_input import Table

MOST_ARMS = 256
LONGEST_NAME = 48
"""Characters: names are columns of a table and directories."""
_COMPONENTS = "components"
_SHORT = {
    "weights_dtype": "",
    "group_size": "g",
    "use_quantized_matmul": "qmm",
    "use_svd": "svd",
    "svd_rank": "rank",
    "use_hadamard": "hadamard",
    "dequantize_fp32": "fp32",
    "pe": "pe",
    "text_encoder": "te",
    "transformer": "tr",
}
"""What stands in an arm's name for a long word; others stand as they are."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One option of one quantizer, or, where `quantizer` is empty, the components; two or more values, or
    one."""

    quantizer: str
    key: str
    values: tuple[Any, ...]


def arms(path: str | Path) -> tuple[Recipe, ...]:
    """The recipes that the grid in the file at `path` makes, the last axis first to change; arms that come
    out as the same recipe are one.

    RecipeError where the grid is wrong, makes more than `MOST_ARMS`, or a quantizer refuses an arm: one line
    tells all that are refused, and the options.
    """
    base, grid = find_grid(path)
    found = _axes(base, grid)
    count = 1
    for axis in found:
        count *= len(axis.values)
    if count > MOST_ARMS:
        raise RecipeError(
            f"{base.path}: {GRID}: makes {count} arms, allowed are {MOST_ARMS}; make two sweeps"
        )
    made: dict[str, Recipe] = {}
    taken = {REFERENCE}
    for values in product(*(axis.values for axis in found)):
        arm = _arm(base, list(zip(found, values, strict=True)), taken)
        if arm.hash not in made:
            made[arm.hash] = arm
            taken.add(arm.name.casefold())
    _check(base, tuple(made.values()))
    return tuple(made.values())


def _axes(base: Recipe, grid: Table) -> tuple[Axis, ...]:
    found = []
    whole = grid.frozen()
    for key in whole:
        if key == _COMPONENTS:
            found.append(Axis("", key, _choices(grid, key, whole[key])))
            _check_components(base, grid, whole[key])
        elif key in base.options:
            table = grid.table(key)
            for option, values in whole[key].items():
                if option in base.options[key]:
                    grid.fail(key, f"{option} stands in [{key}] too; leave it out there or here")
                found.append(Axis(key, option, _choices(table, option, values)))
        else:
            known = (_COMPONENTS, *base.options)
            grid.fail(
                key,
                f"found an unknown key, allowed are {', '.join(known)}; options stand below their "
                f"quantizer, as [grid.{next(iter(base.options), 'sdnq')}]{did_you_mean(key, known)}",
            )
    if not found:
        grid.fail(None, "holds no list; name options, as weights_dtype, with the values to try")
    return tuple(found)


def _choices(table: Table, key: str, values: Any) -> tuple[Any, ...]:
    if not isinstance(values, tuple) or not values:
        table.wrong(key, "a list of the values to try, at least one")
    # 1, 1.0 and true are equal and not the same
    if len({digest(value) for value in values}) < len(values):
        table.fail(key, "a value is named twice")
    return values


def _check_components(base: Recipe, grid: Table, values: Sequence[Any]) -> None:
    allowed = ", ".join(base.components)
    for value in values:
        if not isinstance(value, tuple) or not value or any(one not in base.components for one in value):
            grid.fail(
                _COMPONENTS, f"needed are lists of names, each a component that [components] has: {allowed}"
            )
        if len(set(value)) < len(value):
            grid.fail(_COMPONENTS, f"{', '.join(value)}: a component is named twice")


def _arm(base: Recipe, chosen: Sequence[tuple[Axis, Any]], taken: set[str]) -> Recipe:
    options: dict[str, dict[str, Any]] = {name: dict(own) for name, own in base.options.items()}
    components: Mapping[str, str] = base.components
    for axis, value in chosen:
        if axis.quantizer:
            options[axis.quantizer][axis.key] = value
        else:
            components = {name: base.components[name] for name in sorted(value)}
    used = {name: Frozen(own) for name, own in options.items() if name in components.values()}
    allowances = tuple(one for one in base.allowances if one.layers.partition(".")[0] in components)
    return replace(
        base,
        name=_name(chosen, taken),
        components=Frozen(components),
        options=Frozen(used),
        allowances=allowances,
    )


def _name(chosen: Sequence[tuple[Axis, Any]], taken: set[str]) -> str:
    """What differs between the arms, shortly; one that is taken gets a number."""
    words = [_word(axis, value) for axis, value in chosen if len(axis.values) > 1]
    text = "-".join(word for word in words if word)
    text = "".join(letter if SAFE_NAME.fullmatch(f"a{letter}a") else "_" for letter in text)
    text = text.lstrip("-_.")[:LONGEST_NAME].rstrip("-_.") or "arm"
    name, number = text, 1
    while name.casefold() in taken:
        number += 1
        name = f"{text}-{number}"
    return name


def _word(axis: Axis, value: Any) -> str:
    short = _SHORT.get(axis.key, axis.key)
    if not axis.quantizer:
        return "_".join(_SHORT[name] for name in sorted(value))
    match value:
        case bool():
            return short if value else f"no_{short}"
        case int() if value < 0:
            # -1 is SDNQ's word for one scale a row
            return f"{short}row" if axis.key == "group_size" and value == -1 else f"{short}minus{-value}"
        case str() | int() | float():
            return f"{short}{value}"
        case _:
            return f"{short}{axis.values.index(value) + 1}"


def _check(base: Recipe, made: Sequence[Recipe]) -> None:
    refused: dict[str, list[str]] = {}
    for arm in made:
        try:
            checked_options(arm)
        except RecipeError as problem:
            why = str(problem).removeprefix(f"{base.path}: ")
            refused.setdefault(why, []).append(arm.name)
    if refused:
        count = sum(map(len, refused.values()))
        told = "; ".join(f"{', '.join(names)}: {why}" for why, names in refused.items())
        raise RecipeError(
            one_line(f"{base.path}: {GRID}: {counted(count, 'arm')} of {len(made)} refused: {told}")
        )
