"""One process, one device, one model. `evaluate` is the whole path from point to reward, on one screen."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fairlead.core.cost import BudgetExceeded, Cost, Meter, Unmetered
from fairlead.core.errors import FairleadError, OutOfMemory, RewardError
from fairlead.core.intervention import installed
from fairlead.core.key import Key, normals
from fairlead.core.model import Conditioning, Level, Predicts, started
from fairlead.core.people import Pending
from fairlead.core.reward import HumanReward, Reward, reasons
from fairlead.core.samplers import PreviousStep, Sampler, euler
from fairlead.core.sampling import Span, sample
from fairlead.core.sibling import ModelRef, model_key
from fairlead.core.steering import Chain, EarlyPredictions, Scene, Steering
from fairlead.run import machine, memory, png, prepared, rungs
from fairlead.run.forming import Forming, Watching
from fairlead.run.preview_questions import PreviewQuestions
from fairlead.run.records import BASELINE, Outcome, Task
from fairlead.run.setup import Setup
from fairlead.run.shared_batches import joined, padded, part_of, share
from fairlead.run.spec import Spec


class Worker:
    """Samples and scores what a Setup describes. The model and the rewards charge this worker's meter."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.spec = setup.spec
        self.model = setup.model
        self.siblings = setup.siblings
        self.space = setup.space
        self.steering = setup.steering
        self.reward: Reward = setup.reward.copy()
        self.meter = Meter()
        self._charge_here()
        self.reward.meter(self.meter)
        self.previews: PreviewQuestions | None = None
        """How a steering asks a person while it samples; the engine sets it."""
        self.watching: Watching | None = None
        """Who wants to see every step; the engine sets it."""
        self._device = self.model.device.type
        self._fits: float = math.inf

    def prepare(self, grant: Cost) -> tuple[Chain, Cost]:
        """Do what the steering does once per prompt. Done by one worker; the result is data."""
        before = self.meter.spent
        key = Key.root(self.spec.seed).fold("scene")

        def render(
            keys: tuple[Key, ...], steps: int, *, model: ModelRef | None = None, sampler: Sampler | None = None
        ) -> Tensor:
            x = normals(tuple(k.fold("init") for k in keys), *self.model.latent).to(self.model.device)
            network = self.model
            conditioning = self._conditioning(len(keys))
            usual = euler
            if model is not None:
                sibling = self.siblings[model_key(model)]
                network = sibling.model
                conditioning = sibling.conditioning(len(keys))
                usual = sibling.sampler
            levels = network.levels(steps)
            x = started(network, x, levels[0])
            return sample(network, sampler or usual, x, conditioning, levels, keys, self.meter)

        def score(z: Tensor) -> Tensor:
            return self._score(z, [self.spec.prompt] * len(z))

        def recorded(run: str) -> Mapping[str, Tensor]:
            return prepared.recorded(Path(run), self.spec, self.model.device)

        with self._paid_for(), torch.no_grad(), self.meter.grant(grant):
            ready = self.steering.prepare(Scene(key, render, score, self.spec.batch, self.model.decode, recorded))
            machine.synchronise(self._device)
        return ready, self.meter.spent - before

    def evaluate(self, task: Task, steering: Steering) -> tuple[list[Outcome], Cost]:
        """Sample and score whole groups, in as many pieces as memory needs.

        The counted work of an attempt that ran out of memory is not charged, so that the price is the bill on every
        machine; its seconds and dollars are. A task that was a part of a shared batch is computed at its place in a
        batch of the same size, so that kernels round as they did.
        """
        with self._paid_for():
            if task.companions is None:
                return self._in_pieces(task, steering)
            outcomes, cost = self._in_pieces(padded(task), steering)
        own = slice(task.companions.before, task.companions.before + len(task.indices))
        return outcomes[own], share(cost, len(task.indices), task.companions.rows)

    def _charge_here(self) -> None:
        """From now on the models charge this worker; a price that was counted between two batches used them too."""
        for charged in (self.model, *(sibling.model for sibling in self.siblings.values())):
            charged.meter(self.meter)

    @contextmanager
    def _paid_for(self) -> Iterator[None]:
        """Write into an error the seconds and dollars that were spent before it."""
        self._charge_here()
        before = self.meter.spent
        try:
            yield
        except (BudgetExceeded, FairleadError, Pending) as error:
            error.unanswered = self.meter.paid_since(before)
            raise

    def _in_pieces(self, task: Task, steering: Steering) -> tuple[list[Outcome], Cost]:
        outcomes: list[Outcome] = []
        cost = Cost()
        before = self.meter.spent
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
                    if isinstance(error, OutOfMemory) and not self.setup.wants_gradient:
                        raise
                    raise OutOfMemory(self._too_large(len(piece.indices))) from error
                self._fits = max(len(h.indices) for h in halves)
                pieces = halves + pieces
            else:
                outcomes = outcomes + done
                cost = cost + spent
        paid = self.meter.paid_since(before)
        each = paid * (1 / len(outcomes))
        shares = [replace(o.cost, seconds=each.seconds, dollars=each.dollars) for o in outcomes]
        cost = replace(cost, seconds=paid.seconds, dollars=paid.dollars)
        return [replace(o, cost=own) for o, own in zip(outcomes, shares, strict=True)], cost

    def _too_large(self, n: int) -> str:
        """What to do when not even one group fits; with a gradient, what would."""
        failure = f"Memory ran out with {n} picture(s) at once"
        if not self.setup.wants_gradient:
            return f"{failure}. Use dtype bfloat16, a smaller picture or a smaller group."
        need = memory.footprint(self.model, gradient=True)
        plain = memory.footprint(self.model)
        sizes = (
            ["", ""]
            if need is None or plain is None
            else [f" (about {f.at(n) / 1e9:.3g} GB here)" for f in (need, plain)]
        )
        return (
            f"{failure} and a gradient through them{sizes[0]}. Use dtype bfloat16, a smaller picture, or a search "
            f"without gradients such as sep_cma, which needs the memory of a plain picture{sizes[1]}."
        )

    def _evaluate(self, task: Task, steering: Steering) -> tuple[list[Outcome], Cost]:
        """Point -> noise and conditioning -> latents -> images -> rewards, with what it cost.

        Rewards see the picture that is saved: rounded to 8 bits, with the gradient passed straight through. A reward
        that ranks has NaN as total here, with complete terms: its total needs the other candidates.
        """
        before = self.meter.spent
        keys = tuple(p.key for p in task.proposals)
        effort = task.proposals[0].steps
        groups = torch.tensor(task.groups) if self.setup.couples or self.setup.interventions else None
        wants = self.setup.wants_gradient and not task.is_baseline and not task.states
        edits = nullcontext() if task.is_baseline else installed(self.model, self.setup.interventions)
        with torch.enable_grad() if wants else torch.no_grad(), self.meter.grant(task.grant), edits:
            x = torch.stack([p.x for p in task.proposals]).requires_grad_(wants)
            latents, cond = self.space.place(x, self.model, self._told(task), keys)
            forming = Forming(self, task) if self.watching else None
            latents, cond, levels, model, sampler = self._drafted(effort, latents, cond, keys, forming)
            span = self._span(effort, len(levels) - 1, task)
            if task.states:
                latents = torch.stack(task.states)[:, 0].to(latents)
            early_predictions = EarlyPredictions(levels, self.setup.early_levels)
            notes = dict[str, Tensor]()
            chosen = Chain() if task.is_baseline else steering
            z = sample(
                model,
                sampler,
                latents,
                cond,
                levels,
                keys,
                self.meter,
                steering=Chain((chosen, early_predictions)) if self.setup.early_levels else chosen,
                groups=groups,
                score=self._score,
                siblings=self.siblings,
                notes=notes,
                span=span,
                on_step=forming,
            )
            judged, states = self._left_behind(z, span, len(levels) - 1, effort)
            images = self._picture(judged)
            early = {level: self._picture(x0) for level, x0 in early_predictions.found.items()}
            total, terms = self._judge(self.reward, images, cond.prompts, early)
            gradient = None
            if wants:  # the backward pass computes steps again, so edits must still be installed
                self.meter.charge(Cost(backwards=(self.meter.spent - before).forwards))
                (gradient,) = torch.autograd.grad(total.sum(), x)
            machine.synchronise(self._device)
        cost = self.meter.spent - before
        rewards = [float("nan")] * len(keys) if self.reward.relative else total.detach().tolist()
        values = {k: v.detach().tolist() for k, v in (notes | terms).items()}
        evaluations = rungs.evaluations(effort, self.spec.steps)
        out = []
        for i, index in enumerate(task.indices):
            named = {k: v[i] for k, v in values.items()}
            picture = _png(self._run_of(task, i), images[i], index, keys[i], rewards[i], named, evaluations)
            slope = None if gradient is None else gradient[i].cpu()
            state = None if states is None else states[i].detach().cpu()
            out.append(Outcome(index, rewards[i], named, cost * (1 / len(keys)), picture, slope, state))
        return out, cost

    def _drafted(
        self,
        effort: rungs.Effort,
        latents: Tensor,
        cond: Conditioning,
        keys: tuple[Key, ...],
        forming: Forming | None,
    ) -> tuple[Tensor, Conditioning, Sequence[Level], Predicts, Sampler]:
        """Where sampling at this effort starts: state, conditioning, levels, network and sampler.

        A sibling's own schedule goes on below the level at which it takes over.
        """
        rung = None if effort is None else rungs.read(effort)
        full = self.model.levels(self.spec.steps)
        if not isinstance(rung, rungs.By):
            levels = full
            if isinstance(rung, rungs.Few | rungs.Even):
                levels = rung.levels(self.model.levels, self.spec.steps)
            return started(self.model, latents, levels[0]), cond, levels, self.model, self.setup.sampler
        sibling = self.siblings[rung.model]
        levels = list(sibling.levels(rung.own))
        if not rung.after:
            latents = started(sibling, latents, levels[0])
        else:
            own = full[: rung.after + 1]
            told = None if forming is None else forming.first_part(beyond=rung.own)
            latents = started(self.model, latents, own[0])
            latents = sample(self.model, self.setup.sampler, latents, cond, own, keys, self.meter, on_step=told)
            levels = [own[-1], *(level for level in levels if level.time < own[-1].time)]
        return latents, sibling.conditioning(len(latents)), levels, sibling, sibling.sampler

    def _span(self, effort: rungs.Effort, steps: int, task: Task) -> Span:
        """The steps to take: all, or those of a peek, perhaps from a captured state."""
        rung = None if effort is None else rungs.read(effort)
        if not isinstance(rung, rungs.Peek):
            return Span(0, steps)
        if not task.states:
            return Span(0, rung.upto)
        x0 = torch.stack(task.states)[:, 1].to(self.model.device)
        return Span(rung.start, rung.upto, PreviousStep(x0, self.model.levels(self.spec.steps)[rung.start - 1]))

    def _left_behind(self, z: Tensor, span: Span, steps: int, effort: rungs.Effort) -> tuple[Tensor, Tensor | None]:
        """What is decoded and judged [B, C, h, w], and what the next rung needs of it: a state [B, 2, C, h, w], or the
        sample itself [B, 1, C, h, w] where the steering learns from drafts.
        """
        judged = z
        states = None
        if span.end < steps:
            assert span.previous is not None
            judged = span.previous.x0
            states = None if self.spec.exact else torch.stack([z, judged], 1)
        if self.setup.steering.learns_from_drafts and effort is not None:
            states = z[:, None]
        return judged, states

    def _run_of(self, task: Task, row: int) -> Spec:
        return task.owners[row].spec if task.owners else self.spec

    def _told(self, task: Task) -> Conditioning:
        """What the network is told of every row; where a batch is shared, each row has its own run's prompt."""
        if task.owners:
            return joined([owner.conditioning for owner in task.owners])
        return self._conditioning(len(task.indices))

    def _conditioning(self, n: int) -> Conditioning:
        return self.setup.conditioning.take(torch.zeros(n, dtype=torch.int64))

    def _picture(self, z: Tensor) -> Tensor:
        decoded = self.model.decode(z)
        return (decoded.detach() * 255).round() / 255 + (decoded - decoded.detach())

    def _score(self, z: Tensor, prompts: Sequence[str]) -> Tensor:
        if self.setup.early_levels:
            raise FairleadError(
                f"{self.reward.name} compares a finished picture with its early prediction, so a steering cannot use "
                "it while the picture is sampled. Choose another reward, or no steering."
            )
        reward = self.reward.optimised
        images = self.model.decode(z)
        total, terms = self._judge(reward, images, prompts, rivals=True)
        if any(isinstance(leaf, HumanReward) for leaf in reward.leaves()):
            if self.previews is None:
                raise FairleadError(f"{reward.name} asks a person, which needs a recorded run. Start one.")
            with self.meter.paused():
                total = self.previews(reward, images, terms, self.spec.prompt)
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
        except (Exception, SystemExit) as error:
            raise RewardError(
                f"Reward {reward.name!r} raised {type(error).__name__}: {error}. Candidates scored before are kept. "
                "Fix the reward, then resume the run."
            ) from error


def _png(
    spec: Spec, image: Tensor, index: int, key: Key, reward: float, terms: Mapping[str, float], steps: int
) -> bytes:
    version = machine.versions()["fairlead"]
    data = png.recipe(spec, version, index, key.hex(), reward, terms, index == BASELINE, steps)
    size = (image.shape[-1], image.shape[-2])
    return png.encode(png.pixels(image), data, png.parameters(spec, size, version, index, steps))


def _halves(task: Task) -> list[Task]:
    """The first and the second half of a task, its groups whole; the task alone if it is one group."""
    names = list(dict.fromkeys(task.groups))
    first = set(names[: (len(names) + 1) // 2])
    inside = [i for i, group in enumerate(task.groups) if group in first]
    outside = [i for i, group in enumerate(task.groups) if group not in first]
    if not outside:
        return [task]
    return [part_of(task, inside), part_of(task, outside)]
