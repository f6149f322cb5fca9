"""The gates under pytest-xdist: the same verdicts as one process gives, whatever happens to a worker."""

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ernie_qa.frozen import thaw
from ernie_qa.pytest_workers import pinned
from ernie_qa.recipe import Recipe
from ernie_qa.record import Record, load_record
from tests.accepting import accepted, bundle

from .conftest import Gated

pytest.importorskip("xdist")

PLANTED = '''
"""Writes down which worker loads which recipe; PLANTED says what befalls one of them."""
import os, signal
from dataclasses import replace
from pathlib import Path
import pytest
from ernie_qa import exchange, execute, observer
from ernie_qa.verdict import Status

load, keep, judge = observer.load_pipeline, exchange.Exchange.keep, execute.judge
what, _, whom = os.environ.get("PLANTED", "").partition(" ")
worker = os.environ.get("PYTEST_XDIST_WORKER")

def loading(model, recipe, device, **options):
    with open("loaded.txt", "a") as file:
        file.write(f"{recipe.name} {worker}\\n")
    if (what, whom) == ("kill", recipe.name):
        os.kill(os.getpid(), signal.SIGKILL)
    if (what, whom) == ("raise", recipe.name):
        raise RuntimeError("no such kernel")
    return load(model, recipe, device, **options)

def keeping(self, recipe, record):
    keep(self, recipe, record)
    if (what, whom) == ("damage", recipe):
        (self.directory / "records" / recipe / "record.json").write_text("{}")

def pytest_runtest_logreport(report):
    if what == "press" and not worker and report.when == "teardown" and f"verdict[{whom}]" in report.nodeid:
        raise KeyboardInterrupt

def judging(record, *given, **options):
    found = judge(record, *given, **options)
    if (what, whom, worker) != ("judge", found.recipe, None):
        return found
    return replace(found, checks=tuple(replace(one, status=Status.FAIL) for one in found.checks))

observer.load_pipeline, exchange.Exchange.keep, execute.judge = loading, keeping, judging
'''


class Project:
    """A directory in which gates run, distributed, with something planted into the workers."""

    def __init__(self, directory: Path, gated: Gated) -> None:
        self.directory, self._gated = directory, gated
        (directory / "planted.py").write_text(PLANTED, encoding="utf-8")
        (directory / "temporary").mkdir()

    def run(self, *options: object, planted: str = "") -> subprocess.CompletedProcess[str]:
        (self.directory / "loaded.txt").unlink(missing_ok=True)
        path = os.pathsep.join([str(self.directory), os.environ.get("PYTHONPATH", "")])
        environment = {"PLANTED": planted, "PYTHONPATH": path, "TMPDIR": str(self.directory / "temporary")}
        done = self._gated(self.directory, "-p", "planted", *options, environment=environment)
        assert "Traceback" not in done.stdout + done.stderr
        # the controller clears away what the workers left
        assert not list((self.directory / "temporary").glob("ernie_qa-*"))
        return done

    @property
    def loaded(self) -> list[str]:
        """The recipes that were loaded, in order, by whichever worker."""
        file = self.directory / "loaded.txt"
        return [line.split()[0] for line in file.read_text().splitlines()] if file.exists() else []

    @property
    def verdict(self) -> Any:
        return json.loads((self.directory / "out" / "verdict.json").read_text(encoding="utf-8"))


@pytest.fixture
def project(tmp_path: Path, gated: Gated) -> Project:
    return Project(tmp_path, gated)


@pytest.fixture
def small(tiny_model: Path, small_suite: Path, write_recipe: Callable[[str, float], Path]) -> list[str]:
    """Options: two workers for bf16 and two recipes that pass, on the tiny model."""
    recipes = ("bf16", write_recipe("lenient", 1.0), write_recipe("mine", 1.0))
    given = (f"--ernie-recipe={recipe}" for recipe in recipes)
    return [
        f"--ernie-model={tiny_model}",
        f"--ernie-suite={small_suite}",
        "-n2",
        "--ernie-report=out",
        *given,
    ]


@pytest.fixture
def six(small: list[str], small_suite: Path, tmp_path: Path) -> list[str]:
    """The same with six cases, none fed to parts: each worker has a share of BF16."""
    head, *cases = small_suite.read_text(encoding="utf-8").split("[[cases]]")
    more = [case.replace('id = "', f'id = "{number}-') for number in range(3) for case in cases]
    suite = tmp_path / "small.toml"
    suite.write_text("[[cases]]".join([head, *more]), encoding="utf-8")
    others = [option for option in small if not option.startswith("--ernie-suite=")]
    return [*others, f"--ernie-suite={suite}", "--ernie-teacher-cases=0"]


