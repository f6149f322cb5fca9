"""Arms of the tiny pipeline, taken through one rung: quantized, run, recorded and judged as real ones are."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from diffusers import ErnieImagePipeline

from ernie_qa.fingerprint import take_fingerprint
from ernie_qa.models.find import find_model
from ernie_qa.quantizers import ComponentSource, checked_options, find_quantizer
from ernie_qa.recipe import Recipe, find_recipe
from ernie_qa.record import Identity, Record
from ernie_qa.rungs import Arm, Evidence
from ernie_qa.suite import Suite
from ernie_qa.verdict import Check

CLASSES = {
    "pe": ("transformers", "Ministral3ForCausalLM"),
    "text_encoder": ("transformers", "Mistral3Model"),
    "transformer": ("diffusers", "ErnieImageTransformer2DModel"),
}
SUITE = Suite("small", 1, "no case", 2, 1.0, False, (), Path("small.toml"))


def source(directory: Path, component: str) -> ComponentSource:
    """`component` of the model in `directory`, on the CPU."""
    return ComponentSource(directory, component, *CLASSES[component], device="cpu")


def options(recipe: Recipe) -> dict[str, Any]:
    """The options of the one quantizer that `recipe` uses."""
    return dict(*checked_options(recipe).values())


def loaded(directory: Path, component: str, recipe: str | Path) -> torch.nn.Module:
    """One component, quantized as `recipe` says."""
    found = find_recipe(recipe)
    return find_quantizer(found.components[component]).load(source(directory, component), options(found))


def arm(directory: Path, recipe: str | Path) -> Arm:
    """The whole pipeline, quantized as `recipe` says."""
    found = find_recipe(recipe)
    components = {component: loaded(directory, component, recipe) for component in found.components}
    pipe = ErnieImagePipeline.from_pretrained(directory, dtype=torch.bfloat16, **components)
    return Arm(pipe, find_model(directory), found, SUITE, None)


def run(pipe: ErnieImagePipeline) -> None:
    """Call every component that a recipe may quantize, twice, on more rows than SDNQ's kernels need."""
    with torch.no_grad():
        for _ in range(2):
            call(pipe.text_encoder)
            call(pipe.pe)
            call(pipe.transformer)


def call(component: torch.nn.Module, tokens: int = 40) -> torch.Tensor:
    """One call of a component with `tokens` of text, and its output."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        if type(component).__name__ == "ErnieImageTransformer2DModel":
            latents = torch.randn(1, 64, 16, 16, generator=generator).bfloat16()
            text = torch.randn(1, tokens, 128, generator=generator).bfloat16()
            step = torch.tensor([500.0]).bfloat16()
            return component(latents, step, text, torch.tensor([tokens]), return_dict=False)[0]
        ids = torch.randint(3, 300, (1, tokens), generator=generator)
        return component(input_ids=ids, use_cache=False)[0]


def observed(rung: ModuleType, of: Arm, draw: Callable[[ErnieImagePipeline], None] = run) -> Record:
    """The record of an arm that went through `rung` alone, with `draw` in the place of the suite."""
    measuring = rung.measure(of)
    next(measuring)
    draw(of.pipe)
    try:
        measuring.send(())
    except StopIteration as stop:
        figures = stop.value
    return Record(
        schema=1,
        created="2026-11-22T12:00:00+00:00",
        model=of.model.identity,
        recipe=Identity(of.recipe.name, of.recipe.hash),
        suite=Identity(of.suite.name, of.suite.hash),
        fingerprint=take_fingerprint("cpu"),
        figures={rung.NAME: figures},
        pictures=(),
        reference=None,
    )


def judged(
    rung: ModuleType, record: Record, recipe: Recipe, reference: Record | None = None
) -> dict[str, Check]:
    """The checks of `rung`, keyed `component.level` (`level` alone without a component)."""
    checks = rung.judge(Evidence(record, reference, recipe))
    return {
        ".".join(filter(None, (check.component, check.name.removeprefix(f"{rung.NAME}.")))): check
        for check in checks
    }
