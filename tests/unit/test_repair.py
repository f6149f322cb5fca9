"""Repair's parts: the search on made-up answers, the names that a quantizer is given, the new file."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_qa.errors import RecipeError, UnavailableError
from ernie_qa.quantizers import find_quantizer
from ernie_qa.recipe import find_recipe
from ernie_qa.record import Record
from ernie_qa.repair import Bench, candidates
from ernie_qa.repair.candidates import Layer
from ernie_qa.repair.search import search
from ernie_qa.repair.written import rewritten
from ernie_qa.toml_input import Table
from ernie_qa.verdict import Check, Status, Verdict
from tests.arms import source

SDNQ = """schema = 1
summary = "a recipe"

[components]
transformer = "sdnq"

[sdnq] # how
weights_dtype = "uint3" # 3 bits
{more}use_quantized_matmul = true

# the gate
[gates.mini.limits."images.lpips_mean"]
max = 0.1
source = "chosen"
"""


def counting(passes: Callable[[frozenset[int]], bool]) -> tuple[Callable[[frozenset[int]], bool], list[Any]]:
    asked: list[frozenset[int]] = []

    def ask(kept: frozenset[int]) -> bool:
        asked.append(kept)
        return passes(kept)

    return ask, asked


@given(
    st.integers(0, 12).flatmap(
        lambda count: st.tuples(
            st.permutations(range(count)), st.sets(st.integers(0, 11)), st.sets(st.integers(20, 24))
        )
    )
)
def test_exactly_the_layers_that_matter_are_found(given: tuple[list[int], set[int], set[int]]) -> None:
    ranked, wanted, needed = given
    wanted = wanted & set(ranked)
    if not wanted and not needed:
        return
    found = search(ranked, frozenset(needed), lambda kept: kept >= wanted | needed, 10_000)
    assert found.kept == wanted | needed
    assert found.whole


@given(
    st.lists(st.integers(0, 9), unique=True, max_size=9),
    st.frozensets(st.frozensets(st.integers(0, 9)), max_size=60),
)
def test_whatever_passes_the_result_passes_and_no_single_one_can_go(
    ranked: list[int], good: frozenset[frozenset[int]]
) -> None:
    """Also where a set passes and a larger one does not."""
    good -= {frozenset()}
    ask, asked = counting(good.__contains__)
    found = search(ranked, frozenset(), ask, 10_000)
    assert len(asked) == len(set(asked)) == found.trials
    assert found.whole
    assert found.kept is None or found.kept in good
    for one in found.kept or ():
        assert found.kept - {one} not in good


@given(st.permutations(range(10)), st.sets(st.integers(0, 9), min_size=1), st.integers(1, 20))
def test_trials_are_bounded_and_what_is_found_by_then_passed(
    ranked: list[int], wanted: set[int], trials: int
) -> None:
    ask, asked = counting(lambda kept: kept >= wanted)
    found = search(ranked, frozenset(), ask, trials)
    assert len(asked) == found.trials <= trials
    assert (found.kept is None) == (not any(kept >= wanted for kept in asked))
    assert found.kept is None or found.kept in asked
    assert found.whole or found.trials == trials


def test_an_interrupted_search_keeps_what_passed() -> None:
    def ask(kept: frozenset[int]) -> bool:
        asked.append(kept)
        if len(asked) == stop:
            raise KeyboardInterrupt
        return kept >= {5}

    asked: list[frozenset[int]] = []
    stop = 1000
    whole = search(range(10), frozenset(), ask, 100)
    assert whole.whole
    first = next(number for number, kept in enumerate(asked, 1) if kept >= {5})
    stop, passed = first + 1, asked[first - 1]
    asked.clear()
    found = search(range(10), frozenset(), ask, 100)
    assert (found.kept, found.whole, found.trials) == (passed, False, first)
    stop = first
    asked.clear()
    with pytest.raises(KeyboardInterrupt):
        search(range(10), frozenset(), ask, 100)


def test_nothing_passes() -> None:
    found = search([1, 2, 3], frozenset({9}), lambda kept: False, 100)
    assert (found.kept, found.whole) == (None, True)
    assert search([], frozenset(), lambda kept: True, 100).kept is None


def failing(*checks: tuple[str, str | None, float]) -> Verdict:
    return Verdict(
        "broken",
        tuple(
            Check(name, name.split(".")[0], Status.FAIL, "too far off", component=part, limit=limit)
            for name, part, limit in checks
        ),
    )


def layer(name: str, error: float = 0.1, more: int = 100, part: str = "transformer", off: float = 0) -> Layer:
    return Layer(part, name, error, off, more)


def test_layers_beyond_a_limit_of_single_layers_are_needed() -> None:
    found = [layer("a", 0.2), layer("b", 0.1), layer("c", float("inf")), layer("d", 0.1, off=0.5)]
    other = layer("a", 0.2, part="pe")
    verdict = failing(
        ("components.transformer_layer_l2_max", "transformer", 0.15),
        ("components.transformer_layer_gain_max", "transformer", 0.4),
        ("images.lpips_mean", None, 0.01),
    )
    assert candidates.needed([*found, other], verdict) == {found[0], found[2], found[3]}
    assert candidates.needed([*found, other], failing(("images.lpips_mean", None, 0.01))) == frozenset()


def test_who_failed_as_a_whole_is_tried_first(observed: tuple[Any, dict[str, Record]]) -> None:
    from ernie_qa.suite import find_suite

    suite = find_suite("mini")
    te, tr, pe = layer("x", part="text_encoder"), layer("y"), layer("z", part="pe")
    names = {one.component: (one.name, "rest") for one in (te, tr, pe)}
    pictures = ("images.lpips_mean", None, 0.01)

    def order(verdict: Verdict, using_pe: bool = False) -> list[str]:
        chosen = replace(suite, use_pe=using_pe)
        found = candidates.optional((te, tr, pe), frozenset(), verdict, chosen, names)
        return [one.name for one in found]

    assert order(failing(("components.transformer_l2_max", "transformer", 0.1), pictures)) == ["y", "x"]
    assert order(failing(("components.pe_kl_mean", "pe", 0.1))) == ["z"]
    assert order(failing(pictures)) == ["x", "y"]
    assert order(failing(pictures), using_pe=True) == ["x", "y", "z"]
    # a component of which nothing is quantized is another recipe
    names["text_encoder"] = ("x",)
    assert order(failing(pictures)) == ["y"]


def test_what_no_layer_mends_is_told() -> None:
    assert candidates.beyond_help(failing(("components.transformer_l2_max", "transformer", 0.1))) is None
    found = candidates.beyond_help(failing(("images.lpips_mean", None, 0.1), ("components.vae_l2", "vae", 0)))
    assert found is not None
    assert found.name == "components.vae_l2"
    unlimited = Check("images.limits", "images", Status.NOT_COMPARABLE, "there is no limit")
    undecided = Check("images.lpips_mean", "images", Status.NOT_COMPARABLE, "too few", measured=0.1)
    assert candidates.beyond_help(Verdict("broken", (undecided,))) is None
    assert candidates.beyond_help(Verdict("broken", (undecided, unlimited))) is unlimited


def test_layers_are_ranked_by_error_removed_a_byte(observed: tuple[Any, dict[str, Record]]) -> None:
    record = observed[1]["lenient"]
    found = candidates.layers(record)
    assert {one.name for one in found} == set(candidates.quantized(record)["transformer"])
    assert [one.worth for one in found] == sorted((one.worth for one in found), reverse=True)
    # INT8: a byte a weight less, apart from scales
    up = next(one for one in found if one.name == "layers.0.mlp.up_proj")
    assert 0.95 * 768 * 256 < up.more <= 768 * 256


@pytest.mark.parametrize("quantizer", ["sdnq", "bitsandbytes"])
@pytest.mark.parametrize(
    ("part", "names"),
    [
        ("pe", ["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj"]),
        ("text_encoder", ["language_model.layers.0.mlp.down_proj"]),
        ("transformer", ["layers.0.self_attention.to_q", "adaLN_modulation.1"]),
    ],
)
def test_a_kept_layer_is_left_alone_and_reported_so(
    tiny_model: Path, quantizer: str, part: str, names: list[str]
) -> None:
    """And in no other component is anything else left alone than before."""
    module = find_quantizer(quantizer)
    base = {"weights_dtype": "uint4", "use_quantized_matmul": True} if quantizer == "sdnq" else {}

    def plain(component: str, raw: Any) -> set[str]:
        options = module.check_options(Table(raw, Path("a.toml"), quantizer, RecipeError))
        states = module.describe(module.load(source(tiny_model, component), options), options)
        assert all(state.excluded for state in states if not state.quantized)
        return {state.name for state in states if not state.quantized}

    kept = module.keeping(base, part, names)
    for component in ("pe", "text_encoder", "transformer"):
        assert plain(component, kept) - plain(component, base) == (set(names) if component == part else set())


def test_names_that_mean_more_than_one_layer_are_reported_so(tiny_model: Path) -> None:
    """diffusers' names cannot be anchored, and transformers takes them for the end of a name."""
    module = find_quantizer("bitsandbytes")
    kept = module.keeping({}, "transformer", ["layers.0.mlp.up_proj"])
    options = module.check_options(Table(kept, Path("a.toml"), "bitsandbytes", RecipeError))
    states = module.describe(module.load(source(tiny_model, "text_encoder"), options), options)
    plain = {state.name: state.excluded for state in states if not state.quantized}
    assert plain == {"language_model.layers.0.mlp.up_proj": "bitsandbytes skips layers.0.mlp.up_proj"}


