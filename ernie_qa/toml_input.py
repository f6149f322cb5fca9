"""Reading what people write: a file of bounded size becomes a `Table` that checks every value it hands out.

Every error is one line: the file, the key, what was found, what is allowed.
"""

import difflib
import json
import math
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, Never

from ernie_qa.errors import InputError
from ernie_qa.frozen import Frozen, freeze

MAX_BYTES = 2**20
MAX_NESTING = 64
"""How deep the tables and lists of a file may lie in each other."""
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""Names that become file names: no separator, no leading dot."""
SAFE_NAME_RULE = "1 to 100 letters, digits, '.', '_' or '-', beginning with a letter or digit"
CASE_NAME = re.compile(SAFE_NAME.pattern + r"(\+[1-9][0-9]{0,2})?")
"""A case's id, with +1 where it is drawn with another seed than its own."""

_LONG_KEY = re.compile(
    rf"""(?:^|[\[{{,])[ \t]*(?:(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){{{MAX_NESTING}}}""",
    re.MULTILINE,
)
"""tomllib takes time that grows with the square of a dotted key's parts: half an hour for a file of 1 MiB."""
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+(\[\d+\])?")


class Table:
    """One table of a file, read key by key.

    `key` is the table's own dotted path in `file`, empty for the whole file; `error` is what it raises.
    A reader without a default raises where the key is missing; `finish` raises where a key was never read.
    """

    def __init__(
        self, values: Mapping[str, Any], file: Path, key: str = "", error: type[InputError] = InputError
    ) -> None:
        self._values = values
        self._read: set[str] = set()
        self.file = file
        self.key = key
        self._error = error

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def text(
        self,
        key: str,
        default: str | None = None,
        *,
        pattern: re.Pattern[str] | None = None,
        allowed: str = "text that is not empty",
    ) -> str:
        """A string that is not blank and, with `pattern`, matches it in full (`allowed` says so in words)."""
        value = self._value(key, default, allowed)
        if not isinstance(value, str) or not value.strip() or (pattern and not pattern.fullmatch(value)):
            self.wrong(key, allowed)
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            self.wrong(key, "text that Unicode can write")
        return value

    def choice(self, key: str, allowed: Collection[str], default: str | None = None) -> str:
        """One of the strings `allowed`."""
        wanted = "one of " + ", ".join(sorted(allowed))
        value = self._value(key, default, wanted)
        if not isinstance(value, str) or value not in allowed:
            self.wrong(key, wanted + did_you_mean(value, allowed))
        return value

    def integer(
        self, key: str, default: int | None = None, *, minimum: int = -(2**63), maximum: int = 2**63 - 1
    ) -> int:
        """A whole number from `minimum` to `maximum`, both included; true and 1.0 are none."""
        wanted = f"a whole number from {minimum} to {maximum}"
        value = self._value(key, default, wanted)
        if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
            self.wrong(key, wanted)
        return value

    def number(
        self, key: str, default: float | None = None, *, minimum: float = -math.inf, maximum: float = math.inf
    ) -> float:
        """A finite number from `minimum` to `maximum`, both included; 1 is a number, true is not."""
        wanted = "a finite number"
        if minimum > -math.inf or maximum < math.inf:
            wanted += f" from {minimum:g} to {maximum:g}"
        value = self._value(key, default, wanted)
        if not isinstance(value, int | float) or isinstance(value, bool):
            self.wrong(key, wanted)
        number = float(value) if abs(value) < 1e308 else math.inf
        if not math.isfinite(number) or not minimum <= number <= maximum:
            self.wrong(key, wanted)
        return number

    def boolean(self, key: str, default: bool | None = None) -> bool:
        """true or false; 0 and 1 are neither."""
        value = self._value(key, default, "true or false")
        if not isinstance(value, bool):
            self.wrong(key, "true or false")
        return value

    def strings(
        self,
        key: str,
        default: tuple[str, ...] | None = None,
        *,
        pattern: re.Pattern[str] | None = None,
        allowed: str = "text that is not empty",
    ) -> tuple[str, ...]:
        """A list of different strings, each as `text` takes it."""
        wanted = f"a list of {allowed}" if pattern else "a list of strings"
        value = self._value(key, default, wanted)
        if not isinstance(value, list | tuple):
            self.wrong(key, wanted)
        items = Table({f"{key}[{n}]": item for n, item in enumerate(value)}, self.file, self.key, self._error)
        found = tuple(items.text(name, pattern=pattern, allowed=allowed) for name in items)
        twice = next((item for item, count in Counter(found).items() if count > 1), None)
        if twice is not None:
            self.fail(key, f"{quoted(twice)} is named twice")
        return found

    def table(self, key: str, *, optional: bool = False) -> "Table":
        """The table below `key`; an empty one where it is `optional` and missing."""
        value = self._value(key, {} if optional else None, "a table")
        if not isinstance(value, Mapping):
            self.wrong(key, "a table")
        return Table(value, self.file, self.place(key), self._error)

    def tables(self, key: str, *, optional: bool = False) -> tuple["Table", ...]:
        """The list of tables below `key` (`[[key]]`); an empty one where it is `optional` and missing."""
        value = self._value(key, () if optional else None, "a list of tables")
        if not isinstance(value, list | tuple) or not all(isinstance(item, Mapping) for item in value):
            self.wrong(key, "a list of tables")
        return tuple(
            Table(item, self.file, f"{self.place(key)}[{index}]", self._error)
            for index, item in enumerate(value)
        )

    def text_or_null(self, key: str) -> str | None:
        """Text as `text` takes it, or None for JSON's null; the key must be there."""
        self._read.add(key)
        return None if self._values.get(key, ...) is None else self.text(key)

    def day(self, key: str) -> date:
        """A day without a time, as TOML writes it: 2026-12-31."""
        wanted = "a date without quotes, as 2026-12-31"
        value = self._value(key, None, wanted)
        if not isinstance(value, date) or isinstance(value, datetime):
            self.wrong(key, wanted)
        return value

    def number_or_null(self, key: str) -> float | None:
        """A finite number, or None for JSON's null; the key must be there."""
        self._read.add(key)
        return None if self._values.get(key, ...) is None else self.number(key)

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of one or more finite numbers."""
        wanted = "a list of numbers"
        value = self._value(key, None, wanted)
        if not isinstance(value, list | tuple) or not value:
            self.wrong(key, wanted)
        items = Table({f"{key}[{n}]": item for n, item in enumerate(value)}, self.file, self.key, self._error)
        return tuple(items.number(name) for name in items)

    def frozen(self) -> Frozen:
        """All of the table, read-only; dates, infinities and the like are refused."""
        try:
            values: Frozen = freeze(self._values, self.key)
        except ValueError as problem:
            raise self._error(one_line(f"{self.file}: {problem}")) from None
        return values

    def schema(self, latest: int) -> int:
        """The file's `schema`: a whole number from 1 to `latest`; a later one asks for an upgrade."""
        value = self.integer("schema", minimum=1)
        if value > latest:
            self.fail(
                "schema", f"found {value}, this ernie_qa reads schemas up to {latest}; upgrade ernie_qa"
            )
        return value

    def finish(self) -> None:
        """Refuse the first key that nobody read."""
        for key in self._values:
            if key not in self._read:
                self.fail(
                    key,
                    f"unknown key; allowed: {', '.join(sorted(self._read))}" + did_you_mean(key, self._read),
                )

    def place(self, key: str) -> str:
        """The dotted path of `key` in the file, quoted as TOML wants it."""
        own = key if _BARE_KEY.fullmatch(key) else json.dumps(key, ensure_ascii=False)
        return f"{self.key}.{own}" if self.key else own

    def wrong(self, key: str, allowed: str) -> Never:
        """Raise: `key` holds something else than `allowed`."""
        self.fail(key, f"found {shown(self._values[key])}, allowed is {allowed}")

    def fail(self, key: str | None, message: str) -> Never:
        """Raise `message` about `key`, or about the table itself where `key` is None."""
        place = self.key if key is None else self.place(key)
        raise self._error(
            one_line(f"{self.file}: {place}: {message}" if place else f"{self.file}: {message}")
        )

    def _value(self, key: str, default: Any, allowed: str) -> Any:
        self._read.add(key)
        if key in self._values:
            return self._values[key]
        if default is None:
            close = difflib.get_close_matches(key, self._values.keys() - self._read, n=1)
            instead = f"; is {quoted(close[0])} meant to be it?" if close else ""
            self.fail(key, f"missing, needed is {allowed}{instead}")
        return default


