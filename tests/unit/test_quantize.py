"""`ernie-qa quantize`: what is written, what is refused, and what the command says."""

import errno
import json
import shutil
import weakref
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from ernie_qa.cli import main
from ernie_qa.errors import InputError, ModelError, RecipeError, UnavailableError
from ernie_qa.models.find import find_model
from ernie_qa.models.replica import write_replica
from ernie_qa.pipeline import load_pipeline
from ernie_qa.quantize import quantize
from ernie_qa.quantize.needed import BESIDE, estimate, size_of
from ernie_qa.quantizers import checked_options, find_quantizer, sdnq
from ernie_qa.recipe import QUANTIZABLE, find_recipe
from tests.quantizing import DEQUANT, INT8, NF4, QMM, contents, refused, stop_at

MIXED = """
schema = 1
summary = "two quantizers, and a text encoder in BF16"

[components]
transformer = "sdnq"
pe = "bitsandbytes"

[sdnq]
weights_dtype = "uint4"
dequantize_fp32 = false
use_quantized_matmul = true
modules_to_not_use_matmul = ["up_proj"]
"""


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


# --- what is written ---


@pytest.mark.parametrize("recipe", [QMM, NF4])
def test_it_is_an_artifact_of_its_recipe(whole: dict[str, Path], tiny_model: Path, recipe: str) -> None:
    load_pipeline(tiny_model, recipe, "cpu", artifact=whole[recipe])
    assert not list(whole[recipe].parent.glob(".*"))


@pytest.mark.parametrize("recipe", [QMM, NF4])
def test_the_rest_is_copied_to_the_byte_and_never_linked(
    tmp_path: Path, tiny_model: Path, whole: dict[str, Path], recipe: str
) -> None:
    # a hub cache is links to its blobs
    linked = Path(shutil.copytree(tiny_model, tmp_path / "cache"))
    weights = linked / "vae" / "diffusion_pytorch_model.safetensors"
    weights.rename(tmp_path / "blob")
    weights.symlink_to(tmp_path / "blob")
    (linked / "LICENSE.txt").write_text("terms")
    quantize(linked, recipe, tmp_path / "new", device="cpu")
    for name in ("vae", "scheduler", "tokenizer", "pe_tokenizer"):
        assert contents(tmp_path / "new" / name) == contents(tiny_model / name)
    for file in (tmp_path / "new").rglob("*"):
        assert not file.is_symlink()
        assert file.is_dir() or file.stat().st_nlink == 1
    assert (tmp_path / "new" / "LICENSE.txt").read_text() == "terms"
    # and nothing of this run is in it: not its time, path or device
    (tmp_path / "new" / "LICENSE.txt").unlink()
    ours, before = contents(tmp_path / "new"), contents(whole[recipe])
    assert [name for name in ours if ours[name] != before.get(name)] == [
        name for name in ours if name.endswith(("runtime_config.json", "quantization_metadata.json"))
    ]
    assert ours.keys() == before.keys()
    for name, content in ours.items():
        assert not name.endswith(".json") or str(tmp_path).encode() not in content


@pytest.mark.parametrize(("recipe", "switch"), [(QMM, True), (DEQUANT, False)])
def test_sdnqs_flags_are_those_that_were_applied(
    tmp_path: Path, tiny_model: Path, recipe: str, switch: bool
) -> None:
    place = quantize(tiny_model, recipe, tmp_path / "new", device="cpu").directory
    for name in QUANTIZABLE:
        config = read(place / name / "quantization_config.json")
        assert config == read(place / name / "config.json")["quantization_config"]
        assert config["use_quantized_matmul"] is switch
        assert (config["quantization_device"], config["return_device"]) == (None, None)
        # and they are true of the layers that plain code gets
        module = load_pipeline(tiny_model, recipe, "cpu", artifact=place).components[name]
        own = {one.sdnq_dequantizer.use_quantized_matmul for one in module.modules() if is_sdnq(one)}
        assert own == {switch}
    assert read(place / "quantization_config.json")["use_quantized_matmul"] is switch


