"""A registered item with its settings, as data. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Part:
    """A registered item by name. Replaced, not mutated."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def with_settings(self, settings: Mapping[str, Any]) -> Part:
        """The same item with more settings."""
        return replace(self, settings={**self.settings, **settings})
