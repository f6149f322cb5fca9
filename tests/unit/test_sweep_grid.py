import math
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_qa.cli import main
from ernie_qa.errors import RecipeError
from ernie_qa.plan import plan
from ernie_qa.quantizers import checked_options
from ernie_qa.recipe import find_recipe
from ernie_qa.sweep.as_recipe import as_recipe
from ernie_qa.sweep.grid import LONGEST_NAME, MOST_ARMS, arms
from ernie_qa.toml_input import SAFE_NAME

EXAMPLE = Path(__file__).parents[2] / "docs" / "sweep-mini.toml"
HEAD = """
schema = 1
summary = "a grid"

[components]
text_encoder = "sdnq"
transformer = "sdnq"

[sdnq]
dequantize_fp32 = false

[[activation.allow]]
layers = "text_encoder.*"
when = "idle"
why = "a test"

[[activation.allow]]
layers = "transformer.*"
when = "idle"
why = "a test"
"""
SDNQ = """
[grid.sdnq]
weights_dtype = ["int8", "uint4"]
use_quantized_matmul = [true, false]
group_size = [-1, 32]
"""


def written(directory: Path, grid: str) -> Path:
    path = directory / "many.toml"
    path.write_text(HEAD + grid, encoding="utf-8")
    return path


def refused(directory: Path, grid: str) -> str:
    with pytest.raises(RecipeError) as caught:
        arms(written(directory, grid))
    message = str(caught.value)
    assert message.splitlines() == [message]
    assert "many.toml" in message
    return message


def test_every_combination_is_an_arm_of_its_own(tmp_path: Path) -> None:
    found = arms(written(tmp_path, SDNQ))
    assert len({arm.hash for arm in found}) == 8
    assert [arm.name for arm in found[:4]] == [
        "int8-qmm-grow",
        "int8-qmm-g32",
        "int8-no_qmm-grow",
        "int8-no_qmm-g32",
    ]
    for arm in found:
        options = checked_options(arm)["sdnq"]
        assert options["weights_dtype"] in arm.name
        assert options["use_quantized_matmul"] is ("no_qmm" not in arm.name)
        assert options["dequantize_fp32"] is False


def test_components_take_their_allowances_with_them(tmp_path: Path) -> None:
    grid = '[grid]\ncomponents = [["transformer"], ["transformer", "text_encoder"]]\n' + SDNQ
    found = arms(written(tmp_path, grid))
    assert len(found) == 16
    alone, both = found[0], found[-1]
    assert dict(alone.components) == {"transformer": "sdnq"}
    assert [one.layers for one in alone.allowances] == ["transformer.*"]
    assert set(both.components) == {"text_encoder", "transformer"}
    assert len(both.allowances) == 2


def test_arms_that_are_the_same_recipe_are_one(tmp_path: Path) -> None:
    path = tmp_path / "mixed.toml"
    path.write_text(
        'schema = 1\nsummary = "two quantizers"\n[components]\npe = "bitsandbytes"\ntransformer = "sdnq"\n'
        '[grid]\ncomponents = [["pe"], ["transformer"]]\n'
        '[grid.sdnq]\nweights_dtype = ["int8", "uint4"]\nuse_quantized_matmul = [true]\n'
        '[grid.bitsandbytes]\nquant_type = ["nf4"]\n',
        encoding="utf-8",
    )
    assert [dict(arm.components) for arm in arms(path)] == [
        {"pe": "bitsandbytes"},
        {"transformer": "sdnq"},
        {"transformer": "sdnq"},
    ]


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ("[grid]\n", "holds no list"),
        ("[grid.sdnq]\nweights_dtype = []\n", "a list of the values to try"),
        ('[grid.sdnq]\nweights_dtype = "int8"\n', "a list of the values to try"),
        ('[grid.sdnq]\nweights_dtype = ["int8", "int8"]\n', "named twice"),
        ("[grid.sdnq]\ndequantize_fp32 = [true]\n", "dequantize_fp32 stands in [sdnq] too"),
        ('[grid]\nweights_dtype = ["int8"]\n', "as [grid.sdnq]"),
        ('[grid]\ncomponents = [["vae"]]\n', "a component that [components] has: text_encoder, transformer"),
        ("[grid]\ncomponents = [[]]\n", "a component that [components] has"),
        ('[grid]\ncomponents = [["transformer", "transformer"]]\n', "named twice"),
        (f"[grid.sdnq]\nsvd_rank = {list(range(1, MOST_ARMS + 2))}\n", f"allowed are {MOST_ARMS}"),
        ("", "grid: missing"),
    ],
)
def test_a_wrong_grid_is_refused_in_one_line(tmp_path: Path, grid: str, said: str) -> None:
    assert said in refused(tmp_path, grid)


