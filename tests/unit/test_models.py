import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ernie_qa.errors import ModelError
from ernie_qa.models.find import find_model, model_names, vae_scale_factor
from tests.tiny import save_tiny


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def copy(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def refused(path):
    with pytest.raises(ModelError) as caught:
        find_model(path)
    message = str(caught.value)
    assert message.splitlines() == [message]
    return message


def edit(file, **changes):
    stored = json.loads(file.read_text())
    file.write_text(json.dumps({**stored, **changes}))


def test_a_directory_with_a_manifest(whole):
    model = find_model(whole)
    assert find_model(model) is model
    assert find_model(str(whole)) == model
    assert (model.name, model.weights, model.suite, model.identity.revision) == (
        "tiny",
        "random",
        "mini",
        None,
    )
    assert model.components == (
        "pe", "pe_tokenizer", "scheduler", "text_encoder", "tokenizer", "transformer", "vae",
    )  # fmt: skip
    assert vae_scale_factor(model) == 8
    model.manifest.verify()


def test_a_directory_without_a_manifest_has_unknown_weights(copy):
    (copy / "ernie_qa.json").unlink()
    model = find_model(copy)
    assert (model.name, model.weights, model.suite, model.manifest) == ("copy", "unknown", None, None)


def test_the_hash_is_of_contents_not_of_places(whole, copy):
    assert find_model(copy).identity == find_model(whole).identity
    (copy / "README.md").write_text("words")
    assert find_model(copy).identity == find_model(whole).identity


@pytest.mark.parametrize("name", ["scheduler/scheduler_config.json", "tokenizer/tokenizer.json"])
def test_the_hash_covers_configs_and_tokenizers(whole, copy, name):
    file = copy / name
    file.write_text(file.read_text() + " ")
    assert find_model(copy).identity.hash != find_model(whole).identity.hash


def flip_last_byte(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_the_hash_covers_small_weights_in_full_and_a_sample_of_large_ones(whole, copy, monkeypatch):
    file = copy / "vae" / "diffusion_pytorch_model.safetensors"
    honest = file.read_bytes()
    start = 8 + int.from_bytes(honest[:8], "little")
    monkeypatch.setattr("ernie_qa.models.checkpoint.SAMPLE", 64)

    def seen(flipped):
        content = bytearray(honest)
        for place in flipped:
            content[place] ^= 1
        file.write_bytes(content)
        return find_model(copy).identity.hash != find_model(whole).identity.hash

    # between the first two pieces of the sample
    between = start + 64
    assert seen([between])
    monkeypatch.setattr("ernie_qa.models.checkpoint.LARGE", 1000)
    assert not seen([])
    assert not seen([between])
    assert seen([start])
    assert seen([len(honest) - 1])
    # a fine-tune changes values everywhere, and neither size nor header
    assert seen(range(start, len(honest), 50))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-1], "truncated: its header says {size} B, it holds {short} B"),
        (lambda content: content[: len(content) // 2], "truncated: its header says {size} B, it holds"),
        (lambda content: content + b"x", "damaged: its header says {size} B, it holds {long} B"),
        (lambda content: content[:8] + b"[" + content[9:], "damaged: it does not begin with a safetensors"),
        (lambda content: (2).to_bytes(8, "little") + b"[]", "damaged: it does not begin with a safetensors"),
        (lambda content: (9).to_bytes(8, "little") + b'{"a": {}}', "damaged: it does not begin with"),
        (
            lambda content: (30).to_bytes(8, "little") + b'{"a": {"data_offsets": "0 8"}}',
            "damaged: it does not begin with",
        ),
    ],
    ids=["byte", "half", "longer", "no-json", "no-table", "no-offsets", "no-numbers"],
)
@pytest.mark.parametrize("large", [2**26, 0])
def test_weights_that_are_not_as_long_as_their_header_says(copy, change, message, large, monkeypatch):
    monkeypatch.setattr("ernie_qa.models.checkpoint.LARGE", large)
    file = copy / "vae" / "diffusion_pytorch_model.safetensors"
    content = file.read_bytes()
    file.write_bytes(change(content))
    size = len(content)
    wanted = message.format(size=size, short=size - 1, long=size + 1)
    assert refused(copy).startswith(f"{file}: {wanted}")


def test_a_missing_index_names_the_file(tmp_path):
    assert refused(tmp_path) == f"{tmp_path}/model_index.json: no such file"


def test_another_pipeline_is_refused(copy):
    edit(copy / "model_index.json", _class_name="FluxPipeline")
    assert refused(copy) == (
        f'{copy}/model_index.json: _class_name: found "FluxPipeline" (text), '
        "allowed is one of ErnieImagePipeline"
    )


@pytest.mark.parametrize(
    ("name", "entry"), [("vae", ["my_code", "Vae"]), ("../vae", ["diffusers", "Vae"]), ("vae", ["diffusers"])]
)
def test_code_from_elsewhere_is_refused(copy, name, entry):
    edit(copy / "model_index.json", **{name: entry})
    assert "allowed is a component of diffusers or transformers: code from elsewhere is never run" in refused(
        copy
    )


