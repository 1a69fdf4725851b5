"""What every search of generations inherits."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from fairlead.core.errors import RewardError, unknown
from fairlead.core.key import Key
from fairlead.core.pictures import check_images
from fairlead.core.search import Feedback, Generations, Proposal
from fairlead.core.twins import steps_itself
from fairlead.testing.searches import Plain


class Three(Generations):
    """Three draws a generation, for two generations."""

    def __init__(self) -> None:
        super().__init__()
        self.learnt: list[int] = []

    def propose(self) -> list[Proposal]:
        keys = [Key.root(self.made + i) for i in range(3 if len(self.learnt) < 2 else 0)]
        return [Proposal(Plain(4).draw(key), key) for key in keys]

    def learn(self, generation: list[Feedback]) -> None:  # type: ignore[override]
        self.learnt.append(len(generation))


@pytest.mark.parametrize("piece", [1, 2, 3, 7])
def test_only_a_whole_generation_is_learnt_from_whatever_the_pieces(piece: int) -> None:
    search = Three()
    keys = []
    while asked := search.ask(piece):
        assert len(asked) <= piece
        keys += [p.key for p in asked]
        search.tell([Feedback(p, 0.0, {}) for p in asked])
    assert keys == [Key.root(i) for i in range(6)]
    assert (search.learnt, search.made) == ([3, 3], 6)


def test_it_asks_for_no_gradient_unless_it_says_so() -> None:
    assert not Three().wants_gradient


def test_an_unknown_name_begins_a_sentence() -> None:
    assert str(unknown("search", "best_off", ["best_of"])).startswith("Search 'best_off' is unknown")


@pytest.mark.parametrize(
    ("scheduler", "can"),
    [
        ("EulerDiscreteScheduler", True),
        ("DPMSolverSDEScheduler", False),
        ("SCMScheduler", False),
        ("NoSuchScheduler", False),
    ],
)
def test_which_schedulers_take_the_steps_of_a_run_themselves(scheduler: str, can: bool) -> None:
    assert steps_itself(scheduler, {}) is can


def test_pndm_only_without_its_runge_kutta_start() -> None:
    assert steps_itself("PNDMScheduler", {"skip_prk_steps": True})
    assert not steps_itself("PNDMScheduler", {})


def test_a_pixel_may_leave_its_range_by_rounding_only() -> None:
    for value, fails in ((1.0009, False), (1.0015, True), (-0.0009, False), (-0.0015, True)):
        refused = pytest.raises(RewardError, match="Pixels run") if fails else nullcontext()
        with refused:
            check_images(torch.full((1, 3, 2, 2), value), ["a dog"])
