"""Observing a picture at a time: what is counted, and what is timed without counting."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from ernie_qa.judge import judge
from ernie_qa.observe import Observation, arm_of, observe
from ernie_qa.pipeline import load_pipeline
from ernie_qa.quantizers import Calls
from ernie_qa.quantizers.layers import ungrouped
from ernie_qa.recipe import find_recipe
from ernie_qa.record import load_record
from ernie_qa.rungs import activation
from ernie_qa.suite import find_suite
from ernie_qa.verdict import Status


def hooks(observation: Observation) -> int:
    """How many quantized layers of the transformer are watched right now."""
    layers = observation.arm.pipe.transformer.modules()
    return sum(bool(layer._forward_hooks) for layer in layers if hasattr(layer, "sdnq_dequantizer"))


def test_a_steady_picture_is_drawn_unwatched_after_one_step_that_was_counted(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, small_suite: Path
) -> None:
    # as on a GPU
    monkeypatch.setattr(Observation, "_steady", property(lambda self: bool(self.drawn)))
    # three components, whose watches wrap the same function
    recipe, suite = find_recipe("sdnq-int8"), find_suite(small_suite)
    pipe = load_pipeline(tiny_model, recipe, "cpu")
    kernels = import_module("sdnq.layers.linear.linear_int8")
    original = kernels.int8_matmul
    watched: list[tuple[bool, bool]] = []
    pipe.vae.decoder.register_forward_hook(
        lambda *_: watched.append((hooks(observation) > 0, kernels.int8_matmul is not original))
    )
    observation = Observation(arm_of(pipe, recipe, suite))
    while observation.left:
        observation.warm_up()
        observation.draw()
    # the first picture, the one step of the second, and the second
    assert watched == [(True, True), (True, True), (False, False)]
    assert hooks(observation) > 0
    record = observation.finish()
    assert hooks(observation) == 0
    assert kernels.int8_matmul is original
    calls = ungrouped(Calls, record.figures[activation.NAME]["components"]["transformer"]["calls"])
    assert {one.total for one in calls} == {suite.steps + 1}
    assert not [
        check for check in judge(record, None, recipe).of(Status.FAIL) if check.rung == activation.NAME
    ]


def test_a_picture_that_breaks_off_leaves_the_watches_on_and_closing_takes_them(
    monkeypatch: pytest.MonkeyPatch,
    tiny_model: Path,
    small_suite: Path,
    write_recipe: Callable[[str, float], Path],
) -> None:
    monkeypatch.setattr(Observation, "_steady", property(lambda self: bool(self.drawn)))
    recipe = find_recipe(write_recipe("mine", 1.0))
    pipe = load_pipeline(tiny_model, recipe, "cpu")
    observation = Observation(arm_of(pipe, recipe, small_suite))
    observation.draw()

    def broken(*_: object) -> None:
        raise RuntimeError("no more")

    hook = pipe.vae.decoder.register_forward_hook(broken)
    with pytest.raises(RuntimeError, match="no more"):
        observation.draw()
    assert hooks(observation) > 0
    observation.close()
    hook.remove()
    assert hooks(observation) == 0


def test_a_required_check_that_fails_ends_the_arm_before_a_picture(
    tiny_model: Path, small_suite: Path, write_recipe: Callable[[str, float], Path]
) -> None:
    recipe = find_recipe(write_recipe("mine", 1.0))
    # in BF16, though the recipe quantizes its transformer
    arm = arm_of(load_pipeline(tiny_model, "bf16", "cpu"), recipe, small_suite)
    observation = Observation(arm)
    assert (observation.left, observation.ended is not None) == ((), True)
    record = observation.finish()
    assert (list(record.figures), record.pictures) == (["package"], ())
    verdict = judge(record, None, recipe)
    assert verdict.status is Status.FAIL
    told = {check.label: check.message for check in verdict.checks}
    said = "not measured: the arm ended at package: package.layers[transformer]"
    for rung in ("activation", "components", "images", "text", "cost"):
        assert told[f"{rung}.measured"] == said
    # all the same, if somebody wants to see it
    whole = Observation(arm_of(arm.pipe, recipe, small_suite), all_rungs=True)
    assert (len(whole.left), whole.ended) == (2, None)
    whole.close()


def test_what_is_waived_or_informational_ends_nothing(
    tiny_model: Path, small_suite: Path, write_recipe: Callable[[str, float], Path], tmp_path: Path
) -> None:
    text = write_recipe("mine", 1.0).read_text()
    (tmp_path / "waived.toml").write_text(
        text + '\n[gates.small]\ninformational = ["package.layers", "package.bytes"]\n'
        '[[gates.small.waivers]]\ncheck = "activation.layers"\nreason = "a test"\nuntil = 2999-01-01\n'
        '[[gates.small.waivers]]\ncheck = "activation.flag"\nreason = "a test"\nuntil = 2999-01-01\n'
        '[[gates.small.waivers]]\ncheck = "activation.weights"\nreason = "a test"\nuntil = 2999-01-01\n'
    )
    recipe = find_recipe(tmp_path / "waived.toml")
    observation = Observation(arm_of(load_pipeline(tiny_model, "bf16", "cpu"), recipe, small_suite))
    assert observation.ended is None
    observation.close()


def test_an_unsound_reference_does_not_end_a_sound_arm(
    tiny_model: Path, small_suite: Path, write_recipe: Callable[[str, float], Path]
) -> None:
    import torch

    damaged = load_pipeline(tiny_model, "bf16", "cpu")
    with torch.no_grad():
        next(damaged.vae.parameters()).mul_(1.5)
    reference = observe(damaged, "bf16", small_suite, all_rungs=True)
    recipe = find_recipe(write_recipe("mine", 1.0))
    pipe = load_pipeline(tiny_model, recipe, "cpu")
    record = observe(pipe, recipe, small_suite, reference=reference)
    assert record.ended is None
    verdict = judge(record, reference, recipe)
    assert verdict.status is Status.NOT_COMPARABLE
    assert "reference.sound" in {check.name for check in verdict.of(Status.NOT_COMPARABLE)}


def test_no_picture_stays_in_memory(tiny_model: Path, small_suite: Path, tmp_path: Path) -> None:
    observation = Observation(arm_of(load_pipeline(tiny_model, "bf16", "cpu"), "bf16", small_suite))
    try:
        while observation.left:
            observation.draw()
        assert all(isinstance(one.picture, tuple) for one in observation.drawn)
        record = observation.finish()
    finally:
        observation.close()
    assert len(record.pictures) == len(observation.drawn)
    record.save(tmp_path / "record")
    stored = load_record(tmp_path / "record")
    assert not [one.case for one in (*record.pictures, *stored.pictures) if isinstance(one._png, bytes)]
    for drawn, picture, read in zip(observation.drawn, record.pictures, stored.pictures, strict=True):
        assert np.array_equal(drawn.pixels, picture.pixels())
        assert read.png == picture.png
