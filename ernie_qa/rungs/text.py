"""Rung 5: can the words still be read? The texts that the suite expects in a picture against what engines
read there, beside what they read in BF16's picture of the same case. docs/text.md has the definitions.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from math import fsum
from typing import TYPE_CHECKING, Any

from ernie_qa.errors import UnavailableError
from ernie_qa.fidelity.text.score import marked
from ernie_qa.parts import the_same
from ernie_qa.verdict import Check, Status
from ernie_qa.wording import figure

if TYPE_CHECKING:
    from ernie_qa.baseline.accepted import Tracked
    from ernie_qa.baseline.pictures import Pictures
    from ernie_qa.drawing import Drawn
    from ernie_qa.fidelity.text.engines import Engine
    from ernie_qa.fidelity.text.reading import Reader
    from ernie_qa.recipe import Limit
    from ernie_qa.record import Record
    from ernie_qa.rungs import Arm, Evidence, Figures
    from ernie_qa.suite import Case

NAME = "text"
ORDER = 5

READABLE = 0.3
"""The character error rate of BF16's own picture above which nothing can be said of a case: its words are
illegible as it is."""
GRADABLE = 0.5
"""The share of the cases with text that must be legible in BF16's pictures for the suite to be judged."""

Strings = Sequence[Mapping[str, Any]]
"""What was read of the expected texts of one picture."""

RANDOM = "its weights are random, so nothing is written in its pictures"


_MEASURES = {
    "cer_rise": "share of the characters that are read wrong here and not in BF16's",
    "words_lost": "share of the words that BF16's has and this has not",
    "lines_lost": "share of the texts that BF16's has right and this has not",
}
"""What a picture is measured by, always beside BF16's picture of the same case. One text that is read better
than there makes up for no other that is read worse."""
LIMITS: Mapping[str, str] = {
    f"{NAME}.{name}_{statistic}": "max" for name in _MEASURES for statistic in ("mean", "max")
}


def measure(arm: Arm) -> Generator[None, tuple[Drawn, ...], Figures]:
    """Read every picture of which the suite expects a text; on a GPU beside the warm-up of the next one.

    Figures: `cases` by id, `strings` with one entry an expected text: expected, engine, and the fields of
    `ernie_qa.fidelity.text.score.Score`; `engines`, name -> version, and under `lines` what found those;
    `expected`, how many texts the suite expects; `why` nothing was read, None where something was.
    """
    wanted = {case.id: case for case in arm.suite.cases if case.text}
    figures: dict[str, Any] = {
        "cases": {},
        "engines": {},
        "expected": sum(len(case.text) for case in wanted.values()),
        "why": RANDOM if arm.model.weights == "random" else None,
    }
    if not wanted or figures["why"]:
        yield
        return figures
    try:
        chosen, by = _reader(wanted)
    except UnavailableError as missing:
        yield
        return figures | {"why": str(missing)}
    pipe: Any = arm.pipe
    begun: dict[str, Future[list[dict[str, Any]]]] = {}
    with ThreadPoolExecutor(1, thread_name_prefix="ernie_qa-text") as pool:

        def begin(drawn: Drawn) -> Future[Any] | None:
            if (case := wanted.get(drawn.case)) and drawn.case not in begun:
                begun[drawn.case] = pool.submit(_strings, case, drawn, chosen, by)
            return begun.get(drawn.case)

        if pipe._execution_device.type == "cuda":
            arm.after.append(begin)
        for drawn in (yield):
            begin(drawn)
        try:
            cases = {case: {"strings": strings.result()} for case, strings in begun.items()}
        except Exception as problem:
            # an engine's own fault: the other rungs' figures stand
            return figures | {"why": f"reading broke off: {type(problem).__name__}: {problem}"}
    engines = {engine.NAME: version for engine, version in by.versions.items()}
    return figures | {"cases": cases, "engines": {"lines": by.finder, **engines}}


def _reader(wanted: Mapping[str, Case]) -> tuple[dict[str, Engine], Reader]:
    from ernie_qa.fidelity.text.engines import engine_for
    from ernie_qa.fidelity.text.reading import reader

    chosen = {text: engine_for(text) for case in wanted.values() for text in case.text}
    return chosen, reader(chosen.values())


