"""What one gate in two environments amounts to, and what is refused before an environment is made."""

from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from ernie_qa.cli import main
from ernie_qa.errors import UnavailableError
from ernie_qa.overlay import overlay, requirements
from ernie_qa.recipe import REFERENCE, Recipe
from ernie_qa.record import Record
from ernie_qa.report.ab import beside, lines, markdown, status
from ernie_qa.report.shown import Shown
from ernie_qa.verdict import Check, Status, Verdict

Observed = tuple[Recipe, dict[str, Record]]
NAMES = ("as it is installed", "sdnq==0.2.9")


def shown(record: Record, reference: Record, ended: Status) -> Shown:
    check = Check("images.lpips_mean", "images", ended, "a test")
    return Shown(record.recipe.name, record, Verdict(record.recipe.name, (check,)), reference, "a test")


@pytest.fixture
def passed(observed: Observed) -> Shown:
    return shown(observed[1]["lenient"], observed[1][REFERENCE], Status.PASS)


def test_what_is_the_same_is_counted(passed: Shown) -> None:
    found = beside([passed], [passed], NAMES)
    assert status(found, [passed]) is Status.PASS
    said = "\n".join(lines(found))
    assert "A and B are alike\nBF16 is the same in both: 2 of 2 pictures to the bit\n" in said
    assert [row.name for row in found.arms[0].rows] == ["verdict"]
    assert found.arms[0].same > 10
    assert f"lenient: the same are {found.arms[0].same} figures, and 2 of 2 pictures to the bit" in said


def test_where_bf16_differs_nothing_beside_it_is_compared(passed: Shown) -> None:
    assert passed.reference
    first, *others = passed.reference.pictures
    moved = replace(passed.reference, pictures=(replace(first, sha256="0" * 64), *others))
    other = replace(passed, reference=moved)
    found = beside([passed], [other], NAMES)
    assert status(found, [other]) is Status.NOT_COMPARABLE
    assert "BF16 differs: 1 of 2 pictures to the bit" in found.reference
    rows = {row.name: row for row in found.arms[0].rows}
    assert rows["images.lpips_mean"].change == rows["components.transformer_l2_mean"].change
    assert rows["images.lpips_mean"].change == "not comparable: BF16 differs"
    assert not any(name.startswith("package.") for name in rows)


@pytest.mark.parametrize("none", ["A", "B"])
def test_a_recipe_that_one_run_has_no_verdict_of_is_no_pass(passed: Shown, none: str) -> None:
    other = replace(passed, record=replace(passed.record, recipe=replace(passed.record.recipe, name="x")))
    a, b = ([passed, other], [passed]) if none == "B" else ([passed], [passed, other])
    found = beside(a, b, NAMES)
    (row,) = found.arms[1].rows
    assert row.change == f"missing in {none}"
    # what A lacks was judged in B all the same
    assert status(found, b) is (Status.NOT_COMPARABLE if none == "B" else Status.PASS)


@pytest.mark.parametrize(
    ("ended", "change"),
    [(Status.FAIL, "worse"), (Status.NOT_COMPARABLE, "worse"), (Status.PASS, "same")],
)
def test_a_verdict_that_moved(passed: Shown, ended: Status, change: str) -> None:
    assert passed.reference
    other = shown(passed.record, passed.reference, ended)
    assert beside([passed], [other], NAMES).arms[0].rows[0].change == change
    back = "same" if change == "same" else "better"
    assert beside([other], [passed], NAMES).arms[0].rows[0].change == back
    assert status(beside([passed], [other], NAMES), [other]) is ended


def test_what_decided_is_named_with_its_side(passed: Shown) -> None:
    assert passed.reference
    failed = shown(passed.record, passed.reference, Status.FAIL)
    unclear = shown(passed.record, passed.reference, Status.NOT_COMPARABLE)
    assert beside([passed], [passed], NAMES).arms[0].decided == ()
    for a, b, said in (
        (passed, failed, ["FAIL in B: images.lpips_mean"]),
        (failed, failed, ["FAIL in A and B: images.lpips_mean"]),
        (failed, unclear, ["FAIL in A: images.lpips_mean", "UNCLEAR in B: images.lpips_mean"]),
    ):
        found = beside([a], [b], NAMES)
        assert list(found.arms[0].decided) == said
        assert f"lenient: {said[-1]}" in "\n".join(lines(found))
        assert f"- lenient: {said[0]}" in unescape(markdown(found))


def test_markup_of_a_name_does_nothing(passed: Shown) -> None:
    text = markdown(beside([passed], [passed], ("a|b", "<script>@me")))
    assert "<script>" not in text
    assert "a|b" not in text


@pytest.mark.parametrize(
    ("releases", "said"),
    [
        (["sdnq=0.2.8"], "--with sdnq=0.2.8: "),
        (["sdnq==0.2.7"], "--with sdnq==0.2.7: ernie-qa needs sdnq>="),
        (["sdnq", "diffusers", "torch"], "--with is said 3 times"),
    ],
)
def test_what_cannot_be_asked_for(releases: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ab", *(part for one in releases for part in ("--with", one))]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"ernie-qa: {said}")
    assert told.count("\n") == 1


def test_a_release_that_pip_does_not_find_is_told_in_one_line(tmp_path: Path) -> None:
    wheel = tmp_path / "sdnq-9.9-py3-none-any.whl"
    with pytest.raises(UnavailableError, match=r"pip cannot install it: .*sdnq-9\.9") as told:
        overlay(tmp_path / "over", requirements([f"sdnq @ {wheel.as_uri()}"]))
    assert "\n" not in str(told.value)
    assert requirements(["sdnq"])[0].name == "sdnq"


def test_what_hides_the_release_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "first" / "sdnq-0.1.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: sdnq\nVersion: 0.1\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    with pytest.raises(UnavailableError, match=r"imports find sdnq 0\.1: PYTHONPATH has another"):
        overlay(tmp_path / "over", requirements(["sdnq>=0.1.1"]))
