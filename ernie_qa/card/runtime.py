"""An artifact's `runtime_config.json`, as far as a card and its usage code are made from it."""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ernie_qa.errors import ModelError
from ernie_qa.models.find import Model
from ernie_qa.quantize.metadata import RUNTIME, SCHEMA
from ernie_qa.toml_input import Table, one_line, read_json

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Loading:
    """How one quantizer's components are loaded: packages to import before, and the dotted `function` to call
    on each of them afterwards with `arguments`, which are Python source; "" where there is none."""

    quantizer: str
    components: tuple[str, ...]
    imports: tuple[str, ...]
    function: str
    arguments: Mapping[str, str]

    @property
    def by_pipeline(self) -> bool:
        """Whether the pipeline's own `from_pretrained` is to load them."""
        return bool(self.imports or self.function)


@dataclass(frozen=True, slots=True)
class Runtime:
    """`base` is the name of the BF16 model, `base_hash` the hash of its files, `revision` the hub's commit of
    it. `never_together` are settings of torch's allocator that are bad in company."""

    base: str
    base_hash: str
    revision: str | None
    recipe: str
    recipe_hash: str
    made_with: Mapping[str, str]
    loading: tuple[Loading, ...]
    never_together: tuple[str, ...]


def read_runtime(artifact: Model) -> Runtime:
    """The artifact's runtime configuration. ModelError where there is none, or one that cannot be used: its
    names become Python code, and anything but a name is refused."""
    if not (artifact.path / RUNTIME).is_file():
        raise ModelError(
            one_line(f"{artifact.path}: has no {RUNTIME}: write the directory with `ernie-qa quantize`")
        )
    table = read_json(artifact.path / RUNTIME, ModelError)
    table.schema(SCHEMA)
    base, recipe = table.table("base_model"), table.table("recipe")
    quantizers = table.table("loading").table("quantizers")
    versions = table.table("made_with")
    return Runtime(
        base=base.text("name"),
        base_hash=base.text("hash"),
        revision=base.text_or_null("revision"),
        recipe=recipe.text("name"),
        recipe_hash=recipe.text("hash"),
        made_with={name: versions.text(name) for name in versions},
        loading=tuple(_loading(name, quantizers.table(name), artifact) for name in quantizers),
        never_together=table.table("memory").table("allocator").strings("never_together"),
    )


def _loading(name: str, table: Table, artifact: Model) -> Loading:
    components = table.strings("components")
    for component in components:
        if component not in artifact.components:
            table.fail("components", f"{component} is no component of {artifact.name}")
    imports = table.strings("import_first", pattern=_NAME, allowed="a package's name")
    function, arguments = "", {}
    if table.frozen().get("after_loading") is not None:
        after = table.table("after_loading")
        function = after.text("function", pattern=_DOTTED, allowed="a function's dotted name")
        given = after.table("arguments").frozen()
        for key, value in given.items():
            if not _NAME.fullmatch(key) or not isinstance(value, bool | int | float | str | None):
                after.fail(
                    "arguments", f"{json.dumps(key)} is no argument of numbers, text or true and false"
                )
        arguments = {key: repr(value) for key, value in given.items()}
    if any(keyword.iskeyword(part) for one in (*imports, function, *arguments) for part in one.split(".")):
        table.fail(None, "a keyword of Python is no name")
    if function and "." not in function:
        table.fail("after_loading", f"{function}: the module is missing, as in package.module.function")
    return Loading(name, components, imports, function, arguments)