def is_sdnq(layer: Any) -> bool:
    return hasattr(layer, "sdnq_dequantizer")


def test_a_switch_that_was_applied_later_is_written_too(tmp_path: Path, tiny_model: Path) -> None:
    """What sdnq's own saving loses: a diffusers configuration is a dict."""
    from sdnq.loader import apply_sdnq_options_to_model

    pipe = load_pipeline(tiny_model, DEQUANT, "cpu")
    module = apply_sdnq_options_to_model(pipe.transformer, use_quantized_matmul=True)
    sdnq.save(module, tmp_path / "transformer", {})
    assert read(tmp_path / "transformer" / "config.json")["quantization_config"]["use_quantized_matmul"]


def test_runtime_config_is_enough_to_load_it(whole: dict[str, Path]) -> None:
    from diffusers import ErnieImagePipeline

    config = read(whole[QMM] / "runtime_config.json")
    (loading,) = config["loading"]["quantizers"].values()
    for package in loading["import_first"]:
        import_module(package)
    pipe = ErnieImagePipeline.from_pretrained(whole[QMM], dtype=config["loading"]["dtype"])
    after = loading["after_loading"]
    module, _, function = after["function"].rpartition(".")
    for name in loading["components"]:
        component = getattr(import_module(module), function)(getattr(pipe, name), **after["arguments"])
        assert {one.sdnq_dequantizer.use_quantized_matmul for one in component.modules() if is_sdnq(one)} == {
            True
        }
    assert config["memory"]["keep_resident"] is True
    assert config["memory"]["allocator"]["recommended"] == "default"


def test_steps_and_guidance_come_from_the_suite(
    tmp_path: Path, tiny_model: Path, whole: dict[str, Path]
) -> None:
    assert read(whole[NF4] / "runtime_config.json")["sampling"] is None
    place = quantize(tiny_model, NF4, tmp_path / "new", device="cpu", suite="base50").directory
    assert read(place / "runtime_config.json")["sampling"] == {
        "suite": "base50",
        "num_inference_steps": 50,
        "guidance_scale": 4.0,
        "use_pe": True,
    }


def test_two_quantizers_in_one_pipeline(tmp_path: Path, tiny_model: Path) -> None:
    recipe = tmp_path / "mixed.toml"
    recipe.write_text(MIXED)
    place = quantize(tiny_model, recipe, tmp_path / "new", device="cpu").directory
    load_pipeline(tiny_model, recipe, "cpu", artifact=place)
    assert contents(place / "text_encoder") == contents(tiny_model / "text_encoder")
    facts = read(place / "quantization_metadata.json")
    assert facts["quantized"] == ["pe"]
    assert facts["kept"] == ["pe_tokenizer", "scheduler", "text_encoder", "tokenizer", "vae"]
    assert facts["bnb_4bit_use_double_quant"] is True
    assert read(place / "quantization_config.json")["modules_to_not_use_matmul"] == ["up_proj"]
    assert set(read(place / "runtime_config.json")["loading"]["quantizers"]) == {"sdnq", "bitsandbytes"}


def test_random_weights_stay_random_in_name(tmp_path: Path) -> None:
    from tests.tiny import save_tiny

    model = find_model(save_tiny(tmp_path / "tiny"))
    made = find_model(quantize(model, NF4, tmp_path / "new", device="cpu").directory)
    assert (made.weights, made.suite, made.name) == ("random", "mini", "tiny-bnb-nf4")


