"""The activation rung on the tiny pipeline: what passes, and every lie that it has to find and name."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ernie_qa.frozen import thaw
from ernie_qa.quantizers import sdnq
from ernie_qa.quantizers.layers import Calls, LayerState
from ernie_qa.recipe import Allowance, Recipe, find_recipe
from ernie_qa.record import Record
from ernie_qa.rungs import activation
from ernie_qa.verdict import Check, Status
from tests.arms import arm, call, judged, observed, run
from tests.unit.test_sdnq import dequantize_all, replace_forward, swap_function

LEVELS = ("flag", "layers", "weights", "kernels")
COMPONENTS = ("pe", "text_encoder", "transformer")
QMM, DEQUANT, NF4 = "sdnq-uint4-static", "sdnq-uint4-dequant", "bnb-nf4"


def verdicts(record: Record, recipe: str | Recipe) -> dict[str, Check]:
    return judged(activation, record, find_recipe(recipe))


def failed(checks: dict[str, Check]) -> set[str]:
    return {name for name, check in checks.items() if check.status is not Status.PASS}


@pytest.fixture(scope="module")
def records(tiny_model: Path) -> dict[str, Record]:
    """What three honest arms were observed to run."""
    return {recipe: observed(activation, arm(tiny_model, recipe)) for recipe in (QMM, DEQUANT, NF4)}


@pytest.mark.parametrize("recipe", [QMM, DEQUANT, NF4])
def test_an_honest_arm_passes_on_all_levels(records: dict[str, Record], recipe: str) -> None:
    checks = verdicts(records[recipe], recipe)
    assert set(checks) == {f"{component}.{level}" for component in COMPONENTS for level in LEVELS}
    assert failed(checks) == set()


def test_the_counted_kernels_are_reported(records: dict[str, Record]) -> None:
    check = verdicts(records[QMM], QMM)["transformer.kernels"]
    # two calls of eleven layers, of which two see one row
    assert (check.measured, check.unit) == (18, "calls")
    assert check.message.startswith("transformer: 18 of 22 calls ran the quantized kernel (aten::_int_mm)")
    assert check.message.endswith("allowed: 4 few_rows")
    assert verdicts(records[DEQUANT], DEQUANT)["transformer.kernels"].measured == 0
    assert "bitsandbytes::ge" in verdicts(records[NF4], NF4)["transformer.kernels"].message
    assert verdicts(records[NF4], NF4)["text_encoder.kernels"].message.endswith("allowed: 10 idle layers")


def test_an_allowance_that_matches_no_layer_is_told(records: dict[str, Record]) -> None:
    recipe = find_recipe(QMM)
    useless = Allowance("transformer.adaln.*", "few_rows", "a misspelt name")
    checks = verdicts(records[QMM], replace(recipe, allowances=(*recipe.allowances, useless)))
    assert checks["transformer.kernels"].status is Status.PASS
    assert checks["transformer.kernels"].message.endswith(
        '; allowed: 4 few_rows; no layer is named as "transformer.adaln.*", which is allowed'
    )
    assert "no layer is named" not in checks["pe.kernels"].message


def test_a_record_stays_small(records: dict[str, Record]) -> None:
    groups = records[QMM].figures["activation"]["components"]["transformer"]["layers"]
    assert len(groups) < sum(len(group["names"]) for group in groups)
    assert len(json.dumps(thaw(records[QMM].figures))) < 30_000


def test_all_layers_switched_to_dequantize_behind_a_true_flag_fail(tiny_model: Path) -> None:
    of = arm(tiny_model, QMM)
    dequantize_all(of.pipe.transformer)
    checks = verdicts(observed(activation, of), QMM)
    assert failed(checks) == {"transformer.layers", "transformer.kernels"}
    assert "11 of 11 quantized layers are not set up" in checks["transformer.layers"].message
    assert "layers.0.self_attention.to_q (of 2 calls 2 dequantized)" in checks["transformer.kernels"].message


@pytest.mark.parametrize("lie", [swap_function, replace_forward])
def test_one_layer_whose_forward_was_switched_fails_by_name(
    tiny_model: Path, lie: Callable[[Any], None]
) -> None:
    of = arm(tiny_model, QMM)
    lie(of.pipe.transformer)
    checks = verdicts(observed(activation, of), QMM)
    assert failed(checks) == {"transformer.layers", "transformer.kernels"}
    assert "1 of 11 layers did not run" in checks["transformer.kernels"].message
    assert "layers.0.mlp.up_proj (of 2 calls 2 forward)" in checks["transformer.kernels"].message


def test_a_forward_switched_while_the_suite_runs_is_counted(tiny_model: Path) -> None:
    of = arm(tiny_model, QMM)

    def draw(pipe: Any) -> None:
        run(pipe)
        swap_function(pipe.transformer)
        run(pipe)

    checks = verdicts(observed(activation, of, draw), QMM)
    assert failed(checks) == {"transformer.kernels"}
    assert "layers.0.mlp.up_proj (of 4 calls 2 forward)" in checks["transformer.kernels"].message


def test_a_layer_that_sees_one_row_is_no_excuse_for_another_forward(tiny_model: Path) -> None:
    of = arm(tiny_model, QMM)
    from sdnq.layers.linear.forward import quantized_linear_forward

    of.pipe.transformer.adaLN_modulation[1].forward_func = quantized_linear_forward
    checks = verdicts(observed(activation, of), QMM)
    assert "adaLN_modulation.1 (of 2 calls 2 forward)" in checks["transformer.kernels"].message


def test_a_kernel_function_that_runs_no_kernel_never_passes(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdnq.layers.linear import linear_int8

    def pretend(rows: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, **rest: Any) -> torch.Tensor:
        return torch.nn.functional.linear(
            rows, (weight.to(scale.dtype) * scale).t().to(rows.dtype), rest["bias"]
        )

    monkeypatch.setattr(linear_int8, "int8_matmul", pretend)
    checks = verdicts(observed(activation, arm(tiny_model, QMM)), QMM)
    assert {check.status for check in checks.values()} == {Status.NOT_COMPARABLE}
    assert "dispatched none of the kernels" in checks["transformer.kernels"].message


def test_a_component_without_a_quantized_layer_fails_on_every_level_but_the_flag(tiny_model: Path) -> None:
    of = arm(tiny_model, QMM)
    plain = arm(tiny_model, "bf16").pipe.transformer
    plain.quantization_config = of.pipe.transformer.quantization_config
    of.pipe.transformer = plain
    checks = verdicts(observed(activation, of), QMM)
    assert failed(checks) == {"transformer.layers", "transformer.weights", "transformer.kernels"}
    assert "no layer is quantized" in checks["transformer.kernels"].message


def test_double_quantization_that_is_off_fails(tiny_model: Path, tmp_path: Path) -> None:
    text = find_recipe(NF4).path.read_text(encoding="utf-8")
    path = tmp_path / "off.toml"
    path.write_text(text.replace("double_quant = true", "double_quant = false"), encoding="utf-8")
    of = arm(tiny_model, path)
    for component in COMPONENTS:
        getattr(of.pipe, component).config.quantization_config.bnb_4bit_use_double_quant = True
    checks = verdicts(observed(activation, replace(of, recipe=find_recipe(NF4))), NF4)
    assert failed(checks) == {f"{component}.weights" for component in COMPONENTS}
    assert "13 of 13 layers store something else" in checks["transformer.weights"].message
    assert "double_quant False, not True" in checks["transformer.weights"].message


def test_int8_in_an_arm_that_should_dequantize_fails(tiny_model: Path) -> None:
    of = replace(arm(tiny_model, QMM), recipe=find_recipe(DEQUANT))
    checks = verdicts(observed(activation, of), DEQUANT)
    assert failed(checks) == {
        f"{component}.{level}" for component in COMPONENTS for level in ("flag", "layers", "kernels")
    }
    assert "ran a quantized kernel, and the recipe wants none" in checks["pe.kernels"].message


def test_a_short_prompt_makes_the_text_encoder_fall_back_and_fail(tiny_model: Path) -> None:
    def draw(pipe: Any) -> None:
        run(pipe)
        call(pipe.text_encoder, tokens=20)

    checks = verdicts(observed(activation, arm(tiny_model, QMM), draw), QMM)
    assert failed(checks) == {"text_encoder.kernels"}
    assert "of 3 calls 1 few_rows" in checks["text_encoder.kernels"].message


def test_a_component_that_was_never_called_is_not_comparable(tiny_model: Path) -> None:
    def draw(pipe: Any) -> None:
        call(pipe.pe)
        call(pipe.transformer)

    checks = verdicts(observed(activation, arm(tiny_model, QMM), draw), QMM)
    assert failed(checks) == {"text_encoder.kernels"}
    assert checks["text_encoder.kernels"].status is Status.NOT_COMPARABLE
    assert "7 of 7 layers were not exercised" in checks["text_encoder.kernels"].message


def write(pipe: Any) -> None:
    """Four tokens from the prompt enhancer, with a cache, as `use_pe` does."""
    ids = torch.arange(3, 43)[None]
    pipe.pe.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, min_new_tokens=4)


@pytest.mark.parametrize("writes", [False, True])
def test_a_prompt_enhancer_is_exercised_where_no_call_of_it_can_be_repeated(
    tiny_model: Path, writes: bool
) -> None:
    def draw(pipe: Any) -> None:
        call(pipe.text_encoder)
        call(pipe.transformer)
        if writes:
            write(pipe)

    checks = verdicts(observed(activation, arm(tiny_model, QMM), draw), QMM)
    assert failed(checks) == set()
    # prefill and three tokens, the suite's own calls; or the exercise alone
    kernels, allowed = (7, "; allowed: 21 decoding") if writes else (7, "")
    assert checks["pe.kernels"].message.startswith(f"pe: 7 of {28 if writes else 7} calls")
    assert checks["pe.kernels"].measured == kernels
    assert checks["pe.kernels"].message.endswith(f"(aten::_int_mm){allowed}")


def test_hooks_are_gone_where_drawing_fails(tiny_model: Path) -> None:
    of = arm(tiny_model, QMM)
    measuring = activation.measure(of)
    next(measuring)
    with suppress(RuntimeError):
        measuring.throw(RuntimeError("out of memory"))
    measuring.close()
    for component in COMPONENTS:
        modules = getattr(of.pipe, component).modules()
        assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in modules)


def test_a_probe_that_does_not_know_the_release_accuses_nobody(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sdnq, "_KERNEL_OPS", frozenset({"sdnq::renamed_mm"}))
    checks = verdicts(observed(activation, arm(tiny_model, QMM)), QMM)
    assert {check.status for check in checks.values()} == {Status.NOT_COMPARABLE}
    assert "the probe does not know sdnq" in checks["transformer.kernels"].message


def test_a_pipeline_without_the_component_fails(tiny_model: Path) -> None:
    of = arm(tiny_model, QMM)
    of.pipe.pe = None
    checks = verdicts(
        observed(activation, of, lambda pipe: [call(pipe.text_encoder), call(pipe.transformer)]), QMM
    )
    assert failed(checks) == {f"pe.{level}" for level in LEVELS}
    assert "the pipeline has none" in checks["pe.flag"].message


def test_bf16_has_nothing_to_activate(tiny_model: Path) -> None:
    checks = verdicts(observed(activation, arm(tiny_model, "bf16")), "bf16")
    assert [check.status for check in checks.values()] == [Status.NOT_APPLICABLE]


def test_a_record_of_another_recipe_says_nothing(records: dict[str, Record]) -> None:
    for checks in (
        verdicts(records[NF4], QMM),
        verdicts(replace(records[QMM], figures={}), QMM),
    ):
        assert {check.status for check in checks.values()} == {Status.NOT_COMPARABLE}
        assert "observe recipe sdnq-uint4-static again" in checks["pe.flag"].message


STATE = LayerState("to_q", (64, 64), True, True, "", 4, 2048, 0, 0, {}, {}, {})


@pytest.mark.parametrize(
    ("calls", "allowed", "status"),
    [
        (Calls("to_q", 3, 3, {}, 1, {"aten::_int_mm": 1}), (), "pass"),
        (Calls("to_q", 3, 2, {"few_rows": 1}, 1, {"aten::_int_mm": 1}), (), "fail"),
        (Calls("to_q", 3, 2, {"few_rows": 1}, 1, {"aten::_int_mm": 1}), ("few_rows",), "pass"),
        (Calls("to_q", 3, 0, {"few_rows": 3}, 0, {}), ("few_rows",), "not_comparable"),
        (Calls("to_q", 3, 0, {"decoding": 3}, 0, {}), ("few_rows",), "not_comparable"),
        (Calls("to_q", 3, 1, {"decoding": 2}, 1, {"aten::_int_mm": 1}), ("decoding",), "pass"),
        (Calls("to_q", 3, 0, {"decoding": 3}, 0, {}), ("decoding",), "fail"),
        (Calls("to_q", 3, 2, {"few_rows": 1}, 1, {"aten::_int_mm": 1}), ("decoding",), "fail"),
        (Calls("to_q", 3, 2, {"forward": 1}, 1, {"aten::_int_mm": 1}), ("few_rows", "idle"), "fail"),
        (Calls("to_q", 3, 2, {"no_kernel": 1}, 1, {"aten::_int_mm": 1}), (), "fail"),
        (Calls("to_q", 0, 0, {}, -1, {}), (), "not_comparable"),
        (Calls("to_q", 0, 0, {}, -1, {}), ("few_rows",), "not_comparable"),
        (Calls("to_q", 0, 0, {}, -1, {}), ("idle",), "not_comparable"),
        (Calls("to_q", 3, 0, {"few_rows": 3}, 0, {}), ("idle",), "fail"),
        (Calls("to_q", 3, 3, {}, 1, {}), (), "fail"),
        (Calls("to_q", 3, 3, {}, -1, {}), (), "not_comparable"),
    ],
)
def test_what_each_allowance_excuses(calls: Calls, allowed: tuple[str, ...], status: str) -> None:
    allowances = tuple(Allowance("transformer.to_*", when, "because") for when in allowed)
    recipe = replace(find_recipe(QMM), allowances=allowances)
    assert activation._kernels("transformer", [STATE], [calls], recipe, "small").status == status
    # an allowance is for the layers it names
    elsewhere = tuple(Allowance("pe.*", when, "because") for when in allowed)
    strict = replace(recipe, allowances=elsewhere)
    check = activation._kernels("transformer", [STATE], [calls], strict, "small")
    assert (check.status == Status.PASS) == (status == "pass" and not allowed)


def test_an_allowance_holds_for_the_suites_that_it_names() -> None:
    calls = [Calls("to_q", 3, 2, {"few_rows": 1}, 1, {"aten::_int_mm": 1})]
    for named, expected in (((), "pass"), (("small", "other"), "pass"), (("other",), "fail")):
        allowance = Allowance("transformer.*", "few_rows", "because", named)
        recipe = replace(find_recipe(QMM), allowances=(allowance,))
        assert activation._kernels("transformer", [STATE], calls, recipe, "small").status == expected


def test_a_layer_that_was_quantized_against_the_recipe_is_not_left_alone() -> None:
    excluded = replace(STATE, name="to_k", excluded="its list names it")
    states = [STATE, excluded, replace(excluded, name="to_v", quantized=False)]
    check = activation._layers("transformer", states)
    assert check.message == "transformer: 2 layers set up as the recipe says, 1 left alone"


@pytest.mark.parametrize("reason", ["few_rows", "decoding"])
def test_a_layer_may_be_excused_where_another_ran_the_kernel(reason: str) -> None:
    recipe = replace(find_recipe(QMM), allowances=(Allowance("transformer.to_q", "few_rows", "because"),))
    states = [STATE, replace(STATE, name="to_k")]
    ran = Calls("to_k", 3, 3, {}, 1, {"aten::_int_mm": 1})
    calls = [Calls("to_q", 3, 0, {reason: 3}, 0, {}), ran]
    check = activation._kernels("transformer", states, calls, recipe, "small")
    assert check.status is Status.PASS


def test_a_component_in_which_no_call_ran_the_kernel_never_passes() -> None:
    allowances = (
        Allowance("transformer.to_q", "few_rows", "because"),
        Allowance("transformer.to_k", "idle", "because"),
    )
    states = [STATE, replace(STATE, name="to_k")]
    calls = [Calls("to_q", 3, 0, {"few_rows": 3}, 0, {}), Calls("to_k", 0, 0, {}, -1, {})]
    recipe = replace(find_recipe(QMM), allowances=allowances)
    check = activation._kernels("transformer", states, calls, recipe, "small")
    assert check.status is Status.NOT_COMPARABLE
    assert "no call ran the quantized kernel" in check.message
    # a recipe that wants no kernel is satisfied with none
    wanting_none = [replace(state, kernel=False) for state in states]
    calls[0] = Calls("to_q", 3, 0, {"dequantized": 3}, 0, {})
    assert activation._kernels("transformer", wanting_none, calls, recipe, "small").status is Status.PASS


def test_an_empty_negative_prompt_hides_no_longer_prompt(tiny_model: Path) -> None:
    """With guidance the pipeline encodes the prompt, then the empty negative one: one token."""

    def draw(pipe: Any) -> None:
        run(pipe)
        call(pipe.text_encoder)
        call(pipe.text_encoder, tokens=1)

    recipe = find_recipe(QMM)
    short = Allowance("text_encoder.*", "few_rows", "the negative prompt is empty")
    of = replace(arm(tiny_model, QMM), recipe=replace(recipe, allowances=(*recipe.allowances, short)))
    checks = verdicts(observed(activation, of, draw), of.recipe)
    assert failed(checks) == set()
    assert "(aten::_int_mm)" in checks["text_encoder.kernels"].message


def test_the_largest_call_is_repeated_and_the_later_of_two_as_large(tiny_model: Path) -> None:
    pe = arm(tiny_model, QMM).pipe.pe
    repeated = []
    with sdnq.watch(pe) as watch, torch.no_grad():
        for first, tokens in ((3, 40), (4, 50), (5, 50), (6, 33)):
            pe(input_ids=torch.full((1, tokens), first), use_cache=False)
        pe.register_forward_pre_hook(
            lambda _, args, kwargs: repeated.append(kwargs["input_ids"]), with_kwargs=True
        )
        assert watch.replay()
    assert [ids.tolist() for ids in repeated] == [[[5] * 50]]


@pytest.mark.parametrize("writes", [False, True])
def test_a_prompt_enhancer_that_cannot_be_exercised_is_not_comparable(tiny_model: Path, writes: bool) -> None:
    of = arm(tiny_model, QMM)
    of.pipe.pe_tokenizer = None

    def draw(pipe: Any) -> None:
        call(pipe.text_encoder)
        call(pipe.transformer)
        if writes:
            write(pipe)

    checks = verdicts(observed(activation, of, draw), QMM)
    assert failed(checks) == {"pe.kernels"}
    assert checks["pe.kernels"].status is Status.NOT_COMPARABLE
    said = "none could be repeated" if writes else "7 of 7 layers were not exercised"
    assert said in checks["pe.kernels"].message
