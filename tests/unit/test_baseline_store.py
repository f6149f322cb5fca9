"""The store on disk: what it gives back, what it refuses, and what is left when an accept is killed."""

import errno
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ernie_qa.baseline import lock
from ernie_qa.baseline.lock import OWNER, left_by, locked
from ernie_qa.baseline.store import Baseline, file_name, find_baseline, finish, verify
from ernie_qa.cli import main
from ernie_qa.errors import BaselineError
from ernie_qa.recipe import Recipe
from ernie_qa.record import Record
from tests.accepting import accepted, bundle, scored

Observed = tuple[Recipe, dict[str, Record]]


@pytest.fixture
def root(observed: Observed, tmp_path: Path) -> Path:
    """Baselines in which both arms of the tiny model are accepted."""
    recipe, records = observed
    accepted(tmp_path / "baselines", bundle(tmp_path / "run", records), recipes=(recipe,))
    return tmp_path / "baselines"


def read(root: Path) -> Baseline | None:
    return find_baseline(root, "tiny", "cpu")


def test_what_was_accepted_is_read_back(root: Path, observed: Observed) -> None:
    baseline = read(root)
    assert baseline is not None
    assert sorted(baseline.accepted) == ["bf16", "lenient"]
    one = baseline.accepted["lenient"]
    assert (one.by, one.why, one.machine) == ("a tester", "a test", "cpu")
    (run,) = one.runs
    record = observed[1]["lenient"]
    assert (run.record, run.reference) == (record.hash, observed[1]["bf16"].hash)
    assert run.fingerprint == record.fingerprint
    assert run.seconds is not None
    assert run.seconds > 0
    assert baseline.pictures is not None
    assert [picture.sha256 for picture in baseline.pictures.pictures] == [
        picture.sha256 for picture in observed[1]["bf16"].pictures
    ]
    assert verify(root) == (baseline,)


def test_a_figure_is_a_line_of_the_file(root: Path) -> None:
    text = (root / "tiny" / "cpu" / "lenient.json").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if '"images.lpips_mean"' in line]
    assert json.loads("{" + line.rstrip(",") + "}")["images.lpips_mean"]["better"] == "lower"


def test_nothing_accepted_is_none(tmp_path: Path) -> None:
    assert find_baseline(tmp_path, "mini", "cpu") is None
    with pytest.raises(BaselineError, match="absent: no such directory"):
        find_baseline(tmp_path / "absent", "mini", "cpu")


def edit_figure(place: Path) -> None:
    file = place / "lenient.json"
    document = json.loads(file.read_text(encoding="utf-8"))
    document["figures"]["images.lpips_mean"]["limit"] *= 2
    file.write_text(json.dumps(document), encoding="utf-8")


def edit_picture(place: Path) -> None:
    file = place / "pictures" / "one.png"
    pixels = np.array(Image.open(file))
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(file)


def edit_manifest(place: Path) -> None:
    file = place / "pictures" / "manifest.json"
    document = json.loads(file.read_text(encoding="utf-8"))
    document["pictures"].pop()
    (place / "pictures" / "two.png").unlink()
    file.write_text(json.dumps(document), encoding="utf-8")


def remove_pictures(place: Path) -> None:
    for file in (place / "pictures").iterdir():
        file.unlink()
    (place / "pictures").rmdir()


def add_picture(place: Path) -> None:
    (place / "pictures" / "three.png").write_bytes((place / "pictures" / "one.png").read_bytes())


def swap_pictures(place: Path) -> None:
    """A whole set of other pictures, manifest and all, as a bad merge leaves it."""
    manifest = place / "pictures" / "manifest.json"
    one, two = place / "pictures" / "one.png", place / "pictures" / "two.png"
    one.write_bytes(two.read_bytes())
    document = json.loads(manifest.read_text(encoding="utf-8"))
    document["pictures"][0]["sha256"] = document["pictures"][1]["sha256"]
    del document["hash"]
    from ernie_qa.frozen import digest

    manifest.write_text(json.dumps({**document, "hash": digest(document)}), encoding="utf-8")


def empty(place: Path) -> None:
    shutil.rmtree(place)
    place.mkdir()


