"""Pipelines that were quantized before and saved: what is loaded, what is refused, what the rungs find."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ernie_qa.errors import ModelError
from ernie_qa.judge import judge
from ernie_qa.models.artifact import check_artifact
from ernie_qa.models.find import find_model
from ernie_qa.observe import observe
from ernie_qa.pipeline import load_pipeline, provenance
from ernie_qa.quantizers.bitsandbytes import _diffusers_on_cpu
from ernie_qa.recipe import QUANTIZABLE, find_recipe
from ernie_qa.record import load_record
from ernie_qa.rungs import Arm, activation, package
from ernie_qa.verdict import Check, Status
from tests.arms import SUITE, call, judged, observed

QMM, DEQUANT, INT8, NF4 = "sdnq-uint4-static", "sdnq-uint4-dequant", "sdnq-int8", "bnb-nf4"
EXCEPTING = """
schema = 1
summary = "UINT4 but for one kind of layer"

[components]
transformer = "sdnq"
pe = "sdnq"
text_encoder = "sdnq"

[sdnq]
weights_dtype = "uint4"
group_size = 0
dequantize_fp32 = false
use_quantized_matmul = true
modules_to_not_convert = ["up_proj"]
"""


@pytest.fixture(scope="module")
def saved(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`saved(recipe)`: the tiny model, quantized in memory and saved, which is done once a recipe."""
    places: dict[str, Path] = {}

    def save(recipe: str) -> Path:
        if recipe not in places:
            places[recipe] = tmp_path_factory.mktemp("artifacts") / recipe
            # saved before the first forward, which repacks NF4's scales on some CPUs
            with _diffusers_on_cpu():
                load_pipeline(tiny_model, recipe, "cpu").save_pretrained(places[recipe])
        return places[recipe]

    return save


