"""What is said where a command is given something else than it takes: what that is, and what to give."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ernie_qa.cli import main
from ernie_qa.errors import ModelError
from ernie_qa.models.artifact import check_sizes_of
from ernie_qa.models.find import find_model
from ernie_qa.pipeline import load_pipeline
from ernie_qa.recipe import Recipe
from ernie_qa.record import Record
from tests.unit.test_artifacts import edit

INT8 = "sdnq-int8"


@pytest.fixture(scope="module")
def report(observed: tuple[Recipe, dict[str, Record]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of two records, as `--report` lays them out."""
    place = tmp_path_factory.mktemp("reports") / "out"
    for name, record in observed[1].items():
        record.save(place / name)
    return place


@pytest.fixture(scope="module")
def quantized(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("artifacts") / INT8
    load_pipeline(tiny_model, INT8, "cpu").save_pretrained(place)
    return place


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line with which a command refuses what it is given."""

    def run(*arguments: str | Path) -> str:
        assert main([str(one) for one in arguments]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.count("\n") == 1
        return output.err.removeprefix("ernie-qa: ").rstrip("\n")

    return run


@pytest.mark.parametrize("command", [["compare", "{0}/bf16", "{0}"], ["explain", "{0}"], ["show", "{0}"]])
def test_a_report_holds_several_records(report: Path, told: Callable[..., str], command: list[str]) -> None:
    said = told(*(one.format(report) for one in command))
    assert said == f"{report}: a directory of several records; name one of {report}/bf16, {report}/lenient"


@pytest.mark.parametrize("command", ["explain", "show"])
def test_a_directory_without_a_record(tmp_path: Path, told: Callable[..., str], command: str) -> None:
    assert told(command, tmp_path).startswith(f"{tmp_path}: a directory without a record.json; name one")


@pytest.mark.parametrize("command", ["explain", "show"])
def test_the_records_own_file_will_do(report: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert main([command, str(report / "lenient" / "record.json")]) == 0
    assert capsys.readouterr().out


def test_a_directory_is_no_capsule(tmp_path: Path, told: Callable[..., str]) -> None:
    said = told("capsule", "check", tmp_path, "mini")
    assert (
        said == f"{tmp_path}: a directory, and no capsule; name the one file that `capsule export -o` wrote"
    )
    (tmp_path / "a.capsule").touch()
    said = told("capsule", "check", tmp_path, "mini")
    assert said == f"{tmp_path}: a directory, and no capsule; name {tmp_path / 'a.capsule'}"


def test_only_who_takes_an_artifact_advises_it(
    quantized: Path, tmp_path: Path, told: Callable[..., str]
) -> None:
    begins = f"{quantized}/pe: stored quantized by 'sdnq': name the BF16 model as the model"
    assert told("quantize", quantized, "--recipe", INT8, "--output", tmp_path / "new") == begins
    assert told("calibrate", quantized, "--suite", "mini", "--baselines", tmp_path / "floors") == begins
    command = ["capsule", "export", quantized, "--recipe", INT8, "-o", tmp_path / "a.capsule"]
    assert told(*command, "--suite", "mini") == f"{begins}, and this one after it"
    said = told("gate", "--model", quantized, "--recipe", INT8, "--suite", "mini")
    assert said.startswith(f"{begins}, and this one as its artifact: --artifact RECIPE={quantized} with")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is published is refused before BF16 is loaded."""

    def loaded(*arguments: object, **more: object) -> None:
        raise AssertionError("something was loaded")

    monkeypatch.setattr("ernie_qa.capsules.publish.load_pipeline", loaded)
    monkeypatch.setattr("ernie_qa.capsules.publish.load_artifact", loaded)


@pytest.mark.usefixtures("undrawn")
def test_a_wrong_artifact_is_refused_before_anything_is_drawn(
    tiny_model: Path, quantized: Path, report: Path, tmp_path: Path, told: Callable[..., str]
) -> None:
    def exported(artifact: Path | str, recipe: str, bf16: Path = tiny_model) -> str:
        command = ["capsule", "export", bf16, artifact, "--recipe", recipe, "-o", tmp_path / "a.capsule"]
        return told(*command, "--suite", "mini")

    assert "already quantized by 'sdnq', not by bitsandbytes" in exported(quantized, "bnb-nf4")
    assert "not stored quantized" in exported(tiny_model, INT8)
    assert exported(tmp_path / "absent", INT8).startswith("no model ")
    assert "already quantized by 'sdnq'" in exported(quantized, "bnb-nf4", report / "bf16")
    assert exported(quantized, INT8, report).startswith(f"{report}: a directory of several records; name one")
    other = Path(shutil.copytree(quantized, tmp_path / "other"))
    edit(other / "transformer" / "config.json", num_layers=7)
    said = exported(other, INT8)
    assert f"{other}/transformer/config.json: num_layers is 7, and 1 in tiny" in said
    assert not (tmp_path / "a.capsule").exists()


def test_what_a_release_adds_to_a_configuration_is_no_other_model(
    tiny_model: Path, quantized: Path, tmp_path: Path
) -> None:
    newer = Path(shutil.copytree(quantized, tmp_path / "newer"))
    edit(newer / "pe" / "config.json", added=5, _private=7)
    check_sizes_of(find_model(tiny_model), find_model(newer))
    edit(newer / "scheduler" / "scheduler_config.json", shift=2.5)
    with pytest.raises(ModelError, match=r"shift is 2\.5, and 3\.0 in tiny"):
        check_sizes_of(find_model(tiny_model), find_model(newer))
