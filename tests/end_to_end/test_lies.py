"""The shipped miniature, really quantized, lying about what it runs."""

from ernie_qa.recipe import QUANTIZABLE
from tests.lies import LAYER, failures, swap_one_forward, switch_all_off, verdict_on


def test_all_layers_switched_to_dequantize_under_a_true_flag_fail() -> None:
    told = failures(verdict_on("sdnq-uint4-static", "cpu", switch_all_off))
    for name in QUANTIZABLE:
        assert "dequantized" in told[f"activation.kernels[{name}]"]
        assert f"activation.flag[{name}]" not in told


def test_a_single_switched_layer_is_named_and_no_other() -> None:
    told = failures(verdict_on("sdnq-uint4-static", "cpu", swap_one_forward))
    assert "1 of 60 layers" in told["activation.kernels[transformer]"]
    assert LAYER in told["activation.kernels[transformer]"]
    assert not [label for label in told if label.startswith("activation") and "[transformer]" not in label]


def test_nf4_without_double_quantization_fails() -> None:
    told = failures(verdict_on("bnb-nf4", "cpu", double_quant=False))
    for name in QUANTIZABLE:
        assert any(
            "double_quant" in told.get(f"activation.{level}[{name}]", "")
            for level in ("layers", "weights", "flag")
        )