def statuses(verdict: Mapping[str, Any]) -> dict[str, str]:
    return {one["recipe"]: one["status"] for one in verdict["verdicts"]}


def untimed(value: Any) -> Any:
    """JSON values without what a clock, a memory or another record's hash says."""
    if isinstance(value, list):
        return [untimed(one) for one in value]
    if not isinstance(value, dict):
        return value
    kept = {
        name: untimed(one) for name, one in value.items() if name not in ("record", "reference", "seconds")
    }
    return {**kept, "measured": None, "message": None} if kept.get("name") == "cost.latency" else kept


def test_two_workers_say_what_one_process_says(project: Project) -> None:
    shipped = Path(__file__).parents[2] / "baselines"
    recipes = ("bf16", "bnb-nf4", "sdnq-int8")
    given = ("-m", "mini", *(f"--ernie-recipe={recipe}" for recipe in recipes))
    found = {}
    for workers in (0, 2):
        place = project.directory / f"{workers}"
        (place / "kept").mkdir(parents=True)
        (place / "kept" / "mini").symlink_to(shipped / "mini")
        options = (f"-n{workers}", f"--ernie-baselines={place / 'kept'}", "--ernie-update")
        done = project.run(*given, *options, f"--ernie-report={place / 'out'}")
        assert done.returncode == 0, done.stdout
        # of BF16, which all wait for, each has a share
        assert sorted(project.loaded) == sorted([*recipes, *["bf16"] * (workers == 2)])
        found[workers] = done.stdout
    one, two = project.directory / "0", project.directory / "2"
    documents = [json.loads((place / "out" / "verdict.json").read_text()) for place in (one, two)]
    assert untimed(documents[0]) == untimed(documents[1])
    assert documents[1]["status"] == "pass"
    assert (one / "out" / "verdict.md").read_text() == (two / "out" / "verdict.md").read_text()
    table = [text.partition("ernie_qa: mini")[2].partition("compared with")[0] for text in found.values()]
    assert table[0] == table[1]
    assert "bnb-nf4" in table[1]
    files = [sorted(file.relative_to(place) for file in place.rglob("out/**/*")) for place in (one, two)]
    assert files[0] == files[1]
    for recipe in recipes:
        alone, beside = (load_record(place / "out" / recipe) for place in (one, two))
        assert [picture.sha256 for picture in alone.pictures] == [one.sha256 for one in beside.pictures]
        for rung in ("package", "activation", "components", "images", "text"):
            assert untimed(thaw(alone.figures[rung])) == untimed(thaw(beside.figures[rung])), rung
        assert all(one["seconds"] > 0 for one in beside.figures["cost"]["pictures"].values())
    # candidates of the controller alone
    (bundle_,) = (two / "kept" / "candidates").glob("mini-*")
    assert sorted(file.name for file in bundle_.iterdir() if file.is_dir()) == sorted(recipes)
    assert "pytest-benchmark is off under pytest-xdist" in found[2]
    assert "benchmark 'a picture'" in found[0]
    assert "benchmark 'a picture'" not in found[2]


def test_a_worker_that_dies_costs_its_recipe_alone(project: Project, small: list[str]) -> None:
    done = project.run(*small, planted="kill lenient")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    # not tried again, in whichever worker
    assert sorted(project.loaded) == ["bf16", "lenient", "mine"]
    assert statuses(project.verdict) == {"bf16": "pass", "mine": "pass"}
    assert project.verdict["broke"] == ["lenient"]
    assert project.verdict["status"] == "not_comparable"
    assert "crashed while running" in done.stdout
    assert "lenient broke off: worker gw" in done.stdout
    failed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("FAILED")]
    # every gate of it says so: 9 tests and 2 pictures, the one in which it died among them
    assert len(failed) == 11
    assert all("lenient" in test for test in failed)


def test_without_its_reference_every_worker_says_so_in_one_line(project: Project, small: list[str]) -> None:
    done = project.run(*small, planted="kill bf16")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert project.loaded == ["bf16"]
    said = "while it was at it, and nothing can be compared without it; run again"
    # where CI is set, pytest's summary has the line whole as well
    told = [line for line in done.stdout.splitlines() if not line.startswith("FAILED ")]
    lines = {line for line in told if line.endswith(said)}
    assert len(lines) == 1
    assert "broke off, and not judged: bf16" in done.stdout
    assert not (project.directory / "out").exists()


