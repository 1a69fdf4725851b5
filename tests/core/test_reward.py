"""The algebra of rewards."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fairlead.core.algebra import Constant, rank_mean
from fairlead.core.cost import INFINITE, Meter, Unmetered
from fairlead.core.errors import RewardError
from fairlead.core.function import Function
from fairlead.core.pictures import as_float
from fairlead.core.reward import PairwiseReward, Reward

IMAGES = torch.linspace(0, 1, 4 * 3 * 2 * 2).view(4, 3, 2, 2)
WORDS = ["a"] * 4


class Channel(Reward):
    """Mean of one channel; counts the images it saw."""

    differentiable = True

    def __init__(self, channel: int, name: str = "channel") -> None:
        self.channel, self.name, self.seen = channel, name, []  # type: ignore[var-annotated]

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        self.seen.append(len(images))
        return images[:, self.channel].mean((1, 2))


numbers = st.floats(-3, 3, allow_nan=False, width=32)


def formulas() -> Any:
    """(build from three leaves, the same with plain tensors)."""
    leaf = st.sampled_from([0, 1, 2]).map(lambda i: (lambda v: v[i], lambda v: v[i]))
    number = numbers.map(lambda c: (lambda v: c, lambda v: torch.full((4,), c)))

    def combine(children: Any) -> Any:
        pair = st.tuples(children, children)
        return st.one_of(
            pair.map(lambda p: (lambda v: p[0][0](v) + p[1][0](v), lambda v: p[0][1](v) + p[1][1](v))),
            pair.map(lambda p: (lambda v: p[0][0](v) * p[1][0](v), lambda v: p[0][1](v) * p[1][1](v))),
            pair.map(lambda p: (lambda v: p[0][0](v) - p[1][0](v), lambda v: p[0][1](v) - p[1][1](v))),
            children.map(lambda p: (lambda v: -p[0](v), lambda v: -p[1](v))),
        )

    return st.recursive(st.one_of(leaf, number), combine, max_leaves=6)


@settings(max_examples=60)
@given(formulas())
def test_a_formula_is_arithmetic(formula: Any) -> None:
    leaves = [Channel(i, f"c{i}") for i in range(3)]
    reward = formula[0](leaves)
    if not isinstance(reward, Reward) or not reward.leaves():
        return
    total, terms = reward(IMAGES, WORDS)
    values = [IMAGES[:, i].mean((1, 2)) for i in range(3)]
    torch.testing.assert_close(total.expand(4), formula[1](values), rtol=1e-4, atol=1e-4)
    for leaf in reward.leaves():
        assert leaf.seen == [4], "a leaf used twice is scored once"  # type: ignore[attr-defined]
        assert torch.equal(terms[leaf.name], values[leaf.channel])  # type: ignore[attr-defined]


def test_leaves_terms_and_names() -> None:
    a, b = Channel(0, "a"), Channel(1, "a")
    reward = 2 * a + b * a + 1
    assert [leaf.channel for leaf in reward.leaves()] == [0, 1]  # type: ignore[attr-defined]
    assert reward.labels() == ["a", "a_2"]
    assert (2 * (a + b)).name == "2 * (a + a)"
    assert reward.differentiable
    b.differentiable = False
    assert not (a + b).differentiable


def test_metering_a_copy_leaves_the_original_alone() -> None:
    a = Channel(0)
    reward = a + a * a
    first, second = reward.copy(), reward.copy()
    meters = Meter(), Meter()
    first.meter(meters[0])
    second.meter(meters[1])
    reward(IMAGES, WORDS)
    with meters[1].grant(INFINITE):
        second(IMAGES, WORDS)
        with pytest.raises(Unmetered):
            first(IMAGES, WORDS)
    assert (meters[0].spent.scores, meters[1].spent.scores) == (0, 4)
    assert first.leaves()[0].seen is a.seen, "copies share what the leaf holds"  # type: ignore[attr-defined]


@pytest.mark.parametrize("value", [torch.zeros(3), torch.zeros(4, 1), torch.tensor(0.0), "high", None, [[1.0]] * 4])
def test_wrong_shapes_are_named(value: Any) -> None:
    with pytest.raises((RewardError, TypeError, ValueError)) as told:
        Function(lambda images, prompts: value)(IMAGES, WORDS)
    if isinstance(value, Tensor | list):
        assert isinstance(told.value, RewardError)
        assert "4 images" in str(told.value)


def test_functions_may_return_lists_and_arrays() -> None:
    import numpy as np

    def halves(images: Tensor, prompts: Sequence[str]) -> Any:
        return np.full(len(images), 0.5)

    total, terms = Function(halves)(IMAGES, WORDS)
    assert total.dtype == torch.float32
    assert total.tolist() == [0.5] * 4
    assert list(terms) == ["halves"]
    assert Function(lambda images, prompts: [1, 2, 3, 4])(IMAGES, WORDS)[0].tolist() == [1, 2, 3, 4]
    with pytest.raises(RewardError, match="not callable"):
        Function(3)  # type: ignore[arg-type]


def test_a_reward_that_writes_to_its_images_is_refused() -> None:
    """What it changed would be saved, and seen by the next reward."""

    def careless(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return images.mul_(2).mean((1, 2, 3))

    with pytest.raises(RewardError, match=r"'careless' wrote to its images"):
        Function(careless)(IMAGES.clone(), WORDS)


@pytest.mark.parametrize("formula", [lambda r: r, lambda r: r + 1.0, lambda r: rank_mean(r, r), lambda r: 3e38 * r])
def test_infinity_is_a_failure(formula: Callable[[Reward], Reward]) -> None:
    """+inf would win every comparison; -inf is a number, the worst there is. Also where the formula overflows."""
    reward = formula(Function(lambda images, prompts: torch.tensor([1.0, math.inf, -math.inf, 100.0])))
    total, terms = reward(torch.rand(4, 3, 4, 4), [""] * 4)
    (term,) = terms.values()
    assert term.isnan().tolist() == [False, True, False, False]
    assert not (total == math.inf).any()
    assert bool(total[1].isnan())
    back = reward.from_terms([{name: float(v[i]) for name, v in terms.items()} for i in range(4)])
    assert torch.equal(back.nan_to_num(-9), total.nan_to_num(-9))


def test_nan_stays_with_its_image() -> None:
    def third(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.tensor([0.0, 1.0, float("nan"), 2.0])

    total, _ = (Function(third) * 0 + Channel(0))(IMAGES, WORDS)
    assert total.isnan().tolist() == [False, False, True, False]


def test_constant() -> None:
    assert Constant(2).score(IMAGES, WORDS).tolist() == [2.0] * 4
    assert Constant(2).leaves() == []


@pytest.mark.parametrize(("value", "fine"), [(1 + 4e-4, True), (-4e-4, True), (1.01, False), (-0.01, False)])
def test_pixels_may_miss_the_range_by_rounding(value: float, fine: bool) -> None:
    images = IMAGES.clone()
    images[0, 0, 0, 0] = value
    if fine:
        Channel(0)(images, WORDS)
        return
    with pytest.raises(RewardError, match="Pixels run from"):
        Channel(0)(images, WORDS)


class Ranked(PairwiseReward):
    """Each picture's mean, and its place among its rivals."""

    name = "ranked"

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return images.mean((1, 2, 3))

    def rank(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.arange(len(images)).float()


def test_pictures_are_ranked_only_among_rivals() -> None:
    alone, _ = Ranked()(IMAGES, WORDS)
    together, _ = Ranked()(IMAGES, WORDS, rivals=True)
    assert alone.tolist() == pytest.approx(IMAGES.mean((1, 2, 3)).tolist())
    assert together.tolist() == [0, 1, 2, 3]


def test_whole_numbers_are_not_taken_for_a_picture() -> None:
    """As floats, 8-bit values would look like a picture 255 times too bright."""
    bytes_ = (IMAGES * 255).to(torch.uint8)
    assert as_float(bytes_) is bytes_
    with pytest.raises(RewardError, match=r"torch\.uint8.*divide 8-bit values by 255"):
        Channel(0)(bytes_, WORDS)