def read_toml(path: Path, error: type[InputError], max_bytes: int = MAX_BYTES) -> Table:
    """The TOML file at `path`; `error` is raised if it is missing, too large or no TOML."""
    return _read(path, error, max_bytes, "TOML", _parse_toml)


def read_json(path: Path, error: type[InputError], max_bytes: int = MAX_BYTES) -> Table:
    """The JSON file at `path`, an object; `error` is raised if it is missing, too large or no JSON object."""
    return _read(path, error, max_bytes, "JSON", parse_json)


def parse_json(text: str) -> Any:
    """The JSON value that `text` is. ValueError where it is none, an object has a key twice, or it is nested
    more than `MAX_NESTING` deep."""
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError(f"nested more than {MAX_NESTING} deep") from None
    return _bounded(value)


def _parse_toml(text: str) -> dict[str, Any]:
    try:
        if _LONG_KEY.search(text):
            raise ValueError(f"a key of more than {MAX_NESTING} parts")
        values = tomllib.loads(text)
    except RecursionError:
        raise ValueError(f"nested more than {MAX_NESTING} deep") from None
    _bounded(values)
    return values


def _object(items: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(items)
    if len(values) != len(items):
        twice = next(key for key, count in Counter(key for key, _ in items).items() if count > 1)
        raise ValueError(f"the key {quoted(twice)} is there twice")
    return values


def _bounded(value: Any) -> Any:
    """`value`; ValueError where it is nested too deeply. It does not recurse itself."""
    level = [value]
    for _ in range(MAX_NESTING + 1):
        inner = (
            one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)
        )
        level = [item for items in inner for item in items]
        if not level:
            return value
    raise ValueError(f"nested more than {MAX_NESTING} deep")


