"""The engines that read: what each of them knows, which is taken, what is missing, and the cache."""

import json
import os
import struct
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from ernie_qa.errors import UnavailableError
from ernie_qa.fidelity.text import engines, reading
from ernie_qa.fidelity.text.engines import engine_for, rapidocr, tesseract
from ernie_qa.fidelity.text.score import score
from ernie_qa.suite import Case, find_suite

PICTURES = Path(__file__).parents[2] / "baselines" / "mini" / "cpu" / "pictures"
MINI = find_suite("mini")
LETTERS = "АБВГДЕЁЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯ"
LATIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("ERNIE_QA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "text"


@pytest.fixture
def asked_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process: nothing is known of any engine."""
    monkeypatch.setattr(engines, "_known", engines._known.__wrapped__)
    for engine in (rapidocr, tesseract):
        monkeypatch.setattr(engine, "_engine", engine._engine.__wrapped__)


def picture(case: str) -> np.ndarray:
    return np.asarray(Image.open(PICTURES / f"{case}.png").convert("RGB"))


def test_engines_are_found_in_their_order() -> None:
    assert [engine.NAME for engine in engines.engines()] == ["rapidocr", "tesseract"]


def test_rapidocr_knows_latin_and_chinese_and_no_cyrillic_letter() -> None:
    known = rapidocr.alphabet()
    assert set(LATIN + LATIN.lower() + "0123456789$%&天下无双号外咖啡") <= known
    assert not set(LETTERS + LETTERS.lower()) & known


def test_tesseract_knows_the_russian_letters_and_no_latin_one() -> None:
    known = tesseract.alphabet()
    assert len(LETTERS + LETTERS.lower()) == 66
    assert set(LETTERS + LETTERS.lower() + "0123456789%№«»") <= known
    assert not set(LATIN + LATIN.lower()) & known


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("GRAND OPENING $6.50", "rapidocr"),
        ("Café crème", "rapidocr"),
        ("天下无双 No.1", "rapidocr"),
        ("42", "rapidocr"),
        ("КОНЦЕРТ", "tesseract"),
        ("Подъёмник «Ёлка», 42%", "tesseract"),
        ("и\u0306од", "tesseract"),
        ("№ 5, ул. Мира", "tesseract"),
    ],
)
def test_the_engine_that_knows_every_character_is_taken(text: str, name: str) -> None:
    assert name == engine_for(text).NAME


@pytest.mark.parametrize(
    ("text", "rapid", "tess"),
    [
        ("Сity", "с", "i t y"),
        ("КОНЦЕРТ LIVE", "е к н о р т ц", "e i l v"),
        ("مرحبا", "ا ب ح ر م", "ا ب ح ر م"),
        ("Да: 天", "а д", "天"),
        # № stands for "no", but whoever knows it need not know these letters
        ("да no", "а д", "n o"),
    ],
)
def test_what_no_engine_knows_in_full_is_refused(text: str, rapid: str, tess: str) -> None:
    with pytest.raises(UnavailableError) as refused:
        engine_for(text)
    assert str(refused.value) == (
        f'no engine can read "{text}": rapidocr does not know {rapid}; tesseract does not know {tess}; '
        "write a text in two scripts as two texts"
    )


@pytest.mark.usefixtures("asked_anew")
@pytest.mark.parametrize(
    ("package", "text", "engine"),
    [
        ("rapidocr", "LIGHT", rapidocr),
        ("onnxruntime", "LIGHT", rapidocr),
        ("tesserocr", "ЗИМА", tesseract),
    ],
)
def test_a_missing_package_is_told_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, package: str, text: str, engine: engines.Engine
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for asked in (engine.version, engine.alphabet, lambda: engine_for(text)):
        with pytest.raises(UnavailableError) as missing:
            asked()
        assert f"{engine.NAME} cannot be imported" in str(missing.value)
        assert package in str(missing.value)
        assert engine.INSTALL in str(missing.value)
        assert "\n" not in str(missing.value)


def test_missing_rapidfuzz_is_told_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rapidfuzz", None)
    with pytest.raises(UnavailableError, match="rapidfuzz is not installed: pip install"):
        reading.reader([])


@pytest.mark.usefixtures("asked_anew")
def test_one_engine_does_without_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    assert engine_for("ЗИМА").NAME == "tesseract"
    # which finds no lines
    with pytest.raises(UnavailableError, match="rapidocr cannot be imported"):
        reading.reader([tesseract])


@pytest.mark.usefixtures("asked_anew")
def test_missing_language_data_are_told_with_what_installs_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tesseract, "_PLACES", (str(tmp_path),))
    monkeypatch.delenv("TESSDATA_PREFIX", raising=False)
    for asked in (tesseract.version, tesseract.alphabet, lambda: engine_for("ЗИМА")):
        with pytest.raises(UnavailableError, match=r"language data rus\.traineddata is not installed") as it:
            asked()
        assert "apt-get install tesseract-ocr-rus" in str(it.value)
        assert "TESSDATA_PREFIX" in str(it.value)
    assert engine_for("LIGHT").NAME == "rapidocr"


def test_language_data_may_stand_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data, version, known = tesseract._data(), tesseract.version(), tesseract.alphabet()
    (tmp_path / data.name).write_bytes(data.read_bytes())
    monkeypatch.setattr(tesseract, "_PLACES", ())
    monkeypatch.setenv("TESSDATA_PREFIX", str(tmp_path))
    assert tesseract._data() == tmp_path / data.name
    assert (tesseract.version(), tesseract.alphabet()) == (version, known)
    with (tmp_path / data.name).open("ab") as file:
        file.write(b"\0")
    assert tesseract.version() != version


def traineddata(part: bytes) -> bytes:
    """A file of 24 parts, of which only the network's characters are there."""
    offsets = [-1] * 24
    offsets[tesseract._LSTM_UNICHARSET] = 4 + 24 * 8
    return struct.pack("<i24q", 24, *offsets) + part


def test_characters_are_read_from_language_data(tmp_path: Path) -> None:
    path = tmp_path / "one.traineddata"
    path.write_bytes(traineddata("4\nNULL 0 Common\nJoined 7\nж 3 0\nё 3 0\nleft out\n".encode()))
    assert tesseract.unicharset(path) == ("ж", "ё")


@pytest.mark.parametrize("length", [0, 3, 4, 50, 190, 196, 1000])
def test_language_data_cut_short_are_none(tmp_path: Path, length: int) -> None:
    path = tmp_path / "cut.traineddata"
    path.write_bytes(tesseract._data().read_bytes()[:length])
    with pytest.raises(UnavailableError, match=r"cut\.traineddata is no language data of tesseract"):
        tesseract.unicharset(path)


@given(st.one_of(st.binary(), st.binary().map(traineddata), st.text().map(lambda t: traineddata(t.encode()))))
@example(b"\xff\xff\xff\xff" + bytes(800))
@example(b"\xff\xff\xff\x7f" + bytes(800))
@example(traineddata(b"99999999999999999999\n"))
@example(struct.pack("<i24q", 24, *[-1] * 24) + b"7")
@example(struct.pack("<i24q", 24, *[2**62] * 24))
def test_any_bytes_are_language_data_or_are_not(data: bytes) -> None:
    class Given:
        def read_bytes(self) -> bytes:
            return data

    # anything else that it raises ends the test
    with suppress(UnavailableError):
        assert all(len(one) == 1 for one in tesseract.unicharset(Given()))


@pytest.mark.parametrize("case", MINI.cases, ids=lambda case: case.id)
def test_the_accepted_pictures_of_the_miniature_are_read_without_an_error(case: Case) -> None:
    chosen = {text: engine_for(text) for text in case.text}
    read = reading.read(picture(case.id), reading.reader(chosen.values()))
    assert read.lines.keys() == {engine.NAME for engine in chosen.values()}
    for text, engine in chosen.items():
        found = score(text, read.lines[engine.NAME], read.columns)
        assert (found.errors, found.found) == (0, found.words), found


def test_a_picture_without_a_line_reads_as_nothing() -> None:
    blank = np.full((64, 96, 3), 200, np.uint8)
    read = reading.read(blank, reading.reader([rapidocr, tesseract]))
    assert read == reading.Reading({"rapidocr": (), "tesseract": ()}, ())


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every call of an engine, which then reads two lines, "42", one below the other."""
    calls: list[str] = []
    boxes = ((0.0, 0.0, 60.0, 20.0), (0.0, 24.0, 60.0, 44.0))
    monkeypatch.setattr(
        rapidocr, "find_lines", lambda pixels: calls.append("find") or [(box, pixels) for box in boxes]
    )
    for engine in (rapidocr, tesseract):
        monkeypatch.setattr(
            engine, "read", lambda lines, name=engine.NAME: calls.append(name) or ["42"] * len(lines)
        )
    return calls


SOME = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)
BY = reading.Reader({rapidocr: "1", tesseract: "5"}, "1")
BOTH = reading.Reading({"rapidocr": ("42", "42"), "tesseract": ("42", "42")}, ((0, 1),))
KEPT = {"lines": {"rapidocr": ["42", "42"], "tesseract": ["42", "42"]}, "columns": [[0, 1]]}
READ = ["find", "rapidocr", "tesseract"]


def test_an_unchanged_picture_is_read_once(counted: list[str], own_cache: Path) -> None:
    assert reading.read(SOME, BY) == reading.read(SOME.copy(), BY) == BOTH
    assert counted == READ
    (kept,) = (path for path in own_cache.rglob("*") if path.is_file())
    assert json.loads(kept.read_text(encoding="utf-8")) == KEPT


@pytest.mark.parametrize(
    "by",
    [
        reading.Reader({rapidocr: "2", tesseract: "5"}, "1"),
        reading.Reader({rapidocr: "1", tesseract: "6"}, "1"),
        reading.Reader({rapidocr: "1", tesseract: "5"}, "2"),
    ],
    ids=["reader", "other reader", "finder"],
)
def test_another_version_reads_anew(counted: list[str], by: reading.Reader) -> None:
    reading.read(SOME, BY)
    reading.read(SOME, by)
    assert counted == READ * 2


def test_another_picture_or_other_engines_read_anew(counted: list[str]) -> None:
    reading.read(SOME, BY)
    changed = SOME.copy()
    changed[3, 3, 0] ^= 1
    reading.read(changed, BY)
    only = reading.read(SOME, reading.Reader({tesseract: "5"}, "1"))
    assert only.lines == {"tesseract": ("42", "42")}
    assert counted == [*READ, *READ, "find", "tesseract"]


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe",
        b'{"rapidocr": ["1"]}',
        json.dumps(KEPT | {"lines": {"rapidocr": ["42", "42"]}}).encode(),
        json.dumps(KEPT | {"lines": {"rapidocr": ["42", "42"], "tesseract": 8}}).encode(),
        json.dumps(KEPT | {"lines": {"rapidocr": ["42", "42"], "tesseract": [4, 2]}}).encode(),
        json.dumps(KEPT | {"lines": {"rapidocr": ["42", "42"], "tesseract": ["42"]}}).encode(),
        json.dumps(KEPT | {"columns": [[0, 2]]}).encode(),
        json.dumps(KEPT | {"columns": 3}).encode(),
    ],
    ids=range(12),
)
def test_a_damaged_file_is_read_anew_and_mended(counted: list[str], own_cache: Path, damage: bytes) -> None:
    reading.read(SOME, BY)
    (kept,) = own_cache.rglob("*.json")
    kept.write_bytes(damage)
    assert reading.read(SOME, BY) == reading.read(SOME, BY) == BOTH
    assert counted == READ * 2


def test_what_cannot_be_kept_is_read_again(
    counted: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ERNIE_QA_CACHE", str(tmp_path / "file" / "below"))
    assert reading.read(SOME, BY) == reading.read(SOME, BY) == BOTH
    assert counted == READ * 2


def test_a_file_that_breaks_off_is_not_left_behind(
    counted: list[str], monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert reading.read(SOME, BY) == BOTH
    assert [path for path in own_cache.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(("shape", "size"), [((128, 200), (512, 800)), ((300, 700), (600, 1400))])
def test_a_small_picture_is_enlarged_by_a_whole_number(
    counted: list[str], monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], size: tuple[int, int]
) -> None:
    sizes = []
    monkeypatch.setattr(rapidocr, "find_lines", lambda pixels: sizes.append(pixels.shape[:2]) or [])
    reading.read(np.zeros((*shape, 3), np.uint8), BY)
    assert sizes == [size]
