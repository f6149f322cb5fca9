"""A quantized weight beside the one that its quantizer makes: what rounding does, and what it cannot."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ernie_qa.fidelity import weights
from ernie_qa.fidelity.weights import misfits, sum_of_bits, weight_figures
from ernie_qa.models import requantized as requantized_module
from ernie_qa.models import unchanged
from ernie_qa.models.requantized import requantized
from ernie_qa.pipeline import load_pipeline
from ernie_qa.quantizers import checked_options, find_quantizer
from ernie_qa.quantizers.sdnq_layers import made
from ernie_qa.recipe import find_recipe

GROUP = 64
CPU = torch.device("cpu")


def weight() -> torch.Tensor:
    return torch.randn(96, 256, generator=torch.Generator().manual_seed(3)).bfloat16()


def quantized(values: torch.Tensor, scale: Any = lambda scales: scales) -> torch.Tensor:
    """Rounded to 15 levels, with what `scale` makes of the groups' scales."""
    groups = values.float().reshape(-1, GROUP)
    scales = groups.abs().amax(1, keepdim=True) / 7
    return ((groups / scales).round() * scale(scales)).reshape(values.shape)


def figures(live: torch.Tensor) -> dict[str, Any]:
    return weight_figures(live, quantized(weight()), weight(), GROUP)


def test_the_same_weight_is_no_misfit() -> None:
    found = figures(quantized(weight()))
    assert found["gain"] == pytest.approx(0, abs=1e-6)
    assert found["spread"] == pytest.approx(0, abs=1e-6)
    assert found["error"] == pytest.approx(1)
    assert list(misfits({"one": found})) == []


def test_scales_that_are_rounded_to_bf16_are_no_misfit() -> None:
    found = figures(quantized(weight(), lambda scales: scales.bfloat16().float()))
    assert 0 < abs(found["gain"]) < 0.001
    assert list(misfits({"one": found})) == []


def test_weights_one_level_off_here_and_there_are_no_misfit() -> None:
    live = quantized(weight()).reshape(-1)
    live[::512] += live.abs().max() / 7
    assert list(misfits({"one": figures(live.reshape(96, 256))})) == []


@pytest.mark.parametrize("factor", [0.98, 1.02])
def test_a_scale_that_is_off_is_a_gain(factor: float) -> None:
    found = figures(quantized(weight(), lambda scales: factor * scales))
    assert found["gain"] == pytest.approx(factor - 1, abs=1e-4)
    ((times, name, said),) = misfits({"one": found})
    assert (name, times) == ("one", pytest.approx(4, abs=0.1))
    assert "too strong" in said


def test_scales_that_differ_too_much_from_their_mean_are_a_spread() -> None:
    found = figures(quantized(weight(), lambda scales: scales + 0.02 * (scales - scales.mean())))
    assert abs(found["gain"]) < 0.001
    assert found["spread"] == pytest.approx(0.02, abs=1e-3)
    ((_, _, said),) = misfits({"one": found})
    assert "spread by +2.00%" in said


def test_one_row_that_is_lost_is_named() -> None:
    live = quantized(weight())
    live[7] = 0
    ((_, _, said),) = misfits({"one": figures(live)})
    assert "row 7" in said


def test_what_is_not_finite_or_of_another_shape_is_a_misfit() -> None:
    broken = quantized(weight())
    broken[0, 0] = float("nan")
    for live in (broken, quantized(weight())[:, :64]):
        ((times, _, _),) = misfits({"one": figures(live)})
        assert times == float("inf")


def test_a_row_of_zeros_and_scales_that_are_all_alike_divide_by_nothing() -> None:
    plain = weight()
    plain[0] = 0
    live = quantized(plain).nan_to_num()
    assert list(misfits({"one": weight_figures(live, live, plain, GROUP)})) == []
    alike = torch.ones(8, 64).bfloat16()
    assert weight_figures(alike.float(), alike.float(), alike, GROUP)["spread"] == 0


