"""One process, one device, one model. `evaluate` is the whole path from point to reward, on one screen."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairlead.core import algebra
from fairlead.core.cost import BudgetExceeded, Cost, Meter, Unmetered
from fairlead.core.errors import FairleadError, OutOfMemory, RewardError
from fairlead.core.intervention import Intervention, installed
from fairlead.core.key import Key, normals
from fairlead.core.model import Conditioning, Model, Shape
from fairlead.core.people import Pending
from fairlead.core.reward import HumanReward, PairwiseReward, Reward, early_level, reasons
from fairlead.core.samplers import Sampler, euler
from fairlead.core.sampling import sample
from fairlead.core.search import Space
from fairlead.core.sibling import ModelRef, model_key
from fairlead.core.steering import Chain, EarlyPredictions, Scene, Steering
from fairlead.run import machine, memory, models, png, prepared, registry, related
from fairlead.run.asking import Asking
from fairlead.run.records import BASELINE, Outcome, Task
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
        (op, parts), *_ = tree.items()
        return algebra.make(op, tuple(build_reward(part, leaf, made) for part in parts))
    return algebra.Constant(float(tree))


def reward_leaf(part: Part) -> Reward:
    """A registered reward, on the machine's device unless its settings name another."""
    make = registry.resolve("rewards", part.name)
    if "device" in inspect.signature(make).parameters and "device" not in part.settings:
        part = part.with_settings({"device": machine.device()})
    models.quiet()
    reward: Reward = registry.call(make, part.name, part.settings)
    return reward


def watched_reward(spec: Spec, leaf: Callable[[Part], Reward], reward: Reward | None = None) -> Reward:
    """The run's reward (or the live object in its place) with the run's watchers beside it."""
    made: dict[str, Reward] = {}
    target = build_reward(spec.reward, leaf, made) if reward is None else reward
    if not spec.watch:
        return target
    watched: dict[str, Reward] = {}
    taken = set(target.labels())
    for tree in spec.watch:
        label, other = reward_text(tree), build_reward(tree, leaf, made)
        if tree == spec.reward or (reward is None and tree in reward_parts(spec.reward)):
            raise FairleadError(
                f"{label} is optimised in this run, so it cannot be watched: watch a reward that is held out."
            )
        if other.relative or any(early_level(x) is not None or isinstance(x, HumanReward) for x in other.leaves()):
            raise FairleadError(
                f"{label} compares pictures or asks people, so it cannot be watched: choose another one."
            )
        watched[f"{label} (watched)" if label in taken else label] = other
    return algebra.Watched(target, watched)


