"""The replica: its sizes, names, bytes, what is left of a writing that failed, and that it draws."""

import errno
import fcntl
import hashlib
import json
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import ernie_qa
from ernie_qa.cli import main
from ernie_qa.errors import InputError, UnavailableError
from ernie_qa.models.find import find_model, vae_scale_factor
from ernie_qa.models.replica import _plan, sizes, write_replica
from ernie_qa.models.replica.architecture import modules
from ernie_qa.models.replica.stored import Stored
from ernie_qa.models.replica.tokenizers import SPECIAL, tokenizer
from ernie_qa.models.replica.values import POOL, Values
from ernie_qa.suite import find_suite

SMALL = 0.03


@pytest.fixture(scope="module")
def replica(tmp_path_factory):
    return write_replica(tmp_path_factory.mktemp("replica") / "small", scale=SMALL)


@pytest.fixture(scope="module")
def full():
    return _plan(modules(1.0))


@pytest.fixture(scope="module")
def values():
    return Values(0)


def contents(directory: Path) -> dict[str, bytes]:
    files = sorted(file for file in directory.rglob("*") if file.is_file())
    return {file.relative_to(directory).as_posix(): file.read_bytes() for file in files}


def stored(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


# --- what it is ---


def test_the_full_size_is_that_of_the_published_files():
    # tensor bytes; the VAE's parameters, and its two running statistics and counter
    assert sizes() == {
        "transformer": 16_066_980_096,
        "text_encoder": 7_698_180_096,
        "pe": 7_663_319_040,
        "vae": 168_092_230 + 2 * 128 * 2 + 8,
    }


def test_the_full_size_files_are_as_long_as_the_published_ones(full):
    # headers too: every name, shape and offset counts
    assert {name: sum(file.size for file in files) for name, files in full.items() if name != "vae"} == {
        "transformer": 16_067_025_160,
        "text_encoder": 7_698_241_104,
        "pe": 7_663_346_520,
    }
    assert [[file.name for file in full[name]] for name in ("transformer", "pe")] == [
        [f"diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)],
        ["model.safetensors"],
    ]


def test_names_shapes_and_configs_are_what_save_pretrained_writes(replica, tmp_path):
    for name, module in modules(SMALL).items():
        live = module.to_empty(device="cpu").to(torch.bfloat16)
        if name == "pe":
            live.tie_weights()
        live.save_pretrained(tmp_path / name)
        (file,) = (tmp_path / name).glob("*.safetensors")
        ours, theirs = stored(replica / name), load_file(file)
        if name == "pe":
            assert "lm_head.weight" not in theirs
            theirs["lm_head.weight"] = theirs["model.embed_tokens.weight"]
        assert {key: (one.shape, one.dtype) for key, one in ours.items()} == {
            key: (one.shape, one.dtype) for key, one in theirs.items()
        }
        assert (replica / name / file.name).is_file()
        for config in (tmp_path / name).glob("*.json"):
            written = json.loads((replica / name / config.name).read_text())
            expected = json.loads(config.read_text())
            versions = {"transformers_version", "_diffusers_version"}
            assert written == {key: value for key, value in expected.items() if key not in versions}


def test_a_file_is_what_the_safetensors_library_writes(replica, tmp_path):
    for name in ("transformer", "text_encoder", "vae"):
        (file,) = (replica / name).glob("*.safetensors")
        save_file(load_file(file), tmp_path / file.name, metadata={"format": "pt"})
        assert file.read_bytes() == (tmp_path / file.name).read_bytes()


def test_shards_have_an_index(tmp_path, monkeypatch):
    how = {"transformer": ("diffusion_pytorch_model", 400_000), "vae": ("diffusion_pytorch_model", 10**9)}
    monkeypatch.setattr("ernie_qa.models.replica._COMPONENTS", how)
    folder = write_replica(tmp_path / "sharded", scale=SMALL) / "transformer"
    index = json.loads((folder / "diffusion_pytorch_model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": sizes(SMALL)["transformer"]}
    for name, file in index["weight_map"].items():
        with safe_open(folder / file, framework="pt") as opened:
            assert name in opened.keys()  # noqa: SIM118
    from diffusers import ErnieImageTransformer2DModel

    loaded = ErnieImageTransformer2DModel.from_pretrained(folder, torch_dtype=torch.bfloat16)
    assert set(loaded.state_dict()) == set(index["weight_map"])


def test_the_manifest_says_what_it_is(replica):
    model = find_model(replica)
    assert (model.name, model.weights, model.suite) == ("replica-0.03", "random", "turbo10")
    assert model.manifest.training["seed"] == 0
    assert model.manifest.training["scale"] == SMALL
    assert vae_scale_factor(model) == 16


def test_what_loads_is_what_was_written(replica):
    pipe = ernie_qa.load_pipeline(replica, "bf16", "cpu")
    for name in ("transformer", "text_encoder", "pe", "vae"):
        live = {key.replace("model.", ""): value for key, value in getattr(pipe, name).state_dict().items()}
        for key, tensor in stored(replica / name).items():
            held = live[key.replace("model.", "")]
            assert held.dtype == tensor.dtype
            assert torch.equal(held, tensor)
    assert pipe.pe.lm_head.weight is pipe.pe.model.embed_tokens.weight
    assert pipe.scheduler.config.shift == 3.0


@pytest.mark.parametrize("recipe", ["bf16", "sdnq-uint4-static", "bnb-nf4"])
def test_it_draws(replica, recipe):
    pipe = ernie_qa.load_pipeline(replica, recipe, "cpu")
    pipe.pe_tokenizer.model_max_length = 8
    image = pipe(
        prompt="A poster with the word ДЖАЗ",
        height=64,
        width=64,
        num_inference_steps=2,
        guidance_scale=1.0,
        use_pe=recipe == "bf16",
        output_type="np",
    ).images[0]
    assert image.shape == (64, 64, 3)
    assert np.isfinite(image).all()
    assert image.std() > 0.01


# --- its values ---


def test_random_matrices_and_plain_vectors(replica):
    transformer, vae, pe = (stored(replica / name) for name in ("transformer", "vae", "pe"))
    for name in ("adaLN_modulation.1.weight", "final_linear.weight", "x_embedder.proj.weight"):
        weight = transformer[name].float()
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert abs(weight.mean().item()) < 0.001
    assert (transformer["layers.0.adaLN_sa_ln.weight"] == 1).all()
    assert (transformer["final_linear.bias"] == 0).all()
    assert (vae["bn.running_mean"] == 0).all()
    assert (vae["bn.running_var"] == 1).all()
    assert vae["bn.num_batches_tracked"].item() == 0
    assert torch.equal(pe["lm_head.weight"], pe["model.embed_tokens.weight"])
    # each tensor has values of its own
    first, second = (transformer[f"layers.{n}.self_attention.to_q.weight"] for n in (0, 1))
    assert not torch.equal(first, second)


def test_the_values_are_these_on_every_machine(values):
    wanted = Stored("layer.weight", (1000, 1000), "BF16", "layer.weight")
    bits = np.concatenate(list(values.of("transformer", wanted)))
    assert bits.dtype == "<u2"
    assert bits[:4].tolist() == [15052, 15514, 15499, 47845]
    assert hashlib.sha256(bits.tobytes()).hexdigest() == (
        "1c56bb37f533980e0ab5e886019de5add52fc6da6a1d51b3a230603f1fb81d60"
    )
    floats = (bits.astype(np.uint32) << 16).view(np.float32)
    assert floats.std() == pytest.approx(0.02, rel=0.002)
    assert np.abs(floats).max() < 0.035


def test_chunking_changes_no_byte(values):
    # larger than the pool, so that it is repeated, and begins anywhere in it
    wanted = Stored("embedding.weight", (POOL + 5, 1), "BF16", "embedding.weight")

    def joined(source: Values) -> np.ndarray:
        return np.concatenate(list(source.of("pe", wanted)))

    whole = joined(values)
    assert len(whole) == POOL + 5
    assert np.array_equal(whole[:5], whole[POOL:])
    assert np.array_equal(whole, joined(Values(0, chunk=10_000_019)))


def test_the_same_twice_and_another_with_another_seed(replica, tmp_path):
    again = write_replica(tmp_path / "again", scale=SMALL)
    assert contents(again) == contents(replica)
    assert find_model(again).identity.hash == find_model(replica).identity.hash
    other = write_replica(tmp_path / "other", scale=SMALL, seed=1)
    assert find_model(other).identity.hash != find_model(replica).identity.hash


# --- its tokenizers ---


@pytest.fixture(scope="module")
def words():
    return tokenizer(131072, longest=512, chat=True)


def test_a_prompt_has_about_as_many_tokens_as_it_would(words):
    counts = [len(words(case.prompt)["input_ids"]) for case in find_suite("turbo10").cases]
    assert min(counts) > 100
    assert max(counts) < 400
    ids = words(find_suite("turbo10").cases[0].prompt)["input_ids"]
    assert ids[0] == words.bos_token_id
    assert words.unk_token_id not in ids


def test_every_id_is_a_word_that_means_it(words):
    assert len(words) == 131072
    ids = list(range(len(SPECIAL), len(words)))
    text = words.decode(ids, skip_special_tokens=True)
    assert words(text)["input_ids"] == [words.bos_token_id, *ids]


def test_the_enhancers_tokenizer_has_a_template(replica):
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(replica / "pe_tokenizer")
    text = loaded.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    assert text == "[INST]x[/INST]Output:"
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id) == (1, 2, 3)
    assert loaded.model_max_length == 512
    generation = json.loads((replica / "pe" / "generation_config.json").read_text())
    assert [generation[f"{name}_token_id"] for name in ("bos", "eos", "pad")] == [1, 2, 3]


# --- what is refused, and what a failure leaves ---


@pytest.mark.parametrize("scale", [0, -1, 1.01, float("nan"), float("inf")])
def test_a_scale_out_of_range(tmp_path, scale):
    with pytest.raises(InputError, match="above 0, and 1 at most"):
        write_replica(tmp_path / "new", scale=scale)
    with pytest.raises(InputError, match="above 0"):
        sizes(scale)
    assert not list(tmp_path.iterdir())


def test_a_negative_seed(tmp_path):
    with pytest.raises(InputError, match="seed -1: allowed"):
        write_replica(tmp_path / "new", seed=-1)


@pytest.mark.parametrize("scale", [1e-9, 0.02, 0.11, 0.3, 0.9375, 0.97])
def test_any_scale_has_shapes_that_the_classes_accept(scale):
    assert all(size > 0 for size in sizes(scale).values())


def test_a_directory_that_holds_something(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        write_replica(tmp_path, scale=SMALL)
    with pytest.raises(InputError, match="not a directory"):
        write_replica(tmp_path / "file", scale=SMALL)
    with pytest.raises(InputError, match="make it first"):
        write_replica(tmp_path / "no" / "replica", scale=SMALL)
    assert contents(tmp_path) == {"file": b"mine"}


def test_where_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="name a new directory in it"):
        write_replica(Path(), scale=SMALL)


def test_an_empty_directory_behind_a_link(replica, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    write_replica(tmp_path / "link", scale=SMALL)
    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path / "disk") == contents(replica)


def test_a_disk_that_is_too_small(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 10**12, 123_456))
    with pytest.raises(UnavailableError, match=r"needs 31,6\d\d,\d{3},\d{3} bytes .* 123,456 are free in"):
        write_replica(tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_a_place_where_nothing_can_be_written():
    with pytest.raises(UnavailableError, match=r"/proc/new: cannot be written: .*; name a directory"):
        write_replica(Path("/proc/new"), scale=SMALL)


def stop_with(problem: BaseException):
    def progress(done: int, total: int) -> None:
        if done > total / 2:
            raise problem

    return progress


def test_a_disk_that_fills_up(tmp_path):
    progress = stop_with(OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(UnavailableError, match=r"the disk is full: .* nothing was left there"):
        write_replica(tmp_path / "new", scale=SMALL, progress=progress)
    assert not list(tmp_path.iterdir())


def test_a_file_that_may_not_grow(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, before[1]))
    try:
        with pytest.raises(UnavailableError, match="File too large"):
            write_replica(tmp_path / "new", scale=SMALL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_an_interrupt(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write_replica(tmp_path / "new", scale=SMALL, progress=stop_with(KeyboardInterrupt()))
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_removed(replica, tmp_path):
    left = tmp_path / ".new.ernie-qa-unfinished"
    (left / "transformer").mkdir(parents=True)
    (left / "transformer" / "config.json").write_text("{")
    (left / "old.safetensors").write_text("half")
    write_replica(tmp_path / "new", scale=SMALL)
    assert contents(tmp_path / "new") == contents(replica)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_two_at_once(tmp_path):
    left = tmp_path / ".new.ernie-qa-unfinished"
    left.mkdir()
    (left / "half").write_text("being written")
    handle = os.open(left, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(UnavailableError, match="another process is writing it"):
            write_replica(tmp_path / "new", scale=SMALL)
    finally:
        os.close(handle)
    assert contents(left) == {"half": b"being written"}


# --- the command ---


def test_the_command(tmp_path, replica, capsys):
    assert main(["replica", str(tmp_path / "my model"), "--scale", str(SMALL)]) == 0
    said = capsys.readouterr()
    assert contents(tmp_path / "my model") == contents(replica)
    total = sum(sizes(SMALL).values())
    assert f"total        {total:>14,} B" in said.out
    assert f"gate --model '{tmp_path}/my model' --suite turbo10 --device cuda" in said.out
    assert main(["replica", str(tmp_path / "my model")]) == 2
    assert capsys.readouterr().err == (
        f"ernie-qa: {tmp_path}/my model: not empty; name a new or an empty directory\n"
    )


def test_progress_counts_every_byte(tmp_path):
    seen = []
    write_replica(tmp_path / "new", scale=SMALL, progress=lambda *both: seen.append(both))
    total = sum(sizes(SMALL).values())
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
