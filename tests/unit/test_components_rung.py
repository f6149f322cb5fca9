"""The components rung on real pipelines: honest ones, and one part damaged at a time."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ernie_qa.faults.inputs import calling
from ernie_qa.judge import judge
from ernie_qa.observe import observe
from ernie_qa.pipeline import load_pipeline
from ernie_qa.recipe import Recipe, find_recipe
from ernie_qa.record import Record
from ernie_qa.regression import tracked
from ernie_qa.report.components import explained, parts
from ernie_qa.rungs import components, rungs
from ernie_qa.suite import Suite, find_suite
from ernie_qa.verdict import Check, Status


@pytest.fixture(scope="module")
def suite(small_suite: Path) -> Suite:
    return find_suite(small_suite)


@pytest.fixture(scope="module")
def bf16(tiny_model: Path, suite: Suite) -> Record:
    return observe(load_pipeline(tiny_model, "bf16", "cpu"), "bf16", suite)


@pytest.fixture(scope="module")
def int8(write_recipe: Callable[[str, float], Path]) -> Recipe:
    return find_recipe(write_recipe("mine", 1.0))


def fed(model: Path, recipe: Recipe | str, suite: Suite, bf16: Record | None, harm: Any = None) -> Record:
    """What is recorded of a pipeline after `harm`, all rungs measured."""
    pipe = load_pipeline(model, recipe, "cpu")
    if harm:
        with torch.no_grad():
            harm(pipe)
    return observe(pipe, recipe, suite, reference=bf16, all_rungs=True)


def checks(record: Record, bf16: Record | None, recipe: Recipe | str) -> dict[str, Check]:
    """The rung's checks, by label."""
    return {one.label: one for one in judge(record, bf16, recipe).checks if one.rung == components.NAME}


def test_it_stands_between_activation_and_images() -> None:
    names = [rung.NAME for rung in rungs()]
    assert names[1:4] == ["activation", "components", "images"]


def test_bf16_fed_its_own_inputs_is_bf16_to_the_bit(tiny_model: Path, suite: Suite, bf16: Record) -> None:
    assert bf16.trajectories is not None
    record = fed(tiny_model, "bf16", suite, bf16)
    figures = record.figures[components.NAME]
    assert {name: value for name, (value, _) in components.values(figures).items()} == {
        name: pytest.approx(1.0) if name.endswith(("cosine_min", "top1")) else 0.0
        for name in components.MEASURES
    }
    found = checks(record, bf16, "bf16")
    assert {one.status for one in found.values()} == {Status.PASS, Status.NOT_APPLICABLE}
    assert "to the bit" in found["components.vae_l2[vae]"].message
    # what was fed leaves nothing behind
    assert record.pictures == bf16.pictures


def test_a_quantized_transformer_is_off_and_nothing_else_is(
    tiny_model: Path, suite: Suite, bf16: Record, int8: Recipe
) -> None:
    figures = fed(tiny_model, int8, suite, bf16).figures[components.NAME]
    found = {name: value for name, (value, _) in components.values(figures).items()}
    assert 0 < found["transformer_l2_mean"] <= found["transformer_l2_max"] < 0.2
    assert 0 < found["transformer_layer_l2_max"] < 0.05
    assert (found["text_encoder_l2_max"], found["pe_kl_max"], found["pe_layer_l2_max"]) == (0.0, 0.0, 0.0)
    assert [len(curve) for curve in figures["transformer"]["curve"].values()] == [suite.steps] * 2


def test_guidance_is_fed_both_prompts(tiny_model: Path, suite: Suite, int8: Recipe) -> None:
    guided = replace(suite, guidance=4.0)
    reference = observe(load_pipeline(tiny_model, "bf16", "cpu"), "bf16", guided)
    figures = fed(tiny_model, "bf16", guided, reference).figures[components.NAME]
    assert (figures["transformer"]["l2_max"], figures["text_encoder"]["l2_max"]) == (0.0, 0.0)
    assert figures["missing"] == ()
    assert all(figures["vae"][case]["identical"] for case in figures["cases"])


