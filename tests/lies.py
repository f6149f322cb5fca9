"""Pipelines that claim to run quantized and do not: what the activation rung has to catch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ernie_qa.frozen import Frozen
from ernie_qa.judge import judge
from ernie_qa.observe import observe
from ernie_qa.pipeline import load_pipeline
from ernie_qa.recipe import QUANTIZABLE, find_recipe
from ernie_qa.suite import find_suite
from ernie_qa.verdict import Status, Verdict

LAYER = "layers.3.mlp.up_proj"


def switch_all_off(pipe: Any) -> None:
    """Quantized matmul off in every layer, and the flag put back to True by hand."""
    from sdnq.loader import apply_sdnq_options_to_model

    for name in QUANTIZABLE:
        component = apply_sdnq_options_to_model(getattr(pipe, name), use_quantized_matmul=False)
        component.quantization_config.use_quantized_matmul = True


def swap_one_forward(pipe: Any) -> None:
    """One layer of the transformer dequantizes; every flag says otherwise."""
    from sdnq.layers.linear.forward import quantized_linear_forward

    pipe.transformer.get_submodule(LAYER).forward_func = quantized_linear_forward


def verdict_on(
    recipe: str, device: str, lie: Callable[[Any], None] = lambda pipe: None, **options: Any
) -> Verdict:
    """What is said of `recipe` on the miniature after `lie`, loaded with other `options` than it names; on
    the first case of the suite, for one picture calls every layer."""
    honest = find_recipe(recipe)
    loaded = {name: Frozen({**section, **options}) for name, section in honest.options.items()}
    pipe = load_pipeline("mini", replace(honest, options=Frozen(loaded)), device)
    lie(pipe)
    suite = find_suite("mini")
    record = observe(pipe, honest, replace(suite, cases=suite.cases[:1]), all_rungs=True)
    return judge(record, None, honest)


def failures(verdict: Verdict) -> dict[str, str]:
    """What the failed verdict names: label -> message."""
    assert verdict.status is Status.FAIL
    return {check.label: check.message for check in verdict.of(Status.FAIL)}
