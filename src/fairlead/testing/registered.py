"""The laws of an item by its registered name, whether it is built in or comes from an installed package."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from fairlead.core.errors import FairleadError
from fairlead.core.model import Model, Shape
from fairlead.models.mixture import Mixture
from fairlead.run import models, registry
from fairlead.run.part import Part
from fairlead.run.spec import make_spec
from fairlead.testing.interventions import intervention_laws
from fairlead.testing.rewards import reward_laws
from fairlead.testing.samplers import sampler_laws
from fairlead.testing.searches import search_laws
from fairlead.testing.spaces import space_laws
from fairlead.testing.steerings import steering_laws


def registered_laws(kind: str, name: str, model: Model | None = None, **settings: Any) -> None:
    """Find the item as a user would, by its kind and name, and check the laws of its kind.

    Args:
        kind: "rewards", "searches", "spaces", "samplers", "steerings" or "interventions".
        name: as registered, in `run/registry.py` or by an entry point in the group `fairlead.<kind>`.
        model: what to test on. The default is the mixture, and for interventions the embedded model.
        settings: of the item; needed where it has settings without a default.

    """
    suites: dict[str, Callable[[str, Model | None, dict[str, Any]], None]] = {
        "interventions": _intervention,
        "rewards": _reward,
        "samplers": _sampler,
        "searches": _search,
        "spaces": _space,
        "steerings": _steering,
    }
    if kind not in suites:
        raise FairleadError(f"There are no laws by name for {kind!r}: must be one of {', '.join(suites)}.")
    suites[kind](name, model, settings)


def lacking_settings(kind: str, name: str) -> list[str]:
    """Settings without a default, of items that take nothing but settings: such an item cannot be tested by its name
    alone.
    """
    make = registry.resolve(kind, name)
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in registry.parameters(make) if p.default is p.empty and p.kind not in free]


def _steering(name: str, model: Model | None, settings: dict[str, Any]) -> None:
    made = registry.resolve("steerings", name)
    off = made.switched_off

    def make() -> Any:
        return registry.build("steerings", Part(name, {**made.noticeable, **settings}))

    steering_laws(make, (lambda: registry.build("steerings", Part(name, {**settings, **off}))) if off else None, model)


def _intervention(name: str, model: Model | None, settings: dict[str, Any]) -> None:
    if model is None:
        spec = make_spec("a photo of a dog", model="pocket", reward="brightness")
        model = models.build(spec, device="cpu", dtype="float32")
    off = registry.resolve("interventions", name).switched_off
    weakest = registry.build("interventions", Part(name, {**settings, **off})) if off else None
    intervention_laws(registry.build("interventions", Part(name, settings)), model, weakest)


def _reward(name: str, model: Model | None, settings: dict[str, Any]) -> None:
    reward_laws(registry.build("rewards", Part(name, settings)))


def _search(name: str, model: Model | None, settings: dict[str, Any]) -> None:
    make = registry.resolve("searches", name)
    search_laws(lambda space, key: make(space, key, **settings))


def _space(name: str, model: Model | None, settings: dict[str, Any]) -> None:
    on = Mixture() if model is None else model
    conditioning = on.encode(["a dog"])
    _, t, d = conditioning.tokens.shape
    space_laws(registry.build("spaces", Part(name, settings), Shape(on.latent, (t, d), conditioning)), on)


def _sampler(name: str, model: Model | None, settings: dict[str, Any]) -> None:
    sampler_laws(registry.resolve("samplers", name), exact=name != "consistency")