def test_all_refused_arms_and_their_options_are_told_in_one_line(tmp_path: Path) -> None:
    grid = '[grid.sdnq]\nweights_dtype = ["int8", "int99"]\ngroup_size = [32, -7]\n'
    grid += "use_quantized_matmul = [true]\n"
    said = refused(tmp_path, grid)
    assert "3 arms of 4 refused" in said
    assert "int99-g32, int99-gminus7: sdnq.weights_dtype: found" in said
    assert "int8-gminus7: sdnq.group_size: found -7" in said


@given(
    st.dictionaries(
        st.sampled_from(["modules_to_not_convert", "svd_rank", "group_size", "use_svd", "weights_dtype"]),
        st.lists(
            st.booleans()
            | st.integers(-3, 70)
            | st.floats(allow_nan=False, allow_infinity=False, width=16)
            | st.text(string.printable.replace('"', "").replace("\\", "").strip() + "ж/", max_size=70)
            | st.lists(st.sampled_from(["a", "b", "c"]), max_size=2),
            max_size=3,
        ),
        max_size=3,
    )
)
def test_any_grid_gives_safe_names_or_one_line(tmp_path_factory: pytest.TempPathFactory, axes: dict) -> None:
    directory = tmp_path_factory.mktemp("grid")

    def toml(value: object) -> str:
        match value:
            case bool():
                return str(value).lower()
            case str():
                return f'"{value}"'
            case list():
                return f"[{', '.join(map(toml, value))}]"
            case _:
                return repr(value)

    lines = [f"{key} = {toml(values)}" for key, values in axes.items()]
    if "weights_dtype" not in axes:
        lines.append('weights_dtype = ["int8", "uint4"]')
    grid = "[grid.sdnq]\nuse_quantized_matmul = [true, false]\n" + "\n".join(lines)
    try:
        found = arms(written(directory, grid))
    except RecipeError as problem:
        told = str(problem).splitlines()
    else:
        told = []
    assert len(told) <= 1
    if told:
        return
    names = [arm.name for arm in found]
    assert len({name.casefold() for name in names}) == len(names)
    assert all(SAFE_NAME.fullmatch(name) and len(name) <= LONGEST_NAME + 4 for name in names)
    assert len(found) == 2 * math.prod(len(values) for values in axes.values()) * (
        1 if "weights_dtype" in axes else 2
    )


def test_other_commands_refuse_a_grid_and_name_the_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, SDNQ)
    with pytest.raises(RecipeError, match="ernie-qa sweep"):
        find_recipe(path)
    assert main(["gate", "--recipe", str(path), "--dry-run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"`ernie-qa sweep {path}`" in line


def test_a_dry_run_lists_the_documented_arms(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", str(EXAMPLE), "--dry-run"]) == 0
    said = capsys.readouterr().out.splitlines()
    made = arms(EXAMPLE)
    assert len(made) >= 12
    assert said[: len(made)] == [arm.name for arm in made]
    assert len(plan("mini", made).recipes) == len(made)


def test_every_arm_can_be_written_as_a_recipe(tmp_path: Path) -> None:
    for arm in arms(EXAMPLE):
        file = tmp_path / f"{arm.name}.toml"
        file.write_text(as_recipe(arm), encoding="utf-8")
        again = find_recipe(file)
        assert (again.name, again.hash) == (arm.name, arm.hash)
        assert (again.gates, again.allowances) == (arm.gates, arm.allowances)
