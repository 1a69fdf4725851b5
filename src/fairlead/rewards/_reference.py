"""The picture that a reward compares with: a run's input picture, or one that a setting names."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairlead.core.errors import FairleadError


def reference(name: str, image: Any) -> Tensor:
    """A PIL picture or a tensor [3, H, W] in [0, 1] -> [1, 3, H, W]."""
    if image is None:
        raise FairleadError(
            f"{name} compares with an input picture, and there is none. Add --image FILE to a run, or write "
            f"{name}(image='FILE') where pictures are scored."
        )
    if isinstance(image, Tensor):
        return image.detach().float()[None] if image.ndim == 3 else image.detach().float()
    array = np.asarray(image.convert("RGB"))
    return torch.from_numpy(array.copy()).permute(2, 0, 1)[None].float() / 255
