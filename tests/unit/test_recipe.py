from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_qa.errors import RecipeError
from ernie_qa.recipe import QUANTIZABLE, find_recipe, recipe_names

SHIPPED = ("bf16", "bnb-nf4", "sdnq-int8", "sdnq-uint4-dequant", "sdnq-uint4-static")

WHOLE = """
schema = 1
summary = "for tests"

[components]
transformer = "sdnq"

[sdnq]
weights_dtype = "uint4"

[[activation.allow]]
layers = "transformer.adaLN_modulation.*"
when = "few_rows"
why = "one row an image"
suites = ["turbo10"]

[gates.turbo10]
informational = ["images.psnr_mean"]

[gates.turbo10.limits."images.lpips_mean"]
max = 0.35
source = "somewhere"
provisional = true

[gates.turbo10.budgets."NVIDIA H100 80GB HBM3"."images.lpips_max"]
max = 0.5
source = "measured there"
"""


def write(directory: Path, text: str) -> Path:
    path = directory / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(directory, text):
    path = write(directory, text)
    with pytest.raises(RecipeError) as caught:
        find_recipe(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.splitlines() == [message]
    return message.removeprefix(f"{path}: ")


def test_the_shipped_recipes_are_read():
    assert recipe_names() == SHIPPED
    for name in SHIPPED:
        recipe = find_recipe(name)
        assert recipe.name == name
        assert set(recipe.components) == (set() if name == "bf16" else set(QUANTIZABLE))
        for limit in recipe.gates["turbo10"].limits.values() if recipe.gates else ():
            assert limit.provisional
            assert limit.source


def test_bf16_quantizes_nothing_and_has_no_limits():
    recipe = find_recipe("bf16")
    assert (dict(recipe.components), dict(recipe.options), recipe.allowances, dict(recipe.gates)) == (
        {},
        {},
        (),
        {},
    )


@pytest.mark.parametrize(
    ("name", "mean", "letters", "texts"),
    [
        ("sdnq-int8", 0.20, 0.02, 0.05),
        ("sdnq-uint4-static", 0.35, 0.05, 0.10),
        ("sdnq-uint4-dequant", 0.35, 0.05, 0.10),
        ("bnb-nf4", 0.35, 0.05, 0.10),
    ],
)
def test_the_limits_on_turbo10(name, mean, letters, texts):
    limits = find_recipe(name).gates["turbo10"].limits
    assert {key: (limit.min, limit.max) for key, limit in limits.items()} == {
        "images.lpips_mean": (None, mean),
        "images.lpips_max": (None, 0.60),
        "text.cer_rise_mean": (None, letters),
        "text.lines_lost_mean": (None, texts),
    }


def test_a_whole_recipe(tmp_path):
    path = write(tmp_path, WHOLE)
    recipe = find_recipe(str(path))
    assert find_recipe(recipe) is recipe
    assert (recipe.name, recipe.path) == ("mine", path)
    assert recipe.options == {"sdnq": {"weights_dtype": "uint4"}}
    (allowance,) = recipe.allowances
    assert (allowance.layers, allowance.suites) == ("transformer.adaLN_modulation.*", ("turbo10",))
    gate = recipe.gates["turbo10"]
    assert gate.informational == {"images.psnr_mean"}
    assert gate.limits["images.lpips_mean"].max == 0.35
    budget = gate.budgets["NVIDIA H100 80GB HBM3"]["images.lpips_max"]
    assert (budget.max, budget.min, budget.source, budget.provisional) == (0.5, None, "measured there", False)


def test_a_quantizer_checks_its_section_with_the_file_and_key(tmp_path):
    section = find_recipe(write(tmp_path, WHOLE)).section("sdnq")
    with pytest.raises(RecipeError) as caught:
        section.choice("weights_dtype", ("int8",))
    assert f'{tmp_path}/mine.toml: sdnq.weights_dtype: found "uint4" (text), allowed is one of int8' in str(
        caught.value
    )


def test_a_quantizer_without_a_section_has_no_options(tmp_path):
    recipe = find_recipe(write(tmp_path, 'schema = 1\nsummary = "s"\n[components]\npe = "other"\n'))
    assert recipe.options == {"other": {}}
    recipe.section("other").finish()


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ('"for tests"', '"other words"', True),
        ("max = 0.35", "max = 0.1", True),
        ("max = 0.5", "max = 0.1", True),
        ('"NVIDIA H100 80GB HBM3"', '"NVIDIA L40S"', True),
        ("few_rows", "idle", True),
        ('suites = ["turbo10"]', "", True),
        ('"uint4"', '"uint2"', False),
        ('transformer = "sdnq"', 'pe = "sdnq"\ntransformer = "sdnq"', False),
    ],
)
def test_the_hash_covers_what_changes_a_picture(tmp_path, old, new, same):
    before = find_recipe(write(tmp_path, WHOLE)).hash
    assert WHOLE.count(old) == 1
    assert (find_recipe(write(tmp_path, WHOLE.replace(old, new))).hash == before) is same


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("schema = 1", "schema = 2", "schema: found 2, this ernie_qa reads schemas up to 1"),
        ("summary", "sumary", 'summary: missing, needed is text that is not empty; is "sumary" meant'),
        (
            "[sdnq]",
            "[sdqn]",
            "sdqn: no part of a recipe (schema, summary, components, activation, gates, grid) and no "
            "quantizer that a component uses (sdnq); is one of the two misspelt?",
        ),
        (
            "transformer =",
            "vae =",
            "components.vae: unknown component; allowed: pe, text_encoder, transformer",
        ),
        (
            "transformer =",
            "transfomer =",
            "components.transfomer: unknown component; allowed: pe, text_encoder, transformer; "
            'did you mean "transformer"?',
        ),
        (
            'transformer = "sdnq"',
            "transformer = true",
            "components.transformer: found true (true/false), allowed is the name of a quantizer, as sdnq or "
            "bitsandbytes",
        ),
        (
            'transformer = "sdnq"',
            'transformer = "gates"',
            'components.transformer: "gates" names a part of the recipe, not a quantizer',
        ),
        ('"uint4"', "nan", "sdnq.weights_dtype: nan is not a finite number"),
        ('"uint4"', "2026-01-01", "sdnq.weights_dtype: date is not a value that JSON can hold"),
        (
            "max = 0.35",
            'max = "0.35"',
            'gates.turbo10.limits."images.lpips_mean".max: found "0.35" (text), allowed is a finite number',
        ),
        (
            "max = 0.35",
            "max = true",
            'gates.turbo10.limits."images.lpips_mean".max: found true (true/false), allowed is a finite',
        ),
        (
            "max = 0.35",
            "max = nan",
            'gates.turbo10.limits."images.lpips_mean".max: found nan (not a finite number), allowed is',
        ),
        (
            "max = 0.35",
            "max = inf",
            'gates.turbo10.limits."images.lpips_mean".max: found inf (not a finite number), allowed is',
        ),
        (
            "max = 0.35",
            "maximum = 0.35",
            'gates.turbo10.limits."images.lpips_mean": a limit needs max, min or both',
        ),
        (
            "max = 0.35",
            "max = 0.35\nmin = 0.4",
            'gates.turbo10.limits."images.lpips_mean": min 0.4 is above max 0.35',
        ),
        (
            'source = "somewhere"',
            "",
            'gates.turbo10.limits."images.lpips_mean".source: missing, needed is text that is not empty',
        ),
        (
            "provisional = true",
            "provisionel = true",
            'gates.turbo10.limits."images.lpips_mean".provisionel: unknown key; allowed: about, max, '
            'provisional, source; did you mean "provisional"?',
        ),
        (
            '"images.lpips_mean"',
            "images.lpips_mean",
            "gates.turbo10.limits.images: needed is the name of a check, a rung and a figure in quotes, as "
            '"images.lpips_mean"',
        ),
        (
            "max = 0.5",
            'max = "fast"',
            'gates.turbo10.budgets."NVIDIA H100 80GB HBM3"."images.lpips_max".max: found "fast" (text), ',
        ),
        (
            '"images.lpips_max"',
            '"lpips"',
            'gates.turbo10.budgets."NVIDIA H100 80GB HBM3".lpips: needed is the name of a check, a rung and',
        ),
        (
            '"NVIDIA H100 80GB HBM3".',
            "",
            'gates.turbo10.budgets."images.lpips_max": needed is the name of a GPU as torch gives it, as '
            '"NVIDIA H100 80GB HBM3"',
        ),
        ('"NVIDIA H100 80GB HBM3"', '" H100"', 'gates.turbo10.budgets." H100": needed is the name of a GPU'),
        ('"NVIDIA H100 80GB HBM3"', '""', 'gates.turbo10.budgets."": needed is the name of a GPU'),
        (
            '["images.psnr_mean"]',
            '["psnr"]',
            'gates.turbo10.informational[0]: found "psnr" (text), allowed is the name of a check, '
            'a rung and a figure in quotes, as "images.lpips_mean"',
        ),
        (
            "informational",
            "informative",
            "gates.turbo10.informative: unknown key; allowed: budgets, informational, limits, waivers; did",
        ),
        (
            '"few_rows"',
            '"few_row"',
            'activation.allow[0].when: found "few_row" (text), allowed is one of decoding, few_rows, idle; '
            'did you mean "few_rows"?',
        ),
        (
            '"transformer.adaLN_modulation.*"',
            '"transfomer.adaLN_modulation.*"',
            'activation.allow[0].layers: found "transfomer.adaLN_modulation.*" (text), allowed is a pattern '
            'that begins with a quantized component and a dot, as "transformer.*"; did you mean',
        ),
        (
            'suites = ["turbo10"]',
            'suites = "turbo10"',
            'activation.allow[0].suites: found "turbo10" (text), allowed is a list of ',
        ),
        (
            'suites = ["turbo10"]',
            'suites = ["../turbo10"]',
            'activation.allow[0].suites[0]: found "../turbo10" (text), allowed is ',
        ),
        (
            'suites = ["turbo10"]',
            'suite = ["turbo10"]',
            "activation.allow[0].suite: unknown key; allowed: layers, suites, when, why; did you mean",
        ),
        ("[[activation.allow]]", "[[activation.allows]]", "activation.allows: unknown key; allowed: allow;"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, old, new, message):
    assert WHOLE.count(old) >= 1
    assert refused(tmp_path, WHOLE.replace(old, new, 1)).startswith(message)


