"""A recipe's file with other options in it. All else stays as its author wrote it."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from ernie_qa.errors import RecipeError
from ernie_qa.recipe import Recipe
from ernie_qa.toml_input import one_line


def check_layout(recipe: Recipe) -> None:
    """RecipeError where `rewritten` could not put another list into the recipe's file."""
    another = {
        name: {**{key: ("",) for key, value in options.items() if isinstance(value, tuple)}, "_": ("",)}
        for name, options in recipe.options.items()
    }
    rewritten(recipe, another, ())


def rewritten(recipe: Recipe, options: Mapping[str, Mapping[str, Any]], comments: Iterable[str]) -> str:
    """The text of the recipe's file with `comments` before it and these `options` by quantizer, of which only
    lists of strings may differ from the recipe's. RecipeError where the file is laid out so that they cannot
    be put into it."""
    text = recipe.path.read_text(encoding="utf-8")
    wanted = tomllib.loads(text)
    for quantizer, values in options.items():
        for key, value in values.items():
            if value != recipe.options[quantizer].get(key):
                wanted.setdefault(quantizer, {})[key] = list(value)
                text = _with(text, quantizer, key, list(value))
    text = "".join(f"# {line}".rstrip() + "\n" for line in comments) + "\n" + text
    try:
        same = tomllib.loads(text) == wanted
    except tomllib.TOMLDecodeError:
        same = False
    if not same:
        sections = " and ".join(f"[{name}]" for name in options)
        raise RecipeError(
            one_line(f"{recipe.path}: cannot be written anew: write {sections} as a section, a key a line")
        )
    return text


def _with(text: str, quantizer: str, key: str, values: list[str]) -> str:
    """`text` with the `key` of the section `quantizer` set to `values`."""
    listed = "".join(f"  {json.dumps(value)},\n" for value in values)
    entry = f"{key} = [\n{listed}]\n"
    header = re.search(rf"^[ \t]*\[[ \t]*{re.escape(quantizer)}[ \t]*\][^\n]*(\n|\Z)", text, re.MULTILINE)
    if header is None:
        return f"{text.rstrip()}\n\n[{quantizer}]\n{entry}"
    before, rest = text[: header.end()], text[header.end() :]
    after = re.search(r"^[ \t]*\[", _blanked(rest), re.MULTILINE)
    body, others = (rest[: after.start()], rest[after.start() :]) if after else (rest, "")
    old = rf"^[ \t]*{re.escape(key)}[ \t]*=[ \t]*\[[^\]]*\][^\n]*\n?"
    body = re.sub(old, "", body, flags=re.MULTILINE)
    # at the head of the section: what ends it may be a comment on the next one
    return f"{before.rstrip()}\n{entry}{body}{others}"


def _blanked(text: str) -> str:
    """`text` with as many spaces where its lists are: a line of theirs may look like the head of a table."""
    return re.sub(r"=[ \t]*\[[^\]]*\]", lambda found: re.sub(r"[^\n]", " ", found[0]), text)
