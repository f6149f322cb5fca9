import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ernie_qa.cli import main
from ernie_qa.recipe import recipe_names


@pytest.mark.parametrize("arguments", [["--help"], ["gate", "--help"], ["show", "--help"]])
def test_help_of_every_command(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ernie_qa.cli", *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("usage: ernie-qa")


def test_gate_help_has_examples_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["gate", "--help"])
    text = capsys.readouterr().out
    assert "ernie-qa gate --recipe mine.toml" in text
    assert "0 pass, 1 fail, 2 bad input" in text


def test_recipes_lists_every_shipped_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    text = capsys.readouterr().out
    assert all(f"{name}\n" in text for name in recipe_names())


def test_suites_lists_what_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["suites"]) == 0
    said = capsys.readouterr().out
    assert re.search(
        r"^turbo10\n .+\n    10 cases, 8 steps, guidance 1; .*turbo10\.toml$", said, re.MULTILINE
    )
    assert "1 case, 50 steps, guidance 4, with the prompt enhancer; " in said


def test_models_lists_the_miniature(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    assert "mini\n" in capsys.readouterr().out


def test_show_of_no_record_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(tmp_path)]) == 2
    assert_one_line(capsys, str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["gate", "--sute", "mini"],
            'gate: unrecognized arguments: --sute mini; did you mean "--suite"? (see ernie-qa gate --help)',
        ),
        (["gate", "a\nb"], "gate: unrecognized arguments: a b (see ernie-qa gate --help)"),
        (
            ["baseline", "accept", "--resaon=x", "--reason=x"],
            'baseline accept: unrecognized arguments: --resaon=x; did you mean "--reason"? '
            "(see ernie-qa baseline accept --help)",
        ),
        (["repair"], "repair: the following arguments are required: RECIPE, --output (see ernie-qa repair"),
        (["gat"], "argument COMMAND: invalid choice: 'gat' (choose from "),
    ],
)
def test_a_misspelt_option_is_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    told = capsys.readouterr().err
    assert told.startswith("ernie-qa")
    assert told.count("\n") == 1
    assert said in told


def assert_one_line(capsys: pytest.CaptureFixture[str], *said: str) -> None:
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("ernie-qa: ")
    assert output.err.count("\n") == 1
    assert all(text in output.err for text in said), output.err


@pytest.fixture
def refused(
    tiny_model: Path, small_suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., None]:
    """Run `gate` on the tiny model with `changed` options; it must end in exit code 2, one line, no files."""

    def run(*said: str, **changed: object) -> None:
        report = tmp_path / "report"
        options = {"model": tiny_model, "suite": small_suite, "recipe": "bf16", "device": "cpu", **changed}
        arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        assert main(["gate", "--report", str(report), *arguments]) == 2
        assert_one_line(capsys, *said)
        assert not report.exists()

    return run


def test_unknown_recipe(refused: Callable[..., None]) -> None:
    refused("sdnq-int9", "sdnq-int8", recipe="sdnq-int9")


def changed(path: Path, source: Path, old: str, new: str) -> Path:
    text = source.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("use_quantized_matmul", "use_quantised_matmul", "use_quantised_matmul"),
        ("max = 0.5", 'max = "low"', "lpips_mean"),
        ("summary", "sumary", "sumary"),
        ("[gates.small", "[gate.small", "gate"),
    ],
    ids=["misspelt option", "limit that is no number", "misspelt key", "misspelt table"],
)
def test_wrong_recipe(
    refused: Callable[..., None],
    write_recipe: Callable[[str, float], Path],
    tmp_path: Path,
    old: str,
    new: str,
    said: str,
) -> None:
    recipe = changed(tmp_path / "mine.toml", write_recipe("mine", 0.5), old, new)
    refused("mine.toml", said, recipe=recipe)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("width = 64", "width = 60", "8"),
        ('prompt = "A square', 'prompt = 7 # "', "prompt"),
        ("schema = 1", "schema = 99", "schema"),
    ],
    ids=["indivisible size", "prompt that is not text", "later schema"],
)
def test_wrong_suite(
    refused: Callable[..., None], small_suite: Path, tmp_path: Path, old: str, new: str, said: str
) -> None:
    refused("mine.toml", said, suite=changed(tmp_path / "mine.toml", small_suite, old, new))


def test_directory_without_model_index(refused: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused("model_index.json", model=tmp_path / "empty")


def test_pickle_checkpoint(refused: Callable[..., None], tiny_model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "pickled"
    for file in tiny_model.rglob("*"):
        target = copy / file.relative_to(tiny_model)
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.is_file():
            target.symlink_to(file)
    (copy / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04.")
    refused("diffusion_pytorch_model.bin", "safetensors", model=copy)


def test_model_without_a_manifest_needs_a_suite(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gate", "--model", str(tiny_model), "--recipe", "bf16", "--device", "cpu"]) == 2
    assert_one_line(capsys, "suite")


def test_a_recipe_that_takes_the_name_of_the_reference(
    refused: Callable[..., None], write_recipe: Callable[[str, float], Path]
) -> None:
    impostor = write_recipe("bf16", 0.5)
    refused("bf16", recipe=impostor)


def test_report_over_another(
    tiny_model: Path, small_suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "verdict.json").write_text(json.dumps({}))
    assert main(["gate", "--report", str(tmp_path), "--model", str(tiny_model)]) == 2
    assert_one_line(capsys, "not empty")
    assert [file.name for file in tmp_path.iterdir()] == ["verdict.json"]


def test_an_interruption_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("ernie_qa.cli.doctor._doctor", interrupted)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "ernie-qa: interrupted\n"
