"""Likeness of pairs of pictures, averaged over a group: SSIM, and LPIPS and DreamSim for those who have them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fairlead.core.errors import FairleadError


def _pairs(n: int) -> tuple[Tensor, Tensor]:
    if n < 2:
        raise FairleadError(f"There are {n} pictures: likeness needs at least 2.")
    rows, columns = torch.triu_indices(n, n, 1)
    return rows, columns


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """a, b [n, 3, H, W] in [0, 1] -> structural similarity of their luma, [n] in [-1, 1].

    Wang et al. 2004, eq. 13: Gaussian window of 11 pixels and deviation 1.5, K1 = 0.01, K2 = 0.03, mean over the places
    where the window fits.
    """
    if min(a.shape[-2:]) < 11:
        raise FairleadError(f"Pictures of {tuple(a.shape[-2:])} pixels are smaller than the window of SSIM, 11 pixels.")
    luma = a.new_tensor([0.299, 0.587, 0.114]).double()[:, None, None]
    x, y = ((v.double() * luma).sum(1, keepdim=True) for v in (a, b))
    place = torch.arange(11, dtype=torch.float64, device=a.device) - 5
    line = (-place.square() / (2 * 1.5**2)).exp()
    window = (line[:, None] * line / line.sum() ** 2)[None, None]
    mx, my, xx, yy, xy = (F.conv2d(v, window) for v in (x, y, x * x, y * y, x * y))
    c1 = 0.01**2
    c2 = 0.03**2
    alike = (2 * mx * my + c1) * (2 * (xy - mx * my) + c2)
    out: Tensor = (alike / ((mx**2 + my**2 + c1) * (xx - mx**2 + yy - my**2 + c2))).mean((1, 2, 3))
    return out


class MeanSsim:
    """Mean SSIM over pairs, -1 to 1; low is diverse."""

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> float:
        """Images [G, 3, H, W] in [0, 1]."""
        rows, columns = _pairs(len(images))
        return float(ssim(images[rows], images[columns]).mean())


class MeanLpips:
    """Mean LPIPS over pairs (Zhang et al. 2018), 0 for equal pictures; high is diverse. Needs lpips and torchvision.

    Settings:
        net (alex, vgg or squeeze, default 'alex'): the backbone.
    """

    def __init__(self, net: str = "alex") -> None:
        if find_spec("lpips") is None:
            raise FairleadError("LPIPS needs the packages lpips and torchvision: pip install lpips.")
        import lpips  # type: ignore[import-not-found,unused-ignore]

        self._net: Any = lpips.LPIPS(net=net, verbose=False).eval()

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> float:
        """Images [G, 3, H, W] in [0, 1]."""
        rows, columns = _pairs(len(images))
        return float(self._net(images[rows] * 2 - 1, images[columns] * 2 - 1).mean())


class MeanDreamSim:
    """Mean DreamSim distance over pairs (Fu et al. 2023); high is diverse. Needs dreamsim and torchvision.

    Settings:
        cache (folder, default 'models'): where dreamsim keeps its weights.
    """

    def __init__(self, cache: str = "models") -> None:
        if find_spec("dreamsim") is None:
            raise FairleadError("DreamSim needs the packages dreamsim and torchvision: pip install dreamsim.")
        from dreamsim import dreamsim  # type: ignore[import-not-found,unused-ignore]

        self._net: Any = dreamsim(pretrained=True, device="cpu", cache_dir=cache)[0]

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> float:
        """Images [G, 3, H, W] in [0, 1]."""
        rows, columns = _pairs(len(images))
        small = F.interpolate(images.float(), (224, 224), mode="bicubic", antialias=True).clamp(0, 1)
        return float(self._net(small[rows], small[columns]).mean())
