"""What a reward may be shown and what it may answer: pictures in [0, 1], one finite number for each."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from fairlead.core.errors import RewardError

TOLERANCE = 1e-3
"""How far a pixel may leave [0, 1]: rounding, not another range."""


def as_float(images: Tensor) -> Tensor:
    """Half and double precision pictures as float32, once for all leaves; anything else as it is."""
    return images.float() if isinstance(images, Tensor) and images.is_floating_point() else images


def check_images(images: Tensor, prompts: Sequence[str]) -> None:
    """Refuse what no reward can read. The range is never guessed from the values: a dark picture in [-1, 1] looks
    fine.
    """
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        what = f"{tuple(images.shape)} {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
        raise RewardError(
            f"Images are {what}, rewards read float [B, 3, H, W] in [0, 1]: repeat a grey channel three times, blend "
            "transparency over a background, divide 8-bit values by 255."
        )
    if len(prompts) != len(images):
        raise RewardError(f"There are {len(prompts)} prompts for {len(images)} images: must be as many.")
    if images.numel():
        low, high = (float(v) for v in images.detach().aminmax())
        if low < -TOLERANCE or high > 1 + TOLERANCE:
            raise RewardError(
                f"Pixels run from {low:.3g} to {high:.3g}, rewards read [0, 1]: map a decoder's [-1, 1] by x/2 + 0.5, "
                "divide 8-bit values by 255."
            )


def without_infinity(values: Tensor) -> Tensor:
    """Values [B] with NaN for +inf: a number that nothing can beat is a division by zero or an overflow, not a
    merit.
    """
    return values.masked_fill(values == math.inf, math.nan)
