"""One record of parts: every rung's figures but times are those of an arm that was drawn in one piece."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ernie_qa.cluster import Workers, run
from ernie_qa.errors import ErnieQAError
from ernie_qa.execute import Session
from ernie_qa.frozen import thaw
from ernie_qa.join import join
from ernie_qa.nvml import REASONS, joined
from ernie_qa.observer import Observer
from ernie_qa.plan import Plan, plan
from ernie_qa.quantizers.layers import Calls, grouped, ungrouped
from ernie_qa.recipe import REFERENCE, Recipe, find_recipe
from ernie_qa.record import Record
from ernie_qa.rungs import activation, cost, rungs
from ernie_qa.settings import Part, Settings

Observed = tuple[Recipe, dict[str, Record]]
MEASURED_ANEW = ("seconds", "stages", "resident", "first", "reference")


@pytest.fixture(scope="module")
def planned(tiny_model: Path, small_suite: Path, observed: Observed) -> Plan:
    return plan(tiny_model, [observed[0]], small_suite, teacher_cases=1)


@pytest.fixture(scope="module")
def parts(planned: Plan) -> tuple[Record, ...]:
    """BF16, a case each; the first recorded what parts are fed."""
    bf16 = find_recipe(REFERENCE)
    return tuple(
        Observer(replace(planned, teacher_cases=fed), Settings(), part=Part((case.id,), None)).record(bf16)
        for fed, case in zip((1, 0), planned.suite.cases, strict=True)
    )


def flat(value: Any, at: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {place: one for key in value for place, one in flat(value[key], f"{at}/{key}").items()}
    if isinstance(value, list):
        return {place: one for i, item in enumerate(value) for place, one in flat(item, f"{at}/{i}").items()}
    return {at: value}


def figures(record: Record) -> dict[str, Any]:
    """What does not hang on when and beside what it was measured."""
    return {
        place: one
        for place, one in flat(thaw(record.figures)).items()
        if not set(place.split("/")) & set(MEASURED_ANEW)
    }


def test_parts_make_what_one_piece_is(planned: Plan) -> None:
    whole = Session(planned)
    assert [outcome.verdict.status for outcome in whole] == ["pass"]
    with ThreadPoolExecutor(1) as pool:
        apart = run(planned, Settings(), Workers(pool), chunk=1)
    for name, record in whole.records.items():
        other = apart.records[name]
        assert figures(other) == figures(record)
        assert [one.sha256 for one in other.pictures] == [one.sha256 for one in record.pictures]
        assert (other.trajectories is None) is (record.trajectories is None)
    (ours,), (theirs,) = apart.outcomes, whole.outcomes
    assert [(one.label, one.status) for one in ours.verdict.checks] == [
        (one.label, one.status) for one in theirs.verdict.checks
    ]


def test_a_joined_record_can_be_kept(parts: tuple[Record, ...], tmp_path: Path) -> None:
    from ernie_qa.record import load_record

    found = join(parts, None)
    found.save(tmp_path / "bf16")
    assert load_record(tmp_path / "bf16").hash == found.hash
    assert [picture.case for picture in found.pictures] == ["one", "two"]
    assert list(found.figures[cost.NAME]["first"]) == ["one", "two"]
    assert not cost.steady(found.figures[cost.NAME])


def test_one_part_is_the_whole(parts: tuple[Record, ...]) -> None:
    assert join(parts[:1], None) is parts[0]


def test_what_ended_early_has_ended(parts: tuple[Record, ...]) -> None:
    from ernie_qa.record import Ended

    ended = replace(parts[1], ended=Ended("package", "package.layers", "none"), pictures=())
    assert join((parts[0], ended), None) == ended


def test_parts_of_other_machines_are_refused(parts: tuple[Record, ...]) -> None:
    foreign = replace(parts[1], fingerprint=replace(parts[1].fingerprint, cpu="another"))
    with pytest.raises(ErnieQAError, match=r"bf16: its parts were drawn by different .*cpu: another / "):
        join((parts[0], foreign), None)


def test_parts_of_another_arm_or_reference_are_refused(parts: tuple[Record, ...], observed: Observed) -> None:
    with pytest.raises(ErnieQAError, match="not of one model"):
        join((parts[0], observed[1]["lenient"]), None)
    with pytest.raises(ErnieQAError, match="not of one model"):
        join(parts, parts[0])


def test_parts_that_hold_other_weights_are_refused(parts: tuple[Record, ...]) -> None:
    other = {**parts[1].figures, "package": {**parts[1].figures["package"], "memory_bytes": 1}}
    with pytest.raises(ErnieQAError, match="bf16: its parts disagree in package: memory_bytes"):
        join((parts[0], replace(parts[1], figures=other)), None)


def test_weights_that_were_known_by_the_next_part_are_the_same(parts: tuple[Record, ...]) -> None:
    package = parts[0].figures["package"]

    def found(number: int, other: int = 0) -> Record:
        weights = {
            "transformer": {"same": 60, "layers": {}, "missing": [], "other": other, "before": number > 0}
        }
        part = parts[number]
        return replace(part, figures={**part.figures, "package": {**package, "weights": weights}})

    assert join((found(0), found(1)), None).figures["package"]["weights"]["transformer"]["same"] == 60
    with pytest.raises(ErnieQAError, match="disagree in package: weights"):
        join((found(0), found(1, other=1)), None)


def test_every_rung_joins() -> None:
    assert all(callable(rung.join) for rung in rungs())


def calls(total: int, *, replayed: int = 1, **fallbacks: int) -> Calls:
    ops = {"aten::_int_mm": 1} if replayed > 0 else {}
    return Calls("layer", total, total - sum(fallbacks.values()), fallbacks, replayed, ops)


@pytest.mark.parametrize("exercised", [False, True])
def test_calls_are_summed(exercised: bool) -> None:
    told = {"exercised": True} if exercised else {}
    parts = [
        {"components": {"pe": {"layers": [], **told, "calls": grouped([one])}}}
        for one in (calls(4, few_rows=1, replayed=-1), calls(6, few_rows=2, skipped=1))
    ]
    (found,) = ungrouped(Calls, activation.join(parts, None)["components"]["pe"]["calls"])
    if exercised:
        # each part did it once, for want of a call in its cases
        assert found == calls(4, few_rows=1, replayed=-1)
    else:
        assert found == Calls("layer", 10, 6, {"few_rows": 3, "skipped": 1}, 1, {"aten::_int_mm": 1})


def joined_calls(*parts: Calls) -> Calls:
    figures = [{"components": {"pe": {"layers": [], "calls": grouped([one])}}} for one in parts]
    (found,) = ungrouped(Calls, activation.join(figures, None)["components"]["pe"]["calls"])
    return found


def test_a_repetition_that_dispatched_no_kernel_is_not_lost() -> None:
    good, faulty = calls(4), replace(calls(4), ops={})
    for parts in ((good, faulty), (faulty, good)):
        found = joined_calls(*parts)
        assert (found.replayed, found.ops) == (1, {})


def test_a_part_with_too_few_rows_proves_nothing_for_the_others() -> None:
    few = replace(calls(4, few_rows=4), replayed=0, ops={})
    assert joined_calls(few, calls(6)).ops == {"aten::_int_mm": 1}


def test_windows_of_a_gpu_are_joined() -> None:
    calm = dict.fromkeys(REASONS, 0)
    one = {
        "samples": 3,
        "sm_clock_mhz": [1900, 1950, 1980],
        "temperature_c": 41,
        "power_w": [300.0, 400.0],
        "power_limit_w": 700.0,
        "reasons": {**calm, "sw_power_cap": 2},
        "device_used_bytes": 10,
        "other_processes": 0,
        "error": None,
    }
    other = {
        **one,
        "samples": 1,
        "sm_clock_mhz": [1700, 1800, 1990],
        "temperature_c": 50,
        "power_w": [500.0, 500.0],
        "reasons": {**calm, "sw_power_cap": 1},
        "other_processes": 2,
    }
    found = joined([one, other])
    assert found["samples"] == 4
    assert found["sm_clock_mhz"] == [1700, 1875, 1990]
    assert (found["temperature_c"], found["power_w"]) == (50, [400.0, 500.0])
    assert found["reasons"] == {**calm, "sw_power_cap": 3}
    assert (found["other_processes"], found["error"]) == (2, None)
    unread = {**dict.fromkeys(one), "samples": 0, "error": "NVML: none"}
    assert joined([unread, unread]) == unread
    assert joined([one, unread]) == one
