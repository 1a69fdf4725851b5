"""Vendi scores of known spectra, and the greedy choice against determinants."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fairlead.core.diverse import kernel, pick, standard, vendi
from fairlead.core.errors import FairleadError
from fairlead.core.key import Key

KEY = Key.root(3)


def blocks(*sizes: int) -> Tensor:
    """Pictures that are equal within a block and have nothing in common between blocks."""
    return torch.block_diag(*[torch.ones(n, n) for n in sizes])


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        (0.0, 3.0),
        (0.5, (0.5**0.5 + 2 * 0.25**0.5) ** 2),
        (1.0, 2**1.5),
        (2.0, 1 / 0.375),
        (math.inf, 2.0),
    ],
)
def test_vendi_is_the_exponential_of_renyis_entropy(q: float, expected: float) -> None:
    """Shares of 1/2, 1/4 and 1/4; the order 0 counts the kinds."""
    assert float(vendi(blocks(4, 2, 2), q)) == pytest.approx(expected)
    assert float(vendi(3 * blocks(4, 2, 2), q)) == pytest.approx(expected), "eigenvalues are made to sum to 1"
    both = vendi(torch.stack([blocks(4, 2, 2), blocks(8)]), q)
    assert both.tolist() == pytest.approx([expected, 1.0])


@pytest.mark.parametrize("q", [-1.0, math.nan])
def test_an_order_is_not_negative(q: float) -> None:
    with pytest.raises(FairleadError, match="must be a number >= 0"):
        vendi(blocks(2), q)


def test_cosines() -> None:
    x = torch.tensor([[3.0, 4.0], [6.0, 8.0], [-4.0, 3.0], [0.0, 0.0]])
    expected = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(kernel(x), expected, atol=1e-12, rtol=0)
    x[1, 0] = math.nan
    with pytest.raises(FairleadError, match="of 1 of 4 pictures are not finite"):
        kernel(x)


def greedy(k: Tensor, quality: Tensor, n: int) -> list[int]:
    """The definition: always the index with the largest determinant."""
    l_matrix = k * torch.outer(quality.exp(), quality.exp())
    chosen: list[int] = []
    for _ in range(n):
        open_ = [i for i in range(len(k)) if i not in chosen and bool(quality[i].isfinite())]
        chosen.append(max(open_, key=lambda i: float(torch.linalg.det(l_matrix[[*chosen, i]][:, [*chosen, i]]))))
    return chosen


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0, 5.0])
def test_the_choice_is_greedy_in_the_determinant(weight: float) -> None:
    k = kernel(KEY.normal(9, 12))
    quality = weight * KEY.fold("quality").normal(9).double()
    quality[4] = math.nan
    chosen = pick(k, quality, 6)
    assert chosen == greedy(k, quality, 6)
    assert len(set(chosen)) == 6
    assert 4 not in pick(k, quality, 8)


def test_what_cannot_be_chosen_is_refused() -> None:
    quality = torch.tensor([0.0, math.nan, 1.0])
    assert sorted(pick(torch.eye(3), quality, 2)) == [0, 2]
    for n in (0, 3):
        with pytest.raises(FairleadError, match="keep from 1 to 2"):
            pick(torch.eye(3), quality, n)


def test_twins_come_last_and_the_earlier_of_equals_first() -> None:
    assert pick(blocks(2, 2, 1), torch.zeros(5), 3) == [0, 2, 4]
    assert pick(torch.eye(4), torch.tensor([0.0, 1.0, 1.0, 0.5]), 4) == [1, 2, 3, 0]


def test_standard_deviations() -> None:
    r = torch.tensor([1.0, math.nan, 3.0, 8.0])
    out = standard(r)
    assert math.isnan(float(out[1]))
    known = out[out.isfinite()]
    assert float(known.mean()) == pytest.approx(0)
    assert float(known.square().mean()) == pytest.approx(1)
    torch.testing.assert_close(
        known[2] - known[0], torch.tensor(7.0).double() / known.new_tensor([1, 3, 8]).std(correction=0)
    )
    assert standard(torch.tensor([2.0, 2.0])).tolist() == [0, 0]
