"""Read what a prompt of the pocket world asks for: objects with number, size and colour, a relation, a background."""

from __future__ import annotations

from functools import lru_cache

import world
from world import Request, Thing

__all__ = ["Request", "Thing", "read"]

# fmt: off
_RELATION_WORDS = {
    "left": "left of", "right": "right of", "above": "above", "over": "above", "on top": "above",
    "below": "below", "under": "below", "beneath": "below",
}
_SIZE_WORDS = {
    "small": "small", "little": "small", "tiny": "small", "big": "big", "large": "big", "huge": "big",
}
# fmt: on
_NUMBER_WORDS = {word: number for number, word in world.NUMBERS.items()}


@lru_cache(maxsize=1)
def _nouns() -> dict[tuple[str, ...], str]:
    """Every singular and plural form, split into words, with its class."""
    return {tuple(form.split()): name for name in world.NAMES for form in (name, world.plural(name))}


def _noun_length(words: list[str], at: int) -> int:
    """Number of words of the longest noun that begins at ``at``; 0 if none does."""
    longest = max(map(len, _nouns()))
    return next((n for n in range(longest, 0, -1) if tuple(words[at : at + n]) in _nouns()), 0)


def read(prompt: str) -> Request:
    """Nouns by longest match, with the number, size and colour right before them; other words are passed over."""
    words = world.split(prompt)
    things: list[Thing] = []
    relation: str | None = None
    background: str | None = None
    colour: str | None = None
    size: str | None = None
    count = 1
    at = 0
    while at < len(words):
        length = _noun_length(words, at)
        # "an orange" is a fruit, "an orange car" has a colour: a colour is one if a noun or the background follows.
        follows = _noun_length(words, at + 1) > 0 or words[at + 1 : at + 2] == ["background"]
        if words[at] in world.COLOURS and (follows or not length):
            colour = words[at]
            at += 1
        elif length:
            things.append(Thing(_nouns()[tuple(words[at : at + length])], colour, count, size))
            colour, count, size = None, 1, None
            at += length
        elif words[at] == "background":
            background = background or colour
            colour, count, size = None, 1, None
            at += 1
        else:
            count = _NUMBER_WORDS.get(words[at], count)
            size = _SIZE_WORDS.get(words[at], size)
            pair = " ".join(words[at : at + 2])
            relation = relation or _RELATION_WORDS.get(pair) or _RELATION_WORDS.get(words[at])
            at += 1
    return Request(tuple(things), relation if len(things) == 2 else None, background)