@pytest.mark.parametrize("recipe", [QMM, NF4])
def test_one_component_is_in_memory_at_a_time(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    quantizer = find_quantizer(find_recipe(recipe).components["pe"])
    load, seen = quantizer.load, []

    def watched(source: Any, options: Any) -> Any:
        assert [one() for one in seen] == [None] * len(seen)
        module = load(source, options)
        seen.append(weakref.ref(module))
        return module

    monkeypatch.setattr(quantizer, "load", watched)
    quantize(tiny_model, recipe, tmp_path / "new", device="cpu")
    assert len(seen) == len(QUANTIZABLE)


# --- what is refused ---


def test_recipes_that_will_not_do(tmp_path: Path, tiny_model: Path) -> None:
    refused(RecipeError, "no recipe named .*sdnq-int8", tiny_model, "sdnq-int9", tmp_path / "new")
    refused(RecipeError, "bf16 quantizes nothing", tiny_model, "bf16", tmp_path / "new")
    refused(InputError, "no device 'tpu'", tiny_model, NF4, tmp_path / "new", device="tpu")
    assert not list(tmp_path.iterdir())


def test_models_that_will_not_do(tmp_path: Path, whole: dict[str, Path]) -> None:
    refused(ModelError, "no model", tmp_path / "nowhere", NF4, tmp_path / "new")
    refused(ModelError, "pe: stored quantized by 'sdnq'", whole[QMM], NF4, tmp_path / "new")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_directory_that_holds_something_else(tmp_path: Path, tiny_model: Path, overwrite: bool) -> None:
    (tmp_path / "file").write_text("mine")
    refused(InputError, "holds something; name", tiny_model, NF4, tmp_path, overwrite=overwrite)
    refused(InputError, "not a directory", tiny_model, NF4, tmp_path / "file", overwrite=overwrite)
    refused(InputError, "make it first", tiny_model, NF4, tmp_path / "no" / "new", overwrite=overwrite)
    assert contents(tmp_path) == {"file": b"mine"}


def test_the_model_itself_is_never_written_over(tmp_path: Path, tiny_model: Path) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "models" / "tiny"))
    before = contents(tmp_path)
    shutil.copy(model / "model_index.json", tmp_path / "models")
    for output in (model, model / "nf4", tmp_path / "models"):
        refused(InputError, "holds the model|holds something", model, NF4, output, overwrite=True)
    (tmp_path / "models" / "model_index.json").unlink()
    assert contents(tmp_path) == before


def test_an_artifact_is_replaced_only_when_told(
    tmp_path: Path, tiny_model: Path, whole: dict[str, Path]
) -> None:
    shutil.copytree(whole[QMM], tmp_path / "new")
    refused(InputError, "--overwrite", tiny_model, NF4, tmp_path / "new")
    # what fails leaves the old one
    problem = stop_at("transformer: writing", OSError(errno.ENOSPC, "No space left on device"))
    refused(UnavailableError, "full", tiny_model, NF4, tmp_path / "new", overwrite=True, progress=problem)
    assert contents(tmp_path / "new") == contents(whole[QMM])
    quantize(tiny_model, NF4, tmp_path / "new", device="cpu", overwrite=True)
    assert contents(tmp_path / "new") == contents(whole[NF4])
    assert [entry.name for entry in tmp_path.iterdir()] == ["new"]


def test_a_process_killed_while_it_replaced_leaves_the_old_one(
    tmp_path: Path, tiny_model: Path, whole: dict[str, Path]
) -> None:
    shutil.copytree(whole[QMM], tmp_path / ".new.ernie-qa-replaced")
    with pytest.raises(KeyboardInterrupt):
        quantize(
            tiny_model,
            NF4,
            tmp_path / "new",
            device="cpu",
            overwrite=True,
            progress=stop_at("pe: quantizing", KeyboardInterrupt()),
        )
    assert contents(tmp_path / "new") == contents(whole[QMM])
    assert [entry.name for entry in tmp_path.iterdir()] == ["new"]


