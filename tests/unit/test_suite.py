import re
from dataclasses import replace
from pathlib import Path

import lpips
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ernie_qa.errors import SuiteError
from ernie_qa.suite import MIN_SIDE, check_sizes, find_suite, suite_names

WHOLE = """
schema = 1
version = 3
summary = "for tests"
steps = 8
guidance = 1.0
use_pe = false

[[cases]]
id = "first"
prompt = "a poster with the word КОНЦЕРТ"
width = 128
height = 96
seed = 7
focus = "words"
text = ["КОНЦЕРТ"]

[[cases]]
id = "second"
prompt = "a red circle"
width = 64
height = 64
seed = 8
focus = "shapes"
"""

# the seed's table: id, width x height, seed, focus
TURBO10 = """
00-cyrillic-poster | 1024x1024 | 41001 | Cyrillic event poster
01-long-text-bakery-ad | 896x1200 | 41002 | Long text product ad
02-technical-diagram | 1200x896 | 41003 | Technical diagram
03-four-panel-comic | 1024x1024 | 41004 | Four-panel comic
04-public-domain-painter-fusion | 1024x1024 | 41005 | Painterly style fusion
05-dashboard-ui | 1376x768 | 41006 | Dense UI dashboard
06-glass-still-life | 1024x1024 | 41007 | Glass and reflections
07-botanical-field-guide | 896x1200 | 41008 | Field guide plate
08-restaurant-menu-board | 1024x1024 | 41009 | Menu board text
09-isometric-city-map | 1200x896 | 41010 | Isometric map
"""


def write(directory: Path, text: str) -> Path:
    path = directory / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_turbo10_is_the_published_table():
    suite = find_suite("turbo10")
    assert "turbo10" in suite_names()
    rows = [f"{case.id} | {case.width}x{case.height} | {case.seed} | {case.focus}" for case in suite.cases]
    assert rows == TURBO10.strip().splitlines()
    assert (suite.steps, suite.guidance, suite.use_pe) == (8, 1.0, False)
    check_sizes(suite, 16, "full size")
    assert all(len(case.prompt.split()) >= 40 for case in suite.cases)
    assert sum(bool(re.search("[а-яА-Я]", "".join(case.text))) for case in suite.cases) == 2


def test_a_whole_suite(tmp_path):
    path = write(tmp_path, WHOLE)
    suite = find_suite(path)
    assert find_suite(suite) is suite
    assert (suite.name, suite.version, suite.path) == ("mine", 3, path)
    first, second = suite.cases
    assert (first.id, first.width, first.height, first.seed, first.text) == (
        "first",
        128,
        96,
        7,
        ("КОНЦЕРТ",),
    )
    assert second.text == ()


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ('"for tests"', '"other words"', True),
        ('"words"', '"letters"', True),
        ('text = ["КОНЦЕРТ"]', "", True),
        ("version = 3", "version = 4", True),
        ("steps = 8", "steps = 9", False),
        ("guidance = 1.0", "guidance = 2", False),
        ("guidance = 1.0", "guidance = 1", True),
        ("use_pe = false", "use_pe = true", False),
        ("red circle", "blue circle", False),
        ("width = 64", "width = 80", False),
        ("height = 64", "height = 80", False),
        ("seed = 8", "seed = 9", False),
        ('"second"', '"third"', False),
    ],
)
def test_the_hash_covers_what_changes_a_picture(tmp_path, old, new, same):
    before = find_suite(write(tmp_path, WHOLE)).hash
    assert WHOLE.count(old) == 1
    assert (find_suite(write(tmp_path, WHOLE.replace(old, new))).hash == before) is same


def test_no_allowed_side_is_too_small_for_a_metric():
    alex = lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False)
    for width, height in ((MIN_SIDE, 64), (64, MIN_SIDE)):
        picture = torch.zeros(1, 3, height, width)
        assert alex(picture, picture).item() == 0
    with pytest.raises(RuntimeError):
        alex(*(torch.zeros(1, 3, 64, MIN_SIDE - 1),) * 2)


