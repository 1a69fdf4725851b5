"""The initial noise itself."""

from __future__ import annotations

import math

from torch import Tensor

from fairlead.core.key import Key
from fairlead.core.model import Conditioning, Model, Shape


class Noise:
    """d = C*h*w, prior N(0, I): the point is the initial latent noise, flattened."""

    def __init__(self, shape: Shape) -> None:
        self._latent = shape.latent

    @property
    def dim(self) -> int:
        """C*h*w"""
        return math.prod(self._latent)

    def draw(self, key: Key) -> Tensor:
        """[d] standard normal."""
        return key.fold("init").normal(self.dim)

    def place(self, x: Tensor, model: Model, cond: Conditioning, keys: tuple[Key, ...]) -> tuple[Tensor, Conditioning]:
        """x [B, d] -> latents [B, C, h, w] on the model's device; the conditioning is untouched."""
        return x.view(-1, *self._latent).to(model.device), cond
