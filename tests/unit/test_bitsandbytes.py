"""bitsandbytes: what its layers store, what their calls really ran, and every way in which the two differ."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ernie_qa.errors import ModelError, RecipeError
from ernie_qa.quantizers import bitsandbytes as bnb
from ernie_qa.quantizers.layers import byte_faults, runtime_faults, unquantized, weight_faults
from ernie_qa.toml_input import Table
from tests.arms import call, loaded, source

RECIPE = "bnb-nf4"
LAYER = "layers.0.mlp.up_proj"
OPS = {"bitsandbytes::gemm_4bit": 1}, {"bitsandbytes::gemv_4bit": 1}


def checked(**raw: Any) -> dict[str, Any]:
    return dict(bnb.check_options(Table(raw, Path("a.toml"), "bitsandbytes", RecipeError)))


@pytest.fixture
def transformer(tiny_model: Path) -> torch.nn.Module:
    return loaded(tiny_model, "transformer", RECIPE)


def ran(component: torch.nn.Module) -> dict[str, Any]:
    """The counts of one call, layer by layer, and of its repetition under the profiler."""
    with bnb.watch(component) as watch:
        call(component)
        watch.replay()
    return {calls.name: calls for calls in watch.calls()}


@pytest.mark.parametrize(
    "raw", [{}, {"double_quant": False}, {"quant_type": "fp4", "compute_dtype": "float32"}]
)
def test_a_component_loads_and_runs_as_asked(tiny_model: Path, raw: dict[str, Any]) -> None:
    wanted = checked(**raw)
    component = bnb.load(source(tiny_model, "transformer"), wanted)
    states = bnb.describe(component, wanted)
    assert bnb.config_flag(component) == bnb.expected_flag(wanted)
    assert all(state.quantized and state.unlisted == state.side_bytes > 0 for state in states)
    assert weight_faults(states) == runtime_faults(states) == byte_faults(states) == []
    for calls in ran(component).values():
        assert (calls.total, calls.quantized, calls.fallbacks) == (1, 1, {})
        assert calls.ops in OPS


@pytest.mark.parametrize(
    ("name", "count", "plain", "idle"), [("pe", 7, ["lm_head"], 0), ("text_encoder", 17, [], 10)]
)
def test_language_models_load_with_transformers_own_configuration(
    tiny_model: Path, name: str, count: int, plain: list[str], idle: int
) -> None:
    component = loaded(tiny_model, name, RECIPE)
    states = bnb.describe(component, checked())
    assert [state.name for state in states if not state.quantized] == plain
    assert sum(state.quantized for state in states) == count
    assert unquantized(states) == []
    assert bnb.config_flag(component) == bnb.expected_flag(checked())
    # the vision tower and the projector: quantized, and never called
    assert sum(not calls.total for calls in ran(component).values()) == idle


def test_diffusers_is_left_as_it_was(tiny_model: Path) -> None:
    from diffusers.quantizers.bitsandbytes import BnB4BitDiffusersQuantizer as Quantizer

    before = Quantizer.validate_environment, Quantizer.update_device_map
    loaded(tiny_model, "transformer", RECIPE)
    assert (Quantizer.validate_environment, Quantizer.update_device_map) == before


def test_an_artifact_loads_as_it_was_saved(tiny_model: Path, tmp_path: Path) -> None:
    for name in ("transformer", "pe"):
        first = loaded(tiny_model, name, RECIPE)
        first.save_pretrained(tmp_path / name)
        again = bnb.load(source(tmp_path, name), checked())
        states = bnb.describe(again, checked())
        assert weight_faults(states) == runtime_faults(states) == unquantized(states) == []
        assert torch.equal(call(first), call(again))


def test_an_artifact_of_another_quantizer_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    loaded(tiny_model, "pe", "sdnq-int8").save_pretrained(tmp_path / "pe")
    with pytest.raises(ModelError, match="already quantized by 'sdnq', not by bitsandbytes"):
        bnb.load(source(tmp_path, "pe"), checked())


def test_double_quantization_that_is_off_is_found(tiny_model: Path) -> None:
    component = bnb.load(source(tiny_model, "transformer"), checked(double_quant=False))
    component.config.quantization_config.bnb_4bit_use_double_quant = True
    assert bnb.config_flag(component) == bnb.expected_flag(checked())
    faults = weight_faults(bnb.describe(component, checked()))
    assert len(faults) == 13
    assert "double_quant False, not True" in faults[0]


def test_double_quantization_is_still_known_after_a_cpu_repacked_the_scales(transformer: Any) -> None:
    """The first forward on a CPU with AVX512-BF16 does this; the conversion itself runs on any CPU."""
    from bitsandbytes.functional import _convert_weight_packed_for_cpu

    weight = transformer.get_submodule(LAYER).weight
    weight.data, weight.quant_state = _convert_weight_packed_for_cpu(weight.data, weight.quant_state)
    assert weight.quant_state.nested is False
    states = bnb.describe(transformer, checked())
    assert weight_faults(states) == byte_faults(states) == []


def test_another_compute_type_is_found(transformer: Any) -> None:
    transformer.get_submodule(LAYER).compute_dtype = torch.float32
    assert runtime_faults(bnb.describe(transformer, checked())) == [
        f"{LAYER} (compute_dtype float32, not bfloat16)"
    ]


def dequantized(layer: Any) -> torch.Tensor:
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(layer.weight.data, layer.weight.quant_state)


def replace_layer(component: Any) -> None:
    layer = component.get_submodule(LAYER)
    plain = torch.nn.Linear(layer.in_features, layer.out_features, bias=False, dtype=torch.bfloat16)
    plain.weight.data = dequantized(layer)
    component.set_submodule(LAYER, plain)


def replace_weight(component: Any) -> None:
    layer = component.get_submodule(LAYER)
    layer.weight = torch.nn.Parameter(dequantized(layer), requires_grad=False)


@pytest.mark.parametrize("lie", [replace_layer, replace_weight])
def test_a_layer_dequantized_for_good_is_missed(transformer: Any, lie: Callable[[Any], None]) -> None:
    lie(transformer)
    assert bnb.config_flag(transformer) == bnb.expected_flag(checked())
    assert unquantized(bnb.describe(transformer, checked())) == [LAYER]


def test_a_forward_that_dequantizes_is_found(transformer: Any) -> None:
    layer = transformer.get_submodule(LAYER)
    layer.forward = lambda rows: torch.nn.functional.linear(rows, dequantized(layer))
    assert runtime_faults(bnb.describe(transformer, checked())) == [f"{LAYER} (own_forward True, not False)"]
    calls = ran(transformer)
    assert (calls[LAYER].quantized, calls[LAYER].fallbacks, calls[LAYER].ops) == (0, {"forward": 1}, {})
    assert calls["layers.0.mlp.gate_proj"].quantized == 1


def test_a_kernel_function_that_runs_no_kernel_is_found(
    transformer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import bitsandbytes
    from bitsandbytes.functional import dequantize_4bit

    def pretend(rows: torch.Tensor, weight: torch.Tensor, quant_state: Any, bias: Any = None) -> torch.Tensor:
        return torch.nn.functional.linear(rows, dequantize_4bit(weight.data, quant_state), bias)

    monkeypatch.setattr(bitsandbytes, "matmul_4bit", pretend)
    calls = ran(transformer)[LAYER]
    assert (calls.quantized, calls.replayed, calls.ops) == (1, 1, {})


def test_modules_that_the_recipe_excepts_stay_plain(tiny_model: Path) -> None:
    for name, skipped in (("transformer", "final_linear"), ("text_encoder", "multi_modal_projector")):
        wanted = checked(modules_to_not_convert=[skipped])
        component = bnb.load(source(tiny_model, name), wanted)
        plain = {
            state.name: state.excluded for state in bnb.describe(component, wanted) if not state.quantized
        }
        assert plain
        assert set(plain.values()) == {f"bitsandbytes skips {skipped}"}


def test_the_probe_proves_itself() -> None:
    assert bnb.prove("cpu", checked()) is None
    assert bnb.prove("cpu", checked(double_quant=False, quant_type="fp4", compute_dtype="float32")) is None


def test_the_probe_says_where_it_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    import bitsandbytes

    with monkeypatch.context() as patch:
        patch.delattr(bitsandbytes, "matmul_4bit")
        assert "does not know this bitsandbytes: AttributeError" in (bnb.prove("cpu", checked()) or "")
    with monkeypatch.context() as patch:
        patch.setattr(bnb, "_KERNEL_OPS", frozenset({"bitsandbytes::another"}))
        assert "dispatched none of the kernels" in (bnb.prove("cpu", checked()) or "")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"quant_type": "nf3"}, "bitsandbytes.quant_type: found .nf3. .text., allowed is one of fp4, nf4"),
        ({"double_quant": "yes"}, "bitsandbytes.double_quant: found .yes."),
        ({"compute_dtype": "int8"}, "bitsandbytes.compute_dtype: found .int8."),
    ],
)
def test_wrong_options_are_named(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        checked(**raw)
