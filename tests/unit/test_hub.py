"""Hub ids without a network: a cache as huggingface_hub lays it out, read by processes that cannot."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ernie_qa.errors import ModelError
from ernie_qa.models.find import Model, find_model, unpinned
from ernie_qa.pipeline import load_pipeline
from ernie_qa.record import ModelIdentity

COMMIT, OTHER = "0123456789abcdef0123456789abcdef01234567", "f" * 40
MODEL, ARTIFACT = "some-org/some-model", "some-org/some-model-uint4"
RECIPE = "sdnq-uint4-static"
OFFLINE = """
import socket
from json import dumps

def refuse(*args, **kwargs):
    raise AssertionError(f"connects to {args}")

socket.socket.connect = socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = refuse
"""


def cached(cache: Path, repo: str, directory: Path, commit: str, branch: str = "main") -> Path:
    """Put a model directory into the cache as a commit of `repo`: blobs by their hash, and links to them."""
    root = cache / f"models--{repo.replace('/', '--')}"
    snapshot = root / "snapshots" / commit
    for file in sorted(path for path in directory.rglob("*") if path.is_file()):
        content = file.read_bytes()
        blob = root / "blobs" / hashlib.sha256(content).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link = snapshot / file.relative_to(directory)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    (root / "refs").mkdir(exist_ok=True)
    (root / "refs" / branch).write_text(commit)
    return snapshot


@pytest.fixture(scope="module")
def artifact(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("artifacts") / "uint4"
    load_pipeline(tiny_model, RECIPE, "cpu").save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def cache(tiny_model: Path, artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("cache")
    cached(place, MODEL, tiny_model, COMMIT)
    cached(place, ARTIFACT, artifact, OTHER)
    return place


def answer(cache: Path, program: str) -> Any:
    """What `program` prints last, as JSON, in a process that is offline and may open no connection."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
    ended = subprocess.run(
        [sys.executable, "-c", OFFLINE + program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return json.loads(ended.stdout.splitlines()[-1])


def test_a_model_is_found_by_its_branch_or_its_commit(cache: Path, tiny_model: Path) -> None:
    program = f"""
from ernie_qa.errors import ModelError
from ernie_qa.models.find import find_model, to_fetch, unpinned
found = {{}}
for name in ("{MODEL}", "{MODEL}@main", "{MODEL}@{COMMIT}"):
    assert to_fetch(name) is None
    model = find_model(name)
    found[name] = [*model.identity.values().values(), unpinned(model)]
for name in ("{MODEL}@no-such-branch", "{MODEL}@{OTHER}", "{MODEL}@{COMMIT[:12]}"):
    try:
        find_model(name)
    except ModelError as error:
        found[name] = str(error)
print(dumps(found))
"""
    found = answer(cache, program)
    sha256 = find_model(tiny_model).identity.hash
    told = (
        f"{MODEL}: no commit was pinned: main is {COMMIT} today; write {MODEL}@{COMMIT} to judge the same "
        "weights tomorrow"
    )
    assert found.pop(MODEL) == [MODEL, COMMIT, "unknown", sha256, False, told]
    assert found.pop(f"{MODEL}@main") == [MODEL, COMMIT, "unknown", sha256, False, told]
    assert found.pop(f"{MODEL}@{COMMIT}") == [MODEL, COMMIT, "unknown", sha256, True, ""]
    assert len(found) == 3
    for name, message in found.items():
        assert message.splitlines() == [message]
        assert message.startswith(f"{name}: no such directory here, and not to be had in the local cache (")


def test_a_model_and_its_artifact_are_loaded_without_a_connection(cache: Path, artifact: Path) -> None:
    program = f"""
from ernie_qa import load_pipeline
from ernie_qa.pipeline import provenance
found = provenance(load_pipeline("{MODEL}@{COMMIT}", "{RECIPE}", "cpu", artifact="{ARTIFACT}"))
assert type(load_pipeline("{MODEL}", "bf16", "cpu").transformer).__module__.startswith("diffusers")
print(dumps([found.model.identity.values(), found.artifact.identity.values()]))
"""
    model, stored = answer(cache, program)
    assert (model["name"], model["revision"], model["pinned"]) == (MODEL, COMMIT, True)
    assert (stored["name"], stored["revision"], stored["pinned"]) == (ARTIFACT, OTHER, False)
    assert stored["hash"] == find_model(artifact).identity.hash


def test_every_rung_follows_the_links_of_the_cache(
    cache: Path, tiny_model: Path, small_suite: Path, artifact: Path
) -> None:
    from ernie_qa.models.weights import bf16_bytes
    from ernie_qa.observe import observe

    snapshots = [
        cache / f"models--{repo.replace('/', '--')}" / "snapshots" / commit
        for repo, commit in ((MODEL, COMMIT), (ARTIFACT, OTHER))
    ]
    linked, plain = (
        observe(load_pipeline(model, RECIPE, "cpu", artifact=stored), RECIPE, small_suite).figures["package"]
        for model, stored in (snapshots, (tiny_model, artifact))
    )
    assert linked == plain
    assert bf16_bytes(find_model(snapshots[0])) == bf16_bytes(find_model(tiny_model))


def test_a_cache_that_lacks_a_file_says_which(tiny_model: Path, tmp_path: Path) -> None:
    snapshot = cached(tmp_path, MODEL, tiny_model, COMMIT)
    link = snapshot / "transformer" / "diffusion_pytorch_model.safetensors"
    link.resolve().unlink()
    with pytest.raises(ModelError, match=r"safetensors: a link to a file that is not there; fetch it again"):
        find_model(snapshot)
    link.unlink()
    with pytest.raises(ModelError, match=r"transformer: no weights"):
        find_model(snapshot)


@pytest.mark.parametrize(("asked", "said"), [(None, "main"), ("v1.0", "v1.0"), ("refs/pr/7", "refs/pr/7")])
def test_what_may_be_another_commit_tomorrow_is_told(asked: str | None, said: str) -> None:
    identity = ModelIdentity(MODEL, COMMIT, "unknown", "0" * 64, pinned=False)
    message = unpinned(Model(Path("model"), identity, (), None, asked))
    assert message.startswith(
        f"{MODEL}: no commit was pinned: {said} is {COMMIT} today; write {MODEL}@{COMMIT} "
    )
    assert message.splitlines() == [message]


def test_a_directory_has_nothing_to_pin(tiny_model: Path) -> None:
    model = find_model(tiny_model)
    assert model.identity.pinned is None
    assert "pinned" not in model.identity.values()
    assert unpinned(model) == ""
