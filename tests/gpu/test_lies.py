"""What the activation rung must catch on a real GPU, with SDNQ's compilation on. Run by `pytest -m gpu`."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sdnq.layers.linear.forward import quantized_linear_forward

from ernie_qa.judge import judge
from ernie_qa.observe import observe
from ernie_qa.pipeline import load_pipeline
from ernie_qa.recipe import QUANTIZABLE
from ernie_qa.suite import find_suite
from ernie_qa.verdict import Status, Verdict

pytestmark = pytest.mark.gpu

RECIPE = "sdnq-uint4-static"
LAYER = "layers.3.mlp.up_proj"


def switch_all_off(pipe: Any) -> None:
    """Quantized matmul off in every layer, and the flag put back to True by hand."""
    from sdnq.loader import apply_sdnq_options_to_model

    for name in QUANTIZABLE:
        component = apply_sdnq_options_to_model(getattr(pipe, name), use_quantized_matmul=False)
        component.quantization_config.use_quantized_matmul = True


def swap_one_forward(pipe: Any) -> None:
    """One layer dequantizes; every flag says otherwise."""
    pipe.transformer.get_submodule(LAYER).forward_func = quantized_linear_forward


def verdict_after(lie: Callable[[Any], None]) -> Verdict:
    pipe = load_pipeline("mini", RECIPE, "cuda")
    lie(pipe)
    suite = find_suite("mini")
    record = observe(pipe, RECIPE, replace(suite, cases=suite.cases[:1]))
    return judge(record, None, RECIPE)


def failed(verdict: Verdict) -> dict[str, str]:
    assert verdict.status is Status.FAIL
    return {check.label: check.message for check in verdict.of(Status.FAIL)}


def test_all_layers_switched_to_dequantize_under_a_true_flag_fail() -> None:
    told = failed(verdict_after(switch_all_off))
    for name in QUANTIZABLE:
        assert "dequantized" in told[f"activation.kernels[{name}]"]
        assert "not set up as the recipe says" in told[f"activation.layers[{name}]"]
        assert f"activation.flag[{name}]" not in told
    print(*told.values(), sep="\n")


def test_a_single_switched_layer_is_named() -> None:
    told = failed(verdict_after(swap_one_forward))
    assert LAYER in told["activation.kernels[transformer]"]
    assert "activation.kernels[text_encoder]" not in told
    print(*told.values(), sep="\n")
