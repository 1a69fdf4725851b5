"""Spec -> Setup: everything that a run names, resolved once and then passed on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fairlead.core.errors import FairleadError
from fairlead.core.intervention import installed
from fairlead.core.model import Conditioning, Model, Shape, StartsFromPicture, Traceable, Warns
from fairlead.core.reward import FinalJudge, Reward
from fairlead.core.samplers import sampler_for
from fairlead.core.search import Search, Space
from fairlead.core.sibling import Sibling
from fairlead.core.steering import Chain
from fairlead.run import machine, models, registry
from fairlead.run.compatibility import Parts, check_compatibility
from fairlead.run.kept import once
from fairlead.run.rewards import build_final_judge, leaf_of_run, watched_reward
from fairlead.run.siblings import load_siblings
from fairlead.run.spec import Spec
from fairlead.run.start import search_key, started

ASKED_AT_ONCE = 256
"""Candidates that a search is asked for at once at most, so that memory does not grow with the budget."""


@dataclass(frozen=True)
class Setup(Parts):
    """A run ready to be sampled: its parts, its model, and what depends on the model."""

    model: Model
    siblings: Mapping[str, Sibling]
    """The other models that a steering uses, by their keys."""
    conditioning: Conditioning
    """One row: the prompt, encoded once."""
    space: Space
    final_judge: FinalJudge | None = None
    """Who chooses among the best finished pictures, if not the reward."""

    @property
    def warnings(self) -> list[str]:
        """Sentences that the user should read before trusting the pictures."""
        return models.warnings(self.spec)

    @property
    def model_warnings(self) -> list[str]:
        """Sentences that only the loaded model knows."""
        return self.model.warnings(self.spec.prompt, self.spec.sampler) if isinstance(self.model, Warns) else []


def search_class(spec: Spec) -> Any:
    """The registered search of a run."""
    return registry.resolve("searches", spec.search.name)


def make_search(spec: Spec, space: Space) -> Search:
    """The search of a run, from its seed."""
    search: Search = registry.build("searches", spec.search, space, search_key(spec))
    return search


def build_steering(spec: Spec) -> Chain:
    """The steerings of a run in their order, not yet prepared."""
    return Chain(tuple(registry.build("steerings", part) for part in spec.steering))


def shape_of(model: Model, conditioning: Conditioning) -> Shape:
    """What a space must know of a model that draws this prompt."""
    tokens = conditioning.tokens.shape
    return Shape(model.latent, (int(tokens[1]), int(tokens[2])), conditioning)


def _check_weights(setup: Setup) -> None:
    """Weights that were made in inference mode cannot be used where a gradient is computed."""
    differentiates = setup.wants_gradient or setup.steers_by_gradient
    if differentiates and isinstance(setup.model, Traceable) and any(w.is_inference() for w in setup.model.networks()):
        method = setup.spec.search.name if setup.wants_gradient else "The steering"
        raise FairleadError(
            f"{method} needs gradients, but the pipeline was loaded inside torch.inference_mode(), which forbids them. "
            "Load it outside, or choose a method without gradients."
        )


def resolve(
    spec: Spec,
    *,
    reward: Reward | None = None,
    model: Model | None = None,
    siblings: Mapping[str, Model] | None = None,
) -> Setup:
    """Build and load everything that `spec` names, and refuse parts that cannot be used together.

    `reward`, `model` and `siblings` are live objects in place of what the Spec names.
    """
    if model is None:
        device = machine.device()
        dtype = spec.model.settings.get("dtype") or machine.dtype(device)
        model = models.build(spec, device=device, dtype=dtype)
    if isinstance(model, StartsFromPicture):
        model.check_steps(spec.steps)
    reward = watched_reward(spec, leaf_of_run(spec), reward)
    steering = build_steering(spec)
    others = load_siblings(steering, spec, model, siblings or {})
    conditioning = once("prompt", (id(model), spec.prompt), lambda: model.encode([spec.prompt]))
    space = registry.build("spaces", spec.space, shape_of(model, conditioning))
    setup = Setup(
        spec=spec,
        reward=reward,
        steering=steering,
        interventions=tuple(registry.build("interventions", part) for part in spec.interventions),
        sampler=sampler_for(registry.resolve("samplers", spec.sampler), model),
        wants_gradient=bool(search_class(spec).wants_gradient),
        model=model,
        siblings=others,
        conditioning=conditioning,
        space=started(space, spec, model),
        final_judge=build_final_judge(spec),
    )
    check_compatibility(setup)
    _check_weights(setup)
    if setup.interventions:
        with installed(model, setup.interventions):  # an edit that does not fit is refused here
            pass
    return setup
