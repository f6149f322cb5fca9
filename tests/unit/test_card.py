"""Model cards: every figure is a record's, what is missing is said, and nothing is written over by chance."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from huggingface_hub import ModelCard

from ernie_qa.card import FILES, Written, write_card
from ernie_qa.card.cells import MISSING, code, reduction, seconds, shown, times
from ernie_qa.cli import main
from ernie_qa.errors import ErnieQAError, InputError, ModelError, RecordError, SuiteError, UnavailableError
from ernie_qa.execute import Session
from ernie_qa.frozen import thaw
from ernie_qa.plan import plan
from ernie_qa.quantize import quantize
from ernie_qa.record import Ended, Identity, Record, load_record
from ernie_qa.report.files import save
from ernie_qa.report.shown import from_disk
from tests.cards import tables
from tests.unit.test_written import files_up_to

MIB = 2**20
GPU = "NVIDIA H100 80GB HBM3"


@dataclass(frozen=True)
class Gated:
    """What a gate of one artifact left."""

    artifact: Path
    out: Path
    suite: Path
    recipe: Path
    bf16: Record
    record: Record


@pytest.fixture(scope="module")
def gated(
    tiny_model: Path,
    small_suite: Path,
    write_recipe: Callable[[str, float], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Gated:
    place, recipe = tmp_path_factory.mktemp("gated"), write_recipe("lenient", 1.0)
    quantize(tiny_model, recipe, place / "tiny-int8", device="cpu")
    session = Session(plan(tiny_model, [recipe], small_suite, artifacts=[f"lenient={place / 'tiny-int8'}"]))
    assert [outcome.verdict.status for outcome in session] == ["pass"]
    save(place / "out", session)
    records = session.records
    return Gated(place / "tiny-int8", place / "out", small_suite, recipe, records["bf16"], records["lenient"])


@pytest.fixture
def card(gated: Gated, tmp_path: Path) -> Callable[..., Written]:
    """Write a card of `gated`, into a directory of its own."""

    def write(*places: Path, **options: Any) -> Written:
        options = {"suite": gated.suite, "recipes": [gated.recipe], **options}
        return write_card(places or [gated.out], gated.artifact, tmp_path / "card", **options)

    return write


@pytest.fixture
def stored(tmp_path: Path, gated: Gated) -> Callable[..., Path]:
    """Save both records with `bf16` and `record` changed, the reference's hash following."""
    numbers: Iterator[int] = iter(range(9))

    def write(bf16: dict[str, Any] | None = None, record: dict[str, Any] | None = None) -> Path:
        place = tmp_path / f"records{next(numbers)}"
        place.mkdir()
        first = replace(gated.bf16, **(bf16 or {}))
        first.save(place / "bf16")
        replace(gated.record, **{"reference": first.hash, **(record or {})}).save(place / "lenient")
        return place

    return write


