"""Nodes of a formula against their definitions, on numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fairlead.core import algebra
from fairlead.core.algebra import Constant, make, minimum, rank_mean, ranks, veto, zscore
from fairlead.core.errors import FairleadError
from fairlead.core.function import Function
from fairlead.core.reward import Reward

PICTURES = torch.rand(4, 3, 2, 2)


def of(*values: float, name: str = "f") -> Reward:
    """A reward with these values."""
    one = Function(lambda images, prompts: list(values))
    one.name = name
    return one


def total(reward: Reward, n: int = 4) -> list[float]:
    out: Tensor = reward(PICTURES[:n], [""] * n)[0]
    return out.tolist()


def test_ranks_count_from_the_highest_and_ties_share() -> None:
    assert ranks(torch.tensor([5.0, 9.0, 5.0, 1.0])).tolist() == [2.5, 1.0, 2.5, 4.0]
    assert ranks(torch.tensor([3.0])).tolist() == [1.0]


def test_rank_mean_is_the_share_of_others_beaten() -> None:
    a, b = of(1, 2, 3, 4, name="a"), of(40, 10, 20, 30, name="b")
    assert total(rank_mean(a)) == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert total(rank_mean(a, b)) == pytest.approx([0.5, 1 / 6, 0.5, 5 / 6])
    assert total(rank_mean(of(7)), 1) == [0.5], "alone"
    holes = total(rank_mean(of(1, math.nan, 3, 4), of(1, 2, math.nan, 0)))
    assert [math.isnan(v) for v in holes] == [False, True, True, False]
    assert [holes[0], holes[3]] == pytest.approx([0.5, 0.5])
    assert rank_mean(a).relative
    assert not rank_mean(a).differentiable
    assert rank_mean(a, b).name == "rank_mean(a, b)"


def test_nodes_are_their_definitions() -> None:
    a, b = of(1, 2, 3, 4, name="a"), of(2, 1, 8, 2, name="b")
    assert total(minimum(a, b)) == [1, 1, 3, 2]
    assert total(zscore(a, 2.0, 4.0)) == [-0.25, 0, 0.25, 0.5]
    assert total(a / 4) == [0.25, 0.5, 0.75, 1]
    assert total(a - b) == [-1, 1, -5, 2]
    assert total(1 - a) == [0, -1, -2, -3]
    assert total(2 * a * b + 1) == [5, 5, 49, 17]
    assert [(2 * (a + b)).name, (a / 4).name, minimum(a, b).name] == ["2 * (a + b)", "(a) / 4", "min(a, b)"]
    assert zscore(a, 2.0, 4.0).name == "zscore(a)"
    assert [one.name for one in (2 * a * b).leaves()] == ["a", "b"]


@pytest.mark.parametrize(
    ("sign", "holds"), [(">", [0, 0, 1, 0]), (">=", [0, 1, 1, 0]), ("<", [1, 0, 0, 0]), ("<=", [1, 1, 0, 0])]
)
def test_conditions(sign: str, holds: list[float]) -> None:
    values = of(1, 2, 3, math.nan)
    condition = make(sign, (values, Constant(2.0)))
    assert total(condition) == holds
    assert condition.name == f"(f {sign} 2)"
    assert not condition.differentiable
    kept = total(veto(of(5, 6, 7, 8), condition, -1.0))
    assert kept == [v if h else -1.0 for v, h in zip([5, 6, 7, 8], holds, strict=True)]
    assert [math.isnan(v) for v in total(veto(of(5, 6, 7, 8), condition))] == [not h for h in holds]


def test_what_cannot_be_written_is_one_sentence() -> None:
    with pytest.raises(FairleadError, match="divide by a number"):
        of(1) / of(2)  # type: ignore[operator]
    with pytest.raises(FairleadError, match="other than zero"):
        of(1) / 0
    with pytest.raises(FairleadError, match=r"zscore.std is 0: must be > 0"):
        zscore(of(1), 0.0, 0.0)
    with pytest.raises(FairleadError, match="compare a reward with a number"):
        make(">", (of(1), of(2)))


def test_what_is_watched_cannot_move_the_target() -> None:
    target, other = of(1, 2, 3, 4, name="t"), of(4, 3, 2, 1, name="o")
    both = algebra.Watched(target, {"seen": other * 2})
    assert total(both) == [1, 2, 3, 4]
    assert both.labels() == ["t", "seen"]
    assert both(PICTURES, [""] * 4)[1]["seen"].tolist() == [8, 6, 4, 2]
    assert both.optimised is target
