"""The quantizers, a module each; found here by name.

A quantizer is a module, here or behind an entry point of the group `ernie_qa.quantizers`, that has what
`Quantizer` lists. Everything that needs torch is imported inside the functions, so that a recipe can be
checked without it. A new quantizer is a new file, or a package with an entry point, and nothing else.
"""

import pkgutil
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from ernie_qa.errors import ModelError, RecipeError, UnavailableError
from ernie_qa.quantizers.layers import Calls, LayerState
from ernie_qa.recipe import Recipe
from ernie_qa.toml_input import Table, did_you_mean, read_json

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module

__all__ = [
    "Calls",
    "ComponentSource",
    "LayerState",
    "Quantizer",
    "Watching",
    "checked_options",
    "find_quantizer",
    "quantizer_names",
    "stored_quantization",
]

ENTRY_POINTS = "ernie_qa.quantizers"
_SHARED = ("bitsandbytes_layers", "layers", "saving", "sdnq_layers", "watching")
"""What stands beside the quantizers and is none."""


@dataclass(frozen=True, slots=True)
class ComponentSource:
    """One component of a model directory, as its `model_index.json` names it.

    `library` is `diffusers` or `transformers`; `device` is what torch calls it (`cpu`, `cuda:0`).
    """

    model: Path
    component: str
    library: str
    class_name: str
    device: str

    @property
    def path(self) -> Path:
        """The component's own directory."""
        return self.model / self.component

    @property
    def cls(self) -> Any:
        """The component's class. ModelError where the library or the class is unknown."""
        if self.library not in ("diffusers", "transformers"):
            raise ModelError(
                f"{self.model / 'model_index.json'}: {self.component}: found the library {self.library!r}, "
                "allowed are diffusers and transformers"
            )
        found = getattr(import_module(self.library), self.class_name, None)
        if found is None:
            raise ModelError(
                f"{self.model / 'model_index.json'}: {self.component}: this {self.library} has no class "
                f"{self.class_name!r}; upgrade {self.library}"
            )
        return found


class Watching(Protocol):
    """Counts while a component runs."""

    def off(self) -> None:
        """Take every hook away, so that the component runs as if nobody watched; the counts stay."""

    def on(self) -> None:
        """Go on counting."""

    def calls(self) -> tuple[Calls, ...]:
        """The counts so far, for every watched layer, called or not."""

    def replay(self) -> bool:
        """Run the component's largest call once more under torch.profiler; False if it saw none to repeat."""