@pytest.fixture
def copied(saved: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """`copied(recipe)`: such an artifact, to be spoilt."""
    return lambda recipe: Path(shutil.copytree(saved(recipe), tmp_path / recipe))


def loaded(tiny_model: Path, recipe: str | Path, artifact: Path) -> Arm:
    pipe = load_pipeline(tiny_model, recipe, "cpu", artifact=artifact)
    return Arm(pipe, find_model(tiny_model), find_recipe(recipe), SUITE, None, artifact=find_model(artifact))


def packaged(tiny_model: Path, recipe: str | Path, artifact: Path) -> dict[str, Check]:
    """What the package rung says of an artifact."""
    arm = loaded(tiny_model, recipe, artifact)
    return judged(package, observed(package, arm, lambda pipe: None), arm.recipe)


def failed(checks: dict[str, Check]) -> set[str]:
    return {name for name, check in checks.items() if check.status is Status.FAIL}


def refused(model: Path, recipe: str, artifact: Path | None = None) -> str:
    with pytest.raises(ModelError) as raised:
        load_pipeline(model, recipe, "cpu", artifact=artifact)
    message = str(raised.value)
    assert message.splitlines() == [message]
    return message


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def quantization(component: Path) -> dict[str, Any]:
    return dict(json.loads((component / "config.json").read_text())["quantization_config"])


@pytest.mark.parametrize("recipe", [QMM, NF4])
def test_an_artifact_is_what_its_recipe_says_and_runs_so(
    tiny_model: Path, small_suite: Path, tmp_path: Path, saved: Callable[[str], Path], recipe: str
) -> None:
    pipe = load_pipeline(tiny_model, recipe, "cpu", artifact=saved(recipe))
    origin = provenance(pipe)
    assert origin is not None
    assert origin.artifact == find_model(saved(recipe))
    assert origin.model == find_model(tiny_model)
    record = observe(pipe, recipe, small_suite)
    assert record.artifact == find_model(saved(recipe)).identity
    assert record.model == find_model(tiny_model).identity
    checks = [
        check for check in judge(record, None, recipe).checks if check.rung in ("package", "activation")
    ]
    assert {check.status for check in checks} == {Status.PASS}
    named = {(check.name, check.component) for check in checks}
    assert {("package.artifact", name) for name in QUANTIZABLE} <= named
    assert {("activation.kernels", name) for name in QUANTIZABLE} <= named
    # the bytes on disk are the artifact's
    components = record.figures["package"]["components"]
    for name in QUANTIZABLE:
        (weights,) = (saved(recipe) / name).glob("*.safetensors")
        assert components[name]["disk_bytes"] == weights.stat().st_size
        assert components[name]["stored"] == find_recipe(recipe).components[name]
    record.save(tmp_path / "record")
    assert load_record(tmp_path / "record").artifact == record.artifact


def test_an_artifact_draws_what_was_quantized_in_memory(
    tiny_model: Path, saved: Callable[[str], Path]
) -> None:
    for recipe in (QMM, NF4):
        first = load_pipeline(tiny_model, recipe, "cpu")
        again = load_pipeline(tiny_model, recipe, "cpu", artifact=saved(recipe))
        assert torch.equal(call(first.transformer), call(again.transformer))


def test_scales_in_float32_are_rounded_when_a_transformer_is_loaded(tiny_model: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "wide.toml"
    recipe.write_text(EXCEPTING.replace("dequantize_fp32 = false", "dequantize_fp32 = true"))
    first = load_pipeline(tiny_model, recipe, "cpu")
    first.save_pretrained(tmp_path / "artifact")
    again = load_pipeline(tiny_model, recipe, "cpu", artifact=tmp_path / "artifact")
    ours, theirs = (pipe.transformer.get_submodule("text_proj").scale for pipe in (first, again))
    assert torch.equal(ours.bfloat16().float(), theirs)
    assert not torch.equal(ours, theirs)
    assert torch.equal(call(first.text_encoder), call(again.text_encoder))


def test_the_switch_that_saving_turns_off_is_applied_and_told(tiny_model: Path, tmp_path: Path) -> None:
    from sdnq.loader import apply_sdnq_options_to_model

    pipe = load_pipeline(tiny_model, DEQUANT, "cpu")
    for name in QUANTIZABLE:
        apply_sdnq_options_to_model(getattr(pipe, name), use_quantized_matmul=True)
    pipe.save_pretrained(tmp_path / "artifact")
    # sdnq can't write to a diffusers configuration, and swallows the error
    assert quantization(tmp_path / "artifact" / "transformer")["use_quantized_matmul"] is False
    pipe = load_pipeline(tiny_model, QMM, "cpu", artifact=tmp_path / "artifact")
    assert pipe.transformer.quantization_config.use_quantized_matmul is True
    checks = packaged(tiny_model, QMM, tmp_path / "artifact")
    assert failed(checks) == set()
    told = "its config.json says use_quantized_matmul=False: a loader that goes by it gets that"
    assert told in checks["transformer.artifact"].message


@pytest.mark.parametrize(
    ("recipe", "stored", "message"),
    [
        (QMM, "bf16", "pe: not stored quantized, but recipe sdnq-uint4-static quantizes it with sdnq"),
        (QMM, NF4, "pe: already quantized by 'bitsandbytes', not by sdnq"),
        (NF4, QMM, "pe: already quantized by 'sdnq', not by bitsandbytes"),
        ("bf16", QMM, "recipe bf16 quantizes nothing, so it has no artifact"),
    ],
)
def test_an_artifact_of_another_recipe_is_refused_before_anything_loads(
    tiny_model: Path, saved: Callable[[str], Path], recipe: str, stored: str, message: str
) -> None:
    assert message in refused(tiny_model, recipe, saved(stored))
    with pytest.raises(ModelError):
        check_artifact(find_model(tiny_model), find_recipe(recipe), find_model(saved(stored)))


def test_a_component_that_the_recipe_leaves_alone_must_be_stored_so(
    tiny_model: Path, saved: Callable[[str], Path], write_recipe: Callable[[str, float], Path]
) -> None:
    recipe = write_recipe("transformer-only", 1.0)
    with pytest.raises(ModelError, match=r"pe: stored quantized by 'sdnq', but recipe transformer-only leav"):
        load_pipeline(tiny_model, recipe, "cpu", artifact=saved(INT8))


def test_a_quantized_model_is_no_bf16_model(saved: Callable[[str], Path]) -> None:
    for recipe in (QMM, "bf16"):
        message = refused(saved(QMM), recipe)
        assert message == f"{saved(QMM)}/pe: stored quantized by 'sdnq': name the BF16 model as the model"


def test_a_component_that_is_not_in_the_artifact_is_named(
    tiny_model: Path, copied: Callable[[str], Path]
) -> None:
    artifact = copied(QMM)
    shutil.rmtree(artifact / "pe_tokenizer")
    wanted = f"{artifact}/pe_tokenizer: missing, but model_index.json names this component"
    assert refused(tiny_model, QMM, artifact) == wanted
    edit(artifact / "model_index.json", pe_tokenizer=[None, None])
    assert f"{artifact}: has no pe_tokenizer, which tiny has" in refused(tiny_model, QMM, artifact)


def test_a_pickle_in_the_artifact_is_refused(tiny_model: Path, copied: Callable[[str], Path]) -> None:
    artifact = copied(QMM)
    (artifact / "transformer" / "diffusion_pytorch_model.bin").write_bytes(b"")
    assert "diffusion_pytorch_model.bin: a pickle checkpoint" in refused(tiny_model, QMM, artifact)


def test_other_bits_than_the_recipes_are_found(tiny_model: Path, saved: Callable[[str], Path]) -> None:
    checks = packaged(tiny_model, QMM, saved(INT8))
    assert {f"{name}.layers" for name in QUANTIZABLE} <= failed(checks)
    assert "weights_dtype int8, not uint4" in checks["transformer.layers"].message


def test_another_double_quantization_than_the_recipes_is_found(
    tiny_model: Path, tmp_path: Path, saved: Callable[[str], Path]
) -> None:
    recipe = tmp_path / "single.toml"
    text = find_recipe(NF4).path.read_text()
    recipe.write_text(text.replace("double_quant = true", "double_quant = false"))
    assert recipe.read_text() != text
    checks = packaged(tiny_model, recipe, saved(NF4))
    assert failed(checks) == {f"{name}.layers" for name in QUANTIZABLE}
    assert "double_quant True, not False" in checks["transformer.layers"].message


def test_a_layer_that_the_recipe_excepts_must_not_be_quantized(
    tiny_model: Path, tmp_path: Path, saved: Callable[[str], Path]
) -> None:
    recipe = tmp_path / "excepting.toml"
    recipe.write_text(EXCEPTING)
    checks = packaged(tiny_model, recipe, saved(QMM))
    assert failed(checks) == {f"{name}.layers" for name in QUANTIZABLE}
    assert "1 layer is quantized and ought not to be: layers.0.mlp.up_proj (SDNQ skips up_proj)" in (
        checks["transformer.layers"].message
    )


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("bnb_4bit_use_double_quant", False, "double_quant=False"),
        ("bnb_4bit_quant_type", "fp4", "quant_type=fp4"),
    ],
)
def test_a_configuration_that_claims_otherwise_than_the_tensors_is_told(
    tiny_model: Path, copied: Callable[[str], Path], key: str, value: object, said: str
) -> None:
    artifact = copied(NF4)
    transformer = artifact / "transformer"
    edit(transformer / "config.json", quantization_config={**quantization(transformer), key: value})
    arm = loaded(tiny_model, NF4, artifact)
    checks = judged(package, observed(package, arm, lambda pipe: None), arm.recipe)
    assert failed(checks) == set()
    assert f"its config.json says {said}: a loader that goes by it" in checks["transformer.artifact"].message
    assert failed(judged(activation, observed(activation, arm), arm.recipe)) == {"transformer.flag"}


def nudge(file: Path) -> None:
    tensors = load_file(file)
    tensors["decoder.conv_in.weight"][0, 0, 0, 0] += 0.1
    save_file(tensors, file, metadata={"format": "pt"})


def test_a_part_that_the_artifact_changed_is_found(tiny_model: Path, copied: Callable[[str], Path]) -> None:
    artifact = copied(QMM)
    nudge(artifact / "vae" / "diffusion_pytorch_model.safetensors")
    edit(artifact / "scheduler" / "scheduler_config.json", shift=1.0)
    checks = packaged(tiny_model, QMM, artifact)
    assert failed(checks) == {"vae.unchanged", "scheduler.unchanged"}
    assert "decoder.conv_in.weight" in checks["vae.unchanged"].message
