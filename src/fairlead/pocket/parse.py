"""What a prompt of the pocket world asks for: objects with colour and number, and how two of them lie."""

from __future__ import annotations

from dataclasses import dataclass

from fairlead.pocket import world

_RELATION_WORDS = {
    "left": "left of",
    "right": "right of",
    "above": "above",
    "over": "above",
    "on top": "above",
    "below": "below",
    "under": "below",
    "beneath": "below",
}
_NUMBER_WORDS = {word: number for number, word in world.NUMBERS.items()}


@dataclass(frozen=True)
class Thing:
    """One noun of the prompt."""

    name: str
    colour: str | None
    count: int


@dataclass(frozen=True)
class Request:
    """A read prompt; `relation` says where the first thing lies, seen from the second."""

    things: tuple[Thing, ...]
    relation: str | None


def read(prompt: str) -> Request:
    """Nouns by longest match, with the colour and the number right before them; other words are passed over."""
    words = world.split(prompt)
    nouns = {tuple(form.split()): name for name in world.NAMES for form in (name, world.plural(name))}
    longest = max(map(len, nouns))
    things: list[Thing] = []
    relation: str | None = None
    colour: str | None = None
    count, at = 1, 0
    while at < len(words):
        size = next((n for n in range(longest, 0, -1) if tuple(words[at : at + n]) in nouns), 0)
        # "an orange" is fruit, "an orange car" is a colour: a colour is one if a noun follows it
        follows = any(tuple(words[at + 1 : at + 1 + n]) in nouns for n in range(longest, 0, -1))
        if words[at] in world.COLOURS and (follows or not size):
            colour, at = words[at], at + 1
        elif size:
            things.append(Thing(nouns[tuple(words[at : at + size])], colour, count))
            colour, count, at = None, 1, at + size
        else:
            count = _NUMBER_WORDS.get(words[at], count)
            pair = " ".join(words[at : at + 2])
            relation = relation or _RELATION_WORDS.get(pair) or _RELATION_WORDS.get(words[at])
            at += 1
    return Request(tuple(things), relation if len(things) == 2 else None)
