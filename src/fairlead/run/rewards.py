"""Rewards built from the formulas in a Spec."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from fairlead.core import algebra
from fairlead.core.errors import FairleadError
from fairlead.core.reward import FinalJudge, HumanReward, Reward, early_level
from fairlead.run import hub, inputs, machine, models, registry
from fairlead.run.kept import once
from fairlead.run.spec import Part, Spec, reward_parts, reward_text


def build_reward(tree: Any, leaf: Callable[[Part], Reward], made: dict[str, Reward] | None = None) -> Reward:
    """A Reward from the formula in a Spec; a leaf named twice with equal settings is one object."""
    made = {} if made is None else made
    if isinstance(tree, Part):
        key = f"{tree.name}{sorted(tree.settings.items())!r}"
        if key not in made:
            made[key] = leaf(tree)
        return made[key]
    if isinstance(tree, Mapping):
        (operation, parts), *_ = tree.items()
        return algebra.make(operation, tuple(build_reward(part, leaf, made) for part in parts))
    return algebra.Constant(float(tree))


def leaf_of_run(spec: Spec) -> Callable[[Part], Reward]:
    """Registered rewards of a run; one that compares with a picture compares with the run's input."""
    image = inputs.of_run(spec.model)

    def leaf(part: Part) -> Reward:
        if not _compares(part):
            return reward_leaf(part)
        if "image" in part.settings:
            raise FairleadError(
                f"{part.name}.image is {part.settings['image']!r:.80}, but a run compares with its own input picture, "
                "which it keeps. Leave it out and add --image FILE."
            )
        return reward_leaf(part.with_settings({"image": image}))

    return leaf


def _compares(part: Part) -> bool:
    """True if the reward compares with a picture."""
    return "image" in inspect.signature(registry.resolve("rewards", part.name)).parameters


def reward_leaf(part: Part) -> Reward:
    """A registered reward, on the machine's device unless its settings name another."""
    make = registry.resolve("rewards", part.name)
    if _compares(part) and isinstance(part.settings.get("image"), str):
        part = part.with_settings({"image": inputs.read(part.settings["image"])})
    if "device" in inspect.signature(make).parameters and "device" not in part.settings:
        part = part.with_settings({"device": machine.device()})
    models.quiet()
    hub.fail_fast()
    settings = part.settings
    key = (part.name, repr(sorted(settings.items())))
    reward: Reward = once("reward", key, lambda: registry.call(make, part.name, settings))
    return reward


def build_final_judge(spec: Spec) -> FinalJudge | None:
    """The run's final judge, if it has one; refused if it cannot compare two pictures."""
    if spec.final_judge is None:
        return None
    judge = reward_leaf(spec.final_judge)
    if not isinstance(judge, FinalJudge):
        raise FairleadError(
            f"final_judge is {spec.final_judge.name!r}, which scores pictures one by one and cannot compare two. Use "
            "pairwise_judge(...) or human."
        )
    if spec.looks > 2 and judge.repeats:
        raise FairleadError(
            f"looks is {spec.looks}, but {spec.final_judge.name} answers the same question alike, so a third look "
            "tells nothing. Use 2, which swaps the sides."
        )
    return judge


def watched_reward(spec: Spec, leaf: Callable[[Part], Reward], reward: Reward | None = None) -> Reward:
    """The run's reward, or the live object in its place, together with the rewards that are only watched."""
    made: dict[str, Reward] = {}
    target = build_reward(spec.reward, leaf, made) if reward is None else reward
    if not spec.watch:
        return target
    watched: dict[str, Reward] = {}
    taken = set(target.labels())
    for tree in spec.watch:
        label = reward_text(tree)
        other = build_reward(tree, leaf, made)
        if tree == spec.reward or (reward is None and tree in reward_parts(spec.reward)):
            raise FairleadError(
                f"{label} is optimised in this run, so it cannot also be watched. Watch a reward that is not optimised."
            )
        if other.relative or any(early_level(x) is not None or isinstance(x, HumanReward) for x in other.leaves()):
            raise FairleadError(f"{label} compares pictures or asks a person, so it cannot be watched. Choose another.")
        watched[f"{label} (watched)" if label in taken else label] = other
    return algebra.Watched(target, watched)
