"""The prompt embedding: what the text encoders said, as one vector (Pereira Neto et al. 2025, arXiv 2511.03913).

The paper moves the embedding itself, all positions and the pooled vector, with one step size (SDXL: 77*2048 + 1280 =
158,976 numbers). Searching the shift is the same for any method that does not care where zero is, gives the plain
picture bit for bit at zero, and keeps small steps out of the rounding of entries near 850.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fairlead.core.check import number_in_range, whole_number
from fairlead.core.errors import FairleadError, unknown
from fairlead.core.key import Key, normals
from fairlead.core.model import Conditioning, Model, Shape

FORMS = ("shift", "absolute")
UNITS = ("spread", "one")


def spread(value: Tensor) -> float:
    """What would be the standard deviation of the entries if they were normal: mean |v - mean| * sqrt(pi/2), 1 if zero.

    Not the standard deviation itself: text encoders have a few entries a hundred times larger than the rest.
    """
    entries = value.double()
    return float((entries - entries.mean()).abs().mean()) * math.sqrt(math.pi / 2) or 1.0


class Embedding:
    """A shift of the prompt embedding: the tokens, then the pooled vector where the model has one.

    The latent noise is that of the key. Padding never moves where the model says which tokens are padding.

    Settings:
        tokens (number >= 0, default 1.0): scale of a step in the tokens; 0 leaves them unchanged.
        pooled (number >= 0, default 1.0): scale of a step in the pooled vector; 0 leaves it unchanged.
        unit (spread or one, default 'spread'): `spread` makes a step of 1 as large as the tensor's own entries vary
            (our choice); `one` uses raw numbers (the paper's).
        form (shift or absolute, default 'shift'): `absolute` makes the point the embedding itself and needs
            unit='one'.
        first (whole number >= 0, default 0): first token position that moves.
        last (whole number > first or None, default None): position after the last token that moves; None is the
            end.
        radius (number > 0 or None, default None): trust region: a shift of larger root mean square, in units, is
            scaled back to it.
    """

    def __init__(
        self,
        shape: Shape,
        tokens: float = 1.0,
        pooled: float = 1.0,
        unit: str = "spread",
        form: str = "shift",
        first: int = 0,
        last: int | None = None,
        radius: float | None = None,
    ) -> None:
        if shape.conditioning is None:
            raise FairleadError(
                "The space 'embedding' starts at an encoded prompt, and its Shape has none. Pass "
                "Shape(conditioning=...)."
            )
        for word, choice, known in (("unit", unit, UNITS), ("form", form, FORMS)):
            if choice not in known:
                raise unknown(f"embedding.{word}", str(choice), known)
        for name, scale in (("tokens", tokens), ("pooled", pooled)):
            number_in_range(f"embedding.{name}", scale, "[0, inf)")
        number_in_range("embedding.radius", radius, "(0, inf]", optional=True)
        if form == "absolute" and (unit != "one" or not {tokens, pooled} <= {0, 1}):
            raise FairleadError(
                "embedding.form='absolute' makes the point the embedding itself, so it has no scale. Add unit='one' "
                "and leave tokens and pooled at 1 (or 0), or use form='shift'."
            )
        self._radius = radius
        self._absolute = form == "absolute"
        told = shape.conditioning.text
        wanted = {name: float(scale) for name, scale in (("tokens", tokens), ("pooled", pooled)) if name in told}
        self._scales = {k: v * (spread(told[k]) if unit == "spread" else 1.0) for k, v in wanted.items() if v}
        self._rows = _positions(shape, first, last)
        self._sizes = {name: self._pick(name, told[name]).numel() for name in self._scales}
        if self.dim == 0:
            raise FairleadError(
                f"Nothing moves with tokens={tokens:g} and pooled={pooled:g} on this model: raise one of them."
            )
        self._start = torch.zeros(self.dim)
        if self._absolute:
            self._start = torch.cat([self._pick(k, told[k]).flatten().float().cpu() for k in self._scales])

    def _pick(self, name: str, value: Tensor) -> Tensor:
        """The part of [B, ...] that moves, [B, ...]."""
        return value[:, self._rows.to(value.device)] if name == "tokens" else value

    @property
    def dim(self) -> int:
        """Numbers that move, over all tensors."""
        return sum(self._sizes.values())

    def draw(self, key: Key) -> Tensor:
        """[d] the prompt itself, whatever the key: the zero shift."""
        return self._start.clone()

    def place(self, x: Tensor, model: Model, cond: Conditioning, keys: tuple[Key, ...]) -> tuple[Tensor, Conditioning]:
        """x [B, d] -> the keys' own latents [B, C, h, w] and the moved conditioning."""
        return normals(tuple(k.fold("init") for k in keys), *model.latent).to(model.device), self.move(x, cond)

    def move(self, x: Tensor, cond: Conditioning) -> Conditioning:
        """The conditioning with row b shifted by x[b], x [B, d]; equal to the last bit where the shift is zero."""
        shift = x - self._start.to(x.device)
        if self._radius is not None:
            size = shift.square().mean(1, keepdim=True).clamp(min=1e-30).sqrt()
            shift = shift * (self._radius / size).clamp(max=1.0)
        text = cond.text
        moved = {}
        for (name, scale), part in zip(
            self._scales.items(), torch.split(shift, list(self._sizes.values()), 1), strict=True
        ):
            base = text[name]
            step = scale * part.to(base.device).view_as(self._pick(name, base))
            if name == "tokens":
                step = torch.zeros_like(base, dtype=step.dtype).index_copy(1, self._rows.to(base.device), step)
            moved[name] = (base.to(step.dtype) + step).to(base.dtype)
        return cond.with_text(moved)


def _positions(shape: Shape, first: int, last: int | None) -> Tensor:
    """Token positions that move, [m] int64."""
    length = shape.tokens[0]
    end = length if last is None else last
    for name, place in (("first", first), ("last", end)):
        whole_number(f"embedding.{name}", place)
    if not 0 <= first < end <= length:
        raise FairleadError(
            f"embedding.first is {first} and embedding.last is {last}: must be 0 <= first < last <= {length}, the "
            "number of this model's tokens."
        )
    rows = torch.arange(first, end)
    mask = None if shape.conditioning is None else shape.conditioning.extra.get("mask")
    return rows if mask is None else rows[mask[0, first:end].cpu() != 0]