def pair(layer: Any, plain: torch.Tensor, options: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """An SDNQ layer's weight, and the one made of `plain`."""
    sdnq = find_quantizer("sdnq")
    live = sdnq.weight(layer, tuple(plain.shape), plain.device)
    assert live is not None
    return live, sdnq.fresh_weight(layer, plain, options)


@pytest.mark.parametrize("recipe", ["sdnq-int8", "sdnq-uint4-static", "bnb-nf4"])
def test_what_was_just_loaded_is_the_same_to_the_bit_also_after_it_ran(tiny_model: Path, recipe: str) -> None:
    wanted = find_recipe(recipe)
    pipe: Any = load_pipeline(tiny_model, wanted, "cpu")
    quantizer = find_quantizer(wanted.components["pe"])
    options = checked_options(wanted)[quantizer.NAME]
    states = [state for state in quantizer.describe(pipe.pe, options) if state.quantized]

    def compared() -> dict[str, Any]:
        return requantized(pipe.pe, states, tiny_model / "pe", CPU, quantizer, options)

    assert states
    assert compared() == {"same": len(states), "layers": {}, "missing": [], "other": 0, "before": False}
    with torch.no_grad():
        pipe.pe(input_ids=torch.arange(1, 41)[None], use_cache=False)
    # a CPU with AVX512-BF16 has repacked NF4 by then
    assert list(misfits(compared()["layers"])) == []
    assert compared()["missing"] == []
    states.append(replace(states[0], name="nowhere"))
    assert compared()["missing"] == ["nowhere"]


@pytest.mark.parametrize("recipe", ["sdnq-uint4-static", "bnb-nf4"])
def test_the_same_weights_are_not_compared_twice_and_a_refusal_always_is(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    monkeypatch.setenv("ERNIE_QA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(unchanged, "SMALL", 0)
    wanted = find_recipe(recipe)
    quantizer = find_quantizer(wanted.components["pe"])
    options = checked_options(wanted)[quantizer.NAME]

    def compared(damage: float = 1.0) -> dict[str, Any]:
        # NF4's layers are repacked by some CPUs when they run: each time as they were loaded
        pipe: Any = load_pipeline(model, wanted, "cpu")
        states = [state for state in quantizer.describe(pipe.pe, options) if state.quantized]
        layer = pipe.pe.get_submodule(states[0].name)
        if quantizer.NAME == "sdnq":
            layer.scale.data.mul_(damage)
        else:
            layer.weight.quant_state.state2.absmax.mul_(damage)
        return requantized(pipe.pe, states, model / "pe", CPU, quantizer, options)

    first = compared()
    assert not first["before"]
    assert compared() == {**first, "before": True}
    for _ in range(2):
        found = compared(1.02)
        assert not found["before"]
        assert list(misfits(found["layers"]))
    assert compared()["before"]
    # what was written anew may hold other weights
    stored = next((model / "pe").glob("*.safetensors"))
    os.utime(stored, ns=(0, stored.stat().st_mtime_ns + 1))
    assert not compared()["before"]
    for file in (tmp_path / "cache" / "weights").rglob("*.json"):
        file.write_text("{")
    assert compared() == first


def test_a_kept_result_that_somebody_edited_is_not_believed(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERNIE_QA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(unchanged, "SMALL", 0)
    recipe = find_recipe("sdnq-uint4-static")
    quantizer, options = find_quantizer("sdnq"), checked_options(recipe)["sdnq"]
    pipe: Any = load_pipeline(tiny_model, recipe, "cpu")
    states = [state for state in quantizer.describe(pipe.pe, options) if state.quantized]

    def compared(states: list[Any]) -> dict[str, Any]:
        return requantized(pipe.pe, states, tiny_model / "pe", CPU, quantizer, options)

    first = compared(states)
    assert compared(states)["before"]
    (file,) = (tmp_path / "cache" / "weights").rglob("*.json")
    good = {key: value for key, value in first.items() if key != "before"}
    some = {"gain": 0.0, "spread": 0.0, "sigma": 0.0, "error": 1.0, "row": 0}
    fewer, name = good["same"] - 1, states[0].name
    for edited in (
        {},
        {**good, "same": 0},
        {**good, "same": good["same"] + 0.0},
        {**good, "missing": None},
        {**good, "layers": []},
        {**good, "same": fewer, "layers": {name: {}}},
        {**good, "same": fewer, "layers": {"another": some}},
        {**good, "same": fewer, "layers": {name: {**some, "error": "1"}}},
        {**good, "same": fewer, "layers": {name: {**some, "error": float("nan")}}},
        {**good, "same": fewer, "layers": {name: {**some, "error": 3.0}}},
    ):
        file.write_text(json.dumps(edited), encoding="utf-8")
        assert compared(states) == first, edited
    file.write_text(json.dumps({**good, "same": fewer, "layers": {name: some}}), encoding="utf-8")
    assert compared(states)["before"]
    # the same bits, but not what is made afresh
    other = [replace(states[0], weight={**states[0].weight, "group_size": 16}), *states[1:]]
    assert not compared(other)["before"]


def test_weights_that_were_written_over_are_compared_though_their_time_is_kept(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    monkeypatch.setenv("ERNIE_QA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(unchanged, "SMALL", 0)
    # of a large file only pieces are read
    monkeypatch.setattr(requantized_module, "weights_hash", lambda file: str(file.stat().st_size))
    recipe = find_recipe("sdnq-uint4-static")
    quantizer, options = find_quantizer("sdnq"), checked_options(recipe)["sdnq"]
    pipe: Any = load_pipeline(model, recipe, "cpu")
    states = [state for state in quantizer.describe(pipe.pe, options) if state.quantized]

    def compared() -> dict[str, Any]:
        return requantized(pipe.pe, states, model / "pe", CPU, quantizer, options)

    assert [compared()["before"] for _ in range(2)] == [False, True]
    stored = next((model / "pe").glob("*.safetensors"))
    at = stored.stat()
    tensors = load_file(stored)
    save_file({name: 1.1 * tensor for name, tensor in tensors.items()}, stored, {"format": "pt"})
    os.utime(stored, ns=(at.st_atime_ns, at.st_mtime_ns))
    assert stored.stat().st_size == at.st_size
    assert list(misfits(compared()["layers"]))


def test_a_weight_of_another_shape_is_not_the_one_that_was_compared(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERNIE_QA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(unchanged, "SMALL", 0)
    recipe = find_recipe("sdnq-uint4-static")
    quantizer, options = find_quantizer("sdnq"), checked_options(recipe)["sdnq"]
    pipe: Any = load_pipeline(tiny_model, recipe, "cpu")
    states = [state for state in quantizer.describe(pipe.pe, options) if state.quantized]

    def compared() -> dict[str, Any]:
        return requantized(pipe.pe, states, tiny_model / "pe", CPU, quantizer, options)

    assert [compared()["before"] for _ in range(2)] == [False, True]

    # the tensors stay as they are: what is made of them does not
    dequantizer = pipe.pe.get_submodule(states[0].name).sdnq_dequantizer
    out_features, in_features = dequantizer.result_shape
    dequantizer.result_shape = torch.Size((2 * out_features, in_features // 2))
    found = compared()
    assert not found["before"]
    assert list(misfits(found["layers"]))


@given(st.integers(0, 96 * 256 - 1), st.integers(0, 31), st.integers(1, 96 * 256 - 1))
def test_a_sum_of_bits_tells_one_bit_and_two_places(at: int, bit: int, apart: int) -> None:
    plain = torch.randn(96 * 256, generator=torch.Generator().manual_seed(3))
    flipped = plain.clone()
    flipped.view(torch.int32)[at] ^= torch.tensor(1 << bit).to(torch.int32)
    other = (at + apart) % len(plain)
    swapped = plain.clone()
    swapped[[at, other]] = plain[[other, at]]
    sums = {sum_of_bits([one], CPU) for one in (plain, flipped, swapped)}
    assert len(sums) == 3 - bool(plain[at] == plain[other])


@given(st.integers(-(2**63), 2**63 - 1))
def test_mixing_is_splitmix64_s_and_one_to_one(value: int) -> None:
    def mixed(value: int) -> int:
        value = value * weights._MIX[0] % 2**64
        value = (value ^ value >> 30) * weights._MIX[1] % 2**64
        return value ^ value >> 27

    ours = weights._mixed(torch.tensor([value, ~value]))
    assert [int(one) % 2**64 for one in ours] == [mixed(value), mixed(~value)]


def test_a_sum_of_bits_is_the_same_in_pieces_and_of_a_turned_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    wide, offset = weight(), torch.tensor(0.5)
    packed, before = torch.arange(1003).to(torch.uint8), wide.clone()
    whole = sum_of_bits([wide, offset, packed], CPU)
    assert len(whole) == 16
    monkeypatch.setattr(weights, "_IN_CACHE", 100)
    assert sum_of_bits([wide, offset, packed], CPU) == whole
    assert sum_of_bits([wide.T.contiguous().T, offset, packed[:500], packed[500:]], CPU) == whole
    assert sum_of_bits([packed, wide, offset], CPU) != whole
    assert torch.equal(wide, before)


@pytest.mark.parametrize("last", range(9))
def test_a_sum_of_bits_takes_the_last_bytes_too(last: int) -> None:
    plain = torch.ones(16 + last, dtype=torch.uint8)
    other = plain.clone()
    other[-1] = 2
    assert sum_of_bits([plain], CPU) != sum_of_bits([other], CPU)


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("hadamard", [True, False])
def test_factors_that_sdnq_draws_at_random_are_the_layer_s_own(kernel: bool, hadamard: bool) -> None:
    find_quantizer("sdnq").prepare("cpu")
    options = {
        **checked_options(find_recipe("sdnq-uint4-static"))["sdnq"],
        "use_svd": True,
        "use_hadamard": hadamard,
        "use_quantized_matmul": kernel,
    }
    plain = torch.randn(512, 256, generator=torch.Generator().manual_seed(3)).bfloat16()
    layer = made(plain.clone(), options)
    state = torch.random.get_rng_state()
    assert torch.equal(*pair(layer, plain, options))
    assert torch.equal(state, torch.random.get_rng_state())
    layer.scale.mul_(1.02)
    assert list(misfits({"one": weight_figures(*pair(layer, plain, options), plain, 128)}))


@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn"])
@pytest.mark.parametrize("kernel", [True, False])
def test_a_layer_that_is_excepted_from_the_kernel_may_have_other_groups(dtype: str, kernel: bool) -> None:
    find_quantizer("sdnq").prepare("cpu")
    options = {**checked_options(find_recipe("sdnq-int8"))["sdnq"], "weights_dtype": dtype}
    plain = torch.randn(64, 2048, generator=torch.Generator().manual_seed(3)).bfloat16()
    layer = made(plain.clone(), {**options, "use_quantized_matmul": not kernel})
    assert torch.equal(*pair(layer, plain, {**options, "use_quantized_matmul": kernel}))