class Quantizer(Protocol):
    """What a quantizer's module has."""

    NAME: str
    """What a recipe calls it."""
    SUMMARY: str
    PACKAGES: tuple[str, ...]
    """The import names of the packages whose classes its layers are."""
    DEVICES: frozenset[str]
    """Where it runs: `cpu`, `cuda`."""

    def check_options(self, table: Table) -> Mapping[str, Any]:
        """The options in a recipe's section, checked and with defaults filled in; imports no torch."""

    def keeping(
        self, options: Mapping[str, Any], component: str, layers: Collection[str]
    ) -> Mapping[str, Any]:
        """The `options`, as a recipe writes them, with these `layers` of the component left as they are too,
        by lists of strings. Only `ernie_qa.repair` asks: a quantizer without it cannot be repaired."""

    def prepare(self, device: str) -> None:
        """Import what it needs there, with the settings it needs: before loading is timed."""

    def load(self, source: ComponentSource, options: Mapping[str, Any]) -> "Module":
        """The component, quantized, the rest of it in BF16, on its device, ready to run."""

    def save(self, module: "Module", folder: Path, options: Mapping[str, Any]) -> None:
        """Write the component that `load` gave to a new `folder`, as its library loads it without ernie_qa.

        Its configuration claims what was applied, and names no device or path of this machine. Call it before
        the first forward. OSError, SafetensorError or RuntimeError where it cannot be written.
        """

    def stored_bits(self, device: str, options: Mapping[str, Any]) -> float:
        """Bits that a weight of a large layer takes on disk, its scales included: the quantizer is asked."""

    def loading(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """What it takes to load a stored component without ernie_qa, as JSON values: `import_first`, the
        packages to import before, and `after_loading`, the `function` to call on each component, in place of
        which its result is put, with its `arguments`, or None."""

    def metadata(self, options: Mapping[str, Any], facts: Mapping[str, Any]) -> Mapping[str, Any]:
        """The files that belong beside `model_index.json`: name -> JSON value.

        `facts` are the base model, the recipe, the components `quantized` by it and `kept`, and `versions`.
        """

    def config_flag(self, module: "Module") -> Mapping[str, Any]:
        """What the component's own configuration claims; empty where it has none."""

    def stored_flag(self, stored: Mapping[str, Any]) -> Mapping[str, Any]:
        """The same of a stored component's `quantization_config`; imports no torch."""

    def expected_flag(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """What that configuration should claim; imports no torch."""

    def describe(self, module: "Module", options: Mapping[str, Any]) -> tuple[LayerState, ...]:
        """Every layer that is or could be quantized. Call it before the first forward."""

    def weight(self, layer: "Module", shape: tuple[int, ...], device: "torch.device") -> "Tensor | None":
        """The weight of one quantized layer in float32 on that device, as its numbers say, no matter how it
        runs; as `shape`, [out, in], if it fits. None for a layer that is no Linear. Leaves `layer` alone."""

    def held(self, layer: "Module") -> "tuple[Mapping[str, Tensor], Mapping[str, Any]]":
        """All that `weight` is computed from: the tensors of one quantized layer, and its settings as JSON
        values. What is the same here is the same weight: it is not computed to be told. Leaves `layer` alone.
        """

    def fresh_weight(self, layer: "Module", bf16: "Tensor", options: Mapping[str, Any]) -> "Tensor":
        """What the quantizer's own code makes with `options` of `bf16` [out, in], the model's own weight of
        that `layer`: in float32, on its device. Leaves `layer` as it is."""

    def watch(self, module: "Module") -> AbstractContextManager[Watching]:
        """Count what the layers run for as long as the context is open."""

    def prove(self, device: str, options: Mapping[str, Any]) -> str | None:
        """Try `describe` and `watch` on one layer known to run quantized and on one known not to.

        None where they tell them apart, else why they cannot: then they must not judge anything.
        """


def stored_quantization(component: Path) -> Mapping[str, Any] | None:
    """How the component in that directory was quantized when it was saved, from its `config.json`; None for a
    plain one. ModelError if the file cannot be read."""
    stored = read_json(component / "config.json", ModelError).frozen().get("quantization_config")
    return stored if isinstance(stored, Mapping) else None


def quantizer_names() -> tuple[str, ...]:
    """The names of all quantizers that a recipe may use, sorted; imports none of them."""
    return tuple(sorted(_shipped() | set(_installed())))


def find_quantizer(name: str) -> Quantizer:
    """The quantizer of that name. RecipeError if there is none, UnavailableError if it cannot be imported."""
    if name in _shipped():
        return cast(Quantizer, import_module(f"{__name__}.{name}"))
    entry = _installed().get(name)
    if entry is None:
        names = quantizer_names()
        raise RecipeError(
            f"no quantizer named {name!r}; known are {', '.join(names)}{did_you_mean(name, names)}"
        )
    try:
        return cast(Quantizer, entry.load())
    except (ImportError, AttributeError) as problem:
        raise UnavailableError(
            f"the quantizer {name!r} ({entry.value}) cannot be imported: {problem}"
        ) from None


def checked_options(recipe: Recipe) -> dict[str, Mapping[str, Any]]:
    """The options of every quantizer that `recipe` uses, checked by it; RecipeError names file and key."""
    checked: dict[str, Mapping[str, Any]] = {}
    for component, name in recipe.components.items():
        if name in checked:
            continue
        try:
            quantizer = find_quantizer(name)
        except RecipeError as problem:
            raise RecipeError(f"{recipe.path}: components.{component}: {problem}") from None
        table = recipe.section(name)
        checked[name] = quantizer.check_options(table)
        table.finish()
    return checked


def _shipped() -> set[str]:
    return {module.name for module in pkgutil.iter_modules(__path__) if module.name not in _SHARED}


def _installed() -> dict[str, metadata.EntryPoint]:
    return {entry.name: entry for entry in metadata.entry_points(group=ENTRY_POINTS)}
