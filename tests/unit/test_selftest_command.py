"""`ernie-qa selftest`: what it prints and how it ends."""

import json
from importlib import import_module

import pytest

from ernie_qa.cli import main
from ernie_qa.errors import UnavailableError
from ernie_qa.faults import Fault, corpus
from ernie_qa.fidelity.text.engines import tesseract
from ernie_qa.report.selftest import document, lines, summary
from ernie_qa.selftest import Result
from ernie_qa.selftest.row import Row

DAMAGED = Fault("scales off", "scales", "sdnq-int8", "pipe", print, "components", "transformer")
QUIET = Fault("rounds otherwise", "rounding", "bnb-nf4", "pipe", print)
COSTLY = Fault("slow", "costs", "bnb-nf4", "pipe", print, "cost", device="cuda")


def row(fault: Fault, caught_by: str | None = None, right: bool = False, apart: str = "") -> Row:
    return Row(
        fault, caught_by, "a.check" if caught_by else None, 0.02, 0.005, "it is off", right, apart, 1.0
    )


CAUGHT = row(DAMAGED, "components", True)
RESULT = Result((CAUGHT, row(DAMAGED), row(QUIET, apart="10 of 10 pictures"), row(QUIET)), (COSTLY,), 9.0)


def test_the_list_names_every_entry_and_tries_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftest", "--list"]) == 0
    text = capsys.readouterr().out
    assert all(one.name in text for one in corpus())


def test_a_recipe_chooses_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftest", "--list", "--recipe", "bnb-nf4"]) == 0
    text = capsys.readouterr().out
    assert "sdnq" not in text
    assert text.count("bnb-nf4") == sum(one.recipe == "bnb-nf4" for one in corpus())


@pytest.mark.parametrize("arguments", [["--fault", "no such fault"], ["--recipe", "bf16"]])
def test_what_is_not_there_is_bad_input(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftest", *arguments]) == 2
    assert capsys.readouterr().err.startswith("ernie-qa: no fault")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--recipe", "bnb-nf4", "--fault", "UINT4: one layer left in BF16"], "is done to sdnq-uint4-static"),
        (["--clean", "0"], "needed is 1 or more"),
        (["--clean", "2", "--recipe", "bnb-nf4"], "leave out --fault and --recipe"),
    ],
)
def test_what_leaves_nothing_is_no_whole_run(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["selftest", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_a_caught_fault_ends_well_and_the_json_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftest", "--json", "--fault", "INT8: one layer's scales 2 % off"]) == 0
    found = json.loads(capsys.readouterr().out)
    counts = {key: found[key] for key in ("faults", "killed", "clean_runs", "false_alarms")}
    assert counts == {"faults": 1, "killed": 1, "clean_runs": 0, "false_alarms": 0}
    (entry,) = found["rows"]
    assert entry["caught_by"] == "package"
    assert entry["check"] == "package.weights[transformer]"
    assert entry["measured"] > entry["limit"] == 1


def test_a_missing_engine_is_told_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> str:
        raise UnavailableError("rus.traineddata is not installed: apt-get install tesseract-ocr-rus")

    def never(*given: object, **options: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(tesseract, "version", missing)
    # the package has a function of that name as well
    monkeypatch.setattr(import_module("ernie_qa.selftest.bench"), "load_pipeline", never)
    assert main(["selftest"]) == 2
    assert capsys.readouterr().err == (
        "ernie-qa: selftest needs what reads words in pictures: rus.traineddata is not installed: "
        "apt-get install tesseract-ocr-rus\n"
    )
    assert main(["selftest", "--list"]) == 0


def test_the_table_tells_what_survived_and_what_does_not_count() -> None:
    text = "\n".join(lines(RESULT, 200))
    assert "SURVIVED" in text
    assert "survived: scales off" in text
    assert "nothing: does not count" in text
    assert "not tried: 1 need cuda" in text
    assert summary(RESULT) == (
        "1 of 2 faults caught (50%), 1 by the rung and component expected (50%); "
        "0 false alarms in 1 clean variants that differ in bits (0%); 9 s"
    )


def test_an_alarm_is_told_and_makes_the_result_unsound() -> None:
    alarmed = Result((CAUGHT, row(QUIET, "images", apart="10 of 10 pictures")), (), 1.0)
    assert not alarmed.sound
    assert Result((CAUGHT, row(QUIET, apart="1 of 10 pictures")), (), 1.0).sound
    assert "false alarm: rounds otherwise: a.check: it is off" in "\n".join(lines(alarmed, 200))
    assert document(alarmed)["false_alarms"] == 1
