"""What a steering or an intervention declares about itself: checked when the class is defined and when it is
registered.
"""

from __future__ import annotations

from typing import Any

import pytest

from fairlead.core.errors import FairleadError
from fairlead.core.intervention import Intervention
from fairlead.core.reward import EarlyReward, Reward
from fairlead.core.steering import CHOICES, Steering, Step
from fairlead.run import registry


class Plain(Steering):
    def __call__(self, step: Step) -> Step:
        return step


class NotASteering:
    """Has the right methods, but declares nothing."""

    def __call__(self, step: Step) -> Step:
        return step


def test_defaults_declare_nothing() -> None:
    plain = Plain()
    assert (plain.compares, plain.asks, plain.decides, plain.stochastic, plain.differentiates) == (
        False,
        False,
        None,
        False,
        False,
    )
    assert (plain.needs_company, plain.adaptive, plain.couples, plain.siblings, plain.least_moves) == (
        False,
        False,
        False,
        (),
        0,
    )
    assert plain.grid([], lambda steps: []) == []
    assert plain.prepare(None) is plain  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("compare", True, "Did you mean 'compares'"),
        ("stochastik", True, "Did you mean 'stochastic'"),
        ("gridd", lambda self, levels, schedule: levels, "Did you mean 'grid'"),
        ("fancy", True, "not a known capability"),
        ("decides", "everything", "must be one of None, 'noise', 'rows', 'state'"),
        ("adaptive", "yes", "must be one of False, True"),
    ],
)
def test_a_misspelt_capability_is_an_error(name: str, value: Any, message: str) -> None:
    with pytest.raises(FairleadError, match=message):
        type("Mine", (Steering,), {name: value, "__call__": lambda self, step: step})


@pytest.mark.parametrize("name", [name for name, values in CHOICES.items() if values == (False, True)])
def test_a_capability_is_there_or_not(name: str) -> None:
    for value in (False, True):
        made = type("Mine", (Steering,), {name: value, "__call__": lambda self, step: step})
        assert getattr(made, name) is value


def test_capabilities_are_these() -> None:
    assert {name for name, values in CHOICES.items() if values == (False, True)} == set(CHOICES) - {"decides"}
    assert CHOICES["decides"] == (None, "noise", "rows", "state")
    assert (Plain.adapts, Plain().beside) == (False, None)


def test_a_capability_is_not_a_setting() -> None:
    with pytest.raises(FairleadError, match="couples is written as a setting"):
        type("Mine", (Steering,), {"__annotations__": {"couples": "bool"}, "couples": True})


def test_the_place_of_an_intervention() -> None:
    with pytest.raises(FairleadError, match="must be one of 'block', 'attention', 'prompt'"):
        type("Mine", (Intervention,), {"place": "blocks"})
    assert type("Mine", (Intervention,), {"place": "attention"}).place == "attention"


def test_only_subclasses_can_be_registered(register: Any) -> None:
    register("steerings", "test_nothing", "test_steering:NotASteering")
    with pytest.raises(FairleadError, match=r"must be a subclass of fairlead\.core\.steering\.Steering"):
        registry.resolve("steerings", "test_nothing")


def test_rewards_are_checked_alike() -> None:
    with pytest.raises(FairleadError, match="Did you mean 'needs_prompt'"):
        type("Mine", (Reward,), {"need_prompt": False})
    for name in ("level", "rank", "asks", "dollars"):
        with pytest.raises(FairleadError, match=r"no effect in a plain Reward: extend \w+Reward"):
            type("Mine", (Reward,), {name: 1})
    assert type("Mine", (EarlyReward,), {"level": 0.4, "anything": 3}).level == 0.4
