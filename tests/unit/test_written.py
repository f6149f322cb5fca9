"""What a run leaves when it cannot be written as a whole."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ernie_qa.errors import InputError
from ernie_qa.execute import Session
from ernie_qa.plan import plan
from ernie_qa.report.files import DOCUMENT, write_whole
from ernie_qa.report.page import PAGE, write_page
from ernie_qa.report.shown import of_session


@contextmanager
def files_up_to(most: int) -> Iterator[None]:
    """No file of this process may grow beyond `most` bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def session(tiny_model: Path, small_suite: Path, write_recipe: Callable[[str, float], Path]) -> Session:
    run = Session(plan(tiny_model, ["bf16", write_recipe("ok", 1.0)], small_suite))
    assert [outcome.verdict.status for outcome in run] == ["pass", "pass"]
    return run


def test_a_full_disk_leaves_no_half_page(session: Session, tmp_path: Path) -> None:
    with (
        files_up_to(20_000),
        pytest.raises(InputError, match=r"index\.html: cannot be written: File too large"),
    ):
        write_page(tmp_path / "page", of_session(session))
    assert [file.name for file in (tmp_path / "page").iterdir() if file.is_file()] == []
    assert write_page(tmp_path / "page", of_session(session)) == tmp_path / "page" / PAGE


def test_a_full_disk_leaves_no_half_file_and_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / DOCUMENT
    write_whole(file, "old")
    with files_up_to(20_000), pytest.raises(InputError, match=r"verdict\.json: cannot be written: File too"):
        write_whole(file, "x" * 30_000)
    assert [one.name for one in tmp_path.iterdir()] == [DOCUMENT]
    assert file.read_text() == "old"
