"""A quantized weight beside the one that its quantizer makes: what rounding does, and what it cannot."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ernie_qa.fidelity.weights import misfits, weight_figures
from ernie_qa.models.requantized import requantized
from ernie_qa.pipeline import load_pipeline
from ernie_qa.quantizers import checked_options, find_quantizer
from ernie_qa.quantizers.sdnq_layers import made
from ernie_qa.recipe import find_recipe

GROUP = 64


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


@pytest.mark.parametrize("recipe", ["sdnq-int8", "sdnq-uint4-static", "bnb-nf4"])
def test_what_was_just_loaded_is_the_same_to_the_bit_also_after_it_ran(tiny_model: Path, recipe: str) -> None:
    wanted = find_recipe(recipe)
    pipe: Any = load_pipeline(tiny_model, wanted, "cpu")
    quantizer = find_quantizer(wanted.components["pe"])
    options = checked_options(wanted)[quantizer.NAME]
    groups = {
        state.name: int(state.weight.get("blocksize", state.weight.get("group_size", 0)))
        for state in quantizer.describe(pipe.pe, options)
        if state.quantized
    }

    def compared() -> dict[str, Any]:
        return requantized(
            pipe.pe,
            groups,
            tiny_model / "pe",
            torch.device("cpu"),
            lambda layer, bf16: quantizer.weights(layer, bf16, options),
        )

    found = compared()
    assert groups
    assert found == {"same": len(groups), "layers": {}, "missing": [], "other": 0}
    with torch.no_grad():
        pipe.pe(input_ids=torch.arange(1, 41)[None], use_cache=False)
    # a CPU with AVX512-BF16 has repacked NF4 by then
    assert list(misfits(compared()["layers"])) == []
    assert compared()["missing"] == []
    absent = {**groups, "nowhere": 0}
    groups = absent
    assert compared()["missing"] == ["nowhere"]


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("hadamard", [True, False])
def test_factors_that_sdnq_draws_at_random_are_the_layer_s_own(kernel: bool, hadamard: bool) -> None:
    quantizer = find_quantizer("sdnq")
    quantizer.prepare("cpu")
    options = {
        **checked_options(find_recipe("sdnq-uint4-static"))["sdnq"],
        "use_svd": True,
        "use_hadamard": hadamard,
        "use_quantized_matmul": kernel,
    }
    plain = torch.randn(512, 256, generator=torch.Generator().manual_seed(3)).bfloat16()
    layer = made(plain.clone(), options)
    state = torch.random.get_rng_state()
    pair = quantizer.weights(layer, plain, options)
    assert pair is not None
    assert torch.equal(*pair)
    assert torch.equal(state, torch.random.get_rng_state())
    layer.scale.mul_(1.02)
    pair = quantizer.weights(layer, plain, options)
    assert pair is not None
    assert list(misfits({"one": weight_figures(*pair, plain, 128)}))


@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn"])
@pytest.mark.parametrize("kernel", [True, False])
def test_a_layer_that_is_excepted_from_the_kernel_may_have_other_groups(dtype: str, kernel: bool) -> None:
    quantizer = find_quantizer("sdnq")
    quantizer.prepare("cpu")
    options = {**checked_options(find_recipe("sdnq-int8"))["sdnq"], "weights_dtype": dtype}
    plain = torch.randn(64, 2048, generator=torch.Generator().manual_seed(3)).bfloat16()
    layer = made(plain.clone(), {**options, "use_quantized_matmul": not kernel})
    pair = quantizer.weights(layer, plain, {**options, "use_quantized_matmul": kernel})
    assert pair is not None
    assert torch.equal(*pair)
