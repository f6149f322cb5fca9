"""Comparison pictures: what stands where, that it can be read, and how large it is."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ernie_qa.card import labels, pictures
from ernie_qa.card.labels import font, legible, write
from ernie_qa.card.pictures import (
    CELL_SIDE,
    MATRIX,
    MATRIX_BYTES,
    MOST,
    PAIR_BYTES,
    PAIR_SIDE,
    PAPER,
    Pair,
    _webp,
    matrix,
    pair,
    write_pictures,
)
from ernie_qa.picture import Picture
from ernie_qa.suite import Case
from tests.posters import noisy

NAMES = ("Original BF16", "sdnq-uint4-static")
RED, BLUE = (210, 30, 40), (30, 60, 200)


def flat(colour: tuple[int, int, int], width: int, height: int) -> Picture:
    return Picture.from_pixels("case", np.full((height, width, 3), colour, np.uint8))


def one(width: int = 128, height: int = 128, name: str = "case", focus: str = "a poster") -> Pair:
    case = Case(name, "a prompt", width, height, 1, focus)
    return Pair(case, flat(RED, width, height), flat(BLUE, width, height), "LPIPS 0.25")


def share(sheet: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    """Where `sheet` has that colour, [H, W] bool."""
    return (np.abs(np.asarray(sheet).astype(int) - colour) < 8).all(axis=2)


@pytest.mark.parametrize(("width", "height"), [(128, 128), (112, 152), (176, 96), (1024, 1024), (1376, 768)])
def test_bf16_is_on_the_left_and_both_are_as_large_as_they_may(width: int, height: int) -> None:
    sheet = pair(one(width, height), NAMES)
    left, right = share(sheet, RED), share(sheet, BLUE)
    assert left.any(axis=0).nonzero()[0].max() < right.any(axis=0).nonzero()[0].min()
    for seen in (left, right):
        rows, columns = seen.any(axis=1).sum(), seen.any(axis=0).sum()
        assert PAIR_SIDE * 2 / 3 < max(rows, columns) <= PAIR_SIDE
        assert columns / rows == pytest.approx(width / height, rel=0.02)
        assert seen.sum() == rows * columns


def test_its_labels_are_written_above() -> None:
    def ink(sheet: Image.Image) -> np.ndarray:
        blank = Image.new("RGB", sheet.size, PAPER)
        return (np.asarray(sheet) != np.asarray(blank)).any(axis=2)[:70]

    sheet = pair(one(), NAMES)
    assert ink(sheet).sum() > 500
    for other in (one(name="another"), one(focus="another")):
        assert not np.array_equal(ink(pair(other, NAMES)), ink(sheet))
    assert not np.array_equal(ink(pair(one(), ("BF16", NAMES[1]))), ink(sheet))


def test_the_matrix_has_every_case_two_in_a_row() -> None:
    sheet = matrix([one(128, 128, f"case-{number}") for number in range(5)], NAMES)
    assert share(sheet, RED).sum() == share(sheet, BLUE).sum() == 5 * CELL_SIDE**2
    assert sheet.width < 1400
    assert matrix([one()], NAMES).width < 700


def test_noise_fits_its_bytes(tmp_path: Path) -> None:
    random = noisy(np.full((768, 1376, 3), 128, np.uint8), 80.0, 1)
    loud = Picture.from_pixels("case", random)
    cases = [Case(f"case-{number:02}", "a prompt", 1376, 768, 1, "noise") for number in range(MOST + 2)]
    pairs = [Pair(case, loud, loud, "") for case in cases[:1]]
    write_pictures(pairs, NAMES, tmp_path / "one")
    assert sorted(file.name for file in (tmp_path / "one").iterdir()) == [MATRIX, "case-00.webp"]
    assert (tmp_path / "one" / "case-00.webp").stat().st_size <= PAIR_BYTES
    with Image.open(tmp_path / "one" / "case-00.webp") as opened:
        assert opened.format == "WEBP"
    grid = _webp(matrix([Pair(case, loud, loud, "") for case in cases[:MOST]], NAMES), MATRIX_BYTES)
    assert len(grid) <= MATRIX_BYTES
    with Image.open(io.BytesIO(_webp(pair(pairs[0], NAMES), 5_000))) as small:
        assert small.width < PAIR_SIDE


def test_a_case_that_is_called_matrix_keeps_its_pair(tmp_path: Path) -> None:
    write_pictures([one(name="matrix"), one(name="other")], NAMES, tmp_path / "new")
    assert len(list((tmp_path / "new").iterdir())) == 3


def test_many_pairs_share_what_all_may_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "ALL_BYTES", 24_000)
    pairs = [one(1024, 1024, f"case-{number}") for number in range(8)]
    write_pictures(pairs, NAMES, tmp_path / "many")
    sizes = [file.stat().st_size for file in (tmp_path / "many").glob("case-*.webp")]
    assert len(sizes) == 8
    assert max(sizes) <= 3_000


def test_cyrillic_is_written_where_the_font_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert legible("Concert", font(20))
    assert not legible("cuneiform \U00012000", font(20))
    plain = pair(one(focus="a poster"), NAMES)
    monkeypatch.setattr(labels, "FONTS", ())
    font.cache_clear()
    try:
        assert legible("Concert", font(22))
        assert not legible("КОНЦЕРТ", font(22))
        without = pair(one(focus=""), NAMES)
        assert without.size == plain.size
        # no boxes in the place of letters
        told, bare = (np.asarray(pair(one(focus=focus), NAMES)) for focus in ("КОНЦЕРТ", "ПЛАКАТ"))
        assert np.array_equal(told, bare)
    finally:
        font.cache_clear()


def test_a_long_label_ends_in_its_place() -> None:
    sheet = Image.new("RGB", (200, 40), "white")
    write(ImageDraw.Draw(sheet), (0, 0), "a very long label " * 9 + "\n\u202e", font(20), 120, "black")
    seen = np.asarray(sheet).min(axis=2) < 128
    assert 60 < seen.any(axis=0).nonzero()[0].max() <= 120
