"""Policies resampled from a pool of candidates: what they choose, and what they spend."""

from __future__ import annotations

import numpy as np
import pytest
from experiments.drafts import policies
from experiments.drafts.pools import FLASH_DRAFT, FLASH_FINAL, PICTURE, Flash

from fairlead.core.key import Key

PRICES = {PICTURE: 1.0, "cheap": 0.1, "good": 0.25, FLASH_DRAFT: 0.25, FLASH_FINAL: 0.3}
ORDER = np.arange(64)


def rewards(noise: float) -> dict[str, np.ndarray]:
    """Pictures with drafts that have so much noise of their own."""
    key = Key.root(0)
    picture = key.fold("picture").normal(64).double().numpy()
    return {PICTURE: picture} | {
        kind: picture + noise * key.fold(kind).normal(64).double().numpy()
        for kind in ("cheap", "good", FLASH_DRAFT, FLASH_FINAL)
    }


@pytest.mark.parametrize(("r", "drafts"), [(0.6, 60), (0.99, 64)])
def test_with_a_perfect_draft_the_winner_is_the_best_of_all_drafts(r: float, drafts: int) -> None:
    """12 pictures: six finals and 60 drafts, or one final and more drafts than there are."""
    table = rewards(0.0)
    found = policies.drafting("cheap", r)(table, PRICES, ORDER, 12.0)
    assert found is not None
    assert found.candidate == int(np.argmax(table[PICTURE][:drafts]))


@pytest.mark.parametrize("budget", [3.0, 5.5, 8.0])
def test_no_policy_exceeds_its_budget(budget: float) -> None:
    chain = policies.rungs(("cheap", "good"), (0.5, 0.8))
    for policy in (policies.best_of, policies.drafting("good", 0.6), chain, policies.flash, policies.flash_by_finals):
        found = policy(rewards(0.5), PRICES, ORDER, budget)
        assert found is not None
        assert found.spent <= budget + 1e-9


def test_a_draft_that_is_known_to_say_nothing_is_not_used() -> None:
    table = rewards(0.5)
    assert policies.drafting("good", 0.0)(table, PRICES, ORDER, 8.0) == policies.best_of(table, PRICES, ORDER, 8.0)
    spoiled = policies.useless(table, "good", Key.root(1))
    assert sorted(spoiled["good"]) == sorted(table["good"])
    assert abs(policies.rank_correlation(spoiled["good"], table[PICTURE])) < 0.3
    assert policies.rank_correlation(table["good"], table[PICTURE]) > 0.7


def test_the_schedule_of_flash_bon() -> None:
    """Specification 2.3: 12 of 50 steps are computed, and the last 15 of a refined picture."""
    paper = Flash(50)
    assert len(paper.draft) - 1 == 12
    assert paper.draft[:5] == [0, 1, 2, 4, 9]
    assert paper.resumed == 35
    assert paper.final[-16:] == list(range(35, 51))
    assert len(set(paper.final)) == len(paper.final)
    assert Flash(20).draft == [0, 2, 7, 12, 17, 20]
