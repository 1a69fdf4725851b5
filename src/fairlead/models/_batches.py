"""Batches of unlike rows: padding them, and cutting them into pieces that fit in memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def together(labels: Tensor | None, n: int) -> list[list[int]]:
    """Rows in their order, those with equal labels together in one piece."""
    if labels is None:
        return [[i] for i in range(n)]
    pieces: dict[tuple[int, ...], list[int]] = {}
    for i, label in enumerate(labels.tolist()):
        pieces.setdefault(tuple(label), []).append(i)
    return list(pieces.values())


def empty_cache() -> None:
    """Give memory that is cached but not used back to the device."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def padded(rows: Sequence[Tensor], multiple: int) -> tuple[Tensor, Tensor]:
    """Rows [T_b, D] of unlike length -> [B, T, D] and a mask [B, T], T the longest rounded up to `multiple`.

    Rounding keeps the shape of a prompt independent of what it is encoded with, except across a multiple.
    """
    length = -(-max(len(row) for row in rows) // multiple) * multiple
    tokens = torch.stack([torch.cat([row, row.new_zeros(length - len(row), row.shape[1])]) for row in rows])
    lengths = torch.tensor([len(row) for row in rows], device=tokens.device)
    mask = torch.arange(length, device=tokens.device) < lengths[:, None]
    return tokens, mask


def widened(value: Tensor, length: int) -> Tensor:
    """[B, T, ...] with zeros up to `length` in its second dimension."""
    if value.shape[1] >= length:
        return value
    return torch.cat([value, value.new_zeros(len(value), length - value.shape[1], *value.shape[2:])], 1)
