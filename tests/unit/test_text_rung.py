"""The text rung: what it measures in real pictures, every way in which it judges, and when it reads."""

import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from threading import Event
from time import sleep
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ernie_qa.drawing import Drawn
from ernie_qa.fidelity.text import engines
from ernie_qa.fidelity.text.engines import rapidocr, tesseract
from ernie_qa.fidelity.text.score import score
from ernie_qa.fingerprint import take_fingerprint
from ernie_qa.models.find import Model
from ernie_qa.recipe import Gate, Limit, Recipe, find_recipe
from ernie_qa.record import Identity, ModelIdentity, Record
from ernie_qa.rungs import Arm, Evidence, rungs, text
from ernie_qa.suite import Case, Suite, find_suite
from ernie_qa.verdict import Check, Status

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "baselines" / "mini" / "cpu" / "pictures"
MINI = find_suite("mini")
SUITE = replace(MINI, name="few", cases=(MINI.cases[2], MINI.cases[6], replace(MINI.cases[4], text=())))
LATIN, CYRILLIC, SILENT = (case.id for case in SUITE.cases)
FINGERPRINT = take_fingerprint("cpu")
BLANK = np.full((112, 152, 3), 90, np.uint8)
ENGINES = {"rapidocr": "rapidocr 1", "tesseract": "tesseract 5"}
observing = import_module("ernie_qa.observe")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ERNIE_QA_CACHE", str(tmp_path / "cache"))


def drawn(**instead: np.ndarray) -> tuple[Drawn, ...]:
    """The miniature's accepted pictures, or others `instead`, by the first letter of what is in them."""
    names = {"L": LATIN, "C": CYRILLIC, "S": SILENT}
    found = {
        case: np.asarray(Image.open(PICTURES / f"{case}.png").convert("RGB")) for case in names.values()
    }
    found |= {names[letter]: pixels for letter, pixels in instead.items()}
    return tuple(Drawn(case, pixels, 0, 0.1, {}, {}) for case, pixels in found.items())


def arm(suite: Suite = SUITE, weights: str = "trained", device: str = "cpu") -> Arm:
    model = Model(Path("model"), ModelIdentity("toy", None, weights, "0" * 64), (), None)
    pipe = SimpleNamespace(_execution_device=SimpleNamespace(type=device))
    return Arm(pipe, model, find_recipe("sdnq-int8"), suite, None)


def measured(of: Arm, pictures: tuple[Drawn, ...]) -> Mapping[str, Any]:
    measuring = text.measure(of)
    next(measuring)
    with pytest.raises(StopIteration) as stop:
        measuring.send(pictures)
    return stop.value.value


def record(
    figures: Mapping[str, Any] | None, reference: Record | None = None, weights: str = "trained"
) -> Record:
    found = find_recipe("sdnq-int8" if reference else "bf16")
    return Record(
        schema=1,
        created="2026-11-22T12:00:00+00:00",
        model=ModelIdentity("toy", None, weights, "0" * 64),
        recipe=Identity(found.name, found.hash),
        suite=Identity(SUITE.name, SUITE.hash),
        fingerprint=FINGERPRINT,
        figures={} if figures is None else {"text": figures},
        pictures=(),
        reference=reference.hash if reference else None,
    )


def figures(**read: Mapping[str, str]) -> dict[str, Any]:
    """What `measure` gives where, by case, each expected text was read so."""
    cases = {
        case: {
            "strings": [
                {"expected": wanted, "engine": "rapidocr", **asdict(score(wanted, [found]))}
                for wanted, found in texts.items()
            ]
        }
        for case, texts in read.items()
    }
    expected = sum(len(texts) for texts in read.values())
    return {"cases": cases, "engines": ENGINES, "expected": expected, "why": None}


def gated(**limits: float) -> Recipe:
    """A shipped recipe with these limits: `cer_rise_mean=...` sets text.cer_rise_mean."""
    gate = Gate({f"text.{name}": Limit(most, None, "a test", True) for name, most in limits.items()})
    return replace(find_recipe("sdnq-int8"), gates={SUITE.name: gate})


def judge(of: Record, reference: Record | None, recipe: Recipe) -> dict[str, Check]:
    return {check.label: check for check in text.judge(Evidence(of, reference, recipe))}


GOOD = {"a": {"Answer 42": "ANSWER 42", "Grand Opening": "Grand Opening"}, "b": {"天下无双": "天下 无双"}}
BAD = {**GOOD, "a": {"Answer 42": "Answer 412", "Grand Opening": "Grand Opening"}}
BF16 = record(figures(**GOOD))
HURT = record(figures(**BAD), BF16)
LIMIT = gated(cer_rise_mean=0.5)


