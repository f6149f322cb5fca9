import html
import re
from pathlib import Path

import pytest

from ernie_qa.recipe import Recipe
from ernie_qa.record import Record
from ernie_qa.report.shown import Shown
from ernie_qa.report.summary import MOST, VARIABLE, append_summary, escaped, markdown
from ernie_qa.verdict import Check, Status, Verdict

HOSTILE = "<img src=x>|`a` [b](http://c.d) @all #1 *x* __y__ www.e.f ~~z~~ <!-- \u202e\nnext"


def shown(record: Record, *checks: Check) -> Shown:
    return Shown("bad", record, Verdict("bad", checks), None, "by a test")


@pytest.fixture
def record(observed: tuple[Recipe, dict[str, Record]]) -> Record:
    return observed[1]["lenient"]


def test_the_verdict_comes_first_and_what_failed_follows(record: Record) -> None:
    text = markdown(
        [shown(record, Check("images.lpips_mean", "images", Status.FAIL, "LPIPS mean 0.2, at most 0.1"))]
    )
    told = text.splitlines()
    assert told[2] == "0 of 1 pass. bad fails at images."
    assert "| bad | ❌ fail | FAIL |" in told
    assert "- ❌ fail images.lpips&#95;mean: LPIPS mean 0.2, at most 0.1" in told


def test_nothing_in_a_message_is_markup(record: Record) -> None:
    text = escaped(HOSTILE)
    assert "\n" not in text
    assert not re.search(r"[<>|`\[\]@#*_~!](?!\d+;)", re.sub(r"&#\d+;", "", text))
    assert "http://" not in text
    assert "www." not in text
    row = markdown([shown(record, Check("images.x", "images", Status.FAIL, HOSTILE))])
    assert "<img" not in row


def test_no_mention_comes_back_when_github_looks_at_the_rendered_text() -> None:
    rendered = html.unescape(escaped("of @octocat in #12 by me@example.org"))
    assert not re.search(r"@\w|#\d", rendered)


def test_a_message_is_cut_between_two_words(record: Record) -> None:
    names = [f"layers.{number}.self-attention" for number in range(100)]
    text = markdown([shown(record, Check("images.x", "images", Status.FAIL, " ".join(names)))])
    (told,) = (line for line in text.splitlines() if line.startswith("- ❌"))
    *whole, last = told.partition("images.x: ")[2].split(" ")
    assert (whole, last) == (names[: len(whole)], "…")
    assert 10 < len(whole) < 100


def test_what_decides_nothing_and_what_broke_off_is_told(record: Record) -> None:
    note = Check("images.psnr_mean", "images", Status.FAIL, "PSNR", required=False)
    passed = Check("images.lpips_mean", "images", Status.PASS, "LPIPS")
    text = markdown([shown(record, passed, note)], ["sdnq-int8"])
    assert "1 of 2 pass. Broke off, and not judged&#58; sdnq-int8." in text
    assert "psnr" not in text


def test_it_is_short_however_much_failed(record: Record) -> None:
    checks = tuple(Check(f"images.n{n}", "images", Status.FAIL, f"{n} " + "x" * 9000) for n in range(500))
    text = markdown([shown(record, *checks)] * 80)
    assert len(text) < MOST + 100
    assert len(markdown([shown(record, *checks)])) < 4000


def test_it_is_appended_where_github_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "summary.md"
    file.write_text("before\n")
    monkeypatch.setenv(VARIABLE, str(file))
    assert append_summary("after")
    assert file.read_text() == "before\nafter\n"
    monkeypatch.setenv(VARIABLE, str(tmp_path / "absent" / "summary.md"))
    assert not append_summary("lost, and no gate fails over it")
    monkeypatch.delenv(VARIABLE)
    assert not append_summary("nowhere")
