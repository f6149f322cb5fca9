"""The capsule's file: what is written is read, and nothing else is."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load

from ernie_qa.capsules import container
from ernie_qa.capsules.capsule import SCHEMA, Capsule, Part, parse_capsule, read_capsule
from ernie_qa.capsules.container import MAX_BYTES, MAX_HEADER, kind_of, pack, unpack
from ernie_qa.errors import CapsuleError
from ernie_qa.fingerprint import Fingerprint
from ernie_qa.frozen import Frozen
from ernie_qa.recipe import find_recipe
from ernie_qa.record import ModelIdentity
from ernie_qa.suite import find_suite

SHA = "0" * 64


def tensors(**sizes: int) -> bytes:
    """A safetensors file of bytes."""
    entries, at = {}, 0
    for name, size in sizes.items():
        entries[name] = {"dtype": "U8", "shape": [size], "data_offsets": [at, at + size]}
        at += size
    header = json.dumps(entries).encode()
    return len(header).to_bytes(8, "little") + header + bytes(at)


def made() -> Capsule:
    part = Part(
        quantizer="sdnq",
        artifact=True,
        flag=Frozen({"weights_dtype": "uint4"}),
        states=Frozen({name: Frozen({"quantized": True, "bits": 4}) for name in ("a.b", "a.c")}),
        tensors=Frozen({"a.b": SHA, "norm.weight": SHA}),
        calls=Frozen({"a.b": (16, 16), "a.c": (16, 0)}),
    )
    suite = find_suite("mini")
    return Capsule(
        created="2026-11-23T12:00:00+00:00",
        model=ModelIdentity("mini", None, "trained", SHA),
        artifact=ModelIdentity("mini-uint4", None, "trained", SHA),
        recipe=find_recipe("sdnq-uint4-static"),
        suite=suite,
        cases=tuple(case.id for case in suite.cases[:2]),
        words=Frozen({suite.cases[0].id: "a poster"}),
        fingerprint=Fingerprint(
            "3.11.0",
            "Linux",
            {"torch": "2.14.1", "sdnq": None},
            "cpu",
            ("AVX2",),
            2,
            None,
            None,
            None,
            None,
            {},
        ),
        exact_int8=True,
        parts=Frozen({"transformer": part}),
        figures=Frozen({"cases": ("a",), "seconds": 1.5}),
        left_out=("all but 4 rows of a layer",),
        content=tensors(one=3, two=5),
    )


WHOLE = made().packed()


def repacked(change: Callable[[dict[str, Any]], None]) -> bytes:
    """The capsule after a change to its document, hashed anew."""
    values, _ = unpack(WHOLE, "x")
    change(values)
    return pack(values, tensors(one=3, two=5))


def forged(document: str, header: Callable[[str], bytes] = str.encode) -> bytes:
    """A capsule of any document, hashed as ours are; `header` writes the file's header."""
    content = tensors(one=3)
    entries, data = container._split(content, "x")
    sha256 = container._hash(document, entries, data)
    metadata = {"format": "ernie_qa capsule", "document": document, "sha256": sha256}
    written = header(json.dumps({"__metadata__": metadata, **entries}))
    return len(written).to_bytes(8, "little") + written + data


def test_what_is_written_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.capsule").write_bytes(WHOLE)
    found, wrote = read_capsule(tmp_path / "a.capsule"), made()
    for name in ("created", "model", "artifact", "cases", "words", "fingerprint", "parts", "figures"):
        assert getattr(found, name) == getattr(wrote, name)
    assert found.recipe.hash == wrote.recipe.hash
    assert found.suite.hash == wrote.suite.hash
    assert (found.exact_int8, found.left_out) == (True, wrote.left_out)
    # and once more the same file
    assert found.packed() == WHOLE


def test_safetensors_reads_it_too() -> None:
    assert {name: len(tensor) for name, tensor in load(WHOLE).items()} == {"one": 3, "two": 5}


@given(st.binary(max_size=300))
@example(b"")
@example(b"\x80\x04\x95")
@example((2).to_bytes(8, "little") + b"{}")
@example((MAX_HEADER + 1).to_bytes(8, "little") + b"{}")
@example((9).to_bytes(8, "little") + b'{"a": []}')
@example((3).to_bytes(8, "little") + b"[1]")
def test_any_bytes_are_refused_in_one_line(content: bytes) -> None:
    with pytest.raises(CapsuleError) as caught:
        parse_capsule(content, "x.capsule")
    assert "\n" not in str(caught.value)


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_any_changed_byte_is_seen(at: int, change: int) -> None:
    content = bytearray(WHOLE)
    content[at] ^= change
    found = None
    with suppress(CapsuleError):
        found = parse_capsule(bytes(content), "x.capsule")
    if found is not None:
        # a blank for another between JSON's tokens says the same
        assert found == replace(parse_capsule(WHOLE, "x.capsule"), content=found.content)


