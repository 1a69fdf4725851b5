"""Pictures as PNG with their whole recipe inside."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from fairlead.run.spec import Spec

CHUNK = "fairlead"
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises for a file that is no picture, or a broken or an enormous one."""


def recipe(
    spec: Spec,
    version: str,
    index: int,
    key: str,
    reward: float,
    terms: Mapping[str, float],
    plain: bool,
    steps: int | None = None,
) -> dict[str, Any]:
    """Everything needed to render the picture again, as JSON data. Budget and stop rules decide nothing about it."""
    return {
        "fairlead": version,
        "run": spec.id(),
        "candidate": index,
        "key": key,
        "baseline": plain,
        "steps": steps or spec.steps,
        "reward": None if reward != reward else reward,
        "terms": {k: None if v != v else v for k, v in terms.items()},
        "spec": {k: v for k, v in asdict(spec).items() if k not in ("budget", "until", "stop")},
    }


def parameters(spec: Spec, size: tuple[int, int], version: str, index: int, steps: int | None = None) -> str:
    """The `parameters` text that other tools read."""
    settings = spec.model.settings
    negative = settings.get("negative_prompt", "")
    scale = settings.get("true_cfg_scale", settings.get("guidance_scale"))
    items = [f"Steps: {steps or spec.steps}", f"Sampler: {spec.sampler}"]
    if scale is not None:
        items.append(f"CFG scale: {scale:g}")
    items += [f"Seed: {spec.seed}", f"Size: {size[0]}x{size[1]}", f"Model: {spec.model.name}"]
    items += [f"Version: fairlead {version}", f"Candidate: {index}"]
    return "\n".join([spec.prompt, f"Negative prompt: {negative}", ", ".join(items)])


def pixels(image: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Image [3, H, W] in [0, 1] -> uint8 [H, W, 3]."""
    array = (image.detach().float().clamp(0, 1) * 255).round().permute(1, 2, 0).cpu().numpy()
    return array.astype(np.uint8)


def encode(array: np.ndarray[Any, np.dtype[np.uint8]], data: Mapping[str, Any], text: str) -> bytes:
    """uint8 [H, W, 3] -> PNG bytes with both chunks."""
    info = PngInfo()
    info.add_text("parameters", text) if text.isascii() else info.add_itxt("parameters", text)
    info.add_itxt(CHUNK, json.dumps(data, sort_keys=True, ensure_ascii=False))
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def read(data: bytes) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], dict[str, Any]]:
    """PNG bytes -> pixels and recipe (empty if the file has none)."""
    with Image.open(io.BytesIO(data)) as image:
        found = image.info.get(CHUNK)
        return np.asarray(image.convert("RGB")), json.loads(found) if found else {}
