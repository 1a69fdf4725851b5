"""The denoise loop, and what a steering sees of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from fairlead.core.cost import Cost, Meter
from fairlead.core.key import Key, normals
from fairlead.core.model import Conditioning, Level, Model, Rows, recomputed
from fairlead.core.samplers import Past as Past
from fairlead.core.samplers import Sampler as Sampler
from fairlead.core.samplers import ancestral as ancestral
from fairlead.core.samplers import consistency as consistency
from fairlead.core.samplers import dpmpp_2m as dpmpp_2m
from fairlead.core.samplers import euler as euler
from fairlead.core.samplers import heun as heun
from fairlead.core.samplers import line
from fairlead.core.sibling import Named, Sibling, label

Denoise = Callable[[Tensor, Level, Tensor], Tensor]
Shift = Callable[[Tensor, Level, Tensor], Tensor]


def _same(x: Tensor) -> Tensor:
    return x


def _no_slope(f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    raise RuntimeError("this step was made without a meter for gradients")


@dataclass(frozen=True)
class Step:
    """One step of the loop as data. A steering returns another Step; the loop runs it."""

    x: Tensor
    """[B, C, h, w] float32"""
    at: Level
    to: Level
    index: int
    steps: int
    keys: tuple[Key, ...]
    """length B; private to this step and to steering (the loop's own noise has other keys)"""
    groups: Tensor
    """[B] int64"""
    noise: Tensor
    """[B, C, h, w] unit normal, row b a function of sample b's key alone; empty for deterministic samplers"""
    memory: dict[str, Any]
    """Per trajectory, empty at step 0: multistep history, last rewards."""
    denoise: Denoise
    """x [R, C, h, w], level, rows [R] -> x0 [R, C, h, w]; metered"""
    ladder: Callable[[int], Sequence[Level]]
    """The model's levels for that many steps."""
    score: Callable[[Tensor, Tensor], Tensor]
    """x0 [R, C, h, w], rows [R] -> reward [R]; decode and reward, metered"""
    sampler: Sampler
    x0: Tensor | None = None
    """[B, C, h, w] clean prediction at (x, at), once somebody has paid for it"""
    after: Callable[[Tensor], Tensor] = _same
    last: bool = False
    """True if the sample has arrived after this step: the rest of the grid is left out, and nobody steers it."""
    told: Conditioning | None = None
    """What the network is told, row b for sample b; `cond` is what it is told now."""
    slope: Callable[[Callable[[Tensor], Tensor], Tensor], tuple[Tensor, Tensor]] = _no_slope
    """f: [R, ...] -> [R], and a place [R, ...] -> values [R] and gradient [R, ...]; the rows differentiated are charged"""
    others: Mapping[str, tuple[Denoise, Callable[[int], Sequence[Level]]]] = field(default_factory=dict)
    """The siblings a steering named, as `denoise` and `ladder` in this model's coordinates."""

    @property
    def rows(self) -> Tensor:
        """[B] int64: every sample once."""
        return torch.arange(len(self.x))

    @property
    def cond(self) -> Conditioning:
        """What the network is told from here on."""
        told = self.memory.get("told", self.told)
        assert isinstance(told, Conditioning)
        return told

    def tell(self, cond: Conditioning) -> Step:
        """Tell the network something else in this step and the following ones; a prediction made before is forgotten."""
        self.memory["told"] = cond
        return replace(self, x0=None)

    def note(self, name: str, values: Tensor) -> None:
        """A number per sample [B] for the record, beside the terms of the reward; the last one counts."""
        self.memory.setdefault("notes", {})[name] = values

    def guide(self, shift: Shift) -> Step:
        """Add shift(x, at, rows) [R, C, h, w] to every clean prediction of this step.

        A prediction already paid for is shifted, not bought again.
        """
        inner, known = self.denoise, self.x0

        def guided(x: Tensor, at: Level, rows: Tensor) -> Tensor:
            return inner(x, at, rows) + shift(x, at, rows)

        return replace(self, denoise=guided, x0=None if known is None else known + shift(self.x, self.at, self.rows))

    def with_noise(self, noise: Tensor) -> Step:
        """The same step with other noise [B, C, h, w]."""
        return replace(self, noise=noise)

    def then(self, after: Callable[[Tensor], Tensor]) -> Step:
        """Apply after(x) [B, C, h, w] -> [B, C, h, w] once the step is taken (resampling, renoising).

        Rows may have moved, so multistep history is dropped: the next step starts at first order.
        """
        before = self.after
        return replace(self, after=lambda x: after(before(x)))

    def solve(self, x: Tensor, levels: Sequence[Level], rows: Tensor) -> Tensor:
        """x [R, C, h, w] at levels[0], rows [R] -> x at levels[-1] by first-order ODE moves; metered, one NFE a move."""
        for a, b in pairwise(levels):
            x = line(x, self.denoise(x, a, rows), a, b)
        return x

    def peek(self, x: Tensor, at: Level, rows: Tensor, steps: int) -> Tensor:
        """x [R, C, h, w] at `at`, rows [R] -> x0 [R, C, h, w] by a short ODE with this step's guidance; metered."""
        return self.solve(x, [at, *(level for level in self.ladder(steps) if level.sigma < at.sigma)], rows)

    def by(self, model: Named | None) -> Step:
        """The same place seen by a sibling: its denoiser, unguided, and its levels. None is this model, as it stands.

        `step.by("pocket-turbo").peek(x, at, rows, 1)` is the sibling's clean prediction of x at `at`; metered alike.
        """
        if model is None:
            return self
        denoise, ladder = self.others[label(model)]
        return replace(self, denoise=denoise, ladder=ladder, x0=None)

    def solved(self) -> Step:
        """The same step with x0 known: one evaluation per sample the first time, none afterwards."""
        return self if self.x0 is not None else replace(self, x0=self.denoise(self.x, self.at, self.rows))

    def advance(self, noise: Tensor, rows: Tensor) -> Tensor:
        """Noise [R, C, h, w], rows [R] -> rows of x moved to `to`, [R, C, h, w]. Needs a solved step."""
        if self.x0 is None:
            raise RuntimeError("advance() needs the clean prediction: call solved() first")
        on = rows.to(self.x.device)
        past: Past | None = self.memory.get("past")
        if past is not None:
            past = Past(past.x0[on], past.at)
        denoise = self.denoise
        return self.sampler(lambda y, at: denoise(y, at, rows), self.x[on], self.x0[on], self.at, self.to, noise, past)

    def run(self) -> Tensor:
        """Solved, advanced with `noise`, then `after`: [B, C, h, w]."""
        ready = self.solved()
        assert ready.x0 is not None
        x = ready.advance(ready.noise, ready.rows)
        if ready.after is _same:
            self.memory["past"] = Past(ready.x0, ready.at)
            return x
        self.memory.pop("past", None)
        return ready.after(x)


class Render(Protocol):
    """n keys, steps -> x0 [n, C, h, w] of the run's prompt, unsteered, by the run's model or a sibling."""

    def __call__(
        self, keys: tuple[Key, ...], steps: int, *, model: Named | None = None, sampler: Sampler | None = None
    ) -> Tensor:
        """Left out, the sampler is euler, or the one a sibling was made for."""
        ...


@dataclass(frozen=True)
class Scene:
    """What a steering may do once per prompt, before any sampling. Metered; done on one worker, sent to the others."""

    key: Key
    render: Render
    score: Callable[[Tensor], Tensor]
    """x0 [n, C, h, w] -> reward [n]"""
    batch: int = 16
    """How many the run renders at once: ask for more in pieces of this size."""
    recorded: Callable[[str], Mapping[str, Tensor]] | None = None
    """Directory of another run of the same prompt and model -> the tensors its steering prepared, `<part>.<field>`."""


class Steering(Protocol):
    """Acts inside the denoise loop. A frozen dataclass: its fields are its settings and, once prepared, its tensors.

    One whose cost depends on scores has a class attribute `adaptive = True` and must cost most where no score is
    better than another, which is what a dry run sees. One that scores together exactly what it compares may say
    `compares = True`: rewards that rank pictures are then allowed. One that survives `Enough`, which ends the questions to a
    person about one sample, may say `asks = True`. One that asks other models of the same latent space names them in
    `siblings`, a tuple of `Named`; they are loaded with the run's model. One that lives on the sampler's noise says
    `stochastic = True`, one that asks for gradients of the reward `differentiates = True`. One that decides where samples
    are after a step says `decides = "noise"` or `"rows"` if it makes the noise or moves samples between rows, `"state"` if it
    leaves nothing of what others decided: that one stands last, behind none that decides. One with its own noise levels
    has a method `grid(levels, ladder) -> levels`: what the loop walks down instead of the model's, from the same first, and in
    `least_moves` how many it needs to be accurate. One that does nothing to a group of one says `needs_company = True`.
    """

    @property
    def couples(self) -> bool:
        """True if samples of one group influence each other (resampling). The engine then never cuts a group."""
        ...

    def prepare(self, scene: Scene) -> Steering:
        """What is done once per prompt; returns the steering to use."""
        ...

    def __call__(self, step: Step) -> Step:
        """The step to run instead."""
        ...


@dataclass(frozen=True)
class Chain:
    """Parts in order: what the second sees is what the first made. The empty chain is the plain sampler."""

    parts: tuple[Steering, ...] = ()

    @property
    def couples(self) -> bool:
        """True if any part couples."""
        return any(part.couples for part in self.parts)

    def grid(self, levels: Sequence[Level], ladder: Callable[[int], Sequence[Level]]) -> Sequence[Level]:
        """The levels of the loop, by the parts that have their own."""
        for part in self.parts:
            levels = part.grid(levels, ladder) if hasattr(part, "grid") else levels
        return levels

    def prepare(self, scene: Scene) -> Chain:
        """Every part prepared, in order."""
        return Chain(tuple(part.prepare(scene) for part in self.parts))

    def __call__(self, step: Step) -> Step:
        """The step as the last part leaves it."""
        for part in self.parts:
            step = part(step)
        return step


class Glimpse:
    """Last in a chain: keeps the clean predictions at wanted shares of noise sigma/(alpha + sigma). Costs no evaluation.

    Each is taken at the step of the grid that is nearest, the noisier of equals; the grid should hold it.
    """

    couples = False

    def __init__(self, levels: Sequence[Level], wanted: Iterable[float]) -> None:
        self._wanted = tuple(wanted)
        self.grid(levels, lambda steps: levels)
        self.seen: dict[float, Tensor] = {}
        """Wanted share -> x0 [B, C, h, w]"""

    def grid(self, levels: Sequence[Level], ladder: Callable[[int], Sequence[Level]]) -> Sequence[Level]:
        """The levels as they are; here it is decided where to look."""
        shares = [at.sigma / (at.alpha + at.sigma) for at in levels[:-1]]
        self._at: dict[int, list[float]] = {}
        for level in self._wanted:
            nearest = min(range(len(shares)), key=lambda i: abs(shares[i] - level))
            self._at.setdefault(nearest, []).append(level)
        return levels

    def prepare(self, scene: Scene) -> Glimpse:
        """Nothing to prepare."""
        return self

    def __call__(self, step: Step) -> Step:
        """The same step, solved where somebody wants to look."""
        if step.index not in self._at:
            return step
        step = step.solved()
        assert step.x0 is not None
        self.seen.update(dict.fromkeys(self._at[step.index], step.x0))
        return step


def replicas(rows: Tensor) -> Tensor:
    """Rows [R] int64 -> [R] int64: how often this sample occurred before in the same call."""
    seen: dict[int, int] = {}
    out = []
    for r in rows.tolist():
        out.append(seen.get(r, 0))
        seen[r] = out[-1] + 1
    return torch.tensor(out, dtype=torch.int64)


def _asking(
    model: Any, told: Callable[[], Conditioning], group: Tensor, step: int, steps: int, meter: Meter
) -> Callable[[Tensor, Level, Tensor], Tensor]:
    """A model's `predict` as `denoise`: whose row is whose, charged before it works."""
    everyone = torch.arange(len(group))

    def denoise(y: Tensor, level: Level, rows: Tensor) -> Tensor:
        meter.charge(Cost(nfe=len(y)))
        same = torch.equal(rows, everyone)
        copies = torch.zeros_like(rows) if same else replicas(rows)
        owner = Rows(rows, group[rows], copies, torch.ones(len(rows), dtype=torch.bool), step, steps, level)
        cond = told() if same else told().take(rows)
        if torch.is_grad_enabled() and (y.requires_grad or cond.moves):
            return recomputed(model, y, level, cond, owner)
        out: Tensor = model.predict(y, level, cond, owner)
        return out

    return denoise


def _slope(f: Callable[[Tensor], Tensor], x: Tensor, meter: Meter) -> tuple[Tensor, Tensor]:
    before = meter.spent
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = f(x)
        meter.charge(Cost(backwards=(meter.spent - before).forwards))
        (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), gradient


def sample(
    model: Model,
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
) -> Tensor:
    """x [B, C, h, w] at levels[0] -> x [B, C, h, w] at levels[-1]. The whole loop, and the only one.

    `notes` takes what steerings note.
    """
    steering = Chain(() if steering is None else (steering,))
    levels = steering.grid(levels, model.levels)
    group = torch.arange(len(x)) if groups is None else groups
    steps = len(levels) - 1
    memory: dict[str, Any] = {} if notes is None else {"notes": notes}

    def now() -> Conditioning:
        told: Conditioning = memory.get("told", cond)
        return told

    beside = {name: (kin, partial(kin.told, len(x))) for name, kin in (siblings or {}).items()}
    for i, (at, to) in enumerate(pairwise(levels)):

        def scored(z: Tensor, rows: Tensor) -> Tensor:
            if score is None:
                raise RuntimeError("this steering needs a reward, and the loop was given none")
            return score(z, [cond.prompts[i] for i in rows.tolist()])

        drawn = normals(tuple(k.fold("step", i) for k in keys), *x.shape[1:]) if sampler.stochastic else torch.empty(0)
        step = Step(
            x=x,
            at=at,
            to=to,
            index=i,
            steps=steps,
            keys=tuple(k.fold("steer", i) for k in keys),
            groups=group,
            noise=drawn.to(x.device),
            memory=memory,
            denoise=_asking(model, now, group, i, steps, meter),
            ladder=model.levels,
            score=scored,
            sampler=sampler,
            told=cond,
            slope=lambda f, y: _slope(f, y, meter),
            others={n: (_asking(k, own, group, i, steps, meter), k.levels) for n, (k, own) in beside.items()},
        )
        step = steering(step)
        x = step.run()
        if step.last:
            break
    return x
