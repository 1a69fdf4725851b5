"""What an adapter must offer. One file per pipeline family implements `Model` and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import hypot, sqrt
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fairlead.core.cost import Meter
from fairlead.core.errors import FairleadError


@dataclass(frozen=True, slots=True)
class Level:
    """x = alpha * x0 + sigma * noise. Variance-preserving, exploding and rectified flow are pairs of these numbers."""

    alpha: float
    sigma: float

    @property
    def time(self) -> float:
        """sigma / (alpha + sigma) in [0, 1]: where rectified flow has the same signal-to-noise ratio, so sigma itself
        there.
        """
        return self.sigma / (self.alpha + self.sigma)


_CURVES: dict[str, Callable[[Level], float]] = {
    "flow": lambda at: at.alpha + at.sigma - 1,
    "preserving": lambda at: hypot(at.alpha, at.sigma) - 1,
    "exploding": lambda at: at.alpha - 1,
}


def _largest_gap(gap: Callable[[Level], float], curve: Sequence[Level]) -> float:
    return max(abs(gap(at)) for at in curve)


def _kind(curve: Sequence[Level]) -> str:
    curve = curve[1:-1] or curve  # a schedule may scale its first level so that unit noise is its pipeline's latent
    off = {name: _largest_gap(gap, curve) for name, gap in _CURVES.items()}
    kind = min(off, key=lambda name: off[name])
    if off[kind] > 1e-3:
        raise FairleadError(
            f"{curve[len(curve) // 2]} lies on none of the curves flow, variance-preserving and variance-exploding: "
            "methods that choose their own noise levels cannot be used with this model."
        )
    return kind


def _on(kind: str, time: float) -> Level:
    if kind == "flow":
        return Level(1 - time, time)
    if kind == "exploding":
        return Level(1.0, time / (1 - time))
    return Level((1 - time) / hypot(1 - time, time), time / hypot(1 - time, time))


def level_at(curve: Sequence[Level], time: float) -> Level:
    """The level of that `time` in [0, 1] on the curve these levels lie on: flow, variance-preserving or -exploding.

    Give a curve with inner levels: the ends of flow and of a variance-preserving process are the same.
    """
    return _on(_kind(curve), time)


def moves(curve: Sequence[Level], high: float, low: float) -> int:
    """How many of the curve's moves lie between times `high` and `low`, rounded, at least 1."""
    places = np.interp([low, high], [at.time for at in curve[::-1]], range(len(curve)))
    return max(1, round(float(places[1] - places[0])))


def stretch(curve: Sequence[Level], high: float, low: float, n: int) -> list[Level]:
    """From time `high` down to `low` in `n` moves spread as the curve's own levels are: n + 1 levels."""
    times, places, kind = [at.time for at in curve[::-1]], range(len(curve)), _kind(curve)
    ends = np.interp([high, low], times, places)
    inner = np.interp([ends[0] + (ends[1] - ends[0]) * i / n for i in range(1, n)], places, times)
    return [_on(kind, float(t)) for t in (high, *inner, low)]


def renoise(x: Tensor, at: Level, to: Level, noise: Tensor) -> Tensor:
    """x [R, C, h, w] at `at` -> a sample of the forward process at the noisier `to`, given unit normal `noise`.

    The exact kernel: x' = c x + sqrt(sigma'^2 - c^2 sigma^2) noise with c = alpha'/alpha keeps every marginal.
    """
    c = to.alpha / at.alpha
    return c * x + sqrt(max(0.0, to.sigma**2 - (c * at.sigma) ** 2)) * noise


