"""What takes a step: one function per sampler."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from fairlead.core.errors import FairleadError
from fairlead.core.model import Level

Inner = Callable[[Tensor, Level], Tensor]
"""The denoiser as a sampler sees it: x [R, C, h, w], level -> x0 [R, C, h, w]."""


class SamplerState(Protocol):
    """What a sampler remembers of the steps before, by sample."""

    def take(self, rows: Tensor) -> SamplerState:
        """Rows [R] int64 -> the memory of these samples, repeats allowed."""
        ...


@dataclass(frozen=True)
class PreviousStep:
    """The step before, for multistep samplers."""

    x0: Tensor
    """Its clean prediction [R, C, h, w]."""
    at: Level
    state: SamplerState | None = None
    """What a `StatefulSampler` remembers; None of other samplers."""

    def take(self, rows: Tensor) -> PreviousStep:
        """Rows [R] int64 -> the history of these samples, repeats allowed."""
        state = None if self.state is None else self.state.take(rows)
        return PreviousStep(self.x0[rows.to(self.x0.device)], self.at, state)


class Sampler(Protocol):
    """One function per method. `denoise` may be called again (Heun); unit normal `noise` may be ignored."""

    stochastic: bool
    """True if the step uses `noise`; the loop draws none otherwise."""

    def __call__(
        self, denoise: Inner, x: Tensor, x0: Tensor, at: Level, to: Level, noise: Tensor, previous: PreviousStep | None
    ) -> Tensor:
        """x, x0, noise [R, C, h, w] -> x at `to` [R, C, h, w]."""
        ...


class StatefulSampler(ABC):
    """A sampler that remembers more than the step before. It may be called as any other, then without memory."""

    stochastic: bool
    nearest: Sampler
    """The sampler above all others that steps alike, for levels that this one cannot step between."""

    @abstractmethod
    def down(self, levels: Sequence[Level]) -> StatefulSampler:
        """The same sampler for one trajectory along these levels, noisiest first."""

    @abstractmethod
    def __call__(
        self, denoise: Inner, x: Tensor, x0: Tensor, at: Level, to: Level, noise: Tensor, previous: PreviousStep | None
    ) -> Tensor:
        """As `Sampler`."""

    @abstractmethod
    def moved(
        self, denoise: Inner, x: Tensor, x0: Tensor, at: Level, to: Level, noise: Tensor, previous: PreviousStep | None
    ) -> tuple[Tensor, SamplerState | None]:
        """x at `to` [R, C, h, w], and what the next step must know of these samples."""


@runtime_checkable
class HasScheduler(Protocol):
    """A model whose pipeline has a scheduler of its own."""

    def own_sampler(self) -> Sampler:
        """The sampler that steps by that scheduler."""
        ...


def _sampler(stochastic: bool = False) -> Callable[[Callable[..., Tensor]], Sampler]:
    def mark(f: Callable[..., Tensor]) -> Sampler:
        f.stochastic = stochastic  # type: ignore[attr-defined]
        return f  # type: ignore[return-value]

    return mark


@_sampler()
def euler(
    denoise: Inner, x: Tensor, x0: Tensor, at: Level, to: Level, noise: Tensor, previous: PreviousStep | None
) -> Tensor:
    """First-order step of the probability-flow ODE; DDIM with eta 0 (Song et al. 2021, eq. 12)."""
    return line(x, x0, at, to)


def line(x: Tensor, x0: Tensor, at: Level, to: Level) -> Tensor:
    """x [R, C, h, w] at `at`, moved to `to` as if x0 stayed what it is."""
    return to.alpha * x0 + to.sigma * ((x - at.alpha * x0) / at.sigma)


@_sampler()
def heun(
    denoise: Inner, x: Tensor, x0: Tensor, at: Level, to: Level, noise: Tensor, previous: PreviousStep | None
) -> Tensor:
    """Second-order step by the trapezoid rule on dx = x0 dalpha + noise dsigma; one more evaluation unless sigma is 0.

    At alpha = 1 this is Algorithm 1 of Karras et al. 2022, on rectified flow it is Heun on the velocity.
    """
    y = euler(denoise, x, x0, at, to, noise, previous)
    if to.sigma == 0:
        return y
    y0 = denoise(y, to)
    eps = (x - at.alpha * x0) / at.sigma
    eps_y = (y - to.alpha * y0) / to.sigma
    return x + 0.5 * ((to.alpha - at.alpha) * (x0 + y0) + (to.sigma - at.sigma) * (eps + eps_y))


@_sampler()
def dpmpp_2m(
    denoise: Inner, x: Tensor, x0: Tensor, at: Level, to: Level, noise: Tensor, previous: PreviousStep | None
) -> Tensor:
    """DPM-Solver++ 2M (Lu et al. 2022, Algorithm 2), one evaluation a step; first order at the ends."""
    if previous is not None and to.sigma > 0 and previous.at.alpha > 0:
        h = _log_snr(to) - _log_snr(at)
        before = _log_snr(at) - _log_snr(previous.at)
        x0 = x0 + (0.5 * h / before) * (x0 - previous.x0)
    return euler(denoise, x, x0, at, to, noise, None)


def _log_snr(level: Level) -> float:
    return math.log(level.alpha / level.sigma)


@_sampler(stochastic=True)
def ancestral(
    denoise: Inner, x: Tensor, x0: Tensor, at: Level, to: Level, noise: Tensor, previous: PreviousStep | None
) -> Tensor:
    """The exact posterior of the forward process given x0; DDIM with eta 1, DDPM (Song et al. 2021, eq. 12 and 16)."""
    if to.sigma == 0:
        return to.alpha * x0
    kernel = at.sigma**2 - (at.alpha / to.alpha * to.sigma) ** 2
    up = min(to.sigma / at.sigma * math.sqrt(max(0.0, kernel)), to.sigma)
    return to.alpha * x0 + math.sqrt(to.sigma**2 - up**2) * ((x - at.alpha * x0) / at.sigma) + up * noise


@_sampler(stochastic=True)
def consistency(
    denoise: Inner, x: Tensor, x0: Tensor, at: Level, to: Level, noise: Tensor, previous: PreviousStep | None
) -> Tensor:
    """The clean prediction with fresh noise (Song et al. 2023, Algorithm 1); for networks that jump to the end: LCM,
    DMD2.

    The boundary weights of LCM differ from (0, 1) by less than 1e-4 at every step of its schedules and are left out.
    """
    return to.alpha * x0 + to.sigma * noise if to.sigma > 0 else to.alpha * x0


@_sampler()
def scheduler(
    denoise: Inner, x: Tensor, x0: Tensor, at: Level, to: Level, noise: Tensor, previous: PreviousStep | None
) -> Tensor:
    """The pipeline's own scheduler, which steps as in the pipeline's own call.

    This function only stands for it: `sampler_for` replaces it by the model's `own_sampler()`.
    """
    return euler(denoise, x, x0, at, to, noise, previous)


def sampler_for(sampler: Sampler, model: object) -> Sampler:
    """The sampler as it steps this model: `scheduler` becomes the model's own, and all others stay as they are."""
    if sampler is not scheduler:
        return sampler
    if not isinstance(model, HasScheduler):
        raise FairleadError("The sampler 'scheduler' needs a diffusers pipeline. Use --sampler euler with this model.")
    return model.own_sampler()
