"""Finding quantizers, a third one from outside the package, and what is written down about layers."""

import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_qa.errors import ModelError, RecipeError, UnavailableError
from ernie_qa.frozen import freeze
from ernie_qa.quantizers import (
    ComponentSource,
    checked_options,
    find_quantizer,
    quantizer_names,
    stored_quantization,
)
from ernie_qa.quantizers.layers import Calls, LayerState, byte_faults, grouped, listed, ungrouped
from ernie_qa.recipe import find_recipe, recipe_names
from ernie_qa.rungs import activation, package
from ernie_qa.verdict import Status
from tests.arms import arm, judged, observed

ROUNDING = '''
"""A quantizer of another package: weights on a grid of int8, one scale a row, dequantized in each call."""

import torch
from contextlib import contextmanager

from ernie_qa.quantizers import Calls, LayerState

NAME = "rounding"
SUMMARY = "weights rounded to int8"
PACKAGES = ("their_rounding",)
DEVICES = frozenset({"cpu", "cuda"})


class Rounded(torch.nn.Module):
    def __init__(self, plain, levels):
        super().__init__()
        weight = plain.weight.detach().float()
        self.scale = torch.nn.Parameter(weight.abs().amax(1, True) / levels, requires_grad=False)
        grid = (weight / self.scale).round().to(torch.int8)
        self.weight = torch.nn.Parameter(grid, requires_grad=False)
        self.bias = plain.bias

    def forward(self, rows):
        return torch.nn.functional.linear(rows, (self.weight * self.scale).to(rows.dtype), self.bias)


def check_options(table):
    return {"levels": table.integer("levels", 127, minimum=1, maximum=127)}


def load(source, options):
    module = source.cls.from_pretrained(source.path, dtype=torch.bfloat16)
    for name, layer in list(module.named_modules()):
        if type(layer) is torch.nn.Linear and name != "lm_head":
            module.set_submodule(name, Rounded(layer, options["levels"]))
    module.rounded_to = options["levels"]
    return module


def config_flag(module):
    return {"levels": module.rounded_to}


def expected_flag(options):
    return {"levels": options["levels"]}


def describe(module, options):
    def state(name, layer):
        scale = layer.scale.numel() * layer.scale.element_size()
        found = {"levels": int(layer.weight.abs().max())}
        return LayerState(name, tuple(layer.weight.shape), True, False, "", 8, layer.weight.numel(), scale, 0,
                          found, {}, {"levels": options["levels"]})
    return tuple(state(name, layer) for name, layer in module.named_modules() if isinstance(layer, Rounded))


def weights(layer, bf16, options):
    plain = torch.nn.Linear(bf16.shape[1], bf16.shape[0], bias=False)
    plain.weight = torch.nn.Parameter(bf16)
    fresh = Rounded(plain, options["levels"])
    return layer.weight * layer.scale, fresh.weight * fresh.scale


class Watching:
    def __init__(self, layers):
        self.counts = dict.fromkeys(layers, 0)

    def calls(self):
        return tuple(Calls(name, count, 0, {"dequantized": count} if count else {}, -1, {})
                     for name, count in self.counts.items())

    def replay(self):
        return True


@contextmanager
def watch(module):
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, Rounded)}
    watching = Watching(layers)

    def count(name):
        watching.counts[name] += 1

    hooks = [layer.register_forward_hook(lambda *_, name=name: count(name)) for name, layer in layers.items()]
    yield watching
    for hook in hooks:
        hook.remove()


def prove(device, options):
    return None
'''
RECIPE = """
schema = 1
summary = "rounded"

[components]
transformer = "rounding"

[rounding]
levels = 127
"""


