"""Pictures of ComfyUI, float tensors [B, H, W, C] in [0, 1], to PNG in base64 and back. 8 bits come back unchanged."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def to_base64(images: Tensor) -> list[str]:
    """[B, H, W, C] with 1, 3 or 4 channels -> a PNG in base64 for each. Values outside [0, 1] are clamped."""
    if images.ndim != 4 or images.shape[-1] not in MODES:
        raise ValueError(f"images has the shape {tuple(images.shape)}: must be [B, H, W, C] with 1, 3 or 4 channels.")
    if not len(images):
        raise ValueError("images has 0 pictures: connect at least one.")
    if not bool(torch.isfinite(images).all()):
        raise ValueError("images has values that are not finite numbers. Look at the node that made them.")
    pixels = (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    found = []
    for one in pixels:
        out = io.BytesIO()
        Image.fromarray(one[..., 0] if one.shape[-1] == 1 else one, MODES[one.shape[-1]]).save(out, "PNG")
        found.append(base64.b64encode(out.getvalue()).decode())
    return found


def opened(text: str) -> Image.Image:
    """A picture in base64 as RGB."""
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        return image.convert("RGB")


def to_tensor(texts: Sequence[str]) -> Tensor:
    """Pictures of one size in base64 -> [B, H, W, 3] float32 in [0, 1]."""
    arrays = [np.asarray(opened(text)) for text in texts]
    return torch.from_numpy(np.stack(arrays)).float() / 255
