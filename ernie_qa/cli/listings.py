"""`ernie-qa recipes`, `ernie-qa models` and `ernie-qa suites`: what is shipped."""

from __future__ import annotations

import argparse

from ernie_qa.cli.exit_codes import OK


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the three commands."""
    for name, run, summary in (
        ("recipes", _recipes, "list the shipped recipes"),
        ("models", _models, "list the shipped models"),
        ("suites", _suites, "list the shipped suites"),
    ):
        listing = commands.add_parser(name, help=summary, description=summary.capitalize() + ".")
        listing.set_defaults(run=run)


def _recipes(options: argparse.Namespace) -> int:
    from ernie_qa.recipe import find_recipe, recipe_names

    for name in recipe_names():
        recipe = find_recipe(name)
        print(f"{name}\n    {recipe.summary}")
        print(f"    quantizes {', '.join(recipe.components) or 'nothing'}; {recipe.path}")
    return OK


def _models(options: argparse.Namespace) -> int:
    from ernie_qa.models.find import find_model, model_names

    for name in model_names():
        model = find_model(name)
        print(f"{name}\n    {model.manifest.summary if model.manifest else ''}")
        print(f"    {model.weights} weights, suite {model.suite}; {model.path}")
    return OK


def _suites(options: argparse.Namespace) -> int:
    from ernie_qa.suite import find_suite, suite_names
    from ernie_qa.wording import counted

    for name in suite_names():
        suite = find_suite(name)
        enhanced = ", with the prompt enhancer" if suite.use_pe else ""
        print(f"{name}\n    {suite.summary}")
        print(
            f"    {counted(len(suite.cases), 'case')}, {counted(suite.steps, 'step')}, "
            f"guidance {suite.guidance:g}{enhanced}; {suite.path}"
        )
    return OK
