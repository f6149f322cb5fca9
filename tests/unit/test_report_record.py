"""A record at a glance, also where rungs are missing."""

from dataclasses import replace

from ernie_qa.report.record import outline, record_lines
from tests.words import figures, record

READ = {
    "poster": {"Answer 42": "Answer 412", "ОКТЯБРЯ": "ОКТЯБРЯ"},
    "card": {"Hello": "Hello"},
}


def test_what_was_read_otherwise_stands_beside_what_was_expected() -> None:
    lines = list(record_lines(record(figures(**READ))))
    assert lines[0] == "bf16 on toy, suite few"
    assert lines[2].endswith("reference none")
    assert [line.split() for line in lines[-2:]] == [
        ["read", "otherwise", "expected", "read"],
        ["poster", "Answer", "42", "Answer", "4[1]2"],
    ]


def test_pictures_without_scores_times_or_words() -> None:
    case = {"scores": {}, "defects": ("is blank",)}
    seen = {"metrics": {}, "cases": {"poster": case, "card": {**case, "defects": ()}}}
    of = replace(record(figures(**READ)), figures={"images": seen, "text": figures(**READ)})
    lines = list(record_lines(of))
    at = next(at for at, line in enumerate(lines) if line.startswith("picture"))
    assert [line.split() for line in lines[at : at + 3]] == [
        ["picture", "seconds", "words", "read"],
        ["poster", "-", "2", "of", "3", "is", "blank"],
        ["card", "-", "1", "of", "1"],
    ]


def test_why_nothing_was_read() -> None:
    found = {**figures(), "why": "tesseract cannot be imported"}
    assert "words: tesseract cannot be imported" in record_lines(record(found))
    assert len(list(record_lines(record(None)))) == 3


def test_a_figure_is_said_in_words() -> None:
    values = {"a": None, "b": True, "c": {}, "d": {"e": {"f": {"g": {"uint8": 1, "sizes": {"h": False}}}}}}
    assert list(outline(values)) == [
        "  a: none", "  b: yes", "  c: none", "  d", "    e", "      f: g (uint8 1, sizes (h no))",
    ]  # fmt: skip


def test_every_figure_or_how_many_there_are() -> None:
    values = {"a": {"b": {"c": 1, "d": {"e": 2}}}, "f": ("x", "y"), "g": (), "h": ({"i": 1},)}
    assert list(outline(values)) == [
        "  a", "    b", "      c: 1", "      d: e 2", "  f: x, y", "  g: none", "  h: 1 entry",
    ]  # fmt: skip
