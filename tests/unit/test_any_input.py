"""Any value at any place of a file, and any bytes: each reader reads it, or refuses it in one line."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ernie_qa.baseline.accepted import read_accepted
from ernie_qa.baseline.noise import read_noise
from ernie_qa.baseline.pictures import read_pictures
from ernie_qa.baseline.store import read_baseline
from ernie_qa.errors import ErnieQAError, InputError
from ernie_qa.fidelity.lpips_weights import read_cached
from ernie_qa.models import find
from ernie_qa.models.checkpoint import check_component, weights_hash
from ernie_qa.recipe import Recipe, find_recipe
from ernie_qa.record import Record, load_record
from ernie_qa.report import shown
from ernie_qa.suite import find_suite
from ernie_qa.toml_input import parse_json, read_json
from tests.accepting import accepted, bundle

NOISE = Path(__file__).parents[2] / "baselines" / "noise" / "mini" / "cpu" / "mini.json"
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(
        [10**400, 2**63, "../x", "/x", "a\0b", "", "1", 1e308, -1, "\ud800", [[]], [{}], {"": None}]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
few = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@dataclass(frozen=True)
class Stored:
    """A file that is whole, and what reads it where it lies."""

    file: Path
    read: Callable[[], object]


@pytest.fixture(scope="module")
def stored(
    tmp_path_factory: pytest.TempPathFactory, observed: tuple[Recipe, dict[str, Record]], tiny_model: Path
) -> dict[str, Stored]:
    place = tmp_path_factory.mktemp("stored")
    recipe, records = observed
    accepted(place / "root", bundle(place / "run", records), recipes=(recipe,))
    cpu = place / "root" / "tiny" / "cpu"
    noise, manifest, index = place / "mini.json", place / "ernie_qa.json", place / "model_index.json"
    noise.write_bytes(NOISE.read_bytes())
    index.write_bytes((tiny_model / index.name).read_bytes())
    said = {
        "schema": 1,
        "name": "tiny",
        "weights": "random",
        "suite": "mini",
        "summary": "x",
        "files": {"a": "0" * 64},
    }
    manifest.write_text(json.dumps(said))
    shards = place / "vae" / "x.safetensors.index.json"
    shards.parent.mkdir()
    shards.write_text(json.dumps({"metadata": {}, "weight_map": {"a": "x.safetensors"}}))
    config = place / "vae" / "config.json"
    config.write_bytes((tiny_model / "vae" / "config.json").read_bytes())
    verdict = place / "verdict.json"
    check = {
        "name": "a.b",
        "rung": "images",
        "status": "pass",
        "message": "m",
        "required": True,
        "component": None,
    }
    check |= {"case": None, "unit": "", "measured": 1.0, "limit": 2.0}
    waiver = {"check": "a.b", "reason": "r", "until": "2999-01-01", "expired": False, "checks": 1}
    one = {"recipe": "r", "record": "0" * 64, "checks": [check], "waivers": [waiver]}
    verdict.write_text(json.dumps({"schema": 1, "verdicts": [one]}))
    model = find.find_model(tiny_model)
    return {
        "record": Stored(
            place / "run" / "lenient" / "record.json", lambda: load_record(place / "run" / "lenient")
        ),
        "accepted": Stored(cpu / "lenient.json", lambda: read_accepted(cpu / "lenient.json")),
        "index": Stored(cpu / "index.json", lambda: read_baseline(cpu)),
        "pictures": Stored(cpu / "pictures" / "manifest.json", lambda: read_pictures(cpu)),
        "noise": Stored(noise, lambda: read_noise(noise)),
        "manifest": Stored(manifest, lambda: find._manifest(manifest)),
        "model": Stored(index, lambda: find._components(place)),
        "shards": Stored(shards, lambda: check_component(shards.parent)),
        "config": Stored(config, lambda: find.vae_scale_factor(find.Model(place, model.identity, (), None))),
        "verdict": Stored(verdict, lambda: shown._verdicts(verdict)),
    }


def outcome(read: Callable[[], object]) -> str:
    """Empty, or the one line in which it was refused."""
    try:
        read()
    except InputError as error:
        told = str(error)
    else:
        return ""
    assert len(told.splitlines()) == 1
    assert told.encode()
    return told


def places(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a document."""
    found = [above]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += places(item, (*above, key))
    return found


KINDS = (
    "record",
    "accepted",
    "index",
    "pictures",
    "noise",
    "manifest",
    "model",
    "shards",
    "config",
    "verdict",
)


def test_what_is_whole_is_read(stored: dict[str, Stored]) -> None:
    assert [kind for kind in KINDS if outcome(stored[kind].read)] == ["shards"]  # it has no shard beside it


@pytest.mark.parametrize("kind", KINDS)
@few
@given(data=st.data())
def test_any_value_anywhere_is_read_or_refused(
    kind: str, stored: dict[str, Stored], data: st.DataObject
) -> None:
    one = stored[kind]
    whole = one.file.read_text("utf-8")
    changed = copy.deepcopy(json.loads(whole))
    path = data.draw(st.sampled_from(places(changed)))
    value = data.draw(values)
    if path:
        at = changed
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value
    else:
        changed = value
    try:
        one.file.write_text(json.dumps(changed), "utf-8")
        outcome(one.read)
    finally:
        one.file.write_text(whole, "utf-8")


@pytest.mark.parametrize("kind", KINDS)
@few
@given(content=st.binary(max_size=200))
def test_any_bytes_are_refused(kind: str, stored: dict[str, Stored], content: bytes) -> None:
    one = stored[kind]
    whole = one.file.read_bytes()
    try:
        one.file.write_bytes(content)
        assert kind == "shards" or one.file.name in outcome(one.read)
    finally:
        one.file.write_bytes(whole)


@few
@given(content=st.binary(max_size=200))
@example(content=b"schema = 1\n[gates.a.limits]\n")
def test_any_bytes_are_no_recipe_and_no_suite(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.toml"
    file.write_bytes(content)
    assert "a.toml" in outcome(lambda: find_recipe(file))
    assert "a.toml" in outcome(lambda: find_suite(file))


@few
@given(content=st.binary(max_size=200), length=st.integers(0, 300))
def test_any_bytes_are_weights_or_refused(tmp_path: Path, content: bytes, length: int) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(length.to_bytes(8, "little") + content)
    outcome(lambda: weights_hash(file))
    with pytest.raises(ErnieQAError):
        read_cached(file)


@given(values)
def test_what_json_can_hold_is_read_as_it_is(value: Any) -> None:
    assert json.dumps(parse_json(json.dumps(value))) == json.dumps(json.loads(json.dumps(value)))


def test_depth_and_repeated_keys_are_bounded(tmp_path: Path) -> None:
    assert parse_json("[" * 64 + "]" * 64)
    for text, message in (
        ("[" * 66 + "]" * 66, "nested more than 64 deep"),
        ("[" * 10**6, "nested more than 64 deep"),
        ('{"a": {"b": 1, "b": 2}}', 'the key "b" is there twice'),
    ):
        with pytest.raises(ValueError, match=message):
            parse_json(text)
    (tmp_path / "a.json").write_text('{"b": 1, "b": 1}')
    assert "the key" in outcome(lambda: read_json(tmp_path / "a.json", InputError))