@pytest.mark.parametrize(
    ("more", "before"),
    [
        ("", ()),
        ('modules_to_not_convert = ["final_linear"]\n', ("final_linear",)),
        ('modules_to_not_convert = [\n  "final_linear", # why\n  "b",\n] # both\n', ("final_linear", "b")),
    ],
)
def test_only_the_list_is_written_anew(tmp_path: Path, more: str, before: tuple[str, ...]) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(SDNQ.format(more=more), encoding="utf-8")
    recipe = find_recipe(path)
    kept = find_quantizer("sdnq").keeping(recipe.options["sdnq"], "transformer", ["layers.0.mlp.up_proj"])
    new = tmp_path / "new.toml"
    new.write_text(rewritten(recipe, {"sdnq": kept}, ["what it is"]), encoding="utf-8")
    found = find_recipe(new)
    assert found.options["sdnq"]["modules_to_not_convert"] == (*before, "layers.0.mlp.up_proj.weight")
    others = {key: value for key, value in found.options["sdnq"].items() if key != "modules_to_not_convert"}
    assert others == {"weights_dtype": "uint3", "use_quantized_matmul": True}
    assert (found.gates, found.components) == (recipe.gates, recipe.components)
    text = new.read_text(encoding="utf-8")
    assert text.startswith("# what it is\n\nschema = 1\n")
    assert "[sdnq] # how\n" in text
    assert "# 3 bits\n" in text
    assert "\n\n# the gate\n[gates.mini" in text


