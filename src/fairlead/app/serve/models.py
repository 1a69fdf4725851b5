"""The models that a server offers, each under the name that requests use. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fairlead.core.errors import FairleadError


@dataclass(frozen=True)
class Served:
    """One model."""

    name: str
    model: str
    """What `fairlead run --model` calls it; never told to a client."""
    size: str = ""
    """The only size that it makes; empty where it makes several."""
    created: int = 0
    """Seconds since 1970; the start of the server."""

    def listed(self) -> dict[str, Any]:
        """As in GET /v1/models."""
        return {"id": self.name, "object": "model", "created": self.created, "owned_by": "fairlead"}


def served_models(words: list[str], created: int) -> dict[str, Served]:
    """`NAME` or `NAME=MODEL` -> the models by name, the first one is the default."""
    from fairlead.run import models

    found: dict[str, Served] = {}
    for word in words:
        name, _, model = word.partition("=")
        model = model or name
        if not name or not name.isprintable() or name.startswith(("/", ".", "~")):
            raise FairleadError(f"--model {word!r} must be NAME or NAME=MODEL, with a name that clients may see.")
        if name in found:
            raise FairleadError(f"--model {name!r} is given twice. Choose another name for one of them.")
        own = models.defaults(model).get("settings", {})
        size = f"{own['width']}x{own['height']}" if {"width", "height"} <= set(own) else ""
        found[name] = Served(name, model, size, created)
    return found
