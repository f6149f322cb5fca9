"""Making a capsule of a published recipe."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_qa import compile_cache
from ernie_qa.capsules.answers import answered, layers_answered
from ernie_qa.capsules.capsule import Capsule, parse_capsule
from ernie_qa.capsules.container import MAX_BYTES, PUBLISHED
from ernie_qa.capsules.parts import counted, exact_int8, parts_of
from ernie_qa.capsules.trimming import first_steps, trimmed
from ernie_qa.drawing import draw
from ernie_qa.errors import CapsuleError, InputError, ModelError
from ernie_qa.fingerprint import take_fingerprint
from ernie_qa.frozen import Frozen, freeze
from ernie_qa.models.artifact import check_artifact, check_sizes_of, check_stored
from ernie_qa.models.find import find_model, vae_scale_factor
from ernie_qa.observe import Observation, arm_of
from ernie_qa.pipeline import load_artifact, load_pipeline, provenance
from ernie_qa.plan import visible_device
from ernie_qa.quantizers import checked_options
from ernie_qa.quiet import hushed
from ernie_qa.recipe import REFERENCE, find_recipe
from ernie_qa.record import load_record
from ernie_qa.replay import replayed
from ernie_qa.rungs.components import CASES
from ernie_qa.rungs.cost import written
from ernie_qa.suite import check_sizes, find_suite
from ernie_qa.teacher import recorded
from ernie_qa.trajectories import Trajectories

if TYPE_CHECKING:
    import torch
    from diffusers import ErnieImagePipeline

    from ernie_qa.models.find import Model
    from ernie_qa.recipe import Recipe
    from ernie_qa.suite import Suite

Progress = Callable[[int, int, str], None]
"""Called with how many steps are done, how many there are, and which one begins."""
STEPS = ("BF16", "loading", "package", "hashing", "feeding", "figures")
"""What an export does, for its progress."""
ROOM = 2 * 10**6
"""Bytes of a capsule that are left to its document and header: hashes, states and figures of 1000 layers."""


@dataclass(frozen=True, slots=True)
class _Teaching:
    """What BF16 was fed and gave, whose `model` that was (None where it is not here), and the suite."""

    trajectories: Trajectories
    suite: Suite
    words: Mapping[str, str]
    model: Model | None
    identity: Any


def export(
    bf16: str,
    recipe: Recipe | str | Path,
    *,
    artifact: str | None = None,
    suite: str | None = None,
    device: str | None = None,
    cases: int = CASES,
    most: int = MAX_BYTES - ROOM,
    progress: Progress = lambda done, total, what: None,
) -> Capsule:
    """A capsule of what `recipe` makes of a model: of `artifact`, or of the BF16 model quantized in memory.

    `bf16` is the directory of BF16's record, as a gate wrote it, or the BF16 model itself, of which `cases`
    cases are then drawn. What the tensors take beyond `most` bytes is left out, what tells least first
    (`ernie_qa.capsules.trimming`), and the capsule says so. ErnieQAError where something is wrong or missing,
    CapsuleError where it cannot be made small enough or what is published is not the model that BF16 is.
    """
    from safetensors.torch import load, save

    wanted, place = find_recipe(recipe), device or visible_device()
    if not wanted.components:
        raise InputError(f"recipe {wanted.name} quantizes nothing: there is nothing to publish beside BF16")
    checked_options(wanted)
    found = None if artifact is None else find_model(artifact)
    if found is not None:
        check_stored(found, wanted)
    compile_cache.keep(place)

    def began(what: str) -> None:
        progress(STEPS.index(what), len(STEPS), what)

    with hushed():
        began("BF16")
        if _is_record(bf16):
            teaching = _recorded(bf16, suite)
            _check_published(bf16, teaching.model, wanted, found)
        else:
            model = find_model(bf16)
            _check_published(bf16, model, wanted, found)
            teaching = _drawn(model, suite, place, cases)
        tape = first_steps(load(teaching.trajectories.content()))
        began("loading")
        if teaching.model is not None:
            pipe = load_pipeline(teaching.model, wanted, place, artifact=found)
        else:
            assert found is not None
            pipe = load_artifact(found, wanted, place)
        origin = provenance(pipe)
        assert origin is not None
        stored = origin.artifact or origin.model
        began("package")
        _must_be_sound(pipe, wanted, teaching.suite)
        began("hashing")
        parts = parts_of(pipe, wanted, stored)
        began("feeding")
        with counted(pipe, parts):
            made = answered(pipe, teaching.suite, tape, teaching.words)
        made |= layers_answered(pipe, tape)
        _must_be_bf16s(tape, made)
        began("figures")
        figures = replayed(
            pipe, teaching.suite, teaching.trajectories, len(tape), teaching.words, lambda case, seconds: None
        )
    published = {
        PUBLISHED + name: tensor
        for name, tensor in made.items()
        if "/scheduler/" not in name and not name.startswith("ids/")
    }
    kept, left_out = trimmed(tape | published, most)
    drawn = tuple(case.id for case in teaching.suite.cases if f"{case.id}/scheduler/sigmas" in kept)
    if sum(name.endswith("/scheduler/sigmas") for name in tape) > len(drawn):
        # shares of calls are compared: those of a case that is not in the capsule must not count
        with hushed(), counted(pipe, parts):
            answered(pipe, teaching.suite, kept, teaching.words)
    capsule = Capsule(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        model=teaching.identity,
        artifact=origin.artifact.identity if origin.artifact else None,
        recipe=wanted,
        suite=teaching.suite,
        cases=drawn,
        words=Frozen({case: teaching.words[case] for case in drawn if case in teaching.words}),
        fingerprint=take_fingerprint(place),
        exact_int8=exact_int8(place),
        parts=Frozen(parts),
        figures=freeze(figures),
        left_out=left_out,
        content=save(kept),
    )
    progress(len(STEPS), len(STEPS), "done")
    # read once more, so that nothing is written that nobody could read
    return parse_capsule(capsule.packed(), "the capsule")


def _check_published(bf16: str, model: Model | None, recipe: Recipe, artifact: Model | None) -> None:
    """All that is wrong with what is published as far as its files say: before anything is drawn."""
    if model is not None:
        check_artifact(model, recipe, artifact, instead=", and this one after it")
        if artifact is not None:
            check_sizes_of(model, artifact)
    elif artifact is None:
        raise InputError(f"{bf16}: a record holds no model: name the published artifact after it")


def _must_be_sound(pipe: ErnieImagePipeline, recipe: Recipe, suite: Suite) -> None:
    """CapsuleError where a gate would refuse what was loaded before it drew anything: it is not what the
    recipe makes."""
    with closing(Observation(arm_of(pipe, recipe, suite))) as loaded:
        if ended := loaded.ended:
            raise CapsuleError(f"what is published is not recipe {recipe.name}: {ended.message}")


def _is_record(text: str) -> bool:
    """Whether it is no model's directory but a record's, or one of several, which `load_record` refuses."""
    place = Path(text)
    if (place / "model_index.json").is_file():
        return False
    return (place / "record.json").is_file() or any(place.glob("*/record.json"))


def _recorded(directory: str, suite: str | None) -> _Teaching:
    """What a record of BF16's holds; its model too, where its name finds it."""
    record = load_record(directory)
    if record.recipe.name != REFERENCE or record.trajectories is None:
        raise InputError(f"{directory}: needed is BF16's record with what its parts were fed: gate again")
    found = find_suite(suite or record.suite.name)
    if found.hash != record.suite.hash:
        raise InputError(f"{directory}: drawn with another suite than {found.path}: name its file, --suite")
    model: Model | None = None
    try:
        name = record.model.name
        model = find_model(f"{name}@{record.model.revision}" if record.model.revision else name, fetch=False)
    except ModelError:
        pass  # a directory somewhere else: the artifact has to do
    if model is not None and model.identity.hash != record.model.hash:
        model = None
    return _Teaching(record.trajectories, found, written(record), model, record.model)


