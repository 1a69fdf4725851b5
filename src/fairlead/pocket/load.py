"""Where the embedded models and their small judges are.

Every function returns a folder or file inside the installed package.  A model folder carries
``fairlead.json``, the sampling defaults any loader may read, whatever the model:

``steps``, ``batch``
    number of Euler steps and pictures rendered at once;
``settings``
    the adapter's: the scale of its guidance, ``height`` and ``width`` in pixels, and ``max_sequence_length``, the
    length to which captions are padded, as in training;
``vocabulary``
    ``"words"``: the tokenizer knows whole words only and everything else becomes ``<unk>``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).parent / "assets"
DEFAULTS_FILE = "fairlead.json"


def folder() -> Path:
    """The FluxPipeline folder."""
    return ASSETS / "pocket"


def turbo_folder() -> Path:
    """The FluxPipeline folder distilled from pocket: one to four steps, no guidance."""
    return ASSETS / "pocket-turbo"


def unet_folder() -> Path:
    """The StableDiffusionPipeline folder: a U-Net that predicts eps, taught by pocket."""
    return ASSETS / "pocket-unet"


def clip_folder() -> Path:
    """The CLIP model with its processor, a transformers folder."""
    return ASSETS / "clip"


def aesthetic_head() -> Path:
    """Linear head on the normalised CLIP image embedding: safetensors, ``weight [1, 128]`` and ``bias [1]``."""
    return ASSETS / "aesthetic.safetensors"


def preference_folder() -> Path:
    """A small network of ImageReward's architecture under its published names, with a tokenizer; may be absent."""
    return ASSETS / "preference"


def detector_folder() -> Path:
    """The judge's network, a transformers folder; read it with :class:`fairlead.pocket.judge.Detector`."""
    return ASSETS / "detector"


def defaults(model: Path | str) -> dict[str, Any]:
    """Sampling defaults of a model folder, empty if it has none."""
    path = Path(model) / DEFAULTS_FILE
    if not path.exists():
        return {}
    values: dict[str, Any] = json.loads(path.read_text())
    return values
