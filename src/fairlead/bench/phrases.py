"""What a prompt speaks of: noun phrases, the two ends of a relation, numbers of things.

spaCy's en_core_web_sm is the published parser and is used where it is installed. Without it only what T2I-CompBench's
templates have is read ("A and B", "A on the left of B", "two apples and a cup"); of other prompts nothing is made up:
None.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

RELATIONS = (
    "on the top of",
    "on the bottom of",
    "on the left of",
    "on the right of",
    "on side of",
    "on top of",
    "next to",
    "near",
    "in front of",
    "behind",
    "hidden by",
)
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")
SKIPPED = {"top", "the side", "the left", "the right"}
MOST = 8
PEOPLE = {"girl", "boy", "man", "woman"}


@cache
def _parser() -> Any:
    try:
        import spacy

        return spacy.load("en_core_web_sm")
    except (ImportError, OSError):
        return None


def parser() -> str:
    """What reads prompts here, for the record."""
    return "templates" if _parser() is None else "spacy en_core_web_sm"


def bare(words: str) -> str:
    """Without its article."""
    return re.sub(r"^(a|an|the)\s+", "", words.strip(), flags=re.IGNORECASE)


def noun_phrases(prompt: str) -> list[str] | None:
    """At most eight noun phrases."""
    if (nlp := _parser()) is not None:
        return [c.text for c in nlp(prompt).noun_chunks if c.text not in SKIPPED][:MOST]
    parts = prompt.strip(" .").split(" and ")
    return parts if len(parts) == 2 and all(parts) else None


def relation(prompt: str) -> tuple[str, str, str] | None:
    """(first thing, relation, second thing), things without article, people as `person`."""
    found = re.search(rf"^(.+?)\s+({'|'.join(RELATIONS)})\s+(.+)$", prompt.strip(" ."), flags=re.IGNORECASE)
    if found is None:
        return None
    first = bare(found[1])
    second = bare(found[3])
    if (nlp := _parser()) is not None:
        nouns = [t.text for t in nlp(prompt) if t.pos_ == "NOUN"]
        if len(nouns) < 2:
            return None
        first = nouns[0]
        second = nouns[-1]
    person = {name: "person" for name in PEOPLE}
    return person.get(first, first), found[2].lower(), person.get(second, second)


def counted(prompt: str, singular: Mapping[str, str]) -> list[tuple[str, int]] | None:
    """Things with their numbers; `singular` maps the plurals that are known."""
    out = []
    for piece in re.split(r",\s*(?:and\s+)?|\s+and\s+", prompt.strip(" .").lower()):
        found = re.match(rf"^(a|an|{'|'.join(NUMBERS)})\s+(.+)$", piece.strip())
        if found is None:
            return None
        number = 1 if found[1] in ("a", "an") else NUMBERS.index(found[1])
        out.append((singular.get(found[2], found[2]), number))
    return out


def without_adjectives(prompt: str) -> str | None:
    """The text as the CLIP part of 3-in-1 wants it; needs the parser."""
    nlp = _parser()
    return None if nlp is None else " ".join(t.text for t in nlp(prompt) if t.pos_ != "ADJ")
