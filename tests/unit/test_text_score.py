"""Scoring what was read: the form in which texts are compared, whose words are whose, and what is marked."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_qa.fidelity.text.columns import Box, columns
from ernie_qa.fidelity.text.score import marked, normalized, score

POSTER = ("GRAND OPENING", "Ярмарка мёда", "каждый день с 9 до 18", "42 этажа")
READ = st.lists(st.text(max_size=12), max_size=5)


def visible(text: str) -> bool:
    return bool(normalized(text))


def levenshtein(one: str, other: str) -> int:
    """By its definition, a row at a time."""
    row = list(range(len(other) + 1))
    for place, letter in enumerate(one, 1):
        above, row = row, [place]
        for at, found in enumerate(other, 1):
            row.append(min(above[at] + 1, row[-1] + 1, above[at - 1] + (letter != found)))
    return row[-1]


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("Grand  Opening\n", "grandopening"),
        ("ЯРМАРКА Мёда", "ярмаркамёда"),
        ("КОНЦЕРТ", "концерт"),
        ("ＡＢ１２：", "ab12:"),
        ("ﬁsh №5 ½", "fishno51⁄2"),
        ("STRASSE Straße", "strassestrasse"),
        ("и\u0306 Е\u0308", "йё"),
        ("天下\u3000无双", "天下无双"),
        ("\u00a0 \u2003\t", ""),
    ],
)
def test_the_form_in_which_texts_are_compared(text: str, form: str) -> None:
    assert normalized(text) == form


def test_look_alikes_of_another_script_are_other_letters() -> None:
    # as one would have a K, an O and an H put for them
    assert score("КОНЦЕРТ", ["KOHЦЕРТ"]).errors == 3
    assert score("CINEMA", ["СINEМА"]).errors == 3
    assert score("ё", ["е"]).errors == 1


@pytest.mark.parametrize(
    ("expected", "lines"),
    [
        ("grand opening", POSTER),
        ("Ярмарка мёда каждый день", POSTER),
        ("с 9 до 18", POSTER),
        ("42", POSTER),
        ("OPENING Ярмарка", POSTER),
        ("ЯРМАРКА МЁДА", ["ярмаркамёда"]),
        ("天下无双", ["天下", "无双"]),
        ("天下无双", ["号外", "天 下 无 双"]),
        ("Main Street 5", ["Main", "Street", "5"]),
    ],
)
def test_a_text_is_found_over_lines_and_beside_others(expected: str, lines: tuple[str, ...]) -> None:
    found = score(expected, lines)
    assert found.errors == 0
    assert found.found == found.words == len(expected.split())
    assert normalized(found.read) == normalized(expected)


@pytest.mark.parametrize("read", ["423", "142", "412", "421", "4", "2", "43", "24"])
def test_a_digit_too_many_too_few_or_another_is_an_error(read: str) -> None:
    for line in (read, f"room {read}", f"{read} floor"):
        found = score("42", [line])
        assert (found.errors > 0, found.found) == (True, 0)


def test_a_digit_too_many_in_a_longer_text_is_one_error_and_a_word_lost() -> None:
    found = score("open from 9 to 18", ["open from 9 to 418 daily"])
    assert (found.errors, found.length, found.words, found.found) == (1, 13, 5, 4)
    assert found.read == "open from 9 to 418"


def test_chinese_without_spaces_is_one_word_that_one_character_loses() -> None:
    found = score("天下无双", ["天下元双"])
    assert (found.errors, found.length, found.words, found.found) == (1, 4, 1, 0)


def test_a_word_is_found_where_the_text_is_and_no_more_often_than_it_was_read() -> None:
    found = score("tea and tea", ["and tea", "with more"])
    assert (found.read, found.words, found.found) == ("and tea", 3, 2)
    # a word of another text is not this one's
    assert score("Sourdough loaf", ["Morning Loaf Bakery", "Sour dough"]).found == 0
    assert score("bread butter", ["breadbutter"]).found == 2
    assert score("bread butter", ["breadbuttel"]).found == 0


@pytest.mark.parametrize("lines", [[], [""], ["  ", "\n"]])
def test_nothing_read_is_every_character_wrong(lines: list[str]) -> None:
    found = score("ЗИМА близко", lines)
    assert (found.read, found.errors, found.length, found.words, found.found) == ("", 10, 10, 2, 0)


def test_what_has_nothing_of_a_text_is_no_worse_than_nothing() -> None:
    found = score("ЗИМА", ["an altogether different sentence of many words", "123456789"])
    assert (found.read, found.errors) == ("", 4)


def test_of_two_that_fit_as_well_the_first_is_taken() -> None:
    assert score("GARDEN", ["GARDEM", "CARDEN"]).read == "GARDEM"


@given(st.text().filter(visible))
def test_a_text_read_as_it_is_has_no_error(text: str) -> None:
    found = score(text, [text])
    assert found.errors == 0
    assert found.found == found.words > 0


@given(st.text(max_size=30), READ)
def test_no_figure_leaves_its_range(expected: str, lines: list[str]) -> None:
    found = score(expected, lines)
    assert 0 <= found.errors <= found.length == len(normalized(expected))
    assert 0 <= found.found <= found.words == len(expected.split())


WORD = st.text("абвab12", min_size=1, max_size=8)


@given(WORD, WORD)
def test_errors_are_levenshteins_distance(expected: str, read: str) -> None:
    assert score(expected, [read]).errors == min(len(expected), levenshtein(expected, read))


@given(WORD, st.lists(WORD, max_size=3), st.lists(WORD, max_size=3))
def test_what_stands_around_a_text_takes_nothing_from_it(
    expected: str, before: list[str], after: list[str]
) -> None:
    assert score(expected, [" ".join(before), expected, " ".join(after)]).errors == 0


@pytest.mark.parametrize(
    ("expected", "read", "shown"),
    [
        ("$6.50", "$6.80", "$6.[8]0"),
        ("42", "412", "4[1]2"),
        ("42", "423", "42[3]"),
        ("42", "142", "[1]42"),
        ("word", "wod", "wo[-r]d"),
        ("words", "word", "word[-s]"),
        ("swords", "words", "[-s]words"),
        ("ЯРМАРКА", "ЯРМАPКА", "ЯРМА[P]КА"),
        ("КОНЦЕРТ", "КОЩЕРТ", "КО[Щ]ЕРТ"),
        ("ЗИМА", "ЗИА", "ЗИ[-м]А"),
        ("Чёрный кофе", "Черный коф", "Ч[е]рный коф[-е]"),
        ("天下无双", "天下元双", "天下[元]双"),
        ("天下无双", "天无双", "天[-下]无双"),
        ("GARDEN", "", "[-garden]"),
        ("Grand Opening", "GRAND  opening", "GRAND  opening"),
        ("AB12", "ＡＢ１２", "ＡＢ１２"),
        ("fish", "ﬁsh", "ﬁsh"),
        ("йод", "и\u0306от", "йо[т]"),
    ],
)
def test_what_differs_is_marked(expected: str, read: str, shown: str) -> None:
    assert marked(expected, read) == shown


LETTERS = st.characters(exclude_characters="[]-", exclude_categories=("Cs",))


@given(st.text(LETTERS), st.text(LETTERS))
def test_without_its_marks_a_marked_text_is_what_was_read(expected: str, read: str) -> None:
    shown = re.sub(r"\[-[^]]*\]", "", marked(expected, read))
    assert shown.replace("[", "").replace("]", "") == unicodedata.normalize("NFC", read)


@given(st.text())
def test_a_text_read_as_it_is_has_no_mark(text: str) -> None:
    composed = unicodedata.normalize("NFC", text)
    # a few signs join others only without case or in NFKC
    if normalized(composed) == "".join(map(normalized, composed)):
        assert marked(text, text) == composed


@given(st.text(), READ)
def test_any_text_can_be_scored_and_marked(expected: str, lines: list[str]) -> None:
    assert isinstance(marked(expected, score(expected, lines).read), str)


def test_a_text_is_followed_down_its_column() -> None:
    # two columns, read row by row
    lines = ["Expansion", "Condenser", "valve"]
    assert score("Expansion valve", lines).errors == 5
    assert score("Expansion valve", lines, [(0, 2)]).errors == 0


def test_an_unspaced_script_shares_a_line() -> None:
    found = score("天下无双", ["欢迎天下无双咖啡店"])
    assert (found.read, found.errors) == ("天下无双", 0)
    assert score("晚上七点 Jazz", ["今日晚上七点", "Jazz"]).errors == 0
    assert score("今日特价 38 元", ["今日特价38元"]).errors == 0
    assert score("七点", ["十七占"]).errors == 1


BOXES = {
    "a paragraph": ([(0, 0, 100, 20), (0, 26, 90, 46), (0, 52, 40, 72)], ((0, 1, 2),)),
    "two columns": ([(0, 0, 100, 20), (200, 9, 300, 29), (0, 26, 60, 46)], ((0, 2),)),
    "two columns, a pixel aside": ([(200, 0, 300, 20), (0, 1, 100, 21), (0, 27, 60, 47)], ((1, 2),)),
    "far apart": ([(0, 0, 100, 20), (0, 60, 100, 80)], ()),
    "side by side": ([(0, 0, 100, 20), (110, 0, 200, 20)], ()),
    "boxes that overlap": ([(0, 0, 100, 24), (0, 20, 100, 44)], ((0, 1),)),
    "one box twice": ([(0, 0, 100, 20), (0, 0, 100, 20)], ()),
    "nothing": ([], ()),
}


@pytest.mark.parametrize(("boxes", "chains"), BOXES.values(), ids=BOXES)
def test_lines_that_stand_below_each_other(boxes: list[Box], chains: tuple[tuple[int, ...], ...]) -> None:
    assert columns(boxes) == chains


@given(st.lists(st.tuples(*[st.integers(0, 60)] * 4)))
def test_columns_end_whatever_the_boxes(drawn: list[tuple[int, int, int, int]]) -> None:
    boxes = [(left, top, left + width, top + height) for left, top, width, height in drawn]
    for chain in columns(boxes):
        assert len(set(chain)) == len(chain) > 1