def on_gpu(record: Record, seconds: list[float], allocated: int) -> dict[str, Any]:
    """Changes that make `record` one from a GPU: loaded in ten times the first picture's seconds, peaks of
    `allocated` MiB a picture more each, a tenth of that more reserved; of the rest nothing."""

    def peak(number: int) -> dict[str, int | None]:
        held = (allocated + number) * MIB
        return {"allocated": held, "reserved": held * 11 // 10, "driver": held, "resident": None}

    figures = thaw(record.figures)
    pictures = {
        name: {
            "seconds": took,
            "stages": {"transformer": 0.5 * took, "vae": 0.25 * took},
            "peak": peak(number),
            "compiled": 12 if not number else 0,
        }
        for number, (name, took) in enumerate(zip(("one", "two", "three", "four"), seconds, strict=True))
    }
    load = {"seconds": 10 * seconds[0], "peak": peak(100)}
    figures["cost"] |= {"pictures": pictures, "load": load, "physical": 2**36, "ratios": {"why": "a test's"}}
    fingerprint = replace(record.fingerprint, gpu=GPU, driver="580.1")
    return {"figures": figures, "fingerprint": fingerprint}


def test_times_and_memory_are_the_records(gated: Gated, stored: Any, card: Callable[..., Written]) -> None:
    place = stored(
        on_gpu(gated.bf16, [9.0, 4.0, 2.0, 3.0], 4000), on_gpu(gated.record, [6.0, 1.0, 2.0, 6.0], 1000)
    )
    text = card(place).card.read_text(encoding="utf-8")
    found = tables(text)
    assert found["Model"] == [
        ["Original BF16", "off", "90.00", "4100", "9.00", "4000", "3.00", "3.00", "4003"],
        ["lenient", "off", "60.00", "1100", "6.00", "1000", "3.00", "2.00", "1003"],
    ]
    assert found["Runtime"] == [
        ["Original BF16", "off", "9.00", "3.00", "3.00", "2.00-4.00", "4403", "4003"],
        ["lenient", "off", "6.00", "3.00", "2.00", "1.00-6.00", "1103", "1003"],
    ]
    assert found["Metric"] == [
        ["Load time", "90.00 s", "60.00 s", "1.50x faster"],
        ["Hot inference time, median", "3.00 s", "2.00 s", "1.50x faster"],
        ["Load and first picture", "99.00 s", "66.00 s", "1.50x faster"],
        ["Peak reserved VRAM", "4403 MiB", "1103 MiB", "3.99x less"],
    ]
    assert found["Stage"] == [
        ["`transformer`", "1.50 (50%)", "1.50 (50%)"],
        ["`vae`", "0.75 (25%)", "0.75 (25%)"],
        ["the rest", "0.75 (25%)", "0.75 (25%)"],
    ]
    assert f"- Machine: {GPU}, driver 580.1" in text
    assert "lenient: 12 kernels were compiled while the cold picture was drawn." in text
    assert "judged for this card by the recipe's limits" in text
    assert "Measured on a CPU" not in text


def test_a_cold_picture_that_was_drawn_before_the_suite_has_no_peak(
    gated: Gated, stored: Any, card: Callable[..., Written]
) -> None:
    changes = on_gpu(gated.record, [6.0, 1.0, 2.0, 6.0], 1000)
    changes["figures"]["cost"]["rehearsed"] = {"case": "one", "seconds": 50.0, "compiled": 7}
    place = stored(on_gpu(gated.bf16, [9.0, 4.0, 2.0, 3.0], 4000), changes)
    found = tables(card(place).card.read_text(encoding="utf-8"))
    assert found["Model"][1][4:6] == ["50.00", MISSING]


def test_what_the_prompt_enhancer_took_is_told_apart(
    gated: Gated, stored: Any, card: Callable[..., Written]
) -> None:
    changes = on_gpu(gated.record, [6.0, 1.0, 2.0, 6.0], 1000)
    for one in changes["figures"]["cost"]["pictures"].values():
        one["stages"]["pe"] = 8.0
        one["enhanced"] = {"prompt": "more words", "tokens": 20, "seconds": 8.0}
    place = stored(on_gpu(gated.bf16, [9.0, 4.0, 2.0, 3.0], 4000), changes)
    text = card(place).card.read_text(encoding="utf-8")
    assert [row[0] for row in tables(text)["Stage"]] == ["`transformer`", "`vae`", "the rest"]
    assert [row[2] for row in tables(text)["Stage"]] == ["1.50 (50%)", "0.75 (25%)", "0.75 (25%)"]
    assert "lenient: the prompt enhancer took 8.00 s/img more (mean), which is in none of the times" in text
    assert "Original BF16: the prompt enhancer" not in text


def test_a_cold_picture_without_compiling_says_nothing_of_why(
    gated: Gated, stored: Any, card: Callable[..., Written]
) -> None:
    changes = on_gpu(gated.bf16, [9.0, 4.0, 2.0, 3.0], 4000)
    changes["figures"]["cost"]["pictures"]["one"]["compiled"] = 0
    text = card(stored(changes, on_gpu(gated.record, [6.0, 1.0, 2.0, 6.0], 1000))).card.read_text()
    assert "Original BF16: no kernel was compiled for the cold picture" in text
    assert "kept from an earlier run" not in text


def test_a_commit_is_of_the_model_that_it_was_made_from(gated: Gated, tmp_path: Path) -> None:
    artifact = Path(shutil.copytree(gated.artifact, tmp_path / "pinned"))
    file = artifact / "runtime_config.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    values["base_model"] |= {"name": "org/made-from", "revision": "c0ffee"}
    file.write_text(json.dumps(values), encoding="utf-8")

    def text(base_model: str | None) -> str:
        written = write_card(
            [gated.out], artifact, suite=gated.suite, base_model=base_model, with_pictures=False,
            overwrite=True,
        )  # fmt: skip
        return written.card.read_text(encoding="utf-8")

    assert "commit `c0ffee`" in text(None)
    assert "c0ffee" not in text("org/another")


def test_what_nobody_measured_is_no_figure(gated: Gated, stored: Any, card: Callable[..., Written]) -> None:
    kept = {name: values for name, values in gated.record.figures.items() if name not in ("cost", "package")}
    found = tables(card(stored(record={"figures": kept})).card.read_text(encoding="utf-8"))
    assert found["Model"][1] == ["lenient", "off", *[MISSING] * 7]
    assert found["Runtime"][1] == ["lenient", "off", *[MISSING] * 6]
    assert {row[3] for row in found["Metric"]} == {MISSING}
    assert found["Item"][1][1:] == [MISSING, MISSING]


def test_times_of_two_machines_are_not_compared(
    gated: Gated, stored: Any, card: Callable[..., Written]
) -> None:
    other = on_gpu(gated.bf16, [9.0, 4.0, 2.0, 3.0], 4000)
    text = card(stored(other)).card.read_text(encoding="utf-8")
    assert {row[3] for row in tables(text)["Metric"]} == {"not comparable"}
    assert f"Original BF16 was measured on another machine: {GPU}." in text


def test_random_weights_have_no_pictures_and_no_quality(
    gated: Gated, stored: Any, card: Callable[..., Written]
) -> None:
    random = {"model": replace(gated.record.model, weights="random")}
    written = card(stored(random, random))
    text = written.card.read_text(encoding="utf-8")
    assert "**The weights are random.**" in text
    assert "Not applicable: the weights are random." in text
    assert "LPIPS" not in text.partition("## Picture quality")[2]
    assert "comparison" not in text
    assert written.pairs == 0
    assert not (written.card.parent / "comparison").exists()


def test_the_front_matter_is_what_the_hub_reads(gated: Gated, card: Callable[..., Written]) -> None:
    written = card(base_model="baidu/ERNIE-Image-Turbo", license="apache-2.0")
    data = ModelCard.load(written.card).data
    assert (data.license, data.base_model, data.library_name) == (
        "apache-2.0", "baidu/ERNIE-Image-Turbo", "diffusers",
    )  # fmt: skip
    assert data.pipeline_tag == "text-to-image"
    assert {"sdnq", "int8", "quantized", "quantized-matmul", "ernie-image", "safetensors"} <= set(data.tags)
    assert written.lacking == ()
    assert "[baidu/ERNIE-Image-Turbo](https://huggingface.co/baidu/ERNIE-Image-Turbo)" in str(
        written.card.read_text()
    )


def test_the_records_themselves_are_under_metrics(gated: Gated, card: Callable[..., Written]) -> None:
    place = card().card.parent / "metrics"
    assert load_record(place / "bf16") == gated.bf16
    assert load_record(place / "lenient") == gated.record
    # BF16 was drawn as the reference alone
    (first,) = from_disk([gated.out], [gated.recipe])
    shown = {one.label: one for one in from_disk([place], [gated.recipe])}
    assert shown["lenient"].verdict == first.verdict
    assert shown["lenient"].judged == "as the gate judged it"
    schema = json.loads((files("ernie_qa.report") / "verdict.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(json.loads((place / "verdict.json").read_text(encoding="utf-8")), schema)


def test_a_card_that_is_there_stays_unless_told(gated: Gated, card: Callable[..., Written]) -> None:
    place = card().card.parent
    (place / "README.md").write_text("mine")
    with pytest.raises(InputError, match=r"holds metrics, comparison, README\.md already; --overwrite"):
        card()
    assert (place / "README.md").read_text() == "mine"
    card(overwrite=True, with_pictures=False)
    assert sorted(one.name for one in place.iterdir()) == ["README.md", "metrics"]
    assert (place / "README.md").read_text() != "mine"


def test_a_full_disk_leaves_what_was_there(gated: Gated, card: Callable[..., Written]) -> None:
    place = card().card.parent
    before = {file: file.read_bytes() for file in place.rglob("*") if file.is_file()}
    # a record that is read keeps its pictures in a temporary file: there has to be room for that
    for most in (50_000, 100_000):
        with (
            files_up_to(most),
            pytest.raises(UnavailableError, match=r"File too large.*was there is as it was"),
        ):
            card(overwrite=True)
        assert {file: file.read_bytes() for file in place.rglob("*") if file.is_file()} == before
    with files_up_to(100), pytest.raises(UnavailableError):
        write_card(
            [gated.out], gated.artifact, place.parent / "new", suite=gated.suite, recipes=[gated.recipe]
        )
    assert not (place.parent / "new").exists()


def test_into_the_artifact_which_is_still_that_artifact(gated: Gated, tmp_path: Path) -> None:
    artifact = Path(shutil.copytree(gated.artifact, tmp_path / "tiny-int8"))
    for _ in range(2):
        written = write_card([gated.out], artifact, suite=gated.suite, recipes=[gated.recipe], overwrite=True)
        assert written.card == artifact / "README.md"
    assert {one.name for one in artifact.iterdir()} - {one.name for one in gated.artifact.iterdir()} == set(
        FILES
    )


def test_records_that_cannot_be_used(gated: Gated, stored: Any, card: Callable[..., Written]) -> None:
    other = Identity("other", "0" * 64)
    ended = Ended("components", "components.pe_kl_mean[pe]", "too far off")
    elsewhere = stored({"suite": other})
    alone = stored(record={"reference": gated.bf16.hash}) / "lenient"
    (alone.parent / "bf16").rename(alone.parent / "away")
    faults: dict[Path, tuple[type[ErnieQAError], str]] = {
        elsewhere: (RecordError, "measured against another suite, other, and is of small"),
        alone: (RecordError, "bf16's record, that it was measured against, is not there; name the directory"),
        stored({"pictures": ()}): (RecordError, "no picture in bf16's record: gate the artifact"),
        stored(record={"pictures": (), "ended": ended}): (
            RecordError,
            r"no picture in lenient's record, which ended at components before one was drawn \(components",
        ),
        stored(record={"artifact": None}): (RecordError, "was quantized in memory, so it says nothing of"),
        stored(record={"artifact": gated.record.model}): (RecordError, "was taken of other files; gate it"),
        gated.out / "bf16": (RecordError, "no record of it: found bf16; gate it with --artifact lenient="),
    }  # fmt: skip
    for place, (error, said) in faults.items():
        with pytest.raises(error, match=said) as raised:
            card(place)
        assert "\n" not in str(raised.value)
    assert card(stored({"pictures": ()}), with_pictures=False).pairs == 0


def test_a_suite_that_was_not_drawn(gated: Gated, card: Callable[..., Written]) -> None:
    with pytest.raises(SuiteError, match="small: not the suite small that was drawn; name its file"):
        card(suite=None)
    with pytest.raises(SuiteError, match="mini: not the suite small that was drawn"):
        card(suite="mini")


def test_an_artifact_of_another_model_or_recipe_than_the_record_says(gated: Gated, tmp_path: Path) -> None:
    artifact = Path(shutil.copytree(gated.artifact, tmp_path / "edited"))
    file = artifact / "runtime_config.json"
    values = json.loads(file.read_text(encoding="utf-8"))

    def text(**changed: dict[str, str]) -> str:
        edited = {
            key: {**value, **changed[key]} if key in changed else value for key, value in values.items()
        }
        file.write_text(json.dumps(edited), encoding="utf-8")
        written = write_card([gated.out], artifact, suite=gated.suite, with_pictures=False, overwrite=True)
        return written.card.read_text(encoding="utf-8")

    assert "not the one that the artifact was quantized by" not in text()
    said = "of the recipe `lenient`, which is not the one that the artifact was quantized by"
    assert f"{said}." in text(recipe={"name": "another", "hash": "0" * 64})
    assert f"{said} but has its name." in text(recipe={"hash": "0" * 64})
    with pytest.raises(RecordError, match=r"beside another model, tiny.*, than other, which .* was made"):
        text(base_model={"name": "other", "hash": "0" * 64})


def test_the_bf16_of_another_suite_is_named(gated: Gated, stored: Any, card: Callable[..., Written]) -> None:
    elsewhere = stored({"suite": Identity("other", "0" * 64)}) / "bf16"
    alone = stored(record={"reference": "1" * 64}) / "lenient"
    with pytest.raises(RecordError, match="bf16's record is of another suite, other, and this of small"):
        card(elsewhere, alone)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"import_first": ["os; import sys"]}, "import_first.*a package's name"),
        ({"import_first": ["class"]}, "a keyword of Python is no name"),
        ({"after_loading": {"function": "print", "arguments": {}}}, "the module is missing"),
        ({"after_loading": {"function": "os.system('x')", "arguments": {}}}, "a function's dotted name"),
        ({"after_loading": {"function": "a.b", "arguments": {"x=1, y": 1}}}, "no argument of numbers"),
        ({"components": ["unet"]}, "unet is no component"),
    ],
)
def test_a_runtime_configuration_is_no_way_to_put_code_in(
    gated: Gated, tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    artifact = Path(shutil.copytree(gated.artifact, tmp_path / "edited"))
    file = artifact / "runtime_config.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    values["loading"]["quantizers"]["sdnq"] |= changed
    file.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ModelError, match=said):
        write_card([gated.out], artifact, suite=gated.suite)
    file.unlink()
    with pytest.raises(ModelError, match=r"has no runtime_config\.json: write the directory with"):
        write_card([gated.out], artifact, suite=gated.suite)