def _strings(case: Case, drawn: Drawn, chosen: Mapping[str, Engine], by: Reader) -> list[dict[str, Any]]:
    from ernie_qa.fidelity.text.reading import read
    from ernie_qa.fidelity.text.score import score

    reading, names = read(drawn.pixels, by), {text: chosen[text].NAME for text in case.text}
    return [
        {"expected": text, "engine": name, **asdict(score(text, reading.lines[name], reading.columns))}
        for text, name in names.items()
    ]


def join(parts: Sequence[Figures], reference: Record | None) -> Figures:
    """Each case from the part that drew it, where all were read by the same engines."""
    if missing := next((part for part in parts if part["why"]), None):
        return missing
    read = [part for part in parts if part["cases"]] or [parts[0]]
    same = the_same(NAME, [{key: part[key] for key in ("engines", "expected", "why")} for part in read])
    return {**same, "cases": {case: one for part in read for case, one in part["cases"].items()}}


def judge(evidence: Evidence) -> Iterator[Check]:
    """Every case beside BF16's, to be seen, and the suite's means and worst pictures against the limits."""
    limits = {name: limit for name, limit in sorted(evidence.limits.items()) if name in LIMITS}
    figures = evidence.record.figures.get(NAME)
    status, why = _standing(evidence, figures)
    if status is not Status.PASS or figures is None:
        for name in limits or (f"{NAME}.cer",):
            yield Check(name, NAME, status, why, required=bool(limits))
        return
    if not limits:
        message = f"{evidence.recipe.name} sets no {NAME} limits for suite {evidence.record.suite.name}"
        if not evidence.recipe.components:
            message = f"{evidence.recipe.name} is what the others are compared with"
        yield Check(f"{NAME}.limits", NAME, Status.NOT_APPLICABLE, message, False)
    cases = {case: one["strings"] for case, one in figures["cases"].items()}
    if evidence.reference is None:
        yield from (_case_check(case, strings, None) for case, strings in cases.items())
        return
    bf16 = {case: one["strings"] for case, one in evidence.reference.figures[NAME]["cases"].items()}
    yield from (_case_check(case, strings, bf16[case]) for case, strings in cases.items())
    worse = {case: _losses(cases[case], bf16[case]) for case in cases if _rate(bf16[case]) <= READABLE}
    for name, limit in limits.items():
        if len(worse) < GRADABLE * len(cases):
            message = f"{len(worse)} of {len(cases)} pictures are gradable: BF16's own words are illegible"
            yield Check(name, NAME, Status.NOT_COMPARABLE, message)
        else:
            yield _limit_check(name, limit, worse, cases, bf16)


def _standing(evidence: Evidence, figures: Figures | None) -> tuple[Status, str]:
    """PASS where the figures can be judged; else what that makes of the rung, and why."""
    record, reference = evidence.record, evidence.reference
    if record.model.weights == "random":
        return Status.NOT_APPLICABLE, f"{record.model.name}: {RANDOM}"
    if figures is None:
        return Status.NOT_COMPARABLE, "the record holds no figures of this rung: observe the recipe again"
    if not figures["expected"]:
        return Status.NOT_APPLICABLE, f"suite {record.suite.name} expects no text"
    if figures["why"]:
        return Status.NOT_COMPARABLE, figures["why"]
    if not evidence.recipe.components and reference is None:
        return Status.PASS, ""
    why = _unpaired(evidence, figures)
    return (Status.NOT_COMPARABLE, why) if why else (Status.PASS, "")


def _unpaired(evidence: Evidence, figures: Figures) -> str | None:
    """Why the pictures cannot be set beside BF16's; None where they can."""
    if evidence.record.reference is None:
        return "it was observed without a reference: observe it again with bf16's record"
    if why := evidence.other_reference(evidence.record.reference, "the pictures were"):
        return why
    assert evidence.reference is not None
    bf16 = evidence.reference.figures.get(NAME)
    if bf16 is None or bf16["why"]:
        why = bf16["why"] if bf16 else "its record holds no figures of this rung"
        return f"BF16's pictures were not read: {why}; observe bf16 again"
    if bf16["engines"] != figures["engines"]:
        theirs, ours = (", ".join(one["engines"].values()) for one in (bf16, figures))
        return f"BF16's pictures were read by {theirs}, these by {ours}: observe both again"
    if _expected(bf16) != _expected(figures):
        return "BF16's record expects other texts: observe both again"
    return None


