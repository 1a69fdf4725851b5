"""Laws that a planted bug names as `laws:NAME`, where the law is a suite of fairlead.testing and not one test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import items
from fairlead.core.errors import FairleadError
from fairlead.rewards.brightness import Brightness
from fairlead.run import registry
from fairlead.run.executor import Local
from fairlead.run.store import Store
from fairlead.testing import (
    intervention_laws,
    model_laws,
    resume_laws,
    reward_laws,
    sampler_laws,
    search_laws,
    store_laws,
)
from fairlead.testing.runs import small_spec


def scoring() -> None:
    reward_laws(2 * Brightness() + 1)


def walking() -> None:
    search_laws(items.Walk)


def ancestral_sampling() -> None:
    sampler_laws(registry.resolve("samplers", "ancestral"))


def models_of_the_mixture() -> None:
    model_laws(registry.resolve("models", "mixture")())


def flux_laws(tiny_flux: Callable[..., Any]) -> None:
    model_laws(tiny_flux(true_cfg_scale=3.0))


def damping(tiny_flux: Callable[..., Any]) -> None:
    make = registry.resolve("interventions", "token_mean_damping")
    intervention_laws(make(), tiny_flux(), make(strength=0.0))


def the_store(tmp_path: Path) -> None:
    store_laws(lambda folder, spec: Store.create(folder, spec, {}, "now"), Store.open, tmp_path / "run")


def resuming(tmp_path: Path) -> None:
    resume_laws(small_spec(), tmp_path)


def resuming_gradients(tmp_path: Path, register: Any) -> None:
    register("searches", "climb", "items:Climb")
    resume_laws(small_spec(search="climb", batch=2), tmp_path)


def cost_of_rivals() -> None:
    from test_rivals import RewardGradient, ValueDecoding, test_cost_per_sample_is_the_formula_and_the_price

    gradient = {"nfe": 10, "forwards": 10 + 9, "backwards": 9, "scores": 9}
    test_cost_per_sample_is_the_formula_and_the_price(RewardGradient(), gradient)
    children = {"nfe": 1 + 9 * 3, "forwards": 28, "backwards": 0, "scores": 9 * 3}
    test_cost_per_sample_is_the_formula_and_the_price(ValueDecoding(children=3), children)


def price_of_a_full_rollout() -> None:
    from test_demon import scoring_moves, test_cost_is_the_formula_and_the_price

    test_cost_is_the_formula_and_the_price({}, lambda beta: 2 * scoring_moves(beta, 20))


def a_budget_without_an_end() -> None:
    with pytest.raises(FairleadError, match="would never end"):
        Local(small_spec(budget={"backwards": 1.0})).check_budget()
