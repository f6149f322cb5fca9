"""The whole cycle as a team goes through it: run, look, accept, pass, break, fail, move, rebase."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ernie_qa.baseline.store import find_baseline
from ernie_qa.cli import main
from ernie_qa.recipe import Recipe
from ernie_qa.record import Record
from tests.accepting import accepted, bundle

from .conftest import Gated

PLANTED = '''
"""A change planted into the arm that planted.txt names: what its transformer predicts grows by a share."""
from pathlib import Path
from ernie_qa import observer

load = observer.load_pipeline

def changed(model, recipe, device, **options):
    pipe = load(model, recipe, device, **options)
    arm, _, share = Path("planted.txt").read_text().partition(" ")
    if recipe.name == arm:
        pipe.transformer.register_forward_hook(lambda layer, given, made: (made[0] * (1 + float(share)),))
    return pipe

observer.load_pipeline = changed
'''


class Team:
    """A project with baselines of its own, whose runs and commands are told apart by what they say."""

    def __init__(self, pytester: pytest.Pytester, gated: Gated, recipe: Path, *options: object) -> None:
        self.directory = pytester.path
        self._gated, self._recipe, self._options = gated, recipe, options
        pytester.makeconftest(PLANTED)
        self.plant("nothing 0")

    def plant(self, what: str) -> None:
        (self.directory / "planted.txt").write_text(what)

    def run(self, *options: object) -> subprocess.CompletedProcess[str]:
        given = (*self._options, "--ernie-recipe", "bf16", "--ernie-recipe", self._recipe)
        return self._gated(self.directory, *given, "-p", "conftest", "--ernie-baselines", "kept", *options)

    @property
    def latest(self) -> Path:
        """The bundle that the last run with --ernie-update left."""
        candidates = self.directory / "kept" / "candidates"
        return max(candidates.glob("tiny-*"), key=lambda path: path.stat().st_mtime_ns)

    def baseline(self, *arguments: object) -> int:
        kept = self.directory / "kept"
        return main(
            ["baseline", *map(str, arguments), "--baselines", str(kept), "--recipe", str(self._recipe)]
        )


@pytest.fixture
def team(
    pytester: pytest.Pytester,
    gated: Gated,
    tiny_model: Path,
    small_suite: Path,
    write_recipe: Callable[[str, float], Path],
) -> Team:
    options = ("--ernie-model", tiny_model, "--ernie-suite", small_suite)
    return Team(pytester, gated, write_recipe("lenient", 1.0), *options)


def failed(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [
        line.split()[1].rpartition("::")[2] for line in done.stdout.splitlines() if line.startswith("FAILED")
    ]


def test_the_whole_cycle(team: Team, capsys: pytest.CaptureFixture[str]) -> None:
    kept = team.directory / "kept"

    # nothing is accepted: regression checks do not apply, and a run that demands them is not green
    first = team.run("--ernie-update", "--ernie-require-baseline")
    assert failed(first) == [
        "test_baseline[bf16]",
        "test_verdict[bf16]",
        "test_baseline[lenient]",
        "test_verdict[lenient]",
    ]
    assert "nothing was accepted for lenient on cpu" in first.stdout
    bundle = team.latest
    told = (
        f"ernie-qa baseline diff {Path('kept') / 'candidates' / bundle.name} --baselines kept --recipe bf16"
    )
    assert told in first.stdout
    assert find_baseline(kept, "tiny", "cpu") is None

    # a person looks, and accepts
    assert team.baseline("diff", bundle) == 0
    told = capsys.readouterr().out
    assert "images.lpips_mean" in told
    assert "new: " in told
    assert team.baseline("accept", bundle, "--by", "Ada", "--reason", "first figures") == 0
    capsys.readouterr()
    assert main(["baseline", "verify", "--baselines", str(kept)]) == 0
    assert "2 recipes" in capsys.readouterr().out

    # the same again passes, baseline and all
    again = team.run("--ernie-require-baseline")
    assert again.returncode == 0, again.stdout
    table = [line.split() for line in again.stdout.splitlines()]
    header = next(row for row in table if row[:1] == ["recipe"])
    assert next(row for row in table if row[:1] == ["lenient"])[header.index("baseline")] == "pass"

    # a planted change fails in the baseline alone: the recipe's own limit is lenient
    team.plant("lenient 0.2")
    broken = team.run("--ernie-update")
    assert failed(broken) == ["test_baseline[lenient]", "test_verdict[lenient]"]
    assert "find out why, or accept it with `ernie-qa baseline accept --loosen`" in " ".join(
        broken.stdout.split()
    )

    # the update did not make it green, and accepting it says what it loosens
    assert team.baseline("accept", team.latest, "--reason", "it is what it is") == 2
    told = capsys.readouterr().err
    assert "these would loosen: lenient " in told
    assert "images.lpips_mean" in told

    # BF16 itself moves: it is blamed, the quantization is not, and only a rebase helps
    team.plant("bf16 0.2")
    moved = team.run("--ernie-update")
    assert failed(moved)[:2] == ["test_baseline[bf16]", "test_verdict[bf16]"]
    assert "BF16 itself has moved" in moved.stdout
    assert "BF16 is not where it was accepted" in moved.stdout
    assert team.baseline("accept", team.latest, "--reason", "new stack") == 2
    assert "BF16 itself has moved" in capsys.readouterr().err
    before = find_baseline(kept, "tiny", "cpu")
    assert team.baseline("rebase", team.latest, "--reason", "new stack", "--loosen") == 0
    after = find_baseline(kept, "tiny", "cpu")
    assert before is not None
    assert after is not None
    assert before.pictures != after.pictures
    assert {one.why for one in after.accepted.values()} == {"new stack"}
    assert team.run("--ernie-require-baseline").returncode == 0


def test_a_damaged_baseline_is_told_in_one_line(
    team: Team, observed: tuple[Recipe, dict[str, Record]], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, records = observed
    kept = team.directory / "kept"
    accepted(kept, bundle(team.directory / "run", records), recipes=(recipe,))
    file = kept / "tiny" / "cpu" / "lenient.json"
    file.write_text(file.read_text(encoding="utf-8").replace("a test", "other words"), encoding="utf-8")
    done = team.run()
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert " 1 failed in " in done.stdout
    assert "lenient.json: was edited: its contents do not match its hash" in done.stdout
    assert "Traceback" not in done.stdout
    assert main(["baseline", "verify", "--baselines", str(kept)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_report_that_cannot_be_written_loses_neither_verdict_nor_candidates(team: Team) -> None:
    with (team.directory / "conftest.py").open("a") as conftest:
        conftest.write("""
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    Path("out").mkdir(exist_ok=True)
    Path("out/bf16").write_text("in the way")
""")
    done = team.run("--ernie-update", "--ernie-report", "out", "-k", "verdict")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, done.stdout
    assert "PASS" in done.stdout
    assert "out/bf16: cannot be written: exists already" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert (team.latest / "verdict.json").is_file()