def _expected(figures: Figures) -> dict[str, list[str]]:
    return {case: [one["expected"] for one in found["strings"]] for case, found in figures["cases"].items()}


def _rate(strings: Strings) -> float:
    """The character error rate of one picture."""
    errors, length = (sum(one[key] for one in strings) for key in ("errors", "length"))
    return float(errors / length)


def _losses(ours: Strings, bf16: Strings) -> dict[str, float]:
    """What one picture lost beside BF16's, by `_MEASURES`: shares of all its characters, words and texts."""
    pairs = list(zip(ours, bf16, strict=True))
    errors = sum(max(0, one["errors"] - other["errors"]) for one, other in pairs)
    words = sum(max(0, other["found"] - one["found"]) for one, other in pairs)
    return {
        "cer_rise": errors / sum(one["length"] for one in ours),
        "words_lost": words / sum(one["words"] for one in ours),
        "lines_lost": sum(not other["errors"] and one["errors"] > 0 for one, other in pairs) / len(pairs),
    }


def _case_check(case: str, ours: Strings, bf16: Strings | None) -> Check:
    """One picture, and BF16's beside it, to be seen; only the suite's figures decide."""
    rate = measured = _rate(ours)
    message = f"{case}: character error rate {rate:.3f}"
    if bf16 is not None:
        base = _rate(bf16)
        measured = rate - base
        message += f", BF16's {base:.3f}"
        if base > READABLE:
            message = f"{case}: not gradable: the character error rate of BF16's own picture is {base:.2f}"
            return Check(f"{NAME}.cer", NAME, Status.NOT_APPLICABLE, message, False, case=case)
    wrong = _misread(ours, bf16)
    message += f": {'; '.join(wrong)}" if wrong else ""
    return Check(f"{NAME}.cer", NAME, Status.NOT_APPLICABLE, message, False, case=case, measured=measured)


def _misread(ours: Strings, bf16: Strings | None) -> list[str]:
    """The texts that were read with an error; where there is BF16's picture, worse than in that."""
    wrong = ours
    if bf16 is not None:
        pairs = zip(ours, bf16, strict=True)
        # a word can be lost without one more error, where two run into one
        wrong = [
            one for one, other in pairs if one["errors"] > other["errors"] or one["found"] < other["found"]
        ]
    return [_said(one) for one in wrong if one["errors"]]


def _said(one: Mapping[str, Any]) -> str:
    """One expected text beside what was read for it."""
    expected, read = one["expected"], one["read"]
    # with more wrong than right, marks would show how two unrelated texts differ
    if 2 * one["errors"] > one["length"]:
        return f'"{expected}" cannot be read' + (f', the nearest is "{read}"' if read else "")
    return f'"{expected}" reads "{marked(expected, read)}"'


def _limit_check(
    name: str,
    limit: Limit,
    worse: Mapping[str, Mapping[str, float]],
    cases: Mapping[str, Strings],
    bf16: Mapping[str, Strings],
) -> Check:
    key, _, statistic = name.removeprefix(f"{NAME}.").rpartition("_")
    values = {case: measures[key] for case, measures in worse.items()}
    worst = max(values, key=lambda case: values[case])
    value = values[worst] if statistic == "max" else fsum(values.values()) / len(values)
    assert limit.max is not None
    within = value <= limit.max
    provisional = ", provisional" if limit.provisional else ""
    message = (
        f"{_MEASURES[key]}, {statistic} {figure(value)}, at most {limit.max:g} "
        f"({limit.source}{provisional}); worst is {worst} with {figure(values[worst])}; "
        f"{len(values)} of {len(cases)} pictures gradable"
    )
    if not within:
        wrong = _misread(cases[worst], bf16[worst])
        message += f": {'; '.join(wrong)}" if wrong else ""
        message += f": look at pictures/{worst}.png beside the reference's"
    status = Status.PASS if within else Status.FAIL
    return Check(name, NAME, status, message, measured=value, limit=limit.max)


def track(record: Record, pictures: Pictures | None) -> Iterator[Tracked]:
    """Nothing: what is read hangs on the engines' versions, and limits against BF16 of the session decide."""
    yield from ()
