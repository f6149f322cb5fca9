"""`ernie-qa repair`: a recipe that fails is mended by layers in BF16, or it is said why not."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ernie_qa.cli import main
from ernie_qa.execute import Session
from ernie_qa.plan import plan
from ernie_qa.recipe import find_recipe
from ernie_qa.repair import Bench, repair
from ernie_qa.repair.candidates import layers, needed, quantized
from ernie_qa.repair.told import lines
from ernie_qa.rungs.components import values
from ernie_qa.verdict import Status

RECIPE = """schema = 1
summary = "UINT2 in the transformer"

[components]
transformer = "sdnq"

[sdnq]
weights_dtype = "uint2"
use_quantized_matmul = false

[gates.small.limits."images.lpips_mean"]
max = 1
about = "suite"
source = "chosen for this test"

[gates.small.limits."components.transformer_l2_max"]
max = {part}
source = "chosen for this test"

[gates.small.limits."components.transformer_layer_l2_max"]
max = {layer}
source = "chosen for this test"
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[[float, float], Path]:
    """UINT2 with these limits on the transformer's error and on that of its worst layer."""

    def write(part: float, layer: float) -> Path:
        path = tmp_path / "uint2.toml"
        path.write_text(RECIPE.format(part=part, layer=layer), encoding="utf-8")
        return path

    return write


@pytest.fixture
def drawn(tiny_model: Path, small_suite: Path, tmp_path: Path) -> list[str]:
    """What every command here draws, and where it writes."""
    given = {"model": tiny_model, "suite": small_suite, "device": "cpu", "output": tmp_path / "kept.toml"}
    return [f"--{name}={value}" for name, value in given.items()]


def test_a_failing_recipe_is_repaired(
    tiny_model: Path,
    small_suite: Path,
    tmp_path: Path,
    drawn: list[str],
    recipe: Callable[[float, float], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    session = Session(plan(tiny_model, [recipe(100, 100)], small_suite))
    (outcome,) = session
    worst = sorted(layer.error for layer in layers(outcome.record))
    whole, _ = values(outcome.record.figures["components"])["transformer_l2_max"]
    assert whole is not None
    # two layers are beyond their limit, and keeping them is not enough
    broken, output = recipe(0.05 * whole, (worst[-3] + worst[-2]) / 2), tmp_path / "kept.toml"

    assert main(["repair", str(broken), *drawn]) == 0
    said = capsys.readouterr().out
    assert "uint2 is repaired by keeping" in said
    assert "Without any single one of them it fails" in said
    assert "Closest to a limit: components.transformer_l" in said
    new = find_recipe(output)
    assert new.gates == find_recipe(broken).gates
    assert "uint2 failed components.transformer_l2_max" in output.read_text(encoding="utf-8")

    again = Session(plan(tiny_model, [broken, new], small_suite), all_rungs=True)
    before, after = again
    assert (before.verdict.status, after.verdict.status) == (Status.FAIL, Status.PASS)
    was, now = (set(quantized(one.record)["transformer"]) for one in (before, after))
    kept = was - now
    assert 2 < len(kept) < len(was)
    assert now < was
    assert all(name in said for name in kept)

    must = {one.name for one in needed(layers(before.record), before.verdict)}
    assert len(must) == 2
    assert must <= kept
    bench = Bench(again.plan, find_recipe(broken), again.records["bf16"], "kept")
    for one in kept:
        outcome = bench.tried({("transformer", name) for name in kept - {one}})
        assert outcome.verdict.status is Status.FAIL, one


def test_what_cannot_be_repaired_is_told(
    tmp_path: Path,
    drawn: list[str],
    recipe: Callable[[float, float], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["repair", str(recipe(100, 100)), *drawn]) == 0
    assert capsys.readouterr().out == "uint2 passes already: nothing was written\n"

    assert main(["repair", str(recipe(100, 0.0)), *drawn]) == 1
    said = capsys.readouterr().out
    assert "every quantized layer of transformer is beyond its limit: leave it out of [components]" in said

    assert main(["repair", str(recipe(1e-9, 100)), *drawn, "--trials", "2"]) == 1
    said = capsys.readouterr().out
    assert said.startswith(
        "uint2 was not repaired: none of 2 sets of layers passes; that is all --trials 2 allows\nbest found:"
    )
    assert not (tmp_path / "kept.toml").exists()


def test_layers_that_are_kept_only_for_their_name_are_told(
    tiny_model: Path, small_suite: Path, recipe: Callable[[float, float], Path]
) -> None:
    """NF4: what diffusers is told of the transformer, transformers takes for the language model too."""
    path = recipe(100, 100)
    idle = '[[activation.allow]]\nlayers = "text_encoder.{}.*"\nwhen = "idle"\nwhy = "no picture"\n'

    def write(limit: float) -> None:
        text = RECIPE.format(part=100, layer=limit)
        options = text[text.index("[sdnq]") : text.index("[gates")]
        text = text.replace(options, idle.format("vision_tower") + idle.format("multi_modal_projector"))
        text = text.replace('transformer = "sdnq"', 'transformer = "nf4"\ntext_encoder = "nf4"')
        path.write_text(text.replace('"nf4"', '"bitsandbytes"'), encoding="utf-8")

    write(100)
    (outcome,) = Session(plan(tiny_model, [path], small_suite))
    own = {one.name: one.error for one in layers(outcome.record) if one.component == "transformer"}
    write(0.999 * own["layers.0.mlp.up_proj"])
    found = repair(tiny_model, path, small_suite, name="kept", trials=5)
    assert found.after is not None
    assert found.after.verdict.status is Status.PASS
    assert ("transformer", "layers.0.mlp.up_proj") in found.kept
    other = "language_model.layers.0.mlp.up_proj"
    assert ("text_encoder", other) in found.unasked
    assert set(found.unasked) < set(found.kept)
    told = next(line for line in lines(found, 10_000) if line.startswith("Not asked for"))
    assert f"{other} (text_encoder)" in told


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("new.txt", "needed is the name of a new .toml file"),
        ("uint2.toml", "exists already; name another file"),
        ("nowhere/new.toml", "there is no directory"),
    ],
)
def test_a_bad_place_is_told_before_anything_is_drawn(
    tmp_path: Path,
    recipe: Callable[[float, float], Path],
    capsys: pytest.CaptureFixture[str],
    output: str,
    message: str,
) -> None:
    assert main(["repair", str(recipe(1, 1)), "--output", str(tmp_path / output)]) == 2
    assert message in capsys.readouterr().err


def test_a_recipe_that_quantizes_nothing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["repair", "bf16", "--output", str(tmp_path / "new.toml"), "--device", "cpu"]) == 2
    assert "quantizes nothing: there is no layer to keep" in capsys.readouterr().err
