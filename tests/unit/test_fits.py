"""Whether a recipe fits: the arithmetic, and a run's paths on a made-up GPU. tests/gpu has a real one."""

import json
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ernie_qa import fits as module
from ernie_qa.cli import main
from ernie_qa.cli.fits import lines
from ernie_qa.errors import InputError, OutOfMemoryError, UnavailableError
from ernie_qa.fits import GIB, Fit, allocator_share, fits, largest
from ernie_qa.plan import plan
from ernie_qa.suite import find_suite

TOTAL = 80 * GIB
CONTEXT = GIB // 2


def test_the_allocator_may_take_what_the_context_leaves() -> None:
    assert allocator_share(16 * GIB, CONTEXT, TOTAL) * TOTAL == 15.5 * GIB
    assert allocator_share(TOTAL, 0, TOTAL) == 1
    assert allocator_share(CONTEXT, CONTEXT, TOTAL) == 0
    assert allocator_share(GIB // 4, CONTEXT, TOTAL) == 0
    with pytest.raises(InputError, match=r"--memory 81: the GPU has 80\.0 GiB; ask for less"):
        allocator_share(81 * GIB, CONTEXT, TOTAL)


def test_the_largest_case_is_the_first_with_the_most_pixels() -> None:
    suite = find_suite("turbo10")
    found = largest(suite)
    most = max(case.width * case.height for case in suite.cases)
    assert found == next(case for case in suite.cases if case.width * case.height == most)
    assert largest(suite, suite.cases[3].id) == suite.cases[3]


def test_a_case_that_is_none_is_suggested() -> None:
    suite = find_suite("turbo10")
    known = suite.cases[0].id
    with pytest.raises(InputError, match=f'no case .*did you mean "{known}"'):
        largest(suite, f"{known}s")


@pytest.mark.parametrize("memory", ["0", "-1", "nan", "inf", "1e9", "16GiB", ""])
def test_memory_that_is_none(memory: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["fits", "--recipe", "sdnq-int8", f"--memory={memory}"])
    assert "needed is a number of GiB above 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--recipe", "sdnq-int9"), 'did you mean "sdnq-int8"'),
        (("--recipe", "sdnq-int8", "--suite", "mimi"), 'did you mean "mini"'),
        (("--recipe", "sdnq-int8", "--case", "x"), "no case 'x'"),
    ],
)
def test_bad_input_is_one_line(
    options: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fits", "--memory", "4", *options]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert said in output.err
    assert output.err.count("\n") == 1


def test_without_a_gpu_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert main(["fits", "--recipe", "sdnq-int8", "--memory", "4"]) == 2
    assert "no usable GPU" in capsys.readouterr().err


def test_an_allocator_that_runs_away_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True,max_split_size_mb:128")
    assert main(["fits", "--recipe", "sdnq-int8", "--memory", "4"]) == 2
    assert "123548" in capsys.readouterr().err


class Gpu:
    """A GPU whose allocator holds `reserved` bytes of `share` of the whole; CUDA takes `context`."""

    def __init__(self) -> None:
        self.context, self.reserved, self.peak, self.share = CONTEXT, 0, 0, 1.0
        self.drawn = 0

    def info(self, place: torch.device) -> tuple[int, int]:
        return TOTAL - self.context - self.reserved, TOTAL

    def take(self, size: int) -> None:
        if self.reserved + size > self.share * TOTAL:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate much")
        self.reserved += size
        self.peak = self.reserved


Try = Callable[..., Fit]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    gpu = Gpu()
    monkeypatch.setattr(module, "require_device", lambda device: None)
    monkeypatch.setattr(module, "keep", lambda device: None)
    monkeypatch.setattr(
        module, "peaks", lambda place: {"allocated": gpu.peak, "reserved": gpu.peak, "resident": None}
    )
    for name, answer in {
        "current_device": lambda: 0,
        "get_device_name": lambda place: "NVIDIA H100 80GB HBM3",
        "mem_get_info": gpu.info,
        "memory_reserved": lambda place: gpu.reserved,
        "set_per_process_memory_fraction": lambda share, place: setattr(gpu, "share", share),
    }.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    return gpu


@pytest.fixture
def attempt(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> Try:
    """`attempt(memory, load=…, draw=…, cached=…, grown=…)` in GiB: what loading keeps, drawing adds for good,
    drawing merely caches, and the first drawing adds to the context."""

    def attempt(memory: float, load: float, draw: float, cached: float = 0, grown: float = 0) -> Fit:
        def load_pipeline(*_: Any, **__: Any) -> None:
            try:
                gpu.take(round(load * GIB))
            except torch.OutOfMemoryError as problem:
                raise OutOfMemoryError("not enough GPU memory to load it") from problem

        def draw_case(*_: Any, **__: Any) -> Any:
            held = gpu.reserved
            gpu.take(round(draw * GIB))
            # cached only where there is room
            gpu.reserved = min(gpu.reserved + round(cached * GIB), int(gpu.share * TOTAL))
            gpu.drawn += 1
            gpu.context += round(grown * GIB) if gpu.drawn == 1 else 0
            peak, gpu.emptied = gpu.reserved, held
            return SimpleNamespace(peak={"allocated": peak, "reserved": peak, "resident": None})

        monkeypatch.setattr("ernie_qa.pipeline.load_pipeline", load_pipeline)
        monkeypatch.setattr("ernie_qa.drawing.draw", draw_case)
        monkeypatch.setattr("ernie_qa.meter.open_window", lambda place: setattr(gpu, "reserved", gpu.emptied))
        return fits(plan("mini", ["sdnq-int8"], None, "cuda"), round(memory * GIB))

    return attempt


def test_it_fits(attempt: Try, gpu: Gpu) -> None:
    found = attempt(4, load=2, draw=1)
    assert found.fits
    assert gpu.share * TOTAL == 3.5 * GIB
    assert (found.context, found.driver) == (CONTEXT, 3.5 * GIB)
    assert next(lines(found)) == "sdnq-int8 on mini fits in 4 GiB"


def test_it_does_not_load(attempt: Try) -> None:
    found = attempt(2, load=1.6, draw=0)
    assert (found.ran_out, found.draw) == ("loading", None)
    assert "does not fit in 2 GiB: ran out while loading" in next(lines(found))


def test_it_does_not_draw(attempt: Try) -> None:
    found = attempt(2, load=1, draw=0.6)
    assert (found.ran_out, found.driver) == ("drawing", 1.5 * GIB)
    assert found.load is not None
    assert next(lines(found)).endswith("does not fit in 2 GiB: ran out while drawing, 1.50 GiB were in use")


def test_cuda_alone_takes_more(attempt: Try) -> None:
    found = attempt(0.25, load=0, draw=0)
    assert (found.ran_out, found.load, found.driver) == ("starting CUDA", None, CONTEXT)
    assert next(lines(found)).endswith("ran out while starting CUDA, 0.50 GiB were in use")


def test_a_context_that_grew_counts(attempt: Try, gpu: Gpu) -> None:
    assert attempt(4, load=2, draw=1, cached=0.5, grown=0.25).fits
    assert gpu.drawn == 2


def test_a_context_that_grew_too_far_does_not_fit(attempt: Try) -> None:
    assert attempt(4, load=2, draw=1.4, grown=0.25).ran_out == "drawing"


def test_a_gpu_that_is_smaller_or_in_use_is_refused(attempt: Try, gpu: Gpu) -> None:
    with pytest.raises(InputError, match=r"the GPU has 80\.0 GiB"):
        attempt(81, load=1, draw=1)
    gpu.context = 3 * GIB
    with pytest.raises(UnavailableError, match=r"3\.0 GiB of the GPU are in use before anything is loaded"):
        attempt(16, load=1, draw=1)


def test_what_is_no_lack_of_memory_is_raised(attempt: Try, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(size: int) -> None:
        raise UnavailableError("recipe mine: pe: the quantizer mine does not run on cuda")

    monkeypatch.setattr(gpu, "take", refuse)
    with pytest.raises(UnavailableError, match="does not run on cuda"):
        attempt(4, load=1, draw=1)


def test_the_answer_as_json(
    attempt: Try, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = replace(attempt(4, load=2, draw=1), compiled=3)
    assert "3 kernels were compiled" in "\n".join(lines(found))
    monkeypatch.setattr(module, "fits", lambda *_: replace(found, ran_out="drawing"))
    assert main(["fits", "--recipe", "sdnq-int8", "--memory", "4", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["fits"], told["memory"], told["draw"]["reserved"]) == (False, 4 * GIB, 3 * GIB)
