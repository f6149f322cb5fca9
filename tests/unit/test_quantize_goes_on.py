"""`ernie-qa quantize` where the disk is full or the process ends: what is left, and how it goes on."""

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ernie_qa.cli import main
from ernie_qa.errors import UnavailableError
from ernie_qa.quantize import quantize
from ernie_qa.quantize.needed import size_of
from ernie_qa.quantizers import find_quantizer
from ernie_qa.recipe import QUANTIZABLE, find_recipe
from tests.quantizing import HIDDEN, NF4, QMM, contents, refused, stop_at


def test_a_file_that_may_not_grow_and_then_may(
    tmp_path: Path, tiny_model: Path, whole: dict[str, Path]
) -> None:
    """The system's own limit, which safetensors meets while it writes the largest component."""
    sizes = {name: size_of(whole[QMM] / name) for name in QUANTIZABLE}
    assert max(sizes["pe"], sizes["text_encoder"]) < 900_000 < sizes["transformer"]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (900_000, before[1]))
    try:
        refused(
            UnavailableError,
            "new: cannot be written: File too large; .*; what was done is kept, and the same command goes on",
            tiny_model,
            QMM,
            tmp_path / "new",
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [entry.name for entry in tmp_path.iterdir()] == [HIDDEN]
    assert {entry.name for entry in (tmp_path / HIDDEN).iterdir()} == {"parts.json", "pe", "text_encoder"}
    found = quantize(tiny_model, QMM, tmp_path / "new", device="cpu")
    assert found.resumed == ("pe", "text_encoder")
    assert contents(tmp_path / "new") == contents(whole[QMM])
    assert [entry.name for entry in tmp_path.iterdir()] == ["new"]


def test_a_disk_that_fills_up_at_once_leaves_nothing(tmp_path: Path, tiny_model: Path) -> None:
    full = stop_at("pe: writing", OSError(errno.ENOSPC, "No space left on device"))
    refused(
        UnavailableError,
        "disk is full: .*; nothing was left",
        tiny_model,
        NF4,
        tmp_path / "new",
        progress=full,
    )
    assert not list(tmp_path.iterdir())


# --- interrupted ---

KILLED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has it ignored
from ernie_qa.cli import main
from ernie_qa.quantizers import {quantizer} as quantizer

save = quantizer.save
def interrupted(module, folder, options):
    save(module, folder, options)
    if folder.parent.joinpath("pe").is_dir():
        os.kill(os.getpid(), signal.{signal})
quantizer.save = interrupted
sys.exit(main(["quantize", {model!r}, "--recipe", {recipe!r}, "--output", {output!r}, "--device", "cpu"]))
"""


@pytest.mark.parametrize(
    ("recipe", "sent"), [(QMM, signal.SIGKILL), (NF4, signal.SIGKILL), (QMM, signal.SIGINT)]
)
def test_what_an_interrupted_process_did_is_not_done_again(
    tmp_path: Path, tiny_model: Path, whole: dict[str, Path], recipe: str, sent: signal.Signals
) -> None:
    code = KILLED.format(
        quantizer=find_recipe(recipe).components["pe"],
        signal=sent.name,
        model=str(tiny_model),
        recipe=recipe,
        output=str(tmp_path / "new"),
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if sent == signal.SIGINT:
        assert done.returncode == 130
        assert done.stderr == (
            f"ernie-qa: {tmp_path / 'new'}: interrupted, not written; kept is pe, and the same command "
            "goes on there\n"
        )
    else:
        assert done.returncode == -sent
    assert [entry.name for entry in tmp_path.iterdir()] == [HIDDEN]
    made = (tmp_path / HIDDEN / "pe").stat().st_ino
    found = quantize(tiny_model, recipe, tmp_path / "new", device="cpu")
    assert found.resumed == ("pe",)
    assert (tmp_path / "new" / "pe").stat().st_ino == made
    assert contents(tmp_path / "new") == contents(whole[recipe])


@pytest.mark.parametrize("begun", [True, False])
def test_an_interruption_that_leaves_nothing_says_so(
    tmp_path: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    begun: bool,
) -> None:
    def pressed(*given: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    if begun:
        monkeypatch.setattr(find_quantizer("bitsandbytes"), "save", pressed)
    else:
        monkeypatch.setattr("ernie_qa.quantize.find_model", pressed)
    output = ["--output", str(tmp_path / "new"), "--device", "cpu"]
    assert main(["quantize", str(tiny_model), "--recipe", NF4, *output]) == 130
    said = "nothing is kept" if begun else "nothing had been begun"
    expected = f"ernie-qa: {tmp_path / 'new'}: interrupted, not written; {said}"
    assert capfd.readouterr().err.splitlines()[-1] == expected
    assert not list(tmp_path.iterdir())


def test_what_another_recipe_left_is_of_no_use(
    tmp_path: Path, tiny_model: Path, whole: dict[str, Path]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        quantize(
            tiny_model,
            QMM,
            tmp_path / "new",
            device="cpu",
            progress=stop_at("transformer: quantizing", KeyboardInterrupt()),
        )
    assert (tmp_path / HIDDEN / "pe").is_dir()
    found = quantize(tiny_model, NF4, tmp_path / "new", device="cpu")
    assert found.resumed == ()
    assert contents(tmp_path / "new") == contents(whole[NF4])


def test_what_does_not_read_back_is_not_kept(
    tmp_path: Path, tiny_model: Path, whole: dict[str, Path]
) -> None:
    stop = stop_at("transformer: quantizing", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        quantize(tiny_model, NF4, tmp_path / "new", device="cpu", progress=stop)
    weights = tmp_path / HIDDEN / "pe" / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 1)
    refused(
        UnavailableError, "new/pe/model.safetensors: truncated.* run it", tiny_model, NF4, tmp_path / "new"
    )
    assert not list(tmp_path.iterdir())
    assert quantize(tiny_model, NF4, tmp_path / "new", device="cpu").resumed == ()
    assert contents(tmp_path / "new") == contents(whole[NF4])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": 1}', '{"parts": [{}]}'])
def test_a_damaged_list_is_no_list(
    tmp_path: Path, tiny_model: Path, whole: dict[str, Path], text: str
) -> None:
    (tmp_path / HIDDEN / "pe").mkdir(parents=True)
    (tmp_path / HIDDEN / "parts.json").write_text(text)
    assert quantize(tiny_model, NF4, tmp_path / "new", device="cpu").resumed == ()
    assert contents(tmp_path / "new") == contents(whole[NF4])
