"""Changes that ought not to matter: each is undone, and does something while it lasts."""

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.backends import cuda

from ernie_qa.changes import Change, changes, machine
from ernie_qa.cli import main
from ernie_qa.drawing import draw
from ernie_qa.errors import UnavailableError
from ernie_qa.pipeline import load_pipeline
from ernie_qa.suite import find_suite

OF_A_PIPELINE = [one for one in changes() if one.lasting and not one.unless("cpu") and one.name != "compiled"]


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> object:
    return load_pipeline(tiny_model, "bf16", "cpu")


def state(pipe: object) -> tuple[object, ...]:
    models = (pipe.text_encoder, pipe.pe)
    return (
        dict(vars(pipe.transformer)).keys(),
        [one.config._attn_implementation for one in models],
        torch.get_num_threads(),
        cuda.flash_sdp_enabled(),
        cuda.math_sdp_enabled(),
    )


@pytest.mark.parametrize("one", OF_A_PIPELINE, ids=lambda one: one.name)
def test_a_change_is_undone_even_after_an_error(one: Change, pipe: object, small_suite: Path) -> None:
    suite, before = find_suite(small_suite), state(pipe)
    case = suite.cases[0]
    first = draw(pipe, case, suite).pixels

    def broken() -> None:
        with contextmanager(one.lasting)(pipe):
            assert draw(pipe, case, suite).pixels.shape == first.shape
            assert (state(pipe) != before) == (one.name != "again")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    assert state(pipe) == before
    assert np.array_equal(draw(pipe, case, suite).pixels, first)


def test_compiled_without_a_graph_is_no_measurement(pipe: object) -> None:
    from ernie_qa.changes.compiled import transformer

    with pytest.raises(UnavailableError, match="made no graph"), contextmanager(transformer)(pipe):
        pass
    assert "forward" not in vars(pipe.transformer)


def test_what_a_machine_lacks_is_said() -> None:
    found = {one.name: one.unless for one in changes()}
    assert found["flash-attention"]("cpu") == "needs a GPU"
    assert found["another-gpu"]("cpu") == "needs two GPUs"
    assert found["avx2"]("cuda:0") == "the work is the GPU's"
    assert found["math-attention"]("cpu") is None


def test_the_other_gpu_is_the_second_that_the_caller_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine.another_gpu() == {"CUDA_VISIBLE_DEVICES": "1"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert machine.another_gpu() == {"CUDA_VISIBLE_DEVICES": "5"}


def test_the_list_names_every_change_and_draws_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "--list", "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    assert all(one.name in text for one in changes())


@pytest.mark.parametrize("arguments", [["--change", "no-such"], ["--cases", "0"], ["--cases", "11"]])
def test_what_is_wrong_is_bad_input(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", "mini", "--device", "cpu", "--baselines", str(tmp_path), *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_another_gpu_is_not_the_same_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    another = next(one for one in changes() if one.name == "another-gpu")
    assert another.unless("cuda:0") is None
    assert "cuda:0" in (another.unless("cuda:1") or "")
