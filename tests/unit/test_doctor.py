"""What the doctor makes of plain values, and what it finds here under changed settings."""

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ernie_qa import doctor
from ernie_qa.cli import main
from ernie_qa.doctor import Finding, State, examine, findings
from ernie_qa.doctor.findings import GIB, TIMES, Gpu
from ernie_qa.errors import InputError, UnavailableError
from ernie_qa.fidelity.lpips_weights import COMMAND, FILE
from ernie_qa.fingerprint import PACKAGES, take_fingerprint

H100 = Gpu("NVIDIA H100 80GB HBM3", "580.159.04", (9, 0), 79 * GIB, 78 * GIB, others=0)
T4 = Gpu("Tesla T4", "550.54", (7, 5), 15 * GIB, 14 * GIB, others=0)
VERSIONS = {**dict.fromkeys(PACKAGES, "2.0"), "numpy": "2.4"}


def only(topic: str, found: tuple[Finding, ...]) -> Finding:
    (one,) = [finding for finding in found if finding.topic == topic]
    return one


def here(topic: str, device: str = "cpu") -> Finding:
    return only(topic, examine(device))


def in_a_process(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """`ernie-qa doctor` under `settings`, where no GPU can be seen."""
    return subprocess.run(
        [sys.executable, "-m", "ernie_qa.cli", "doctor", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **settings},
    )


def test_whatever_should_change_comes_with_one_sentence_and_nothing_else_does() -> None:
    for finding in examine("cpu"):
        assert (finding.state is State.OK) == (finding.advice == "")
        assert finding.found
        assert finding.advice.endswith("." if finding.advice else "")


def test_a_device_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="no device 'mps'"):
        examine("mps")


def test_packages_that_meet_their_bounds() -> None:
    found = findings.packages({**VERSIONS, "torch": "2.11.0+cu130"}, ["torch>=2.11", "numpy>=2.0"])
    assert (found.state, found.advice) == (State.OK, "")
    assert "torch 2.11.0+cu130" in found.found
    assert "numpy" not in found.found


def test_packages_that_are_too_old_or_absent_come_with_the_command() -> None:
    versions = {**VERSIONS, "torch": "2.9.1", "numpy": "1.26", "lpips": None}
    found = findings.packages(versions, ["torch>=2.11", "numpy>=2.0", "lpips", "sdnq>=0.2.8"])
    assert found.state is State.MISSING
    for told in ("torch 2.9.1 (needs >=2.11)", "numpy 1.26 (needs >=2.0)", "lpips absent (needs any)"):
        assert told in found.found
    assert "`pip install 'torch>=2.11' 'numpy>=2.0' 'lpips'`" in found.advice


def test_every_dependency_is_looked_at_and_no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version_of", lambda name: None if name == "unearth" else version(name))
    assert not any(text.startswith("ruff") for text in doctor._declared())
    found = here("packages")
    assert found.state is State.MISSING
    assert re.fullmatch(r"Run `pip install 'unearth>=[\d.]+'`: .*", found.advice)


