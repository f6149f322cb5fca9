"""An arm that all workers of a host wait for, drawn by all of them: each takes a piece that nobody is at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from ernie_qa.errors import ErnieQAError
from ernie_qa.join import join
from ernie_qa.pieces import piece_name

if TYPE_CHECKING:
    from ernie_qa.exchange import Exchange
    from ernie_qa.pieces import Pieces
    from ernie_qa.record import Record


def helped(
    exchange: Exchange, recipe: str, pieces: Pieces, draw: Callable[[tuple[str, ...]], Record]
) -> Record:
    """The arm's record, of which this process drew what it could get hold of, and waited for the rest.

    The first to have all pieces leaves it in `exchange`. ErnieQAError where a piece broke off, in this
    process or in another; that is left there as well.
    """
    below = exchange.below(recipe)
    names = [piece_name(recipe, number, len(pieces)) for number in range(len(pieces))]
    try:
        # what nobody is at comes first
        for wait in (False, True):
            for name, cases in zip(names, pieces, strict=True):
                with below.turn(name, wait=wait) as mine:
                    # of an arm that broke off elsewhere no more is drawn
                    if mine and not below.is_told(name) and not exchange.is_told(recipe):
                        _draw(below, name, partial(draw, cases))
        with exchange.turn():
            return exchange.record(recipe) or _joined(exchange, below, recipe, names)
    except ErnieQAError as error:
        # what ended its process by a watchdog says more than that it died
        why = exchange.ended(recipe) if exchange.hung(recipe) else str(error)
        with suppress(ErnieQAError):
            # but where another one was told of it before
            exchange.begin(recipe)
            exchange.broke(recipe, why)
        raise ErnieQAError(why) from error


def _draw(below: Exchange, name: str, draw: Callable[[], Record]) -> None:
    below.begin(name)
    try:
        below.keep(name, draw())
    except ErnieQAError as error:
        below.broke(name, str(error))
        raise


def _joined(exchange: Exchange, below: Exchange, recipe: str, names: Sequence[str]) -> Record:
    parts, lost = below.gather(below.begun)
    if lost:
        raise ErnieQAError(lost[0])
    if len(parts) < len(names):
        # what another said of the arm has kept them from being drawn
        raise ErnieQAError(exchange.ended(recipe))
    whole = join([parts[name] for name in names], None)
    exchange.begin(recipe)
    exchange.keep(recipe, whole)
    return whole
