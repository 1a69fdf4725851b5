"""Every pair that cannot go together, one by one: its own check refuses it, and no other check does."""

from __future__ import annotations

from typing import Any

import pytest

from fairlead.core.errors import FairleadError
from fairlead.run import compatibility as c
from fairlead.run import models, setup
from fairlead.run.spec import make_spec

MIXTURE = {"model": "mixture", "reward": "brightness", "steps": 4}

ONCE_BUILT: list[tuple[c.PairCheck, dict[str, Any], str]] = [
    (
        c.gradient_search_with_reward_without_gradient,
        {"search": "adam", "reward": "jpeg_size"},
        "adam needs gradients, but reward 'jpeg_size' has none",
    ),
    (
        c.ranking_reward_with_steering_that_scores_alone,
        {"steer": "lidar", "reward": "rank_mean(brightness, jpeg_size)"},
        "ranks the candidates of a run, but the steering lidar needs the reward of a single picture",
    ),
    (
        c.ranking_reward_with_gradient_search,
        {"search": "adam", "reward": "rank_mean(brightness, brightness + 1)"},
        "ranks the candidates of a run, but the search adam needs the gradient",
    ),
    (
        c.ordering_reward_with_steering_that_scores_alone,
        {"steer": "lidar", "reward": "pairwise_judge(model='m', base_url='http://localhost:1')"},
        "pairwise_judge orders pictures that compete inside a steering, but lidar needs",
    ),
    (
        c.ranking_reward_with_drafts,
        {"draft": 2, "reward": "rank_mean(brightness, jpeg_size)"},
        "drafts cannot be ranked against full pictures",
    ),
    (c.person_with_drafts, {"draft": 2, "reward": "human"}, "human asks a person, whose answers about drafts"),
    (
        c.sibling_drafts_with_control,
        {"draft": "mixture", "steer": "lidar"},
        "Drafts by mixture would not be controlled by lidar",
    ),
    (
        c.peek_with_control,
        {"draft": "peek(3)", "steps": 6, "steer": "lidar"},
        "which does not hold what lidar remembers",
    ),
    (
        c.peek_with_sampler_that_remembers,
        {"model": "pocket-unet", "draft": "peek(3)", "steps": 6, "sampler": "scheduler"},
        "the sampler 'scheduler' remembers more than that",
    ),
    (
        c.bank_of_drafts_without_drafts,
        {"steer": "lidar(bank='drafts')"},
        "lidar.bank is 'drafts' but this run has no drafts",
    ),
    (
        c.sibling_drafts_with_stochastic_sampler,
        {"draft": "mixture", "sampler": "ancestral"},
        "but ancestral adds noise at every step",
    ),
    (
        c.short_drafts_with_early_prediction,
        {"draft": "mixture", "reward": "self_verifier"},
        "its own early prediction, which drafts by mixture lack",
    ),
    (
        c.person_with_steering_that_cannot_ask,
        {"steer": "lidar", "reward": "human"},
        "human asks a person, but the steering lidar cannot ask",
    ),
    (
        c.stochastic_steering_with_deterministic_sampler,
        {"steer": "feynman_kac", "group": 2},
        "feynman_kac needs a stochastic sampler, but euler adds no noise",
    ),
    (
        c.gradient_steering_with_reward_without_gradient,
        {"steer": "reward_gradient", "reward": "jpeg_size"},
        "reward_gradient follows the gradient of the reward, but 'jpeg_size' has none",
    ),
    (
        c.steering_whose_decision_is_overridden,
        {"steer": ["svdd", "lidar"], "sampler": "ancestral"},
        "svdd decides where every sample goes, so the cost of lidar would be wasted",
    ),
    (
        c.adapting_steering_with_one_that_looks_ahead,
        {"steer": ["date", "svdd"], "sampler": "ancestral"},
        "date changes the prompt's embedding from step to step, but svdd predicts the next steps before that",
    ),
    (
        c.early_prediction_with_coupled_pictures,
        {"steer": "particle_guidance", "group": 2, "reward": "self_verifier"},
        "compares a picture with its own early prediction, but the steering or intervention of this run couples",
    ),
    (
        c.flat_rule_with_dependent_candidates,
        {"search": "evolution", "stop": "flat"},
        "stop is 'flat', which estimates the next picture from independent ones, but evolution proposes pictures",
    ),
    (
        c.stop_rule_with_ranking_reward,
        {"reward": "rank_mean(brightness, jpeg_size)", "until": "reward >= 1"},
        "ranks the candidates of a run, so its value changes as others join and cannot end the run",
    ),
]


def parts(words: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> setup.Setup:
    """The setup of a run before any check."""
    with monkeypatch.context() as patch:
        patch.setattr(setup, "check_compatibility", lambda parts: None)
        return setup.resolve(make_spec("a dog", **{**MIXTURE, **words}))


@pytest.mark.parametrize(("check", "words", "sentence"), ONCE_BUILT, ids=lambda x: getattr(x, "__name__", ""))
def test_a_pair_is_refused_by_its_own_sentence(
    check: c.PairCheck, words: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = parts(words, monkeypatch)
    said = check(built)
    assert said is not None
    assert sentence in said
    assert said.endswith(".")
    with pytest.raises(FairleadError):
        c.check_compatibility(built)
    for other, theirs, _ in ONCE_BUILT:
        if other is not check:
            assert check(parts(theirs, monkeypatch)) is None or shares(check, other), f"{check.__name__}: {theirs}"


def shares(a: c.PairCheck, b: c.PairCheck) -> bool:
    """A rank has no gradient either, so the example of one of these has both pairs."""
    return {a, b} == {c.gradient_search_with_reward_without_gradient, c.ranking_reward_with_gradient_search}


def test_every_check_has_its_example() -> None:
    assert [check for check, *_ in ONCE_BUILT] == list(c.ONCE_BUILT)
    assert [check for check, *_ in BEFORE_LOADING] == list(c.BEFORE_LOADING)


BEFORE_LOADING: list[tuple[c.BeforeLoading, dict[str, Any], str]] = [
    (
        c.intervention_without_sites,
        {"model": "pocket-unet", "intervene": "repulsion", "group": 2},
        "repulsion edits joint attention and 'pocket-unet' (StableDiffusion) has none",
    ),
    (
        c.gradients_with_offloaded_weights,
        {"model": "pocket", "search": "adam", "cpu_offload": "model"},
        "adam needs gradients, but cpu_offload='model' moves the weights away",
    ),
]


@pytest.mark.parametrize(("check", "words", "sentence"), BEFORE_LOADING, ids=lambda x: getattr(x, "__name__", ""))
def test_a_pair_is_refused_before_the_model_is_loaded(
    check: c.BeforeLoading, words: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "build", lambda *given, **named: pytest.fail("the model was loaded"))
    spec = make_spec("a dog", **{**MIXTURE, **words})
    said = check(spec, models.abilities(spec.model.name))
    assert said is not None
    assert sentence in said
    with pytest.raises(FairleadError, match=r"joint attention|cpu_offload"):
        models.check(spec)
    for other, _, _ in BEFORE_LOADING:
        assert other is check or other(spec, models.abilities(spec.model.name)) is None


@pytest.mark.parametrize("words", [{}, {"steer": ["lidar", "svdd"], "sampler": "ancestral"}, {"search": "adam"}])
def test_parts_that_go_together_pass(words: dict[str, Any]) -> None:
    setup.resolve(make_spec("a dog", **{**MIXTURE, **words}))