def test_a_quantizer_without_a_section_gets_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'schema = 1\nsummary = "a"\n[components]\npe = "bitsandbytes"\n[gates.mini]\n', encoding="utf-8"
    )
    recipe = find_recipe(path)
    kept = find_quantizer("bitsandbytes").keeping({}, "pe", ["model.layers.0.mlp.up_proj"])
    new = tmp_path / "new.toml"
    new.write_text(rewritten(recipe, {"bitsandbytes": kept}, []), encoding="utf-8")
    listed = find_recipe(new).options["bitsandbytes"]["modules_to_not_convert"]
    assert listed == ("lm_head", "^model.layers.0.mlp.up_proj")


@pytest.mark.parametrize(
    "layout",
    ['sdnq = {weights_dtype = "uint3"}', 'sdnq.weights_dtype = "uint3"', '[sdnq]\n"weights_dtype" = "uint3"'],
)
def test_however_the_file_is_laid_out(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'schema = 1\nsummary = "a"\ncomponents = {{pe = "sdnq"}}\n{layout}\n', encoding="utf-8")
    recipe = find_recipe(path)
    kept = find_quantizer("sdnq").keeping(recipe.options["sdnq"], "pe", ["lm_head"])
    new = tmp_path / "new.toml"
    new.write_text(rewritten(recipe, {"sdnq": kept}, []), encoding="utf-8")
    listed = {"weights_dtype": "uint3", "modules_to_not_convert": ("lm_head.weight",)}
    assert find_recipe(new).options["sdnq"] == listed


def test_a_quantizer_that_keeps_nothing_is_told(
    observed: tuple[Any, dict[str, Record]], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, records = observed
    monkeypatch.delattr("ernie_qa.quantizers.sdnq.keeping")
    bench = Bench(None, recipe, records["bf16"], "new")  # type: ignore[arg-type]
    with pytest.raises(UnavailableError, match="sdnq cannot keep single layers"):
        bench.recipe({("transformer", "final_linear")})
