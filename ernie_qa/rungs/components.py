"""Rung 3: how far off is each part alone, when it is fed what BF16 fed it?

BF16's arm draws the first cases of the suite once more and keeps what each part was fed and gave
(`ernie_qa.teacher`); every other arm is fed that before it draws anything (`ernie_qa.replay`), so that no
part's error reaches another. docs/components.md has the definitions.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

from ernie_qa.baseline.accepted import Tracked
from ernie_qa.fidelity.advice import KEPT, explain
from ernie_qa.fidelity.extents import ranked
from ernie_qa.quantizers.layers import listed
from ernie_qa.recipe import QUANTIZABLE
from ernie_qa.rungs.cost import written
from ernie_qa.verdict import Check, Status
from ernie_qa.wording import counted, figure

if TYPE_CHECKING:
    from ernie_qa.baseline.pictures import Pictures
    from ernie_qa.drawing import Drawn
    from ernie_qa.recipe import Limit
    from ernie_qa.record import Record
    from ernie_qa.rungs import Arm, Evidence, Figures

NAME = "components"
ORDER = 3

CASES = 2
"""How many cases of a suite are recorded and fed to the other arms, unless somebody asks otherwise."""
ROUNDING = 0.01
"""The VAE's relative error that rounding alone may make: another attention kernel moved the miniature's by
0.0036 (docs/components.md). Whether its weights are BF16's to the bit is the package rung's to say."""
REGRESSION = 0.15
"""The share by which a figure may get worse than what was accepted."""
FLOORS = {"kl_mean": 0.001, "top1": 0.03, "layer_gain_max": 0.002}
"""What these may change by where nothing that matters did: nats (another attention kernel moved the
miniature's by 0.00004), one token of 46, and chance in the rows."""
DEFINITION = (
    "teacher-forced on BF16's inputs, relative L2 and nats in float64, layers by rows of BF16's inputs"
)

_OF_A_LAYER = "layer_"
"""What the key of a measure begins with that is of a single layer."""

ALONE = "it was observed without a reference"
FIRST = "it is what the others are compared with"


@dataclass(frozen=True, slots=True)
class _Measure:
    """One figure that a recipe may limit: of which `component`, under which `key` of its figures, what it is,
    the `bound` that keeps out damage, and its unit."""

    component: str
    key: str
    title: str
    bound: str = "max"
    unit: str = ""


def _measures() -> Iterator[tuple[str, _Measure]]:
    for part, what in (("text_encoder", "a token's hidden states"), ("transformer", "a step's prediction")):
        yield f"{part}_l2_mean", _Measure(part, "l2_mean", f"relative error of {what}, mean")
        yield f"{part}_l2_max", _Measure(part, "l2_max", f"relative error of {what}, at worst")
        yield f"{part}_cosine_min", _Measure(part, "cosine_min", f"cosine of {what}, at worst", "min")
    yield "pe_kl_mean", _Measure("pe", "kl_mean", "KL divergence from BF16's next token, mean", unit="nats")
    yield "pe_kl_max", _Measure("pe", "kl_max", "KL divergence from BF16's next token, at worst", unit="nats")
    yield "pe_top1", _Measure("pe", "top1", "share of tokens whose likeliest successor is BF16's", "min")
    for part in QUANTIZABLE:
        yield f"{part}_layer_l2_max", _Measure(part, "layer_l2_max", "relative error of one layer, at worst")
        yield (
            f"{part}_layer_gain_max",
            _Measure(part, "layer_gain_max", "distance of a layer's gain from 1, at worst"),
        )


MEASURES: Mapping[str, _Measure] = dict(_measures())
LIMITS: Mapping[str, str] = {
    **{f"{NAME}.{name}": what.bound for name, what in MEASURES.items()},
    f"{NAME}.vae_l2": "max",
}


def measure(arm: Arm) -> Generator[Figures | None, tuple[Drawn, ...], Figures]:
    """Of BF16, after the suite: its trajectories. Of any other arm, before: every part beside them.

    Figures: `cases` (ids), `reference` (its record's hash) or None and `why`, `seconds`; where there is a
    reference, also `text_encoder`, `transformer` and `pe` (None without one), `vae`, `scheduler` and `fed` by
    case, `tokenizers` (name -> cases of which the ids differ), `missing` (calls) and `layers` by component,
    which `ernie_qa.replay.Replay` explains. A number that is not finite is None.
    """
    cases = [case.id for case in arm.suite.cases[: arm.teacher_cases]]
    figures: dict[str, Any] = {"cases": cases, "reference": None, "why": _why(arm), "seconds": 0.0}
    if figures["why"] is None and arm.reference is not None:
        figures = figures | _replayed(arm, arm.reference)
        yield figures
    elif figures["why"] == FIRST and cases:
        drawn = yield None
        figures["seconds"] = _recorded(arm, drawn)
    else:
        yield figures
    return figures


def _why(arm: Arm) -> str | None:
    """Why this arm is not fed anything; None where it is."""
    if not arm.teacher_cases:
        return "no case was to be fed to it (--teacher-cases 0)"
    if arm.reference is None:
        return ALONE if arm.recipe.components else FIRST
    if arm.reference.model.hash != arm.model.identity.hash:
        return f"the reference drew another model, {arm.reference.model.name}"
    if arm.reference.suite.hash != arm.suite.hash:
        return f"the reference drew another suite, {arm.reference.suite.name}"
    if arm.reference.trajectories is None:
        return "the reference holds no trajectories: observe bf16 again"
    return None


def _recorded(arm: Arm, drawn: Sequence[Drawn]) -> float:
    """Draw the first cases once more and keep their trajectories; the seconds that took."""
    from ernie_qa.meter import now
    from ernie_qa.teacher import recorded

    pipe: Any = arm.pipe
    began = now(pipe._execution_device)
    words = {one.case: one.enhanced.prompt for one in drawn if one.enhanced and one.enhanced.prompt}
    arm.kept.append(recorded(arm.pipe, arm.suite, arm.teacher_cases, words))
    return now(pipe._execution_device) - began


def _replayed(arm: Arm, reference: Record) -> dict[str, Any]:
    from ernie_qa.compile_cache import compiled_files
    from ernie_qa.meter import now
    from ernie_qa.replay import replayed

    for component in arm.recipe.components:
        # some CPUs repack NF4 weights in the first forward
        if getattr(arm.pipe, component, None) is not None:
            arm.seen(component)
    pipe: Any = arm.pipe
    place = pipe._execution_device
    began, before = now(place), compiled_files()

    def rehearsed(case: str, seconds: float) -> None:
        if place.type == "cuda" and not arm.rehearsed:
            compiled = compiled_files() - before
            arm.rehearsed.append({"case": case, "seconds": seconds, "compiled": compiled})

    assert reference.trajectories is not None
    with arm.unwatched():
        found = replayed(
            arm.pipe, arm.suite, reference.trajectories, arm.teacher_cases, written(reference), rehearsed
        )
    return found | {"reference": reference.hash, "seconds": now(place) - began}


def join(parts: Sequence[Figures], reference: Record | None) -> Figures:
    """The first part's: the first cases are the ones that are fed, and it drew them."""
    return parts[0]


def values(figures: Figures) -> dict[str, tuple[float | None, str]]:
    """Figure -> its value, None where it is not finite, and where it is worst; only what was measured."""
    found: dict[str, tuple[float | None, str]] = {}
    for name, what in MEASURES.items():
        part = figures.get(what.component)
        if what.key.startswith(_OF_A_LAYER):
            rows = ranked(figures, what.component)
            if what.key == "layer_gain_max":
                # one row is too little for noise to average out
                rows = [row for row in rows if row.rows > 1]
                rows.sort(key=lambda row: -(inf if row.off is None else row.off))
            if rows:
                found[name] = (rows[0].off if what.key == "layer_gain_max" else rows[0].l2, rows[0].name)
        elif part is not None:
            where = f"{part['tokens']} tokens" if what.key == "top1" else part["worst"]
            found[name] = (part[what.key], where)
    return found


def judge(evidence: Evidence) -> Iterator[Check]:
    """Tokenizers, scheduler, VAE and calls against BF16's; every other part against the recipe's limits."""
    limits = {name: limit for name, limit in evidence.limits.items() if name in LIMITS}
    figures = evidence.record.figures.get(NAME)
    status, why = _standing(evidence, figures)
    if status is not Status.PASS or figures is None:
        alone = figures is not None and figures["why"] == ALONE
        required = bool(limits) or alone
        for name in limits or (f"{NAME}.transformer_l2_max",):
            yield Check(name, NAME, status, why, required and status is not Status.NOT_APPLICABLE)
        return
    yield from _exact_checks(figures, limits.get(f"{NAME}.vae_l2"))
    found = values(figures)
    for name, what in MEASURES.items():
        limit = limits.get(f"{NAME}.{name}")
        if name in found:
            yield _check(name, what, *found[name], limit, figures, evidence.recipe.name)
        elif limit:
            message = f"{what.component}: nothing was measured of it: observe again, with bf16"
            yield Check(f"{NAME}.{name}", NAME, Status.NOT_COMPARABLE, message, component=what.component)


def _standing(evidence: Evidence, figures: Figures | None) -> tuple[Status, str]:
    """PASS where the figures can be judged; else what that makes of the rung, and why."""
    if figures is None:
        return Status.NOT_COMPARABLE, "the record holds no figures of this rung: observe the recipe again"
    if figures["why"] == FIRST and evidence.reference is None and not evidence.recipe.components:
        return Status.NOT_APPLICABLE, f"recipe {evidence.recipe.name}: {FIRST}"
    if figures["reference"] is None:
        return Status.NOT_COMPARABLE, f"nothing was fed to it: {figures['why']}"
    why = evidence.other_reference(figures["reference"], "the parts were")
    return (Status.NOT_COMPARABLE, why) if why else (Status.PASS, "")


def _exact_checks(figures: Figures, limit: Limit | None) -> Iterator[Check]:
    """What no recipe touches, and so must be what it is in BF16."""
    for tokenizer, cases in figures["tokenizers"].items():
        fault = f"other ids than BF16's in {listed(cases)}: look at its files" if cases else ""
        yield _exact("tokenizers", tokenizer, fault, "the ids of every case are BF16's")
    differing = [f"{case}: {what}" for case, found in figures["scheduler"].items() for what in found]
    fault = f"differs from BF16's ({listed(differing)}): look at scheduler_config.json" if differing else ""
    yield _exact("scheduler", "scheduler", fault, "sigmas, timesteps and every step are BF16's")
    yield from _fed_checks(figures.get("fed"))
    missing = figures["missing"]
    fault = f"{listed(missing)}: look at the pipeline" if missing else ""
    yield _exact("calls", None, fault, "every part was called as often as in BF16")
    yield _vae(figures["vae"], limit)


def _fed_checks(fed: Mapping[str, Mapping[str, Sequence[str]]] | None) -> Iterator[Check]:
    if not fed:
        message = "nobody looked at what the parts are fed: observe the recipe again"
        yield Check(f"{NAME}.fed", NAME, Status.NOT_COMPARABLE, message)
        return
    for part in next(iter(fed.values())):
        wrong = [f"{case}: {what}" for case, found in fed.items() for what in found[part]]
        fault = f"{listed(wrong)}: look at what is wrapped around it and at how the pipeline is called"
        passed = "what the pipeline brings reaches it, and leaves it, unchanged"
        yield _exact("fed", part, fault if wrong else "", passed)


def _vae(figures: Mapping[str, Any], limit: Limit | None) -> Check:
    """Identical to the bit, or apart by no more than rounding, which is then shown."""
    bound, source = (ROUNDING, "rounding, docs/components.md") if limit is None else (limit.max, limit.source)
    assert bound is not None
    found = {case: one for case, one in figures.items() if one is not None}
    if not found:
        message = "vae: it decoded nothing: observe again"
        return Check(f"{NAME}.vae_l2", NAME, Status.NOT_COMPARABLE, message, component="vae")
    case = max(found, key=lambda one: inf if found[one]["l2"] is None else found[one]["l2"])
    value, apart = found[case]["l2"], found[case]["max_abs"]
    within = value is not None and value <= bound
    if all(one["identical"] for one in found.values()):
        message = (
            f"vae: of BF16's latents it makes what BF16's makes, to the bit, in {counted(len(found), 'case')}"
        )
    else:
        message = f"vae: what it makes of BF16's latents differs by {_said(value)} relative, {_said(apart)} "
        message += f"in a value of -1 to 1 at most, in {case}; at most {bound:g} relative ({source})"
    if not within:
        message += ": compare its weights and dtype with the model directory's"
    status = Status.PASS if within else Status.FAIL
    return Check(f"{NAME}.vae_l2", NAME, status, message, component="vae", measured=value, limit=bound)


def _exact(name: str, component: str | None, fault: str, passed: str) -> Check:
    status, prefix = Status.FAIL if fault else Status.PASS, f"{component}: " if component else ""
    return Check(f"{NAME}.{name}", NAME, status, f"{prefix}{fault or passed}", component=component)


def _check(
    name: str,
    what: _Measure,
    value: float | None,
    where: str,
    limit: Limit | None,
    figures: Figures,
    recipe: str,
) -> Check:
    bound = None if limit is None else getattr(limit, what.bound)
    message = f"{what.component}: {what.title} {_said(value)} {what.unit}".rstrip()
    status = Status.NOT_APPLICABLE
    if limit is None or bound is None:
        message += f" ({where}), and no limit"
    else:
        within = value is not None and (value <= bound if what.bound == "max" else value >= bound)
        status = Status.PASS if within else Status.FAIL
        word, provisional = "at most" if what.bound == "max" else "at least", limit.provisional
        message += f", {word} {bound:g} ({limit.source}{', provisional' if provisional else ''}); {where}"
        if not within:
            # a layer's own check names it already
            own = what.key.startswith(_OF_A_LAYER)
            message += (
                f": {KEPT}, {explain(recipe)} ranks all layers"
                if own
                else _culprits(figures, what.component, recipe)
            )
    return Check(
        f"{NAME}.{name}",
        NAME,
        status,
        message,
        required=limit is not None,
        component=what.component,
        measured=value,
        limit=bound,
        unit=what.unit,
    )


def _culprits(figures: Figures, component: str, recipe: str) -> str:
    """The layers that are furthest off by themselves."""
    rows = ranked(figures, component)
    if not rows:
        return ""
    off = max(rows, key=lambda row: inf if row.off is None else row.off)
    worst = ", ".join(f"{row.name} ({_said(row.l2)})" for row in rows[:2])
    return (
        f": its layers that are furthest off by themselves are {worst}, and by their gain {off.name} "
        f"({_said(off.off)} from 1): {KEPT}, {explain(recipe)} ranks them all"
    )


def _said(value: float | None) -> str:
    return "not finite" if value is None else figure(value)


def track(record: Record, pictures: Pictures | None) -> Iterator[Tracked]:
    """Errors of the parts beside BF16's, of random weights too; what is not finite, and what says the same
    once more (cosines, the worst token's KL divergence), is left out."""
    figures = record.figures.get(NAME)
    if figures is None or figures["reference"] is None:
        return
    definition = f"{DEFINITION}; of {', '.join(figures['cases'])}"
    for name, (value, _) in values(figures).items():
        what = MEASURES[name]
        if value is not None and what.key not in ("cosine_min", "kl_max"):
            yield Tracked(
                f"{NAME}.{name}",
                value,
                "lower" if what.bound == "max" else "higher",
                what.unit,
                ideal=0.0 if what.bound == "max" else 1.0,
                floor=FLOORS.get(what.key, 0.0),
                share=REGRESSION,
                against_bf16=True,
                definition=definition,
            )