@dataclass(frozen=True)
class Conditioning:
    """What the network is told; row b of every tensor belongs to sample b."""

    tokens: Tensor
    """[B, T, D]"""
    prompts: tuple[str, ...]
    """length B"""
    extra: Mapping[str, Tensor]
    """Masks, size codes, the negative prompt: [B, ...] each; opaque outside the adapter. Two names mean something to
    all: `pooled` [B, P] is the text encoders' pooled vector, `mask` [B, T] is not zero where a token is text, not
    padding.
    """

    def take(self, rows: Tensor) -> Conditioning:
        """Rows [R] int64 -> the R samples, repeats allowed."""
        rows = rows.to("cpu")
        on = rows.to(self.tokens.device)
        return Conditioning(
            self.tokens[on],
            tuple(self.prompts[int(r)] for r in rows),
            {k: v[rows.to(v.device)] for k, v in self.extra.items()},
        )

    def with_tokens(self, tokens: Tensor) -> Conditioning:
        """The same conditioning with other tokens [B, T, D]."""
        if tokens.shape != self.tokens.shape:
            raise ValueError(f"tokens have shape {tuple(tokens.shape)}, expected {tuple(self.tokens.shape)}")
        return replace(self, tokens=tokens)

    @property
    def text(self) -> dict[str, Tensor]:
        """What the text encoders said of the prompt: `tokens` [B, T, D] and, where there is one, `pooled` [B, P]."""
        return {"tokens": self.tokens, **{k: v for k, v in self.extra.items() if k == "pooled"}}

    def with_text(self, text: Mapping[str, Tensor]) -> Conditioning:
        """The same conditioning with some of `text` replaced, shapes kept."""
        for name, value in text.items():
            if value.shape != self.text[name].shape:
                raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {tuple(self.text[name].shape)}")
        rest = {k: v for k, v in text.items() if k != "tokens"}
        return replace(self, tokens=text.get("tokens", self.tokens), extra={**self.extra, **rest})

    @property
    def requires_grad(self) -> bool:
        """True if a gradient flows into any of it."""
        return any(t.requires_grad for t in self.text.values())


@dataclass(frozen=True)
class Rows:
    """Whose row is whose in one network call. Made by the loop, doubled by CFG in the adapter, read by
    interventions.
    """

    base: Tensor
    """[R] int64, index of the sample"""
    group: Tensor
    """[R] int64; rows may see each other only if group and replica are equal"""
    replica: Tensor
    """[R] int64, k-th simultaneous copy of its sample (Demon); copies never mix"""
    conditional: Tensor
    """[R] bool, False for the unconditional half; branches never mix"""
    step: int
    steps: int
    level: Level

    def doubled(self) -> Rows:
        """The rows of one classifier-free guidance call: unconditional copies first."""
        off = torch.zeros_like(self.conditional)
        return replace(
            self,
            base=self.base.repeat(2),
            group=self.group.repeat(2),
            replica=self.replica.repeat(2),
            conditional=torch.cat([off, self.conditional]),
        )


@dataclass(frozen=True)
class Tokens:
    """Both streams at one site."""

    image: Tensor
    """[R, N, D]"""
    text: Tensor
    """[R, T, D]"""
    mask: Tensor | None = None
    """[R, T] bool, False where text is padding that nothing attends to; None where every token is live"""


Place = Literal["block", "attention", "prompt"]


@dataclass(frozen=True, slots=True)
class Site:
    """A place where text has been updated by the image. Declared by the adapter."""

    name: str
    kind: Literal["joint", "single"]
    index: int
    place: Place = "block"
    """What is edited: what the block hands on, what its attention adds to it before gate and residual, or, once for the
    whole network, the prompt's own tokens as it is told them."""
    depth: float = 0.5
    """Where in the network, 0 to 1."""


Edit = Callable[[Rows, Tokens], Tokens]


@dataclass(frozen=True)
class Shape:
    """What a space must know of a model: sizes, no weights."""

    latent: tuple[int, int, int]
    """(C, h, w)"""
    tokens: tuple[int, int]
    """(T, D)"""
    conditioning: Conditioning | None = None
    """The prompt as encoded, one row: where a space of embeddings starts."""


class Predicts(Protocol):
    """Whatever makes clean predictions: a model, or a sibling in the coordinates of another model."""

    def predict(self, x: Tensor, at: Level, cond: Conditioning, rows: Rows) -> Tensor:
        """x [R, C, h, w] at level `at` -> guided clean prediction x0 [R, C, h, w], float32."""
        ...

    def levels(self, steps: int) -> Sequence[Level]:
        """Its noise levels for a number of steps, noisiest first."""
        ...


