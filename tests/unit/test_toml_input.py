import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_qa.errors import InputError, RecipeError
from ernie_qa.toml_input import Table, find_file, one_line, read_json, read_toml, shown

FILE = Path("some.toml")


def table(**values):
    return Table(values, FILE, "part", RecipeError)


def said(call):
    with pytest.raises(RecipeError) as caught:
        call()
    message = str(caught.value)
    assert message.splitlines() == [message]
    return message


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.dates()
    | st.datetimes()
    | st.times(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(anything, st.text())
def test_a_reader_returns_its_type_or_raises_one_line_with_file_and_key(value, key):
    readers = {
        str: lambda t: t.text(key),
        int: lambda t: t.integer(key),
        float: lambda t: t.number(key),
        bool: lambda t: t.boolean(key),
        tuple: lambda t: t.strings(key),
        Table: lambda t: t.table(key),
    }
    for kind, read in readers.items():
        try:
            result = read(Table({key: value}, FILE, "part", RecipeError))
        except RecipeError as problem:
            message = str(problem)
            assert message.startswith("some.toml: part.")
            assert message.splitlines() == [message]
            message.encode()
        else:
            assert type(result) is kind


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("0.2", '"0.2" (text)'),
        (True, "true (true/false)"),
        (float("nan"), "nan (not a finite number)"),
        (float("inf"), "inf (not a finite number)"),
        ([1, 2], "a list of 2"),
        ({}, "a table"),
        (10**400, "a whole number of more than 64 bits"),
    ],
)
def test_what_is_not_a_number_is_named(value, found):
    message = said(lambda: table(max=value).number("max"))
    assert message == f"some.toml: part.max: found {found}, allowed is a finite number"


def test_bounds_are_included_and_named():
    assert table(n=1).number("n", minimum=1, maximum=2) == 1.0
    assert table(n=2).integer("n", minimum=1, maximum=2) == 2
    message = said(lambda: table(n=3).integer("n", minimum=1, maximum=2))
    assert message == "some.toml: part.n: found 3 (whole number), allowed is a whole number from 1 to 2"
    assert "a finite number from 1 to 2" in said(lambda: table(n=0.5).number("n", minimum=1, maximum=2))
    assert "allowed is a whole number" in said(lambda: table(n=1.0).integer("n"))


def test_text_must_say_something():
    assert "allowed is text that is not empty" in said(lambda: table(a=" \n").text("a"))
    assert "found 7 (whole number)" in said(lambda: table(a=7).text("a"))
    assert "Unicode" in said(lambda: table(a="\ud800").text("a"))
    assert "two digits" in said(
        lambda: table(a="123").text("a", pattern=re.compile(r"\d\d"), allowed="two digits")
    )


def test_strings_are_checked_one_by_one():
    assert table(a=["x", "y"]).strings("a") == ("x", "y")
    assert said(lambda: table(a=["x", 2]).strings("a")).startswith(
        "some.toml: part.a[1]: found 2 (whole number)"
    )
    assert said(lambda: table(a=["x", "x"]).strings("a")) == 'some.toml: part.a: "x" is named twice'
    assert "a list of strings" in said(lambda: table(a="x").strings("a"))


def test_choices_suggest_the_nearest():
    message = said(lambda: table(a="unit4").choice("a", ("uint4", "int8")))
    assert message == (
        'some.toml: part.a: found "unit4" (text), allowed is one of int8, uint4; did you mean "uint4"?'
    )


def test_unknown_keys_are_refused_with_a_suggestion():
    opened = table(group_size=0, grup_size=1)
    opened.integer("group_size")
    message = said(opened.finish)
    assert message == (
        'some.toml: part.grup_size: unknown key; allowed: group_size; did you mean "group_size"?'
    )


def test_a_missing_key_points_at_a_misspelt_one():
    message = said(lambda: table(sumary="x").text("summary"))
    assert message == (
        'some.toml: part.summary: missing, needed is text that is not empty; is "sumary" meant to be it?'
    )
    assert table().text("summary", "none") == "none"


def test_keys_are_quoted_as_toml_wants_them():
    limits = table(**{"images.lpips_mean": {"max": "x"}})
    message = said(lambda: limits.table("images.lpips_mean").number("max"))
    assert message.startswith('some.toml: part."images.lpips_mean".max: found')


def test_lists_of_tables_are_numbered():
    message = said(lambda: table(cases=[{}, {"id": 3}]).tables("cases")[1].text("id"))
    assert message.startswith("some.toml: part.cases[1].id: found 3")
    assert "a list of tables" in said(lambda: table(cases={"id": 3}).tables("cases"))
    assert table().tables("cases", optional=True) == ()


def test_null_is_only_text_where_it_may_be():
    opened = table(a=None, b="x")
    assert opened.text_or_null("a") is None
    assert opened.text_or_null("b") == "x"
    opened.finish()
    assert "missing" in said(lambda: table().text_or_null("a"))
    assert "found nothing (null)" in said(lambda: table(a=None).text("a"))


def test_a_later_schema_asks_for_an_upgrade():
    assert table(schema=1).schema(1) == 1
    assert said(lambda: table(schema=2).schema(1)).endswith("up to 1; upgrade ernie_qa")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a = ", "not valid TOML"),
        (b"a = \xff", "not valid TOML"),
        (b"a = " + b"[" * 100_000, "not valid TOML"),
        (b"a = " + b"9" * 5000, "not valid TOML"),
        (b"#" * (2**20 + 1), "larger than the 1048576 bytes allowed"),
    ],
)
def test_unreadable_files_are_one_line(tmp_path, content, message):
    path = tmp_path / "a\nb.toml"
    path.write_bytes(content)
    assert message in said(lambda: read_toml(path, RecipeError))


def test_missing_files_and_directories_are_no_files(tmp_path):
    assert said(lambda: read_toml(tmp_path / "x.toml", RecipeError)).endswith("x.toml: no such file")
    assert said(lambda: read_toml(tmp_path, RecipeError)).endswith("no such file")


def test_json_must_be_an_object(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("[1]")
    assert "found a list of 1, allowed is a table" in said(lambda: read_json(path, RecipeError))
    path.write_text("[" * 100_000)
    assert "not valid JSON" in said(lambda: read_json(path, RecipeError))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(content)
    said = ""
    try:
        read_toml(path, InputError).frozen()
    except InputError as problem:
        said = str(problem)
    assert len(said.splitlines()) <= 1


@given(st.text())
def test_a_name_cannot_leave_the_directory(name):
    directory = Path("/shipped/recipes")
    try:
        path = find_file(name, directory, "recipe", RecipeError)
    except RecipeError as problem:
        path, said = None, str(problem)
    if path is None:
        assert one_line(said) == said
    else:
        assert "/" in name or "\\" in name or name.endswith(".toml")
        assert path == Path(name)


@given(anything)
def test_any_value_can_be_shown_on_one_line(value):
    assert one_line(shown(value)) == shown(value).encode("utf-8", "backslashreplace").decode()