@pytest.fixture
def rounding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another distribution with a quantizer, as an installer would leave it, and a recipe that uses it."""
    (tmp_path / "their_rounding.py").write_text(ROUNDING, encoding="utf-8")
    info = tmp_path / "their_rounding-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: their-rounding\nVersion: 1.0\n", encoding="utf-8"
    )
    (info / "entry_points.txt").write_text(
        "[ernie_qa.quantizers]\nrounding = their_rounding\nbroken = their_rounding_gone\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "rounded.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def test_the_shipped_quantizers_are_found_by_name() -> None:
    assert {"bitsandbytes", "sdnq"} <= set(quantizer_names())
    for name in ("bitsandbytes", "sdnq"):
        assert name == find_quantizer(name).NAME


def test_an_unknown_quantizer_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(
        RecipeError, match=r"no quantizer named 'sdqn'; known are .*bitsandbytes, .*sdnq.*did you mean"
    ):
        find_quantizer("sdqn")


@pytest.mark.parametrize("shared", ["layers", "watching", "__init__", "..recipe"])
def test_what_stands_beside_the_quantizers_is_none(shared: str) -> None:
    assert shared not in quantizer_names()
    with pytest.raises(RecipeError, match="no quantizer named"):
        find_quantizer(shared)


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_has_options_that_its_quantizer_takes(name: str) -> None:
    recipe = find_recipe(name)
    assert set(checked_options(recipe)) == set(recipe.components.values())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'transformer = "rounding"',
            'transformer = "sdqn"',
            "components.transformer: no quantizer named 'sdqn'",
        ),
        ("levels = 127", "levels = 128", "rounding.levels: found 128"),
        ("levels = 127", "level = 127", "rounding.level: unknown key; allowed: levels"),
    ],
)
def test_wrong_sections_name_file_and_key(rounding: Path, old: str, new: str, message: str) -> None:
    text = RECIPE.replace(old, new)
    rounding.write_text(text.replace("[rounding]", "[sdqn]") if "sdqn" in new else text, encoding="utf-8")
    with pytest.raises(RecipeError, match=message) as caught:
        checked_options(find_recipe(rounding))
    assert str(caught.value).startswith(f"{rounding}: ")
    assert "\n" not in str(caught.value)


def test_a_quantizer_of_another_package_goes_through_the_rungs(tiny_model: Path, rounding: Path) -> None:
    assert "rounding" in quantizer_names()
    of = arm(tiny_model, rounding)
    for rung in (package, activation):
        checks = judged(rung, observed(rung, of), of.recipe)
        bad = {name: check.message for name, check in checks.items() if check.status is Status.FAIL}
        assert bad == {}
        assert checks["transformer.layers"].status is Status.PASS
    assert judged(activation, observed(activation, of), of.recipe)["transformer.kernels"].measured == 0


def test_a_quantizer_of_another_package_is_judged_as_strictly(tiny_model: Path, rounding: Path) -> None:
    strict = find_recipe(rounding)
    of = arm(tiny_model, rounding)
    rounding.write_text(RECIPE.replace("127", "63"), encoding="utf-8")
    other = replace(find_recipe(rounding), name=strict.name)
    checks = judged(activation, observed(activation, replace(of, recipe=other)), other)
    failed = {name for name, check in checks.items() if check.status is Status.FAIL}
    assert failed == {"transformer.flag", "transformer.weights"}
    plain = judged(package, observed(package, replace(of, recipe=find_recipe("bf16"))), find_recipe("bf16"))
    assert "leaves it alone" in plain["transformer.layers"].message


def test_a_quantizer_that_cannot_be_imported_says_so(rounding: Path) -> None:
    with pytest.raises(UnavailableError, match=r"'broken' \(their_rounding_gone\) cannot be imported"):
        find_quantizer("broken")


def test_checking_recipes_and_judging_import_no_torch() -> None:
    script = (
        "import sys\n"
        "from ernie_qa.quantizers import checked_options, find_quantizer, quantizer_names\n"
        "from ernie_qa.recipe import find_recipe, recipe_names\n"
        "from ernie_qa.rungs import activation, package\n"
        "for name in recipe_names(): checked_options(find_recipe(name))\n"
        "heavy = {'torch', 'numpy', 'diffusers', 'transformers', 'sdnq', 'bitsandbytes'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (0, "")


@pytest.mark.parametrize(
    ("library", "class_name", "message"),
    [
        ("os", "system", "found the library 'os', allowed are diffusers and transformers"),
        ("diffusers", "NoSuchModel", "this diffusers has no class 'NoSuchModel'; upgrade diffusers"),
    ],
)
def test_a_class_that_is_not_to_be_had_is_a_model_error(library: str, class_name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        _ = ComponentSource(Path("model"), "transformer", library, class_name, "cpu").cls


def test_a_configuration_that_cannot_be_read_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json: no such file"):
        stored_quantization(tmp_path)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert stored_quantization(tmp_path) is None


LAYERS = st.builds(
    LayerState,
    name=st.text(min_size=1),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    quantized=st.booleans(),
    kernel=st.booleans(),
    excluded=st.sampled_from(["", "skipped"]),
    bits=st.integers(1, 16),
    bytes=st.integers(0, 99),
    side_bytes=st.integers(0, 99),
    unlisted=st.integers(0, 99),
    weight=st.dictionaries(st.text(), st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text())),
    runtime=st.dictionaries(st.text(), st.booleans()),
    expected=st.dictionaries(st.text(), st.integers(0, 1)),
)


@given(st.lists(LAYERS, unique_by=lambda state: state.name))
def test_grouping_loses_nothing(states: list[LayerState]) -> None:
    stored = freeze(grouped(states))
    back = {state.name: asdict(state) for state in ungrouped(LayerState, stored)}
    assert back == {state.name: asdict(state) for state in states}


def test_layers_that_differ_in_their_name_alone_share_a_group() -> None:
    calls = [Calls(name, 2, 2, {}, 1, {"aten::_int_mm": 1}) for name in "abc"] + [
        Calls("d", 0, 0, {}, -1, {})
    ]
    assert [group["names"] for group in grouped(calls)] == [["a", "b", "c"], ["d"]]


@pytest.mark.parametrize(
    ("size", "wrong"), [(2048, False), (2112, False), (2113, True), (1984, False), (1983, True)]
)
def test_stored_bytes_must_be_what_the_bits_make(size: int, wrong: bool) -> None:
    state = LayerState("to_q", (64, 64), True, True, "", 4, size, 0, 0, {}, {}, {})
    assert bool(byte_faults([state])) == wrong


def test_a_list_of_faults_names_the_first_few() -> None:
    assert listed(["a", "b", "c"]) == "a, b, c"
    assert listed(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
