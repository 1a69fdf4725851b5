"""The forms in which a function may read pictures, how it declares one, and what it may answer."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

KINDS = {
    "tensor": "a tensor {}3, H, W] in [0, 1]",
    "pil": "{}PIL.Image",
    "numpy": "an array {}H, W, 3] in [0, 1], float32",
}
"""What a function may read, with words for a batch or for one picture."""
ONE_PICTURE = ("image", "img", "picture", "photo")
"""A first parameter of one of these names receives one picture at a time."""
TEXTS = ("prompt", "prompts", "text", "texts", "caption", "captions")
"""A further parameter of one of these names receives the prompts, also if it has a default."""
TOTAL = "total"
"""The term that is the reward, if a function returns terms; without it the reward is their sum."""


@dataclass(frozen=True)
class Form:
    """One way to call a function: the kind of pictures, whether one by one, and the parameter of the prompts."""

    kind: str
    each: bool
    prompts: str | None
    """"" for the second positional argument, a name for a keyword, None for a function without prompts."""

    def __str__(self) -> str:
        batch = {"tensor": "[B, ", "pil": "a list of ", "numpy": "[B, "}[self.kind]
        one = {"tensor": "[", "pil": "one ", "numpy": "["}[self.kind]
        return KINDS[self.kind].format(one if self.each else batch)

    def call(self, function: Callable[..., Any], images: Tensor, prompts: Sequence[str]) -> Any:
        """Images [B, 3, H, W] and their prompts -> what the function answers, one by one as a list of answers."""
        pictures = _VIEWS[self.kind](images)
        if not self.each:
            return self._once(function, pictures, list(prompts))
        return [self._once(function, *pair) for pair in zip(pictures, prompts, strict=True)]

    def _once(self, function: Callable[..., Any], pictures: Any, prompts: Any) -> Any:
        if self.prompts is None:
            return function(pictures)
        return function(pictures, prompts) if self.prompts == "" else function(pictures, **{self.prompts: prompts})


def _arrays(images: Tensor) -> Any:
    return images.detach().float().cpu().permute(0, 2, 3, 1).contiguous().numpy()


def _pil(images: Tensor) -> list[Image.Image]:
    return [Image.fromarray((array * 255).round().clip(0, 255).astype(np.uint8)) for array in _arrays(images)]


_VIEWS: dict[str, Callable[[Tensor], Any]] = {"tensor": lambda images: images, "pil": _pil, "numpy": _arrays}


def declared(function: Callable[..., Any], takes: str | None = None) -> list[Form]:
    """The forms that a function's parameters allow, in the order in which they are tried."""
    first, prompts = _parameters(function)
    written = "" if first is None or first.annotation is first.empty else _text(first.annotation)
    annotated = _kind(written)
    kind = takes or annotated
    kinds = list(KINDS) if kind is None else [kind]
    singular = first is not None and first.name in ONE_PICTURE
    if kind == annotated == "pil":
        eaches = [re.search(r"\[|Sequence|Iterable|list|tuple", written) is None]
    else:
        eaches = [True, False] if singular else [False]
    return [Form(kind, each, prompts) for each in eaches for kind in kinds]


def _parameters(function: Callable[..., Any]) -> tuple[inspect.Parameter | None, str | None]:
    """The parameter of the pictures, and where the prompts go: see `Form.prompts`."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None, ""
    placed = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    first = placed[0] if placed else None
    named = [p for p in parameters if p.name in TEXTS and p is not first and p.kind is not p.POSITIONAL_ONLY]
    if named:
        return first, "" if named[0] in placed[1:2] else named[0].name
    required = [p for p in placed[1:] if p.default is p.empty]
    any_number = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return first, "" if required or any_number else None


def _text(annotation: Any) -> str:
    if isinstance(annotation, type) and not hasattr(annotation, "__args__"):
        return f"{annotation.__module__}.{annotation.__qualname__}"
    return str(annotation)


def _kind(annotation: str) -> str | None:
    """The kind of pictures that an annotation names."""
    words = {"tensor": r"\bTensor\b", "pil": r"\bImage\b", "numpy": r"\bndarray\b|\bNDArray\b"}
    found = [kind for kind, pattern in words.items() if re.search(pattern, annotation)]
    return found[0] if len(found) == 1 else None


def terms(answer: Any, count: int) -> dict[str, Tensor]:
    """The answer for `count` pictures as columns [B] by term; a number for each picture is the term "".

    Raises ValueError in words that continue "returned".
    """
    if isinstance(answer, Mapping):
        columns = {key: _column(value, count) for key, value in answer.items()}
    elif isinstance(answer, list | tuple) and answer and all(isinstance(one, Mapping) for one in answer):
        keys = list(answer[0])
        if any(list(one) != keys for one in answer):
            raise ValueError(f"terms {keys} for the first picture, and other terms for another")
        columns = {key: _column([one[key] for one in answer], count) for key in keys}
    else:
        return {"": _column(answer, count)}
    wrong = [key for key in columns if not isinstance(key, str) or not key]
    if wrong or not columns:
        raise ValueError(f"a dict whose keys are {list(columns)}; they must be names of terms")
    return columns


def _column(value: Any, count: int) -> Tensor:
    if isinstance(value, list | tuple) and value and all(isinstance(one, Tensor) for one in value):
        value = torch.stack(list(value))
    try:
        column = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{type(value).__name__} {str(value)[:40]!r}") from None
    if column.shape != (count,):
        raise ValueError(f"shape {tuple(column.shape)}")
    return column


def total(columns: Mapping[str, Tensor]) -> Tensor:
    """The reward [B]: the number itself, the term `total`, or the sum of all terms."""
    for key in ("", TOTAL):
        if key in columns:
            return columns[key]
    first, *others = columns.values()
    for column in others:
        first = first + column.to(first.device)
    return first
