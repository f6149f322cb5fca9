"""Checkpoints in several files, and links: each way in which one can be damaged is named before it loads."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ernie_qa.errors import ModelError
from ernie_qa.models.checkpoint import tensor_bytes
from ernie_qa.models.find import find_model

INDEX = "diffusion_pytorch_model.safetensors.index.json"


@pytest.fixture(scope="module")
def sharded(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a transformer in several files, as diffusers writes them."""
    from diffusers import ErnieImageTransformer2DModel

    model = Path(shutil.copytree(tiny_model, tmp_path_factory.mktemp("models") / "sharded"))
    folder = model / "transformer"
    transformer = ErnieImageTransformer2DModel.from_pretrained(folder)
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    transformer.save_pretrained(folder, max_shard_size="1MB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return model


@pytest.fixture
def transformer(sharded: Path, tmp_path: Path) -> Path:
    """The transformer's folder in a copy of that model."""
    return Path(shutil.copytree(sharded, tmp_path / "copy")) / "transformer"


def refused(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        find_model(folder.parent)
    message = str(caught.value)
    assert message.splitlines() == [message]
    return message


def edit(index: Path, **weight_map: Any) -> None:
    stored = json.loads(index.read_text())
    stored["weight_map"].update(weight_map)
    index.write_text(json.dumps(stored))


def test_a_model_in_several_files_loads(sharded: Path, tiny_model: Path) -> None:
    from ernie_qa.models.unchanged import tensor_differences
    from ernie_qa.pipeline import load_pipeline

    pipe = load_pipeline(sharded, "bf16", "cpu")
    assert tensor_differences(pipe.transformer, tiny_model / "transformer")["differing"] == []
    assert tensor_differences(pipe.transformer, sharded / "transformer")["differing"] == []


def test_a_shard_that_is_missing_is_named(transformer: Path) -> None:
    shard = sorted(transformer.glob("*.safetensors"))[1]
    shard.unlink()
    assert refused(transformer) == f"{shard}: missing, but listed in {INDEX}; fetch it again"


def test_a_shard_that_was_cut_short_is_named(transformer: Path) -> None:
    shard = sorted(transformer.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-1])
    assert refused(transformer).startswith(f"{shard}: truncated: its header says")


def test_a_tensor_that_is_in_no_shard_is_named(transformer: Path) -> None:
    # transformers would draw it at random
    edit(transformer / INDEX, extra=sorted(transformer.glob("*.safetensors"))[0].name)
    first = sorted(transformer.glob("*.safetensors"))[0]
    assert refused(transformer) == f"{first}: does not hold extra, as {INDEX} says; fetch it again"


@pytest.mark.parametrize(
    "name", ["../vae/diffusion_pytorch_model.safetensors", "/etc/passwd", "a/b.safetensors", "..", "x.bin"]
)
def test_an_index_that_names_a_file_outside_its_folder(transformer: Path, name: str) -> None:
    edit(transformer / INDEX, extra=name)
    assert refused(transformer) == (
        f'{transformer / INDEX}: weight_map.extra: found "{name}" (text), '
        "allowed is a .safetensors file beside the index"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "found a list of 0, allowed is a table of keys"),
        ("{}", "weight_map: missing"),
        ('{"weight_map": {}}', "weight_map: names no file; fetch it again"),
        ('{"weight_map": {"a": 1}}', "weight_map.a: found 1"),
    ],
)
def test_an_index_that_cannot_be_read(transformer: Path, text: str, message: str) -> None:
    (transformer / INDEX).write_text(text)
    assert refused(transformer).startswith(f"{transformer / INDEX}: {message}")


@pytest.mark.parametrize("name", ["config.json", "diffusion_pytorch_model-00001-of-00003.safetensors"])
def test_a_link_to_nothing_is_named(transformer: Path, name: str) -> None:
    (transformer / name).unlink(missing_ok=True)
    (transformer / name).symlink_to("../../blobs/gone")
    assert refused(transformer) == f"{transformer / name}: a link to a file that is not there; fetch it again"


def test_bytes_of_tensors_are_those_without_the_header(tiny_model: Path) -> None:
    from safetensors.torch import load_file

    file = tiny_model / "vae" / "diffusion_pytorch_model.safetensors"
    held = load_file(file).values()
    assert tensor_bytes(file) == sum(tensor.numel() * tensor.element_size() for tensor in held)
