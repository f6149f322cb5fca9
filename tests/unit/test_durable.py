"""Several processes that write in one directory at once clear away what was left, and never each other's."""

import subprocess
import sys
from pathlib import Path

import pytest

from ernie_qa import durable
from ernie_qa.durable import directory

WRITES = """
import sys
from pathlib import Path
from ernie_qa.durable import directory
for number in range(300):
    with directory(Path(sys.argv[1]) / f"{sys.argv[2]}-{number}") as new:
        (new / "x").write_text("x")
"""


def test_writers_of_one_directory_leave_each_other_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITES, str(tmp_path)]
    writers = [
        subprocess.Popen([*command, name], stderr=subprocess.PIPE, text=True) for name in ("a", "b", "c", "d")
    ]
    assert [writer.communicate()[1] for writer in writers] == [""] * 4
    assert len(list(tmp_path.iterdir())) == 1200


def test_a_directory_that_cannot_be_opened_does_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, *given: int) -> int:
        raise OSError(24, "Too many open files", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(durable.os, "open", refused)
        with pytest.raises(OSError, match="Too many open files"), directory(tmp_path / "new"):
            pass
    assert not list(tmp_path.iterdir())
