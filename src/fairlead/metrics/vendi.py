"""Vendi score: the effective number of different pictures (Friedman and Dieng 2023, arXiv 2210.02410)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fairlead.core.diverse import kernel as kernel
from fairlead.core.diverse import vendi as vendi

Features = Callable[[Tensor], Tensor]
"""Images [n, 3, H, W] in [0, 1] -> [n, D]"""


def pairwise_vendi(k: Tensor) -> Tensor:
    """[..., n, n] -> mean over pairs of the score of the two, eigenvalues (1 +- c)/2, [...]: not bounded by n but by
    2.
    """
    n = k.shape[-1]
    rows, columns = torch.triu_indices(n, n, 1)
    c = k[..., rows, columns].clamp(-1, 1).double()
    halves = torch.stack([(1 + c) / 2, (1 - c) / 2])
    out: Tensor = torch.special.entr(halves).sum(0).exp().mean(-1)
    return out


def mean_cosine(k: Tensor) -> Tensor:
    """[..., n, n] -> mean over pairs, [...]."""
    n = k.shape[-1]
    rows, columns = torch.triu_indices(n, n, 1)
    out: Tensor = k[..., rows, columns].mean(-1)
    return out


class VendiScore:
    """Diversity of a group of pictures under given features: the effective number of different pictures.

    Settings:
        features (function or None, default None): images [n, 3, H, W] -> features [n, D]; None is the small CLIP in
            the package.
        q (number >= 0, default 1.0): order of the score.
        pairwise (true or false, default False): the mean over pairs, which compares groups of unlike size.
    """

    def __init__(self, features: Features | None = None, q: float = 1.0, pairwise: bool = False) -> None:
        if features is None:
            from fairlead.metrics.features import Encoder

            features = Encoder()
        self._features = features
        self._q = q
        self._pairwise = pairwise

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> float:
        """Images [G, 3, H, W] in [0, 1] -> 1 to G, or 1 to 2 pairwise."""
        k = kernel(self._features(images))
        return float(pairwise_vendi(k) if self._pairwise else vendi(k, self._q))


class MeanCosine:
    """Mean cosine between the features of a group's pictures, in [-1, 1]; low is diverse.

    Settings:
        features (function or None, default None): images [n, 3, H, W] -> features [n, D]; None is the small CLIP in
            the package.
    """

    def __init__(self, features: Features | None = None) -> None:
        if features is None:
            from fairlead.metrics.features import Encoder

            features = Encoder()
        self._features = features

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> float:
        """Images [G, 3, H, W] in [0, 1] -> mean over pairs; NaN for one picture."""
        return float(mean_cosine(kernel(self._features(images))))
