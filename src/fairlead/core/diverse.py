"""How many different things a set holds, and k good and different ones out of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fairlead.core.errors import FairleadError


def kernel(features: Tensor) -> Tensor:
    """Features [..., n, D] -> cosines [..., n, n] float64. A zero vector is like nothing, itself included only."""
    unusable = int((~features.isfinite().all(-1)).sum())
    if unusable:
        count = features[..., 0].numel()
        raise FairleadError(
            f"The features of {unusable} of {count} pictures are not finite numbers, so they cannot be compared. "
            "Leave these pictures out, or use other features."
        )
    x = torch.nn.functional.normalize(features.double(), dim=-1)
    k = x @ x.mT
    out: Tensor = k + torch.diag_embed(1 - k.diagonal(dim1=-2, dim2=-1))
    return out


def vendi(k: Tensor, q: float = 1.0) -> Tensor:
    """Similarities with unit diagonal [..., n, n] -> exponential of the order-q entropy of the eigenvalues of k/n,
    [...].

    Between 1 (all alike) and n (nothing in common). q = 1 is von Neumann's entropy, 2 collision, infinity the largest
    eigenvalue; smaller orders weigh rare pictures more (Pasarkar and Dieng 2023, arXiv 2310.12952).
    """
    if not q >= 0:
        raise FairleadError(f"The order of a Vendi score is {q!r}: must be a number >= 0.")
    values = torch.linalg.eigvalsh(k.double() / k.shape[-1]).clamp(min=0)
    values = values / values.sum(-1, keepdim=True)
    out: Tensor
    if math.isinf(q):
        out = 1 / values.amax(-1)
        return out
    if q == 1:
        out = torch.special.entr(values).sum(-1).exp()
        return out
    seen = torch.where(values > 1e-12, values, 0.0)
    powers = torch.where(seen > 0, seen**q, 0.0)
    out = powers.sum(-1) ** (1 / (1 - q))
    return out


def pick(k: Tensor, quality: Tensor, n: int) -> list[int]:
    """Similarities k [N, N] with unit diagonal, log-quality [N] -> n indices, the most wanted first.

    Each next one maximises det of diag(e^quality) k diag(e^quality) over the chosen (greedy MAP of a determinantal
    point process: Chen et al. 2018, arXiv 1709.05135, Algorithm 1, with its incremental Cholesky factor). Equal
    qualities give the most different ones, a large spread the best ones. NaN is never chosen; the earlier of equals
    is.
    """
    usable = int(quality.isfinite().sum())
    if not 1 <= n <= usable:
        raise FairleadError(f"{n} pictures are to be kept of {usable} that have a reward: keep from 1 to {usable}.")
    log_q = torch.where(quality.isfinite(), quality.double(), -torch.inf)
    similar = k.double().cpu()
    rest = similar.diagonal().clone()
    factor = similar.new_zeros(0, len(similar))
    chosen: list[int] = []
    open_ = log_q.isfinite()
    while len(chosen) < n:
        gain = torch.where(open_, 2 * log_q + rest.clamp(min=1e-10).log(), -torch.inf)
        i = int(gain.argmax())
        row = (similar[i] - factor[:, i] @ factor) / rest[i].clamp(min=1e-10).sqrt()
        factor = torch.cat([factor, row[None]])
        rest = rest - row.square()
        open_[i] = False
        chosen.append(i)
    return chosen


def standard(rewards: Tensor) -> Tensor:
    """Rewards [N] -> deviations from their mean in units of their spread; NaN stays, equal rewards give zeros."""
    known = rewards.double()[rewards.isfinite()]
    spread = float(known.std(correction=0)) if len(known) else 0.0
    return (rewards.double() - known.mean()) / spread if spread > 0 else 0 * rewards.double()
