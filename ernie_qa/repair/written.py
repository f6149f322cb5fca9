"""A recipe's file with other options in it. All else stays as its author wrote it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import tomlkit
from tomlkit.items import InlineTable, Table

from ernie_qa.recipe import Recipe


def rewritten(recipe: Recipe, options: Mapping[str, Mapping[str, Any]], comments: Iterable[str]) -> str:
    """The text of the recipe's file with `comments` before it and these `options` by quantizer, of which only
    lists of strings may differ from the recipe's."""
    document = tomlkit.parse(recipe.path.read_text(encoding="utf-8"))
    for quantizer, values in options.items():
        for key, value in values.items():
            if value != recipe.options[quantizer].get(key):
                _set(document.setdefault(quantizer, tomlkit.table()), key, value)
    return "".join(f"# {line}".rstrip() + "\n" for line in comments) + "\n" + tomlkit.dumps(document)


def _set(section: Any, key: str, values: Iterable[str]) -> None:
    listed = tomlkit.array()
    listed.extend(values)
    # a table of one line stays one
    listed.multiline(not isinstance(section, InlineTable))
    body = section.value.body if isinstance(section, Table) else []
    tail: list[Any] = []
    # a comment at the end is on what follows
    while body and body[-1][0] is None:
        tail.insert(0, body.pop())
    section[key] = listed
    body.extend(tail)
