"""`ernie-qa diagnose` on artifacts of the miniature: what is wrong is named, and a healthy one is not."""

import getpass
import json
import shutil
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from ernie_qa.capsules.capsule import read_capsule
from ernie_qa.capsules.installed import STEPS as CHECKING
from ernie_qa.capsules.installed import check
from ernie_qa.capsules.publish import STEPS as EXPORTING
from ernie_qa.capsules.publish import export
from ernie_qa.cli import main
from ernie_qa.diagnose import STEPS, diagnose
from tests.lies import LAYER
from tests.unit.test_artifacts import edit, quantization

UINT4, NF4 = "sdnq-uint4-static", "bnb-nf4"
PARTS = ("pe", "text_encoder", "transformer")
AS_PUBLISHED = ("--steps", "8", "--guidance", "1", "--no-use-pe", "--size", "128x128")
SCRIPT = """
import torch
{imports}
from diffusers import ErnieImagePipeline
{switch}
pipe = ErnieImagePipeline.from_pretrained("quantized", torch_dtype=torch.bfloat16)
{apply}
pipe("a poster", width=128, height=128, num_inference_steps=8, guidance_scale=1.0, use_pe=False)
"""
Diagnosed = Callable[..., tuple[int, dict[str, Any]]]
SWITCH = "from sdnq.loader import apply_sdnq_options_to_model"
APPLY = """
for name in ("pe", "text_encoder", "transformer"):
    setattr(pipe, name, apply_sdnq_options_to_model(getattr(pipe, name), use_quantized_matmul=True))
"""


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("artifacts")
    for recipe in (UINT4, NF4):
        options = ["--recipe", recipe, "--output", str(place / recipe), "--device", "cpu"]
        assert main(["quantize", "mini", *options]) == 0
    return {recipe: place / recipe for recipe in (UINT4, NF4)}


@pytest.fixture(scope="module")
def capsules(artifacts: dict[str, Path]) -> dict[str, Path]:
    found = {}
    for recipe, place in artifacts.items():
        found[recipe] = place.with_suffix(".capsule")
        command = ["capsule", "export", "mini", str(place), "--recipe", recipe, "-o", str(found[recipe])]
        assert main([*command, "--device", "cpu"]) == 0
    return found


