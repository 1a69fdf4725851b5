"""Which parts of a run cannot be used together: one function per pair, each with its sentence.

Every function returns the sentence if the run has the pair it is named after, else None.
To add a pair, write a function and put it into the list below. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fairlead.core.errors import FairleadError
from fairlead.run import registry, rungs
from fairlead.run.capabilities import JOINT_ONLY, Capabilities
from fairlead.run.records import REWARD
from fairlead.run.spec import Spec
from fairlead.run.stop_rules import read_until

if TYPE_CHECKING:
    from fairlead.core.intervention import Intervention
    from fairlead.core.reward import Reward
    from fairlead.core.samplers import Sampler
    from fairlead.core.steering import Chain


@dataclass(frozen=True)
class Parts:
    """The parts that a Spec names, built."""

    spec: Spec
    reward: Reward
    """What is optimised and what is watched."""
    steering: Chain
    interventions: tuple[Intervention, ...]
    sampler: Sampler
    wants_gradient: bool
    """True if the search needs gradients of the reward."""

    @property
    def couples(self) -> bool:
        """True if candidates of one group influence each other."""
        return self.steering.couples or any(part.couples for part in self.interventions)

    @property
    def steers_by_gradient(self) -> bool:
        """True if a steering needs gradients of the reward."""
        return any(part.differentiates for part in self.steering.parts)

    @property
    def scores_alone(self) -> str | None:
        """The steering that scores a picture by itself and not beside the ones it competes with."""
        names = zip(self.spec.steering, self.steering.parts, strict=True)
        return next((part.name for part, method in names if not method.compares), None)

    @property
    def controls_drafts(self) -> list[str]:
        """The names of what would have to act on drafts as it acts on finished pictures."""
        names = zip(self.spec.steering, self.steering.parts, strict=True)
        steering = [part.name for part, method in names if not method.learns_from_drafts]
        return steering + [part.name for part in self.spec.interventions]

    @property
    def early_levels(self) -> set[float]:
        """Noise levels whose predictions a reward compares with the finished picture."""
        from fairlead.core.reward import early_level

        return {level for leaf in self.reward.leaves() if (level := early_level(leaf)) is not None}

    @property
    def asks_a_person(self) -> bool:
        """True if a person gives a term of the reward."""
        from fairlead.core.reward import HumanReward

        return any(isinstance(leaf, HumanReward) for leaf in self.reward.leaves())


# before the model is loaded


def intervention_without_sites(spec: Spec, able: Capabilities | None) -> str | None:
    """An intervention edits joint attention; some networks have none."""
    if able is None or able.sites != 0 or not spec.interventions:
        return None
    name = spec.interventions[0].name
    family = able.pipeline.removesuffix("Pipeline")
    return (
        f"{name} edits joint attention and {spec.model.name!r} ({family}) has none: {JOINT_ONLY}. "
        "Use a model with joint attention, such as pocket, SD3 or FLUX."
    )


def gradients_with_offloaded_weights(spec: Spec, able: Capabilities | None) -> str | None:
    """A gradient needs the weights after the forward pass; offloading has moved them away by then."""
    kind = spec.model.settings.get("cpu_offload")
    if kind not in ("model", "group"):
        return None
    names = [spec.search.name] if registry.resolve("searches", spec.search.name).wants_gradient else []
    names += [part.name for part in spec.steering if registry.resolve("steerings", part.name).differentiates]
    if not names:
        return None
    return (
        f"{names[0]} needs gradients, but cpu_offload={kind!r} moves the weights away before they are computed. "
        "Leave it out, or use cpu_offload='text'."
    )


BeforeLoading = Callable[[Spec, Capabilities | None], str | None]
BEFORE_LOADING: tuple[BeforeLoading, ...] = (intervention_without_sites, gradients_with_offloaded_weights)


# once the parts are built


def gradient_search_with_reward_without_gradient(parts: Parts) -> str | None:
    """A search by gradients differentiates the reward."""
    if not parts.wants_gradient or parts.reward.differentiable:
        return None
    return (
        f"{parts.spec.search.name} needs gradients, but reward {parts.reward.name!r} has none. "
        "Choose another reward or another search."
    )


def ranking_reward_with_steering_that_scores_alone(parts: Parts) -> str | None:
    """A ranking reward has no value for a picture by itself."""
    if not parts.reward.relative or parts.scores_alone is None:
        return None
    return (
        f"{parts.reward.name} ranks the candidates of a run, but the steering {parts.scores_alone} needs the reward of "
        "a single picture. Use zscore(...) of its parts instead."
    )


def ranking_reward_with_gradient_search(parts: Parts) -> str | None:
    """A rank has no gradient with respect to one picture."""
    if not parts.reward.relative or not parts.wants_gradient:
        return None
    return (
        f"{parts.reward.name} ranks the candidates of a run, but the search {parts.spec.search.name} needs the "
        "gradient of a single picture's reward. Use zscore(...) of its parts instead."
    )


def ordering_reward_with_steering_that_scores_alone(parts: Parts) -> str | None:
    """A pairwise reward orders pictures that are shown to it together."""
    from fairlead.core.reward import PairwiseReward

    ordering = [leaf.name for leaf in parts.reward.optimised.leaves() if isinstance(leaf, PairwiseReward)]
    if not ordering or parts.scores_alone is None:
        return None
    return (
        f"{ordering[0]} orders pictures that compete inside a steering, but {parts.scores_alone} needs the reward of a "
        "single picture. Use judge(...), or the steering demon or paths."
    )


def ranking_reward_with_drafts(parts: Parts) -> str | None:
    """Drafts and full pictures would be ranked against each other."""
    if not parts.reward.relative or not parts.spec.draft:
        return None
    return (
        f"{parts.reward.name} ranks the candidates of a run, and drafts cannot be ranked against full pictures. "
        "Use zscore(...) of its parts instead, or no drafts."
    )


def person_with_drafts(parts: Parts) -> str | None:
    """What a person says about a draft is not comparable with what they say about a picture."""
    if not parts.asks_a_person or not parts.spec.draft:
        return None
    return (
        f"{parts.reward.name} asks a person, whose answers about drafts cannot be compared with answers about full "
        "pictures. Leave drafts out."
    )


def sibling_drafts_with_control(parts: Parts) -> str | None:
    """A sibling's part of a draft would not be steered or edited as the final is."""
    control = parts.controls_drafts
    siblings = rungs.siblings(parts.spec.draft)
    if not siblings or not control:
        return None
    return (
        f"Drafts by {siblings[0]} would not be controlled by {control[0]} as the finished pictures are. Draft with a "
        "number of evaluations of the run's own model, or leave one of them out."
    )


