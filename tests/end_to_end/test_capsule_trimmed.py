"""A capsule that had to be trimmed, as one of the full size is: it still knows what was published."""

from typing import Any

import pytest
import torch
from safetensors.torch import load
from torch.nn.attention import SDPBackend, sdpa_kernel

from ernie_qa.capsules.capsule import Capsule, parse_capsule
from ernie_qa.capsules.installed import compared
from ernie_qa.capsules.publish import export
from ernie_qa.faults import NF4, UINT4, corpus
from ernie_qa.pipeline import load_pipeline
from ernie_qa.quiet import hushed
from ernie_qa.verdict import Status, worst

MOST = 1_150_000
"""Bytes: a fifth of what the miniature's capsule takes whole; of the full size's a sixth is kept."""
FAULTS = {fault.name: fault for fault in corpus()}


@pytest.fixture(scope="module")
def trimmed() -> dict[str, Capsule]:
    return {recipe: export("mini", recipe, device="cpu", most=MOST) for recipe in (UINT4, NF4)}


def test_rows_steps_tokens_and_what_no_check_needs_went(trimmed: dict[str, Capsule]) -> None:
    capsule = trimmed[UINT4]
    assert len(capsule.content) < 2 * MOST
    said = "; ".join(capsule.left_out)
    for word in ("tokens", "BF16's layers", "BF16's parts", "one row", "the last call of the transformer"):
        assert word in said
    assert capsule.cases == tuple(case.id for case in capsule.suite.cases[:2])
    kept = load(capsule.content)
    assert {len(rows) for name, rows in kept.items() if name.endswith("/rows")} == {1}
    # read from its file it says the same
    assert parse_capsule(capsule.content, "x").left_out == capsule.left_out


def test_it_is_trimmed_alike_every_time(trimmed: dict[str, Capsule]) -> None:
    again = export("mini", UINT4, device="cpu", most=MOST)
    assert again.left_out == trimmed[UINT4].left_out
    ours, theirs = load(again.content), load(trimmed[UINT4].content)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize("recipe", [UINT4, NF4])
def test_what_was_published_is_the_same_and_is_told_what_is_missing(
    trimmed: dict[str, Capsule], recipe: str
) -> None:
    capsule = trimmed[recipe]
    with hushed(), sdpa_kernel(SDPBackend.MATH):
        findings, notes = compared(capsule, load_pipeline("mini", recipe, "cpu"))
    assert worst(one.status for one in findings) is Status.PASS, findings
    # each part was compared, and not with itself
    assert {one.component for one in findings if one.measured} >= {"pe", "text_encoder", "transformer", "vae"}
    assert {f"the capsule does without {said}" for said in capsule.left_out} <= set(notes)


@pytest.mark.parametrize(
    ("name", "about"),
    [
        ("UINT4: one layer's scales 2 % off", "layers"),
        ("UINT4: one layer's zero points one step off", "layers"),
        ("UINT4: groups of one layer in reverse order", "layers"),
        ("UINT4: nibbles of one layer swapped", "layers"),
        ("one layer cut to two bits", "layers"),
        ("one layer dequantizes, flags on", "kernels"),
        ("text states 3 % too strong", "outputs"),
        ("one layer of the prompt enhancer skipped", "outputs"),
        ("decoded 3 % too bright", "outputs"),
        ("steps 5 % too long", "sigmas"),
        ("NF4: one layer's scales 2 % off", "layers"),
        ("NF4: blocks of one layer shifted by one", "layers"),
        ("NF4: one layer's offset of scales lost", "layers"),
        ("one norm of a block halved", "outputs"),
    ],
)
def test_faults_are_named_all_the_same(trimmed: dict[str, Capsule], name: str, about: str) -> None:
    fault = FAULTS[name]
    # what is done to no quantized layer is done with any recipe
    recipe = fault.recipe if fault.recipe in trimmed else UINT4
    with hushed(), torch.no_grad():
        pipe: Any = load_pipeline("mini", recipe, "cpu")
        fault.damage(pipe)
        findings, _ = compared(trimmed[recipe], pipe)
    failed = {(one.component, one.about) for one in findings if one.status is Status.FAIL}
    assert (fault.component, about) in failed
    assert {component for component, _ in failed} == {fault.component}


def test_calls_of_a_case_that_was_left_out_do_not_count() -> None:
    capsule = export("mini", UINT4, device="cpu", most=0)
    assert capsule.cases == (capsule.suite.cases[0].id,)
    total, _ = capsule.parts["transformer"].calls["layers.3.mlp.up_proj"]
    assert total == capsule.suite.steps
    with hushed():
        findings, _ = compared(capsule, load_pipeline("mini", UINT4, "cpu"))
    assert worst(one.status for one in findings) is Status.PASS, findings
