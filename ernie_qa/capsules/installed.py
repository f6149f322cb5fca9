"""Checking an install against a capsule: what a model here is and gives, beside what was published."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_qa import compile_cache
from ernie_qa.capsules.answers import answered, layers_answered
from ernie_qa.capsules.capsule import machine_in_words
from ernie_qa.capsules.nearness import same_answers
from ernie_qa.capsules.parts import counted, exact_int8, parts_of
from ernie_qa.capsules.sameness import Finding, lacking, same_kernels, same_parts
from ernie_qa.errors import CapsuleError, InputError, OutOfMemoryError
from ernie_qa.fingerprint import differences, take_fingerprint
from ernie_qa.models.artifact import stored_method
from ernie_qa.models.find import find_model
from ernie_qa.pipeline import load_artifact, load_pipeline, provenance
from ernie_qa.plan import visible_device
from ernie_qa.quiet import hushed
from ernie_qa.recipe import find_recipe
from ernie_qa.verdict import Status, worst

if TYPE_CHECKING:
    import torch
    from diffusers import ErnieImagePipeline

    from ernie_qa.capsules.capsule import Capsule
    from ernie_qa.fingerprint import Fingerprint
    from ernie_qa.models.find import Model
    from ernie_qa.recipe import Recipe


Progress = Callable[[int, int, str], None]
"""Called with how many steps are done, how many there are, and which one begins."""
STEPS = ("loading", "hashing", "feeding", "layers")
"""What a check does, for its progress."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a check came to; `notes` decide nothing."""

    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    seconds: float

    @property
    def status(self) -> Status:
        """PASS where it is the same, FAIL where it is another, NOT_COMPARABLE where nobody can tell."""
        return worst(finding.status for finding in self.findings)


def check(
    capsule: Capsule,
    model: str,
    *,
    recipe: Recipe | str | Path | None = None,
    device: str | None = None,
    steps: int | None = None,
    progress: Progress = lambda done, total, what: None,
) -> Answer:
    """Whether `model` runs here as what `capsule` says was published.

    `model` is the published artifact, or a BF16 model that `recipe` quantizes in memory. With `steps` no case
    is drawn further than that. ErnieQAError where something is wrong or missing.
    """
    start = time.perf_counter()
    found, place = find_model(model), device or visible_device()
    methods = {name: stored_method(found, name) for name in found.components}
    if recipe is None and not any(methods.values()):
        raise InputError(
            f"{found.path}: holds nothing quantized: name the published artifact, or say --recipe, "
            "which quantizes this model in memory"
        )
    if recipe is not None and any(methods.values()):
        raise InputError(f"{found.path}: is quantized already: --recipe is for a BF16 model")
    wanted = capsule.recipe if recipe is None else find_recipe(recipe)
    if recipe is None and (wrong := stored_otherwise(capsule, methods)):
        return Answer(tuple(wrong), (), time.perf_counter() - start)
    compile_cache.keep(place)

    def began(what: str) -> None:
        progress(STEPS.index(what), len(STEPS), what)

    with hushed():
        began("loading")
        pipe = load_artifact(found, wanted, place) if recipe is None else load_pipeline(found, wanted, place)
        findings, notes = compared(capsule, pipe, steps=steps, began=began)
    progress(len(STEPS), len(STEPS), "done")
    return Answer(findings, (*_files(capsule, found, recipe is None), *notes), time.perf_counter() - start)


def stored_otherwise(capsule: Capsule, methods: Mapping[str, str | None]) -> list[Finding]:
    """The components that are stored quantized otherwise than published; such a model is not loaded.
    `methods` maps each component to what quantized it, see `stored_method`."""
    found = []
    for name, method in methods.items():
        published = capsule.recipe.components.get(name)
        if method != published:
            said = f"stored {f'by {method}' if method else 'in BF16'}, published "
            said += f"by {published}" if published else "in BF16"
            found.append(Finding(name, "stored", Status.FAIL, said))
    return found


