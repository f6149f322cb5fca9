"""Drawing on the tiny pipeline: what is timed, which words are drawn, and that nothing is left behind."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ernie_qa.drawing import draw
from ernie_qa.errors import InputError
from ernie_qa.observe import observe
from ernie_qa.pipeline import load_pipeline
from ernie_qa.rungs import cost
from ernie_qa.suite import Suite, find_suite

TOKENS = 6
"""How many the prompt enhancer may write here: the tokenizer's own limit takes seconds."""


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> Any:
    live: Any = load_pipeline(tiny_model, "bf16", "cpu")
    live.pe_tokenizer.model_max_length = TOKENS
    return live


@pytest.fixture
def suite(small_suite: Path) -> Suite:
    """One case, without the prompt enhancer."""
    whole = find_suite(small_suite)
    return replace(whole, cases=whole.cases[:1])


@pytest.fixture
def writing(suite: Suite) -> Suite:
    """The same with the prompt enhancer."""
    return replace(suite, use_pe=True)


@contextmanager
def calls(module: Any) -> Iterator[list[list[int]]]:
    """The token ids that each call of a language model is given meanwhile."""
    seen: list[list[int]] = []

    def note(_: Any, args: Any, given: dict[str, Any]) -> None:
        seen.append(given["input_ids"][0].tolist())

    hook = module.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


def words(pipe: Any, ids: list[int]) -> str:
    text: str = pipe.tokenizer.decode(ids, skip_special_tokens=True)
    return text


def assert_untouched(pipe: Any) -> None:
    for name in ("pe", "text_encoder", "transformer"):
        module = getattr(pipe, name)
        assert not module._forward_pre_hooks
        assert not module._forward_hooks
        assert not module._forward_hooks_always_called
    assert not pipe.vae.decoder._forward_hooks
    assert "decode" not in vars(pipe.vae)


# time


def test_every_stage_is_timed_and_all_of_them_fit_into_the_picture(pipe: Any, suite: Suite) -> None:
    drawn = draw(pipe, suite.cases[0], suite)
    assert list(drawn.stages) == ["text_encoder", "transformer", "vae"]
    assert all(seconds > 0 for seconds in drawn.stages.values())
    assert sum(drawn.stages.values()) <= drawn.seconds
    assert (drawn.enhanced, drawn.compiled) == (None, None)
    assert (drawn.peak["allocated"], drawn.peak["driver"]) == (None, None)
    assert drawn.peak["resident"]


def test_nothing_is_left_on_the_pipeline(pipe: Any, writing: Suite) -> None:
    draw(pipe, writing.cases[0], writing)
    assert_untouched(pipe)


@pytest.mark.parametrize("place", ["transformer", "decoder"])
def test_nothing_is_left_after_an_error_either(pipe: Any, suite: Suite, place: str) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("out of memory")

    module = pipe.transformer if place == "transformer" else pipe.vae.decoder
    hook = module.register_forward_pre_hook(broken)
    try:
        with pytest.raises(RuntimeError, match="out of memory"):
            draw(pipe, suite.cases[0], suite)
    finally:
        hook.remove()
    assert_untouched(pipe)
    assert draw(pipe, suite.cases[0], suite).pixels.shape == (64, 64, 3)


# the prompt enhancer


def test_what_the_prompt_enhancer_wrote_is_drawn_and_timed_apart(pipe: Any, writing: Suite) -> None:
    case = writing.cases[0]
    with calls(pipe.pe) as forwards, calls(pipe.text_encoder) as encoded:
        drawn = draw(pipe, case, writing)
    assert drawn.enhanced is not None
    # a forward a token
    assert drawn.enhanced.tokens == len(forwards) == TOKENS
    assert drawn.enhanced.prompt not in ("", case.prompt)
    assert encoded == [pipe.tokenizer(drawn.enhanced.prompt)["input_ids"]]
    rest = sum(seconds for stage, seconds in drawn.stages.items() if stage != "pe")
    assert rest <= drawn.seconds
    assert 0 < drawn.stages["pe"] <= drawn.enhanced.seconds


def test_a_seed_decides_what_is_written(pipe: Any, writing: Suite) -> None:
    case = writing.cases[0]
    one, again, other = (
        draw(pipe, replace(case, seed=seed), writing).enhanced for seed in (case.seed, case.seed, 77)
    )
    assert one is not None
    assert again is not None
    assert other is not None
    assert one.prompt == again.prompt != other.prompt


def test_other_words_are_drawn_where_they_are_given(pipe: Any, writing: Suite) -> None:
    with calls(pipe.pe) as forwards, calls(pipe.text_encoder) as encoded:
        drawn = draw(pipe, writing.cases[0], writing, prompt="a red ground")
    assert [words(pipe, ids) for ids in encoded] == ["a red ground"]
    # it writes all the same: what that costs belongs to the arm
    assert len(forwards) == TOKENS
    assert drawn.enhanced is not None
    assert drawn.enhanced.prompt != "a red ground"


@pytest.mark.parametrize("given", [None, ""], ids=["here", "in BF16"])
def test_an_answer_without_words_leaves_the_prompt_of_the_case(
    pipe: Any, writing: Suite, given: str | None
) -> None:
    def ends(_: Any, args: Any, made: Any) -> None:
        made.logits[..., pipe.pe_tokenizer.eos_token_id] = 1e4

    case = writing.cases[0]
    hook = pipe.pe.register_forward_hook(ends) if given is None else None
    try:
        with calls(pipe.text_encoder) as encoded:
            drawn = draw(pipe, case, writing, prompt=given)
    finally:
        if hook:
            hook.remove()
    assert drawn.enhanced is not None
    if hook:
        assert (drawn.enhanced.prompt, drawn.enhanced.tokens) == ("", 1)
    assert [words(pipe, ids) for ids in encoded] == [case.prompt]


def test_all_arms_draw_what_bf16_wrote(pipe: Any, tiny_model: Path, writing: Suite) -> None:
    reference = observe(pipe, "bf16", writing)
    written = cost.written(reference)
    assert list(written) == [case.id for case in writing.cases]
    other: Any = load_pipeline(tiny_model, "bf16", "cpu")
    # so that it writes something else
    other.pe_tokenizer.model_max_length = TOKENS // 2
    with calls(other.text_encoder) as encoded:
        record = observe(other, "bf16", writing, reference=reference, teacher_cases=0)
    assert [words(other, ids) for ids in encoded] == list(written.values())
    assert cost.written(record) != written
    assert [one.sha256 for one in record.pictures] == [one.sha256 for one in reference.pictures]


# guidance


def test_guidance_draws_with_an_empty_prompt_beside_the_real_one(pipe: Any, suite: Suite) -> None:
    case, guided = suite.cases[0], replace(suite, guidance=4.0)
    with calls(pipe.text_encoder) as encoded:
        drawn = draw(pipe, case, guided)
    assert [words(pipe, ids) for ids in encoded] == [case.prompt, ""]
    assert drawn.nonfinite == 0
    assert sum(drawn.stages.values()) <= drawn.seconds
    assert not np.array_equal(drawn.pixels, draw(pipe, case, suite).pixels)


# offloading


def test_offloading_wants_a_gpu(tiny_model: Path) -> None:
    with pytest.raises(
        InputError, match=r"offloading keeps components out of a GPU's memory; .* cpu"
    ) as told:
        load_pipeline(tiny_model, "bf16", "cpu", offload=True)
    assert "\n" not in str(told.value)
