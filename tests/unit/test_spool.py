"""Pictures wait on disk: whole, in any thread, and gone with whoever holds them."""

from __future__ import annotations

import os
import pickle
import resource
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ernie_qa.drawing import Drawn
from ernie_qa.errors import UnavailableError
from ernie_qa.picture import Picture
from ernie_qa.spool import Spool


def noise(seed: int, side: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side + 8, 3), np.uint8)


def test_what_threads_keep_at_once_comes_back_whole() -> None:
    spool = Spool()
    contents = [os.urandom(1000 * number) for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        kept = list(pool.map(spool.keep, contents))
        assert list(pool.map(lambda one: one.content(), kept)) == contents


def test_a_spooled_picture_is_the_same_picture() -> None:
    pixels = noise(1)
    picture = Picture.from_pixels("one", pixels)
    spooled = picture.spooled(Spool())
    assert spooled == picture
    assert spooled.png == picture.png
    assert np.array_equal(spooled.pixels(), pixels)
    # to another process it goes whole
    sent = pickle.loads(pickle.dumps(spooled))
    assert sent == picture
    assert sent.png == picture.png
    assert replace(spooled, case="two").png == picture.png


def test_spooled_pixels_are_what_was_drawn() -> None:
    drawn = Drawn("one", noise(2), 0, 0.1, {}, {})
    spooled = drawn.spooled(Spool())
    assert not isinstance(spooled.picture, np.ndarray)
    assert np.array_equal(spooled.pixels, drawn.pixels)
    assert spooled.pixels.dtype == np.uint8
    spooled.pixels[:] = 0
    assert np.array_equal(spooled.pixels, drawn.pixels)


def test_nothing_is_left_in_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    kept = Spool().keep(b"some bytes")
    # not even while it is held: a killed process could not remove it
    assert list(tmp_path.iterdir()) == []
    assert kept.content() == b"some bytes"


def test_its_descriptor_is_closed_with_the_last_that_holds_it() -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    before = open_files()
    kept = [Spool().keep(b"one") for _ in range(5)]
    assert open_files() == before + 5
    del kept
    assert open_files() == before


def test_a_full_disk_is_told_in_one_line_and_what_was_kept_stays() -> None:
    spool = Spool()
    first = spool.keep(b"a" * 1000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limits[1]))
        with pytest.raises(UnavailableError, match="cannot be written: File too large; ") as refused:
            spool.keep(b"b" * 1000)
        assert "\n" not in str(refused.value)
        last = spool.keep(b"c" * 500)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (first.content(), last.content()) == (b"a" * 1000, b"c" * 500)


def test_no_directory_for_it_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere/at/all")
    with pytest.raises(UnavailableError, match=r"pictures wait in a temporary file: .*; set TMPDIR$"):
        Spool()