def test_what_the_prompt_enhancer_wrote_is_what_it_is_compared_on(tiny_model: Path, suite: Suite) -> None:
    def short(pipe: Any) -> None:
        pipe.pe_tokenizer.model_max_length = 6

    writing = replace(suite, use_pe=True)
    pipe = load_pipeline(tiny_model, "bf16", "cpu")
    short(pipe)
    reference = observe(pipe, "bf16", writing)
    figures = fed(tiny_model, "bf16", writing, reference, short).figures[components.NAME]
    assert figures["pe"]["text"] == "written by BF16"
    assert (figures["pe"]["kl_max"], figures["pe"]["top1"]) == (0.0, 1.0)
    assert figures["transformer"]["l2_max"] == 0.0


def scaled(part: str, layer: str, factor: float) -> Callable[[Any], None]:
    return lambda pipe: getattr(pipe, part).get_submodule(layer).weight.mul_(factor)


def other_shift(pipe: Any) -> None:
    pipe.scheduler = type(pipe.scheduler)(shift=5.0)


def other_words(pipe: Any) -> None:
    pipe.tokenizer.add_tokens(["poster"])


def not_a_number(pipe: Any) -> None:
    pipe.transformer.time_embedding.linear_1.weight[0, 0] = float("nan")


@pytest.mark.parametrize(
    ("harm", "label", "said"),
    [
        (other_shift, "components.scheduler[scheduler]", "sigmas from number"),
        (other_words, "components.tokenizers[tokenizer]", "other ids than BF16's in one, two"),
        (scaled("vae", "decoder.conv_in", 1.1), "components.vae_l2[vae]", "compare its weights"),
    ],
)
def test_what_no_recipe_touches_must_be_bf16s(
    tiny_model: Path, suite: Suite, bf16: Record, int8: Recipe, harm: Any, label: str, said: str
) -> None:
    found = checks(fed(tiny_model, int8, suite, bf16, harm), bf16, int8)
    failed = [one for one in found.values() if one.status is Status.FAIL]
    assert [one.label for one in failed] == [label]
    assert said in failed[0].message


LIMITED = """
[gates.small.limits."components.{name}"]
{bound} = {value}
source = "chosen for this test"
"""


@pytest.mark.parametrize(
    ("harm", "name", "bound", "value", "said"),
    [
        (None, "transformer_l2_max", "max", 0.2, ""),
        (not_a_number, "transformer_l2_max", "max", 0.2, "not finite"),
        (scaled("pe", "model.layers.0.mlp.up_proj", 3.0), "pe_kl_mean", "max", 1e-9, "mlp.up_proj"),
        (
            scaled("text_encoder", "language_model.layers.0.self_attn.o_proj", 1.05),
            "text_encoder_layer_gain_max",
            "max",
            0.01,
            "self_attn.o_proj",
        ),
    ],
)
def test_a_limit_names_the_layer(
    tiny_model: Path,
    suite: Suite,
    bf16: Record,
    int8: Recipe,
    tmp_path: Path,
    harm: Any,
    name: str,
    bound: str,
    value: float,
    said: str,
) -> None:
    path = tmp_path / "limited.toml"
    path.write_text(int8.path.read_text() + LIMITED.format(name=name, bound=bound, value=value))
    recipe = find_recipe(path)
    check = next(
        one
        for one in checks(fed(tiny_model, recipe, suite, bf16, harm), bf16, recipe).values()
        if one.name == f"components.{name}"
    )
    assert check.status is (Status.FAIL if said else Status.PASS), check.message
    assert ("`ernie-qa explain DIR/limited` ranks" in check.message) is bool(said)
    assert said in check.message