def test_the_rung_is_found_and_every_measure_can_be_limited() -> None:
    assert text in rungs()
    assert set(text.LIMITS) == {
        f"text.{name}_{statistic}"
        for name in ("cer_rise", "words_lost", "lines_lost")
        for statistic in ("mean", "max")
    }
    assert set(text.LIMITS.values()) == {"max"}
    assert list(text.track(BF16, None)) == []


def test_real_pictures_are_read_and_judged() -> None:
    bf16 = record(measured(arm(), drawn()))
    found = bf16.figures["text"]
    assert (found["expected"], found["why"]) == (2, None)
    assert found["engines"] == {"rapidocr": rapidocr.version(), "tesseract": tesseract.version()}
    assert found["cases"].keys() == {LATIN, CYRILLIC}
    (latin,), (cyrillic,) = (found["cases"][case]["strings"] for case in (LATIN, CYRILLIC))
    assert latin == {
        "expected": "LIGHT", "engine": "rapidocr", "read": "LIGHT",
        "errors": 0, "length": 5, "words": 1, "found": 1,
    }  # fmt: skip
    assert (cyrillic["engine"], cyrillic["errors"]) == ("tesseract", 0)

    same = judge(record(measured(arm(), drawn()), bf16), bf16, gated(cer_rise_max=0.0, lines_lost_max=0.0))
    assert {check.status for check in same.values() if check.required} == {Status.PASS}
    worse = judge(record(measured(arm(), drawn(L=BLANK)), bf16), bf16, gated(cer_rise_mean=0.49))
    check = worse["text.cer_rise_mean"]
    assert (check.status, check.measured) == (Status.FAIL, 0.5)
    assert f"worst is {LATIN} with 1" in check.message
    assert worse[f"text.cer[{LATIN}]"].measured == 1.0
    assert worse[f"text.cer[{CYRILLIC}]"].measured == 0.0


def test_random_weights_are_not_read() -> None:
    found = measured(arm(weights="random"), drawn())
    assert (found["cases"], found["engines"]) == ({}, {})
    (check,) = judge(record(found, BF16, "random"), BF16, LIMIT).values()
    assert (check.name, check.status) == ("text.cer_rise_mean", Status.NOT_APPLICABLE)
    assert "random" in check.message


def test_a_suite_without_texts_is_not_applicable(monkeypatch: pytest.MonkeyPatch) -> None:
    # nor is any engine asked for
    monkeypatch.setattr(engines, "engine_for", None)
    silent = measured(arm(replace(SUITE, cases=SUITE.cases[2:])), drawn()[2:])
    (check,) = judge(record(silent, BF16), BF16, LIMIT).values()
    assert (check.status, check.message) == (Status.NOT_APPLICABLE, "suite few expects no text")


@pytest.mark.parametrize(
    ("package", "command"),
    [
        ("tesserocr", "pip install 'ernie-qa[text]' && apt-get install tesseract-ocr-rus"),
        ("rapidocr", "pip install 'ernie-qa[text]'"),
        ("rapidfuzz", "pip install 'ernie-qa[text]'"),
    ],
)
def test_a_missing_engine_is_not_comparable_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, package: str, command: str
) -> None:
    monkeypatch.setattr(engines, "_known", engines._known.__wrapped__)
    monkeypatch.setattr(rapidocr, "_engine", rapidocr._engine.__wrapped__)
    monkeypatch.setitem(sys.modules, package, None)
    found = record(measured(arm(), drawn()), BF16)
    (check,) = judge(found, BF16, LIMIT).values()
    assert (check.name, check.status, check.required) == (
        "text.cer_rise_mean",
        Status.NOT_COMPARABLE,
        True,
    )
    assert f"{package} is not installed" in check.message or f"No module named '{package}'" in check.message \
        or f"import of {package} halted" in check.message
    assert command in check.message
    # a recipe without such a limit is told, and not held up
    (check,) = judge(found, BF16, gated()).values()
    assert (check.name, check.status, check.required) == ("text.cer", Status.NOT_COMPARABLE, False)
    assert command in check.message


def test_a_text_that_no_engine_can_read_is_not_comparable() -> None:
    mixed = replace(SUITE.cases[0], prompt="the words Сity", text=("Сity",))
    found = record(measured(arm(replace(SUITE, cases=(mixed,))), drawn()[:1]), BF16)
    (check,) = judge(found, BF16, LIMIT).values()
    assert check.status is Status.NOT_COMPARABLE
    assert 'no engine can read "Сity": rapidocr does not know с; tesseract does not know i t y' in check.message


