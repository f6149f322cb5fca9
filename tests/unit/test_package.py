"""The package rung on the tiny pipeline: what it reads, what passes, and what it has to find and name."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ernie_qa.errors import ModelError
from ernie_qa.models import unchanged
from ernie_qa.models.find import find_model
from ernie_qa.models.unchanged import config_differences, tensor_differences, tokenizer_differences
from ernie_qa.quantizers import sdnq
from ernie_qa.recipe import Recipe, find_recipe
from ernie_qa.record import Record
from ernie_qa.rungs import Arm, package
from ernie_qa.verdict import Check, Status
from tests.arms import arm, judged, observed

QMM, NF4 = "sdnq-uint4-static", "bnb-nf4"
COMPONENTS = ("pe", "text_encoder", "transformer")
PARTS = ("vae", "scheduler", "tokenizer", "pe_tokenizer")


def observe(of: Arm) -> Record:
    return observed(package, of, lambda pipe: None)


def verdicts(record: Record, recipe: str | Recipe, reference: Record | None = None) -> dict[str, Check]:
    return judged(package, record, find_recipe(recipe), reference)


def failed(checks: dict[str, Check]) -> set[str]:
    return {name for name, check in checks.items() if check.status is Status.FAIL}


@pytest.fixture(scope="module")
def records(tiny_model: Path) -> dict[str, Record]:
    return {recipe: observe(arm(tiny_model, recipe)) for recipe in ("bf16", QMM, "sdnq-int8", NF4)}


@pytest.mark.parametrize("recipe", ["bf16", QMM, "sdnq-int8", NF4])
def test_an_honest_arm_passes(records: dict[str, Record], recipe: str) -> None:
    checks = verdicts(records[recipe], recipe, records["bf16"])
    quantized = {
        f"{name}.{level}"
        for name in find_recipe(recipe).components
        for level in ("bytes", "artifact", "weights")
    }
    expected = {"safetensors", *(f"{name}.layers" for name in (*COMPONENTS, "vae"))}
    untouched = {*PARTS, *COMPONENTS}
    assert set(checks) == expected | quantized | {f"{part}.unchanged" for part in untouched}
    not_passed = {name: check.status for name, check in checks.items() if check.status is not Status.PASS}
    assert not_passed == {
        f"{name}.artifact": Status.NOT_APPLICABLE for name in find_recipe(recipe).components
    }


def test_bytes_are_what_the_tensors_hold(records: dict[str, Record]) -> None:
    memory = {
        recipe: record.figures["package"]["components"]["transformer"]["memory"]
        for recipe, record in records.items()
    }
    plain = memory["bf16"]["bfloat16"]
    assert set(memory["bf16"]) == {"bfloat16"}
    assert memory["sdnq-int8"]["int8"] == 2 * memory[QMM]["uint8"]
    # all but the two layers of the time embedding: 256 x 256 weights of BF16 each, biases and norms
    weights = 2 * memory[QMM]["uint8"]
    assert 2 * weights + 2 * 2 * 256 * 256 < plain < 2 * weights + 2 * 2 * 256 * 256 + 50_000
    # what bitsandbytes hides from parameters(): scales of 64 weights each, in 8 bits, and tables
    assert memory[NF4]["uint8"] / 32 < memory[NF4]["quantization state"] < memory[NF4]["uint8"] / 8
    figures = records[QMM].figures["package"]
    assert figures["memory_bytes"] == sum(
        sum(one["memory"].values()) for one in figures["components"].values()
    )
    assert verdicts(records[QMM], QMM)["transformer.bytes"].measured == sum(memory[QMM].values())


def test_disk_bytes_are_those_of_the_directory(records: dict[str, Record], tiny_model: Path) -> None:
    figures = records[QMM].figures["package"]
    stored = tiny_model / "transformer" / "diffusion_pytorch_model.safetensors"
    assert figures["components"]["transformer"]["disk_bytes"] == stored.stat().st_size
    assert figures["disk_bytes"] == sum(
        file.stat().st_size for file in tiny_model.rglob("*") if file.is_file()
    )


def test_disk_bytes_are_without_a_card_that_is_there(tiny_model: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    before = package._disk_bytes(find_model(model))
    for name in ("metrics/bf16", "comparison"):
        (model / name).mkdir(parents=True)
        (model / name / "some.webp").write_bytes(bytes(1000))
    assert package._disk_bytes(find_model(model)) == before


def test_other_bits_than_the_recipes_fail(tiny_model: Path) -> None:
    of = replace(arm(tiny_model, "sdnq-int8"), recipe=find_recipe(QMM))
    checks = verdicts(observe(of), QMM)
    assert {f"{component}.layers" for component in COMPONENTS} <= failed(checks)
    assert "weights_dtype int8, not uint4" in checks["transformer.layers"].message


def test_a_weight_that_is_not_packed_fails(tiny_model: Path) -> None:
    of = arm(tiny_model, QMM)
    layer = of.pipe.transformer.text_proj
    layer.weight = torch.nn.Parameter(layer.weight.data.repeat(2, 1), requires_grad=False)
    checks = verdicts(observe(of), QMM)
    assert failed(checks) == {"transformer.bytes", "transformer.weights"}
    assert "text_proj (not finite, or its parts do not fit" in checks["transformer.weights"].message
    assert "text_proj (32768 B for 32768 weights of 4 bits)" in checks["transformer.bytes"].message


def test_a_component_that_the_recipe_leaves_alone_must_not_be_quantized(tiny_model: Path) -> None:
    for recipe in (QMM, NF4):
        checks = verdicts(observe(replace(arm(tiny_model, recipe), recipe=find_recipe("bf16"))), "bf16")
        assert failed(checks) == {
            f"{component}.{level}" for component in COMPONENTS for level in ("layers", "unchanged")
        }
        assert "leaves it alone" in checks["transformer.layers"].message


class Packed(torch.Tensor):
    """As torchao and quanto hold quantized weights: a tensor that says it is BF16."""


def widen(pipe: Any) -> None:
    pipe.to(torch.float32)


def halve(pipe: Any) -> None:
    pipe.to(torch.float16)


def pack(pipe: Any) -> None:
    for name in (*COMPONENTS, "vae"):
        for layer in getattr(pipe, name).modules():
            if isinstance(layer, torch.nn.Linear):
                packed = layer.weight.data.as_subclass(Packed)
                layer.weight = torch.nn.Parameter(packed, requires_grad=False)


class Int8Linear(torch.nn.Module):
    """A layer of nobody's package, whose weight is no parameter."""

    def __init__(self, plain: torch.nn.Linear) -> None:
        super().__init__()
        scale = plain.weight.data.float().abs().amax(1, True) / 127
        self.register_buffer("scale", scale.bfloat16())
        self.register_buffer("weight", (plain.weight.data / scale).round().to(torch.int8))