@given(st.integers(0, len(WHOLE) - 1))
def test_a_truncated_one_is_refused(length: int) -> None:
    with pytest.raises(CapsuleError):
        parse_capsule(WHOLE[:length], "x.capsule")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = sorted(unpack(WHOLE, "x")[0])


@given(st.sampled_from(KEYS), json_values)
@example("figures", {"seconds": float("inf")})
@example("exact_int8", float("nan"))
def test_any_value_in_its_document_is_read_or_refused_in_one_line(key: str, value: Any) -> None:
    values, _ = unpack(WHOLE, "x")
    told = ""
    try:
        # Infinity and NaN too, which Python's JSON reads
        parse_capsule(forged(json.dumps({**values, key: value})), "x.capsule")
    except CapsuleError as error:
        told = str(error)
    assert "\n" not in told
    assert not told or "x.capsule" in told


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda values: values.update(schema=SCHEMA + 1), "upgrade ernie_qa"),
        (lambda values: values.update(colour="red"), "unknown key"),
        (lambda values: values["recipe"]["options"]["sdnq"].update(weights_dtype="int8"), "recipe.hash"),
        (lambda values: values["suite"]["cases"][0].update(prompt="another"), "suite.hash"),
        (lambda values: values["suite"]["cases"][0].update(width=2**20), "width"),
        (lambda values: values.update(cases=["nobody"]), "no case of its suite"),
        (lambda values: values["parts"]["transformer"]["tensors"].update(a="b"), "sha256"),
        (lambda values: values["parts"]["transformer"]["calls"].update(a=[1, 2]), "calls"),
    ],
)
def test_a_document_that_was_edited_and_hashed_again(
    change: Callable[[dict[str, Any]], None], said: str
) -> None:
    with pytest.raises(CapsuleError, match=said):
        parse_capsule(repacked(change), "x.capsule")


def test_a_document_that_is_nested_deeply_is_refused() -> None:
    with pytest.raises(CapsuleError, match="its document is no JSON"):
        parse_capsule(forged("[" * 100_000), "x.capsule")


def test_a_header_that_safetensors_does_not_read_is_refused() -> None:
    content = forged("{}", lambda text: text.encode("utf-16"))
    with pytest.raises(SafetensorError):
        load(content)
    with pytest.raises(CapsuleError, match="damaged"):
        parse_capsule(content, "x.capsule")


def test_many_names_are_read_in_no_time() -> None:
    names = [f"a.{number}" for number in range(30_000)]
    began = time.process_time()
    found = parse_capsule(
        repacked(lambda values: values["parts"]["transformer"]["states"][0].update(names=names)), "x.capsule"
    )
    assert len(found.parts["transformer"].states) == len(names)
    assert time.process_time() - began < 3


def test_another_safetensors_file_is_no_capsule() -> None:
    with pytest.raises(CapsuleError, match="no capsule of ernie_qa"):
        parse_capsule(tensors(one=3), "x.safetensors")


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "U8", "shape": [4], "data_offsets": [0, 3]},
        {"dtype": "U8", "shape": [2**50], "data_offsets": [0, 3]},
        {"dtype": "OBJECT", "shape": [3], "data_offsets": [0, 3]},
        {"dtype": "U8", "shape": [-3], "data_offsets": [0, 3]},
        {"dtype": "U8", "shape": [3], "data_offsets": [1, 4]},
        {"dtype": "U8", "shape": [True] * 3, "data_offsets": [0, 1]},
        {"dtype": "U8", "shape": {}, "data_offsets": [0, 1]},
    ],
)
def test_tensors_that_lie_about_their_size_are_refused(entry: dict[str, Any]) -> None:
    header = json.dumps({"a": entry}).encode()
    size = entry["data_offsets"][1]
    with pytest.raises(CapsuleError, match="damaged"):
        pack({}, len(header).to_bytes(8, "little") + header + bytes(max(size, 3) if entry["shape"] else size))


def test_too_large_is_refused_with_what_is_large(tmp_path: Path) -> None:
    large = tensors(**{"a/vae/decoded": MAX_BYTES, "layers/pe/x/rows": 7})
    with pytest.raises(CapsuleError, match=f"vae {MAX_BYTES} B, layers 7 B"):
        pack({}, large)
    (tmp_path / "large").write_bytes(large)
    with pytest.raises(CapsuleError, match="larger than"):
        read_capsule(tmp_path / "large")


def test_a_file_that_is_none(tmp_path: Path) -> None:
    for path, said in ((tmp_path, "a directory, and no capsule"), (tmp_path / "absent", "no such file")):
        with pytest.raises(CapsuleError, match=said):
            read_capsule(path)


def test_what_a_tensor_is_about() -> None:
    names = ("layers/pe/x/rows", "published/a/transformer/0/prediction", "a/vae/latents", "pe/a/ids", "x")
    assert [kind_of(name) for name in names] == ["layers", "transformer", "vae", "pe", "x"]
