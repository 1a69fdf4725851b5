"""What an adapter must offer. One file per pipeline family implements `Model` and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from fairlead.core.cost import Meter


@dataclass(frozen=True, slots=True)
class Level:
    """x = alpha * x0 + sigma * noise. Variance-preserving, exploding and rectified flow are pairs of these numbers."""

    alpha: float
    sigma: float


@dataclass(frozen=True)
class Conditioning:
    """What the network is told; row b of every tensor belongs to sample b."""

    tokens: Tensor
    """[B, T, D]"""
    prompts: tuple[str, ...]
    """length B"""
    extra: Mapping[str, Tensor]
    """Pooled vectors, masks, size codes, the negative prompt: [B, ...] each; opaque outside the adapter."""

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


@dataclass(frozen=True)
class Rows:
    """Whose row is whose in one network call. Made by the loop, doubled by CFG in the adapter, read by interventions."""

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


@dataclass(frozen=True, slots=True)
class Site:
    """A place where text has been updated by the image. Declared by the adapter."""

    name: str
    kind: Literal["joint", "single"]
    index: int


Edit = Callable[[Rows, Tokens], Tokens]


@dataclass(frozen=True)
class Shape:
    """What a space must know of a model: sizes, no weights."""

    latent: tuple[int, int, int]
    """(C, h, w)"""
    tokens: tuple[int, int]
    """(T, D)"""


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

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Prompts -> Conditioning of B rows. Not charged: it is done once per prompt."""
        ...

    def levels(self, steps: int) -> Sequence[Level]:
        """`steps` + 1 of them, noisiest first, the last with sigma 0, or where the model's schedule stops (SD 1.x: 0.03)."""
        ...

    def predict(self, x: Tensor, at: Level, cond: Conditioning, rows: Rows) -> Tensor:
        """x [R, C, h, w] at level `at` -> guided clean prediction x0 [R, C, h, w], float32. CFG and eps/v/flow live here."""
        ...

    def decode(self, x: Tensor) -> Tensor:
        """x0 [B, C, h, w] -> images [B, 3, H, W] in [0, 1], float32, differentiable."""
        ...

    def meter(self, meter: Meter) -> None:
        """Called once by the worker: from now on the network charges `forwards` and the decoder `decodes` before running."""
        ...

    def edit(self, site: Site, edit: Edit) -> Callable[[], None]:
        """Install an edit at a site; returns its removal."""
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
