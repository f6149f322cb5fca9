import gc
import re
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ernie_qa import observer
from ernie_qa.cli import main
from ernie_qa.errors import ErnieQAError, UnavailableError
from ernie_qa.execute import Session
from ernie_qa.meter import require_device
from ernie_qa.plan import plan
from ernie_qa.recipe import REFERENCE, Recipe, recipe_names
from ernie_qa.verdict import Status


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The recipes that were loaded, in order. Each load asserts that no earlier pipeline is alive."""
    names: list[str] = []
    alive: list[weakref.ref[Any]] = []
    load = observer.load_pipeline

    def watched(model: Any, recipe: Recipe, device: str, **options: Any) -> Any:
        assert not [pipe for pipe in alive if pipe() is not None]
        pipe = load(model, recipe, device, **options)
        names.append(recipe.name)
        alive.extend(map(weakref.ref, (pipe.transformer, pipe.text_encoder)))
        return pipe

    monkeypatch.setattr(observer, "load_pipeline", watched)
    return names


def test_plan_takes_all_shipped_recipes(tiny_model: Path, small_suite: Path) -> None:
    planned = plan(tiny_model, suite=small_suite)
    assert tuple(recipe.name for recipe in planned.recipes) == recipe_names()
    assert planned.device == "cpu"


@pytest.fixture
def thawed() -> Iterator[None]:
    """What a test left out of collections is collected again."""
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("thawed")
@pytest.mark.parametrize("alone", [False, True])
def test_bf16_is_drawn_first_once_and_dropped_before_the_next(
    alone: bool,
    loaded: list[str],
    tiny_model: Path,
    small_suite: Path,
    write_recipe: Callable[[str, float], Path],
) -> None:
    session = Session(plan(tiny_model, [write_recipe("mine", 1.0), REFERENCE], small_suite), alone=alone)
    first, second = session
    # and so is the last
    assert not session.observer.running
    assert (gc.get_freeze_count() > 100_000) is alone
    assert loaded == [REFERENCE, "mine"]
    assert [outcome.record.recipe.name for outcome in (first, second)] == ["mine", REFERENCE]
    assert first.record.reference == second.record.hash
    assert first.verdict.status is Status.PASS, str(first.verdict)
    assert second.verdict.status is Status.PASS, str(second.verdict)
    assert session.outcome(session.plan.recipes[0]) is first
    assert session.outcomes == (first, second)


def test_an_arm_that_broke_off_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, small_suite: Path
) -> None:
    session = Session(plan(tiny_model, [REFERENCE], small_suite))

    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(observer, "load_pipeline", broken)
    with pytest.raises(
        ErnieQAError, match=r"bf16 broke off: RuntimeError: CUDA out of memory \(test_execute.py, line"
    ):
        session.outcome(session.plan.recipes[0])
    with pytest.raises(ErnieQAError, match="bf16 broke off before"):
        session.outcome(session.plan.recipes[0])


def test_an_arm_is_drawn_step_by_step_and_ended_by_the_next(
    loaded: list[str],
    tiny_model: Path,
    small_suite: Path,
    write_recipe: Callable[[str, float], Path],
) -> None:
    told: list[tuple[str, int]] = []
    recipes = [REFERENCE, write_recipe("first", 1.0), write_recipe("second", 1.0)]
    planned = plan(tiny_model, recipes, small_suite)
    session = Session(planned, progress=lambda name, drawn, wanted: told.append((name, drawn)))
    bf16, first, second = session.plan.recipes
    assert session.begin(bf16) == 2
    session.warm_up(bf16)
    session.draw(bf16)
    assert session.begin(bf16) == 1
    # BF16 is drawn to its end before the next one loads; `loaded` sees that it is gone
    assert session.begin(first) == 2
    assert list(session.records) == [REFERENCE]
    assert session.begin(bf16) == 0
    session.draw(first)
    assert session.begin(second) == 2
    assert loaded == [REFERENCE, "first", "second"]
    assert (session.broken, session.outcomes) == ((), ())
    # nothing of it is drawn again
    assert session.outcome(first).record.reference == session.outcome(bf16).record.hash
    assert loaded == [REFERENCE, "first", "second"]
    assert [drawn for name, drawn in told if name == "first"] == [0, 0, 1, 2]


def test_what_breaks_off_mid_way_is_told_and_leaves_no_pipeline(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, small_suite: Path
) -> None:
    load, alive = observer.load_pipeline, []

    def watched(*given: Any, **options: Any) -> Any:
        pipe = load(*given, **options)
        alive.append(weakref.ref(pipe.transformer))
        return pipe

    def broken(*_: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setattr(observer, "load_pipeline", watched)
    session = Session(plan(tiny_model, [REFERENCE], small_suite))
    (bf16,) = session.plan.recipes
    session.begin(bf16)
    session.draw(bf16)
    assert session.broken == ()
    alive[0]().register_forward_pre_hook(broken)
    with pytest.raises(ErnieQAError, match="bf16 broke off: RuntimeError: CUDA error: an illegal memory"):
        session.draw(bf16)
    assert [pipe() for pipe in alive] == [None]
    assert (session.broken, session.status) == ((REFERENCE,), Status.NOT_COMPARABLE)
    for again in (session.begin, session.outcome):
        with pytest.raises(ErnieQAError, match="bf16 broke off before"):
            again(bf16)
    with pytest.raises(ErnieQAError, match="no arm has begun"):
        session.draw(bf16)


def test_an_error_with_a_cause_that_somebody_keeps_keeps_no_pipeline(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, small_suite: Path
) -> None:
    load, alive = observer.load_pipeline, []

    def loading(*given: Any, **options: Any) -> Any:
        pipe = load(*given, **options)
        alive.append(weakref.ref(pipe.transformer))
        raise RuntimeError("CUDA error: out of memory")

    def told(*given: Any, **options: Any) -> Any:
        try:
            return loading(*given, **options)
        except RuntimeError as problem:
            raise UnavailableError("not enough GPU memory") from problem

    monkeypatch.setattr(observer, "load_pipeline", told)
    session = Session(plan(tiny_model, [REFERENCE], small_suite))
    with pytest.raises(UnavailableError) as kept:
        session.outcome(session.plan.recipes[0])
    assert kept.value.__cause__ is not None
    assert [pipe() for pipe in alive] == [None]


def test_an_error_of_no_known_kind_is_told_and_an_interruption_drops_the_pipeline(
    monkeypatch: pytest.MonkeyPatch,
    tiny_model: Path,
    small_suite: Path,
    write_recipe: Callable[[str, float], Path],
) -> None:
    session = Session(
        plan(tiny_model, [write_recipe("first", 1.0), write_recipe("second", 1.0)], small_suite)
    )
    first, second = session.plan.recipes
    for recipe, error in ((first, TypeError("an odd kernel")), (second, KeyboardInterrupt())):
        session.begin(recipe)

        def broken(*_: Any, error: BaseException = error) -> None:
            raise error

        alive = weakref.ref(session.observer.observing.arm.pipe.transformer)
        alive().register_forward_pre_hook(broken)
        expected = ErnieQAError if recipe is first else KeyboardInterrupt
        with pytest.raises(expected, match="first broke off: TypeError" if recipe is first else None):
            session.draw(recipe)
        assert alive() is None
    assert session.broken == ("first",)


class Reached(BaseException):
    """A step that a test wants to see, and nothing after it."""


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch, tiny_model: Path, small_suite: Path) -> Callable[..., Session]:
    """`on_cuda(**options)`: a session for a GPU that is said to be there; what comes first ends it."""

    def stop(name: str) -> Callable[..., None]:
        def reached(*given: Any, **options: Any) -> None:
            raise Reached(name)

        return reached

    monkeypatch.setattr(observer, "require_device", lambda device: None)
    monkeypatch.setattr(observer.compile_cache, "keep", stop("keep"))
    monkeypatch.setattr(observer, "load_pipeline", stop("load"))
    monkeypatch.setattr(observer, "fetch", lambda: None)
    return lambda **options: Session(plan(tiny_model, [REFERENCE], small_suite, "cuda"), **options)


@pytest.fixture
def runaway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True,max_split_size_mb:64")


def test_kernels_are_kept_before_anything_loads_on_a_gpu(
    on_cuda: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = on_cuda()
    with pytest.raises(Reached, match="keep"):
        session.begin(session.plan.recipes[0])
    kept: list[str] = []
    monkeypatch.setattr(observer.compile_cache, "keep", lambda device, apart: kept.append(device))
    session = on_cuda()
    with pytest.raises(Reached, match="load"):
        session.begin(session.plan.recipes[0])
    assert kept == ["cuda"]


@pytest.mark.usefixtures("runaway")
def test_an_allocator_that_runs_away_is_refused_before_anything_loads(
    on_cuda: Callable[..., Session],
) -> None:
    session = on_cuda()
    for _ in range(2):
        with pytest.raises(UnavailableError, match=r"all the same, say --any-allocator$") as told:
            session.begin(session.plan.recipes[0])
        assert "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True,max_split_size_mb:64" in str(told.value)
        assert "\n" not in str(told.value)
    assert session.broken == ()
    with pytest.raises(Reached, match="keep"):
        on_cuda(any_allocator=True).prepare()


@pytest.mark.usefixtures("runaway")
def test_a_cpu_asks_for_no_allocator(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, small_suite: Path
) -> None:
    monkeypatch.setattr(observer, "fetch", lambda: None)
    Session(plan(tiny_model, [REFERENCE], small_suite)).prepare()


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(UnavailableError, match="no usable GPU: "):
        require_device("cuda:99")
    require_device("cpu")


def test_an_arm_that_broke_off_leaves_the_others_and_no_pass(
    monkeypatch: pytest.MonkeyPatch,
    tiny_model: Path,
    small_suite: Path,
    write_recipe: Callable[[str, float], Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    load, pipelines = observer.load_pipeline, []

    def broken(model: Any, recipe: Recipe, device: str, **options: Any) -> Any:
        pipe = load(model, recipe, device, **options)
        pipelines.append(weakref.ref(pipe.transformer))
        if recipe.name == "second":
            raise UnavailableError("not enough GPU memory")
        return pipe

    monkeypatch.setattr(observer, "load_pipeline", broken)
    recipes = [str(write_recipe(name, 1.0)) for name in ("first", "second")]
    given = ["--model", str(tiny_model), "--suite", str(small_suite), "--device", "cpu"]
    given += ["--report", str(tmp_path / "out")]
    code = main(["gate", *given, "--recipe", recipes[0], "--recipe", recipes[1]])
    told = capfd.readouterr()
    assert code == 3
    assert "ernie-qa: second: not enough GPU memory" in told.err
    assert "first" in told.out
    assert [pipe() for pipe in pipelines] == [None] * 3
    # what was drawn is kept, the reference too, and can be shown
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"_pictures", "bf16", "first", "index.html", "verdict.json", "verdict.md"}
    assert main(["show", str(tmp_path / "out")]) == 2
    assert "name one of" in capfd.readouterr().err
    assert main(["show", str(tmp_path / "out" / "first" / "record.json")]) == 0
    shown = capfd.readouterr().out
    assert re.search(r"^transformer +sdnq .* MB +\d+ of \d+ +aten::_int_mm, 8 few_rows$", shown, re.M)
    assert re.search(r"^picture +LPIPS +PSNR +SSIM +seconds +words read$", shown, re.M)
    assert "resident: loading" in shown
    assert re.search(r"^transformer +relative error \S+ mean, \S+ worst step +", shown, re.M)
    assert main(["explain", str(tmp_path / "out" / "first")]) == 0
    assert re.search(r"^transformer, by gain +error +gain off 1$", capfd.readouterr().out, re.M)
    assert main(["show", "--all", str(tmp_path / "out" / "first")]) == 0
    assert "\nmachine\n  python: " in capfd.readouterr().out