def test_what_people_wrote_is_no_markup(gated: Gated, tmp_path: Path, card: Callable[..., Written]) -> None:
    hostile = "a | b <script>alert(1)</script> <img src=x> `c` [d](http://e.f) @all *g*"
    suite = tmp_path / "small.toml"
    text = gated.suite.read_text(encoding="utf-8").replace('"a poster"', json.dumps(hostile))
    suite.write_text(text, encoding="utf-8")
    written = card(suite=suite).card.read_text(encoding="utf-8")
    assert [len(row) for row in tables(written)["# Focus"]] == [5, 5]
    assert "<script" not in written
    assert "<img" not in written
    assert "http://e.f" not in written
    assert not re.search(r"@all|\*g\*|`c`", written)


def test_cells() -> None:
    assert [seconds(one) for one in (None, 0.0, 0.0341, 0.1, 12.345)] == [
        MISSING, "0", "0.034", "0.10", "12.35",
    ]  # fmt: skip
    assert [reduction(*pair) for pair in ((100, 25), (100, 101), (0, 1), (None, 1))] == [
        "75.00%", "-1.00%", "not applicable", MISSING,
    ]  # fmt: skip
    assert [times(*pair, "less", "more") for pair in (
        (3.0, 2.0), (2.0, 3.0), (2.0, 2.001), (None, 1.0), (0.0, 5.0), (0.0, 0.0),
    )] == [
        "1.50x less", "1.50x more", "the same", MISSING, "not applicable", "the same",
    ]  # fmt: skip
    assert str(code("a|b`")) == "a&#124;b&#96;"
    assert str(code("a_b-c.d+1")) == "`a_b-c.d+1`"
    assert str(shown("it's a_b: c? :x: &#39; *d* _e_")) == (
        "it's a_b: c? &#58;x: &#38;&#35;&#8203;39; &#42;d&#42; &#95;e&#95;"
    )


def test_the_command_says_what_it_wrote(
    gated: Gated, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["card", str(gated.out), "--artifact", str(gated.artifact), "--suite", str(gated.suite)]
    arguments += ["--recipe", str(gated.recipe), "--output", str(tmp_path / "card")]
    assert main(arguments) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == str(tmp_path / "card" / "README.md")
    assert told[1].startswith("verdict pass; 2 pairs of pictures and their matrix, 0.")
    assert told[2:] == [
        "the front matter has no base_model: say it with --base-model",
        "the front matter has no license: say it with --license",
    ]
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
    for option, value in (("--license", "Apache 2"), ("--base-model", "tiny"), ("--repo", "a\udcff")):
        assert main([*arguments, "--overwrite", option, value]) == 2
        said = capsys.readouterr().err
        assert f"{option} {ascii(value) if option == '--repo' else value}: allowed " in said
        assert said.count("\n") == 1
