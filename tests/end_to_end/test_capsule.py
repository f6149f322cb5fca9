"""Capsules of the miniature: honest installs pass, and what differs is named."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, load_file, save, save_file
from torch.nn.attention import SDPBackend, sdpa_kernel

from ernie_qa.capsules.capsule import Capsule, read_capsule
from ernie_qa.capsules.container import MAX_BYTES
from ernie_qa.capsules.installed import Answer, compared
from ernie_qa.capsules.publish import export
from ernie_qa.capsules.sameness import Finding
from ernie_qa.cli import main
from ernie_qa.errors import OutOfMemoryError
from ernie_qa.observe import observe
from ernie_qa.pipeline import load_pipeline
from ernie_qa.quiet import hushed
from ernie_qa.verdict import Status, worst
from tests.lies import LAYER, swap_one_forward, switch_all_off

UINT4, NF4 = "sdnq-uint4-static", "bnb-nf4"
PARTS = ("pe", "text_encoder", "transformer")
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "DNNL_MAX_CPU_ISA": "AVX2"}
Places = dict[str, tuple[Path, Path]]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """Recipe -> an artifact that was saved after quantizing, and its capsule."""
    found = {}
    for recipe in (UINT4, NF4):
        place = tmp_path_factory.mktemp(recipe)
        with hushed():
            load_pipeline("mini", recipe, "cpu").save_pretrained(place / "artifact")
        file = place / "published.capsule"
        command = ["capsule", "export", "mini", str(place / "artifact"), "--recipe", recipe, "-o", str(file)]
        assert main([*command, "--device", "cpu"]) == 0
        found[recipe] = (place / "artifact", file)
    return found


@pytest.fixture(scope="module")
def capsules(places: Places) -> dict[str, Capsule]:
    return {recipe: read_capsule(file) for recipe, (_, file) in places.items()}


def checked(
    capsys: pytest.CaptureFixture[str], capsule: Path, model: Path | str, *more: str
) -> tuple[int, dict[str, Any]]:
    """The exit code and the answer of `ernie-qa capsule check --json`."""
    capsys.readouterr()
    code = main(["capsule", "check", str(capsule), str(model), "--device", "cpu", "--json", *more])
    return code, json.loads(capsys.readouterr().out)


def failed(findings: tuple[Finding, ...]) -> dict[tuple[str | None, str], Finding]:
    return {(one.component, one.about): one for one in findings if one.status is Status.FAIL}


def wrong(answer: dict[str, Any]) -> dict[tuple[str | None, str], dict[str, Any]]:
    return {(one["component"], one["about"]): one for one in answer["findings"] if one["status"] != "same"}


@pytest.mark.parametrize("recipe", [UINT4, NF4])
def test_what_was_published_is_the_same(
    places: Places, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact, file = places[recipe]
    assert file.stat().st_size < MAX_BYTES / 5
    code, answer = checked(capsys, file, artifact)
    assert (code, answer["status"]) == (0, "same")
    assert answer["notes"] == ["the files of the artifact are those of the capsule"]
    seen = {(one["component"], one["about"]) for one in answer["findings"]}
    for component in PARTS:
        assert {(component, about) for about in ("weights", "layers", "outputs", "kernels")} <= seen
    assert {("vae", "weights"), ("vae", "outputs"), ("scheduler", "sigmas"), ("tokenizer", "ids")} <= seen
    assert all(one["measured"] in (None, 0.0) for one in answer["findings"])


@pytest.mark.parametrize("recipe", [UINT4, NF4])
def test_quantized_here_is_the_same(places: Places, recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer = checked(capsys, places[recipe][1], "mini", "--recipe", recipe, "--steps", "1")
    assert (code, answer["status"]) == (0, "same"), wrong(answer)


@pytest.mark.parametrize("recipe", [UINT4, NF4])
def test_other_instructions_are_no_other_model(places: Places, recipe: str) -> None:
    artifact, file = places[recipe]
    command = [sys.executable, "-m", "ernie_qa.cli", "capsule", "check", str(file), str(artifact)]
    ran = subprocess.run(
        [*command, "--device", "cpu", "--json"], env={**os.environ, **AVX2}, capture_output=True, text=True
    )
    answer = json.loads(ran.stdout)
    assert (ran.returncode, answer["status"]) == (0, "same"), wrong(answer)
    if torch.backends.cpu.get_cpu_capability() != "AVX2":
        assert any(one["measured"] for one in answer["findings"])


def test_another_attention_kernel_is_no_other_model(capsules: dict[str, Capsule]) -> None:
    for recipe, capsule in capsules.items():
        with hushed(), sdpa_kernel(SDPBackend.MATH):
            findings, _ = compared(capsule, load_pipeline("mini", recipe, "cpu"))
        assert worst(one.status for one in findings) is Status.PASS, failed(findings)
        assert any(one.measured for one in findings)


def scale_off(part: str, layer: str, factor: float) -> Callable[[Any], None]:
    def harm(pipe: Any) -> None:
        found = getattr(pipe, part).get_submodule(layer)
        found.scale.mul_(factor)
        found.zero_point.mul_(factor)

    return harm


def nf4_scale_off(pipe: Any) -> None:
    state = pipe.transformer.get_submodule(LAYER).weight.quant_state
    state.state2.absmax.mul_(1.02)
    state.offset.mul_(1.02)


def plain() -> torch.nn.Module:
    pipe: Any = load_pipeline("mini", "bf16", "cpu")
    found: torch.nn.Module = pipe.transformer.get_submodule(LAYER)
    return found


def int8() -> torch.nn.Module:
    from sdnq import SDNQConfig, sdnq_quantize_layer

    config = SDNQConfig(weights_dtype="int8", dequantize_fp32=False, use_quantized_matmul=True)
    found: torch.nn.Module = sdnq_quantize_layer(plain(), config, torch_dtype=torch.bfloat16)[0]
    return found


def replaced(layer: Callable[[], torch.nn.Module]) -> Callable[[Any], None]:
    parent, _, name = LAYER.rpartition(".")
    return lambda pipe: setattr(pipe.transformer.get_submodule(parent), name, layer())


def scaled(part: str, tensor: str) -> Callable[[Any], None]:
    return lambda pipe: getattr(pipe, part).get_parameter(tensor).mul_(1.1)


def other_shift(pipe: Any) -> None:
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, shift=5.0)


def false_flag(pipe: Any) -> None:
    pipe.text_encoder.quantization_config.use_quantized_matmul = False


NORM = "language_model.layers.2.input_layernorm.weight"
DOWN = "model.layers.1.mlp.down_proj"
CONV = "decoder.conv_in.weight"

FAULTS: dict[str, tuple[str, Callable[[Any], None], set[tuple[str, str]], str | None]] = {
    "scale": (UINT4, scale_off("transformer", LAYER, 1.02), {("transformer", "layers")}, LAYER),
    "nf4-scale": (NF4, nf4_scale_off, {("transformer", "layers")}, LAYER),
    "plain": (UINT4, replaced(plain), {("transformer", "states"), ("transformer", "kernels")}, LAYER),
    "nf4-plain": (NF4, replaced(plain), {("transformer", "states"), ("transformer", "kernels")}, LAYER),
    "int8": (UINT4, replaced(int8), {("transformer", "states")}, LAYER),
    "forward": (UINT4, swap_one_forward, {("transformer", "states"), ("transformer", "kernels")}, LAYER),
    "text-encoder": (NF4, scaled("text_encoder", NORM), {("text_encoder", "weights")}, NORM),
    "pe": (UINT4, scale_off("pe", DOWN, 0.95), {("pe", "layers")}, DOWN),
    "vae": (UINT4, scaled("vae", CONV), {("vae", "weights")}, CONV),
    "words": (UINT4, lambda pipe: pipe.tokenizer.add_tokens(["poster"]), {("tokenizer", "ids")}, None),
    "shift": (NF4, other_shift, {("scheduler", "sigmas")}, None),
    "flag": (UINT4, false_flag, {("text_encoder", "flag")}, None),
    "off": (UINT4, switch_all_off, {(part, "kernels") for part in PARTS}, None),
    "no-pe": (NF4, lambda pipe: pipe.register_modules(pe=None), {("pe", "states")}, None),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(capsules: dict[str, Capsule], fault: str) -> None:
    recipe, harm, wanted, layer = FAULTS[fault]
    with hushed(), torch.no_grad():
        pipe = load_pipeline("mini", recipe, "cpu")
        harm(pipe)
        findings, _ = compared(capsules[recipe], pipe)
    found = failed(findings)
    assert wanted <= set(found), found
    assert {component for component, _ in found} == {component for component, _ in wanted}, found
    if layer is not None:
        for key in wanted:
            assert found[key].layers == (layer,), found[key]
            assert layer in found[key].message


def test_another_recipe_is_told(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer = checked(capsys, places[UINT4][1], "mini", "--recipe", "sdnq-uint4-dequant")
    assert (code, answer["status"]) == (1, "differs")
    assert {(None, "recipe"), *((part, "kernels") for part in PARTS)} <= set(wrong(answer))


def test_layers_of_other_bits_are_not_called_equal(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    code, answer = checked(capsys, places[UINT4][1], "mini", "--recipe", "sdnq-int8", "--steps", "1")
    assert (code, answer["status"]) == (1, "differs")
    told = {one["component"]: one["message"] for one in answer["findings"] if one["about"] == "weights"}
    for component in PARTS:
        assert "in layers that are set up otherwise were not compared" in told[component]


def test_another_quantizer_is_told_before_anything_is_loaded(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    code, answer = checked(capsys, places[UINT4][1], places[NF4][0])
    assert code == 1
    assert {(one["component"], one["about"]) for one in answer["findings"]} == {
        (part, "stored") for part in PARTS
    }
    assert "stored by bitsandbytes, published by sdnq" in answer["findings"][0]["message"]


def test_another_model_is_told(places: Places, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer = checked(capsys, places[NF4][1], tiny_model, "--recipe", NF4)
    assert code == 1
    assert {*PARTS, "vae"} <= {component for component, _ in wrong(answer)}


def test_one_flipped_bit_in_a_stored_layer_is_named(
    places: Places, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact, capsule = places[UINT4]
    shutil.copytree(artifact, tmp_path / "damaged")
    file = next((tmp_path / "damaged" / "transformer").glob("*.safetensors"))
    tensors = load_file(file)
    tensors[f"{LAYER}.weight"].view(-1)[1000] ^= 1
    save_file(tensors, file, {"format": "pt"})
    code, answer = checked(capsys, capsule, tmp_path / "damaged")
    found = wrong(answer)
    assert (code, list(found)) == (1, [("transformer", "weights")])
    assert found["transformer", "weights"]["layers"] == [LAYER]


def test_from_a_record_of_bf16_it_is_the_same_capsule(
    places: Places, capsules: dict[str, Capsule], tmp_path: Path
) -> None:
    with hushed():
        record = observe(load_pipeline("mini", "bf16", "cpu"), "bf16", "mini")
    record.save(tmp_path / "bf16")
    made = export(str(tmp_path / "bf16"), UINT4, artifact=str(places[UINT4][0]), device="cpu")
    for name in ("model", "artifact", "parts", "cases", "words", "left_out"):
        assert getattr(made, name) == getattr(capsules[UINT4], name), name
    ours, theirs = load(made.content), load(capsules[UINT4].content)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("mini",), "say --recipe"),
        (("ARTIFACT", "--recipe", NF4), "is quantized already"),
        (("mini", "--recipe", NF4, "--steps", "0"), "needed is 1 or more"),
    ],
)
def test_bad_input_is_one_line(
    places: Places, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], said: str
) -> None:
    artifact, file = places[NF4]
    capsys.readouterr()
    asked = [str(artifact) if one == "ARTIFACT" else one for one in more]
    assert main(["capsule", "check", str(file), *asked, "--device", "cpu"]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_what_holds_nothing_to_compare_cannot_tell(capsules: dict[str, Capsule]) -> None:
    whole = capsules[NF4]
    tensors = {
        name: one
        for name, one in load(whole.content).items()
        if not name.startswith(("published/pe/", "published/layers/pe/"))
    }
    with hushed():
        findings, _ = compared(replace(whole, content=save(tensors)), load_pipeline("mini", NF4, "cpu"))
    assert Answer(findings, (), 0.0).status is Status.NOT_COMPARABLE
    assert [one.component for one in findings if one.status is Status.NOT_COMPARABLE] == ["pe"]


@pytest.mark.parametrize(
    ("recipe", "scale", "said"),
    [
        ("sdnq-int8", 1.0, "weights_dtype uint4, not int8"),
        (UINT4, 1.3, "not what quantizing the model makes"),
    ],
    ids=["another recipe", "damaged"],
)
def test_what_the_package_rung_refuses_is_not_published(
    places: Places, tmp_path: Path, capsys: pytest.CaptureFixture[str], recipe: str, scale: float, said: str
) -> None:
    artifact = shutil.copytree(places[UINT4][0], tmp_path / "artifact")
    (file,) = (artifact / "transformer").glob("*.safetensors")
    tensors = load_file(file)
    tensors[f"{LAYER}.scale"] *= scale
    save_file(tensors, file, {"format": "pt"})
    out = tmp_path / "x.capsule"
    command = ["capsule", "export", "mini", str(artifact), "--recipe", recipe, "-o", str(out)]
    assert main([*command, "--device", "cpu"]) == 2
    (line,) = (one for one in capsys.readouterr().err.splitlines() if one.startswith("ernie-qa: "))
    assert line.startswith(f"ernie-qa: what is published is not recipe {recipe}: transformer: ")
    assert said in line
    assert not out.exists()


def test_fewer_steps_count_fewer_calls(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    artifact, file = places[UINT4]
    counts = {}
    for steps in (None, 1):
        code, answer = checked(capsys, file, artifact, *(["--steps", "1"] if steps else []))
        assert code == 0
        (one,) = (
            one
            for one in answer["findings"]
            if (one["component"], one["about"]) == ("transformer", "kernels")
        )
        counts[steps] = int(one["message"].rpartition("(")[2].split()[0])
    assert 0 < counts[1] < counts[None]


def without(*ends: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda tape: {name: one for name, one in tape.items() if not name.endswith(ends)}


def without_ids(tape: dict[str, Any]) -> dict[str, Any]:
    return {name: one for name, one in tape.items() if not name.startswith("ids/")}


@pytest.mark.parametrize(
    ("change", "component"),
    [
        (without("/0/prev"), "scheduler"),
        (without("/calls/vae", "/calls/scheduler", "/calls/transformer", "/calls/text_encoder"), "pipeline"),
        (without_ids, "tokenizer"),
    ],
    ids=["step", "calls", "ids"],
)
def test_what_a_capsule_lacks_is_no_pass(
    capsules: dict[str, Capsule], change: Callable[[dict[str, Any]], dict[str, Any]], component: str
) -> None:
    content = save(change(load(capsules[NF4].content)))
    with hushed():
        findings, _ = compared(replace(capsules[NF4], content=content), load_pipeline("mini", NF4, "cpu"))
    assert worst(one.status for one in findings) is Status.NOT_COMPARABLE
    assert component in {one.component for one in findings if one.status is Status.NOT_COMPARABLE}


def test_too_little_memory_is_not_the_capsules_fault(capsules: dict[str, Capsule]) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    with hushed():
        pipe: Any = load_pipeline("mini", NF4, "cpu")
        pipe.transformer.register_forward_pre_hook(full)
        with pytest.raises(OutOfMemoryError, match="Tried to allocate"):
            compared(capsules[NF4], pipe)


def test_a_stored_switch_that_was_turned_is_told(
    places: Places, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Loading puts the switch right whatever is stored; plain diffusers code would not."""
    artifact, capsule = places[UINT4]
    shutil.copytree(artifact, tmp_path / "turned")
    file = tmp_path / "turned" / "text_encoder" / "config.json"
    config = json.loads(file.read_text())
    stored = config["quantization_config"]
    stored["use_quantized_matmul"] = not stored["use_quantized_matmul"]
    file.write_text(json.dumps(config))
    code, answer = checked(capsys, capsule, tmp_path / "turned")
    assert (code, list(wrong(answer))) == (1, [("text_encoder", "stored")])
