"""Noise and prompt embedding together: every point is a start of the sampling and what it is told."""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead.core.key import Key, normals
from fairlead.core.model import Conditioning, Model, Shape
from fairlead.spaces.embedding import Embedding
from fairlead.spaces.noise import Noise


class Product:
    """The noise [C*h*w] followed by the shift of the embedding; most settings are those of `embedding`.

    The embedding alone cannot change what the noise has decided, and the noise cannot change what the prompt leaves
    out.

    Settings:
        sphere (true or false, default True): the noise keeps the norm of its key's own draw, so that a search that
            adds steps does not leave the shell on which normal noise lies.
        tokens (number >= 0, default 1.0): scale of a step in the tokens; 0 leaves them unchanged.
        pooled (number >= 0, default 1.0): scale of a step in the pooled vector; 0 leaves it unchanged.
        unit (spread or one, default 'spread'): unit of a step, as in `embedding`.
        first (whole number >= 0, default 0): first token position that moves.
        last (whole number > first or None, default None): position after the last token that moves; None is the
            end.
        radius (number > 0 or None, default None): trust region of the shift, in units, as in `embedding`.
    """

    def __init__(
        self,
        shape: Shape,
        sphere: bool = True,
        tokens: float = 1.0,
        pooled: float = 1.0,
        unit: str = "spread",
        first: int = 0,
        last: int | None = None,
        radius: float | None = None,
    ) -> None:
        self._noise = Noise(shape)
        self._sphere = bool(sphere)
        self._told = Embedding(shape, tokens, pooled, unit, "shift", first, last, radius)

    @property
    def dim(self) -> int:
        """Both."""
        return self._noise.dim + self._told.dim

    def draw(self, key: Key) -> Tensor:
        """[d] a standard normal noise and no shift: the plain sample of the key."""
        return torch.cat([self._noise.draw(key), self._told.draw(key)])

    def place(self, x: Tensor, model: Model, cond: Conditioning, keys: tuple[Key, ...]) -> tuple[Tensor, Conditioning]:
        """x [B, d] -> latents [B, C, h, w] and the moved conditioning; a draw is placed as in the space `noise`."""
        z, shift = torch.split(x, [self._noise.dim, self._told.dim], 1)
        z = z.contiguous()  # a view would sum its norm in another order
        if self._sphere:
            own = normals(tuple(k.fold("init") for k in keys), self._noise.dim).to(z.device).norm(dim=1, keepdim=True)
            z = z * (own / z.norm(dim=1, keepdim=True).clamp(min=1e-12))
        return self._noise.place(z, model, cond, keys)[0], self._told.move(shift, cond)
