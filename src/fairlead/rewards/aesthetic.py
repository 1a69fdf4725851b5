"""LAION aesthetic predictors: an affine head on the unit CLIP image feature (V1 linear, V2 "improved")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from fairlead.core.errors import FairleadError
from fairlead.core.reward import Reward
from fairlead.rewards._clip import clip
from fairlead.rewards._load import tensors


def load_head(path: Path) -> tuple[Tensor, Tensor]:
    """A published head -> (w [D], b []) in float32.

    V1 is one Linear. The V2 heads are five Linear layers without activation between them, so they collapse to one.
    Safetensors, or a pickle read with `weights_only=True`.
    """
    state: Mapping[str, Tensor] = tensors("aesthetic", path)
    state = {k: v.double() for k, v in state.items()}
    if "weight" in state:
        return state["weight"].flatten().float(), state["bias"].flatten()[0].float()
    layers = sorted({int(k.split(".")[1]) for k in state if k.startswith("layers.")})
    if layers != [0, 2, 4, 6, 7]:
        raise FairleadError(
            f"The aesthetic head {str(path)!r} has layers {layers}: must be V1 (weight, bias) or a linear V2 head "
            "(layers 0, 2, 4, 6, 7). The variant with ReLU is not affine and cannot be used."
        )
    w = state["layers.0.weight"]
    b = state["layers.0.bias"]
    for i in layers[1:]:
        w = state[f"layers.{i}.weight"] @ w
        b = state[f"layers.{i}.weight"] @ b + state[f"layers.{i}.bias"]
    return w.flatten().float(), b.flatten()[0].float()


class Aesthetic(Reward):
    """w . e + b with e the unit CLIP image feature; nominally 1 to 10, unbounded outside the data the head saw.

    Settings:
        head (file or None, default None): weights of the linear head, in either layout; None is the small one in
            the package, whose notion of beauty is a formula (see the model card).
        checkpoint (folder, hub name or None, default None): the CLIP that the head was trained on; None is the
            small one in the package.
        device (name of a device, default 'cpu'): where the network runs; a run chooses the machine's device.
    """

    name = "aesthetic"
    unit = "rating of beauty, nominally 1 to 10"
    licence: ClassVar[str] = "LAION heads MIT/Apache-2.0; the embedded one Apache-2.0"
    source: ClassVar[str] = "LAION aesthetic-predictor (V1) and improved-aesthetic-predictor (V2), on CLIP ViT-L/14"
    needs_prompt: ClassVar[bool] = False
    differentiable = True

    def __init__(self, head: str | None = None, checkpoint: str | None = None, device: str = "cpu") -> None:
        if head is not None and checkpoint is None:
            raise FairleadError(
                f"aesthetic.head is {head!r} but aesthetic.checkpoint is not set. Set it to the CLIP of that head, for "
                "example openai/clip-vit-large-patch14."
            )
        self._clip = clip(checkpoint, device)
        if head is None:
            from fairlead.pocket import load as pocket

            path = pocket.aesthetic_head()
        else:
            path = Path(head).expanduser()
        w, b = load_head(path)
        if len(w) != self._clip.dim:
            raise FairleadError(
                f"aesthetic.head needs {len(w)} features, but its CLIP has {self._clip.dim}. Use the CLIP that the "
                "head was trained on."
            )
        self._w = w.to(device)
        self._b = b.to(device)

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> [B]."""
        return self._clip.images(images) @ self._w + self._b