class Model(Protocol):
    """A diffusers pipeline seen from outside: about 80 lines per family. It loops over nothing and draws nothing."""

    @property
    def latent(self) -> tuple[int, int, int]:
        """(C, h, w)"""
        ...

    @property
    def device(self) -> torch.device:
        """Where latents live."""
        ...

    @property
    def sites(self) -> Sequence[Site]:
        """Empty where text is never updated (U-Nets, cross-attention only)."""
        ...

    @property
    def branches(self) -> int:
        """Network rows of one denoiser evaluation: 2 under classifier-free guidance, else 1."""
        ...

    def rows_each(self, rows: Rows) -> int:
        """Network rows of one evaluation of one sample in this step; `branches`, unless a family adds further calls."""
        ...

    @property
    def autoencoder(self) -> Mapping[str, Any]:
        """What decides whether the latents of two models mean the same: kind of decoder, scaling, shift."""
        ...

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Prompts -> Conditioning of B rows. Not charged: it is done once per prompt."""
        ...

    def levels(self, steps: int) -> Sequence[Level]:
        """`steps` + 1 of them, noisiest first, the last with sigma 0, or where the model's schedule stops (SD 1.x:
        0.03).
        """
        ...

    def predict(self, x: Tensor, at: Level, cond: Conditioning, rows: Rows) -> Tensor:
        """x [R, C, h, w] at level `at` -> guided clean prediction x0 [R, C, h, w], float32. CFG and eps/v/flow live
        here.
        """
        ...

    def decode(self, x: Tensor) -> Tensor:
        """x0 [B, C, h, w] -> images [B, 3, H, W] in [0, 1], float32, differentiable."""
        ...

    def meter(self, meter: Meter) -> None:
        """Called once by the worker: from now on the network charges `forwards` and the decoder `decodes` before
        running.
        """
        ...

    def edit(self, site: Site, edit: Edit) -> Callable[[], None]:
        """Install an edit at a site; returns its removal."""
        ...


@runtime_checkable
class Traceable(Protocol):
    """A model whose use of memory can be measured before a run."""

    def networks(self) -> Iterator[Tensor]:
        """The weights that stay on the device."""
        ...

    def trace(self, gradient: bool = False) -> list[Callable[[], Tensor]]:
        """One picture through the network and through the decoder, with `gradient` also backwards; not charged."""
        ...


@runtime_checkable
class StartsFromPicture(Protocol):
    """A model that can be given a picture to start from. Without one it starts from noise, as all others do."""

    def start(self, noise: Tensor, at: Level) -> Tensor:
        """Unit noise [B, C, h, w] -> the state at `at`, the first level of a trajectory."""
        ...

    def check_steps(self, steps: int) -> None:
        """Raise where so many steps leave none below the level at which the picture starts."""
        ...


def started(model: object, noise: Tensor, at: Level) -> Tensor:
    """Unit noise [B, C, h, w] -> where this model starts, at its first level."""
    return model.start(noise, at) if isinstance(model, StartsFromPicture) else noise


@runtime_checkable
class Warns(Protocol):
    """A model that knows what its pipeline's own call would do and a run does not."""

    def warnings(self, prompt: str, sampler: str) -> list[str]:
        """Sentences that the user should read before trusting the pictures."""
        ...


def whole(n: int, at: Level, *, groups: Tensor | None = None, step: int = 0, steps: int = 1) -> Rows:
    """The rows of a plain call on `n` samples, each its own group unless `groups` [n] says otherwise."""
    base = torch.arange(n)
    return Rows(
        base,
        base if groups is None else groups,
        torch.zeros_like(base),
        torch.ones(n, dtype=torch.bool),
        step,
        steps,
        at,
    )


def recomputed(model: Predicts, y: Tensor, level: Level, conditioning: Conditioning, owner: Rows) -> Tensor:
    """Activation checkpointing of one evaluation: memory of one step, at twice the forwards (Chen et al. 2016)."""
    out: Tensor = checkpoint(
        lambda z: model.predict(z, level, conditioning, owner), y, use_reentrant=False, preserve_rng_state=False
    )
    return out
