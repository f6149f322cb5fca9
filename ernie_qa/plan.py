"""What will run: a model, a suite, recipes and where, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from ernie_qa.errors import InputError, RecipeError
from ernie_qa.frozen import Frozen
from ernie_qa.models.artifact import check_artifact
from ernie_qa.models.find import find_model, unpinned, vae_scale_factor
from ernie_qa.models.weights import layer_names
from ernie_qa.quantizers import checked_options
from ernie_qa.recipe import REFERENCE, find_recipe, recipe_names
from ernie_qa.rungs import check_limits
from ernie_qa.rungs.components import CASES
from ernie_qa.suite import check_sizes, find_suite, suite_names
from ernie_qa.toml_input import did_you_mean, one_line

if TYPE_CHECKING:
    from ernie_qa.models.find import Model
    from ernie_qa.recipe import Recipe
    from ernie_qa.suite import Suite


@dataclass(frozen=True, slots=True)
class Plan:
    """What will run: checked, with nothing loaded yet.

    `artifacts` are the directories that hold a recipe's components quantized already; the components of an
    `offloaded` recipe wait in main memory. Both by the recipe's name. Of so many `teacher_cases` the parts
    are fed what BF16 fed them.
    """

    model: Model
    suite: Suite
    recipes: tuple[Recipe, ...]
    device: str
    artifacts: Mapping[str, Model] = field(default_factory=lambda: Frozen({}))
    offloaded: frozenset[str] = frozenset()
    teacher_cases: int = CASES

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know before relying on a verdict, a line each."""
        told = (unpinned(model) for model in (self.model, *self.artifacts.values()))
        return (
            *(line for line in told if line),
            *_useless(self.model, self.recipes),
            *_unlimited(self.recipes, self.suite),
        )

    @property
    def pictures(self) -> int:
        """How many will be drawn, the reference's among them."""
        return len(self.suite.cases) * len({REFERENCE, *(recipe.name for recipe in self.recipes)})


def plan(
    model: Model | str | Path = "mini",
    recipes: Iterable[Recipe | str | Path] = (),
    suite: Suite | str | Path | None = None,
    device: str = "cpu",
    *,
    artifacts: Iterable[str] = (),
    offload: Iterable[str] = (),
    teacher_cases: int | None = None,
    seeds: int | None = None,
) -> Plan:
    """Resolve and check everything that can be wrong before anything is loaded; imports no torch.

    Without `recipes`, all that the package ships; without `suite`, the one that the model's manifest names.
    `artifacts` are `RECIPE=MODEL`, `offload` names of recipes; BF16's may be among the latter. `seeds` is how
    many a case is drawn with, as many as the suite says without; `teacher_cases` is
    `Plan`'s. InputError where something is wrong.
    """
    fed = CASES if teacher_cases is None else teacher_cases
    if fed < 0:
        raise InputError(f"{fed} teacher cases: needed is 0 or more")
    found = find_model(model)
    wanted = found.suite if suite is None else suite
    if wanted is None:
        raise InputError(f"{found.path}: no ernie_qa.json here names a suite for this model; say which one")
    cases = find_suite(wanted)
    if seeds is not None:
        cases = cases.with_seeds(seeds)
    check_sizes(cases, vae_scale_factor(found), found.name)
    chosen = tuple(find_recipe(recipe) for recipe in recipes or recipe_names())
    names = [recipe.name for recipe in chosen]
    for recipe in chosen:
        checked_options(recipe)
        check_limits(recipe)
        _check_suites(recipe, cases)
        if names.count(recipe.name) > 1:
            raise InputError(f"{recipe.path}: two recipes of this run have this name; rename one")
        if recipe.name == REFERENCE and recipe.components:
            raise InputError(f"{recipe.path}: {REFERENCE} is the reference's name; rename this recipe")
    stored = _artifacts(artifacts, chosen)
    instead = (
        f", and this one as its artifact: --artifact RECIPE={found.path} with `ernie-qa gate`, "
        f"--artifact {found.path} with `ernie-qa fits`, --ernie-artifact with pytest"
    )
    for recipe in chosen:
        check_artifact(found, recipe, stored.get(recipe.name), instead=instead)
    return Plan(
        found,
        cases,
        chosen,
        device,
        Frozen(stored),
        frozenset(_named(name, "--offload", [REFERENCE, *names]) for name in offload),
        fed,
    )


def _check_suites(recipe: Recipe, suite: Suite) -> None:
    """RecipeError where `recipe` limits or allows something for a suite that is neither shipped, nor drawn
    here, nor a file beside the recipe: misspelt, its limits would keep nothing out."""
    known = {*suite_names(), suite.name}
    named = [(f"gates.{name}", name) for name in recipe.gates]
    for index, allowance in enumerate(recipe.allowances):
        named += [(f"activation.allow[{index}].suites", name) for name in allowance.suites]
    for place, name in named:
        if name not in known and not recipe.path.with_name(f"{name}.toml").is_file():
            shipped = ", ".join(suite_names())
            raise RecipeError(
                f"{recipe.path}: {place}: no suite of this name: shipped are {shipped}, this run's is "
                f"{suite.name}, and no {name}.toml lies beside the recipe{did_you_mean(name, known)}"
            )


def _useless(model: Model, recipes: Iterable[Recipe]) -> Iterator[str]:
    """The allowances of layers that `model` does not have, a line each."""
    for recipe in recipes:
        for allowance in recipe.allowances:
            component = allowance.layers.partition(".")[0]
            places = (f"{component}.{name}" for name in layer_names(model, component))
            if not any(fnmatchcase(place, allowance.layers) for place in places):
                yield one_line(
                    f"warning: {recipe.path}: activation.allow: no layer of {model.name} is named as "
                    f'"{allowance.layers}", so it allows nothing'
                )


def _unlimited(recipes: Iterable[Recipe], suite: Suite) -> Iterator[str]:
    """The recipes that set no limits for `suite`, a line each."""
    for recipe in recipes:
        if recipe.name != REFERENCE and suite.name not in recipe.gates:
            yield one_line(
                f"warning: {recipe.path}: has no limits for the suite {suite.name}, so its verdict is not "
                f'comparable; write them as [gates.{suite.name}.limits."images.lpips_mean"] and so on'
            )


def _artifacts(given: Iterable[str], recipes: Iterable[Recipe]) -> dict[str, Model]:
    """Recipe -> the model that holds it quantized, of `RECIPE=MODEL`."""
    names = [recipe.name for recipe in recipes if recipe.components]
    found: dict[str, Model] = {}
    for text in given:
        recipe, equals, model = text.partition("=")
        if not equals or not model:
            raise InputError(f"--artifact {text}: needed is RECIPE=MODEL, a directory or a hub id")
        name = _named(recipe, "--artifact", names)
        if name in found:
            raise InputError(f"--artifact {text}: {name} has an artifact already")
        found[name] = find_model(model)
    return found


def _named(name: str, option: str, names: Sequence[str]) -> str:
    if name not in names:
        known = ", ".join(dict.fromkeys(names)) or "none that quantizes"
        raise InputError(f"{option} {name}: no recipe of this run; it has {known}{did_you_mean(name, names)}")
    return name


def visible_device() -> str:
    """ "cuda" where torch sees a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