class Worker:
    """Built from a Spec alone; `reward` replaces the Spec's formula by a live object, `model` by one already loaded,
    `siblings` those a steering names.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        reward: Reward | None = None,
        model: Model | None = None,
        siblings: Mapping[str, Model] | None = None,
        want_gradient: bool = False,
    ):
        self.spec, self.meter, self.wants_gradient = spec, Meter(), want_gradient
        self._device = machine.device()
        if model is None:
            dtype = spec.model.settings.get("dtype") or machine.dtype(self._device)
            model = models.build(spec, device=self._device, dtype=dtype)
        self.model: Model = model
        self._device = model.device.type
        self._fits: float = math.inf
        self.asking: Asking | None = None
        """Whom a steering asks on the way; the driver says."""
        reward = watched_reward(spec, reward_leaf, reward)
        self.reward: Reward = reward.copy()
        self._levels = {level for leaf in self.reward.leaves() if (level := early_level(leaf)) is not None}
        if want_gradient and not self.reward.differentiable:
            raise FairleadError(
                f"{spec.search.name} needs gradients and reward {self.reward.name!r} has none: choose another reward or search."
            )
        self.steering = Chain(tuple(registry.build("steerings", part) for part in spec.steering))
        self.siblings = related.siblings(self.steering, spec, model, siblings or {})
        for charged in (self.model, *(kin.model for kin in self.siblings.values())):
            charged.meter(self.meter)
        self.reward.meter(self.meter)
        self.cond = self.model.encode([spec.prompt])
        tokens = self.cond.tokens.shape
        self.shape = Shape(self.model.latent, (int(tokens[1]), int(tokens[2])), self.cond)
        self.space: Space = registry.build("spaces", spec.space, self.shape)
        self._sampler: Sampler = registry.resolve("samplers", spec.sampler)
        self._interventions: list[Intervention] = [registry.build("interventions", part) for part in spec.interventions]
        self._refuse_what_cannot_be()
        if self._interventions:
            with installed(self.model, self._interventions):
                pass
        self.spec = memory.fitted(spec, self.model, self._needed)

    def _refuse_what_cannot_be(self) -> None:
        """Rewards that this run's steering, search, drafts or interventions would ask what they cannot answer."""
        spec, want_gradient = self.spec, self.wants_gradient
        alone_on_the_way = not all(part.compares for part in self.steering.parts)
        for alone in ("steering", "search with gradients"):
            if self.reward.relative and (alone_on_the_way if alone == "steering" else want_gradient):
                raise FairleadError(
                    f"{self.reward.name} ranks the candidates of a run, and a {alone} asks for the reward of one picture: "
                    "use zscore(...) of its parts instead."
                )
        if alone_on_the_way and (
            ordering := [leaf.name for leaf in self.reward.optimised.leaves() if isinstance(leaf, PairwiseReward)]
        ):
            raise FairleadError(
                f"{ordering[0]} orders candidates that compete inside a steering, and this one asks for the reward of one "
                "picture: use judge(...), or steer by demon or paths."
            )
        if self.reward.relative and spec.draft:
            raise FairleadError(
                f"{self.reward.name} ranks the candidates of a run, and drafts do not compare with full pictures: use "
                "zscore(...) of its parts instead, or no drafts."
            )
        asks = any(isinstance(leaf, HumanReward) for leaf in self.reward.leaves())
        if asks and spec.draft:
            raise FairleadError(
                f"{self.reward.name} asks a person, whose answers about drafts do not compare with those about full "
                "pictures: leave drafts out."
            )
        made = zip(spec.steering, self.steering.parts, strict=True)
        deaf = [part.name for part, method in made if not method.asks]
        if asks and deaf:
            raise FairleadError(
                f"{self.reward.name} asks a person, and the steering {deaf[0]} cannot ask on the way: leave one "
                "out, or steer by demon."
            )
        for part, method in zip(spec.steering, self.steering.parts, strict=True):
            if method.stochastic and not self._sampler.stochastic:
                raise FairleadError(
                    f"{part.name} lives on the sampler's noise and {spec.sampler} draws none: choose --sampler ancestral."
                )
            if method.differentiates and not self.reward.optimised.differentiable:
                raise FairleadError(
                    f"{part.name} follows the gradient of the reward and {self.reward.name!r} has none: choose another reward, or "
                    "a steering that only looks, such as lidar or feynman_kac."
                )
        _refuse_overruled([part.name for part in spec.steering], self.steering.parts)
        if self._levels and self.couples:
            raise FairleadError(
                f"{self.reward.name} compares a picture with its own early prediction, and this run's steering or "
                "intervention couples pictures: leave one of them out."
            )

    def _needed(self) -> memory.Footprint | None:
        from fairlead.run import price

        return price.footprint(self)

    @property
    def couples(self) -> bool:
        """True if candidates of one group influence each other."""
        return self.steering.couples or any(i.couples for i in self._interventions)

    @property
    def steers_by_gradient(self) -> bool:
        """True if a part of the steering asks for gradients of the reward."""
        return any(part.differentiates for part in self.steering.parts)

    def prepare(self, grant: Cost) -> tuple[Chain, Cost]:
        """Whatever the steering does once per prompt. Done on one worker; the result is data."""
        before, key = self.meter.spent, Key.root(self.spec.seed).fold("scene")

        def render(
            keys: tuple[Key, ...], steps: int, *, model: ModelRef | None = None, sampler: Sampler | None = None
        ) -> Tensor:
            x = normals(tuple(k.fold("init") for k in keys), *self.model.latent).to(self.model.device)
            who, told, usual = self.model, self._batch(len(keys)), euler
            if model is not None:
                kin = self.siblings[model_key(model)]
                who, told, usual = kin.model, kin.conditioning(len(keys)), kin.sampler
            return sample(who, sampler or usual, x, told, who.levels(steps), keys, self.meter)

        def score(z: Tensor) -> Tensor:
            return self._score(z, [self.spec.prompt] * len(z))

        def recorded(run: str) -> Mapping[str, Tensor]:
            return prepared.recorded(Path(run), self.spec, self.model.device)

        with self._paid_for(), torch.no_grad(), self.meter.grant(grant):
            ready = self.steering.prepare(Scene(key, render, score, self.spec.batch, recorded))
            machine.synchronise(self._device)
        return ready, self.meter.spent - before

    def evaluate(self, task: Task, steering: Steering) -> tuple[list[Outcome], Cost]:
        """Whole groups only, in as many pieces as fit into memory.

        What an attempt that ran out of memory counted is not charged, so that the price is the bill on any machine; the
        seconds and dollars it spent are.
        """
        with self._paid_for():
            return self._in_pieces(task, steering)

    @contextmanager
    def _paid_for(self) -> Iterator[None]:
        """An error says what was spent and cannot be given back."""
        before = self.meter.spent
        try:
            yield
        except (BudgetExceeded, FairleadError, Pending) as error:
            error.unanswered = self.meter.paid_since(before)
            raise

    def _in_pieces(self, task: Task, steering: Steering) -> tuple[list[Outcome], Cost]:
        outcomes: list[Outcome] = []
        cost, before = Cost(), self.meter.spent
        pieces = [task] if len(task.indices) <= self._fits else _halves(task)
        while pieces:
            piece = pieces.pop(0)
            if len(piece.indices) > self._fits and len(halves := _halves(piece)) > 1:
                pieces = halves + pieces
                continue
            paid = self.meter.paid_since(before)
            left = replace(
                piece.grant, seconds=task.grant.seconds - paid.seconds, dollars=task.grant.dollars - paid.dollars
            )
            try:
                done, spent = self._evaluate(replace(piece, grant=left), steering)
            except (torch.OutOfMemoryError, OutOfMemory) as error:
                halves = _halves(piece)
                if len(halves) == 1:
                    if isinstance(error, OutOfMemory) and not self.wants_gradient:
                        raise
                    raise OutOfMemory(self._too_large(len(piece.indices))) from error
                self._fits, pieces = max(len(h.indices) for h in halves), halves + pieces
            else:
                outcomes, cost = outcomes + done, cost + spent
        paid = self.meter.paid_since(before)
        each = paid * (1 / len(outcomes))
        shares = [replace(o.cost, seconds=each.seconds, dollars=each.dollars) for o in outcomes]
        cost = replace(cost, seconds=paid.seconds, dollars=paid.dollars)
        return [replace(o, cost=own) for o, own in zip(outcomes, shares, strict=True)], cost

    def _too_large(self, n: int) -> str:
        """What to do when not even one group fits; with a gradient, what would."""
        said = f"Memory ran out with {n} picture(s) at once"
        if not self.wants_gradient:
            return f"{said}: use dtype bfloat16, a smaller picture or group."
        need, plain = memory.footprint(self.model, gradient=True), memory.footprint(self.model)
        sizes = (
            ["", ""]
            if need is None or plain is None
            else [f" (about {f.at(n) / 1e9:.3g} GB here)" for f in (need, plain)]
        )
        return (
            f"{said} and a gradient through them{sizes[0]}: use dtype bfloat16, a smaller picture, or a search without gradients "
            f"such as sep_cma, which needs the memory of a plain picture{sizes[1]}."
        )

    def _evaluate(self, task: Task, steering: Steering) -> tuple[list[Outcome], Cost]:
        """Point -> noise and conditioning -> latents -> images -> rewards, with what it cost.

        Rewards see the picture that is saved: rounded to 8 bits, with the gradient passed straight through. A reward
        that ranks leaves the total to the driver, who knows the other candidates: NaN here, terms complete.
        """
        before, real = self.meter.spent, len(task.indices)
        keys = tuple(p.key for p in task.proposals)
        steps = task.proposals[0].steps or self.spec.steps
        groups = torch.tensor(task.groups) if self.couples or self._interventions else None
        wants = self.wants_gradient and not task.plain
        edits = nullcontext() if task.plain else installed(self.model, self._interventions)
        with torch.enable_grad() if wants else torch.no_grad(), self.meter.grant(task.grant), edits:
            x = torch.stack([p.x for p in task.proposals]).requires_grad_(wants)
            latents, cond = self.space.place(x, self.model, self._batch(real), keys)
            levels = self.model.levels(steps)
            early_predictions, notes = EarlyPredictions(levels, self._levels), dict[str, Tensor]()
            chosen = Chain() if task.plain else steering
            z = sample(
                self.model,
                self._sampler,
                latents,
                cond,
                levels,
                keys,
                self.meter,
                steering=Chain((chosen, early_predictions)) if self._levels else chosen,
                groups=groups,
                score=self._score,
                siblings=self.siblings,
                notes=notes,
            )
            images = self._picture(z)
            early = {level: self._picture(x0) for level, x0 in early_predictions.found.items()}
            total, terms = self._judge(self.reward, images, cond.prompts, early)
            gradient = None
            if wants:  # steps are computed again on the way back, so edits must still be installed
                self.meter.charge(Cost(backwards=(self.meter.spent - before).forwards))
                (gradient,) = torch.autograd.grad(total.sum(), x)
            machine.synchronise(self._device)
        cost = self.meter.spent - before
        rewards = [float("nan")] * real if self.reward.relative else total.detach().tolist()
        values = {k: v.detach().tolist() for k, v in (notes | terms).items()}
        out = []
        for i, index in enumerate(task.indices):
            own = {k: v[i] for k, v in values.items()}
            picture = self._png(images[i], index, keys[i], rewards[i], own, steps)
            slope = None if gradient is None else gradient[i].cpu()
            out.append(Outcome(index, rewards[i], own, cost * (1 / real), picture, slope))
        return out, cost

    def _batch(self, n: int) -> Conditioning:
        return self.cond.take(torch.zeros(n, dtype=torch.int64))

    def _picture(self, z: Tensor) -> Tensor:
        decoded = self.model.decode(z)
        return (decoded.detach() * 255).round() / 255 + (decoded - decoded.detach())

    def _score(self, z: Tensor, prompts: Sequence[str]) -> Tensor:
        if self._levels:
            raise FairleadError(
                f"{self.reward.name} compares a finished picture with its early prediction, so a steering cannot ask it "
                "on the way: choose another reward or no steering."
            )
        reward, images = self.reward.optimised, self.model.decode(z)
        total, terms = self._judge(reward, images, prompts, rivals=True)
        if any(isinstance(leaf, HumanReward) for leaf in reward.leaves()):
            if self.asking is None:
                raise FairleadError(f"{reward.name} asks a person, and there is no record to ask through: start a run.")
            with self.meter.paused():
                total = self.asking(reward, images, terms, self.spec.prompt)
        return total.to(z.device)

    def _judge(
        self,
        reward: Reward,
        images: Tensor,
        prompts: Sequence[str],
        early: Mapping[float, Tensor] | None = None,
        rivals: bool = False,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        try:
            found = reward(images, prompts, early, rivals)
            for leaf in reward.leaves():
                for why in dict.fromkeys(filter(None, reasons(leaf))):
                    warnings.warn(f"{leaf.name} gave no number: {why}.", stacklevel=2)
            return found
        except (FairleadError, BudgetExceeded, Unmetered, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise RewardError(
                f"Reward {reward.name!r} raised {type(error).__name__}: {error}. Candidates scored before are kept; "
                "mend the reward and resume."
            ) from error

    def _png(self, image: Tensor, index: int, key: Key, reward: float, terms: Mapping[str, float], steps: int) -> bytes:
        version, plain = machine.versions()["fairlead"], index == BASELINE
        data = png.recipe(self.spec, version, index, key.hex(), reward, terms, plain, steps)
        size = (image.shape[-1], image.shape[-2])
        return png.encode(png.pixels(image), data, png.parameters(self.spec, size, version, index, steps))


def _refuse_overruled(names: Sequence[str], parts: Sequence[Steering]) -> None:
    """What would be paid and then made nothing of by a part that decides where samples are."""
    for i, part in enumerate(parts):
        if part.decides == "state":
            for j, other in enumerate(parts):
                if j > i or (j < i and other.decides):
                    raise FairleadError(
                        f"{names[i]} decides itself where every sample goes, so {names[j]} would be paid and overruled: name "
                        f"{names[i]} last, and before it only what moves predictions, such as lidar."
                    )


def _halves(task: Task) -> list[Task]:
    """The first and the second half of a task, its groups whole; the task alone if it is one group."""
    names = list(dict.fromkeys(task.groups))
    first = set(names[: (len(names) + 1) // 2])
    parts = [[i for i, g in enumerate(task.groups) if (g in first) == wanted] for wanted in (True, False)]
    if not parts[1]:
        return [task]
    return [
        replace(
            task,
            indices=tuple(task.indices[i] for i in part),
            proposals=tuple(task.proposals[i] for i in part),
            groups=tuple(task.groups[i] for i in part),
            grant=task.grant * (len(part) / len(task.indices)),
        )
        for part in parts
    ]