def test_the_hash_covers_the_order(tmp_path):
    suite = find_suite(write(tmp_path, WHOLE))
    assert replace(suite, cases=suite.cases[::-1]).hash != suite.hash


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"a red circle"', "7", "cases[1].prompt: found 7 (whole number), allowed is text that is not empty"),
        ('"a red circle"', '["a"]', "cases[1].prompt: found a list of 1, allowed is text that is not empty"),
        ('"a red circle"', '""', 'cases[1].prompt: found "" (text), allowed is text that is not empty'),
        (
            "width = 64",
            "width = 30",
            "cases[1].width: found 30 (whole number), allowed is a whole number from 31 to",
        ),
        (
            "width = 64",
            "width = 64.0",
            "cases[1].width: found 64.0 (number), allowed is a whole number from 31",
        ),
        ("width = 64", "wdth = 64", "cases[1].width: missing, needed is a whole number from 31 to 8192; is "),
        ("seed = 8", "seed = -1", "cases[1].seed: found -1 (whole number), allowed is a whole number from 0"),
        ("seed = 8", "seed = 0x8000000000000000", "cases[1].seed: found 9223372036854775808 (whole number)"),
        ('"second"', '"First"', 'cases[1].id: "First" is the id of an earlier case too'),
        ('"second"', '"../up"', 'cases[1].id: found "../up" (text), allowed is 1 to 100 letters, digits'),
        ("steps = 8", "steps = 0", "steps: found 0 (whole number), allowed is a whole number from 1 to 1000"),
        (
            "guidance = 1.0",
            "guidance = 0.5",
            "guidance: found 0.5 (number), allowed is a finite number from 1",
        ),
        ("use_pe = false", "use_pe = 0", "use_pe: found 0 (whole number), allowed is true or false"),
        ('["КОНЦЕРТ"]', '"КОНЦЕРТ"', 'cases[0].text: found "КОНЦЕРТ" (text), allowed is a list of strings'),
        # the P is a Latin one
        ('["КОНЦЕРТ"]', '["КОНЦЕPТ"]', 'cases[0].text: "КОНЦЕPТ" must be readable, but the prompt does not'),
        (
            '"shapes"',
            '"shapes"\nnegative_prompt = "x"',
            "cases[1].negative_prompt: unknown key; allowed: focus",
        ),
        ("summary", "titel = 1\nsummary", "titel: unknown key; allowed: cases, guidance, schema, steps,"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, old, new, message):
    assert WHOLE.count(old) == 1
    path = write(tmp_path, WHOLE.replace(old, new))
    with pytest.raises(SuiteError) as caught:
        find_suite(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert len(str(caught.value).splitlines()) == 1


def test_a_suite_needs_a_case(tmp_path):
    path = write(tmp_path, WHOLE.partition("[[cases]]")[0] + "cases = []\n")
    with pytest.raises(SuiteError, match=r"cases: found a list of 0, allowed is a list of 1 to 1000 cases"):
        find_suite(path)


def test_a_size_that_the_model_cannot_draw_is_named(tmp_path):
    suite = find_suite(write(tmp_path, WHOLE))
    check_sizes(suite, 32, "mini")
    with pytest.raises(SuiteError) as caught:
        check_sizes(suite, 64, "mini")
    assert str(caught.value) == (
        f'{suite.path}: case "first": found 128x96 pixels, allowed are sides divisible by 64, '
        "the factor of the model mini"
    )


def test_an_unknown_name_suggests():
    with pytest.raises(SuiteError, match=r'no suite named "turbo1"; .*; did you mean "turbo10"\?'):
        find_suite("turbo1")


def outcome(path):
    try:
        return find_suite(path).hash
    except SuiteError as problem:
        return str(problem)


@given(st.data())
def test_any_line_may_go_or_double(tmp_path_factory, data):
    lines = WHOLE.strip().splitlines()
    index = data.draw(st.integers(0, len(lines) - 1))
    lines[index] = data.draw(st.sampled_from(["", f"{lines[index]}\n{lines[index]}", lines[index][:-1]]))
    path = write(tmp_path_factory.getbasetemp(), "\n".join(lines))
    assert len(outcome(path).splitlines()) == 1


def test_a_shipped_suites_name_with_other_texts_is_refused(tmp_path):
    shipped = find_suite("mini")
    copy = tmp_path / "mini.toml"
    text = shipped.path.read_text(encoding="utf-8")
    copy.write_text(text, encoding="utf-8")
    assert find_suite(copy).hash == shipped.hash
    # the hash is the same, but nobody would read the word any more
    copy.write_text(text.replace('text = ["BAKERY"]\n', ""), encoding="utf-8")
    with pytest.raises(SuiteError, match="mini is a shipped suite, and this is another"):
        find_suite(copy)


DOCUMENTED = (Path(__file__).parents[2] / "docs" / "suites.md").read_text(encoding="utf-8")


def test_the_documented_suite_can_be_drawn(tmp_path: Path) -> None:
    ((name, text),) = re.findall(r"`(\w+\.toml)`:\n\n```toml\n(.*?)^```$", DOCUMENTED, re.M | re.S)
    (tmp_path / name).write_text(text, encoding="utf-8")
    suite = find_suite(tmp_path / name)
    assert (suite.name, len(suite.cases), suite.cases[1].text) == ("posters", 2, ())
    check_sizes(suite, 16, "the full size")


@pytest.mark.parametrize("table", ["", "[[cases]]"])
def test_every_key_of_a_suite_is_documented_and_no_other(tmp_path: Path, table: str) -> None:
    whole = WHOLE + "odd = 1\n" if table else "odd = 1\n" + WHOLE
    with pytest.raises(SuiteError) as told:
        find_suite(write(tmp_path, whole))
    allowed = set(str(told.value).partition("allowed: ")[2].split(", ")) - {"cases"}
    section = DOCUMENTED.partition("## A case" if table else "## The suite")[2].partition("\n## ")[0]
    rows = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]
    assert {key for row in rows for key in re.findall(r"`(\w+)`", row)} == allowed
