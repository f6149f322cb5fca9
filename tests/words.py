"""Pictures with words, and records of what was read in them, for the tests of the text rung."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ernie_qa.drawing import Drawn
from ernie_qa.fidelity.text.score import score
from ernie_qa.fingerprint import take_fingerprint
from ernie_qa.models.find import Model
from ernie_qa.recipe import Gate, Limit, Recipe, find_recipe
from ernie_qa.record import Identity, ModelIdentity, Record
from ernie_qa.rungs import Arm, Evidence, text
from ernie_qa.suite import Suite, find_suite
from ernie_qa.verdict import Check

PICTURES = Path(__file__).parents[1] / "baselines" / "mini" / "cpu" / "pictures"
MINI = find_suite("mini")
SUITE = replace(MINI, name="few", cases=(MINI.cases[2], MINI.cases[6], replace(MINI.cases[4], text=())))
LATIN, CYRILLIC, SILENT = (case.id for case in SUITE.cases)
FINGERPRINT = take_fingerprint("cpu")
ENGINES = {"rapidocr": "rapidocr 1", "tesseract": "tesseract 5"}


def drawn(**instead: np.ndarray) -> tuple[Drawn, ...]:
    """The miniature's accepted pictures, or others `instead`, by the first letter of what is in them."""
    names = {"L": LATIN, "C": CYRILLIC, "S": SILENT}
    found = {case: np.asarray(Image.open(PICTURES / f"{case}.png").convert("RGB")) for case in names.values()}
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


# what was expected, and how it was read, by case
GOOD = {"a": {"Answer 42": "ANSWER 42", "Grand Opening": "Grand Opening"}, "b": {"天下无双": "天下 无双"}}
BAD = {**GOOD, "a": {"Answer 42": "Answer 412", "Grand Opening": "Grand Opening"}}
BF16 = record(figures(**GOOD))
HURT = record(figures(**BAD), BF16)
LIMIT = gated(cer_rise_mean=0.5)
