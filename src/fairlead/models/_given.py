"""What a caller of a pipeline may pass instead of text and noise, under the names of the pipeline's own call."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

from torch import Tensor

from fairlead.core.errors import FairleadError
from fairlead.models._batches import widened

PARTS = {
    "prompt_embeds": "tokens",
    "pooled_prompt_embeds": "pooled",
    "prompt_attention_mask": "mask",
    "prompt_embeds_mask": "mask",
    "negative_prompt_embeds": "negative",
    "negative_pooled_prompt_embeds": "negative_pooled",
    "negative_prompt_attention_mask": "negative_mask",
    "negative_prompt_embeds_mask": "negative_mask",
}
"""Name in the pipeline's call -> part of the conditioning."""
NAMES = (*PARTS, "latents")


def check_names(given: Mapping[str, Any], pipe: Any) -> None:
    """Refuse what the call of this pipeline does not take."""
    taken = signature(type(pipe).__call__).parameters
    for name in given:
        if name not in taken:
            others = [other for other in NAMES if other in taken]
            raise FairleadError(f"{type(pipe).__name__} takes no {name}. Of its kind it takes {', '.join(others)}.")


def with_given(parts: dict[str, Tensor], given: Mapping[str, Any], rows: int, pipe: Any) -> dict[str, Tensor]:
    """The encoded text with the tensors [1, ...] that were given in its place, repeated for all rows."""
    encoded = dict(parts)
    for name, value in given.items():
        key = PARTS.get(name)
        if key is None or (key in ("mask", "negative_mask") and "mask" not in encoded):
            continue  # AuraFlow's call demands a mask and does not use it
        if key not in encoded:
            raise FairleadError(
                f"{name} has no effect: this model, with this guidance, uses {', '.join(sorted(encoded))}."
            )
        parts[key] = _like(encoded[key], value, name, rows)
    if not given.keys() & PARTS.keys():
        return parts
    if "mask" in parts:
        parts |= _masks(parts, encoded, given, pipe)
    return _equally_long(parts)


def _masks(parts: dict[str, Tensor], encoded: dict[str, Tensor], given: Mapping[str, Any], pipe: Any) -> dict[str, Any]:
    """A mask for each given text. Where the pipeline's call demands one, it must be given; else every token is text."""
    demanded = "prompt_attention_mask" in signature(type(pipe).__call__).parameters
    out = {}
    for tokens, mask, name in (("tokens", "mask", ""), ("negative", "negative_mask", "negative_")):
        if f"{name}prompt_embeds" not in given:
            continue
        rows, length = parts[tokens].shape[:2]
        out[mask] = parts[mask] if parts[mask] is not encoded[mask] else encoded[mask].new_ones(rows, length)
        if (demanded and parts[mask] is encoded[mask]) or out[mask].shape[1] != length:
            word = f"{name}prompt_attention_mask" if demanded else f"{name}prompt_embeds_mask"
            raise FairleadError(f"{name}prompt_embeds has {length} tokens: pass {word} of the same length with it.")
    return out


def _equally_long(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """Both halves of guidance with as many tokens; what a mask hides may be added."""
    if "negative" not in parts or parts["negative"].shape[1] == parts["tokens"].shape[1]:
        return parts
    mine, other = (parts[key].shape[1] for key in ("tokens", "negative"))
    if "mask" not in parts:
        raise FairleadError(
            f"prompt_embeds has {mine} tokens, but the negative prompt {other}. "
            "Pass negative_prompt_embeds of the same length."
        )
    long = ("tokens", "mask", "negative", "negative_mask")
    return parts | {key: widened(parts[key], max(mine, other)) for key in long}


def _like(old: Tensor, value: Any, name: str, rows: int) -> Tensor:
    """A given tensor [1, ...] in the place of an encoded one; only its number of tokens may differ."""
    shape = tuple(getattr(value, "shape", ()))
    if not isinstance(value, Tensor) or len(shape) != old.ndim or shape[:1] != (1,) or shape[2:] != old.shape[2:]:
        raise FairleadError(f"{name} must be a tensor like {(1, *old.shape[1:])}, but has the shape {shape}.")
    if name.endswith("pooled_prompt_embeds") and shape[1] != old.shape[1]:
        raise FairleadError(f"{name} must have the shape {(1, *old.shape[1:])}, but is {shape}.")
    return value.detach().to(old.device, old.dtype).expand(rows, *value.shape[1:])


def start_noise(given: Mapping[str, Any], latent: tuple[int, int, int]) -> Tensor | None:
    """The unit noise of the first candidate [C, h, w], if `latents` [1, C, h, w] were given."""
    value = given.get("latents")
    if value is None:
        return None
    if not isinstance(value, Tensor) or tuple(value.shape) != (1, *latent):
        shape = tuple(getattr(value, "shape", ()))
        raise FairleadError(f"latents must have the shape {(1, *latent)}, one picture and not packed, but is {shape}.")
    return value[0].detach().float().cpu()