def peek_with_control(parts: Parts) -> str | None:
    """What a steering remembers along a trajectory is not part of the captured state."""
    control = [part.name for part in (*parts.spec.steering, *parts.spec.interventions)]
    if not rungs.peeks(parts.spec.draft) or not control:
        return None
    return (
        f"peek judges an early prediction and goes on from the captured state, which does not hold what {control[0]} "
        "remembers. Draft with a number of evaluations, or leave one of them out."
    )


def peek_with_sampler_that_remembers(parts: Parts) -> str | None:
    """What the pipeline's own scheduler keeps along a trajectory is not part of the captured state."""
    from fairlead.core.samplers import StatefulSampler

    if not rungs.peeks(parts.spec.draft) or parts.spec.exact or not isinstance(parts.sampler, StatefulSampler):
        return None
    return (
        f"peek goes on from a captured picture, but the sampler {parts.spec.sampler!r} remembers more than that. "
        "Render from the noise again with --exact, or use --sampler euler."
    )


def bank_of_drafts_without_drafts(parts: Parts) -> str | None:
    """A steering whose bank are the drafts has none without them."""
    names = zip(parts.spec.steering, parts.steering.parts, strict=True)
    learning = [part.name for part, method in names if method.learns_from_drafts]
    if not learning or parts.spec.rungs:
        return None
    return f"{learning[0]}.bank is 'drafts' but this run has no drafts. Use --draft auto, or leave the setting out."


def sibling_drafts_with_stochastic_sampler(parts: Parts) -> str | None:
    """The noise that the sampler adds on the way would not be the sibling's."""
    siblings = rungs.siblings(parts.spec.draft)
    if not siblings or not parts.sampler.stochastic:
        return None
    return (
        f"Drafts by {siblings[0]} share only the first noise with the finished picture, but {parts.spec.sampler} adds "
        "noise at every step. Use --sampler euler, or draft with a number of evaluations."
    )


def short_drafts_with_early_prediction(parts: Parts) -> str | None:
    """A reward that compares a picture with its early prediction finds none in a sibling's draft or in a peek."""
    lacking = [f"drafts by {name}" for name in rungs.siblings(parts.spec.draft)]
    lacking += ["drafts by peek"] if rungs.peeks(parts.spec.draft) else []
    if not lacking or not parts.early_levels:
        return None
    return (
        f"{parts.reward.name} compares a picture with its own early prediction, which {lacking[0]} lack. Draft "
        "with a number of evaluations."
    )


def person_with_steering_that_cannot_ask(parts: Parts) -> str | None:
    """While a picture is sampled, only some steerings can wait for an answer."""
    names = zip(parts.spec.steering, parts.steering.parts, strict=True)
    cannot = [part.name for part, method in names if not method.asks]
    if not parts.asks_a_person or not cannot:
        return None
    return (
        f"{parts.reward.name} asks a person, but the steering {cannot[0]} cannot ask while a picture is sampled. "
        "Leave one of them out, or use the steering demon."
    )


