"""A capsule made on the CPU passes on a real GPU, and the other way round. Run by `pytest -m gpu`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ernie_qa.faults import NF4, UINT4

pytestmark = pytest.mark.gpu

SAVE = """
import sys
from ernie_qa.quiet import hushed
from ernie_qa.pipeline import load_pipeline
with hushed():
    load_pipeline("mini", sys.argv[1], "cpu").save_pretrained(sys.argv[2])
"""
# in processes of their own: sdnq decides when it is imported whether it compiles, as it should on a GPU alone
DAMAGED = """
import sys
import torch
from ernie_qa.capsules.capsule import read_capsule
from ernie_qa.quiet import hushed
from ernie_qa.faults import corpus
from ernie_qa.capsules.installed import compared
from ernie_qa.pipeline import load_artifact
from pathlib import Path
damage = next(one for one in corpus() if one.name == sys.argv[4]).damage
with hushed(), torch.no_grad():
    pipe = load_artifact(sys.argv[1], sys.argv[2], "cuda")
    damage(pipe)
    findings, _ = compared(read_capsule(Path(sys.argv[3])), pipe)
failed = [one for one in findings if one.status == "fail"]
import json
print(json.dumps([[one.component, one.about, list(one.layers)] for one in failed]))
"""
Published = dict[tuple[str, str], tuple[Path, Path]]


def ran(*command: str) -> str:
    found = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert found.returncode in (0, 1), found.stderr
    return found.stdout


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Recipe and device -> an artifact that was quantized on the CPU, and its capsule from that device."""
    found = {}
    for recipe in (UINT4, NF4):
        place = tmp_path_factory.mktemp(recipe)
        ran("-c", SAVE, recipe, str(place / "artifact"))
        for device in ("cpu", "cuda"):
            file = place / f"{device}.capsule"
            made = ("-m", "ernie_qa.cli", "capsule", "export", "mini", str(place / "artifact"))
            ran(*made, "--recipe", recipe, "-o", str(file), "--device", device)
            found[recipe, device] = (place / "artifact", file)
    return found


@pytest.mark.parametrize("recipe", [UINT4, NF4])
@pytest.mark.parametrize(("made", "checked"), [("cpu", "cuda"), ("cuda", "cpu"), ("cuda", "cuda")])
def test_what_was_published_is_the_same_there(
    published: Published, recipe: str, made: str, checked: str
) -> None:
    artifact, file = published[recipe, made]
    check = ("-m", "ernie_qa.cli", "capsule", "check", str(file), str(artifact), "--device", checked)
    answer: dict[str, Any] = json.loads(ran(*check, "--json"))
    assert [one for one in answer["findings"] if one["status"] != "same"] == []
    assert any("published on" in note for note in answer["notes"]) is (made != checked)


@pytest.mark.parametrize(
    ("recipe", "fault"),
    [(UINT4, "UINT4: one layer's scales 2 % off"), (NF4, "NF4: one layer's scales 2 % off")],
)
def test_a_scale_off_by_two_percent_is_named_there(published: Published, recipe: str, fault: str) -> None:
    artifact, file = published[recipe, "cpu"]
    failed = json.loads(ran("-c", DAMAGED, str(artifact), recipe, str(file), fault).splitlines()[-1])
    layer = ["layers.3.mlp.up_proj"]
    assert failed == [["transformer", "weights", layer], ["transformer", "layers", layer]]
