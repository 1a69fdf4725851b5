"""A Gaussian mixture with everything in closed form: denoiser, score, density, tilted posterior.

With it an algorithm is tested against a theorem in milliseconds. Components share one isotropic variance, so that an
exponential tilt by a linear reward is again such a mixture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fairlead.core.cost import Cost, Meter
from fairlead.core.errors import FairleadError
from fairlead.core.key import Key
from fairlead.core.model import Conditioning, Edit, Level, Rows, Site


class Gaussians:
    """p(z) = sum_k w_k N(z; m_k, s^2 I) in d dimensions, float64."""

    def __init__(self, means: Tensor, weights: Tensor, spread: float) -> None:
        self.means = means.double()
        self.spread = float(spread)
        self.weights = weights.double() / weights.double().sum()

    def _parts(self, x: Tensor, at: Level) -> tuple[Tensor, float, Tensor]:
        variance = at.alpha**2 * self.spread**2 + at.sigma**2
        gap = x.double()[:, None] - at.alpha * self.means
        return gap, variance, self.weights.log() - gap.square().sum(-1) / (2 * variance)

    def log_density(self, x: Tensor, at: Level) -> Tensor:
        """x [R, d] -> log density [R] of the noised mixture at `at`."""
        _, variance, logits = self._parts(x, at)
        return logits.logsumexp(-1) - 0.5 * x.shape[1] * math.log(2 * math.pi * variance)

    def score(self, x: Tensor, at: Level) -> Tensor:
        """x [R, d] -> gradient of the log density [R, d]."""
        gap, variance, logits = self._parts(x, at)
        return -(logits.softmax(-1)[..., None] * gap).sum(1) / variance

    def denoise(self, x: Tensor, at: Level) -> Tensor:
        """x [R, d] -> E[z | x] [R, d], the exact clean prediction, also at sigma 0."""
        gap, variance, logits = self._parts(x, at)
        post = self.means + (at.alpha * self.spread**2 / variance) * gap
        return (logits.softmax(-1)[..., None] * post).sum(1)

    def tilted(self, slope: Tensor) -> Gaussians:
        """The mixture proportional to p(z) exp(slope . z): means move by s^2 slope, weights by exp(slope . m_k)."""
        slope = slope.double()
        logits = self.weights.log() + self.means @ slope
        return Gaussians(self.means + self.spread**2 * slope, logits.softmax(0), self.spread)

    def mean(self) -> Tensor:
        """[d]"""
        return self.weights @ self.means


class _Network(torch.nn.Module):
    """The exact denoiser as a module, so that it is hooked and metered like a real network."""

    def __init__(self, gaussians: Gaussians) -> None:
        super().__init__()
        self.gaussians = gaussians

    def forward(self, hidden_states: Tensor, at: Level, tokens: Tensor) -> Tensor:
        """x [R, C, h, w] -> x0 [R, C, h, w]; tokens [R, 1, d] move the whole mixture."""
        shift = tokens.flatten(1).double()
        x = hidden_states.flatten(1).double() - at.alpha * shift
        return (self.gaussians.denoise(x, at) + shift).float().view_as(hidden_states)


class Mixture:
    """The mixture as a `Model`: rectified flow, one token that shifts the means (zero for every prompt).

    Components are shaped (1, 1, size). Decoding is affine: pixels 0.5 + z/8, three equal channels, one row, clamped
    to [0, 1].

    Settings:
        size (whole number >= 1, default 8): dimensions.
        modes (whole number >= 1, default 4): components.
        spread (number > 0, default 0.3): standard deviation of a component.
        radius (number, default 1.0): scale of the means.
        seed (whole number, default 0): seed of the means.
        gaussians (a Gaussians object or None, default None): the components themselves, instead of the settings
            above.
    """

    def __init__(
        self,
        *,
        size: int = 8,
        modes: int = 4,
        spread: float = 0.3,
        radius: float = 1.0,
        seed: int = 0,
        gaussians: Gaussians | None = None,
    ) -> None:
        if gaussians is None:
            if min(size, modes) < 1 or spread <= 0:
                raise FairleadError(f"mixture has size {size}, modes {modes}, spread {spread}: all must be positive.")
            key = Key.root(seed).fold("mixture")
            means = torch.stack([radius * key.fold(i).normal(size) for i in range(modes)])
            gaussians = Gaussians(means, torch.ones(modes), spread)
        self.gaussians = gaussians
        self._size = gaussians.means.shape[1]
        self._net = _Network(gaussians)
        self._meter: Meter | None = None
        self._net.register_forward_pre_hook(self._charge)

    @property
    def latent(self) -> tuple[int, int, int]:
        """(1, 1, d)"""
        return (1, 1, self._size)

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    @property
    def sites(self) -> Sequence[Site]:
        """None: there are no blocks."""
        return ()

    @property
    def branches(self) -> int:
        """1"""
        return 1

    def rows_each(self, rows: Rows) -> int:
        """1"""
        return 1

    @property
    def autoencoder(self) -> Mapping[str, Any]:
        """Affine, the same for every mixture."""
        return {"class": "affine"}

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """One zero token [B, 1, d] per prompt, whatever it says."""
        return Conditioning(torch.zeros(len(prompts), 1, self._size), tuple(prompts), {})

    def levels(self, steps: int) -> Sequence[Level]:
        """Rectified flow, equal steps."""
        return [Level(i / steps, 1 - i / steps) for i in range(steps + 1)]

    def predict(self, x: Tensor, at: Level, cond: Conditioning, rows: Rows) -> Tensor:
        """The exact E[x0 | x]."""
        out: Tensor = self._net(x, at, cond.tokens)
        return out

    def decode(self, x: Tensor) -> Tensor:
        """z [B, 1, 1, d] -> images [B, 3, 1, d]."""
        if self._meter is not None:
            self._meter.charge(Cost(decodes=len(x)))
        return (0.5 + x / 8).clamp(0, 1).expand(-1, 3, -1, -1)

    def meter(self, meter: Meter) -> None:
        """Charge rows and decodes from now on."""
        self._meter = meter

    def _charge(self, module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        if self._meter is not None:
            self._meter.charge(Cost(forwards=len(args[0])))

    def edit(self, site: Site, edit: Edit) -> Callable[[], None]:
        """There is no site."""
        raise FairleadError(f"The mixture has no site {site.name!r}: interventions need a transformer.")
