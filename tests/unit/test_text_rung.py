"""How the text rung judges: every way in which it does, and what it says."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ernie_qa.recipe import find_recipe
from ernie_qa.record import Record
from ernie_qa.rungs import rungs, text
from ernie_qa.verdict import Status
from tests.words import BAD, BF16, ENGINES, FINGERPRINT, GOOD, HURT, LIMIT, figures, gated, judge, record

ROOT = Path(__file__).parents[2]


def test_the_rung_is_found_and_every_measure_can_be_limited() -> None:
    assert text in rungs()
    assert set(text.LIMITS) == {
        f"text.{name}_{statistic}"
        for name in ("cer_rise", "words_lost", "lines_lost")
        for statistic in ("mean", "max")
    }
    assert set(text.LIMITS.values()) == {"max"}
    assert list(text.track(BF16, None)) == []


def changed(of: Record, **values: Any) -> Record:
    """The same record with other figures of this rung."""
    return replace(of, figures={"text": {**of.figures["text"], **values}})


OTHERS = {
    "other engine": changed(BF16, engines={**ENGINES, "rapidocr": "rapidocr 0.9"}),
    "unread": changed(BF16, why="rapidocr is not installed: pip install it", cases={}, engines={}),
    "no figures": record(None),
    "other texts": record(figures(**{**GOOD, "b": {"号外": "号外"}})),
    "fewer texts": record(figures(a=GOOD["a"])),
    "elsewhere": replace(BF16, fingerprint=replace(FINGERPRINT, cpu="another CPU")),
}


@pytest.mark.parametrize(
    ("found", "reference", "reason"),
    [
        (record(None, BF16), BF16, "the record holds no figures of this rung"),
        (replace(HURT, reference=None), BF16, "observed without a reference"),
        (HURT, None, f"against record {BF16.hash[:12]}: judge with that record as reference"),
        (HURT, OTHERS["elsewhere"], f"the reference given is {OTHERS['elsewhere'].hash[:12]}"),
        *(
            (record(figures(**BAD), OTHERS[name]), OTHERS[name], reason)
            for name, reason in {
                "other engine": "were read by rapidocr 0.9, tesseract 5, these by rapidocr 1, tesseract 5",
                "unread": "BF16's pictures were not read: rapidocr is not installed: pip install it",
                "no figures": "BF16's pictures were not read: its record holds no figures",
                "other texts": "expects other texts",
                "fewer texts": "expects other texts",
                "elsewhere": "another build or machine",
            }.items()
        ),
    ],
    ids=["no record", "no reference", "reference missing", "other hash", *OTHERS],
)
def test_what_cannot_be_paired_is_never_a_pass(found: Record, reference: Record | None, reason: str) -> None:
    (check,) = judge(found, reference, LIMIT).values()
    assert (check.name, check.status, check.required) == ("text.cer_rise_mean", Status.NOT_COMPARABLE, True)
    assert reason in check.message


def test_bf16_alone_is_shown_and_not_judged() -> None:
    found = judge(record(figures(**BAD)), None, find_recipe("bf16"))
    assert found.keys() == {"text.limits", "text.cer[a]", "text.cer[b]"}
    assert found["text.limits"].message == "bf16 is what the others are compared with"
    assert not any(check.required for check in found.values())
    assert '"Answer 42" reads "Answer 4[1]2"' in found["text.cer[a]"].message
    assert found["text.cer[b]"].measured == 0


def test_an_illegible_picture_of_bf16_is_not_gradable_and_says_so() -> None:
    rubbish = {**GOOD, "b": {"天下无双": "犬丁尢双"}, "c": {"tea": "tea"}}
    bf16 = record(figures(**rubbish))
    found = judge(record(figures(**rubbish), bf16), bf16, gated(cer_rise_max=0.0))
    shown = found["text.cer[b]"]
    assert (shown.status, shown.required, shown.measured) == (Status.NOT_APPLICABLE, False, None)
    assert shown.message == "b: not gradable: the character error rate of BF16's own picture is 0.75"
    assert found["text.cer_rise_max"].status is Status.PASS
    assert "2 of 3 pictures gradable" in found["text.cer_rise_max"].message


@pytest.mark.parametrize(("errors", "status"), [(3, Status.PASS), (4, Status.NOT_COMPARABLE)])
def test_up_to_three_errors_in_ten_characters_are_legible(errors: int, status: Status) -> None:
    bf16 = record(figures(a={"abcdefghij": "x" * errors + "abcdefghij"[errors:]}))
    same = replace(bf16, reference=bf16.hash)
    assert judge(same, bf16, gated(cer_rise_max=0.0))["text.cer_rise_max"].status is status


def test_with_less_than_half_gradable_nothing_is_judged() -> None:
    few = {"a": {"tea": "tea"}, "b": {"milk": "?"}, "c": {"bread": "!"}}
    bf16 = record(figures(**few))
    for read, status in ((few, Status.NOT_COMPARABLE), ({**few, "a": {"tea": "?"}}, Status.NOT_COMPARABLE)):
        check = judge(record(figures(**read), bf16), bf16, LIMIT)["text.cer_rise_mean"]
        assert (check.status, check.required) == (status, True)
        assert check.message == "1 of 3 pictures are gradable: BF16's own words are illegible"
    half = record(figures(a=few["a"], b=few["b"]))
    check = judge(replace(half, reference=half.hash), half, LIMIT)["text.cer_rise_mean"]
    assert check.status is Status.PASS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cer_rise_mean", 1 / 20 / 2),
        ("cer_rise_max", 1 / 20),
        ("words_lost_mean", 1 / 4 / 2),
        ("words_lost_max", 1 / 4),
        ("lines_lost_mean", 1 / 2 / 2),
        ("lines_lost_max", 1 / 2),
    ],
)
def test_limits_decide_and_name_the_worst_picture(name: str, value: float) -> None:
    above = judge(HURT, BF16, gated(**{name: value + 1e-9}))[f"text.{name}"]
    assert (above.status, above.required, above.limit) == (Status.PASS, True, value + 1e-9)
    assert above.measured == pytest.approx(value)
    assert "(a test, provisional)" in above.message
    assert "worst is a with" in above.message
    assert "2 of 2 pictures gradable" in above.message
    below = judge(HURT, BF16, gated(**{name: value - 1e-9}))[f"text.{name}"]
    assert below.status is Status.FAIL
    assert below.measured == above.measured
    assert '"Answer 42" reads "Answer 4[1]2"' in below.message
    assert "Grand" not in below.message
    assert "pictures/a.png" in below.message


def test_only_what_is_worse_than_bf16s_counts_and_is_shown() -> None:
    faulty = {"a": {"Answer 42": "Answer 43", "Grand Opening": "Grand Opening"}}
    bf16 = record(figures(**faulty))
    found = judge(replace(bf16, reference=bf16.hash), bf16, gated(cer_rise_max=0.0, lines_lost_max=0.0))
    assert {check.status for check in found.values() if check.required} == {Status.PASS}
    assert found["text.cer[a]"].message == "a: character error rate 0.050, BF16's 0.050"
    better = judge(record(figures(a=GOOD["a"]), bf16), bf16, gated(cer_rise_max=0.0))["text.cer_rise_max"]
    assert (better.status, better.measured) == (Status.PASS, 0)


def test_what_is_read_better_makes_up_for_nothing() -> None:
    bf16 = record(figures(a={"Answer 42": "Answer 412", "Grand Opening": "Grand Opening"}))
    ours = record(figures(a={"Answer 42": "Answer 42", "Grand Opening": "Grand Openin"}), bf16)
    found = judge(ours, bf16, gated(cer_rise_max=0.0, words_lost_max=0.0, lines_lost_max=0.0))
    measured = {name: check.measured for name, check in found.items() if check.required}
    assert measured == {
        "text.cer_rise_max": pytest.approx(1 / 20),
        "text.words_lost_max": pytest.approx(1 / 4),
        "text.lines_lost_max": pytest.approx(1 / 2),
    }
    assert {check.status for check in found.values() if check.required} == {Status.FAIL}


def test_a_recipe_without_limits_is_told_and_not_held_up() -> None:
    found = judge(record(figures(**BAD), BF16), BF16, gated())
    check = found["text.limits"]
    assert (check.status, check.required, check.case) == (Status.NOT_APPLICABLE, False, None)
    assert "sets no text limits for suite" in check.message


def test_a_word_lost_without_one_more_error_is_shown_too() -> None:
    bf16 = record(figures(a={"bread and butter": "bread amd butter"}))
    ours = record(figures(a={"bread and butter": "breadand buttex"}), bf16)
    found = judge(ours, bf16, gated(words_lost_max=0.5, cer_rise_max=0.0))
    assert found["text.cer_rise_max"].status is Status.PASS
    check = found["text.words_lost_max"]
    assert check.status is Status.FAIL
    assert 'gradable: "bread and butter" reads "breadand butte[x]": look at' in check.message


JUDGING = """
import sys
from dataclasses import replace
from ernie_qa.recipe import Gate, Limit, find_recipe
from ernie_qa.record import load_record
from ernie_qa.rungs import Evidence, text
gate = Gate({"text.cer_rise_max": Limit(0.0, None, "a test")})
recipe = replace(find_recipe("sdnq-int8"), gates={"few": gate})
checks = list(text.judge(Evidence(load_record(sys.argv[1]), load_record(sys.argv[2]), recipe)))
heavy = {"torch", "numpy", "rapidfuzz", "rapidocr", "onnxruntime", "tesserocr", "cv2"}
print(checks[-1].status, sorted(heavy & set(sys.modules)))
"""


def test_judging_needs_no_engine(tmp_path: Path) -> None:
    HURT.save(tmp_path / "ours")
    BF16.save(tmp_path / "bf16")
    command = [sys.executable, "-c", JUDGING, str(tmp_path / "ours"), str(tmp_path / "bf16")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "fail []"
