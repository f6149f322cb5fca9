import re
from dataclasses import replace
from pathlib import Path

import pytest

from ernie_qa.cli import main
from ernie_qa.frozen import thaw
from ernie_qa.recipe import Recipe
from ernie_qa.record import Identity, Record
from ernie_qa.report.compare import Comparison, compare, lines
from ernie_qa.report.labels import labels

Observed = tuple[Recipe, dict[str, Record]]


def rows(comparison: Comparison) -> dict[str, str]:
    return {row.name: row.verdict for row in comparison.rows}


def with_lpips(record: Record, mean: float, definition: str = "") -> Record:
    figures = {name: dict(one) for name, one in record.figures.items()}
    metrics = {name: dict(one) for name, one in figures["images"]["metrics"].items()}
    metrics["lpips"]["mean"] = mean
    metrics["lpips"]["definition"] += definition
    figures["images"]["metrics"] = metrics
    return replace(record, figures=figures)


@pytest.fixture
def record(observed: Observed) -> Record:
    return observed[1]["lenient"]


def test_a_record_is_the_same_as_itself(record: Record) -> None:
    comparison = compare(record, record)
    assert set(rows(comparison).values()) == {"same"}
    assert comparison.same_pictures == comparison.pictures == 2
    assert comparison.comparable


def test_what_got_worse_is_told_with_how_much(record: Record) -> None:
    a, b = with_lpips(record, 0.1), with_lpips(record, 0.15)
    assert rows(compare(a, b))["images.lpips_mean"] == "worse"
    assert rows(compare(b, a))["images.lpips_mean"] == "better"
    assert "worse (+50.0%)" in "\n".join(lines(compare(a, b)))


def test_what_a_recipe_asks_for_is_better_or_worse_under_that_recipe_alone(record: Record) -> None:
    name = "package.quantized_layers[transformer]"
    figures = {key: thaw(one) for key, one in record.figures.items()}
    layers = figures["package"]["components"]["transformer"]["layers"]
    layers[0]["quantized"] = not layers[0]["quantized"]
    fewer = replace(record, figures=figures)
    assert rows(compare(record, fewer))[name] == "worse"
    other = replace(fewer, recipe=Identity("other", "1" * 64))
    comparison = compare(record, other)
    assert rows(comparison)[name] == "differs"
    assert re.search(r"quantized_layers\[transformer\] .* differs \(-", "\n".join(lines(comparison)))
    assert rows(comparison)["package.memory_bytes[transformer]"] == "same"


def test_time_on_a_cpu_is_never_better_or_worse(record: Record) -> None:
    figures = {name: dict(one) for name, one in record.figures.items()}
    figures["cost"]["pictures"] = {
        case: {**one, "seconds": 9.0} for case, one in figures["cost"]["pictures"].items()
    }
    assert rows(compare(record, replace(record, figures=figures)))["cost.latency"] == "recorded"


@pytest.mark.parametrize("what", ["suite", "model"])
def test_another_suite_or_model_is_not_comparable(record: Record, what: str) -> None:
    other = replace(getattr(record, what), name="other", hash="0" * 64)
    comparison = compare(record, replace(record, **{what: other}))
    assert set(rows(comparison).values()) == {"not comparable"}
    assert f"another {what}: " in comparison.reasons[0]
    assert comparison.pictures == 0
    assert not comparison.comparable


def test_a_figure_computed_in_another_way_is_not_comparable(record: Record) -> None:
    comparison = compare(record, with_lpips(record, 0.1, ", other weights"))
    found = rows(comparison)
    assert found["images.lpips_mean"] == "not comparable"
    assert found["images.ssim_mean"] == "same"


def test_cost_of_another_machine_is_not_comparable(record: Record) -> None:
    other = replace(record, fingerprint=replace(record.fingerprint, cpu="another"))
    comparison = compare(record, other)
    assert rows(comparison)["cost.latency"] == "not comparable"
    assert any("another" in note for note in comparison.notes)


def test_what_one_record_lacks_is_missing(record: Record) -> None:
    figures = {name: one for name, one in record.figures.items() if name != "images"}
    comparison = compare(record, replace(record, figures=figures, pictures=()))
    assert rows(comparison)["images.lpips_mean"] == "missing"
    assert "missing in B" in "\n".join(lines(comparison))


def test_the_command_writes_a_page_of_the_two(
    record: Record, observed: Observed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record.save(tmp_path / "a")
    with_lpips(record, 0.5).save(tmp_path / "b")
    output = tmp_path / "page"
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(output)]) == 0
    assert "images.lpips_mean" in capsys.readouterr().out
    page = (output / "index.html").read_text(encoding="utf-8")
    assert "2 of 2 pictures have the very same pixels" in page
    assert page.count("identical") == 2
    # it judges nothing, and scores are not of the pair that is shown
    assert "badge" not in page.partition("<h1>")[2].partition("</h1>")[0]
    assert page.count("<span>LPIPS against BF16: ") == 2
    assert not re.search(r"<span>LPIPS \d", page)


def test_every_surface_names_a_first(
    record: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    record.save(tmp_path / "before" / "own")
    with_lpips(record, 0.5).save(tmp_path / "after" / "own")
    given = [str(tmp_path / name / "own") for name in ("before", "after")]
    assert main(["compare", *given, "--output", str(tmp_path / "page")]) == 0
    said = capsys.readouterr().out
    a, b = f"{record.recipe.name} (before/own)", f"{record.recipe.name} (after/own)"
    assert said.startswith(f"A: {a}\nB: {b}\n")
    assert re.search(r"^figure +A +B +B is$", said, re.MULTILINE)
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert f"<h1>{a} beside {b}</h1>" in page
    assert f'<a href="#arm-2">{b}</a>' in page
    summary = (tmp_path / "summary").read_text(encoding="utf-8")
    assert summary.startswith(f"### ernie-qa: {a} beside {b}\n")
    assert f"| figure | A: {a} | B: {b} | B is |" in summary


@pytest.mark.parametrize(
    ("places", "ends"),
    [
        (["x/own", "x/other"], ["own", "other"]),
        (["x/own", "y/own"], ["x/own", "y/own"]),
        (["x/run/own", "y/run/own", "own"], ["x/run/own", "y/run/own", "tests/own"]),
        (["x/own", "x/../x/own"], ["own", "own"]),
        (["x/own/record.json", "y/own/record.json"], ["x/own", "y/own"]),
    ],
)
def test_records_of_one_name_are_told_apart_by_the_end_of_their_place(
    places: list[str], ends: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    names = ["own"] * len(places)
    found = labels([*names, "alone"], [*map(Path, places), Path("z/alone")])
    assert found == [*(f"own ({end})" for end in ends), "alone"]


def test_beside_bf16_the_scores_are_of_the_pair(observed: Observed, tmp_path: Path) -> None:
    for name, record in observed[1].items():
        record.save(tmp_path / name)
    given = [str(tmp_path / name) for name in ("bf16", "lenient")]
    assert main(["compare", *given, "--output", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert len(re.findall(r"<span>LPIPS \d", page)) == 2


def test_the_command_says_that_nothing_can_be_compared(
    record: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record.save(tmp_path / "a")
    replace(record, suite=Identity("other", "0" * 64)).save(tmp_path / "b")
    output = tmp_path / "page"
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(output)]) == 3
    assert "not comparable: another suite: small" in capsys.readouterr().out
    page = (output / "index.html").read_text(encoding="utf-8")
    assert "Not comparable: another suite: small" in page
    assert "drew another suite, small" in page