@pytest.mark.parametrize(
    ("planted", "said"), [("kill", "died while it was at it"), ("raise", "no such kernel")]
)
def test_a_share_of_bf16_that_is_lost_is_told_by_all(
    project: Project, six: list[str], planted: str, said: str
) -> None:
    done = project.run(*six, planted=f"{planted} bf16")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert set(project.loaded) == {"bf16"}
    failed = "".join(line for line in done.stdout.splitlines() if line.startswith("FAILED"))
    assert all(f"[{name}]" in failed for name in ("bf16", "lenient", "mine"))
    assert said in done.stdout
    assert "broke off, and not judged: bf16" in done.stdout
    assert not (project.directory / "out").exists()


def test_each_worker_has_a_share_of_bf16(project: Project, six: list[str]) -> None:
    done = project.run(*six)
    assert done.returncode == 0, done.stdout
    assert sorted(project.loaded) == ["bf16", "bf16", "lenient", "mine"]
    assert statuses(project.verdict) == {"bf16": "pass", "lenient": "pass", "mine": "pass"}
    record = load_record(project.directory / "out" / "bf16")
    assert len(record.pictures) == 6
    assert len(record.figures["cost"]["first"]) == 2


def test_what_breaks_off_in_one_worker_is_told_by_the_other(project: Project, small: list[str]) -> None:
    done = project.run(*small, planted="raise bf16")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert project.loaded == ["bf16"]
    assert "bf16 broke off: RuntimeError: no such kernel" in done.stdout
    assert "bf16 broke off before, in worker gw" in done.stdout


def test_a_damaged_record_is_not_judged(project: Project, small: list[str]) -> None:
    done = project.run(*small, planted="damage mine")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert statuses(project.verdict) == {"bf16": "pass", "lenient": "pass"}
    assert project.verdict["broke"] == ["mine"]
    assert [line for line in done.stdout.splitlines() if line.startswith("mine: ")]


def test_what_the_controller_alone_finds_wrong_is_not_green(project: Project, small: list[str]) -> None:
    done = project.run(*small, planted="judge mine")
    assert "FAILED" not in done.stdout
    assert statuses(project.verdict) == {"bf16": "pass", "lenient": "pass", "mine": "fail"}
    assert done.returncode == pytest.ExitCode.TESTS_FAILED


def test_an_interruption_keeps_what_was_judged(project: Project, small: list[str]) -> None:
    done = project.run(*small, planted="press bf16")
    assert done.returncode == pytest.ExitCode.INTERRUPTED, done.stdout
    found = statuses(project.verdict)
    assert found.pop("bf16") == "pass"
    # the workers may have finished one more while they were told to stop
    left = [name for name in ("lenient", "mine") if name not in found]
    assert project.verdict["unfinished"] == left
    assert (f"interrupted, and not judged: {', '.join(left)}" in done.stdout) == bool(left)
    assert "died" not in done.stdout


def test_the_longest_starts_first(
    project: Project, small: list[str], observed: tuple[Recipe, dict[str, Record]]
) -> None:
    recipe, records = observed
    kept = project.directory / "kept"
    accepted(kept, bundle(project.directory / "run", records), recipes=(recipe,))
    # lenient is accepted, and mine has never run here
    done = project.run(*small, "-n1", "--ernie-baselines=kept")
    assert done.returncode == 0, done.stdout
    assert project.loaded == ["bf16", "mine", "lenient"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ernie-recipe=sdnq-int9"], "sdnq-int9"),
        (["--dist=each", "--ernie-model=mini"], "--dist each"),
        (["--tx=2*ssh=nowhere", "--ernie-model=mini", "-d"], "--tx ssh=nowhere"),
        (
            ["--tx=popen//env:CUDA_VISIBLE_DEVICES=1", "--ernie-model=mini", "-d"],
            "a worker gets one of those",
        ),
        (["-m", "gpu", "-n3", "--ernie-model=mini"], "3 workers for 2 GPUs"),
        (["-m", "gpu and not slow", "--ernie-model=mini"], "only `-m gpu` alone gives each worker a GPU"),
    ],
)
def test_bad_input_is_one_line(gated: Gated, tmp_path: Path, options: list[str], said: str) -> None:
    workers = [] if "-d" in options else ["-n2"]
    done = gated(tmp_path, *workers, *options, environment={"CUDA_VISIBLE_DEVICES": "GPU-1,GPU-2"})
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, done.stdout
    (error,) = (line for line in done.stderr.splitlines() if line.startswith("ERROR"))
    assert said in error
    assert "passed" not in done.stdout


