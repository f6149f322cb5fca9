"""Engines that read a line of text, a file each; found here by discovery.

An engine is a module with

    NAME          what figures and messages call it
    ORDER         of two that could read a text, the one with the lower number does
    INSTALL       the command that installs what it needs
    version()     every part that decides what is read, in one line
    alphabet()    the characters that it can tell apart; what is not among them it drops, or takes for others
    read(lines)   the text of each picture of one line

The last three raise UnavailableError where something is not installed. A new engine is a new file here and
nothing else. Heavy imports belong inside the functions.
"""

from __future__ import annotations

import pkgutil
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from ernie_qa.errors import UnavailableError
from ernie_qa.fidelity.text.score import normalized

if TYPE_CHECKING:
    from ernie_qa.fidelity.metrics import Pixels


class Engine(Protocol):
    """What an engine module offers."""

    NAME: str
    ORDER: int
    INSTALL: str

    def version(self) -> str: ...

    def alphabet(self) -> frozenset[str]: ...

    def read(self, lines: Sequence[Pixels]) -> list[str]:
        """The text of each uint8 RGB [H, W, 3] picture of one line; empty where it reads nothing."""
        ...


@cache
def engines() -> tuple[Engine, ...]:
    """All engines, in their order."""
    found = (import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
    return tuple(sorted((cast("Engine", module) for module in found), key=lambda engine: engine.ORDER))


def engine_for(text: str) -> Engine:
    """The first engine whose alphabet holds every character of `text`.

    UnavailableError where none does, or where one that might is not installed.
    """
    lacking, mend = [], "; write a text in two scripts as two texts"
    for engine in engines():
        try:
            known = _known(engine.NAME)
        except UnavailableError as missing:
            # it may be the one that reads this: installing it comes first
            lacking.append(str(missing))
            mend = ""
            continue
        unknown = sorted({form for form in _forms(text) if form not in known and set(form) - known})
        if not unknown:
            return engine
        lacking.append(f"{engine.NAME} does not know {' '.join(unknown)}")
    raise UnavailableError(f'no engine can read "{text}": {"; ".join(lacking)}{mend}')


@cache
def _known(name: str) -> frozenset[str]:
    engine = next(one for one in engines() if name == one.NAME)
    # of № it knows "no" alone, neither n nor o
    return frozenset(map(normalized, engine.alphabet()))


def _forms(text: str) -> Iterator[str]:
    """Each character of `text`, with its accents, in the form in which it is compared."""
    return filter(None, map(normalized, unicodedata.normalize("NFC", text)))