def _drawn(model: Model, suite: str | None, place: str, cases: int) -> _Teaching:
    """Draw the first cases with BF16."""
    wanted = suite or model.suite
    if wanted is None:
        raise InputError(f"{model.path}: no ernie_qa.json here names a suite for this model; say which one")
    if cases < 1:
        raise InputError(f"{cases} cases: needed is 1 or more")
    found = find_suite(wanted)
    check_sizes(found, vae_scale_factor(model), model.name)
    pipe = load_pipeline(model, REFERENCE, place)
    words: dict[str, str] = {}
    if found.use_pe:
        for case in found.cases[:cases]:
            enhanced = draw(pipe, case, found).enhanced
            if enhanced is not None and enhanced.prompt:
                words[case.id] = enhanced.prompt
    trajectories = recorded(pipe, found, cases, words)
    del pipe
    gc.collect()
    if place != "cpu":
        import torch

        torch.cuda.empty_cache()
    return _Teaching(trajectories, found, words, model, model.identity)


def _must_be_bf16s(tape: Mapping[str, torch.Tensor], made: Mapping[str, torch.Tensor]) -> None:
    """CapsuleError where what no recipe touches differs from BF16's: it is no quantization of this model."""
    for name, ours in made.items():
        whole = name.startswith("ids/") or name.endswith(("/sigmas", "/timesteps"))
        if whole and ours.tolist() != tape[name].tolist():
            raise CapsuleError(f"what is published has other {name} than BF16: look at its files")
