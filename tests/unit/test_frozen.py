import pickle
import re
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_qa.frozen import MAX_DEPTH, Frozen, digest, freeze, thaw

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


@given(json_values)
def test_freezing_keeps_every_json_value(value):
    assert thaw(freeze(value)) == value
    assert digest(freeze(value)) == digest(value)


def test_frozen_values_cannot_be_changed_and_can_be_pickled():
    source = {"a": {"b": [1, 2]}}
    frozen = freeze(source)
    source["a"]["b"].append(3)
    assert frozen["a"]["b"] == (1, 2)
    with pytest.raises(TypeError):
        frozen["a"]["c"] = 1
    copy = pickle.loads(pickle.dumps(frozen))
    assert isinstance(copy, Frozen)
    assert copy == frozen


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [0.0, float("nan")]}, "figures.a[1]: nan is not a finite number"),
        ({"a": float("-inf")}, "figures.a: -inf is not a finite number"),
        ({"a": 2**63}, "figures.a: a whole number of more than 64 bits"),
        ({"a": {1: 2}}, "figures.a: the key 1 is not text"),
        ({"a": {1, 2}}, "figures.a: set is not a value that JSON can hold"),
        ({"a": date(2026, 1, 1)}, "figures.a: date is not a value that JSON can hold"),
    ],
)
def test_what_json_cannot_hold_is_refused_with_its_place(value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        freeze(value, "figures")


def test_depth_is_bounded():
    value = 1
    for _ in range(MAX_DEPTH + 1):
        value = [value]
    with pytest.raises(ValueError, match="nested more than 32 deep"):
        freeze(value)


def test_the_digest_does_not_depend_on_order_but_on_type():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"a": 1}) != digest({"a": 1.0})
    assert digest([1, 2]) != digest([2, 1])
