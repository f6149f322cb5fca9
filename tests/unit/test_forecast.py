"""What a dry run tells of plain values, of baselines made here, and of the hub; and that it runs nothing."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch

from ernie_qa import meter
from ernie_qa.baseline.accepted import Accepted, Run
from ernie_qa.baseline.pictures import Pictures
from ernie_qa.baseline.store import Baseline, find_baseline, place_of, promote
from ernie_qa.errors import BaselineError, ModelError, UnavailableError
from ernie_qa.fidelity import lpips_weights
from ernie_qa.fingerprint import Fingerprint, take_fingerprint
from ernie_qa.forecast import (
    Arm,
    Forecast,
    Writing,
    accepted_for,
    arm_of,
    described,
    forecast,
    forecast_download,
    largest_png,
)
from ernie_qa.models.find import find_model
from ernie_qa.models.hub import Download
from ernie_qa.models.weights import bf16_bytes
from ernie_qa.picture import Picture
from ernie_qa.plan import Plan, plan
from ernie_qa.recipe import find_recipe
from ernie_qa.record import Identity
from ernie_qa.report.forecast import document, forecast_lines

GIB = 2**30
HERE = take_fingerprint("cpu")
ELSEWHERE = replace(HERE, instruction_set=("AVX9000",), threads=64)
H100 = replace(HERE, gpu="NVIDIA H100 80GB HBM3")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
DISK = Writing("pictures", Path("out"), 2 * GIB, True, 3 * GIB, True)
PLAIN = Forecast("tiny", "small", "cpu", "AVX2, 2 threads", (), (DISK,), 4 * GIB, 5 * GIB, (Arm("bf16"),))


@pytest.fixture(scope="module")
def mini() -> Plan:
    return plan("mini", ["sdnq-int8"])


def ran(seconds: float | None, machine: Fingerprint = HERE, peak: int | None = 10**9) -> Run:
    # as it is read back
    took = None if seconds is None else float(seconds)
    return Run("0" * 64, None, "2026-11-22T12:00:00+00:00", machine, took, peak)


def accepted(planned: Plan, recipe: str, *runs: Run) -> Accepted:
    return Accepted(
        model=planned.model.identity,
        machine=runs[0].fingerprint.machine,
        recipe=Identity(recipe, find_recipe(recipe).hash),
        suite=Identity(planned.suite.name, planned.suite.hash),
        by="a tester",
        when="2026-11-22T12:00:00+00:00",
        why="a test",
        runs=runs,
        figures={},
    )


def baselines(root: Path, planned: Plan, pictures: Pictures | None = None, **runs: Run) -> Path:
    """Baselines below `root`, a run a recipe; in their names `_` stands for a hyphen."""
    told = {name.replace("_", "-"): run for name, run in runs.items()}
    made = {name: accepted(planned, name, run) for name, run in told.items()}
    promote(Baseline(place_of(root, planned.model.name, "cpu"), made, pictures))
    return root


def noise(planned: Plan) -> Pictures:
    """A picture a case that PNG cannot compress, half as wide as it would be drawn."""
    values = np.random.default_rng(0)
    return Pictures(
        "0" * 64,
        tuple(
            Picture.from_pixels(
                case.id, values.integers(0, 256, (case.height, case.width // 2, 3), dtype=np.uint8)
            )
            for case in planned.suite.cases
        ),
    )


# memory and time


def test_runs_on_a_machine_as_this_one_count_and_others_do_not(mini: Plan) -> None:
    runs = (ran(30, peak=5), ran(20, peak=7), ran(90, ELSEWHERE, peak=9))
    arm = arm_of("sdnq-int8", accepted(mini, "sdnq-int8", *runs), HERE)
    assert arm == Arm("sdnq-int8", (20, 30), 7, (described(HERE),), here=True)


@pytest.mark.parametrize(
    "other",
    [
        replace(HERE, threads=HERE.threads + 1),
        replace(HERE, instruction_set=(*HERE.instruction_set, "amx_bf17")),
    ],
)
def test_without_one_all_that_is_known_is_told_and_where_from(mini: Plan, other: Fingerprint) -> None:
    runs = (ran(30, other), ran(90, ELSEWHERE), ran(None, ELSEWHERE, peak=None))
    arm = arm_of("sdnq-int8", accepted(mini, "sdnq-int8", *runs), HERE)
    assert (arm.seconds, arm.here) == ((30, 90), False)
    assert arm.measured_on == (described(other), "AVX9000, 64 threads")


def test_on_a_gpu_the_cpu_does_not_count(mini: Plan) -> None:
    run = ran(30, replace(H100, instruction_set=("AVX2",), threads=HERE.threads + 1))
    assert arm_of("bf16", accepted(mini, "bf16", run), H100).here


def test_what_nobody_measured_is_unknown(mini: Plan) -> None:
    assert arm_of("bf16", None, HERE) == Arm("bf16")
    arm = arm_of("bf16", accepted(mini, "bf16", ran(None, peak=None)), HERE)
    assert (arm.seconds, arm.peak_bytes) == (None, None)


def test_only_the_same_recipe_model_and_suite_tell_anything(mini: Plan, tmp_path: Path) -> None:
    baseline = find_baseline(baselines(tmp_path, mini, bf16=ran(20), sdnq_int8=ran(5)), "mini", "cpu")
    (recipe,) = mini.recipes
    found = accepted_for(recipe, mini, baseline)
    assert found is not None
    assert found.runs[0].seconds == 5
    assert accepted_for(find_recipe("bnb-nf4"), mini, baseline) is None
    assert accepted_for(replace(recipe, components={"pe": "sdnq"}), mini, baseline) is None
    assert accepted_for(recipe, replace(mini, suite=replace(mini.suite, steps=99)), baseline) is None
    other = replace(mini.model, identity=replace(mini.model.identity, hash="f" * 64))
    assert accepted_for(recipe, replace(mini, model=other), baseline) is None


def test_bf16_comes_first_and_once(mini: Plan) -> None:
    names = [arm.recipe for arm in forecast(plan("mini", ["sdnq-int8", "bf16", "bnb-nf4"])).arms]
    assert names == ["bf16", "sdnq-int8", "bnb-nf4"]
    assert [arm.recipe for arm in forecast(mini).arms] == ["bf16", "sdnq-int8"]


def test_time_together_is_known_only_if_all_arms_are() -> None:
    timed = (Arm("bf16", (20, 30)), Arm("sdnq-int8", (5, 6)))
    assert replace(PLAIN, arms=timed).seconds == (25, 36)
    assert replace(PLAIN, arms=(*timed, Arm("bnb-nf4"))).seconds is None
    assert replace(PLAIN, arms=()).seconds is None


@pytest.mark.parametrize(
    ("weights", "peak", "needed", "ready"),
    [(4, None, 4, True), (4, 5, 5, True), (4, 6, 6, False), (6, None, 6, False), (6, 3, 6, False)],
)
def test_what_an_arm_is_known_to_take_must_be_available(
    weights: int, peak: int | None, needed: int, ready: bool
) -> None:
    arms = (Arm("bf16"), Arm("sdnq-int8", peak_bytes=peak and peak * GIB))
    found = replace(PLAIN, weights=weights * GIB, arms=arms)
    assert (found.needed, found.ready) == (needed * GIB, ready)
    lacking = [line for line in forecast_lines(found) if line.startswith("lacking: ")]
    short = f"lacking: memory: needed are {needed}.0 GiB, available are 5.0 GiB"
    assert lacking == ([] if ready else [short])


# a model's weights


def test_the_weights_are_those_that_loading_reads_in_bf16(tiny_model: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(tiny_model, tmp_path / "tiny")
    tensors = [
        tensor
        for file in directory.glob("*/*.safetensors")
        for tensor in safetensors.torch.load_file(file).values()
    ]
    as_it_is = sum(tensor.numel() * (2 if tensor.is_floating_point() else 8) for tensor in tensors)
    assert bf16_bytes(find_model(directory)) == as_it_is
    floats = np.zeros((10, 10), np.float32)
    (directory / "pe" / "model.safetensors").rename(directory / "pe" / "model-00001-of-00002.safetensors")
    for name in ("model-00002-of-00002", "model.fp32", "consolidated"):
        safetensors.numpy.save_file({"extra": floats}, directory / "pe" / f"{name}.safetensors")
    assert bf16_bytes(find_model(directory)) == as_it_is + 2 * floats.size


def test_a_file_that_cannot_be_loaded_is_one_line(tiny_model: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(tiny_model, tmp_path / "tiny")
    header = json.dumps({"a": {"dtype": "BF17", "shape": [1], "data_offsets": [0, 2]}}).encode()
    file = directory / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    with pytest.raises(ModelError, match=r"diffusion_pytorch_model.safetensors: damaged: .*BF17") as caught:
        bf16_bytes(find_model(directory))
    assert "\n" not in str(caught.value)


def test_a_control_group_limits_memory(tmp_path: Path) -> None:
    assert meter.memory_limit(tmp_path) is None
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("2048\n")
    assert meter.memory_limit(tmp_path) == 2048
    (tmp_path / "memory.max").write_text("1024\n")
    assert meter.memory_limit(tmp_path) == 1024
    (tmp_path / "memory.max").write_text("max\n")
    assert meter.memory_limit(tmp_path) is None


def test_available_memory_is_no_more_than_the_limit(mini: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "memory_limit", lambda groups: None)
    unlimited = forecast(mini).available
    assert unlimited is not None
    assert 2**24 < unlimited < 2**50
    monkeypatch.setattr(meter, "memory_limit", lambda groups: 2**24)
    limited = forecast(mini)
    assert (limited.available, limited.ready) == (2**24, False)


# disk and downloads


@pytest.mark.parametrize(("width", "height"), [(32, 32), (128, 128), (1376, 768)])
def test_no_png_is_larger_than_told(width: int, height: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    png = Picture.from_pixels("noise", pixels).png
    assert len(png) <= largest_png(width, height) <= 1.01 * len(png) + 1024


def test_pictures_take_what_accepted_ones_took_else_at_most_what_noise_takes(
    mini: Plan, tmp_path: Path
) -> None:
    nothing = tmp_path / "nothing"
    at_most = 2 * sum(largest_png(case.width, case.height) for case in mini.suite.cases)
    (bound,) = forecast(mini, baselines=None, report=tmp_path / "out").writings
    assert (bound.place, bound.bytes, bound.at_most) == (tmp_path / "out", at_most, True)
    assert bound.free > 0

    kept = noise(mini)
    root = baselines(tmp_path / "kept", mini, kept, bf16=ran(20))
    report, candidates = forecast(mini, baselines=root, report=tmp_path / "out", update=True).writings
    assert (report.place, candidates.place) == (tmp_path / "out", root / "candidates")
    assert report.bytes == candidates.bytes == 2 * sum(len(picture.png) for picture in kept.pictures)
    assert not report.at_most

    other = replace(mini, suite=replace(mini.suite, steps=99))
    (unknown,) = forecast(other, baselines=root, report=tmp_path / "out").writings
    assert (unknown.bytes, unknown.at_most) == (at_most, True)
    assert forecast(mini, baselines=root).writings == ()
    # a first run with --update makes its baselines; any other finds them, or stops as a gate would
    assert forecast(mini, baselines=nothing, update=True).writings[0].place == nothing / "candidates"
    with pytest.raises(BaselineError, match="nothing: no such directory"):
        forecast(mini, baselines=nothing)
    assert not nothing.exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"bytes": 3 * GIB}, None),
        ({"bytes": 4 * GIB}, "lacking: disk: 3.0 GiB free for out; pictures take at most 4.0 GiB"),
        ({"writable": False}, "lacking: disk: out cannot be written"),
    ],
)
def test_there_must_be_room_for_the_pictures(changed: dict[str, Any], said: str | None) -> None:
    found = replace(PLAIN, writings=(replace(DISK, **changed),))
    assert found.ready is (said is None)
    assert [line for line in forecast_lines(found) if line.startswith("lacking: ")] == (
        [said] if said else []
    )


def test_lpips_is_fetched_where_it_is_not_and_where_pictures_mean_something(
    mini: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERNIE_QA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert forecast(mini).downloads == (Download("LPIPS's backbone", tmp_path / "cache"),)
    assert not (tmp_path / "cache").exists()
    identity = replace(mini.model.identity, weights="random")
    assert forecast(replace(mini, model=replace(mini.model, identity=identity))).downloads == ()
    damaged = tmp_path / "torch" / "hub" / "checkpoints" / lpips_weights.TORCHVISION_FILE
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"no weights")
    with pytest.raises(UnavailableError, match="is damaged"):
        forecast(mini)


def test_a_download_without_room_is_lacking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ernie_qa.forecast.room", lambda path: (3 * GIB, True))
    fits = forecast_download(Download("org/name", tmp_path, 3, 2 * GIB))
    assert (fits.ready, fits.arms, fits.seconds) == (True, (), None)
    assert not forecast_download(Download("org/name", tmp_path, 3, 4 * GIB)).ready


# what is told


def test_a_forecast_at_80_columns() -> None:
    found = replace(
        PLAIN,
        downloads=(Download("LPIPS's backbone", Path("cache")),),
        arms=(
            Arm(
                "bf16",
                (62.4, 318),
                10**9,
                ("AVX512 avx512_bf16 amx_bf16 amx_int8, 2 threads", "AVX2, 1 thread"),
            ),
            Arm("sdnq-uint4-dequant", (3660, 7300), 1300 * 2**20, ("AVX2, 2 threads",), here=True),
            Arm("sdnq-int8", (0.2, 0.3), None, ("AVX2, 2 threads",), here=True),
        ),
    )
    assert forecast_lines(found) == [
        "tiny on suite small, cpu: AVX2, 2 threads",
        "",
        "download  LPIPS's backbone, once, into cache",
        "disk      3.0 GiB free for out; pictures take at most 2.0 GiB",
        "memory    5.0 GiB available; in BF16 the model's weights take 4.0 GiB",
        "",
        "arm                 peak memory   load and draw",
        "bf16                953.7 MiB     1 min 2 s to 5 min 18 s elsewhere",
        "sdnq-uint4-dequant  1.3 GiB       1 h 1 min to 2 h 1 min",
        "sdnq-int8           not measured  1 s",
        "together                          1 h 2 min to 2 h 6 min elsewhere",
        "",
        "Measured in accepted runs. Starting up and comparing come on top.",
        "elsewhere: AVX512 avx512_bf16 amx_bf16 amx_int8, 2 threads",
        "elsewhere: AVX2, 1 thread",
    ]


def test_what_is_unknown_is_told(mini: Plan) -> None:
    lines = forecast_lines(forecast(mini))
    assert "disk      nothing is kept without --report or --update" in lines
    assert "sdnq-int8  not measured  not measured" in lines
    assert not any(line.startswith(("together", "Measured", "elsewhere")) for line in lines)
    assert max(map(len, lines)) <= 80


def test_the_document_is_json_and_says_what_is_lacking() -> None:
    read = json.loads(
        json.dumps(document(replace(PLAIN, available=GIB, downloads=(Download("a", Path("b")),))))
    )
    assert (read["schema"], read["ready"], read["seconds"]) == (1, False, None)
    assert read["lacking"] == ["memory: needed are 4.0 GiB, available are 1.0 GiB"]
    assert read["downloads"] == [{"name": "a", "place": "b", "files": None, "bytes": None}]
    assert read["writings"][0]["place"] == "out"
    assert read["arms"][0] == {
        "recipe": "bf16",
        "seconds": None,
        "peak_bytes": None,
        "measured_on": [],
        "here": False,
    }


def test_neither_module_imports_torch() -> None:
    program = "import sys, ernie_qa.forecast, ernie_qa.report.forecast; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