def hide_in_buffers(pipe: Any) -> None:
    for name in (*COMPONENTS, "vae"):
        module = getattr(pipe, name)
        for place, layer in list(module.named_modules()):
            if isinstance(layer, torch.nn.Linear):
                module.set_submodule(place, Int8Linear(layer))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (widen, "text_proj.weight (float32)"),
        (halve, "text_proj.weight (float16)"),
        (pack, "text_proj.weight (Packed)"),
        (hide_in_buffers, "text_proj.weight (int8)"),
    ],
)
def test_bf16_is_bf16(tiny_model: Path, change: Callable[[Any], None], named: str) -> None:
    of = arm(tiny_model, "bf16")
    change(of.pipe)
    checks = verdicts(observe(of), "bf16")
    assert failed(checks) == {
        f"{component}.{level}" for component in (*COMPONENTS, "vae") for level in ("layers", "unchanged")
    }
    assert named in checks["transformer.layers"].message


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("component", [*COMPONENTS, "vae"])
def test_a_weight_that_is_not_the_directorys_fails(
    tiny_model: Path, component: str, sampled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unchanged, "SMALL", 0 if sampled else unchanged.SMALL)
    of = arm(tiny_model, "bf16")
    honest = verdicts(observe(of), "bf16")
    assert failed(honest) == set()
    assert ("of a sample" in honest["transformer.unchanged"].message) == sampled
    with torch.no_grad():
        for weight in getattr(of.pipe, component).parameters():
            weight.mul_(1.01)
    assert failed(verdicts(observe(of), "bf16")) == {f"{component}.unchanged"}


def test_one_weight_among_all_is_found_in_a_small_component(tiny_model: Path) -> None:
    of = arm(tiny_model, "bf16")
    with torch.no_grad():
        of.pipe.text_encoder.language_model.layers[0].mlp.up_proj.weight[3, 3] += 1
    check = verdicts(observe(of), "bf16")["text_encoder.unchanged"]
    assert check.status is Status.FAIL
    assert "language_model.layers.0.mlp.up_proj.weight" in check.message


