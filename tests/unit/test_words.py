"""Broken words in posters at the real sizes are caught by the text rung, and what harms no word is not."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ernie_qa.faults import words
from ernie_qa.fidelity.text.engines import engine_for
from ernie_qa.suite import find_suite
from tests.posters import SIZES, Line, needs_fonts, poster
from tests.reading import POSTERS, Pair, failed, pairs, told

PICTURES = Path(__file__).parents[2] / "baselines/mini/cpu/pictures"
MINI = {"05-dashboard-ui": (2, 68, 174, 94), "00-cyrillic-poster": (2, 2, 126, 26)}
"""A case of the miniature, one a script -> the box around its word."""
FAULTS = (words.swap_letters, words.drop_word, words.repeat_glyph, words.mirror_letter, words.blur_line)
GROUND, INK = 250, 10


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ERNIE_QA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def engines() -> None:
    """Skips where this machine cannot read both alphabets."""
    from ernie_qa.errors import UnavailableError

    for text in ("A", "Я"):
        try:
            engine_for(text)
        except UnavailableError as missing:
            pytest.skip(str(missing))


@pytest.mark.parametrize("script", POSTERS)
@pytest.mark.usefixtures("engines")
def test_broken_words_are_caught_and_harmless_changes_are_not(script: str) -> None:
    needs_fonts("sans", "serif", "chinese")
    wrong = []
    for pair in pairs(script):
        checks = told(pair.texts, pair.bf16, pair.candidate)
        if failed(checks) is not pair.caught:
            wrong.append(f"{pair.name}: {checks['text.cer'].message}")
    assert not wrong, "\n".join(wrong)


def test_the_pairs_are_what_they_are_said_to_be() -> None:
    needs_fonts("sans", "serif", "chinese")
    found: list[Pair] = [pair for script in POSTERS for pair in pairs(script)]
    assert {pair.bf16.shape[1::-1] for pair in found} == set(SIZES)
    for pair in found:
        assert pair.candidate.shape == pair.bf16.shape
        assert not np.array_equal(pair.candidate, pair.bf16)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("case", MINI)
@pytest.mark.usefixtures("engines")
def test_every_fault_is_seen_in_the_miniature(case: str, fault: Callable[..., np.ndarray]) -> None:
    picture = np.asarray(Image.open(PICTURES / f"{case}.png").convert("RGB"))
    (texts,) = (one.text for one in find_suite("mini").cases if one.id == case)
    kept = picture.copy()
    assert failed(told(texts, picture, fault(picture, MINI[case])))
    assert np.array_equal(picture, kept)


@pytest.mark.usefixtures("engines")
def test_the_miniature_is_read_without_an_error() -> None:
    for case in find_suite("mini").cases:
        picture = np.asarray(Image.open(PICTURES / f"{case.id}.png").convert("RGB"))
        checks = told(case.text, picture, picture)
        assert not failed(checks)
        assert "error rate 0.000, BF16's 0.000" in checks["text.cer"].message


def glyphs(*patterns: str) -> tuple[np.ndarray, words.Box]:
    """A line of glyphs of 3 x 4 cells (`#.#/...`), 2 pixels a cell, one cell apart, and its box."""
    picture = np.full((24, 80, 3), GROUND, np.uint8)
    for at, pattern in enumerate(patterns):
        cells = np.array([[cell == "#" for cell in row] for row in pattern.split("/")])
        ink = cells.repeat(2, axis=0).repeat(2, axis=1)
        left = 6 + 8 * at
        picture[8:16, left : left + 6][ink] = INK
    return picture, (2, 4, 8 * len(patterns) + 6, 20)


L, O, BAR = "#../#../#../###", "###/#.#/#.#/###", "###/###/###/###"  # noqa: E741
SPACE = ".../.../.../..."


def test_letters_exchange_places() -> None:
    picture, box = glyphs(L, O)
    assert np.array_equal(words.swap_letters(picture, box), glyphs(O, L)[0])


def test_a_letter_is_not_exchanged_over_a_space() -> None:
    picture, box = glyphs(L, SPACE, O)
    with pytest.raises(ValueError, match="no two neighbouring letters that differ"):
        words.swap_letters(picture, box)


def test_a_glyph_stands_there_twice() -> None:
    picture, box = glyphs(L, O)
    assert np.array_equal(words.repeat_glyph(picture, box, 0), glyphs(L, L, O)[0])
    assert np.array_equal(words.repeat_glyph(picture, box), glyphs(L, O, O)[0])


def test_where_there_is_no_room_for_it_the_line_is_squeezed() -> None:
    picture, box = glyphs(*[L] * 9)
    twice = words.repeat_glyph(picture, box)
    inked = (twice[14] < (GROUND + INK) // 2).all(axis=1)
    assert np.diff(np.concatenate([[False], inked]).astype(int)).tolist().count(1) == 10
    assert np.array_equal(twice[:4], picture[:4])


def test_a_word_is_painted_over() -> None:
    picture, box = glyphs(L, O, SPACE, O, L)
    assert np.array_equal(words.drop_word(picture, box), glyphs(L, O)[0])
    assert np.array_equal(words.drop_word(picture, box, 0), glyphs(SPACE, SPACE, SPACE, O, L)[0])
    with pytest.raises(ValueError, match="holds 2 words, and none of number 2"):
        words.drop_word(picture, box, 2)


def test_the_least_symmetric_letter_is_mirrored() -> None:
    picture, box = glyphs(O, L)
    assert np.array_equal(words.mirror_letter(picture, box), glyphs(O, "..#/..#/..#/###")[0])
    with pytest.raises(ValueError, match="no letter that its mirror image differs from"):
        words.mirror_letter(*glyphs(O, BAR))


def test_a_blur_stays_in_its_box() -> None:
    picture, box = glyphs(L, O)
    blurred = words.blur_line(picture, box)
    left, top, right, bottom = box
    outside = np.ones(picture.shape[:2], bool)
    outside[top:bottom, left:right] = False
    assert np.array_equal(blurred[outside], picture[outside])
    assert np.ptp(blurred[top:bottom, left:right]) < (GROUND - INK) / 2


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_box_without_words_is_told(fault: Callable[..., np.ndarray]) -> None:
    picture, _ = glyphs()
    with pytest.raises(ValueError, match=r"holds 0 glyphs, and [12] are needed"):
        fault(picture, (2, 4, 30, 20))
    with pytest.raises(ValueError, match="lies outside the picture of 80x24"):
        fault(picture, (2, 4, 81, 20))


def test_lines_that_do_not_fit_on_a_poster_are_told() -> None:
    needs_fonts("sans")
    with pytest.raises(ValueError, match="do not fit on 1024x1024"):
        poster(SIZES[0], (Line("ERNIE-Image " * 9, 88),), 0)