@pytest.mark.parametrize(
    ("workers", "gpus", "expected"),
    [
        (2, ("3", "1"), ["popen//env:CUDA_VISIBLE_DEVICES=3", "popen//env:CUDA_VISIBLE_DEVICES=1"]),
        (1, ("GPU-8", "GPU-9"), ["popen//env:CUDA_VISIBLE_DEVICES=GPU-8"]),
        # one worker that fails with the reason
        (1, (), ["popen"]),
    ],
)
def test_each_worker_is_pinned(workers: int, gpus: tuple[str, ...], expected: list[str]) -> None:
    assert pinned(["popen"] * workers, gpus) == expected


@pytest.mark.parametrize("gpus", [(), ("0",)])
def test_more_workers_than_gpus(gpus: tuple[str, ...]) -> None:
    with pytest.raises(
        pytest.UsageError, match=r"2 workers for . GPUs?: timing runs never share one; say -n 1"
    ):
        pinned(["popen"] * 2, gpus)


SEEN = """
import os, sys
from pathlib import Path
worker = os.environ.get("PYTEST_XDIST_WORKER")
Path(f"{worker}.txt").write_text(f"{os.environ.get('CUDA_VISIBLE_DEVICES')} {'torch' in sys.modules}")
"""
MARKED = "import os, signal\nimport pytest\n\n@pytest.mark.gpu\ndef test_it():\n    {body}\n"


def seen(directory: Path) -> dict[str, str]:
    return {file.stem: file.read_text() for file in directory.glob("gw*.txt")}


def test_a_worker_has_its_gpu_before_torch_and_so_has_who_replaces_it(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-b,GPU-a,GPU-c")
    pytester.makeini("[pytest]\nernie_model = mini\nmarkers =\n    gpu: needs one\n")
    pytester.makeconftest(SEEN)
    kill = MARKED.format(body="os.kill(os.getpid(), signal.SIGKILL)")
    pytester.makepyfile(test_one=kill, test_two=MARKED.format(body="pass"))
    result = pytester.runpytest_subprocess("-m", "gpu", "-n", "2")
    result.assert_outcomes(passed=1, failed=1)
    found = seen(pytester.path)
    assert found.pop("gw0") == "GPU-b False"
    assert found.pop("gw1") == "GPU-a False"
    # the one that was killed
    assert set(found.values()) <= {"GPU-b False", "GPU-a False"}
    assert list(found) == ["gw2"]


def test_auto_is_a_worker_a_gpu_and_no_more_than_recipes(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-b,GPU-a,GPU-c")
    pytester.makeini("[pytest]\nmarkers =\n    gpu: needs one\n")
    pytester.makeconftest(SEEN)
    pytester.makepyfile(MARKED.format(body="pass"))
    pytester.runpytest_subprocess("-m", "gpu", "-n", "auto", "--ernie-model=mini").assert_outcomes(passed=1)
    assert sorted(seen(pytester.path)) == ["gw0", "gw1", "gw2"]
    for file in pytester.path.glob("gw*.txt"):
        file.unlink()
    given = ("--ernie-recipe=bf16", "--ernie-recipe=sdnq-int8")
    pytester.runpytest_subprocess("-m", "gpu", "-n", "auto", *given).assert_outcomes(passed=1)
    assert seen(pytester.path) == {"gw0": "GPU-b False", "gw1": "GPU-a False"}


def test_other_projects_are_distributed_as_they_were(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-b,GPU-a")
    pytester.makeini("[pytest]\nmarkers =\n    gpu: needs our own cluster\n")
    pytester.makeconftest(SEEN)
    pytester.makepyfile(MARKED.format(body="pass"))
    result = pytester.runpytest_subprocess("-m", "gpu", "-n", "3", "-v")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["scheduling tests via LoadScheduling"])
    assert set(seen(pytester.path).values()) == {"GPU-b,GPU-a False"}


def test_gates_of_a_run_that_does_not_say_so_are_refused(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_mine(ernie_gate):\n    ernie_gate()\n")
    result = pytester.runpytest_subprocess("-n", "2")
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*gates are handed out by recipe*add an option of ernie_qa*"])
    result.stdout.no_fnmatch_line("*ernie_qa: mini on suite*")