def test_a_component_left_out_is_not_looked_for(copy):
    edit(copy / "model_index.json", pe=[None, None])
    shutil.rmtree(copy / "pe")
    assert "pe" not in find_model(copy).components


def test_a_missing_folder_is_named(copy):
    shutil.rmtree(copy / "vae")
    assert refused(copy) == f"{copy}/vae: missing, but model_index.json names this component"


@pytest.mark.parametrize(
    "name",
    [
        "text_encoder/pytorch_model.bin",
        "text_encoder/model.PT",
        "text_encoder/a/b.ckpt",
        "vae/x.pkl",
        "x.pickle",
        "x.pth",
    ],
)
def test_pickles_are_refused(copy, name):
    file = copy / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"")
    assert (
        refused(copy) == f"{file}: a pickle checkpoint, which can run code when read; allowed are safetensors"
    )


def test_a_pickle_that_no_component_names_is_no_matter(whole, copy):
    (copy / "notes").mkdir()
    (copy / "notes" / "training.pt").write_bytes(b"")
    assert find_model(copy).identity == find_model(whole).identity


def test_missing_and_damaged_weights_are_named(copy):
    file = copy / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(b"\xff" * 100)
    assert refused(copy) == f"{file}: damaged: it does not begin with a safetensors header"
    file.unlink()
    assert refused(copy).startswith(f"{copy}/vae: no weights")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "schema: found 2, this ernie_qa reads schemas up to 1; upgrade ernie_qa"),
        ({"weights": "good"}, 'weights: found "good" (text), allowed is one of random, trained'),
        ({"suite": "../x"}, 'suite: found "../x" (text), allowed is 1 to 100 letters'),
        ({"more": 1}, "more: unknown key"),
        ({"files": {"../x": "0" * 64}}, 'files."../x": a path outside the model'),
        ({"files": {"/etc/passwd": "0" * 64}}, 'files."/etc/passwd": a path outside the model'),
        (
            {"files": {"vae/config.json": "0"}},
            'files."vae/config.json": found "0" (text), allowed is a sha256',
        ),
    ],
)
def test_a_wrong_manifest_is_named(copy, changes, message):
    edit(copy / "ernie_qa.json", **changes)
    assert refused(copy).startswith(f"{copy}/ernie_qa.json: {message}")


def test_verifying_a_manifest_finds_altered_missing_and_added_files(copy):
    manifest = find_model(copy).manifest
    added = copy / "vae" / "more.safetensors"
    added.write_bytes(b"")
    with pytest.raises(ModelError, match=r"more.safetensors: not listed in ernie_qa.json"):
        manifest.verify()
    added.unlink()
    file = copy / "vae" / "diffusion_pytorch_model.safetensors"
    flip_last_byte(file)
    with pytest.raises(ModelError, match=r"diffusion_pytorch_model.safetensors: altered"):
        manifest.verify()
    file.unlink()
    with pytest.raises(ModelError, match=r"diffusion_pytorch_model.safetensors: missing"):
        manifest.verify()


def test_a_shipped_model_is_found_by_name_and_verified(copy, tmp_path, monkeypatch):
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    copy.rename(shipped / "tiny")
    monkeypatch.setattr("ernie_qa.models.find._DIRECTORY", shipped)
    assert model_names() == ("tiny",)
    assert find_model("tiny").name == "tiny"
    flip_last_byte(shipped / "tiny" / "vae" / "diffusion_pytorch_model.safetensors")
    assert "altered" in refused("tiny")
    (shipped / "tiny" / "ernie_qa.json").unlink()
    assert "has no ernie_qa.json; install ernie_qa again" in refused("tiny")


@pytest.mark.parametrize(
    "name", ["", "no-such", "/no/such", "../no/such", "a\0b", "a\nb", "org/name@", "https://x/y", "x" * 5000]
)
def test_names_that_are_none(name):
    assert "allowed are a shipped name" in refused(name)


def test_a_hub_id_is_only_looked_up_in_the_cache_when_offline(tmp_path):
    # the hub's library reads its settings once, when it is imported
    program = "from ernie_qa.models.find import find_model; find_model('some-org/some-model@main')"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.stderr.splitlines()[-1].startswith(
        "ernie_qa.errors.ModelError: some-org/some-model@main: no such directory here, "
        "and not to be had in the local cache (HF_HUB_OFFLINE is set): LocalEntryNotFoundError: "
    )
    assert not list(tmp_path.rglob("*.json"))


def test_a_model_in_the_hub_cache_is_found_with_its_commit(whole, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "hub" / "models--some-org--some-model"
    shutil.copytree(whole, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    program = (
        "from ernie_qa.models.find import find_model; m = find_model('some-org/some-model').identity; "
        "print(m.name, m.revision)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert ended.stdout.split() == ["some-org/some-model", commit]
