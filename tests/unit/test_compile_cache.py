"""Where a gate keeps compiled kernels. The GPU is made up; the directories are real."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ernie_qa import compile_cache
from ernie_qa.compile_cache import INDUCTOR, TRITON, compiled_files, keep, settings
from ernie_qa.doctor import _kernel_caches, findings


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cache of its own, nothing set; what a test sets is gone after it."""
    for name in (INDUCTOR, TRITON, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ERNIE_QA_CACHE", str(tmp_path / "own"))
    yield
    for name in (INDUCTOR, TRITON):
        os.environ.pop(name, None)


@pytest.fixture
def h100(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))


def test_nothing_changes_on_a_cpu_or_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert keep("cpu") is None
    assert keep("cuda") is None
    assert not (tmp_path / "own").exists()
    assert compiled_files() == 0


@pytest.mark.usefixtures("h100")
def test_both_directories_are_set_and_made(tmp_path: Path) -> None:
    place = keep("cuda")
    assert place is not None
    assert place.parent == tmp_path / "own" / "compile"
    assert os.environ[INDUCTOR] == str(place / "inductor")
    assert os.environ[TRITON] == str(place / "triton")
    assert (place / "inductor").is_dir()
    assert (place / "triton").is_dir()
    assert keep("cuda:0") == place
    assert keep("cuda:1") is None
    # what another process compiles beside this one is not counted here
    beside = settings("cuda", "worker-1")
    assert beside == {INDUCTOR: f"{place}/worker-1/inductor", TRITON: f"{place}/worker-1/triton"}


@pytest.mark.usefixtures("h100")
@pytest.mark.parametrize(
    ("compiled", "needs"), [("", "worker-1"), ("worker-1", ""), ("worker-2", "worker-1")]
)
def test_what_one_process_compiled_another_one_has(compiled: str, needs: str) -> None:
    def write(name: str, content: str) -> None:
        file = Path(settings("cuda", compiled)[TRITON]) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)

    kernels = Path(settings("cuda", needs)[TRITON])
    write("ABC/kernel.cubin", "machine code")
    write("tmp.pid_7_1/kernel.cubin", "half of it")
    write("DEF/kernel.cubin", "theirs")
    (kernels / "DEF").mkdir(parents=True)
    (kernels / "DEF/kernel.cubin").write_text("its own")
    graph = Path(settings("cuda", compiled)[INDUCTOR]) / "fxgraph/ab/fab/graph"
    graph.parent.mkdir(parents=True)
    graph.write_text("graph")
    (graph.parent / ".7.1.tmp").write_text("half of it")
    keep("cuda", needs)
    assert (kernels / "ABC/kernel.cubin").read_text() == "machine code"
    assert (kernels / "DEF/kernel.cubin").read_text() == "its own"
    assert sorted(one.name for one in kernels.iterdir()) == ["ABC", "DEF"]
    assert [one.name for one in (kernels.parent / "inductor/fxgraph/ab/fab").iterdir()] == ["graph"]
    assert compiled_files() == 3


@pytest.mark.usefixtures("h100")
def test_what_decides_the_kernels_decides_the_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    first = settings("cuda")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert settings("cuda") == first
    monkeypatch.setenv("SDNQ_TRITON_MM_NUM_STAGES_LIST", "2")
    tuned = settings("cuda")
    monkeypatch.setattr(compile_cache, "version_of", lambda name: "9.9")
    newer = settings("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA L40S")
    assert len({found[INDUCTOR] for found in (first, tuned, newer, settings("cuda"))}) == 4


@pytest.mark.usefixtures("h100")
def test_what_the_user_set_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRITON, "/opt/triton")
    place = keep("cuda")
    assert place is not None
    assert os.environ[TRITON] == "/opt/triton"
    assert os.environ[INDUCTOR] == str(place / "inductor")
    os.environ[INDUCTOR] = "/opt/inductor"
    assert keep("cuda") is None
    assert os.environ[INDUCTOR] == "/opt/inductor"


@pytest.mark.usefixtures("h100")
@pytest.mark.parametrize("damaged", ["own", "own/compile", "own/compile/{key}", "own/compile/{key}/triton"])
def test_a_directory_that_is_none_leaves_the_environment_alone(tmp_path: Path, damaged: str) -> None:
    key = Path(settings("cuda")[TRITON]).parent.name
    file = tmp_path / damaged.format(key=key)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("no directory")
    assert keep("cuda") is None
    assert settings("cuda") == {}
    assert INDUCTOR not in os.environ
    assert TRITON not in os.environ


@pytest.mark.usefixtures("h100")
@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_directory_that_cannot_be_written_leaves_the_environment_alone(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir(mode=0o500)
    assert keep("cuda") is None
    assert INDUCTOR not in os.environ


@pytest.mark.usefixtures("h100")
def test_a_disk_that_is_full_leaves_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    assert keep("cuda") is None
    assert INDUCTOR not in os.environ


@pytest.mark.usefixtures("h100")
def test_the_doctor_tells_where_a_gate_would_keep_them(tmp_path: Path) -> None:
    paths = _kernel_caches({**settings("cuda"), **os.environ})
    place = keep("cuda")
    assert place is not None
    assert paths == (place / "inductor", place / "triton")
    assert str(place) in findings.kernel_cache("cuda", *paths).found


def test_triton_entries_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = pytest.importorskip("triton.runtime.cache")
    monkeypatch.setenv(TRITON, str(tmp_path / "triton"))
    assert compiled_files() == 0
    for key in ("a kernel", "the choice of its parameters"):
        manager = cache.get_cache_manager(key.encode().hex())
        manager.put(b"binary", "kernel.cubin")
        manager.put("{}", "kernel.json")
    assert compiled_files() == 2
    cache.get_cache_manager(b"a kernel".hex()).put("{}", "__grp__kernel.json")
    assert compiled_files() == 2


COMPILE = """
import torch
torch.compile(lambda a, b: torch.sin(a) * b)(torch.ones(8), torch.ones(8))
"""


@pytest.mark.skipif(not shutil.which("g++"), reason="Inductor compiles for a CPU with g++")
def test_what_inductor_compiles_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(INDUCTOR, str(tmp_path / "inductor"))
    assert compiled_files() == 0
    subprocess.run([sys.executable, "-c", COMPILE], check=True, capture_output=True)
    # a graph and its module
    assert compiled_files() == 2


@pytest.mark.usefixtures("h100")
@pytest.mark.skipif(not shutil.which("g++"), reason="Inductor compiles for a CPU with g++")
def test_inductor_compiles_nothing_that_was_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as first:
        for name, place in settings("cuda").items():
            first.setenv(name, place)
        subprocess.run([sys.executable, "-c", COMPILE], check=True, capture_output=True)
    keep("cuda", "worker-1")
    before = compiled_files()
    subprocess.run([sys.executable, "-c", COMPILE], check=True, capture_output=True)
    assert compiled_files() == before == 2
