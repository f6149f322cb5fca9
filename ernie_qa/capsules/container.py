"""A safetensors file with a document and a hash over all of it; read with no torch, and never unpickled.

Its metadata hold

    format     "ernie_qa capsule"
    document   JSON
    sha256     over the document, the tensors' names, types, shapes and places, and their bytes

The hash is against damage and slips; it is no signature, for whoever edits the file can hash it again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from math import prod
from typing import Any

from ernie_qa.errors import CapsuleError
from ernie_qa.frozen import digest
from ernie_qa.toml_input import one_line, parse_json

MAX_BYTES = 50 * 10**6
"""A capsule is shipped beside weights, and must be nothing beside them."""
MAX_HEADER = 8 * 2**20
PUBLISHED = "published/"
"""What the names of the published arm's outputs begin with."""

_FORMAT = "ernie_qa capsule"
_SIZES = {"BOOL": 1, "U8": 1, "BF16": 2, "F16": 2, "F32": 4, "F64": 8, "I32": 4, "I64": 8}
"""Bytes of one value, by safetensors' name of the types that a tape holds."""


def pack(values: Mapping[str, Any], tensors: bytes) -> bytes:
    """The safetensors file `tensors` with the document `values`. CapsuleError where it is too large."""
    entries, data = _split(tensors, "the tensors")
    entries.pop("__metadata__", None)
    document = json.dumps(values, ensure_ascii=True, allow_nan=False, sort_keys=True)
    metadata = {"format": _FORMAT, "document": document, "sha256": _hash(document, entries, data)}
    header = json.dumps({"__metadata__": metadata, **entries}).encode()
    header += b" " * (-len(header) % 8)
    packed = len(header).to_bytes(8, "little") + header + data
    if len(packed) > MAX_BYTES:
        raise CapsuleError(f"the capsule has {len(packed)} B, {MAX_BYTES} are allowed: {_largest(entries)}")
    return packed


def unpack(content: bytes, where: str) -> tuple[dict[str, Any], str]:
    """The document of the file `content`, which errors call `where`, and its sha256, which is checked.
    CapsuleError where it is none, damaged, truncated, edited or too large."""
    if len(content) > MAX_BYTES:
        raise CapsuleError(one_line(f"{where}: larger than the {MAX_BYTES} B that a capsule may have"))
    entries, data = _split(content, where)
    metadata = entries.pop("__metadata__", None)
    if not isinstance(metadata, dict) or metadata.get("format") != _FORMAT:
        raise CapsuleError(one_line(f"{where}: a safetensors file, but no capsule of ernie_qa"))
    document, sha256 = metadata.get("document"), metadata.get("sha256")
    if set(metadata) != {"format", "document", "sha256"} or not isinstance(document, str):
        raise CapsuleError(one_line(f"{where}: damaged: its metadata are not a capsule's; fetch it again"))
    if _hash(document, entries, data) != sha256:
        raise CapsuleError(
            one_line(f"{where}: damaged or edited: it does not match its sha256; fetch it again")
        )
    try:
        values = parse_json(document)
    except ValueError as problem:
        raise CapsuleError(one_line(f"{where}: its document is no JSON: {problem}")) from None
    if not isinstance(values, dict):
        raise CapsuleError(one_line(f"{where}: its document is no table of keys"))
    return values, str(sha256)


def _split(content: bytes, where: str) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, `__metadata__` included where there is one, and its data, which the
    entries cover without gaps. CapsuleError where that is not so."""
    damaged = CapsuleError(one_line(f"{where}: damaged, truncated or no safetensors file; fetch it again"))
    length = int.from_bytes(content[:8], "little")
    if len(content) < 10 or not 2 <= length <= min(len(content) - 8, MAX_HEADER):
        raise damaged
    try:
        # left to itself json takes other encodings too, which safetensors does not
        header = parse_json(content[8 : 8 + length].decode("utf-8"))
        entries = {name: one for name, one in header.items() if name != "__metadata__"}
        ends = sorted(_extent(one) for one in entries.values())
    except (AttributeError, LookupError, TypeError, ValueError):
        raise damaged from None
    data, at = content[8 + length :], 0
    for start, end in ends:
        if start != at:
            raise damaged
        at = end
    if at != len(data):
        raise damaged
    return header, data


def _extent(entry: Mapping[str, Any]) -> tuple[int, int]:
    """Where one tensor's bytes begin and end; ValueError where that is not what its type and shape take."""
    shape, (start, end) = entry["shape"], entry["data_offsets"]
    whole = type(shape) is list and all(
        type(size) is int and 0 <= size < 2**40 for size in (*shape, start, end)
    )
    if set(entry) != {"dtype", "shape", "data_offsets"} or not whole or len(shape) > 8:
        raise ValueError(entry)
    if end - start != prod(shape) * _SIZES[entry["dtype"]]:
        raise ValueError(entry)
    return start, end


def _hash(document: str, entries: Mapping[str, Any], data: bytes) -> str:
    found = hashlib.sha256(document.encode("utf-8", "backslashreplace"))
    found.update(digest(entries).encode())
    found.update(data)
    return found.hexdigest()


def _largest(entries: Mapping[str, Any]) -> str:
    """What takes the most bytes, by the kind of tensor."""
    kinds: dict[str, int] = {}
    for name, entry in entries.items():
        start, end = entry["data_offsets"]
        kinds[kind_of(name)] = kinds.get(kind_of(name), 0) + end - start
    largest = sorted(kinds, key=lambda kind: -kinds[kind])[:3]
    return ", ".join(f"{kind} {kinds[kind]} B" for kind in largest)


def kind_of(name: str) -> str:
    """What a tensor of a tape is about: layers, pe, ids, text_encoder, transformer, scheduler, vae."""
    pieces = name.removeprefix(PUBLISHED).split("/")
    return pieces[0] if pieces[0] in ("layers", "pe", "ids") or len(pieces) == 1 else pieces[1]