def stochastic_steering_with_deterministic_sampler(parts: Parts) -> str | None:
    """Some steerings act through the noise that the sampler adds."""
    names = zip(parts.spec.steering, parts.steering.parts, strict=True)
    stochastic = [part.name for part, method in names if method.stochastic]
    if not stochastic or parts.sampler.stochastic:
        return None
    return (
        f"{stochastic[0]} needs a stochastic sampler, but {parts.spec.sampler} adds no noise. Use --sampler ancestral."
    )


def gradient_steering_with_reward_without_gradient(parts: Parts) -> str | None:
    """A steering by gradients differentiates the reward."""
    names = zip(parts.spec.steering, parts.steering.parts, strict=True)
    followers = [part.name for part, method in names if method.differentiates]
    if not followers or parts.reward.optimised.differentiable:
        return None
    return (
        f"{followers[0]} follows the gradient of the reward, but {parts.reward.name!r} has none. Choose another "
        "reward, or a steering that needs only values, such as lidar or feynman_kac."
    )


def steering_whose_decision_is_overridden(parts: Parts) -> str | None:
    """A steering that sets the state replaces what another one decided about it."""
    names = [part.name for part in parts.spec.steering]
    methods = parts.steering.parts
    for i, method in enumerate(methods):
        if method.decides != "state":
            continue
        before = [names[j] for j in range(i) if methods[j].decides is not None]
        overridden = [*before, *names[i + 1 :]]
        if overridden:
            return (
                f"{names[i]} decides where every sample goes, so the cost of {overridden[0]} would be wasted. Name "
                f"{names[i]} last, and before it only steerings that change predictions, such as lidar."
            )
    return None


def adapting_steering_with_one_that_looks_ahead(parts: Parts) -> str | None:
    """A steering that sets the state has made its predictions before the conditioning changes."""
    names = [part.name for part in parts.spec.steering]
    adapting = [name for name, method in zip(names, parts.steering.parts, strict=True) if method.adapts]
    deciding = [name for name, method in zip(names, parts.steering.parts, strict=True) if method.decides == "state"]
    if not adapting or not deciding:
        return None
    return (
        f"{adapting[0]} changes the prompt's embedding from step to step, but {deciding[0]} predicts the next steps "
        "before that, so every change would come late. Leave one of them out, or use reward_gradient instead of "
        f"{adapting[0]}."
    )


def early_prediction_with_coupled_pictures(parts: Parts) -> str | None:
    """A coupled picture is not the one that its own early prediction promised."""
    if not parts.early_levels or not parts.couples:
        return None
    return (
        f"{parts.reward.name} compares a picture with its own early prediction, but the steering or intervention of "
        "this run couples pictures. Leave one of them out."
    )


def flat_rule_with_dependent_candidates(parts: Parts) -> str | None:
    """What the next picture adds is estimated from those seen only where all are independent draws."""
    spec = parts.spec
    search = registry.resolve("searches", spec.search.name)
    if not spec.stop or spec.draft or getattr(search, "independent", False):
        return None
    return (
        f"stop is {spec.stop!r}, which estimates the next picture from independent ones, but {spec.search.name} "
        "proposes pictures that depend on earlier ones. Use --search best_of, drafts, or --until with a condition."
    )


def stop_rule_with_ranking_reward(parts: Parts) -> str | None:
    """A total that changes as candidates join cannot be compared with a bound."""
    spec = parts.spec
    if not parts.reward.relative or not (spec.stop or any(c.term == REWARD for c in read_until(spec.until))):
        return None
    return (
        f"{parts.reward.name} ranks the candidates of a run, so its value changes as others join and cannot end the "
        "run. Name one of its terms in --until."
    )


PairCheck = Callable[[Parts], str | None]
ONCE_BUILT: tuple[PairCheck, ...] = (
    gradient_search_with_reward_without_gradient,
    ranking_reward_with_steering_that_scores_alone,
    ranking_reward_with_gradient_search,
    ordering_reward_with_steering_that_scores_alone,
    ranking_reward_with_drafts,
    person_with_drafts,
    sibling_drafts_with_control,
    peek_with_control,
    peek_with_sampler_that_remembers,
    bank_of_drafts_without_drafts,
    sibling_drafts_with_stochastic_sampler,
    short_drafts_with_early_prediction,
    person_with_steering_that_cannot_ask,
    stochastic_steering_with_deterministic_sampler,
    gradient_steering_with_reward_without_gradient,
    steering_whose_decision_is_overridden,
    adapting_steering_with_one_that_looks_ahead,
    early_prediction_with_coupled_pictures,
    flat_rule_with_dependent_candidates,
    stop_rule_with_ranking_reward,
)


def check_before_loading(spec: Spec, able: Capabilities | None) -> None:
    """Refuse a run whose parts cannot be used together, as far as configurations show it."""
    for check in BEFORE_LOADING:
        if (sentence := check(spec, able)) is not None:
            raise FairleadError(sentence)


def check_compatibility(parts: Parts) -> None:
    """Refuse a run whose parts cannot be used together."""
    for check in ONCE_BUILT:
        if (sentence := check(parts)) is not None:
            raise FairleadError(sentence)
