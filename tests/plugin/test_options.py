"""The plugin at its edges: bad input, no GPU, projects that do not use it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ernie_qa.pytest_plugin import OPTIONS

from .conftest import Gated

NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}


def errors(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("ERROR")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ernie-recipe", "sdnq-int9"], "sdnq-int9"),
        (["--ernie-recipe", "absent.toml"], "absent.toml"),
        (["--ernie-recipe=~/absent.toml"], f"{Path.home()}/absent.toml"),
        (["--ernie-suite", "turbo11"], "turbo11"),
        (["--ernie-model", "maxi"], "maxi"),
        (["--ernie-seeds", "two"], "--ernie-seeds two: needed is a whole number"),
        (["--ernie-seeds=101"], "101 seeds a case: allowed are 1 to 100"),
        (["-m", "mini", "--ernie-model", "."], "-m mini gates the shipped miniature"),
        (["--ernie-update"], "--ernie-baselines DIR"),
        (["--ernie-artifact", "sdnq-int8"], "RECIPE=MODEL"),
        (["--ernie-artifact=sdnq-int8=~/absent"], f"{Path.home()}/absent"),
        (["--ernie-offload", "sdnq-int9"], "sdnq-int9"),
    ],
    ids=[
        "recipe",
        "recipe file",
        "recipe at home",
        "suite",
        "model",
        "seeds that are no number",
        "too many seeds",
        "model beside -m mini",
        "update of nothing",
        "artifact",
        "artifact at home",
        "offload",
    ],
)
def test_bad_input_is_one_line_and_nothing_runs(
    gated: Gated, tmp_path: Path, tiny_model: Path, small_suite: Path, arguments: list[str], said: str
) -> None:
    defaults = ["--ernie-model", tiny_model, "--ernie-suite", small_suite, "--ernie-report", "out"]
    done = gated(tmp_path, *defaults, *arguments)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert len(errors(done.stderr)) == 1
    assert said in errors(done.stderr)[0]
    assert " passed" not in done.stdout
    assert " failed" not in done.stdout
    assert not (tmp_path / "out").exists()


def test_without_a_gpu_the_gpu_run_fails_with_the_reason(
    gated: Gated, tmp_path: Path, tiny_model: Path, small_suite: Path
) -> None:
    options = ("-m", "gpu", "--ernie-model", tiny_model, "--ernie-suite", small_suite)
    done = gated(tmp_path, *options, environment=NO_GPU)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "no usable GPU: " in done.stdout
    assert "another exception" not in done.stdout
    assert done.stdout.splitlines()[-1].strip("= ").startswith("1 failed in")


def test_collection_names_recipes_and_cases_and_loads_nothing(
    gated: Gated,
    tmp_path: Path,
    tiny_model: Path,
    small_suite: Path,
    write_recipe: Callable[[str, float], Path],
) -> None:
    options = (
        "--ernie-model",
        tiny_model,
        "--ernie-suite",
        small_suite,
        "--ernie-recipe",
        write_recipe("mine", 1),
    )
    done = gated(tmp_path, "--collect-only", "-q", *options)
    names = [line.rpartition("::")[2] for line in done.stdout.splitlines() if "::" in line]
    assert sorted(names) == [
        "test_activation[mine]",
        "test_baseline[mine]",
        "test_components[mine]",
        "test_cost[mine]",
        "test_draw[mine]",
        "test_package[mine]",
        "test_picture[mine-one]",
        "test_picture[mine-two]",
        "test_suite[mine]",
        "test_text[mine]",
        "test_verdict[mine]",
    ]


def test_other_projects_keep_their_gpu_mark(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nstrict = true\nmarkers =\n    gpu: needs our own cluster\n")
    pytester.makepyfile(
        """
        import sys
        import pytest

        @pytest.mark.gpu
        def test_theirs():
            assert "ernie_qa.execute" not in sys.modules
            assert "torch" not in sys.modules
        """
    )
    result = pytester.runpytest_subprocess("-m", "gpu")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*ernie_qa*")


def test_a_mark_that_another_project_misspelt_stays_an_error(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nstrict = true\n")
    pytester.makepyfile("import pytest\n\n@pytest.mark.gpu\ndef test_theirs():\n    pass\n")
    result = pytester.runpytest_subprocess()
    result.stdout.fnmatch_lines(["*'gpu' not found in `markers` configuration option*"])
    result.assert_outcomes(errors=1)


def test_every_option_is_explained_and_has_an_ini_twin(pytester: pytest.Pytester) -> None:
    text = pytester.runpytest_subprocess("--help").stdout.str()
    for name in OPTIONS:
        assert f"--ernie-{name.replace('_', '-')}" in text
        assert f"ernie_{name} (" in text
