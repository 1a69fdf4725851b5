"""GenEval's detector and colour classifier on transformers: a port, called geneval-hf and never plain GenEval.

Detector: Mask2Former, Swin-S, COCO instances, with the resizing and post-processing of the published one (mmdet), not
the processor's; another training run of the same class of accuracy, so that counting, which asks for a confidence above
0.9, may differ by several points from the official numbers (an estimate, not measured). Colours: OpenAI's CLIP
ViT-L/14. Publish the plain model's score by the same evaluator beside every other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fairlead.bench import geneval
from fairlead.bench.judging import GenEval
from fairlead.core.errors import FairleadError
from fairlead.core.weights import pretrained
from fairlead.run import machine

DETECTOR = "facebook/mask2former-swin-small-coco-instance"
CLIP = "openai/clip-vit-large-patch14"
RENAMED = {"mouse": "computer mouse", "remote": "tv remote", "keyboard": "computer keyboard"}
"""COCO's name -> GenEval's."""
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
SHORT, LONG, MULTIPLE, TOP = 800, 1333, 32, 100
GREY = 153 / 255
TEMPLATES = ("a photo of a {colour} {name}", "a photo of a {colour}-colored {name}", "a photo of a {colour} object")


@dataclass
class Seen:
    """One detection; its colour is asked for only when a rule needs it."""

    name: str
    score: float
    box: geneval.Box
    mask: Tensor
    """[H, W] bool"""
    image: Tensor
    """[3, H, W] in [0, 1]"""
    colours: Colours | None

    @cached_property
    def colour(self) -> str | None:
        """By the classifier."""
        return None if self.colours is None else self.colours(self.image, self.mask, self.box, self.name)


def resized(height: int, width: int) -> tuple[int, int]:
    """Sides of the detector's input: the longer at most 1333, the shorter at most 800, ratio kept."""
    r = min(LONG / max(height, width), SHORT / min(height, width))
    return int(height * r + 0.5), int(width * r + 0.5)


