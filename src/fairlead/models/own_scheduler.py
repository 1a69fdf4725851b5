"""The pipeline's own scheduler object as a sampler: it takes the steps, and its memory follows every sample.

A scheduler keeps what its next step needs in its own attributes: earlier outputs of the network, the state that a
two-stage step started from, counters. All of its arithmetic is by element. So a copy of the object is the memory of a
batch, and the rows of its tensors are the memories of its samples.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from itertools import pairwise
from types import FunctionType
from typing import Any

from torch import Tensor

from fairlead.core import samplers
from fairlead.core.errors import FairleadError
from fairlead.core.model import Level
from fairlead.core.samplers import Inner, PreviousStep, Sampler, StatefulSampler
from fairlead.core.twins import nearest_to, steps_itself
from fairlead.models.schedule import Coordinates, flow_levels, network_calls

CLOSE = 1e-5
"""Largest difference of sigma/(alpha + sigma) at which a level is the scheduler's own."""
STARTS_ONCE = ("LMSDiscreteScheduler", "PNDMScheduler")
"""Schedulers whose warm-up works only at the first step: without memory they cannot continue."""


@dataclass(frozen=True)
class SchedulerState:
    """A scheduler in the middle of a trajectory."""

    scheduler: Any

    def take(self, rows: Tensor) -> SchedulerState:
        """Rows [R] int64 -> the memory of these samples, repeats allowed."""
        return SchedulerState(_copied(self.scheduler, lambda value: value[rows.to(value.device)]))


def _copied(scheduler: Any, of_samples: Callable[[Tensor], Tensor] = lambda value: value) -> Any:
    """Another object with the same memory. `of_samples` acts on tensors [B, C, h, w]; all others are schedules."""

    def copied(value: Any) -> Any:
        if isinstance(value, Tensor) and value.ndim == 4:
            return of_samples(value)
        return [copied(one) for one in value] if isinstance(value, list) else value

    out = copy.copy(scheduler)
    vars(out).update({name: copied(value) for name, value in vars(scheduler).items()})
    return out


class SchedulerSampler(StatefulSampler):
    """Steps by a scheduler object of diffusers, along the levels that this scheduler has for a number of steps.

    A move between other levels (a draft that skips levels, a schedule that a steering brings) is taken by `nearest`.
    """

    def __init__(
        self,
        coordinates: Coordinates,
        prepared: Callable[[int], Any],
        nearest: Sampler,
        whole_steps: Callable[[int], Sequence[int]] = lambda moves: [moves],
    ) -> None:
        """`prepared(steps)` is a scheduler whose timesteps are set as its pipeline sets them.

        `whole_steps(moves)` are the numbers of steps whose last `moves` a trajectory may be.
        """
        self.nearest = nearest
        self._coordinates = coordinates
        self._prepared = prepared
        self._whole_steps = whole_steps
        self._scheduler: Any = None
        self._calls: list[list[int]] = []
        self._levels: list[Level] = []
        self._moves: dict[tuple[Level, Level], int] = {}
        self.stochastic = draws_noise(prepared(2))

    def down(self, levels: Sequence[Level]) -> SchedulerSampler:
        """The same sampler for one trajectory."""
        out = copy.copy(self)
        out._moves = {}
        for steps in self._whole_steps(len(levels) - 1) if len(levels) > 1 else ():
            scheduler = self._prepared(steps)
            calls = network_calls(scheduler)
            own = self._coordinates.levels(scheduler)
            first = len(calls) - (len(levels) - 1)
            starts = [own[call[0]] for call in calls[max(first, 0) :]]
            if first >= 0 and all(map(_alike, levels, starts)):
                out._scheduler = scheduler
                out._calls = calls
                out._levels = own
                out._moves = {move: first + i for i, move in enumerate(pairwise(levels))}
                break
        return out

    def __call__(
        self, denoise: Inner, x: Tensor, x0: Tensor, at: Level, to: Level, noise: Tensor, previous: PreviousStep | None
    ) -> Tensor:
        """The next state alone."""
        return self.moved(denoise, x, x0, at, to, noise, previous)[0]

    def moved(
        self, denoise: Inner, x: Tensor, x0: Tensor, at: Level, to: Level, noise: Tensor, previous: PreviousStep | None
    ) -> tuple[Tensor, SchedulerState | None]:
        """x, x0, noise [R, C, h, w] -> x at `to` [R, C, h, w], and what the next step must know."""
        place = self._moves.get((at, to))
        state = None if previous is None else previous.state
        lost = not isinstance(state, SchedulerState)
        if place is None or (lost and place > 0 and type(self._scheduler).__name__ in STARTS_ONCE):
            return self.nearest(denoise, x, x0, at, to, noise, previous), None
        scheduler = _copied(state.scheduler) if isinstance(state, SchedulerState) else self._restarted(place)
        step = _step_with(scheduler, noise)
        words = {"eta": 0.0} if "eta" in signature(step).parameters else {}  # as pipelines do
        sample = x / self._scale(at)
        for call, j in enumerate(self._calls[place]):
            here = at if call == 0 else self._levels[j]
            y = sample * self._scale(here)
            if call > 0:
                x0 = denoise(y, here)
            time = scheduler.timesteps[j]
            if hasattr(scheduler, "scale_model_input"):  # the network's input is made elsewhere, but some insist on it
                scheduler.scale_model_input(sample, time)
            sample = step(self._coordinates.output(y, x0, here), time, sample, return_dict=False, **words)[0]
        return sample * self._scale(to), SchedulerState(scheduler)

    def _restarted(self, place: int) -> Any:
        """A scheduler that remembers nothing and continues at this step."""
        scheduler = _copied(self._scheduler)
        if place > 0 and hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(self._calls[place][0])
        return scheduler

    def _scale(self, at: Level) -> float:
        """What a scheduler's sample is multiplied with to be x at this level."""
        return at.alpha if self._coordinates.kind == "exploding" else 1.0