def changed(of: Record, **values: Any) -> Record:
    """The same record with other figures of this rung."""
    return replace(of, figures={"text": {**of.figures["text"], **values}})


OTHERS = {
    "other engine": changed(BF16, engines={**ENGINES, "rapidocr": "rapidocr 0.9"}),
    "unread": changed(BF16, why="rapidocr is not installed: pip install it", cases={}, engines={}),
    "no figures": record(None),
    "other texts": record(figures(**{**GOOD, "b": {"号外": "号外"}})),
    "fewer texts": record(figures(a=GOOD["a"])),
    "elsewhere": replace(BF16, fingerprint=replace(FINGERPRINT, cpu="another CPU")),
}


@pytest.mark.parametrize(
    ("found", "reference", "reason"),
    [
        (record(None, BF16), BF16, "the record holds no figures of this rung"),
        (replace(HURT, reference=None), BF16, "observed without a reference"),
        (HURT, None, f"against record {BF16.hash[:12]}: judge with that record as reference"),
        (HURT, OTHERS["elsewhere"], f"the reference given is {OTHERS['elsewhere'].hash[:12]}"),
        *(
            (record(figures(**BAD), OTHERS[name]), OTHERS[name], reason)
            for name, reason in {
                "other engine": "were read by rapidocr 0.9, tesseract 5, these by rapidocr 1, tesseract 5",
                "unread": "BF16's pictures were not read: rapidocr is not installed: pip install it",
                "no figures": "BF16's pictures were not read: its record holds no figures",
                "other texts": "expects other texts",
                "fewer texts": "expects other texts",
                "elsewhere": "another build or machine",
            }.items()
        ),
    ],
    ids=["no record", "no reference", "reference missing", "other hash", *OTHERS],
)
def test_what_cannot_be_paired_is_never_a_pass(
    found: Record, reference: Record | None, reason: str
) -> None:
    (check,) = judge(found, reference, LIMIT).values()
    assert (check.name, check.status, check.required) == ("text.cer_rise_mean", Status.NOT_COMPARABLE, True)
    assert reason in check.message


def test_bf16_alone_is_shown_and_not_judged() -> None:
    found = judge(record(figures(**BAD)), None, find_recipe("bf16"))
    assert found.keys() == {"text.cer[a]", "text.cer[b]"}
    assert not any(check.required for check in found.values())
    assert '"Answer 42" reads "Answer 4[1]2"' in found["text.cer[a]"].message
    assert found["text.cer[b]"].measured == 0


def test_an_illegible_picture_of_bf16_is_not_gradable_and_says_so() -> None:
    rubbish = {**GOOD, "b": {"天下无双": "犬丁尢双"}, "c": {"tea": "tea"}}
    bf16 = record(figures(**rubbish))
    found = judge(record(figures(**rubbish), bf16), bf16, gated(cer_rise_max=0.0))
    shown = found["text.cer[b]"]
    assert (shown.status, shown.required, shown.measured) == (Status.NOT_APPLICABLE, False, None)
    assert shown.message == "b: not gradable: the character error rate of BF16's own picture is 0.75"
    assert found["text.cer_rise_max"].status is Status.PASS
    assert "2 of 3 pictures gradable" in found["text.cer_rise_max"].message


@pytest.mark.parametrize(("errors", "status"), [(3, Status.PASS), (4, Status.NOT_COMPARABLE)])
def test_up_to_three_errors_in_ten_characters_are_legible(errors: int, status: Status) -> None:
    bf16 = record(figures(a={"abcdefghij": "x" * errors + "abcdefghij"[errors:]}))
    same = replace(bf16, reference=bf16.hash)
    assert judge(same, bf16, gated(cer_rise_max=0.0))["text.cer_rise_max"].status is status