def instances(
    classes: Tensor, masks: Tensor, size: tuple[int, int], inner: tuple[int, int], above: float
) -> list[tuple[int, float, geneval.Box, Tensor]]:
    """Class logits [Q, C+1] and mask logits [Q, h, w] of one padded picture -> (class, score, box, mask [H, W]), best
    first.

    `inner` is the resized picture without its padding, `size` the original. The 100 largest class probabilities over
    all queries and classes; score = probability x mean sigmoid inside the mask. Since that is at most the probability,
    what lies below `above` is left out before masks are enlarged.
    """
    p = classes.float().softmax(-1)[:, :-1]
    top, flat = p.flatten().topk(min(TOP, p.numel()))
    out = []
    padded = tuple(-(-side // MULTIPLE) * MULTIPLE for side in inner)
    for probability, at in zip(top.tolist(), flat.tolist(), strict=True):
        if probability <= above:
            break
        query, kind = divmod(at, p.shape[1])
        m = F.interpolate(masks[query][None, None].float(), padded, mode="bilinear", align_corners=False)
        m = F.interpolate(m[..., : inner[0], : inner[1]], size, mode="bilinear", align_corners=False)[0, 0]
        inside = m > 0
        score = probability * float((m.sigmoid() * inside).sum() / (inside.sum() + 1e-6))
        rows = inside.any(1).nonzero()
        columns = inside.any(0).nonzero()
        box = (0.0, 0.0, 0.0, 0.0)
        if len(rows):
            box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
        out.append((kind, score, box, inside))
    return sorted(out, key=lambda one: -one[1])


class Colours:
    """The colour of a masked object: CLIP over three templates, everything else painted grey."""

    def __init__(self, name: str = CLIP, device: str | None = None) -> None:
        from transformers import AutoTokenizer, CLIPModel

        self.device = device or machine.device()
        self._model = pretrained("geneval", CLIPModel, name).to(self.device).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(name)
        self._weights: dict[str, Tensor] = {}

    @torch.no_grad()
    def weights(self, name: str) -> Tensor:
        """Classifier [10, D] for one class of object: mean of the unit features of the templates, unit again."""
        if name not in self._weights:
            texts = [t.format(colour=c, name=name) for c in geneval.COLOURS for t in TEMPLATES]
            tokens = self._tokenizer(texts, padding=True, truncation=True, return_tensors="pt").to(self.device)
            features = F.normalize(_projected(self._model.get_text_features(**tokens)), dim=-1)
            self._weights[name] = F.normalize(features.view(len(geneval.COLOURS), len(TEMPLATES), -1).mean(1), dim=-1)
        return self._weights[name]

    @torch.no_grad()
    def __call__(self, image: Tensor, mask: Tensor, box: geneval.Box, name: str) -> str:
        """Image [3, H, W] in [0, 1], mask [H, W] -> the nearest of the ten colours."""
        pixels = F.normalize(
            _projected(self._model.get_image_features(pixel_values=self.view(image, mask, box))), dim=-1
        )
        return geneval.COLOURS[int((pixels @ self.weights(name).T).argmax())]

    def view(self, image: Tensor, mask: Tensor, box: geneval.Box) -> Tensor:
        """What CLIP is shown, [1, 3, S, S]: the object over grey, cropped, shorter side to S, centre, normalised."""
        x0, y0, x1, y1 = (int(v) for v in box)
        grey = torch.where(mask, image, torch.tensor(GREY, dtype=image.dtype, device=image.device))
        crop = grey[:, y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)][None]
        side = int(self._model.config.vision_config.image_size)
        h, w = crop.shape[-2:]
        to = (max(side, int(side * h / w)), side) if w <= h else (side, max(side, int(side * w / h)))
        x = F.interpolate(crop, to, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        top = (to[0] - side) // 2
        left = (to[1] - side) // 2
        x = x[..., top : top + side, left : left + side].to(self.device)
        mean, std = (torch.tensor(v, device=self.device).view(1, 3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
        return (x - mean) / std


def _projected(out: Any) -> Tensor:
    """transformers 5 wraps the projected features; older versions return them."""
    if isinstance(out, Tensor):
        return out
    pooled: Tensor = out.pooler_output
    return pooled


class Mask2Former:
    """Detections by the recipe above."""

    def __init__(self, name: str = DETECTOR, colours: Colours | None = None, device: str | None = None) -> None:
        from transformers import Mask2FormerForUniversalSegmentation

        self.device = device or machine.device()
        self._colours = colours
        self._model = pretrained("geneval", Mask2FormerForUniversalSegmentation, name).to(self.device).eval()
        labels = {int(k): str(v) for k, v in self._model.config.id2label.items()}
        self.names = [RENAMED.get(labels[i], labels[i]) for i in range(len(labels))]

    @torch.no_grad()
    def detect(self, images: Tensor) -> Sequence[Sequence[Seen]]:
        """Images [B, 3, H, W] in [0, 1] -> objects of each."""
        return [self._one(image) for image in images.float()]

    def _one(self, image: Tensor) -> list[Seen]:
        height, width = image.shape[-2:]
        inner = resized(height, width)
        x = F.interpolate(
            image[None].to(self.device) * 255, inner, mode="bilinear", antialias=False, align_corners=False
        )
        mean, std = (torch.tensor(v, device=self.device).view(1, 3, 1, 1) for v in (MEAN, STD))
        x = F.pad((x - mean) / std, (0, -inner[1] % MULTIPLE, 0, -inner[0] % MULTIPLE))
        found = self._model(pixel_values=x)
        rows = instances(
            found.class_queries_logits[0], found.masks_queries_logits[0], (height, width), inner, geneval.THRESHOLD
        )
        return [Seen(self.names[k], s, box, mask.cpu(), image.cpu(), self._colours) for k, s, box, mask in rows]


def geneval_hf(detector: str = DETECTOR, clip: str = CLIP) -> GenEval:
    """The judge; both networks are fetched from the hub unless they are folders."""
    try:
        found = Mask2Former(detector, Colours(clip))
    except (OSError, ValueError) as error:
        cause = str(error).splitlines()[0]
        raise FairleadError(
            f"geneval-hf needs {detector} and {clip}, and one of them could not be loaded ({cause}). Download them "
            "first."
        ) from error
    note = (
        "geneval-hf is a port of GenEval to transformers' Mask2Former with the published rules: compare it with "
        "numbers of the same evaluator only; the detector's weights are licensed CC BY-NC 4.0"
    )
    return GenEval(f"geneval-hf[{detector}, {clip}]", note, found)
