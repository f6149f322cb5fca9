"""An arm as a recipe's file, to be gated, quantized or repaired by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tomlkit

from ernie_qa.frozen import thaw
from ernie_qa.recipe import GRID

if TYPE_CHECKING:
    from ernie_qa.recipe import Recipe


def as_recipe(arm: Recipe) -> str:
    """The text of the file that the grid is in, with what `arm` chose in the grid's place."""
    document: Any = tomlkit.parse(arm.path.read_text(encoding="utf-8"))
    del document[GRID]
    components = document["components"]
    for name in [name for name in components if name not in arm.components]:
        del components[name]
    for quantizer, options in arm.options.items():
        section = document.setdefault(quantizer, tomlkit.table())
        for key, value in thaw(options).items():
            if section.get(key) != value:
                section[key] = value
    activation = document.get("activation", {})
    if "allow" in activation:
        kept = [one for one in activation["allow"] if one["layers"].partition(".")[0] in arm.components]
        if len(kept) < len(activation["allow"]):
            activation["allow"] = tomlkit.aot()
            activation["allow"].extend(kept)
    return f"# {arm.name}: an arm of {arm.path.name}\n\n{tomlkit.dumps(document)}"
