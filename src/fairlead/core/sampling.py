"""The denoising loop. It is the only one, so that step index, ownership of rows and counting are facts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from fairlead.core.cost import Cost, Meter
from fairlead.core.key import Key, normals
from fairlead.core.model import Conditioning, Level, Predicts, Rows, recomputed
from fairlead.core.samplers import PreviousStep, Sampler, StatefulSampler
from fairlead.core.sibling import Sibling
from fairlead.core.steering import Chain, Denoise, Schedule, Steering, Step

OnPrediction = Callable[[Tensor, int, int], None]
"""Called after every step with the clean prediction x0 [B, C, h, w] that the step was taken with, which it must not
write to, with how many steps are taken, and of how many."""


@dataclass
class Span:
    """The part of a trajectory that is sampled, and what multistep samplers carry over from one part to the next."""

    first: int
    """The step that starts."""
    end: int
    """The step before which it stops."""
    previous: PreviousStep | None = None
    """The step before `first`; once sampled, the last step taken."""


def replicas(rows: Tensor) -> Tensor:
    """Rows [R] int64 -> [R] int64: how often this sample occurred before in the same call."""
    times: dict[int, int] = {}
    out = []
    for row in rows.tolist():
        out.append(times.get(row, 0))
        times[row] = out[-1] + 1
    return torch.tensor(out, dtype=torch.int64)


def _denoiser(
    model: Predicts,
    conditioning: Callable[[], Conditioning],
    group: Tensor,
    index: int,
    steps: int,
    meter: Meter,
) -> Denoise:
    """A model's `predict` as the `denoise` of a step: knows the owner of every row and charges before it works."""
    everyone = torch.arange(len(group))

    def denoise(y: Tensor, level: Level, rows: Tensor) -> Tensor:
        meter.charge(Cost(nfe=len(y)))
        same = torch.equal(rows, everyone)
        copies = torch.zeros_like(rows) if same else replicas(rows)
        owner = Rows(rows, group[rows], copies, torch.ones(len(rows), dtype=torch.bool), index, steps, level)
        cond = conditioning() if same else conditioning().take(rows)
        if torch.is_grad_enabled() and (y.requires_grad or cond.requires_grad):
            return recomputed(model, y, level, cond, owner)
        return model.predict(y, level, cond, owner)

    return denoise


def _sibling_denoisers(
    siblings: Mapping[str, Sibling], group: Tensor, index: int, steps: int, meter: Meter
) -> dict[str, tuple[Denoise, Schedule]]:
    """What `Step.siblings` holds."""
    found: dict[str, tuple[Denoise, Schedule]] = {}
    for name, sibling in siblings.items():
        own = partial(sibling.conditioning, len(group))
        found[name] = (_denoiser(sibling, own, group, index, steps, meter), sibling.levels)
    return found


def _gradient(f: Callable[[Tensor], Tensor], x: Tensor, meter: Meter) -> tuple[Tensor, Tensor]:
    """Values [R] and gradient of f at x [R, ...]; as many rows are charged as the network saw forwards."""
    before = meter.spent
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = f(x)
        meter.charge(Cost(backwards=(meter.spent - before).forwards))
        (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), gradient


def sample(
    model: Predicts,
    sampler: Sampler,
    x: Tensor,
    cond: Conditioning,
    levels: Sequence[Level],
    keys: tuple[Key, ...],
    meter: Meter,
    *,
    steering: Steering | None = None,
    groups: Tensor | None = None,
    score: Callable[[Tensor, Sequence[str]], Tensor] | None = None,
    siblings: Mapping[str, Sibling] | None = None,
    notes: dict[str, Tensor] | None = None,
    span: Span | None = None,
    on_step: OnPrediction | None = None,
) -> Tensor:
    """x [B, C, h, w] at levels[0] -> x [B, C, h, w] at levels[-1]. The whole loop.

    `notes` receives what steerings record with `Step.note`. With `span`, x is at its first level and only a part of
    the steps is taken; everything else is as in the whole loop.
    `on_step` costs no evaluation: the step needs the prediction in any case.
    """
    steering = Chain(() if steering is None else (steering,))
    levels = steering.grid(levels, model.levels)
    if isinstance(sampler, StatefulSampler):
        sampler = sampler.down(levels)
    group = torch.arange(len(x)) if groups is None else groups
    steps = len(levels) - 1
    memory: dict[str, Any] = {} if notes is None else {"notes": notes}
    span = span or Span(0, steps)
    if span.previous is not None:
        memory["previous"] = span.previous

    def conditioning() -> Conditioning:
        current: Conditioning = memory.get("conditioning", cond)
        return current

    def scored(z: Tensor, rows: Tensor) -> Tensor:
        if score is None:
            raise RuntimeError("This steering needs a reward, but sample() was called without one.")
        return score(z, [cond.prompts[row] for row in rows.tolist()])

    def step_at(i: int, at: Level, to: Level, x: Tensor) -> Step:
        noise = torch.empty(0)
        if sampler.stochastic:
            noise = normals(tuple(key.fold("step", i) for key in keys), *x.shape[1:])
        return Step(
            x=x,
            at=at,
            to=to,
            index=i,
            steps=steps,
            keys=tuple(key.fold("steer", i) for key in keys),
            groups=group,
            noise=noise.to(x.device),
            memory=memory,
            denoise=_denoiser(model, conditioning, group, i, steps, meter),
            schedule=model.levels,
            score=scored,
            sampler=sampler,
            prompt_conditioning=cond,
            gradient=partial(_gradient, meter=meter),
            levels=levels,
            siblings=_sibling_denoisers(siblings or {}, group, i, steps, meter),
        )

    moves = list(enumerate(pairwise(levels)))[span.first : span.end]
    for taken, (i, (at, to)) in enumerate(moves, start=1):
        step = steering(step_at(i, at, to, x)).solved()
        x = step.run()
        if on_step is not None and step.x0 is not None:
            on_step(step.x0, taken, len(moves))
        if step.last:
            break
    span.previous = memory.get("previous")
    return x
