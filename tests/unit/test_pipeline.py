"""Loading and drawing: what is wrong with a model is told in one line, and drawing leaves no trace."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ernie_qa.drawing import draw, latents
from ernie_qa.errors import ErnieQAError, InputError, ModelError, OutOfMemoryError, UnavailableError
from ernie_qa.observe import observe
from ernie_qa.pipeline import load_pipeline, provenance
from ernie_qa.suite import find_suite


@pytest.fixture
def copied(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "copied"))


def refused(model: Path, error: type[ErnieQAError] = ModelError, recipe: str = "bf16") -> str:
    with pytest.raises(error) as raised:
        load_pipeline(model, recipe, "cpu")
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_truncated_checkpoint(copied: Path) -> None:
    (weights,) = (copied / "transformer").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert str(copied) in refused(copied)


def test_a_configuration_that_does_not_fit_the_weights(copied: Path) -> None:
    path = copied / "transformer" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "ffn_hidden_size": 128}))
    assert "cannot be loaded" in refused(copied)


@pytest.mark.parametrize(("device", "error"), [("gpu", InputError), ("cuda:99", UnavailableError)])
def test_a_device_that_is_none(tiny_model: Path, device: str, error: type[ErnieQAError]) -> None:
    with pytest.raises(error, match=r"(?i)gpu"):
        load_pipeline(tiny_model, "bf16", device)


def test_drawing_leaves_the_random_state_and_the_progress_bars(tiny_model: Path, small_suite: Path) -> None:
    pipe, suite = load_pipeline(tiny_model, "bf16", "cpu"), find_suite(small_suite)
    pipe.set_progress_bar_config(desc="mine")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    drawn = draw(pipe, suite.cases[0], suite)
    assert torch.equal(torch.get_rng_state(), before)
    assert pipe._progress_bar_config == {"desc": "mine"}
    assert drawn.nonfinite == 0
    assert not pipe.vae.decoder._forward_hooks


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_counted_before_they_are_clamped(
    tiny_model: Path, small_suite: Path, value: float
) -> None:
    pipe, suite = load_pipeline(tiny_model, "bf16", "cpu"), find_suite(small_suite)
    with torch.no_grad():
        pipe.vae.decoder.conv_out.bias[0] = value
    case = suite.cases[0]
    assert draw(pipe, case, suite).nonfinite == case.width * case.height


def test_latents_do_not_depend_on_the_arm(tiny_model: Path, small_suite: Path) -> None:
    case = find_suite(small_suite).cases[0]
    one, two = (latents(load_pipeline(tiny_model, recipe, "cpu"), case) for recipe in ("bf16", "bnb-nf4"))
    assert torch.equal(one, two)
    assert (one.dtype, tuple(one.shape)) == (torch.float32, (1, 64, 8, 8))
    assert not torch.equal(one, latents(load_pipeline(tiny_model, "bf16", "cpu"), replace(case, seed=9)))


def test_a_pipeline_from_elsewhere_has_to_be_named(tiny_model: Path, small_suite: Path) -> None:
    from diffusers import ErnieImagePipeline

    pipe = ErnieImagePipeline.from_pretrained(tiny_model, dtype=torch.bfloat16)
    assert provenance(pipe) is None
    with pytest.raises(ModelError, match="pass model="):
        observe(pipe, "bf16", small_suite)
    record = observe(pipe, "bf16", small_suite, model=tiny_model)
    assert record.figures["cost"]["load"] is None
    assert list(record.figures) == ["package", "activation", "components", "images", "text", "cost"]


@pytest.mark.parametrize(
    "problem",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        torch.OutOfMemoryError("Allocation on device 0 would exceed allowed memory. (out of memory)"),
        RuntimeError("a component failed to load:\nCUDA error: out of memory"),
    ],
)
def test_memory_that_runs_out_is_not_blamed_on_the_files(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, problem: Exception
) -> None:
    def full(*_: object) -> None:
        raise problem

    monkeypatch.setattr("ernie_qa.pipeline._assemble", full)
    told = refused(tiny_model, OutOfMemoryError)
    assert f"not enough GPU memory to load it: {str(problem).splitlines()[-1]}" in told
    assert "--offload" in told


def test_what_transformers_only_writes_to_its_log_is_told(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    def full(*_: object, **__: object) -> None:
        raise problem

    monkeypatch.setattr("bitsandbytes.functional.quantize_4bit", full)
    problem: Exception = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
    told = refused(tiny_model, OutOfMemoryError, recipe="bnb-nf4")
    assert "load it: torch.OutOfMemoryError: CUDA out of memory. Tried" in told
    problem = ValueError("Blockwise 4bit quantization only supports 16/32-bit floats, but got torch.uint8")
    told = refused(tiny_model, ModelError, recipe="bnb-nf4")
    assert "cannot be loaded: ValueError: Blockwise 4bit quantization only supports" in told
