import platform
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ernie_qa import fingerprint
from ernie_qa.errors import UnavailableError
from ernie_qa.fingerprint import Fingerprint, differences, same_build_and_machine, take_fingerprint

SOME = Fingerprint(
    python="3.11.7",
    platform="Linux-6.1-x86_64",
    packages={"torch": "2.14.1", "lpips": None},
    cpu="a CPU",
    instruction_set=("AVX512", "avx512_bf16"),
    threads=2,
    gpu="NVIDIA H100 80GB HBM3",
    driver="580.1",
    cuda="13.0",
    compute_capability="9.0",
    settings={},
)


def test_the_fingerprint_of_this_process():
    found = take_fingerprint("cpu")
    assert found.machine == "cpu"
    assert (
        found.packages["torch"] == torch.__version__.partition("+")[0]
        or found.packages["torch"] == torch.__version__
    )
    assert found.instruction_set[0] == torch.backends.cpu.get_cpu_capability()
    assert found.threads == torch.get_num_threads()
    assert (found.gpu, found.driver, found.cuda, found.compute_capability) == (None, None, None, None)
    assert same_build_and_machine(found, take_fingerprint("cpu"))
    assert found == take_fingerprint("cpu")


def test_only_settings_that_count_are_kept_and_without_the_home_directory(monkeypatch):
    monkeypatch.setenv("SDNQ_CACHE", str(Path.home() / "cache"))
    monkeypatch.setenv("DNNL_MAX_CPU_ISA", "AVX2")
    monkeypatch.setenv("SECRET_TOKEN", "secret")
    found = take_fingerprint("cpu")
    assert found.settings["SDNQ_CACHE"] == "~/cache"
    assert found.settings["DNNL_MAX_CPU_ISA"] == "AVX2"
    assert "secret" not in str(found)
    assert platform.node() not in (found.platform, found.cpu)
    assert str(Path.home()) not in str(found)


def test_a_package_that_is_absent_has_no_version(monkeypatch):
    monkeypatch.setattr("ernie_qa.fingerprint.PACKAGES", ("no-such-package",))
    assert take_fingerprint("cpu").packages == {"no-such-package": None}


@pytest.mark.parametrize("device", ["cuda:99", "mps"])
def test_a_device_that_is_not_here(device):
    with pytest.raises(UnavailableError, match=f"no device {device} here: torch sees "):
        take_fingerprint(device)


def test_the_driver_is_asked_once_a_process(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho asked >> {tmp_path}/log\necho 580.1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    fingerprint._driver.cache_clear()
    try:
        assert [fingerprint._driver(), fingerprint._driver()] == ["580.1"] * 2
        assert (tmp_path / "log").read_text() == "asked\n"
    finally:
        fingerprint._driver.cache_clear()


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"threads": 1}, True),
        ({"settings": {"SDNQ_USE_TORCH_COMPILE": "0", "HF_HUB_OFFLINE": "1"}}, True),
        ({"settings": {"DNNL_MAX_CPU_ISA": "AVX2"}}, False),
        ({"settings": {"ATEN_CPU_CAPABILITY": "avx2"}}, False),
        ({"packages": {"torch": "2.14.0", "lpips": None}}, False),
        ({"packages": {"torch": "2.14.1"}}, True),
        ({"gpu": "NVIDIA A100"}, False),
        ({"driver": "581.0"}, False),
        ({"instruction_set": ("AVX2",)}, False),
        ({"threads": 1, "settings": {"DNNL_MAX_CPU_ISA": "AVX2"}}, False),
    ],
)
def test_what_makes_two_records_comparable(changes, same):
    assert same_build_and_machine(SOME, replace(SOME, **changes)) is same


def test_threads_change_pictures_on_a_cpu():
    on_a_cpu = replace(SOME, gpu=None, driver=None, cuda=None, compute_capability=None)
    assert not same_build_and_machine(on_a_cpu, replace(on_a_cpu, threads=8))


def test_differences_name_the_field_and_both_values():
    other = replace(
        SOME,
        packages={"torch": "2.11.0", "lpips": None},
        instruction_set=("AVX2",),
        threads=1,
        gpu=None,
        settings={"DNNL_MAX_CPU_ISA": "AVX2"},
    )
    assert differences(SOME, other) == (
        "packages.torch: 2.14.1 / 2.11.0",
        "instruction_set: AVX512 avx512_bf16 / AVX2",
        "threads: 2 / 1",
        "gpu: NVIDIA H100 80GB HBM3 / none",
        "settings.DNNL_MAX_CPU_ISA: none / AVX2",
    )
    assert differences(SOME, SOME) == ()
