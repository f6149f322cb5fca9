"""Quantizing to a directory: what two test files compare, and how they break it off."""

from pathlib import Path
from typing import Any

import pytest

from ernie_qa.errors import ErnieQAError
from ernie_qa.quantize import quantize

QMM, DEQUANT, INT8, NF4 = "sdnq-uint4-static", "sdnq-uint4-dequant", "sdnq-int8", "bnb-nf4"
HIDDEN = ".new.ernie-qa-unfinished"


def contents(directory: Path) -> dict[str, bytes]:
    files = sorted(file for file in directory.rglob("*") if file.is_file())
    return {file.relative_to(directory).as_posix(): file.read_bytes() for file in files}


def stop_at(what: str, problem: BaseException) -> Any:
    """A progress that raises when that is begun."""

    def progress(done: int, total: int, doing: str) -> None:
        if doing == what:
            raise problem

    return progress


def refused(error: type[ErnieQAError], match: str, *given: Any, **how: Any) -> None:
    with pytest.raises(error, match=match) as raised:
        quantize(*given, **{"device": "cpu", **how})
    assert len(str(raised.value).splitlines()) == 1
