"""Every call by which a writer changes the disk, refused by each error: what is there is the old or the new.

The writers are those that docs/crash_safety.md names.
"""

import builtins
import errno
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ernie_qa import durable
from ernie_qa.baseline.bundle import bundles_in, load_bundle, make_room
from ernie_qa.baseline.noise import save_noise, verify_noise
from ernie_qa.baseline.store import find_baseline, verify
from ernie_qa.cache_directory import keep, kept
from ernie_qa.card.written import replacing
from ernie_qa.errors import ErnieQAError
from ernie_qa.exchange import Exchange
from ernie_qa.execute import Session
from ernie_qa.models.place import Terms, unfinished
from ernie_qa.plan import plan
from ernie_qa.quantize.parts import PARTIAL, Part, Parts
from ernie_qa.recipe import Recipe
from ernie_qa.record import Record, load_record
from ernie_qa.report.files import save_candidates
from ernie_qa.report.shown import of_session
from ernie_qa.report.written import write_page_alone, write_report
from tests.accepting import accepted, bundle, scored
from tests.unit.test_floor import moved, noise_of

ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)
CARD = ("metrics", "comparison", "README.md")


class Refusing:
    """A file of which every write is a call that may be refused."""

    def __init__(self, file: Any, faults: "Faults", path: str) -> None:
        self._file, self._faults, self._path = file, faults, path

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "Refusing":
        self._file.__enter__()
        return self

    def __exit__(self, *given: Any) -> None:
        self._file.__exit__(*given)

    def write(self, data: Any) -> Any:
        self._faults.met("write", self._path)
        return self._file.write(data)


