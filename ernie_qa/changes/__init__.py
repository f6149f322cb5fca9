"""Changes that ought not to matter, a file a family: BF16 under one of them is still BF16, so how far it is
from itself is the noise floor (`ernie_qa.calibration`).

A change is a decorated function. One of the pipeline is given it, yields once while the change lasts, and
undoes it: at full size there is no room for a copy.

    @change("math-attention", "attention by the math kernel")
    def math(pipe):
        with sdpa_kernel(SDPBackend.MATH):
            yield

One of the process gives the environment of another process, which draws there:

    @process("avx2", "no instructions beyond AVX2", unless=no_more_than_avx2)
    def avx2():
        return {"ATEN_CPU_CAPABILITY": "avx2", "DNNL_MAX_CPU_ISA": "AVX2"}

`unless` says of a device ("cpu", "cuda:0") why the change cannot be made there, None where it can. A new
change is a new entry, or a new file, and nothing else.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

Lasting = Callable[[Any], Iterator[None]]
Environment = Callable[[], Mapping[str, str]]
Unless = Callable[[str], str | None]

_KNOWN: list[Change] = []


@dataclass(frozen=True, slots=True)
class Change:
    """One change: of the pipeline (`lasting`), or of the process (`environment`)."""

    name: str
    title: str
    unless: Unless
    lasting: Lasting | None = None
    environment: Environment | None = None


def anywhere(device: str) -> str | None:
    """No reason not to."""
    return None


def on_a_gpu(device: str) -> str | None:
    """Why not: the device is a CPU."""
    return None if device.startswith("cuda") else "needs a GPU"


def change(name: str, title: str, *, unless: Unless = anywhere) -> Callable[[Lasting], Lasting]:
    """Enter the decorated generator function as a change of the pipeline."""

    def enter(lasting: Lasting) -> Lasting:
        _KNOWN.append(Change(name, title, unless, lasting=lasting))
        return lasting

    return enter


def process(name: str, title: str, *, unless: Unless = anywhere) -> Callable[[Environment], Environment]:
    """Enter the decorated function as a change of the process: what its environment is to be."""

    def enter(environment: Environment) -> Environment:
        _KNOWN.append(Change(name, title, unless, environment=environment))
        return environment

    return enter


@cache
def changes() -> tuple[Change, ...]:
    """All changes, family by family. ValueError where two have one name."""
    for module in pkgutil.iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    names = [one.name for one in _KNOWN]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"changes: two are called {', '.join(twice)}")
    return tuple(_KNOWN)
