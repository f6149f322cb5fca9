"""A model card for a quantized artifact: front matter, tables, pictures and usage code, from records alone.

docs/card.md says what is in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_qa.card.pictures import DIRECTORY, pairs, write_pictures
from ernie_qa.card.subject import Subject, find_subject
from ernie_qa.card.text import card_text
from ernie_qa.card.written import README, check_free, replacing
from ernie_qa.errors import InputError
from ernie_qa.recipe import REFERENCE
from ernie_qa.report.files import DOCUMENT, SCHEMA, verdict_values
from ernie_qa.report.shown import BY_THE_GATE
from ernie_qa.toml_input import one_line

if TYPE_CHECKING:
    from ernie_qa.verdict import Verdict

METRICS = "metrics"
FILES = (METRICS, DIRECTORY, README)
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: the card, how many pairs of pictures, all their bytes, what the artifact was judged
    to be, and what the front matter lacks, since nobody said it."""

    card: Path
    pairs: int
    picture_bytes: int
    verdict: Verdict
    lacking: tuple[str, ...]


def write_card(
    records: Sequence[Path],
    artifact: Path,
    directory: Path | None = None,
    *,
    suite: str | Path | None = None,
    recipes: Sequence[str | Path] = (),
    repository: str | None = None,
    base_model: str | None = None,
    license: str | None = None,
    with_pictures: bool = True,
    overwrite: bool = False,
) -> Written:
    """Write `README.md`, `comparison/` and `metrics/` for the artifact in the directory `artifact` into it,
    or into `directory`.

    `records` are as `ernie-qa report` takes them, and one of them has to be the artifact's. `repository` is
    what the usage code loads, the directory's name without it; `base_model` a hub id, the one that the
    artifact was made from without it; `license` as the hub names it. Without `with_pictures`, or where the
    weights are random, there is no `comparison/`. InputError, and nothing written, for anything that is
    wrong or is there already; with `overwrite` the three are replaced.
    """
    place = artifact if directory is None else directory
    check_free(place, FILES, overwrite)
    loaded = repository or artifact.resolve().name
    _check(loaded, base_model, license)
    subject = find_subject(records, artifact, suite, recipes)
    shown_pairs = pairs(subject) if with_pictures and not subject.random else ()
    base = base_model or (subject.runtime.base if _HUB_ID.fullmatch(subject.runtime.base) else None)
    text = card_text(
        subject,
        repository=loaded,
        base_model=base,
        license=license,
        shown_pairs=shown_pairs,
    )
    with replacing(place, FILES, overwrite) as new:
        _write_metrics(new / METRICS, subject)
        if shown_pairs:
            write_pictures(shown_pairs, subject.names, new / DIRECTORY)
        (new / README).write_text(text, encoding="utf-8")
    pictures = place / DIRECTORY
    return Written(
        card=place / README,
        pairs=len(shown_pairs),
        picture_bytes=sum(file.stat().st_size for file in pictures.iterdir()) if shown_pairs else 0,
        verdict=subject.shown.verdict,
        lacking=tuple(name for name, value in (("base_model", base), ("license", license)) if value is None),
    )


def _check(repository: str, base_model: str | None, license: str | None) -> None:
    if not repository.isprintable():
        raise InputError(
            one_line(f"--repo {repository!a}: allowed are letters that can be printed, as org/name")
        )
    if base_model is not None and not _HUB_ID.fullmatch(base_model):
        raise InputError(one_line(f"--base-model {base_model}: allowed is a hub id, as org/name"))
    if license is not None and not _LICENSE.fullmatch(license):
        raise InputError(one_line(f"--license {license}: allowed is a name as the hub has it, as apache-2.0"))


def _write_metrics(place: Path, subject: Subject) -> None:
    """The two records, and the verdict where a gate gave it: what `ernie-qa report` shows."""
    place.mkdir()
    subject.bf16.save(place / REFERENCE)
    subject.record.save(place / subject.record.recipe.name)
    if subject.shown.judged != BY_THE_GATE:
        return
    values: dict[str, Any] = {
        "schema": SCHEMA,
        "status": subject.shown.verdict.status,
        "model": subject.record.model.name,
        "suite": subject.record.suite.name,
        "seeds": subject.suite.seeds,
        "device": "cuda" if subject.record.fingerprint.gpu else "cpu",
        "broke": [],
        "unfinished": [],
        "verdicts": [verdict_values(subject.shown.verdict, subject.record)],
    }
    text = json.dumps(values, indent=2, ensure_ascii=False)
    (place / DOCUMENT).write_text(text + "\n", encoding="utf-8")
