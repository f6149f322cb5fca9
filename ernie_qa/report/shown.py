"""What a page or a summary is about: records with their verdicts, from a session or from disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from ernie_qa.baseline.noise import find_noise
from ernie_qa.baseline.store import find_baseline
from ernie_qa.errors import ErnieQAError, RecordError
from ernie_qa.judge import judge
from ernie_qa.recipe import REFERENCE, find_recipe
from ernie_qa.record import MAX_JSON_BYTES, Record, load_record
from ernie_qa.report.files import DOCUMENT, SCHEMA
from ernie_qa.report.labels import labels
from ernie_qa.rungs import Evidence, rungs
from ernie_qa.toml_input import Table, one_line, read_json
from ernie_qa.verdict import Check, Status, Verdict, WaiverUse, worst

if TYPE_CHECKING:
    from ernie_qa.execute import Session
    from ernie_qa.recipe import Recipe

BY_THE_GATE = "as the gate judged it"
AGAIN = "judged for this page by the recipe's limits, without a baseline"
BY_BASELINES = "judged for this page by the recipe's limits and what {} holds"


@dataclass(frozen=True, slots=True)
class Shown:
    """One record, what it amounts to, and the record it was measured against, if that is at hand.

    `label` is the recipe's name, with the record's directory where several have that name; `judged` says by
    whom.
    """

    label: str
    record: Record
    verdict: Verdict
    reference: Record | None
    judged: str

    @property
    def group(self) -> tuple[str, str, str]:
        """What records have to have in common to be shown side by side: model, suite and machine."""
        fingerprint = self.record.fingerprint
        return self.record.model.hash, self.record.suite.hash, fingerprint.gpu or fingerprint.cpu

    @property
    def about(self) -> str:
        """The same in words."""
        record = self.record
        machine = record.fingerprint.gpu or f"CPU, {record.fingerprint.cpu}"
        return f"{record.model.name} on suite {record.suite.name}, {machine}"


def of_session(session: Session) -> tuple[Shown, ...]:
    """What a session has judged."""
    reference = session.records.get(REFERENCE)
    return tuple(
        Shown(
            outcome.verdict.recipe,
            outcome.record,
            outcome.verdict,
            reference if reference and outcome.record.reference == reference.hash else None,
            BY_THE_GATE,
        )
        for outcome in session.outcomes
    )


def from_disk(
    places: Iterable[Path], recipes: Sequence[str | Path] = (), baselines: Path | None = None
) -> tuple[Shown, ...]:
    """The records in `places`: each the directory of one, or one that `--report` wrote, with all of them.

    The verdict is the one that `verdict.json` beside the record holds. Without one it is judged again, by the
    recipe of its name among `recipes` and the shipped ones; without that either it is not comparable. With
    `baselines` every record is judged again, by what was accepted and calibrated there for its model and
    machine. RecordError where a place holds no record, or verdict.json is damaged; RecipeError for a wrong
    recipe; BaselineError where there are no such baselines, or they are damaged.
    """
    given = {recipe.name: recipe for recipe in map(find_recipe, recipes)}
    stored: dict[str, Verdict] = {}
    wanted: dict[str, Record] = {}
    near: dict[str, Record] = {}
    lie: dict[str, Path] = {}
    for place in places:
        found = _records(place)
        whole = found[0].parent
        of_a_run = (whole / DOCUMENT).is_file()
        judged = _verdicts(whole / DOCUMENT) if of_a_run else {}
        if baselines is None:
            stored |= judged
        for path in found:
            record = laid_out(load_record(path))
            # drawn as the reference alone, as the run's own page has it
            unasked = record.recipe.name == REFERENCE and of_a_run and record.hash not in judged
            (near if unasked and path != place else wanted)[record.hash] = record
            lie.setdefault(record.hash, path)
        if (whole / REFERENCE / "record.json").is_file() and whole / REFERENCE not in found:
            reference = laid_out(load_record(whole / REFERENCE))
            near[reference.hash] = reference
    called = labels([one.recipe.name for one in wanted.values()], [lie[hashed] for hashed in wanted])
    at_hand = near | wanted
    shown = []
    for label, (hashed, record) in zip(called, wanted.items(), strict=True):
        own = at_hand.get(record.reference or "")
        verdict, by = stored.get(hashed), BY_THE_GATE
        if verdict is None:
            verdict = _again(record, own, given, baselines)
            by = BY_BASELINES.format(baselines) if baselines else AGAIN
        shown.append(Shown(label, record, verdict, own, by))
    return tuple(shown)


def unjudged(places: Iterable[Path]) -> tuple[list[str], list[str]]:
    """The recipes that broke off, and those that an interruption left without a verdict, in the runs that are
    `places`, by their verdict.json; nothing of a place that is a single record. RecordError where one is
    damaged."""
    broken: list[str] = []
    unfinished: list[str] = []
    for place in places:
        if (place / DOCUMENT).is_file():
            table = read_json(place / DOCUMENT, RecordError, MAX_JSON_BYTES)
            broken += table.strings("broke", default=())
            unfinished += table.strings("unfinished", default=())
    return broken, unfinished


def laid_out(record: Record) -> Record:
    """`record`, whose figures every rung can read. RecordError where one cannot."""
    for rung in rungs():
        try:
            list(rung.track(record, None))
            list(rung.judge(Evidence(record, None, find_recipe(REFERENCE))))
        except (ArithmeticError, LookupError, TypeError, AttributeError, ValueError) as problem:
            raise RecordError(
                one_line(
                    f"record {record.hash[:12]} of {record.recipe.name}: its figures of {rung.NAME} are not "
                    f"as this ernie_qa lays them out ({type(problem).__name__}: {problem}); observe it again"
                )
            ) from None
    return record


def status_of(shown: Sequence[Shown]) -> Status:
    """What all of them amount to; nothing at all is not comparable."""
    return worst([one.verdict.status for one in shown]) if shown else Status.NOT_COMPARABLE


def groups(shown: Sequence[Shown]) -> list[list[Shown]]:
    """Those that may be shown side by side, together, in the order in which they were given."""
    order = list(dict.fromkeys(one.group for one in shown))
    by_order = sorted(shown, key=lambda one: order.index(one.group))
    return [list(group) for _, group in groupby(by_order, lambda one: one.group)]


def _records(place: Path) -> list[Path]:
    """The directories of records that `place` means."""
    if place.name == "record.json":
        return [place.parent]
    if (place / "record.json").is_file():
        return [place]
    found = sorted(path.parent for path in place.glob("*/record.json"))
    if not found:
        raise RecordError(
            one_line(f"{place}: no record here, nor in a directory in it; name what --report wrote")
        )
    return found


def _again(
    record: Record, reference: Record | None, given: Mapping[str, Recipe], baselines: Path | None
) -> Verdict:
    """`record` judged here and now."""
    name, baseline, noise = record.recipe.name, None, None
    if baselines:
        place = (baselines, record.model.name, record.fingerprint.machine)
        baseline, noise = find_baseline(*place), find_noise(*place, record.suite.name)
    try:
        return judge(record, reference, given.get(name) or find_recipe(name), baseline, noise=noise)
    except ErnieQAError as error:
        message = f"no recipe to judge it by ({error}): name its file with --recipe"
        return Verdict(name, (Check("recipe.found", "recipe", Status.NOT_COMPARABLE, message),))


def _verdicts(path: Path) -> dict[str, Verdict]:
    """Record hash -> verdict, as `report.files.document` wrote them."""
    table = read_json(path, RecordError, MAX_JSON_BYTES)
    table.schema(SCHEMA)
    found = {}
    for one in table.tables("verdicts"):
        recipe = one.text("recipe")
        checks = tuple(_check(check) for check in one.tables("checks"))
        waivers = tuple(_waiver(waiver) for waiver in one.tables("waivers", optional=True))
        found[one.text("record")] = Verdict(recipe, checks, waivers)
    return found


def _check(table: Table) -> Check:
    values = table.frozen()
    # documents from before the noise floor have neither of the last two
    beside = [name for name in ("floor", "ceiling") if name in values]
    numbers = {name: table.number_or_null(name) for name in ("measured", "limit", *beside)}
    return Check(
        name=table.text("name"),
        rung=table.text("rung"),
        status=Status(table.choice("status", tuple(Status))),
        message=table.text("message"),
        required=table.boolean("required"),
        component=table.text_or_null("component"),
        case=table.text_or_null("case"),
        unit=table.text("unit") if values.get("unit") else "",
        **numbers,
    )


def _waiver(table: Table) -> WaiverUse:
    try:
        until = date.fromisoformat(table.text("until"))
    except ValueError:
        table.wrong("until", "a date, as 2026-12-31")
    return WaiverUse(
        table.text("check"),
        table.text("reason"),
        until,
        table.boolean("expired"),
        table.integer("checks", minimum=0),
    )