def test_a_section_that_no_component_uses_is_refused(tmp_path):
    message = refused(tmp_path, 'schema = 1\nsummary = "s"\n[components]\n[sdnq]\nweights_dtype = "int8"\n')
    assert message == (
        "sdnq: no part of a recipe (schema, summary, components, activation, gates, grid) and no quantizer "
        "that a component uses (none)"
    )


@pytest.mark.parametrize(
    "name", ["", "..", "bf15", "../recipe", "/etc/passwd", "BF16", "bf16\n", "a\0.toml", "x.toml"]
)
def test_names_that_are_none(name):
    with pytest.raises(RecipeError) as caught:
        find_recipe(name)
    assert len(str(caught.value).splitlines()) == 1


def test_an_unknown_name_lists_and_suggests():
    with pytest.raises(RecipeError) as caught:
        find_recipe("sdnq-uint4-statik")
    assert str(caught.value) == (
        'no recipe named "sdnq-uint4-statik"; shipped are bf16, bnb-nf4, sdnq-int8, sdnq-uint4-dequant, '
        'sdnq-uint4-static; did you mean "sdnq-uint4-static"? '
        "(a file is given by its path, as ./my-recipe.toml)"
    )


def outcome(path):
    try:
        return find_recipe(path).hash
    except RecipeError as problem:
        return str(problem)


@settings(deadline=None)
@given(st.data())
def test_any_line_may_go_or_double(tmp_path_factory, data):
    lines = WHOLE.strip().splitlines()
    index = data.draw(st.integers(0, len(lines) - 1))
    lines[index] = data.draw(st.sampled_from(["", f"{lines[index]}\n{lines[index]}", lines[index][:-1]]))
    path = write(tmp_path_factory.getbasetemp(), "\n".join(lines))
    assert len(outcome(path).splitlines()) == 1
