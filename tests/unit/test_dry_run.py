"""`ernie-qa gate --dry-run`, and what it asks of the hub; nothing runs and nothing is kept."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from ernie_qa import meter, observer
from ernie_qa.cli import arms, main
from ernie_qa.errors import UnavailableError
from ernie_qa.models.find import to_fetch
from ernie_qa.models.weights import bf16_bytes
from ernie_qa.plan import plan
from tests.unit.test_forecast import COMMIT, ELSEWHERE, baselines, ran

# the command


@pytest.fixture
def dry_run(tiny_model: Path, small_suite: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`ernie-qa gate --dry-run` on the tiny model, where nothing may be loaded, and LPIPS not be fetched."""

    def never(*arguments: Any, **named: Any) -> Any:
        raise AssertionError("a dry run runs nothing")

    for module, name in ((observer, "load_pipeline"), (observer, "fetch"), (arms, "Session")):
        monkeypatch.setattr(module, name, never)

    def run(*arguments: str, model: Path | str = tiny_model, device: str = "cpu") -> int:
        common = ["--model", str(model), "--suite", str(small_suite), "--device", device]
        return main(["gate", "--dry-run", *common, *arguments])

    return run


def test_a_dry_run_tells_and_leaves_nothing(
    dry_run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = ["--baselines", str(tmp_path / "bl"), "--update", "--report", str(tmp_path / "out")]
    assert dry_run("--recipe", "sdnq-int8", *kept) == 0
    out = capsys.readouterr().out
    assert out.startswith("tiny on suite small, cpu: ")
    assert f"free for {tmp_path / 'bl' / 'candidates'};" in out.replace("\n" + " " * 10, " ")
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_as_json(
    dry_run: Callable[..., int], small_suite: Path, tiny_model: Path, tmp_path: Path, capsys: Any
) -> None:
    planned = plan(tiny_model, ["sdnq-int8"], small_suite)
    root = baselines(tmp_path, planned, bf16=ran(20, peak=7), sdnq_int8=ran(5, ELSEWHERE))
    assert dry_run("--recipe", "sdnq-int8", "--baselines", str(root), "--json") == 0
    read = json.loads(capsys.readouterr().out)
    assert read["seconds"] == [25, 25]
    assert [(arm["recipe"], arm["here"]) for arm in read["arms"]] == [("bf16", True), ("sdnq-int8", False)]
    assert read["arms"][0]["peak_bytes"] == 7
    assert read["weights"] == bf16_bytes(planned.model)


def test_what_is_lacking_is_told_and_exits_2(
    dry_run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ernie_qa.forecast.available", lambda device: 1)
    assert dry_run("--recipe", "sdnq-int8") == 2
    assert "\nlacking: memory: needed are " in capsys.readouterr().out


def test_an_allowance_that_matches_nothing_is_told(
    dry_run: Callable[..., int], write_recipe: Callable[[str, float], Path], capsys: Any
) -> None:
    recipe = write_recipe("mine", 1.0)
    text = recipe.read_text(encoding="utf-8")
    recipe.write_text(text.replace("adaLN_modulation.*", "adaln.*"), encoding="utf-8")
    assert dry_run("--recipe", str(recipe)) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert 'no layer of tiny is named as "transformer.adaln.*", so it allows nothing' in told
    assert dry_run("--recipe", str(recipe), "--json") == 0
    (warning,) = json.loads(capsys.readouterr().out)["warnings"]
    assert warning.startswith(f"warning: {recipe}: activation.allow: no layer")


def test_bad_input_is_one_line_as_without_a_dry_run(
    dry_run: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refused(*arguments: str, **named: str) -> str:
        assert dry_run(*arguments, **named) == 2
        output = capsys.readouterr()
        assert (output.out, output.err.count("\n")) == ("", 1)
        return output.err

    assert 'did you mean "sdnq-int8"?' in refused("--recipe", "sdnq-int9")
    (tmp_path / "held").touch()
    assert "not empty" in refused("--report", str(tmp_path))
    assert "no model" in refused(model="tinny")

    def unusable(device: str) -> None:
        raise UnavailableError("no usable GPU: none here")

    monkeypatch.setattr(meter, "require_device", unusable)
    assert refused(device="cuda") == "ernie-qa: no usable GPU: none here\n"


# the hub


@pytest.fixture
def hub(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A hub that lists the tiny model's files and a pickle, with an empty cache, and fetches nothing."""
    sizes = {
        file.relative_to(tiny_model).as_posix(): file.stat().st_size
        for file in tiny_model.rglob("*")
        if file.is_file()
    }
    listed = [SimpleNamespace(rfilename=name, size=size) for name, size in {**sizes, "vae/a.bin": 9}.items()]
    asked: list[tuple[str, str | None]] = []
    look_up = huggingface_hub.snapshot_download

    def model_info(repo: str, *, revision: str | None, files_metadata: bool) -> SimpleNamespace:
        asked.append((repo, revision))
        assert files_metadata
        return SimpleNamespace(sha=COMMIT, siblings=listed)

    def snapshot_download(repo: str, *, local_files_only: bool, **options: Any) -> str:
        assert local_files_only, "a dry run fetches nothing"
        return look_up(repo, local_files_only=True, **options)

    cache = tmp_path / "hub"
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)

    def keep() -> Path:
        """Put all of it into the cache."""
        cached = cache / "models--org--name"
        shutil.copytree(tiny_model, cached / "snapshots" / COMMIT)
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text(COMMIT)
        return cached / "snapshots" / COMMIT

    return SimpleNamespace(cache=cache, sizes=sizes, asked=asked, keep=keep)


def test_of_a_model_on_the_hub_only_the_download_is_told(
    hub: SimpleNamespace, dry_run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert dry_run("--json", model="org/name@main") == 0
    read = json.loads(capsys.readouterr().out)
    assert read["downloads"] == [
        {
            "name": "org/name@main",
            "place": str(hub.cache),
            "files": len(hub.sizes),
            "bytes": sum(hub.sizes.values()),
        }
    ]
    assert (read["arms"], read["suite"]) == ([], None)
    assert hub.asked == [("org/name", "main")]
    assert not hub.cache.exists()
    assert dry_run(model="org/name") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "All else can be told once the model is here."


def test_of_a_download_that_broke_off_the_rest_is_told(hub: SimpleNamespace) -> None:
    (hub.keep() / "vae" / "config.json").unlink()
    download = to_fetch("org/name")
    assert download is not None
    assert (download.files, download.bytes) == (1, hub.sizes["vae/config.json"])


def test_a_model_in_the_cache_is_forecast_under_its_name(
    hub: SimpleNamespace, dry_run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    hub.keep()
    assert dry_run(model="org/name") == 0
    assert capsys.readouterr().out.startswith("org/name on suite small, cpu: ")


def test_without_the_hub_the_cache_has_to_do(
    hub: SimpleNamespace,
    dry_run: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # really asked, at a port where nobody answers
    monkeypatch.setattr(huggingface_hub, "model_info", huggingface_hub.HfApi("http://127.0.0.1:9").model_info)
    assert dry_run(model="org/name") == 2
    told = capsys.readouterr().err
    assert told.startswith(
        "ernie-qa: org/name: no such directory here, and not to be had on the hub, so that"
    )
    assert "ConnectError" in told
    hub.keep()
    assert dry_run(model="org/name") == 0


def test_neither_a_directory_nor_a_shipped_model_is_asked_for_on_the_hub(
    hub: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert [to_fetch(model) for model in ("org/name", "mini", Path("org/nowhere"))] == [None, None, None]
    assert hub.asked == []
