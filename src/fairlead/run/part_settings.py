"""The parts of a run from names and settings: `--search best_of --set best_of.n=16`. Imports no torch."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from fairlead.core.errors import FairleadError, unknown
from fairlead.run.formula import UNREADABLE, parse_part, parse_reward, plain_value
from fairlead.run.options import Words, described
from fairlead.run.part import Part


def parse_settings(items: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`lidar.scale=8` -> {"lidar": {"scale": 8}}; values are Python literals, else text."""
    out: dict[str, dict[str, Any]] = {}
    for item in items:
        path, equals, value = item.partition("=")
        owner, dot, setting = path.strip().rpartition(".")
        if not (equals and dot and owner and setting):
            raise FairleadError(f"Setting {item!r} is not part.setting=value. Write for example best_of.n=16.")
        try:
            parsed = ast.literal_eval(value.strip())
        except UNREADABLE:
            parsed = value.strip()
        plain_value(path.strip(), parsed)
        out.setdefault(owner, {})[setting] = parsed
    return out


OPTION_OF = {option.kind: name for name, option in described().items() if option.kind}
"""The option in which items of a kind are named."""


def named_part(word: Any, kind: str) -> Part:
    """A part as it is, or from its name."""
    if isinstance(word, Part):
        return word
    if not isinstance(word, str):
        raise FairleadError(
            f"{OPTION_OF[kind]} is {word!r:.80}: must be a name, which 'fairlead list {kind}' shows. To use a class of "
            f"your own, register it under 'fairlead.{kind}' (CONTRIBUTING.md) and pass that name."
        )
    return parse_part(word, kind)


def checked_settings(chosen: Any) -> Mapping[str, Mapping[str, Any]]:
    """The settings of parts by name, from text or from a mapping of mappings."""
    if isinstance(chosen, list | tuple) and all(isinstance(item, str) for item in chosen):
        return parse_settings(chosen)
    if not isinstance(chosen, Mapping) or not all(isinstance(own, Mapping) for own in chosen.values()):
        raise FairleadError(f'settings are {chosen!r:.80}: must be a mapping such as {{"best_of": {{"n": 16}}}}.')
    return chosen


class PartSettings:
    """The settings of parts by name; remembers which of them found their part."""

    def __init__(self, settings: Mapping[str, Mapping[str, Any]], defaults: Mapping[str, Any]) -> None:
        self._settings = settings
        self._defaults = defaults
        self._used: set[str] = set()

    def applied(self, part: Part) -> Part:
        """The part with the settings that were chosen for its name."""
        self._used.add(part.name)
        return part.with_settings(self._settings.get(part.name, {}))

    def model(self, model: str | Part, options: Mapping[str, Any]) -> Part:
        """The model, which `settings` may also call `model`."""
        part = self.applied(model if isinstance(model, Part) else Part(model))
        self._used.add("model")
        return part.with_settings({**options, **self._settings.get("model", {})})

    def one(self, word: str | Part, kind: str) -> Part:
        """A part of a kind of which a run has one."""
        return self.applied(named_part(word, kind))

    def many(self, words: Words, kind: str) -> tuple[Part, ...]:
        """Parts of a kind of which a run may have several, over the model's own settings of them."""
        out = []
        own = self._defaults.get(kind, {})
        for word in words if isinstance(words, list | tuple) else [words]:
            part = named_part(word, kind)
            out.append(self.applied(Part(part.name, {**own.get(part.name, {}), **part.settings})))
        return tuple(out)

    def formula(self, node: Any) -> Any:
        """A reward as text, as a tree, or a number."""
        if callable(node):
            raise FairleadError(f"{node!r:.80} is an object: a run watches rewards by name. Write it to FILE.py:NAME.")
        if isinstance(node, str):
            return self.formula(parse_reward(node))
        if isinstance(node, Part):
            return self.applied(node)
        if isinstance(node, Mapping):
            made = {}
            for operation, parts in node.items():
                made[operation] = [self.formula(part) for part in parts]
            return made
        return node

    def check_all_used(self) -> None:
        """Refuse settings of a part that this run does not have."""
        if unused := set(self._settings) - self._used:
            raise unknown("part", sorted(unused)[0], self._used, of="this run")