def _alike(one: Level, other: Level) -> bool:
    return abs(one.time - other.time) < CLOSE


def draws_noise(scheduler: Any) -> bool:
    """True if the steps of a scheduler add noise."""
    config = scheduler.config
    if type(scheduler).__name__.removesuffix("Scheduler") in (
        "DDPM",
        "EulerAncestralDiscrete",
        "FlowMatchLCM",
        "KDPM2AncestralDiscrete",
        "LCM",
    ):
        return True
    return str(config.get("algorithm_type")).startswith("sde") or bool(config.get("stochastic_sampling"))


def _step_with(scheduler: Any, noise: Tensor) -> Callable[..., Any]:
    """The scheduler's `step`, which draws the given noise [R, C, h, w] wherever it would draw from a generator.

    The function is bound again with another `randn_tensor`; the module that it comes from is not changed.
    """
    step = type(scheduler).step
    step = getattr(step, "__wrapped__", step)
    if not draws_noise(scheduler):
        return scheduler.step  # type: ignore[no-any-return]
    scope = {**step.__globals__, "randn_tensor": lambda *args, **words: noise}
    own = FunctionType(step.__code__, scope, step.__name__, step.__defaults__, step.__closure__)
    own.__kwdefaults__ = step.__kwdefaults__
    return own.__get__(scheduler)


class OwnScheduler:
    """The part of an adapter that knows how its pipeline sets up its scheduler."""

    pipe: Any

    def whole_steps(self, moves: int) -> Sequence[int]:
        """The numbers of steps whose schedules may be walked in so many moves."""
        return [moves]

    @abstractmethod
    def prepared(self, steps: int) -> Any:
        """A copy of the pipeline's scheduler with timesteps set for so many steps, as the pipeline sets them."""

    def whole_levels(self, steps: int) -> Sequence[Level]:
        """`steps` + 1 of them, noisiest first; the default reads them from `prepared` as rectified flow."""
        return flow_levels(self.prepared(steps))

    def coordinates(self) -> Coordinates:
        """What the scheduler's states and the network's output mean; the default is rectified flow."""
        return Coordinates("flow", "flow_prediction")

    def flow_time(self, at: Level) -> float:
        """The network's time of a rectified-flow level, in [0, 1]; some schedulers pass on whole numbers of it."""
        if not self.pipe.scheduler.config.get("use_flow_sigmas"):
            return at.sigma
        trained = float(self.pipe.scheduler.config.num_train_timesteps)
        return math.floor(at.sigma * trained + 1e-4) / trained

    def own_sampler(self) -> Sampler:
        """The sampler that steps by the pipeline's scheduler."""
        name = type(self.pipe.scheduler).__name__
        if not steps_itself(name, self.pipe.scheduler.config):
            nearest = nearest_to(name)
            raise FairleadError(
                f"{name} cannot take the steps of a run: its memory cannot be kept by sample. Use --sampler {nearest}, "
                "or another scheduler of docs/schedulers.md."
            )
        return SchedulerSampler(
            self.coordinates(), self.prepared, getattr(samplers, nearest_to(name)), self.whole_steps
        )