def test_without_what_bf16_was_fed_nothing_passes(
    tiny_model: Path, suite: Suite, bf16: Record, int8: Recipe, tmp_path: Path
) -> None:
    path = tmp_path / "limited.toml"
    limit = LIMITED.format(name="transformer_l2_max", bound="max", value=1)
    path.write_text(int8.path.read_text() + limit)
    recipe = find_recipe(path)
    for reference, said in (
        (None, "observed without a reference"),
        (replace(bf16, trajectories=None), "holds no trajectories"),
    ):
        (check,) = checks(fed(tiny_model, recipe, suite, reference), reference, recipe).values()
        assert (check.status, check.required) == (Status.NOT_COMPARABLE, True)
        assert said in check.message
    before = replace(fed(tiny_model, recipe, suite, bf16), figures={})
    (check,) = checks(before, bf16, recipe).values()
    assert check.status is Status.NOT_COMPARABLE


def test_no_case_is_no_measurement(tiny_model: Path, suite: Suite, int8: Recipe) -> None:
    record = observe(load_pipeline(tiny_model, "bf16", "cpu"), "bf16", suite, teacher_cases=0)
    assert record.trajectories is None
    found = fed(tiny_model, int8, suite, record).figures[components.NAME]
    assert found["reference"] is None


def test_figures_are_held_on_to_with_the_cases_in_their_definition(
    tiny_model: Path, suite: Suite, bf16: Record, int8: Recipe
) -> None:
    record = fed(tiny_model, int8, suite, bf16)
    found = tracked(record, None)["components.transformer_l2_max"]
    assert found.value == record.figures[components.NAME]["transformer"]["l2_max"]
    assert found.definition.endswith("of one, two")
    assert not [name for name in tracked(bf16, None) if name.startswith("components.")]


def test_what_a_person_reads(tiny_model: Path, suite: Suite, bf16: Record, int8: Recipe) -> None:
    record = fed(tiny_model, int8, suite, bf16)
    shown = "\n".join(parts(record.figures[components.NAME]))
    assert re.search(r"^vae +identical$", shown, re.MULTILINE)
    assert "ids as in BF16" in shown
    assert "relative error of each step" in shown
    lines = list(explained(record))
    at = next(at for at, line in enumerate(lines) if line.startswith("transformer, by relative error"))
    errors = [float(line.split()[1]) for line in lines[at + 1 : at + 6]]
    assert errors == sorted(errors, reverse=True)
    assert next(iter(explained(bf16))) == "bf16 on tiny, suite small"
    assert "no layer was compared" in list(explained(bf16))[1]


def test_a_text_encoder_that_is_never_called_fails_the_calls(
    tiny_model: Path, suite: Suite, bf16: Record
) -> None:
    def remembered(pipe: Any) -> None:
        encode, known = pipe.encode_prompt, {}
        for case in suite.cases:
            known[case.prompt] = encode(case.prompt, pipe._execution_device, 1)
        pipe.encode_prompt = lambda prompt, *_, **__: known[prompt if isinstance(prompt, str) else prompt[0]]

    record = fed(tiny_model, "bf16", suite, bf16, remembered)
    found = checks(record, bf16, "bf16")
    assert found["components.calls"].status is Status.FAIL
    assert "text_encoder: called 0 times" in found["components.calls"].message
    assert record.figures[components.NAME]["text_encoder"] is None
    assert "transformer" in "\n".join(parts(record.figures[components.NAME]))


def test_somebodys_own_decode_and_step_are_called_through(
    tiny_model: Path, suite: Suite, bf16: Record
) -> None:
    called = []

    def wrap(owner: Any, name: str) -> None:
        function = getattr(owner, name)

        def own(*args: Any, **kwargs: Any) -> Any:
            called.append(name)
            return function(*args, **kwargs)

        setattr(owner, name, own)

    def wrapped(pipe: Any) -> None:
        wrap(pipe.vae, "decode")
        wrap(pipe.scheduler, "step")

    record = fed(tiny_model, "bf16", suite, bf16, wrapped)
    assert {check.status for check in checks(record, bf16, "bf16").values()} <= {
        Status.PASS,
        Status.NOT_APPLICABLE,
    }
    assert {"decode", "step"} == set(called)
    # and recorded through
    again = fed(tiny_model, "bf16", suite, None, wrapped)
    assert again.trajectories == bf16.trajectories