class Faults:
    """Refuses the `n`-th call that changes something below `place`; with `lasting`, all from there.

    What moves and removes goes on to work on a disk that is full.
    """

    def __init__(self, place: Path, number: int = 0, n: int = 0, lasting: bool = False) -> None:
        self.place, self.number, self.n, self.lasting = str(place), number, n, lasting
        self.seen: list[str] = []

    def met(self, name: str, path: object) -> None:
        if not f"{path}/".startswith(f"{self.place}/"):
            return
        self.seen.append(name)
        late = self.lasting and len(self.seen) > self.n and name != "rename"
        if len(self.seen) == self.n or (self.n and late):
            raise OSError(self.number, os.strerror(self.number), str(path))

    @contextmanager
    def put_in(self) -> Iterator["Faults"]:
        with pytest.MonkeyPatch.context() as patch:
            opened, flushed = builtins.open, os.fsync

            def open_(file: Any, mode: str = "r", *given: Any, **options: Any) -> Any:
                if not set(mode) & set("wxa+"):
                    return opened(file, mode, *given, **options)
                path = (
                    str(Path(f"/proc/self/fd/{file}").readlink())
                    if isinstance(file, int)
                    else os.fspath(file)
                )
                if not isinstance(file, int):
                    self.met("open", path)
                return Refusing(opened(file, mode, *given, **options), self, path)

            def fsync(handle: int) -> None:
                self.met("fsync", Path(f"/proc/self/fd/{handle}").readlink())
                flushed(handle)

            def before(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
                def called(path: Any, *given: Any, **options: Any) -> Any:
                    # making what is there already is no error
                    if (
                        given[0] & os.O_CREAT
                        if name == "open"
                        else name != "mkdir" or not Path(path).exists()
                    ):
                        self.met(name, path)
                    return call(path, *given, **options)

                return called

            for module in (builtins, io):
                patch.setattr(module, "open", open_)
            patch.setattr(os, "fsync", fsync)
            for name, call in (("mkdir", os.mkdir), ("open", os.open)):
                patch.setattr(os, name, before(name, call))
            for name in ("rename", "replace"):
                patch.setattr(os, name, before("rename", getattr(os, name)))
            yield self


@dataclass(frozen=True)
class Writer:
    """`start` makes the old state, `act` writes the new one, `whole` fails unless one of the two is there."""

    start: Callable[[Path], object]
    act: Callable[[Path], object]
    whole: Callable[[Path], object]
    silent: bool = False
    """Whether what cannot be written is not told: it is only kept for the next time."""
    every: int = 1
    """Of so many calls one is refused: a page takes a tenth of a second."""


@pytest.fixture(scope="module")
def writers(observed: tuple[Recipe, dict[str, Record]], session: Session) -> dict[str, Writer]:
    recipe, records = observed
    bf16 = records["bf16"]
    better = {**records, "lenient": scored(records["lenient"], 0.5)}
    part = Part("vae", None, 1, 1, 0.0, None, 1)

    def candidate(place: Path, which: dict[str, Record]) -> Any:
        return bundle(place.parent / f"{place.name}-{len(list(place.parent.iterdir()))}", which)

    def accept(place: Path, which: dict[str, Record]) -> None:
        accepted(place, candidate(place, which), recipes=(recipe,))

    def floor(place: Path, name: str) -> None:
        save_noise(place, noise_of(bf16, **{name: moved(lpips_mean=0.01)}))

    def card(place: Path, text: str) -> None:
        with replacing(place, CARD, overwrite=True) as new:
            (new / "metrics").mkdir()
            (new / "metrics" / "record.json").write_text(text)
            if text == "old":
                (new / "comparison").mkdir()
                (new / "comparison" / "one.webp").write_text(text)
            (new / "README.md").write_text(text)

    def model(place: Path, text: str) -> None:
        terms = Terms(smaller="", replaceable=lambda target: True)
        with unfinished(place / "model", lambda hidden: 1, terms) as hidden:
            (hidden / "vae").mkdir()
            for name in ("vae/weights", "model_index.json"):
                (hidden / name).write_text(text)

    def component(place: Path) -> None:
        (place / PARTIAL).mkdir(exist_ok=True)
        (place / PARTIAL / "weights").write_text("new")
        Parts({}).add(place, part)

    def is_card(place: Path) -> None:
        text = (place / "README.md").read_text()
        assert (place / "metrics" / "record.json").read_text() == text
        assert (place / "comparison").exists() == (text == "old")

    def is_report(place: Path) -> None:
        if list(place.iterdir()):
            assert {load_record(place / name).recipe.name for name in ("bf16", "ok")} == {"bf16", "ok"}
            assert all((place / name).stat().st_size for name in ("verdict.json", "verdict.md", "index.html"))

    return {
        "a file": Writer(
            lambda at: (at / "file").write_text("old"),
            lambda at: told(at / "file", lambda: durable.write(at / "file", "new")),
            lambda at: {"old": 1, "new": 1}[(at / "file").read_text()],
        ),
        "a file that is new": Writer(
            lambda at: None,
            lambda at: told(at / "file", lambda: durable.write(at / "file", b"new", over=False)),
            lambda at: not (at / "file").exists() or {"new": 1}[(at / "file").read_text()],
        ),
        "a record": Writer(
            lambda at: None,
            lambda at: bf16.save(at / "record"),
            lambda at: not (at / "record").exists() or load_record(at / "record"),
        ),
        "an accept": Writer(lambda at: accept(at, records), lambda at: accept(at, better), verify),
        "a first accept": Writer(
            lambda at: None,
            lambda at: accept(at, records),
            lambda at: verify(at) and find_baseline(at, "tiny", "cpu"),
        ),
        "a noise floor": Writer(lambda at: floor(at, "math"), lambda at: floor(at, "avx2"), verify_noise),
        "room for candidates": Writer(lambda at: None, make_room, lambda at: None),
        "candidates": Writer(
            make_room,
            lambda at: save_candidates(at, session),
            lambda at: [load_bundle(path) for path in bundles_in(at)],
        ),
        "a report": Writer(lambda at: None, lambda at: write_report(at, session), is_report, every=9),
        "a page": Writer(
            lambda at: None,
            lambda at: write_page_alone(at, of_session(session)),
            lambda at: not list(at.iterdir()) or (at / "index.html").stat().st_size,
            every=9,
        ),
        "a card": Writer(lambda at: card(at, "old"), lambda at: card(at, "new"), is_card),
        "a model": Writer(
            lambda at: model(at, "old"),
            lambda at: model(at, "new"),
            lambda at: {
                ("old", "old"): 1,
                ("new", "new"): 1,
            }[tuple((at / "model" / name).read_text() for name in ("vae/weights", "model_index.json"))],
        ),
        "a component": Writer(
            lambda at: None,
            lambda at: told(at, lambda: component(at)),
            lambda at: [(at / one.name / "weights").read_text() for one in Parts({}).of(at)],
        ),
        "what is only kept": Writer(
            lambda at: keep(at / "one.json", "old"),
            lambda at: keep(at / "one.json", "new"),
            lambda at: {"old": 1, "new": 1}[kept(at / "one.json")],
            silent=True,
        ),
        "why a worker broke off": Writer(
            lambda at: Exchange(at, "gw0").make(),
            lambda at: Exchange(at, "gw0").broke("mine", "why"),
            lambda at: (
                not Exchange(at, "gw0").is_told("mine") or (at / "broke" / "mine").read_text() == "why"
            ),
            silent=True,
        ),
    }


def told(place: Path, act: Callable[[], None]) -> None:
    """What the callers of a helper make of its OSError."""
    try:
        act()
    except OSError as problem:
        raise ErnieQAError(durable.cannot(place, problem)) from None


@pytest.fixture(scope="module")
def session(tiny_model: Path, small_suite: Path, write_recipe: Callable[[str, float], Path]) -> Session:
    run = Session(plan(tiny_model, ["bf16", write_recipe("ok", 1.0)], small_suite))
    assert [outcome.verdict.status for outcome in run] == ["pass", "pass"]
    return run


def tree(place: Path) -> dict[str, str]:
    """Every file and directory below `place`, with what is in it."""
    return {
        path.relative_to(place).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else ""
        for path in place.rglob("*")
    }


WRITERS = (
    "a file",
    "a file that is new",
    "a record",
    "an accept",
    "a first accept",
    "a noise floor",
    "room for candidates",
    "candidates",
    "a report",
    "a page",
    "a card",
    "a model",
    "a component",
    "what is only kept",
    "why a worker broke off",
)


def test_all_are_tried(writers: dict[str, Writer]) -> None:
    assert tuple(writers) == WRITERS


@pytest.mark.parametrize("number", [*ERRORS, -errno.ENOSPC], ids=["full", "io", "denied", "full from there"])
@pytest.mark.parametrize("name", WRITERS)
def test_a_refused_call(writers: dict[str, Writer], name: str, number: int, tmp_path: Path) -> None:
    writer, lasting, number = writers[name], number < 0, abs(number)

    def ground(n: int) -> Path:
        place = tmp_path / str(n) / "place"
        place.mkdir(parents=True)
        writer.start(place)
        return place

    place = ground(0)
    with Faults(place).put_in() as faults:
        writer.act(place)
    assert faults.seen.count("rename") >= (name != "room for candidates")
    assert "fsync" in faults.seen
    for n in range(1, len(faults.seen) + 1, writer.every):
        place = ground(n)
        before = tree(place)
        said = ""
        with Faults(place, number, n, lasting).put_in() as met:
            try:
                writer.act(place)
            except ErnieQAError as problem:
                said = str(problem)
        what = f"{faults.seen[n - 1]}, call {n} of {len(faults.seen)}: {said}"
        writer.whole(place)
        left = {path for path in tree(place).keys() - before.keys() if hidden(path)}
        assert not left, what
        assert writer.silent or said or is_explained(faults.seen[n - 1], name), what
        assert "\n" not in said
        assert not said or str(place) in said, what
        assert f"{place}/." not in said, what
        assert durable.SUFFIX not in said, what
        assert len(met.seen) >= n
        if tree(place) == before or name in ("an accept", "a card", "a model"):
            writer.act(place)
            writer.whole(place)


def hidden(path: str) -> bool:
    return any(part.startswith(".") and part not in (".gitignore", PARTIAL) for part in path.split("/"))


def is_explained(call: str, name: str) -> bool:
    """A lock's name only explains: whoever cannot write it writes what it came for."""
    return name in ("an accept", "a first accept", "a noise floor") and call == "open"
