"""Values that JSON can hold, made read-only, with one canonical form and its hash.

Mappings become `Frozen`, lists and tuples become tuples. `types.MappingProxyType` would do, but it cannot be
pickled, and records travel between processes.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

MAX_DEPTH = 32
SHA256 = re.compile(r"[0-9a-f]{64}")
"""What `digest` gives."""
SHA256_RULE = "a sha256, 64 hex digits"


class Frozen(Mapping[str, Any]):
    """A read-only mapping that can be pickled; equal to any mapping with the same items."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(self._values)


def freeze(value: Any, where: str = "value", depth: int = MAX_DEPTH) -> Any:
    """A read-only copy of `value`.

    Allowed are None, text, booleans, whole numbers of 64 bits, finite numbers, and lists and mappings (keyed
    by text) of these, at most `depth` deep. Anything else is a ValueError that names its place below `where`.
    """
    if depth < 0:
        raise ValueError(f"{where}: nested more than {MAX_DEPTH} deep")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"{where}: a whole number of more than 64 bits")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where}: {value} is not a finite number")
        return float(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"{where}: the key {key!r} is not text")
        return Frozen({str(key): freeze(item, f"{where}.{key}", depth - 1) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return tuple(freeze(item, f"{where}[{index}]", depth - 1) for index, item in enumerate(value))
    raise ValueError(f"{where}: {type(value).__name__} is not a value that JSON can hold")


def thaw(value: Any) -> Any:
    """`value` as plain dicts and lists, as `json.dumps` takes them."""
    if isinstance(value, Mapping):
        return {key: thaw(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [thaw(item) for item in value]
    return value


def digest(value: Any) -> str:
    """The sha256, in hex, of the canonical JSON of `value`: sorted keys, no blanks, ASCII only."""
    text = json.dumps(thaw(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
