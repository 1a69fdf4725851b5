"""Boxes of things that are named, and relative depth, on transformers' classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fairlead.core.errors import FairleadError
from fairlead.run import machine

DETECTOR = "google/owlv2-base-patch16-ensemble"
DEPTH = "Intel/dpt-hybrid-midas"
THRESHOLD = 0.2
"""Confidence above which a box counts; ours, for OWLv2's scores are not UniDet's."""
FRAME = 480.0
"""Boxes are given as if the longer side had so many pixels, as the rules expect."""
Box = tuple[float, float, float, float]


def _missing(name: str, error: Exception) -> FairleadError:
    return FairleadError(
        f"{name} could not be loaded ({str(error).splitlines()[0]}). Download it first, or choose --category."
    )


class Owl:
    """An open-vocabulary detector asked for exactly these nouns."""

    def __init__(self, name: str = DETECTOR, threshold: float = THRESHOLD, device: str | None = None) -> None:
        from transformers import AutoProcessor, Owlv2ForObjectDetection

        self._threshold = threshold
        self._device = device or machine.device()
        try:
            self._model = Owlv2ForObjectDetection.from_pretrained(name).to(self._device).eval()
            self._processor = AutoProcessor.from_pretrained(name)
        except (OSError, ValueError, ImportError) as error:
            raise _missing(name, error) from error

    @torch.no_grad()
    def __call__(self, image: Tensor, nouns: Sequence[str]) -> list[tuple[str, float, Box]]:
        """Image [3, H, W] in [0, 1] -> (noun, confidence, box), best first."""
        pixels = (image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        queries = list(dict.fromkeys(nouns))
        inputs = self._processor(text=[[f"a photo of a {n}" for n in queries]], images=pixels, return_tensors="pt")
        found = self._model(**inputs.to(self._device))
        return boxes(found.logits[0], found.pred_boxes[0], queries, self._threshold)


def boxes(logits: Tensor, places: Tensor, nouns: Sequence[str], threshold: float) -> list[tuple[str, float, Box]]:
    """Logits [N, nouns] and boxes [N, 4] (centre, size; relative to the picture padded to a square) -> what is kept."""
    scores, which = logits.float().sigmoid().max(-1)
    out = []
    for at in scores.argsort(descending=True).tolist():
        if scores[at] <= threshold:
            break
        x, y, w, h = (float(v) * FRAME for v in places[at])
        out.append((nouns[int(which[at])], float(scores[at]), (x - w / 2, y - h / 2, x + w / 2, y + h / 2)))
    return out


class Depth:
    """Relative depth, larger is nearer."""

    def __init__(self, name: str = DEPTH, device: str | None = None) -> None:
        from transformers import AutoImageProcessor, AutoModelForDepthEstimation

        self._device = device or machine.device()
        try:
            self._model = AutoModelForDepthEstimation.from_pretrained(name).to(self._device).eval()
            self._processor = AutoImageProcessor.from_pretrained(name)
        except (OSError, ValueError, ImportError) as error:
            raise _missing(name, error) from error

    @torch.no_grad()
    def __call__(self, image: Tensor) -> Callable[[Box], float]:
        """Image [3, H, W] in [0, 1] -> mean depth, 0 to 1, inside a box of the frame."""
        pixels = (image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        depth = (
            self._model(**self._processor(images=pixels, return_tensors="pt").to(self._device))
            .predicted_depth[0]
            .float()
        )
        depth = (depth - depth.min()) / (depth.max() - depth.min()).clamp(min=1e-9)
        height, width = image.shape[-2:]
        scale_x = depth.shape[1] / (FRAME * width / max(height, width))
        scale_y = depth.shape[0] / (FRAME * height / max(height, width))

        def near(box: Box) -> float:
            x0, x1 = (int(min(max(v * scale_x, 0), depth.shape[1] - 1)) for v in (box[0], box[2]))
            y0, y1 = (int(min(max(v * scale_y, 0), depth.shape[0] - 1)) for v in (box[1], box[3]))
            return float(depth[y0 : y1 + 1, x0 : x1 + 1].mean())

        return near