def _read(
    path: Path, error: type[InputError], max_bytes: int, kind: str, parse: Callable[[str], Any]
) -> Table:
    try:
        if not path.is_file():
            raise error(one_line(f"{path}: no such file"))
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as problem:
        raise error(one_line(f"{path}: cannot be read: {problem.strerror or problem}")) from None
    if len(content) > max_bytes:
        raise error(one_line(f"{path}: larger than the {max_bytes} bytes allowed"))
    try:
        values = parse(content.decode("utf-8"))
    except ValueError as problem:
        raise error(one_line(f"{path}: not valid {kind}: {problem}")) from None
    if not isinstance(values, dict):
        raise error(one_line(f"{path}: found {shown(values)}, allowed is a table of keys"))
    return Table(values, path, error=error)


def find_file(given: str | Path, directory: Path, kind: str, error: type[InputError]) -> Path:
    """The file that `given` means: a path if it has a separator or ends in .toml, else a name in `directory`.

    The file's stem becomes a name in reports and paths, so it must be a safe one.
    """
    text = str(given)
    if isinstance(given, Path) or "/" in text or "\\" in text or text.endswith(".toml"):
        path = Path(text)
        if SAFE_NAME.fullmatch(path.stem) and "\0" not in text:
            return path
        wrong = f"{quoted(text)}: the file's stem names the {kind}: allowed are {SAFE_NAME_RULE}"
    else:
        names = names_in(directory)
        if text in names:
            return directory / f"{text}.toml"
        wrong = (
            f"no {kind} named {quoted(text)}; shipped are {', '.join(names)}{did_you_mean(text, names)} "
            f"(a file is given by its path, as ./my-{kind}.toml)"
        )
    raise error(one_line(wrong))


def names_in(directory: Path) -> tuple[str, ...]:
    """The stems of the TOML files in `directory`, sorted."""
    return tuple(sorted(path.stem for path in directory.glob("*.toml")))


def did_you_mean(found: Any, allowed: Collection[str]) -> str:
    """`; did you mean "x"?` where one of `allowed` looks like `found`, else nothing."""
    close = difflib.get_close_matches(found[:100], sorted(allowed), n=1) if isinstance(found, str) else []
    return f'; did you mean "{close[0]}"?' if close else ""


def shown(value: Any) -> str:
    """`value` as a short text of one line, with its type."""
    match value:
        case None:
            return "nothing (null)"
        case bool():
            return f"{str(value).lower()} (true/false)"
        case str():
            return f"{quoted(value)} (text)"
        case int():
            # str() of a whole number with thousands of digits raises
            return (
                f"{value} (whole number)"
                if value.bit_length() <= 64
                else "a whole number of more than 64 bits"
            )
        case float():
            return f"{value} (number)" if math.isfinite(value) else f"{value} (not a finite number)"
        case Mapping():
            return "a table"
        case list() | tuple():
            return f"a list of {len(value)}"
        case date() | time():
            return f"{value} (date or time)"
        case _:
            return type(value).__name__


def quoted(text: str) -> str:
    """At most 60 characters of `text` in quotes, on one line."""
    return json.dumps(text[:60], ensure_ascii=False) + ("..." if len(text) > 60 else "")


def one_line(text: str) -> str:
    """`text` without line breaks or halves of letters: a file's name may hold some."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode().splitlines())
