"""What a caller of a pipeline may pass instead of text and noise, under the names of the pipeline's own call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fairlead.core.errors import FairleadError

PARTS = {
    "prompt_embeds": "tokens",
    "pooled_prompt_embeds": "pooled",
    "negative_prompt_embeds": "negative",
    "negative_pooled_prompt_embeds": "negative_pooled",
}
"""Name in the pipeline's call -> part of the conditioning."""
NAMES = (*PARTS, "latents")


def with_given(parts: dict[str, Tensor], given: Mapping[str, Any], rows: int) -> dict[str, Tensor]:
    """The encoded text with the tensors [1, ...] that were given in its place, repeated for all rows."""
    for name, value in given.items():
        if (key := PARTS.get(name)) is None:
            continue
        if key not in parts:
            raise FairleadError(
                f"{name} has no effect: this model, with this guidance, uses {', '.join(sorted(parts))}."
            )
        if "mask" in parts:
            raise FairleadError(f"{name} cannot be used with a family that masks its text: leave it out.")
        old = parts[key]
        if (
            not isinstance(value, Tensor)
            or value.shape[0] != 1
            or value.shape[2:] != old.shape[2:]
            or value.ndim != old.ndim
        ):
            shape = tuple(getattr(value, "shape", ()))
            raise FairleadError(f"{name} must be a tensor like {(1, *old.shape[1:])}, but has the shape {shape}.")
        parts[key] = value.detach().to(old.device, old.dtype).expand(rows, *value.shape[1:])
    embeds = {"prompt_embeds", "negative_prompt_embeds"} & given.keys()
    if embeds and "negative" in parts and parts["negative"].shape[1] != parts["tokens"].shape[1]:
        mine, other = (parts[key].shape[1] for key in ("tokens", "negative"))
        raise FairleadError(
            f"prompt_embeds has {mine} tokens, but the negative prompt {other}. "
            "Pass negative_prompt_embeds of the same length."
        )
    return parts


def start_noise(given: Mapping[str, Any], latent: tuple[int, int, int]) -> Tensor | None:
    """The unit noise of the first candidate [C, h, w], if `latents` [1, C, h, w] were given."""
    value = given.get("latents")
    if value is None:
        return None
    if not isinstance(value, Tensor) or tuple(value.shape) != (1, *latent):
        shape = tuple(getattr(value, "shape", ()))
        raise FairleadError(f"latents must have the shape {(1, *latent)}, one picture and not packed, but is {shape}.")
    return value[0].detach().float().cpu()
