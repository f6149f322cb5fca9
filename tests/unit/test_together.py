"""Several files of one directory that change as one, and what is met there that no command left."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ernie_qa.durable import SUFFIX, held, write
from ernie_qa.together import HIDDEN, settle, together

NAMES = ("pictures", "README.md")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a state of its own, and a file that is nobody's."""
    directory = tmp_path / "place"
    (directory / "pictures").mkdir(parents=True)
    for name in ("pictures/one", "README.md", "theirs"):
        (directory / name).write_text("old")
    return directory


def files(place: Path) -> dict[str, str]:
    return {str(path.relative_to(place)): path.read_text() for path in place.rglob("*") if path.is_file()}


def committed(place: Path, **texts: str) -> Path:
    """What a process leaves that was killed right after its commit."""
    ready = place / HIDDEN / "ready"
    (ready / ".gone" / "pictures").mkdir(parents=True)
    for name, text in texts.items():
        (ready / name.replace("_", ".")).write_text(text)
    return ready


def test_what_was_not_written_is_taken_away(place: Path) -> None:
    with together(place, NAMES, over=True) as new:
        (new / "README.md").write_text("new")
        assert files(place)["README.md"] == "old"
    assert files(place) == {"README.md": "new", "theirs": "old"}


def test_an_error_leaves_all_as_it_was(place: Path) -> None:
    before = files(place)
    with pytest.raises(ZeroDivisionError), together(place, NAMES, over=True) as new:
        (new / "README.md").write_text(str(1 // 0))
    assert files(place) == before


def test_nothing_is_replaced_that_may_not_be(place: Path) -> None:
    before = files(place)
    with pytest.raises(FileExistsError), together(place, NAMES) as new:
        (new / "README.md").write_text("new")
    assert files(place) == before


def test_a_directory_that_was_made_for_nothing_is_gone(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), together(tmp_path / "new"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_what_was_committed_is_moved_on(place: Path) -> None:
    committed(place, README_md="new")
    settle(place, NAMES)
    assert files(place) == {"README.md": "new", "theirs": "old"}
    settle(place, NAMES)
    assert files(place) == {"README.md": "new", "theirs": "old"}


def test_what_was_not_committed_is_cleared_away(place: Path) -> None:
    before = files(place)
    (place / HIDDEN / "new").mkdir(parents=True)
    (place / HIDDEN / "new" / "README.md").write_text("half")
    settle(place, NAMES)
    assert files(place) == before


@pytest.mark.parametrize("part", ["ready", "old"])
def test_a_link_among_what_is_left_moves_nothing_elsewhere(place: Path, tmp_path: Path, part: str) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "README.md").write_text("theirs")
    if part == "old":
        committed(place, README_md="new")
    (place / HIDDEN).mkdir(exist_ok=True)
    (place / HIDDEN / part).symlink_to(tmp_path / "home")
    settle(place, NAMES)
    assert files(tmp_path / "home") == {"README.md": "theirs"}
    assert files(place)["README.md"] == ("new" if part == "old" else "old")


def test_a_process_that_is_at_work_keeps_others_out(place: Path) -> None:
    with (
        held(place / HIDDEN),
        pytest.raises(BlockingIOError, match="another process is writing it"),
        together(place, NAMES, over=True),
    ):
        pass


def test_several_processes_finish_what_one_left(place: Path) -> None:
    committed(place, README_md="new")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: settle(place, NAMES), range(8)))
    assert files(place) == {"README.md": "new", "theirs": "old"}


def test_what_is_being_written_is_not_cleared_away(tmp_path: Path) -> None:
    (tmp_path / f".left{SUFFIX}").write_text("half")

    def meanwhile(temporary: Path) -> None:
        write(tmp_path / "other", "text")
        assert temporary.read_text() == "new"
        assert not (tmp_path / f".left{SUFFIX}").exists()

    write(tmp_path / "file", "new", check=meanwhile)
    assert files(tmp_path) == {"file": "new", "other": "text"}


def test_what_came_to_be_since_is_moved_aside_as_well(place: Path) -> None:
    ready = committed(place, README_md="new")
    old = ready.with_name("old") / "pictures"
    old.mkdir(parents=True)
    (old / "one").write_text("older")
    (place / HIDDEN / "a file").write_text("?")
    settle(place, NAMES)
    assert files(place) == {"README.md": "new", "theirs": "old"}


def test_whoever_finishes_it_need_not_know_what_goes(place: Path) -> None:
    committed(place, README_md="new")
    settle(place)
    assert files(place) == {"README.md": "new", "theirs": "old"}