@pytest.fixture
def copied(artifacts: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """`copied(recipe)`: such an artifact, to be spoilt."""
    return lambda recipe: Path(shutil.copytree(artifacts[recipe], tmp_path / recipe))


@pytest.fixture
def diagnosed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Diagnosed:
    """The exit code and the document of a diagnosis."""

    def run(directory: Path, *more: str | Path) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        file = tmp_path / "diagnosis.json"
        code = main(["diagnose", str(directory), "--device", "cpu", "--output", str(file), *map(str, more)])
        assert "Traceback" not in capsys.readouterr().err
        return code, json.loads(file.read_text(encoding="utf-8"))

    return run


def told(document: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(one["blame"], one["topic"], one["where"]) for one in document["findings"]]


@pytest.mark.parametrize("recipe", [UINT4, NF4])
def test_a_healthy_one_has_nothing_to_blame(
    artifacts: dict[str, Path],
    capsules: dict[str, Path],
    diagnosed: Diagnosed,
    recipe: str,
) -> None:
    code, found = diagnosed(artifacts[recipe], "--capsule", capsules[recipe], *AS_PUBLISHED)
    assert (code, found["clean"], found["findings"]) == (0, True, [])
    assert found["recipe"] == {"name": recipe, "source": "named by its own files"}
    checks = {(one["name"], one["component"]): one["status"] for one in found["checks"]}
    assert {(f"activation.{level}", part) for level in ("layers", "kernels") for part in PARTS} <= set(checks)
    assert set(checks.values()) == {"pass"}
    # nothing is judged that only BF16 could tell
    assert not any(name in ("package.weights", "package.unchanged") for name, _ in checks)
    assert any("not comparable without the BF16 model" in said for said in found["not_looked_at"])
    assert {one["status"] for one in found["capsule"]["findings"]} == {"pass"}
    assert found["memory"]["free"] > found["memory"]["weights"] > 0


def test_with_the_bf16_model_its_weights_are_compared_too(
    artifacts: dict[str, Path], diagnosed: Diagnosed
) -> None:
    code, found = diagnosed(artifacts[NF4], "--model", "mini", *AS_PUBLISHED)
    assert (code, found["findings"]) == (0, [])
    assert {"package.weights", "package.unchanged"} <= {one["name"] for one in found["checks"]}
    assert not any("without the BF16 model" in said for said in found["not_looked_at"])


def test_files_whose_flags_lie(copied: Callable[[str], Path], diagnosed: Diagnosed, tmp_path: Path) -> None:
    place = copied(UINT4)
    for part in PARTS:
        off = {**quantization(place / part), "use_quantized_matmul": False}
        edit(place / part / "config.json", quantization_config=off)
    code, found = diagnosed(place, *AS_PUBLISHED)
    assert (code, told(found)) == (2, [("suspect", "package.claims", "transformer, text_encoder, pe")])
    assert "use_quantized_matmul=False" in found["findings"][0]["found"]
    # and what a script gets that does not apply the switch
    (tmp_path / "my_script.py").write_text(SCRIPT.format(imports="import sdnq", switch="", apply=""))
    (tmp_path / "diagnosis.json").unlink()
    code, found = diagnosed(place, "--script", tmp_path / "my_script.py")
    assert code == 2
    assert told(found) == [
        ("suspect", "activation.flag", "pe, text_encoder, transformer"),
        ("advice", "switch", "my_script.py"),
    ]
    failed = {one["name"] for one in found["checks"] if one["status"] == "fail"}
    assert failed == {"activation.flag", "activation.layers", "activation.kernels"}


def test_the_script_decides_how_it_is_loaded(
    artifacts: dict[str, Path], diagnosed: Diagnosed, tmp_path: Path
) -> None:
    script = tmp_path / "my_script.py"
    script.write_text(SCRIPT.format(imports="import sdnq", switch=SWITCH, apply=APPLY))
    code, found = diagnosed(artifacts[UINT4], "--script", script)
    assert (code, found["findings"]) == (0, [])
    assert found["settings"][0]["steps"] == {"value": 8, "where": "my_script.py, line 11"}


def test_a_missing_import_comes_first(
    artifacts: dict[str, Path], diagnosed: Diagnosed, tmp_path: Path
) -> None:
    script = tmp_path / "my_script.py"
    text = SCRIPT.format(imports="", switch="from other import apply_sdnq_options_to_model", apply=APPLY)
    script.write_text(text.replace("num_inference_steps=8", "num_inference_steps=2"))
    code, found = diagnosed(artifacts[UINT4], "--script", script)
    assert code == 2
    assert told(found) == [
        ("cause", "import", "my_script.py, line 6"),
        ("cause", "settings", "my_script.py, line 11"),
    ]


@pytest.mark.parametrize("recipe", [UINT4, NF4])
def test_other_settings_than_published(artifacts: dict[str, Path], diagnosed: Diagnosed, recipe: str) -> None:
    given = ("--steps", "3", "--guidance", "5", "--use-pe", "--size", "100x128")
    code, found = diagnosed(artifacts[recipe], *given)
    assert code == 2
    assert told(found) == [
        ("cause", "settings", "--steps"),
        ("cause", "settings", "--guidance"),
        ("cause", "settings", "--size"),
        ("suspect", "settings", "--use-pe"),
    ]


def spoil(place: Path) -> None:
    """One scale of a layer of the transformer, 50 % off."""
    (file,) = (place / "transformer").glob("*.safetensors")
    tensors = load_file(file)
    scales = [name for name in tensors if name.startswith(f"{LAYER}.") and name.endswith(("scale", "absmax"))]
    name = scales[0]
    tensors[name] = (tensors[name] * 1.5).to(tensors[name].dtype)
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize("recipe", [UINT4, NF4])
def test_a_damaged_scale_is_named_by_the_capsule(
    copied: Callable[[str], Path],
    capsules: dict[str, Path],
    diagnosed: Diagnosed,
    recipe: str,
) -> None:
    place = copied(recipe)
    spoil(place)
    # the one that lies in the directory is found
    shutil.copy(capsules[recipe], place / "published.capsule")
    code, found = diagnosed(place, *AS_PUBLISHED)
    assert (code, told(found)) == (2, [("cause", "capsule", "transformer")])
    assert LAYER in found["findings"][0]["found"]
    (weights,) = [
        one
        for one in found["capsule"]["findings"]
        if (one["component"], one["about"]) == ("transformer", "weights")
    ]
    assert weights["layers"] == [LAYER]


def test_a_damaged_scale_without_a_capsule_is_not_passed_off_as_whole(
    copied: Callable[[str], Path], diagnosed: Diagnosed, tmp_path: Path
) -> None:
    place = copied(UINT4)
    spoil(place)
    code, found = diagnosed(place, *AS_PUBLISHED)
    assert (code, found["findings"]) == (0, [])
    assert any(said.startswith("capsule, whether the weights are what") for said in found["not_looked_at"])
    (tmp_path / "diagnosis.json").unlink()
    code, found = diagnosed(place, "--model", "mini", *AS_PUBLISHED)
    assert (code, told(found)) == (2, [("cause", "package.weights", "transformer")])
    assert LAYER in found["findings"][0]["found"]


def test_what_cannot_be_loaded_is_a_finding(copied: Callable[[str], Path], diagnosed: Diagnosed) -> None:
    place = copied(NF4)
    edit(place / "pe" / "config.json", hidden_size=64)
    code, found = diagnosed(place, *AS_PUBLISHED)
    assert (code, told(found)) == (2, [("cause", "loading", f"mini-{NF4}")])
    assert "cannot be loaded" in found["findings"][0]["found"]
    assert any(said.startswith("rungs package and activation: it was not") for said in found["not_looked_at"])


def test_a_recipe_that_is_not_shipped_has_to_be_named(
    copied: Callable[[str], Path],
    capsules: dict[str, Path],
    diagnosed: Diagnosed,
    tmp_path: Path,
) -> None:
    place = copied(UINT4)
    edit(place / "runtime_config.json", recipe={"name": "mine", "hash": "0" * 64})
    code, found = diagnosed(place, *AS_PUBLISHED)
    assert (code, found["recipe"]["name"], found["checks"]) == (2, None, None)
    assert told(found) == [("suspect", "recipe", "its metadata")]
    assert "mine, which made it, is no shipped recipe" in found["findings"][0]["found"]
    # a capsule knows it, but for which layers may do without the kernel
    (tmp_path / "diagnosis.json").unlink()
    code, found = diagnosed(place, "--capsule", capsules[UINT4], *AS_PUBLISHED)
    assert found["recipe"] == {"name": UINT4, "source": "of the capsule"}
    assert {one["status"] for one in found["checks"]} == {"pass"}
    assert any(said.startswith("activation.kernels: a capsule does not") for said in found["not_looked_at"])


def test_a_directory_of_others_is_known_by_its_components(
    copied: Callable[[str], Path], diagnosed: Diagnosed
) -> None:
    place = copied(UINT4)
    (place / "runtime_config.json").unlink()
    code, found = diagnosed(place, *AS_PUBLISHED)
    assert (code, found["recipe"]["name"]) == (0, UINT4)
    assert found["recipe"]["source"] == "found by what its components say"
    assert any("which settings it was published with" in said for said in found["not_looked_at"])


@pytest.mark.parametrize("text", ["{", '{"schema": 1, "sampling": 3}'])
def test_settings_that_cannot_be_read_are_a_finding(
    copied: Callable[[str], Path], diagnosed: Diagnosed, text: str
) -> None:
    place = copied(NF4)
    (place / "runtime_config.json").write_text(text, encoding="utf-8")
    code, found = diagnosed(place, *AS_PUBLISHED)
    assert (code, told(found)) == (2, [("suspect", "metadata", "runtime_config.json")])


def test_what_is_attached_names_nobody(
    copied: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "homes" / "kunigunde"
    home.mkdir(parents=True)
    token = "hf_" + "aBcDeFgHiJ" * 3
    place = Path(shutil.move(copied(UINT4), home / "turbo"))
    settings = {
        "HOME": home,
        "USER": "kunigunde",
        "LOGNAME": "kunigunde",
        "HF_TOKEN": token,
        "SDNQ_CACHE": f"{home}/cache",
        "SDNQ_NOTE": f"{getpass.getuser()} on {socket.gethostname()}, {token}, https://me:pass1234@there",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
    script = home / "my_script.py"
    script.write_text(SCRIPT.format(imports="", switch="", apply=f"pipe.to('{home}')"))
    # so that an error names the directory too
    (place / "pe" / "config.json").write_text(
        (place / "pe" / "config.json").read_text().replace('"hidden_size": 128', '"hidden_size": 64')
    )
    file = tmp_path / "diagnosis.zip"
    command = ["diagnose", str(place), "--device", "cpu", "--script", str(script), "--output", str(file)]
    assert main(command) == 2
    with zipfile.ZipFile(file) as archive:
        assert archive.namelist() == ["diagnosis.json"]
        text = archive.read("diagnosis.json").decode()
    assert json.loads(text)["schema"] == 1
    for secret in ("kunigunde", token, "pass1234", str(tmp_path), socket.gethostname()):
        assert secret not in text
    assert '"SDNQ_NOTE"' in text


def test_a_picture_is_drawn_if_asked(
    artifacts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    common = ["diagnose", str(artifacts[UINT4]), "--device", "cpu", "--draw", "--steps", "2"]
    assert main([*common, "--size", "64x96", "--output", str(tmp_path / "a.json")]) == 2
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (64, 96)
        assert picture.info == {}
    assert main([*common, "--size", "64x96", "--output", str(tmp_path / "a.zip")]) == 2
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["diagnosis.json", "diagnosis.png"]
        assert archive.read("diagnosis.png") == (tmp_path / "a.png").read_bytes()
    assert "1 to blame, the likeliest first" in capsys.readouterr().out


def test_progress_is_told(artifacts: dict[str, Path], capsules: dict[str, Path]) -> None:
    began: list[tuple[int, int, str]] = []

    def progress(done: int, total: int, what: str) -> None:
        began.append((done, total, what))

    diagnose(artifacts[NF4], capsule=capsules[NF4], device="cpu", draw=True, progress=progress)
    assert [what for *_, what in began] == [*STEPS, "done"]
    assert began[-1][:2] == (len(STEPS), len(STEPS))
    began.clear()
    check(read_capsule(capsules[NF4]), str(artifacts[NF4]), device="cpu", steps=1, progress=progress)
    assert [what for *_, what in began] == [*CHECKING, "done"]
    began.clear()
    export("mini", NF4, artifact=str(artifacts[NF4]), device="cpu", cases=1, progress=progress)
    assert [what for *_, what in began] == [*EXPORTING, "done"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["mini"], "holds nothing quantized: name the directory that gives bad pictures"),
        (["nowhere"], "no model"),
        (["{}", "--draw"], "--draw: nowhere to put the picture; name a file, --output diagnosis.zip"),
        (["{}", "--script", "missing.py"], "missing.py: no such file"),
        (["{}", "--script", "my_script.py", "--steps", "8"], "--steps: with --script the settings are"),
        (["{}", "--output", "a.txt"], "a.txt: needed is a file that ends in .json or .zip"),
        (["{}", "--output", "nowhere/a.zip"], "nowhere: no such directory"),
        (["{}", "--steps", "0"], "--steps 0: allowed are 1 to 1000"),
        (["{}", "--recipe", "bf17"], "no recipe named"),
        (["{}", "--capsule", "."], ".: a directory, and no capsule; name the one file"),
    ],
)
def test_bad_input_is_one_line(
    artifacts: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_script.py").write_text(SCRIPT)
    given = [one.format(artifacts[UINT4]) for one in arguments]
    assert main(["diagnose", *given, "--device", "cpu"]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("ernie-qa: ")
    assert output.err.count("\n") == 1
    assert expected in output.err
