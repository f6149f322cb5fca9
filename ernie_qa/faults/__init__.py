"""The corpus: faults that a gate has to catch, and clean variants that it has to pass over.

A file here is a family, and a fault is a decorated function that does the damage:

    @fault("one layer's scales 5 % off", rung="components", component="transformer", recipe="sdnq-int8")
    def layer_scales(pipe):
        pipe.transformer.get_submodule("layers.3.mlp.up_proj").scale.mul_(1.05)

What it is given hangs on `at`:

    pipe       a copy of the live pipeline, thrown away afterwards. A generator function damages more than
               that: it yields once while the damage lasts, and undoes it
    pictures   case -> uint8 RGB [H, W, 3] pixels as they were drawn, a dict to change
    record     the record of the sound arm; gives the one to judge in its place
    reference  BF16's record; gives the one that the arm is compared with
    artifact   a directory that holds the model as the recipe quantized it; it is loaded from there

A new family is a new file and nothing else. `ernie_qa.selftest` runs them.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Literal, TypeVar

At = Literal["pipe", "pictures", "record", "reference", "artifact"]
Damage = TypeVar("Damage", bound=Callable[[Any], Any])

UINT4 = "sdnq-uint4-static"
INT8 = "sdnq-int8"
NF4 = "bnb-nf4"
BF16 = "bf16"

_KNOWN: list[Fault] = []


@dataclass(frozen=True, slots=True)
class Fault:
    """One entry of the corpus.

    `rung` is the one that ought to catch it and `component` what that has to name, None where it names none;
    both are None for a `clean` variant. `damage` is done to what `at` says of an arm of `recipe`, on
    `device`. `survives` is why the gate passes it over where that is known and meant: it counts as a survivor
    all the same, and is no news.
    """

    name: str
    family: str
    recipe: str
    at: At
    damage: Callable[[Any], Any]
    rung: str | None = None
    component: str | None = None
    device: str = "cpu"
    survives: str = ""

    @property
    def clean(self) -> bool:
        """Whether it must not be caught."""
        return self.rung is None


def fault(
    name: str,
    *,
    rung: str,
    component: str | None = None,
    recipe: str = UINT4,
    at: At = "pipe",
    device: str = "cpu",
    survives: str = "",
) -> Callable[[Damage], Damage]:
    """Enter what the decorated function does as a fault."""
    return _entered(name, recipe, at, rung=rung, component=component, device=device, survives=survives)


def clean(name: str, *, recipe: str = UINT4, at: At = "pipe") -> Callable[[Damage], Damage]:
    """Enter what the decorated function does as a variant that changes bits and no quality."""
    return _entered(name, recipe, at)


def _entered(name: str, recipe: str, at: At, **more: Any) -> Callable[[Damage], Damage]:
    def enter(damage: Damage) -> Damage:
        family = damage.__module__.rpartition(".")[2]
        _KNOWN.append(Fault(name, family, recipe, at, damage, **more))
        return damage

    return enter


@cache
def corpus() -> tuple[Fault, ...]:
    """All faults and clean variants, family by family. ValueError where two have one name."""
    for module in pkgutil.iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    names = [one.name for one in _KNOWN]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"faults: two are called {', '.join(twice)}")
    return tuple(_KNOWN)