def test_torch_that_cannot_be_imported_is_told_and_the_rest_is_still_looked_at(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.13: cannot open shared object file')")
    done = in_a_process("--json", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2, done.stderr
    told = {finding["topic"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert told["torch"]["state"] == "missing"
    assert "libcudart.so.13" in told["torch"]["found"]
    assert {"packages", "disk", "allocator"} <= set(told)
    assert "device" not in told


@pytest.mark.parametrize(
    ("gpu", "said"),
    [
        (H100, "NVIDIA H100 80GB HBM3, driver 580.159.04, 78.0 of 79.0 GiB free"),
        (T4, "Tesla T4, driver 550.54, 14.0 of 15.0 GiB free"),
    ],
)
def test_a_gpu_that_is_free(gpu: Gpu, said: str) -> None:
    assert findings.memory(gpu) == Finding("device", State.OK, said)


@pytest.mark.parametrize(
    ("busy", "said"),
    [
        (replace(H100, others=2), "other processes on it: 2"),
        (replace(H100, free=40 * GIB), "other processes on it: hidden from here"),
    ],
)
def test_a_gpu_that_others_use(busy: Gpu, said: str) -> None:
    found = findings.memory(busy)
    assert found.state is State.ADVICE
    assert said in found.found
    assert "CUDA_VISIBLE_DEVICES" in found.advice


def test_tensor_cores_of_an_h100() -> None:
    found = findings.tensor_cores(H100.capability)
    told = "compute capability 9.0, tensor cores for BF16 and int8"
    assert found == Finding("tensor cores", State.OK, told)


def test_tensor_cores_of_a_t4() -> None:
    found = findings.tensor_cores(T4.capability)
    assert found.state is State.ADVICE
    assert "7.5, tensor cores for int8 but not for BF16" in found.found
    assert "reported" in found.advice


def test_tensor_cores_of_a_v100() -> None:
    found = findings.tensor_cores((7, 0))
    assert "neither BF16 nor int8" in found.found
    assert "bitsandbytes" not in found.advice


@pytest.mark.parametrize(
    ("reason", "mend"),
    [
        (
            "no usable GPU: torch 2.14.1+cpu was built without CUDA",
            "Install a torch that was built with CUDA",
        ),
        ("no usable GPU: Found no NVIDIA driver on your system.", "Make `nvidia-smi` list a GPU"),
    ],
)
def test_a_gpu_that_is_wanted_and_does_not_compute(reason: str, mend: str) -> None:
    found = findings.no_gpu(reason, required=True)
    assert (found.state, found.found) == (State.MISSING, reason)
    assert found.advice.startswith(mend)
    assert "--device cpu" in found.advice


def test_no_gpu_is_enough_for_mini() -> None:
    found = findings.no_gpu("no usable GPU: Found no NVIDIA driver. Please install one", required=False)
    assert found.state is State.OK
    assert found.found.startswith("cpu, no usable GPU: Found no NVIDIA driver; a CPU is enough for mini")


def test_a_gpu_is_looked_at_from_end_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU is made up; what asks torch for it is not."""
    machine = replace(take_fingerprint("cpu"), gpu=H100.name, driver=H100.driver)
    known = SimpleNamespace(name=H100.name, major=9, minor=0, uuid="1234")
    monkeypatch.setattr(doctor, "require_device", lambda device: None)
    monkeypatch.setattr(doctor, "take_fingerprint", lambda device: machine)
    monkeypatch.setattr(doctor, "_computing_elsewhere", lambda: ["GPU-1234", "GPU-5678"])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (H100.free, H100.total))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: known)
    found = examine("cuda")
    assert only("device", found).found.endswith("78.0 of 79.0 GiB free, other processes on it: 1")
    assert only("tensor cores", found).state is State.OK
    assert "mini" not in only("cpu", found).found


def test_the_driver_is_asked_who_else_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{os.getpid()}, GPU-1234'\necho '7, GPU-5678'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor._computing_elsewhere() == ["GPU-5678"]
    program.unlink()
    assert doctor._computing_elsewhere() == []


def test_a_cap_on_the_instructions_is_told_with_its_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    monkeypatch.setenv("DNNL_MAX_CPU_ISA", "ALL")
    found = here("cpu")
    assert found.state is State.ADVICE
    assert found.found.endswith("capped by ATEN_CPU_CAPABILITY=avx2")
    assert found.advice.startswith("Unset ATEN_CPU_CAPABILITY:")
    assert TIMES["AVX2 alone"] in found.advice


def test_default_is_the_least_that_torch_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert here("cpu").found.endswith("capped by ATEN_CPU_CAPABILITY=default")


def test_without_a_cap_the_time_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    monkeypatch.setenv("DNNL_MAX_CPU_ISA", "default")
    found = here("cpu")
    assert found.state is State.OK
    assert torch.backends.cpu.get_cpu_capability() in found.found
    assert TIMES["AVX512-BF16"] in found.found


@pytest.mark.parametrize(
    ("count", "cores", "machine", "load", "mend"),
    [
        (2, 2, 2, 0.9, ""),
        (2, 2, 2, 1.6, "Wait for what else runs"),
        (1, 2, 64, 30.0, ""),
        (32, 2, 64, 0.0, "Set OMP_NUM_THREADS=2"),
        (32, 32, 64, 40.0, "Wait for what else runs"),
    ],
)
def test_threads(count: int, cores: int, machine: int, load: float, mend: str) -> None:
    found = findings.threads(count, cores, machine, load)
    assert found.advice.startswith(mend)
    assert (found.state is State.OK) == (mend == "")


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_the_cores_that_a_control_group_leaves(
    files: dict[str, str], cores: float | None, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert doctor.cpu_limit(tmp_path) == cores


@pytest.mark.parametrize(
    ("device", "environment", "state", "told"),
    [
        ("cpu", {}, State.OK, "off: ernie_qa sets SDNQ_USE_TORCH_COMPILE=0"),
        ("cpu", {"SDNQ_USE_TORCH_COMPILE": "False"}, State.OK, "off: SDNQ_USE_TORCH_COMPILE=False"),
        ("cpu", {"SDNQ_USE_TORCH_COMPILE": "1"}, State.ADVICE, "on: SDNQ_USE_TORCH_COMPILE=1"),
        ("cpu", {"SDNQ_USE_TORCH_COMPILE": ""}, State.ADVICE, "on: SDNQ_USE_TORCH_COMPILE="),
        ("cuda", {}, State.OK, "on"),
        ("cuda", {"SDNQ_USE_TORCH_COMPILE": "1"}, State.OK, "on"),
        ("cuda", {"SDNQ_USE_TORCH_COMPILE": "0"}, State.MISSING, "off: SDNQ_USE_TORCH_COMPILE=0"),
        ("cuda", {"TORCHDYNAMO_DISABLE": "1"}, State.MISSING, "off: TORCHDYNAMO_DISABLE=1"),
    ],
)
def test_compilation(device: str, environment: dict[str, str], state: State, told: str) -> None:
    found = findings.compilation(device, environment, [])
    assert found.state is state
    assert found.found.startswith(told)


def test_what_triton_builds_with_matters_on_a_gpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    lacking = doctor._lacking({})
    assert "C compiler" in lacking
    assert "C compiler" not in doctor._lacking({"CC": "cc"})
    found = findings.compilation("cuda", {}, lacking)
    assert (found.state, "no C compiler" in found.found) == (State.MISSING, True)
    assert findings.compilation("cpu", {}, lacking).state is State.OK


def test_kernels_in_a_temporary_directory_are_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/tmp/kernels")
    monkeypatch.setenv("TRITON_HOME", "/opt/kept")
    paths = doctor._kernel_caches(os.environ)
    assert paths == (Path("/tmp/kernels"), Path("/opt/kept/.triton/cache"))
    assert findings.kernel_cache("cpu", *paths).state is State.OK
    found = findings.kernel_cache("cuda", *paths)
    assert found.state is State.ADVICE
    assert "`export TORCHINDUCTOR_CACHE_DIR=~/.cache/torchinductor`" in found.advice
    assert findings.kernel_cache("cuda", Path("/opt/a"), Path("/opt/b")).state is State.OK


@pytest.mark.parametrize(
    ("offline", "free", "writable", "state"),
    [
        (False, 40 * GIB, True, State.OK),
        (False, GIB - 1, True, State.ADVICE),
        (False, 40 * GIB, False, State.ADVICE),
        (True, 0, False, State.OK),
    ],
)
def test_the_cache_of_the_hub(offline: bool, free: int, writable: bool, state: State) -> None:
    found = findings.hub_cache(Path("/models"), offline, free, writable)
    assert found.state is state
    assert ("only looked up" in found.found) == offline


BOTH = "expandable_segments:True,max_split_size_mb:128"


@pytest.mark.parametrize(
    ("environment", "mend"),
    [
        ({}, ""),
        ({"PYTORCH_ALLOC_CONF": "expandable_segments:True"}, ""),
        ({"PYTORCH_ALLOC_CONF": "expandable_segments:False,max_split_size_mb:128"}, ""),
        ({"PYTORCH_ALLOC_CONF": BOTH, "PYTORCH_CUDA_ALLOC_CONF": BOTH}, "Remove one of"),
        ({"PYTORCH_CUDA_ALLOC_CONF": BOTH.replace(":", " : ")}, "Remove one of"),
        (
            dict(zip(("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"), BOTH.split(","), strict=True)),
            "Remove",
        ),
        ({"PYTORCH_ALLOC_CONF": "a:1", "PYTORCH_CUDA_ALLOC_CONF": "a:2"}, "Unset PYTORCH_CUDA_ALLOC_CONF"),
    ],
)
def test_the_allocator(environment: dict[str, str], mend: str) -> None:
    found = findings.allocator("cuda", environment)
    assert found.advice.startswith(mend)
    refused = mend.startswith("Remove")
    assert found.state is (State.MISSING if refused else State.ADVICE if mend else State.OK)
    assert findings.allocator("cpu", environment).state is State.OK


@pytest.mark.parametrize(
    ("free", "writable", "state"),
    [(GIB, True, State.OK), (GIB - 1, True, State.ADVICE), (GIB, False, State.ADVICE)],
)
def test_room_for_reports(free: int, writable: bool, state: State) -> None:
    assert findings.disk(Path("/reports"), free, writable).state is state


def test_the_room_of_what_is_not_there_is_that_of_what_is_above(tmp_path: Path) -> None:
    free, writable = doctor.room(tmp_path / "not" / "there")
    assert free > 0
    assert writable


@pytest.fixture
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where LPIPS's weights would be kept, and are not."""
    monkeypatch.setenv("ERNIE_QA_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / FILE


def test_weights_that_are_not_there(no_weights: Path) -> None:
    found = here("lpips")
    assert found.state is State.ADVICE
    assert str(no_weights) in found.found
    assert COMMAND in found.advice
    assert not no_weights.exists()


def test_other_weights_are_missing_ones_and_end_in_exit_code_2(
    no_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    no_weights.write_bytes(b"not safetensors")
    assert main(["doctor", "--device", "cpu"]) == 2
    said = capsys.readouterr().out
    assert re.search(r"^MISSING +lpips ", said, flags=re.MULTILINE)
    assert said.splitlines()[-1].startswith("not ready, missing: lpips")


def test_torchvisions_weights_will_do_where_they_are_whole(
    no_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"features.0.bias": torch.zeros(3)}, no_weights.with_name("new"))
    digest = hashlib.sha256(no_weights.with_name("new").read_bytes()).hexdigest()
    whole = no_weights.with_name("new").rename(no_weights.with_name(f"alexnet-{digest[:8]}.pth"))
    monkeypatch.setattr(doctor, "torchvision_path", lambda: whole)
    assert here("lpips").state is State.OK
    whole.write_bytes(b"damaged")
    found = here("lpips")
    assert (found.state, str(whole) in found.found) == (State.MISSING, True)


def test_settings_of_a_process_and_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    done = in_a_process(
        "--device",
        "cuda",
        "--json",
        HF_HUB_CACHE=str(hub),
        HF_HUB_OFFLINE="1",
        SDNQ_USE_TORCH_COMPILE="0",
        PYTORCH_ALLOC_CONF=BOTH,
    )
    assert (done.returncode, done.stderr) == (2, "")
    document = json.loads(done.stdout)
    assert (document["schema"], document["ready"]) == (1, False)
    told = {finding["topic"]: finding for finding in document["findings"]}
    assert told["device"]["state"] == "missing"
    assert told["device"]["found"].startswith("no usable GPU: ")
    assert told["compilation"]["state"] == "missing"
    assert told["allocator"]["state"] == "missing"
    assert told["hub cache"]["found"].startswith(str(hub))
    assert "only looked up" in told["hub cache"]["found"]
    assert not hub.exists()


def test_the_home_directory_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "al" / "work").mkdir(parents=True)
    (tmp_path / "al-2").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "al"))
    monkeypatch.chdir(tmp_path / "al" / "work")
    assert here("disk").found.startswith("~/work, ")
    monkeypatch.chdir(tmp_path / "al-2")
    assert here("disk").found.startswith(f"{tmp_path}/al-2, ")


def test_engines_that_read_words(monkeypatch: pytest.MonkeyPatch) -> None:
    assert here("words").state is State.OK
    monkeypatch.setattr("ernie_qa.fidelity.text.engines.tesseract._data", lambda: missing())

    def missing() -> Path:
        raise UnavailableError("rus.traineddata is not installed")

    found = here("words")
    assert found.state is State.ADVICE
    assert "rapidocr 3" in found.found
    assert "rus.traineddata is not installed" in found.found
    assert "apt-get install tesseract-ocr-rus" in found.advice