def test_parts_of_another_dtype_are_measured(tiny_model: Path, suite: Suite, bf16: Record) -> None:
    def single(pipe: Any) -> None:
        for part in ("text_encoder", "transformer", "pe", "vae"):
            getattr(pipe, part).float()

    record = fed(tiny_model, "bf16", suite, bf16, single)
    found = {name: value for name, (value, _) in components.values(record.figures[components.NAME]).items()}
    assert 0 < found["transformer_l2_max"] < 0.05
    assert 0 < found["transformer_layer_l2_max"] < 0.05


def test_explain_says_why_an_arm_that_ended_shows_nothing(
    tiny_model: Path, suite: Suite, bf16: Record, int8: Recipe
) -> None:
    record = observe(load_pipeline(tiny_model, "bf16", "cpu"), int8, suite, reference=bf16)
    assert record.ended is not None
    told = "\n".join(explained(record))
    assert f"the arm ended at {record.ended.rung}: {record.ended.check}" in told
    assert "observe it again" not in told


def strong_latents(pipe: Any) -> None:
    calling(pipe, latents=lambda given: given * 1.03)


def last_step(pipe: Any) -> None:
    step = pipe.scheduler.step

    def longer(model_output: Any, timestep: Any, sample: Any) -> Any:
        last = timestep == pipe.scheduler.timesteps[-1]
        return step(model_output * (1.1 if last else 1.0), timestep, sample)

    pipe.scheduler.step = longer


def strong_states(pipe: Any) -> None:
    def stronger(_: Any, fed: Any, given: Any) -> Any:
        given.hidden_states = tuple(states * 1.03 for states in given.hidden_states)
        return given

    pipe.text_encoder.register_forward_hook(stronger)


def other_text(pipe: Any) -> None:
    encode = pipe.encode_prompt
    pipe.encode_prompt = lambda *args, **options: [one * 1.03 for one in encode(*args, **options)]


def rounded_before_decoding(pipe: Any) -> None:
    decode = pipe.vae.decode
    pipe.vae.decode = lambda z, **options: decode((z * 4).round() / 4, **options)


def other_statistics(pipe: Any) -> None:
    unpatchify = pipe._unpatchify_latents
    pipe._unpatchify_latents = lambda latents: unpatchify(latents) * 1.03


@pytest.mark.parametrize(
    ("harm", "label", "said"),
    [
        (strong_latents, "components.fed[transformer]", "fed other latents than BF16's, in call 1"),
        (last_step, "components.scheduler[scheduler]", "its step 2 by"),
        (strong_states, "components.fed[text_encoder]", "gave other states than its layers made"),
        (other_text, "components.fed[transformer]", "fed other text states than the text encoder gave"),
        (rounded_before_decoding, "components.fed[vae]", "decoded other latents than it was fed"),
        (other_statistics, "components.fed[vae]", "fed other latents than BF16's"),
        (lambda pipe: calling(pipe, prompt=str.upper), "components.fed[text_encoder]", "fed other ids"),
    ],
)
def test_what_a_pipeline_does_between_its_parts_is_seen(
    tiny_model: Path, suite: Suite, bf16: Record, harm: Any, label: str, said: str
) -> None:
    found = checks(fed(tiny_model, "bf16", suite, bf16, harm), bf16, "bf16")
    failed = {one.label: one.message for one in found.values() if one.status is Status.FAIL}
    assert said in failed[label]


def test_latents_that_are_rounded_otherwise_are_no_fault(
    tiny_model: Path, suite: Suite, bf16: Record
) -> None:
    def turned(given: Any) -> Any:
        return (given.view(torch.int16) ^ 1).view(given.dtype)

    record = fed(tiny_model, "bf16", suite, bf16, lambda pipe: calling(pipe, latents=turned))
    assert all(one.status is not Status.FAIL for one in checks(record, bf16, "bf16").values())
    before = dict(record.figures[components.NAME])
    del before["fed"]
    older = replace(record, figures={components.NAME: before})
    assert checks(older, bf16, "bf16")["components.fed"].status is Status.NOT_COMPARABLE
