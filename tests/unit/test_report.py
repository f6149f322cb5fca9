import json
import re
from datetime import date
from pathlib import Path

import pytest

from ernie_qa.errors import InputError
from ernie_qa.report.files import check_directory
from ernie_qa.report.terminal import MESSAGES, lines, nearest
from ernie_qa.verdict import Check, Status, Verdict, WaiverUse

LONG = "every one of the 256 layers of the transformer went through the dequantizing forward. " * 3


def check(name: str, status: Status = Status.PASS, **values: object) -> Check:
    return Check(name, name.partition(".")[0], status, "said in words", **values)  # type: ignore[arg-type]


def verdicts() -> list[Verdict]:
    good = (
        check("package.bytes", measured=100.0, limit=200.0),
        check("images.lpips_mean", measured=0.9, limit=1.0),
        check("images.psnr_mean", measured=40.0, limit=30.0),
    )
    broken = (
        check("package.bytes"),
        Check("activation.kernels", "activation", Status.FAIL, LONG, component="transformer"),
        check("images.lpips_mean", Status.NOT_COMPARABLE),
    )
    return [Verdict("sdnq-uint4-static", good), Verdict("mine", broken)]


def test_table_has_a_row_a_recipe_and_a_column_a_rung() -> None:
    header, first, second, *_ = lines(verdicts())
    assert header.split() == [
        "recipe",
        "package",
        "images",
        "activation",
        "verdict",
        "of",
        "limit",
    ]
    assert first.split() == ["sdnq-uint4-static", "pass", "pass", "-", "PASS", "90%", "lpips_mean"]
    assert second.split() == ["mine", "pass", "unclear", "FAIL", "FAIL"]


def test_lines_fit_80_columns_and_carry_no_colour() -> None:
    shown = lines(verdicts())
    assert max(map(len, shown)) <= 80
    assert "\x1b" not in "".join(shown)


def test_colour_changes_nothing_but_the_colour() -> None:
    coloured = lines(verdicts(), colour=True)
    assert [re.sub(r"\x1b\[[\d;]*m", "", line) for line in coloured] == lines(verdicts())
    assert coloured != lines(verdicts())


def test_failing_checks_speak_below_the_table() -> None:
    text = " ".join(" ".join(lines(verdicts())).split())
    assert "FAIL mine activation.kernels[transformer]" in text
    assert LONG.strip() in text
    assert "unclear mine images.lpips_mean" in text


def test_a_rung_that_concerns_no_recipe_has_no_column() -> None:
    shown = lines([Verdict("mine", (check("a.b"), check("cost.latency", Status.NOT_APPLICABLE)))])
    assert "cost" not in shown[0]


def test_what_has_one_cause_is_told_once() -> None:
    moved = [
        Check(f"baseline.images.{name}", "baseline", Status.NOT_COMPARABLE, "BF16 moved")
        for name in ("lpips_mean", "lpips_max", "ssim_mean")
    ]
    shown = lines([Verdict("mine", (check("a.b"), *moved))])
    assert "unclear  mine  baseline.images.lpips_mean and 2 more" in shown
    assert shown.count("  BF16 moved") == 1


def test_waivers_are_listed() -> None:
    waived = WaiverUse("a.c", "known upstream", date(2026, 12, 31), False, 1)
    failed = check("a.c", Status.FAIL, required=False)
    shown = lines([Verdict("mine", (check("a.b"), failed), (waived,))])
    assert shown[1].split() == ["mine", "waived", "PASS"]
    assert "mine  waiver of a.c until 2026-12-31: known upstream" in shown


def test_a_narrow_terminal_has_what_is_nearest_to_its_limit_below_the_table() -> None:
    wide, narrow = (lines(verdicts()[:1], width=width) for width in (59, 58))
    assert wide[1].endswith("PASS     90% lpips_mean")
    assert narrow[1].endswith("PASS")
    assert narrow[-3:] == ["", "recipe             of limit", "sdnq-uint4-static  90% lpips_mean"]
    # without a figure there is nothing to say below either
    assert not any("of limit" in line for line in lines([Verdict("mine", (check("a.b"),))], width=20))


def test_the_words_that_the_table_uses_are_told_below_it() -> None:
    passed = Verdict("one", (check("a.b"),))
    assert len(lines([passed])) == 2
    shown = Verdict("two", (check("a.b"), check("c.d", required=False)))
    assert lines([passed, shown])[3] == "in brackets: decides nothing; -: does not concern it"
    assert lines(verdicts())[3] == "unclear: could not be judged; -: does not concern it"