def test_a_file_of_the_model_that_cannot_be_read_is_not_the_outputs_fault(
    tmp_path: Path, tiny_model: Path, whole: dict[str, Path]
) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "tiny"))
    file = model / "scheduler" / "scheduler_config.json"
    kept = file.read_bytes()

    def lost(done: int, total: int, doing: str) -> None:
        # found, hashed, and unreadable when its turn comes, even for root
        if doing == "transformer: done":
            file.unlink()
            file.symlink_to("/proc/self/mem")

    refused(
        ModelError,
        "scheduler_config.json: cannot be read: Input/output error",
        model,
        NF4,
        tmp_path / "new",
        progress=lost,
    )
    file.unlink()
    file.write_bytes(kept)
    assert quantize(model, NF4, tmp_path / "new", device="cpu").resumed
    for name in find_model(model).components:
        assert contents(tmp_path / "new" / name) == contents(whole[NF4] / name)


# --- the disk ---


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The full size shrunken: its prompt enhancer holds the embedding twice, and loads tied."""
    return write_replica(tmp_path_factory.mktemp("replica") / "small", scale=0.1)


@pytest.mark.parametrize(
    ("recipe", "source"), [(QMM, "mini"), (INT8, "mini"), (QMM, "replica"), (NF4, "replica")]
)
def test_the_estimate_is_about_right(tmp_path: Path, replica: Path, recipe: str, source: str) -> None:
    model, wanted = find_model(replica if source == "replica" else source), find_recipe(recipe)
    place = quantize(model, recipe, tmp_path / "new", device="cpu").directory
    for name in model.components:
        about = estimate(model, wanted, checked_options(wanted), "cpu", [name]) - BESIDE
        # small layers stay in BF16, which a large model has few of
        assert 0.75 < about / size_of(place / name) < 1.1, name


def test_a_disk_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 10**12, 123_456))
    refused(
        UnavailableError, r"needs 7\d,\d{3},\d{3} bytes .* 123,456 are free", "mini", NF4, tmp_path / "new"
    )
    assert not list(tmp_path.iterdir())


# --- the command ---


def test_the_command_says_what_it_took(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["quantize", str(tiny_model), "--recipe", NF4, "--device", "cpu"]
    assert main([*arguments, "--output", str(tmp_path / "my nf4")]) == 0
    said = capsys.readouterr()
    rows = {line.split()[0]: line.split() for line in said.out.splitlines() if " less" in line}
    assert {name: row[-1] for name, row in rows.items() if name in QUANTIZABLE} == dict.fromkeys(
        QUANTIZABLE, "bitsandbytes"
    )
    assert rows["total"][3] == f"{size_of(tmp_path / 'my nf4'):,}"
    assert f"my nf4: tiny by {NF4} in " in said.out
    assert " GiB resident in main memory" in said.out
    assert said.out.endswith(
        f"ernie-qa gate --model {tiny_model} --recipe {NF4} --artifact '{NF4}={tmp_path}/my nf4' "
        f"--report '{tmp_path}/my nf4-gated'\n"
        f"ernie-qa card '{tmp_path}/my nf4-gated' --artifact '{tmp_path}/my nf4'\n"
    )
    assert main([*arguments, "--output", str(tmp_path / "my nf4")]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"ernie-qa: {tmp_path}/my nf4: holds something; ")
    assert said.err.count("\n") == 1


def test_the_command_in_json(tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = ["--output", str(tmp_path / "new"), "--device", "cpu", "--json"]
    assert main(["quantize", str(tiny_model), "--recipe", QMM, *output]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["after"] == size_of(tmp_path / "new")
    assert found["before"] == size_of(tiny_model)
    assert found["peak_allocated"] is None
    assert found["peak_resident"] > 100 * 2**20
    parts = {part["name"]: part for part in found["parts"]}
    assert {name for name, part in parts.items() if part["quantizer"]} == set(QUANTIZABLE)
    for name, part in parts.items():
        assert part["after"] == size_of(tmp_path / "new" / name)
        assert (part["after"] == part["before"]) is (part["quantizer"] is None)


def test_progress_ends_with_everything(tmp_path: Path, tiny_model: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    quantize(tiny_model, NF4, tmp_path / "new", device="cpu", progress=lambda *all_: seen.append(all_))
    total = sum(size_of(tiny_model / name) for name in find_model(tiny_model).components)
    assert seen[-1][:2] == (total, total)
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