def test_a_tied_weight_may_be_stored_twice_or_once(tiny_model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    live = arm(tiny_model, "bf16").pipe.pe
    assert unchanged.tensor_differences(live, tiny_model / "pe")["differing"] == []
    stored = load_file(tiny_model / "pe" / "model.safetensors")
    assert "lm_head.weight" not in stored
    embedding = stored["model.embed_tokens.weight"]
    save_file({**stored, "lm_head.weight": embedding.clone()}, tmp_path / "model.safetensors")
    assert unchanged.tensor_differences(live, tmp_path)["differing"] == []
    # stored with a head, loaded as a model that has none
    headless = unchanged.tensor_differences(live.model, tmp_path)
    assert headless["differing"] == []
    # a head of its own that the directory does not hold
    live.lm_head.weight = torch.nn.Parameter(embedding + 1)
    assert unchanged.tensor_differences(live, tiny_model / "pe")["differing"] == ["lm_head.weight"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_an_untouched_vae_of_another_type_fails(tiny_model: Path, dtype: torch.dtype) -> None:
    of = arm(tiny_model, QMM)
    of.pipe.vae.to(dtype)
    assert failed(verdicts(observe(of), QMM)) == {"vae.layers", "vae.unchanged"}


def test_weights_stored_in_float32_may_be_loaded_in_bf16(tiny_model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    stored = load_file(tiny_model / "vae" / "diffusion_pytorch_model.safetensors")
    wide = {name: value.float() if value.is_floating_point() else value for name, value in stored.items()}
    save_file(wide, tmp_path / "diffusion_pytorch_model.safetensors")
    vae = arm(tiny_model, "bf16").pipe.vae
    assert unchanged.tensor_differences(vae, tmp_path)["differing"] == []


def test_a_vae_in_8_bits_is_found(tiny_model: Path) -> None:
    of = arm(tiny_model, "bf16")
    convolution = of.pipe.vae.decoder.conv_in
    convolution.weight = torch.nn.Parameter(
        convolution.weight.data.to(torch.float8_e4m3fn), requires_grad=False
    )
    checks = verdicts(observe(of), "bf16")
    assert failed(checks) == {"vae.layers", "vae.unchanged"}
    assert "decoder.conv_in" in checks["vae.layers"].message


@pytest.mark.parametrize("recipe", [QMM, NF4])
def test_what_a_quantized_component_leaves_in_bf16_must_be_the_base_s(tiny_model: Path, recipe: str) -> None:
    of = arm(tiny_model, recipe)
    with torch.no_grad():
        of.pipe.transformer.layers[0].adaLN_mlp_ln.weight.mul_(0.5)
        of.pipe.text_encoder.language_model.embed_tokens.weight[5, 0] += 0.5
    checks = verdicts(observe(of), recipe)
    assert failed(checks) == {"transformer.unchanged", "text_encoder.unchanged"}
    assert "layers.0.adaLN_mlp_ln.weight" in checks["transformer.unchanged"].message
    assert "embed_tokens.weight" in checks["text_encoder.unchanged"].message


def nudge_vae(pipe: Any) -> None:
    with torch.no_grad():
        pipe.vae.decoder.conv_in.weight[0, 0, 0, 0] += 0.01


def shift_scheduler(pipe: Any) -> None:
    pipe.scheduler.register_to_config(shift=1.0)


def add_token(pipe: Any) -> None:
    pipe.tokenizer.add_tokens(["новое"])


def change_template(pipe: Any) -> None:
    pipe.pe_tokenizer.chat_template = "{{ messages[0]['content'] }}"


@pytest.mark.parametrize(
    ("change", "part", "named"),
    [
        (nudge_vae, "vae", "decoder.conv_in.weight"),
        (shift_scheduler, "scheduler", "shift"),
        (add_token, "tokenizer", "added_tokens"),
        (change_template, "pe_tokenizer", "chat_template"),
    ],
)
def test_a_part_that_is_not_the_bases_any_more_fails(
    tiny_model: Path, records: dict[str, Record], change: Callable[[Any], None], part: str, named: str
) -> None:
    of = arm(tiny_model, "bf16")
    change(of.pipe)
    checks = verdicts(observe(of), "bf16", records["bf16"])
    assert failed(checks) == {f"{part}.unchanged"}
    assert named in checks[f"{part}.unchanged"].message


def test_a_part_that_is_not_the_references_fails(records: dict[str, Record]) -> None:
    figures = dict(records["bf16"].figures["package"])
    figures["unchanged"] = {
        **figures["unchanged"],
        "vae": {**figures["unchanged"]["vae"], "sha256": "0" * 64},
    }
    other = replace(records["bf16"], figures={"package": figures})
    assert failed(verdicts(records[QMM], QMM, other)) == {"vae.unchanged"}


def test_a_pickle_in_the_directory_fails(tiny_model: Path, tmp_path: Path) -> None:
    of = arm(tiny_model, "bf16")
    copy = tmp_path / "copy"
    shutil.copytree(tiny_model, copy)
    model = find_model(copy)
    # what no component names is never read
    (copy / "notes").mkdir()
    (copy / "notes" / "training.pt").write_bytes(b"")
    assert failed(verdicts(observe(replace(of, model=model)), "bf16")) == set()
    for name in ("vae/diffusion_pytorch_model.bin", "merged.ckpt"):
        (copy / name).write_bytes(b"")
        checks = verdicts(observe(replace(of, model=model)), "bf16")
        assert failed(checks) == {"safetensors"}
        assert name in checks["safetensors"].message


def test_an_artifact_is_compared_with_what_was_loaded(tiny_model: Path, tmp_path: Path) -> None:
    first, stored = arm(tiny_model, QMM), tmp_path / "artifact"
    first.pipe.save_pretrained(stored)
    record = observe(arm(stored, QMM))
    checks = verdicts(record, QMM)
    assert {check.status for name, check in checks.items() if ".weights" not in name} == {Status.PASS}
    # there is no BF16 to quantize again
    assert checks["pe.weights"].status is Status.NOT_COMPARABLE
    components = {name: dict(found) for name, found in record.figures["package"]["components"].items()}
    components["transformer"]["stored_bytes"] //= 2
    figures = {**record.figures["package"], "components": components}
    assert failed(verdicts(replace(record, figures={"package": figures}), QMM)) == {"transformer.artifact"}


def test_a_probe_that_does_not_know_the_release_accuses_nobody(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sdnq, "_KERNEL_OPS", frozenset({"sdnq::renamed_mm"}))
    checks = verdicts(observe(arm(tiny_model, QMM)), QMM)
    assert failed(checks) == set()
    assert {checks[f"{name}.layers"].status for name in COMPONENTS} == {Status.NOT_COMPARABLE}
    assert checks["vae.unchanged"].status is Status.PASS


def test_a_pipeline_without_the_component_fails(tiny_model: Path) -> None:
    of = arm(tiny_model, QMM)
    of.pipe.pe = None
    assert failed(verdicts(observe(of), QMM)) == {"pe.layers"}


def test_a_record_without_figures_or_of_another_recipe_says_nothing(records: dict[str, Record]) -> None:
    empty = verdicts(replace(records[QMM], figures={}), QMM)
    assert [check.status for check in empty.values()] == [Status.NOT_COMPARABLE]
    other = verdicts(records[NF4], QMM)
    assert {other[f"{name}.layers"].status for name in COMPONENTS} == {Status.NOT_COMPARABLE}


def test_the_layout_of_a_tensor_in_memory_is_no_difference(tiny_model: Path) -> None:
    vae = arm(tiny_model, "bf16").pipe.vae
    plain = tensor_differences(vae, tiny_model / "vae")
    vae.to(memory_format=torch.channels_last)
    assert tensor_differences(vae, tiny_model / "vae") == plain
    assert plain["differing"] == []
    assert plain["compared"] == len(vae.state_dict())


def test_a_tensor_that_only_one_side_has_is_a_difference(tiny_model: Path) -> None:
    vae = arm(tiny_model, "bf16").pipe.vae
    vae.register_buffer("extra", torch.zeros(1))
    del vae.decoder.conv_out
    found = tensor_differences(vae, tiny_model / "vae")["differing"]
    assert found == ["decoder.conv_out.bias", "decoder.conv_out.weight", "extra"]


def test_truncation_and_padding_are_no_difference(tiny_model: Path) -> None:
    tokenizer = arm(tiny_model, "bf16").pipe.tokenizer
    before = tokenizer_differences(tokenizer, tiny_model / "tokenizer")
    tokenizer(["one", "a longer text"], truncation=True, max_length=4, padding=True)
    assert tokenizer_differences(tokenizer, tiny_model / "tokenizer") == before
    assert before["differing"] == []


def test_an_unreadable_configuration_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "scheduler_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match=r"scheduler_config\.json: not valid JSON"):
        config_differences({}, tmp_path / "scheduler_config.json")