def test_an_informational_failure_is_a_note() -> None:
    shown = lines([Verdict("mine", (check("a.b"), check("a.c", Status.FAIL, required=False)))])
    assert "note  mine  a.c" in shown
    assert "PASS" in shown[1]


def test_a_note_on_several_recipes_is_told_once() -> None:
    checks = (
        Check("a.b", "a", Status.PASS, "fine"),
        Check("a.c", "a", Status.NOT_COMPARABLE, "no engine", required=False),
    )
    shown = lines([Verdict("mine", checks), Verdict("yours", checks)])
    assert [line for line in shown if "a.c" in line] == ["note  mine, yours  a.c"]
    assert shown.count("  no engine") == 1


def test_what_decides_nothing_is_in_brackets() -> None:
    shown = Verdict("mine", (check("package.bytes"), check("text.lines_lost_mean", required=False)))
    unread = check("text.lines_lost_mean", Status.NOT_COMPARABLE, required=False)
    header, first, second, *_ = lines([shown, Verdict("other", (check("package.bytes"), unread))])
    assert header.split()[:3] == ["recipe", "package", "text"]
    assert first.split() == ["mine", "pass", "(pass)", "PASS"]
    assert second.split() == ["other", "pass", "(unclear)", "PASS"]


def test_every_rung_fits_80_columns() -> None:
    rungs = ("package", "activation", "images", "text", "baseline", "cost")
    checks = [check(f"{rung}.x", required=rung != "text", measured=1.0, limit=2.0) for rung in rungs]
    header, row, *_ = lines([Verdict("sdnq-uint4-dequant", tuple(checks))])
    assert len(header) <= 80
    assert row.split() == [
        "sdnq-uint4-dequant",
        *("(pass)" if one == "text" else "pass" for one in rungs),
        "PASS",
    ]
    assert "50% x" in lines([Verdict("sdnq-uint4-dequant", tuple(checks))], width=100)[1]


def test_many_failures_are_counted_not_printed() -> None:
    many = tuple(
        Check(f"activation.layer{index}", "activation", Status.FAIL, f"cause {index}")
        for index in range(MESSAGES + 3)
    )
    shown = lines([Verdict("mine", many)])
    assert shown[-1] == "  and 3 more checks of mine that did not pass"


@pytest.mark.parametrize(
    ("status", "measured", "limit", "unit", "share"),
    [
        (Status.PASS, 0.5, 1.0, "", 0.5),
        (Status.FAIL, 2.0, 1.0, "", 2.0),
        (Status.PASS, 40.0, 30.0, "dB", 0.1),
        (Status.FAIL, 20.0, 30.0, "dB", 10.0),
        (Status.PASS, 0.99, 0.98, "", 0.5),
        (Status.PASS, 1.0, 0.95, "", 0.0),
        (Status.FAIL, 0.96, 0.98, "", 2.0),
        (Status.PASS, 40.0, 30.0, "pictures", 0.75),
    ],
)
def test_nearest_knows_upper_from_lower_limits(
    status: Status, measured: float, limit: float, unit: str, share: float
) -> None:
    only = check("a.b", status, measured=measured, limit=limit, unit=unit)
    found = nearest(Verdict("mine", (only,)))
    assert found is not None
    assert found == (only, pytest.approx(share))


def test_nearest_prefers_what_is_beyond_its_limit() -> None:
    worst = check("a.c", Status.FAIL, measured=31.0, limit=32.0)
    near = check("a.b", measured=0.99, limit=1.0)
    found = nearest(Verdict("mine", (near, worst)))
    assert found is not None
    assert found[0] is worst


def test_nothing_measured_has_no_nearest() -> None:
    assert nearest(Verdict("mine", (check("a.b"),))) is None


def test_verdict_as_text_names_every_check_and_explains_failures() -> None:
    text = str(verdicts()[1])
    assert text.splitlines()[0] == "mine: fail"
    assert "activation.kernels[transformer]: " + LONG in text
    assert all(check.label in text for check in verdicts()[1].checks)


def test_report_refuses_a_directory_with_files(tmp_path: Path) -> None:
    check_directory(tmp_path / "new")
    check_directory(tmp_path)
    (tmp_path / "verdict.json").write_text(json.dumps({}))
    with pytest.raises(InputError, match="not empty"):
        check_directory(tmp_path)
    with pytest.raises(InputError, match="not a directory"):
        check_directory(tmp_path / "verdict.json")
