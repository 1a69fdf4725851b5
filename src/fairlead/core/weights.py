"""Pretrained networks, refused where a part of them was not in the checkpoint."""

from __future__ import annotations

from typing import Any

from fairlead.core.errors import FairleadError


def pretrained(what: str, kind: Any, source: Any, **words: Any) -> Any:
    """`kind.from_pretrained(source)`. Transformers fills what is missing with random numbers."""
    network, found = kind.from_pretrained(source, output_loading_info=True, **words)
    lost = sorted(str(name) for name in found.get("missing_keys", ()))
    if lost:
        raise FairleadError(
            f"{what}: {str(source)!r} is a checkpoint of another model or a part of one: {len(lost)} tensors are "
            f"missing, for example {lost[0]!r}. Use a complete one."
        )
    return network
