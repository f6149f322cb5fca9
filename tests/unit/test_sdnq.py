"""SDNQ: what its layers say they are, what their calls really ran, and every way in which the two differ."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch

from ernie_qa.errors import ModelError, RecipeError
from ernie_qa.quantizers import sdnq
from ernie_qa.quantizers.layers import byte_faults, runtime_faults, unquantized, weight_faults
from ernie_qa.quantizers.sdnq_layers import probe
from ernie_qa.recipe import find_recipe
from ernie_qa.toml_input import Table
from tests.arms import call, loaded, options, source

RECIPE = "sdnq-uint4-static"
LAYER = "layers.0.mlp.up_proj"


def checked(**raw: Any) -> dict[str, Any]:
    return dict(
        sdnq.check_options(Table({"use_quantized_matmul": True, **raw}, Path("a.toml"), "sdnq", RecipeError))
    )


@pytest.fixture
def transformer(tiny_model: Path) -> torch.nn.Module:
    return loaded(tiny_model, "transformer", RECIPE)


def ran(component: torch.nn.Module) -> dict[str, Any]:
    """The counts of one call, layer by layer, and of its repetition under the profiler."""
    with sdnq.watch(component) as watch:
        call(component)
        watch.replay()
    return {calls.name: calls for calls in watch.calls()}


@pytest.mark.parametrize("dtype", ["uint2", "uint3", "uint4", "int8", "uint8"])
@pytest.mark.parametrize("matmul", [True, False])
def test_a_component_loads_and_runs_as_asked(tiny_model: Path, dtype: str, matmul: bool) -> None:
    wanted = checked(weights_dtype=dtype, dequantize_fp32=False, use_quantized_matmul=matmul)
    component = sdnq.load(source(tiny_model, "transformer"), wanted)
    states = sdnq.describe(component, wanted)
    assert sdnq.config_flag(component) == sdnq.expected_flag(wanted)
    assert {state.name for state in states if not state.quantized} == {
        "time_embedding.linear_1",
        "time_embedding.linear_2",
    }
    assert weight_faults(states) == runtime_faults(states) == byte_faults(states) == unquantized(states) == []
    calls = ran(component)
    few_rows = {"adaLN_modulation.1", "final_norm.linear"}
    for name, one in calls.items():
        reason = "few_rows" if matmul and name in few_rows else "" if matmul else "dequantized"
        assert (one.quantized, one.fallbacks) == ((0, {reason: 1}) if reason else (1, {}))
        assert one.ops == ({} if reason else {"aten::_int_mm": 1})


def test_every_component_of_the_pipeline_loads(tiny_model: Path) -> None:
    for name, count, idle in (("pe", 7, 0), ("text_encoder", 7, 0)):
        component = loaded(tiny_model, name, RECIPE)
        states = sdnq.describe(component, options(find_recipe(RECIPE)))
        assert sum(state.quantized for state in states) == count
        assert unquantized(states) == []
        assert sum(not calls.total for calls in ran(component).values()) == idle


def test_groups_are_those_that_sdnq_chooses(transformer: torch.nn.Module) -> None:
    by_default = options(find_recipe(RECIPE))
    group = {
        state.name: state.weight["group_size"]
        for state in sdnq.describe(transformer, by_default)
        if state.quantized
    }
    assert group[LAYER] == 64  # what a group size of 0 means for a Linear in uint4
    row_wise = sdnq.describe(transformer, {**by_default, "group_size": -1})
    assert any("group_size 64, not -1" in fault for fault in weight_faults(row_wise))


def test_an_artifact_loads_as_it_was_saved(tiny_model: Path, tmp_path: Path) -> None:
    wanted = options(find_recipe(RECIPE))
    for name in ("transformer", "text_encoder"):
        first = sdnq.load(source(tiny_model, name), wanted)
        first.save_pretrained(tmp_path / name)
        again = sdnq.load(source(tmp_path, name), wanted)
        states = sdnq.describe(again, wanted)
        assert weight_faults(states) == runtime_faults(states) == unquantized(states) == []
        assert torch.equal(call(first), call(again))


def test_an_artifact_of_another_quantizer_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    loaded(tiny_model, "pe", "bnb-nf4").save_pretrained(tmp_path / "pe")
    with pytest.raises(ModelError, match="already quantized by 'bitsandbytes', not by sdnq"):
        sdnq.load(source(tmp_path, "pe"), options(find_recipe(RECIPE)))


def dequantize_all(component: Any) -> None:
    from sdnq.loader import apply_sdnq_options_to_model

    apply_sdnq_options_to_model(component, use_quantized_matmul=False)
    component.quantization_config.use_quantized_matmul = True


def swap_function(component: Any) -> None:
    from sdnq.layers.linear.forward import quantized_linear_forward

    component.get_submodule(LAYER).forward_func = quantized_linear_forward


def replace_forward(component: Any) -> None:
    from sdnq.layers.linear.forward import quantized_linear_forward

    layer = component.get_submodule(LAYER)
    layer.forward = MethodType(quantized_linear_forward, layer)


def switch_one(component: Any) -> None:
    from sdnq.layers.linear.forward import quantized_linear_forward

    layer = component.get_submodule(LAYER)
    layer.sdnq_dequantizer.use_quantized_matmul = False
    layer.forward_func = quantized_linear_forward


def skip_one(component: Any) -> None:
    switch_one(component)
    component.quantization_config.modules_to_not_use_matmul.append(f"{LAYER}.weight")


@pytest.mark.parametrize(
    ("lie", "reason", "setting"),
    [
        (dequantize_all, "dequantized", "use_quantized_matmul False, not True"),
        (swap_function, "forward", "quantized_linear_forward, not"),
        (replace_forward, "forward", "own_forward True, not False"),
        (switch_one, "dequantized", "use_quantized_matmul False, not True"),
        (skip_one, "skipped", "use_quantized_matmul False, not True"),
    ],
)
def test_a_layer_that_dequantizes_is_found_whatever_the_flag_says(
    transformer: torch.nn.Module, lie: Callable[[Any], None], reason: str, setting: str
) -> None:
    lie(transformer)
    wanted = options(find_recipe(RECIPE))
    assert sdnq.config_flag(transformer) == sdnq.expected_flag(wanted)
    faults = [
        fault for fault in runtime_faults(sdnq.describe(transformer, wanted)) if fault.startswith(LAYER)
    ]
    assert setting in faults[0]
    calls = ran(transformer)
    assert (calls[LAYER].quantized, calls[LAYER].fallbacks, calls[LAYER].ops) == (0, {reason: 1}, {})
    if lie is not dequantize_all:
        assert calls["layers.0.mlp.gate_proj"].quantized == 1


def test_a_kernel_function_that_runs_no_kernel_is_found(
    transformer: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdnq.layers.linear import linear_int8

    def pretend(rows: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, **rest: Any) -> torch.Tensor:
        return torch.nn.functional.linear(
            rows, (weight.to(scale.dtype) * scale).t().to(rows.dtype), rest["bias"]
        )

    monkeypatch.setattr(linear_int8, "int8_matmul", pretend)
    calls = ran(transformer)[LAYER]
    assert (calls.quantized, calls.replayed, calls.ops) == (1, 1, {})


def test_a_layer_dequantized_for_good_is_missed(transformer: torch.nn.Module) -> None:
    mlp = transformer.get_submodule("layers.0.mlp")
    mlp.up_proj = mlp.up_proj.dequantize()
    assert unquantized(sdnq.describe(transformer, options(find_recipe(RECIPE)))) == [LAYER]


def test_a_shape_that_the_kernel_refuses_is_named() -> None:
    wanted = checked(weights_dtype="uint4")
    component = torch.nn.Sequential(probe(1032, 72, wanted, "cpu"))
    with sdnq.watch(component) as watch, torch.no_grad():
        component(torch.ones(64, 1032, dtype=torch.bfloat16))
    assert watch.calls()[0].fallbacks == {"shape": 1}
    assert "use_quantized_matmul False, not True" in runtime_faults(sdnq.describe(component, wanted))[0]


@pytest.mark.parametrize(
    ("rows", "reason"), [((31, 64), "few_rows"), ((1, 1, 64), "decoding"), ((32, 64), None)]
)
def test_rows_decide_what_a_call_runs(rows: tuple[int, ...], reason: str | None) -> None:
    component = torch.nn.Sequential(probe(64, 64, checked(weights_dtype="uint4"), "cpu"))
    with sdnq.watch(component) as watch, torch.no_grad():
        component(torch.ones(rows, dtype=torch.bfloat16))
    assert watch.calls()[0].fallbacks == ({reason: 1} if reason else {})


def test_a_layer_that_the_recipe_excepts_is_expected_to_dequantize(tiny_model: Path) -> None:
    wanted = checked(weights_dtype="uint4", dequantize_fp32=False, modules_to_not_use_matmul=["up_proj"])
    component = sdnq.load(source(tiny_model, "transformer"), wanted)
    states = {state.name: state for state in sdnq.describe(component, wanted)}
    assert runtime_faults(states.values()) == []
    assert (states[LAYER].kernel, states["layers.0.mlp.gate_proj"].kernel) == (False, True)
    assert ran(component)[LAYER].fallbacks == {"skipped": 1}


def test_watching_leaves_nothing_behind(transformer: torch.nn.Module) -> None:
    from sdnq.layers.linear import linear_int8

    before = linear_int8.int8_matmul
    expected = call(transformer)
    with sdnq.watch(transformer):
        assert linear_int8.int8_matmul is not before
        assert torch.equal(call(transformer), expected)
    assert linear_int8.int8_matmul is before
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in transformer.modules())


def test_the_probe_proves_itself() -> None:
    for matmul in (True, False):
        assert sdnq.prove("cpu", checked(weights_dtype="uint4", use_quantized_matmul=matmul)) is None


def test_the_probe_says_where_it_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    from sdnq.layers.linear import linear_int8

    wanted = checked(weights_dtype="uint4")
    with monkeypatch.context() as patch:
        patch.delattr(linear_int8, "int8_matmul")
        assert "does not know this sdnq: AttributeError" in (sdnq.prove("cpu", wanted) or "")
    with monkeypatch.context() as patch:
        patch.setattr(sdnq, "_KERNEL_OPS", frozenset({"sdnq::another_mm"}))
        assert "dispatched none of the kernels" in (sdnq.prove("cpu", wanted) or "")
    # a CPU multiplies no float8: SDNQ would compute in float16, with no kernel to be seen
    assert "on cpu" in (sdnq.prove("cpu", checked(weights_dtype="float8_e4m3fn")) or "")


def test_the_probe_leaves_the_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    sdnq.prove("cpu", checked(weights_dtype="uint3"))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"weights_dtype": "uint17"}, "sdnq.weights_dtype: found .uint17. .text., allowed is a type as SDNQ"),
        ({}, "sdnq.weights_dtype: missing"),
        ({"weights_dtype": "uint4", "group_size": 1.5}, "sdnq.group_size: found 1.5"),
        ({"weights_dtype": "uint4", "use_quantized_matmul": 1}, "sdnq.use_quantized_matmul: found 1"),
        ({"weights_dtype": "uint4", "quantized_matmul_dtype": "int4"}, "sdnq.quantized_matmul_dtype: found"),
    ],
)
def test_wrong_options_are_named(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        checked(**raw)


def test_every_type_that_a_recipe_may_name_is_one_of_sdnqs() -> None:
    from sdnq.common import dtype_dict

    named = [name for name in dtype_dict if sdnq._DTYPE.fullmatch(name)]
    assert {"uint1", "uint2", "int8", "fp8", "float8_e4m3fn", "float4_e2m1fn"} <= set(named)
    assert all(dtype_dict[name]["num_bits"] <= 8 for name in named)


def test_counting_works_with_compilation() -> None:
    """In a process of its own: SDNQ decides once, when it is imported, whether to compile."""
    script = (
        "from sdnq.common import check_torch_compile; assert check_torch_compile()\n"
        "from ernie_qa.quantizers import sdnq\n"
        "from tests.unit.test_sdnq import checked\n"
        "problem = sdnq.prove('cpu', checked(weights_dtype='int8'))\n"
        "assert problem is None, problem\n"
    )
    environment = {**os.environ, "SDNQ_USE_TORCH_COMPILE": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def in_a_process(script: str) -> str:
    """What `script` prints where SDNQ_USE_TORCH_COMPILE is not set."""
    environment = {key: value for key, value in os.environ.items() if key != "SDNQ_USE_TORCH_COMPILE"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


def test_the_cpu_is_not_compiled_for_on_a_machine_with_cuda() -> None:
    script = (
        "import os, torch\n"
        "torch.cuda.is_available = lambda: True\n"
        "from ernie_qa.quantizers.sdnq import prepare\n"
        "try: prepare('cpu')\n"
        # without a GPU sdnq stops when it asks which one there is: after it has read the setting
        "except (AssertionError, RuntimeError): pass\n"
        "print(os.environ.get('SDNQ_USE_TORCH_COMPILE'))"
    )
    assert in_a_process(script) == "0"


def test_the_setting_says_what_an_sdnq_imported_before_really_does() -> None:
    script = (
        "import os, torch._dynamo\n"
        # quick: it then compiles nothing to try itself
        "torch._dynamo.config.disable = True\n"
        "import sdnq\n"
        "from ernie_qa.quantizers.sdnq import prepare\n"
        "prepare('cpu')\n"
        "print(os.environ.get('SDNQ_USE_TORCH_COMPILE'))"
    )
    assert in_a_process(script) == "None"


def test_whether_sdnq_compiles_is_recorded(
    transformer: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdnq import common

    wanted = options(find_recipe(RECIPE))
    for compiled in (True, False):
        monkeypatch.setattr(common, "use_torch_compile", compiled)
        quantized = [state for state in sdnq.describe(transformer, wanted) if state.quantized]
        assert {state.runtime["compiled"] for state in quantized} == {compiled}
        assert runtime_faults(quantized) == []


def test_a_reason_is_the_same_in_every_process() -> None:
    # transformers gives the names of a set, and the order of a set is another with each seed
    script = (
        "import torch\n"
        "from transformers import AutoConfig, AutoModelForCausalLM\n"
        "from ernie_qa.models.find import find_model\n"
        "from ernie_qa.quantizers import sdnq\n"
        "from ernie_qa.recipe import find_recipe\n"
        "config = AutoConfig.from_pretrained(find_model('mini').path / 'pe')\n"
        "with torch.device('meta'): module = AutoModelForCausalLM.from_config(config)\n"
        "options = find_recipe('sdnq-int8').options['sdnq']\n"
        "print(*(state.excluded for state in sdnq.describe(module, options) if state.excluded), sep='; ')\n"
    )
    said = set()
    for seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said.add(done.stdout)
    assert said == {"SDNQ skips lm_head\n"}