def compared(
    capsule: Capsule,
    pipe: ErnieImagePipeline,
    *,
    steps: int | None = None,
    began: Callable[[str], None] = lambda what: None,
) -> tuple[tuple[Finding, ...], tuple[str, ...]]:
    """What a live pipeline that nobody has run yet is and gives beside `capsule`, and what else is to know.

    The pipeline is one of `load_pipeline` or `load_artifact`. `began` is told each of `STEPS` after loading.
    """
    import torch
    from safetensors.torch import load

    origin, live = provenance(pipe), pipe
    if origin is None:
        raise InputError("this pipeline does not say which recipe it is; load it with load_pipeline")
    execution: Any = live
    place = str(execution._execution_device)
    here = take_fingerprint(place)
    findings: list[Finding] = []
    if origin.recipe.hash != capsule.recipe.hash:
        said = f"recipe {origin.recipe.name} is not what {capsule.recipe.name} was when it was published"
        findings.append(Finding(None, "recipe", Status.FAIL, said))
    began("hashing")
    parts = parts_of(pipe, origin.recipe, origin.artifact or origin.model)
    findings += same_parts(capsule, parts, here)
    exact = exact_int8(place)
    tape = dict(sorted(load(capsule.content).items()))
    try:
        _check_ids(execution, tape)
        began("feeding")
        with counted(pipe, parts):
            made = answered(pipe, capsule.suite, tape, capsule.words, steps=steps)
        began("layers")
        # few rows run no kernel, and are not to be counted
        made |= layers_answered(pipe, tape)
        found = [
            *same_kernels(capsule, parts),
            *same_answers(capsule, tape, made, exact_int8=exact, steps=steps),
        ]
    except torch.OutOfMemoryError as problem:
        said = next(iter(str(problem).splitlines()), "")
        raise OutOfMemoryError(f"{place}: not enough memory to run it: {said}; free some") from problem
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as problem:
        said = next(iter(str(problem).splitlines()), "")
        said = f"what was published cannot be fed to it: {type(problem).__name__}: {said}"
        if all(finding.status is Status.PASS for finding in findings):
            raise CapsuleError(f"this capsule is damaged: {said}") from problem
        findings.append(Finding("pipeline", "outputs", Status.FAIL, said))
    else:
        findings += found
        findings += _silent(capsule, found)
    return tuple(findings), tuple(_notes(capsule, here, exact, steps))


def _silent(capsule: Capsule, found: Sequence[Finding]) -> list[Finding]:
    """The components of which the capsule holds nothing to compare: such a one says nothing."""
    heard = {finding.component for finding in found if finding.about == "outputs"}
    return [lacking(name, "outputs") for name in capsule.parts if name not in heard]


def _check_ids(live: Any, tape: Mapping[str, torch.Tensor]) -> None:
    """ValueError where ids are fed that a model has no embedding for: a GPU would not survive them."""
    for name, ids in tape.items():
        pieces = name.split("/")
        part = "pe" if pieces[0] == "pe" else pieces[1]
        # one that is missing is told of already
        if pieces[-1] == "ids" and ids.numel() and getattr(live, part, None) is not None:
            count = getattr(live, part).get_input_embeddings().num_embeddings
            if int(ids.min()) < 0 or int(ids.max()) >= count:
                raise ValueError(f"{name}: ids beyond the {count} that {part} knows")


def _files(capsule: Capsule, found: Model, artifact: bool) -> list[str]:
    published = capsule.artifact if artifact else capsule.model
    if published is None:
        return ["it was quantized in memory when it was published: there are no files to compare"]
    what = "the files of the artifact" if artifact else "the BF16 model's files, quantized here in memory,"
    if published.hash == found.identity.hash:
        return [f"{what} are those of the capsule"]
    return [f"{what} are not those of the capsule: edited, saved anew, or sharded otherwise"]


def _notes(capsule: Capsule, here: Fingerprint, exact: bool, steps: int | None) -> list[str]:
    notes = []
    if capsule.fingerprint.gpu != here.gpu:
        notes.append(
            f"published on {machine_in_words(capsule.fingerprint)}, checked on {machine_in_words(here)}"
        )
    notes += [f"the capsule does without {said}" for said in capsule.left_out]
    if not (exact and capsule.exact_int8):
        whose = "this machine" if capsule.exact_int8 else "the publisher's machine"
        notes.append(
            f"int8 products saturate on {whose}: what the parts give is judged loosely, single layers are not"
        )
    if steps is not None:
        notes.append(f"no case was drawn further than step {steps}")
    moved = differences(capsule.fingerprint, here)
    if moved:
        notes.append(f"published / here: {'; '.join(moved[:6])}")
    return notes
