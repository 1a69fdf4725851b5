"""Damping of the token mean: what it refuses, and in which steps it acts."""

from __future__ import annotations

import pytest

from fairlead.core.errors import FairleadError
from fairlead.core.model import Level, Site, whole
from fairlead.interventions.token_mean_damping import TokenMeanDamping


@pytest.mark.parametrize("until", [-0.1, 1.5, float("nan"), "half"])
def test_a_share_outside_its_range_is_refused(until: object) -> None:
    with pytest.raises(FairleadError, match=r"token_mean_damping\.until"):
        TokenMeanDamping(until=until)  # type: ignore[arg-type]


def test_it_acts_in_the_first_share_of_the_steps() -> None:
    damping = TokenMeanDamping(strength=0.5, until=0.5)
    site = Site("blocks.0", "joint", 0)
    acts = [damping.wants(site, whole(1, Level(0.5, 0.5), step=step, steps=10)) for step in range(10)]
    assert acts == [True] * 5 + [False] * 5