EDITS: dict[str, tuple[Callable[[Path], object], str]] = {
    "an edited figure": (edit_figure, "lenient.json: was edited"),
    "an edited picture": (edit_picture, "one.png: was edited"),
    "a missing picture": (
        lambda place: (place / "pictures" / "two.png").unlink(),
        "two.png: no such picture",
    ),
    "an edited manifest": (edit_manifest, "manifest.json: was edited"),
    "a missing manifest": (lambda place: (place / "pictures" / "manifest.json").unlink(), "no such file"),
    "no pictures": (remove_pictures, "not the pictures that index.json names"),
    "other pictures": (swap_pictures, "not the pictures that index.json names"),
    "a picture more": (add_picture, "three.png: not in manifest.json"),
    "a file more": (lambda place: (place / "notes.txt").write_text("?"), "notes.txt: no part of a baseline"),
    "no reference": (lambda place: (place / "bf16.json").unlink(), "bf16.json: is missing"),
    "a renamed file": (
        lambda place: (place / "lenient.json").rename(place / "strict.json"),
        "strict.json: holds lenient of cpu of tiny",
    ),
    "a removed file": (lambda place: (place / "lenient.json").unlink(), "lenient.json: is missing, and was"),
    "no index": (lambda place: (place / "index.json").unlink(), "index.json: no such file"),
    "nothing": (empty, "index.json: no such file"),
    "no JSON": (lambda place: (place / "bf16.json").write_text("{"), "not valid JSON"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_what_was_not_accepted_is_refused(root: Path, edit: str) -> None:
    change, message = EDITS[edit]
    change(root / "tiny" / "cpu")
    for look in (lambda: read(root), lambda: verify(root)):
        with pytest.raises(BaselineError, match=message) as refused:
            look()
        assert "\n" not in str(refused.value)


def test_a_file_of_an_earlier_state_is_refused(root: Path, observed: Observed, tmp_path: Path) -> None:
    recipe, records = observed
    old = (root / "tiny" / "cpu" / "lenient.json").read_bytes()
    better = bundle(tmp_path / "better", {**records, "lenient": scored(records["lenient"], 0.5)})
    accepted(root, better, recipes=(recipe,))
    (root / "tiny" / "cpu" / "lenient.json").write_bytes(old)
    with pytest.raises(BaselineError, match=r"lenient.json: not the one that index.json names"):
        verify(root)


@pytest.mark.parametrize("what", ["a file", "a link to nowhere"])
def test_what_is_no_directory_is_told_in_one_line(root: Path, what: str) -> None:
    place = root / "tiny" / "cpu"
    shutil.rmtree(place)
    if what == "a file":
        place.write_text("?")
    else:
        place.symlink_to(root / "nowhere")
    with pytest.raises(BaselineError) as refused:
        read(root)
    assert "\n" not in str(refused.value)


def test_a_linked_machine_is_not_accepted_into(root: Path, observed: Observed, tmp_path: Path) -> None:
    recipe, records = observed
    place = root / "tiny" / "cpu"
    place.rename(root / "elsewhere")
    place.symlink_to(root / "elsewhere")
    better = bundle(tmp_path / "better", {**records, "lenient": scored(records["lenient"], 0.5)})
    with pytest.raises(BaselineError, match=r"cpu: a link; make it a directory of its own"):
        accepted(root, better, recipes=(recipe,))


READ = """
import sys
from ernie_qa.baseline.store import find_baseline
print("reading", flush=True)
print(sorted(find_baseline(sys.argv[1], "tiny", "cpu").accepted))
"""


def test_a_reader_waits_for_a_writer(root: Path) -> None:
    with locked(root):
        reader = subprocess.Popen([sys.executable, "-c", READ, str(root)], stdout=subprocess.PIPE, text=True)
        assert reader.stdout is not None
        assert reader.stdout.readline() == "reading\n"
        with pytest.raises(subprocess.TimeoutExpired):
            reader.wait(timeout=0.5)
    assert reader.communicate(timeout=60)[0] == "['bf16', 'lenient']\n"


@pytest.mark.parametrize(("below", "up"), [("tiny", "one level"), ("tiny/cpu", "two levels")])
def test_a_directory_within_the_baselines_is_not_taken_for_them(root: Path, below: str, up: str) -> None:
    with pytest.raises(BaselineError, match=f"name the directory {up} up"):
        verify(root / below)


def test_a_moved_machine_is_refused(root: Path) -> None:
    (root / "tiny" / "cpu").rename(root / "tiny" / "NVIDIA-A100")
    with pytest.raises(BaselineError, match="holds bf16 of cpu of tiny: it was moved"):
        verify(root)


HOLD = """
import sys, time
from pathlib import Path
from ernie_qa.baseline.lock import OWNER, left_by, locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_killed_writer_is_told_and_blocks_nobody(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(root)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "locked\n"
    assert sorted(json.loads((root / OWNER).read_text())) == ["command", "pid", "since"]
    other.kill()
    other.wait()
    other.stdout.close()
    for option in ((), ("--finish",)):
        assert main(["baseline", "verify", "--baselines", str(root), *option]) == 0
        assert f"(process {other.pid}, since" in capsys.readouterr().out
    assert main(["baseline", "verify", "--baselines", str(root)]) == 0
    assert "process" not in capsys.readouterr().out
    assert not (root / OWNER).exists()


def test_two_accepts_at_once(root: Path, observed: Observed, tmp_path: Path) -> None:
    recipe, records = observed
    second = bundle(tmp_path / "second", {**records, "lenient": scored(records["lenient"], 0.5)})
    before = read(root)
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(root)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(BaselineError, match=r"`python` \(process \d+, since .* s ago\) is at work"):
            accepted(root, second, recipes=(recipe,))
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    assert read(root) == before
    left = left_by(root)
    assert left is not None
    assert left.pid == other.pid
    # a killed accept holds no lock
    accepted(root, second, recipes=(recipe,))
    assert read(root) != before
    assert left_by(root) is None


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from ernie_qa.acceptance import accept
from ernie_qa.baseline.bundle import load_bundle
from ernie_qa.recipe import find_recipe

root, run, recipe, step = *map(Path, sys.argv[1:4]), int(sys.argv[4])
rename, rmtree, done = os.rename, shutil.rmtree, []

def killing(step_of):
    def wrapped(path, *arguments, **options):
        if root in Path(path).parents and Path(path).exists():
            if len(done) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            done.append(path)
        return step_of(path, *arguments, **options)
    return wrapped

os.rename, shutil.rmtree = killing(rename), killing(rmtree)
accept(root, [load_bundle(run)], why="killed", by="a tester", recipes=[find_recipe(recipe)])
"""
COMMITTED, SWAPPED, CLEARED = 1, 3, 4
"""After how many steps the accept is committed, the new state is in place, the old one is cleared away."""


@pytest.mark.parametrize("step", range(CLEARED + 1))
def test_a_kill_in_mid_accept_leaves_the_old_or_the_new(
    root: Path, observed: Observed, tmp_path: Path, step: int
) -> None:
    recipe, records = observed
    old = read(root)
    better = {**records, "lenient": scored(records["lenient"], 0.5)}
    bundle(tmp_path / "better", better)
    arguments = [root, tmp_path / "better", recipe.path, step]
    done = subprocess.run([sys.executable, "-c", KILLED, *map(str, arguments)], check=False)
    assert done.returncode == (0 if step == CLEARED else -signal.SIGKILL)
    if COMMITTED <= step < SWAPPED:
        with pytest.raises(BaselineError, match="an accept was interrupted"):
            read(root)
    else:
        assert (read(root) == old) == (step < COMMITTED)
    if step < CLEARED:
        with pytest.raises(BaselineError, match="verify --finish"):
            verify(root)
    with locked(root):
        finish(root)
    (found,) = verify(root)
    assert (found.accepted["lenient"].why == "killed") == (step >= COMMITTED)
    assert (found == old) == (step < COMMITTED)
    assert [path.name for path in (root / "tiny").iterdir()] == ["cpu"]


def test_an_accept_finishes_what_a_killed_one_began(root: Path, observed: Observed, tmp_path: Path) -> None:
    recipe, records = observed
    for step, name in enumerate(("first", "second"), start=1):
        bundle(tmp_path / name, {**records, "lenient": scored(records["lenient"], 0.9**step)})
    arguments = [root, tmp_path / "first", recipe.path, 2]
    subprocess.run([sys.executable, "-c", KILLED, *map(str, arguments)], check=False)
    from ernie_qa.baseline.bundle import load_bundle

    accepted(root, load_bundle(tmp_path / "second"), recipes=(recipe,))
    baseline = read(root)
    assert baseline is not None
    (run,) = baseline.accepted["lenient"].runs
    assert run.record == load_bundle(tmp_path / "second").records["lenient"].hash


def test_a_lock_does_not_outlive_its_block(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path):
            pass


def test_names_of_directories() -> None:
    assert file_name("NVIDIA H100 80GB HBM3") == "NVIDIA-H100-80GB-HBM3"
    assert file_name("baidu/ERNIE-Image-Turbo") == "baidu-ERNIE-Image-Turbo"
    assert file_name("../..") == "unnamed"


def test_a_file_system_without_locks_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*given: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", refused)
    with pytest.raises(
        BaselineError, match=r"cannot be locked: No locks available; name a directory"
    ) as told:
        find_baseline(tmp_path, "mini", "cpu")
    assert "\n" not in str(told.value)
