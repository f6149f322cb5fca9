"""Joining: an arm that was observed in parts, of some of the suite's cases each, becomes one record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ernie_qa.errors import ErnieQAError
from ernie_qa.fingerprint import Fingerprint, differences
from ernie_qa.record import Record
from ernie_qa.rungs import rungs


def join(parts: Sequence[Record], reference: Record | None) -> Record:
    """One record of all `parts`, which are in the order of the suite's cases; `reference` is the record that
    all were measured against, None for the reference itself.

    Where a part ended before a picture was drawn, the arm did. ErnieQAError where the parts are not of one
    arm, one build and one machine model, or disagree in what they must agree in.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    for part in parts:
        if _what(part) != _what(first) or part.reference != (reference.hash if reference else None):
            raise ErnieQAError(
                f"{first.recipe.name}: its parts are not of one model, recipe, suite and reference"
            )
        if _made_with(part.fingerprint) != _made_with(first.fingerprint):
            unlike = "; ".join(differences(part.fingerprint, first.fingerprint)[:3])
            raise ErnieQAError(
                f"{first.recipe.name}: its parts were drawn by different builds or machines ({unlike}): "
                "use hosts that are alike, or draw each recipe in one part"
            )
    if ended := next((part for part in parts if part.ended), None):
        return ended
    by_name = {rung.NAME: rung for rung in rungs()}
    try:
        figures = {
            name: by_name[name].join([part.figures[name] for part in parts], reference)
            for name in first.figures
        }
    except ErnieQAError as problem:
        raise ErnieQAError(f"{first.recipe.name}: {problem}") from None
    return replace(
        first, figures=figures, pictures=tuple(picture for part in parts for picture in part.pictures)
    )


def _made_with(fingerprint: Fingerprint) -> Fingerprint:
    """The fingerprint without what changes no figure: unlike a reference, a part is of the very same arm, and
    the settings are part of that."""
    settings = {name: value for name, value in fingerprint.settings.items() if name != "HF_HUB_OFFLINE"}
    threads = 0 if fingerprint.gpu else fingerprint.threads
    return replace(fingerprint, settings=settings, threads=threads)


def _what(part: Record) -> tuple[object, ...]:
    return part.model, part.recipe, part.suite, part.artifact
