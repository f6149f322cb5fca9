"""How far two outputs are apart: the definitions, on numbers that can be worked out by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ernie_qa.fidelity.components import cosine, divergence, gain, relative_l2, tokens

VALUES = st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=8)


def test_relative_error_by_hand() -> None:
    assert relative_l2(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 5.0])) == pytest.approx(math.sqrt(10) / 5)
    assert relative_l2(torch.zeros(2), torch.zeros(2)) == 0.0
    assert relative_l2(torch.ones(2), torch.zeros(2)) == math.inf


def test_cosine_by_hand() -> None:
    assert cosine(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]])) == pytest.approx(math.sqrt(0.5))
    assert cosine(torch.tensor([1.0, 2.0]), torch.tensor([-2.0, -4.0])) == pytest.approx(-1.0)
    assert (cosine(torch.zeros(2), torch.zeros(2)), cosine(torch.ones(2), torch.zeros(2))) == (1.0, 0.0)


def test_each_token_by_itself() -> None:
    bf16 = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    errors, cosines = tokens(torch.tensor([[1.0, 0.0], [2.0, 2.0]]), bf16)
    assert errors == [0.0, 1.0]
    assert cosines == [pytest.approx(1.0), pytest.approx(math.sqrt(0.5))]


def test_divergence_by_hand_and_its_direction() -> None:
    half, quarter = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    (nats,), (same,) = divergence(quarter, half)
    assert nats == pytest.approx(0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75))
    assert divergence(half, quarter)[0][0] != pytest.approx(nats)
    assert not same
    # logits are known but for a constant
    assert divergence(half + 7, half)[0][0] == pytest.approx(0.0, abs=1e-12)


def test_a_scale_that_is_off_shows_in_the_gain_and_noise_does_not() -> None:
    generator = torch.Generator().manual_seed(0)
    bf16 = torch.randn(16, 512, generator=generator)
    noisy = bf16 + 0.08 * torch.randn(bf16.shape, generator=generator)
    assert gain(noisy, bf16) == pytest.approx(1.0, abs=0.003)
    assert gain(1.02 * noisy, bf16) == pytest.approx(1.02, abs=0.003)
    # the error itself hardly tells them apart
    assert relative_l2(1.02 * noisy, bf16) < 1.05 * relative_l2(noisy, bf16)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_the_worst_there_is(bad: float) -> None:
    ours, bf16 = torch.tensor([[1.0, bad]]), torch.ones(1, 2)
    assert relative_l2(ours, bf16) == math.inf
    assert cosine(ours, bf16) == -1.0
    assert divergence(torch.tensor([[1.0, math.nan]]), bf16)[0] == [math.inf]
    assert gain(ours, bf16) == math.inf


@given(VALUES)
def test_nothing_is_apart_from_itself(values: list[float]) -> None:
    whole = torch.tensor([values])
    assert (relative_l2(whole, whole), divergence(whole, whole)) == (0.0, ([0.0], [True]))
    assert cosine(whole, whole) == pytest.approx(1.0)
    assert gain(whole, whole) == pytest.approx(1.0)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="not of one shape"):
        relative_l2(torch.ones(2), torch.ones(1, 2))