def test_with_less_than_half_gradable_nothing_is_judged() -> None:
    few = {"a": {"tea": "tea"}, "b": {"milk": "?"}, "c": {"bread": "!"}}
    bf16 = record(figures(**few))
    for read, status in ((few, Status.NOT_COMPARABLE), ({**few, "a": {"tea": "?"}}, Status.NOT_COMPARABLE)):
        check = judge(record(figures(**read), bf16), bf16, LIMIT)["text.cer_rise_mean"]
        assert (check.status, check.required) == (status, True)
        assert check.message == "1 of 3 pictures are gradable: BF16's own words are illegible"
    half = record(figures(a=few["a"], b=few["b"]))
    check = judge(replace(half, reference=half.hash), half, LIMIT)["text.cer_rise_mean"]
    assert check.status is Status.PASS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cer_rise_mean", 1 / 20 / 2),
        ("cer_rise_max", 1 / 20),
        ("words_lost_mean", 1 / 4 / 2),
        ("words_lost_max", 1 / 4),
        ("lines_lost_mean", 1 / 2 / 2),
        ("lines_lost_max", 1 / 2),
    ],
)
def test_limits_decide_and_name_the_worst_picture(name: str, value: float) -> None:
    above = judge(HURT, BF16, gated(**{name: value + 1e-9}))[f"text.{name}"]
    assert (above.status, above.required, above.limit) == (Status.PASS, True, value + 1e-9)
    assert above.measured == pytest.approx(value)
    assert "(a test, provisional)" in above.message
    assert "worst is a with" in above.message
    assert "2 of 2 pictures gradable" in above.message
    below = judge(HURT, BF16, gated(**{name: value - 1e-9}))[f"text.{name}"]
    assert below.status is Status.FAIL
    assert below.measured == above.measured
    assert '"Answer 42" reads "Answer 4[1]2"' in below.message
    assert "Grand" not in below.message
    assert "pictures/a.png" in below.message


def test_only_what_is_worse_than_bf16s_counts_and_is_shown() -> None:
    faulty = {"a": {"Answer 42": "Answer 43", "Grand Opening": "Grand Opening"}}
    bf16 = record(figures(**faulty))
    found = judge(replace(bf16, reference=bf16.hash), bf16, gated(cer_rise_max=0.0, lines_lost_max=0.0))
    assert {check.status for check in found.values() if check.required} == {Status.PASS}
    assert found["text.cer[a]"].message == "a: character error rate 0.050, BF16's 0.050"
    better = judge(record(figures(a=GOOD["a"]), bf16), bf16, gated(cer_rise_max=0.0))["text.cer_rise_max"]
    assert (better.status, better.measured) == (Status.PASS, pytest.approx(-0.05))


def test_a_word_lost_without_one_more_error_is_shown_too() -> None:
    bf16 = record(figures(a={"bread and butter": "bread amd butter"}))
    ours = record(figures(a={"bread and butter": "breadand buttex"}), bf16)
    found = judge(ours, bf16, gated(words_lost_max=0.5, cer_rise_max=0.0))
    assert found["text.cer_rise_max"].status is Status.PASS
    check = found["text.words_lost_max"]
    assert check.status is Status.FAIL
    assert 'gradable: "bread and butter" reads "breadand butte[x]": look at' in check.message


class Slow:
    """A rung that begins something on every picture, which ends some time after the next warm-up began."""

    NAME = "slow"

    def __init__(self) -> None:
        self.warm, self.begun = Event(), []
        self.waited: list[bool] = []

    def measure(self, of: Arm) -> Any:
        with ThreadPoolExecutor(1) as pool:

            def begin(one: Drawn) -> Future[bool]:
                self.warm.clear()
                self.begun.append(pool.submit(self.work))
                return self.begun[-1]

            of.after.append(begin)
            pictures = yield
            return {"pictures": len(pictures), "warm": [one.result() for one in self.begun]}

    def work(self) -> bool:
        warm = self.warm.wait(20)
        sleep(0.05)
        return warm


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Slow:
    """Observing as on a GPU that draws the miniature's accepted pictures, with this rung and a slow one."""
    slow, pictures = Slow(), {one.case: one for one in drawn()}

    def draw(pipe: Any, case: Case, suite: Suite, prompt: str | None) -> Drawn:
        slow.waited.append(all(one.done() for one in slow.begun))
        if case.id == SUITE.cases[-1].id:
            # nothing warms up after the last one
            slow.warm.set()
        return pictures[case.id]

    monkeypatch.setattr(observing, "draw", draw)
    monkeypatch.setattr(observing, "warm_up", lambda *_, **__: slow.warm.set())
    monkeypatch.setattr(observing, "take_fingerprint", lambda place: FINGERPRINT)
    monkeypatch.setattr(observing, "rungs", lambda: (slow, text))
    return slow


def observed(of: Arm) -> Record:
    observation = observing.Observation(of)
    while observation.left:
        observation.warm_up()
        observation.draw()
    slow = observation._begun
    for _ in slow:
        observing.warm_up()
    of_weights = replace(of.model, identity=replace(of.model.identity, weights="random"))
    observation.arm = replace(of, model=of_weights)
    return observation.finish()
