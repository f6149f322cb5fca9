"""What the activation rung must catch on a real GPU, with SDNQ's compilation on. Run by `pytest -m gpu`."""

import pytest

from ernie_qa.recipe import QUANTIZABLE
from tests.lies import LAYER, failures, swap_one_forward, switch_all_off, verdict_on

pytestmark = pytest.mark.gpu


def test_all_layers_switched_to_dequantize_under_a_true_flag_fail() -> None:
    told = failures(verdict_on("sdnq-uint4-static", "cuda", switch_all_off))
    for name in QUANTIZABLE:
        assert "dequantized" in told[f"activation.kernels[{name}]"]
        assert "not set up as the recipe says" in told[f"activation.layers[{name}]"]
        assert f"activation.flag[{name}]" not in told
    print(*told.values(), sep="\n")


def test_a_single_switched_layer_is_named() -> None:
    told = failures(verdict_on("sdnq-uint4-static", "cuda", swap_one_forward))
    assert LAYER in told["activation.kernels[transformer]"]
    assert "activation.kernels[text_encoder]" not in told
    print(*told.values(), sep="\n")


def test_nf4_without_double_quantization_fails() -> None:
    told = failures(verdict_on("bnb-nf4", "cuda", double_quant=False))
    for name in QUANTIZABLE:
        assert "double_quant" in told.get(f"activation.flag[{name}]", "")
        assert "double_quant" in told.get(f"activation.weights[{name}]", "")
    print(*told.values(), sep="\n")
