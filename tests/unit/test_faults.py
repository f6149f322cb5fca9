"""The corpus of faults: what is in it, that damage is undone, and that it is damage."""

from collections import Counter
from typing import Any

import pytest

from ernie_qa.errors import InputError
from ernie_qa.faults import BF16, INT8, NF4, UINT4, Fault, corpus, fault
from ernie_qa.pipeline import load_pipeline
from ernie_qa.recipe import QUANTIZABLE, recipe_names
from ernie_qa.rungs import rungs
from ernie_qa.selftest import chosen
from ernie_qa.selftest.bench import bench
from ernie_qa.selftest.row import BROKEN, REFUSED

RUNGS = {rung.NAME for rung in rungs()}


def test_there_are_faults_for_every_rung_and_both_quantizers_and_clean_variants() -> None:
    faults = [one for one in corpus() if not one.clean]
    assert len(faults) >= 40
    assert {one.rung for one in faults} >= RUNGS
    for recipe in (UINT4, INT8, NF4):
        assert sum(one.recipe == recipe for one in faults) >= 10
        assert sum(one.recipe == recipe for one in corpus() if one.clean) >= 5
    assert sum(one.clean for one in corpus()) >= 20


@pytest.mark.parametrize("one", corpus(), ids=lambda one: one.name)
def test_an_entry_names_what_there_is(one: Fault) -> None:
    assert one.recipe in recipe_names()
    assert one.recipe != BF16
    assert one.rung in RUNGS | {None, REFUSED, BROKEN, "recipe"}
    assert one.component in {None, *QUANTIZABLE, "vae", "scheduler", "tokenizer", "pe_tokenizer"}
    assert one.component is None or not one.clean


def test_names_are_unique() -> None:
    assert Counter(one.name for one in corpus()).most_common(1)[0][1] == 1


def test_two_faults_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import ernie_qa.faults

    known = list(corpus())
    monkeypatch.setattr(ernie_qa.faults, "_KNOWN", known)
    fault(known[0].name, rung="images")(lambda pipe: None)
    with pytest.raises(ValueError, match="two are called"):
        corpus.__wrapped__()


def test_an_unknown_fault_is_told_with_the_nearest() -> None:
    name = next(one.name for one in corpus())
    with pytest.raises(InputError, match="did you mean"):
        chosen([name + "x"])
    with pytest.raises(InputError, match="no fault of recipe 'bf16'"):
        chosen(recipes=["bf16"])


def state(pipe: Any) -> dict[str, Any]:
    return {
        f"{part}.{name}": tensor.clone()
        for part in (*QUANTIZABLE, "vae")
        for name, tensor in getattr(pipe, part).state_dict().items()
    }


@pytest.mark.parametrize(
    "name", ["INT8: one layer's scales 2 % off", "one norm of a block halved", "NF4: one layer left in BF16"]
)
def test_what_is_damaged_is_a_copy(name: str) -> None:
    import torch

    (one,) = chosen([name])
    with bench() as stand:
        first = stand.pipe(one.recipe)
        before = state(first)
        with torch.no_grad():
            one.damage(first)
        after, again = state(first), state(stand.pipe(one.recipe))
    assert any(key not in after or not torch.equal(after[key], tensor) for key, tensor in before.items())
    assert before.keys() == again.keys()
    assert all(torch.equal(again[key], tensor) for key, tensor in before.items())


def test_what_a_generator_damages_is_undone() -> None:
    import torch.nn.functional as functional

    pipe = load_pipeline("mini", UINT4, "cpu")
    (one,) = chosen(["attention over keys in reverse order"])
    before = functional.scaled_dot_product_attention
    damage = one.damage(pipe)
    next(damage)
    assert functional.scaled_dot_product_attention is not before
    damage.close()
    assert functional.scaled_dot_product_attention is before
