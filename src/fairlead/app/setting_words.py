"""The settings of a registered item as its docstring states them: type, range, choices, default, sentence. No torch.

A class docstring ends with `Settings:` and one entry for each, which `tests/test_settings.py` compares with the
code:

    sigma (number > 0, default 0.5): initial step size, in units of the space.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

ENTRY = re.compile(r"(\w+) \((.+?), default (.+?)\): (.*)")
NUMBER = r"-?\d+(?:\.\d+)?(?:e-?\d+)?"
INTERVAL = re.compile(rf"in ([\[(])({NUMBER}), (?:({NUMBER})([\])])|\w)")
LEAST = re.compile(rf"(>=|>) ({NUMBER})\b")
CHOICES = re.compile(r"[\w.]+(?:, [\w.]+)* or [\w.]+")
SWITCH = "true or false"
KINDS_OF_TEXT = {"file", "folder", "name", "mapping", "text", "address"}
"""What stands where choices stand and is none."""


@dataclass(frozen=True)
class SettingWords:
    """What the docstring says about one setting."""

    name: str
    type: str
    """`number`, `int`, `switch`, `choice` or `text`"""
    range: str
    """As written: "number in (0, 1] or None"."""
    default: str
    sentence: str
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None


def settings_of(about: str) -> dict[str, SettingWords]:
    """Every setting that a docstring describes, by its name."""
    _, found, block = about.rpartition("Settings:\n")
    if not found:
        return {}
    entries: list[str] = []
    for line in block.splitlines():
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            continue
        if indent == 0:
            break
        if indent <= 4:
            entries.append(line.strip())
        elif entries:
            entries[-1] += f" {line.strip()}"
    matched = [match for entry in entries if (match := ENTRY.fullmatch(entry))]
    return {match[1]: _words(*match.groups()) for match in matched}


def _words(name: str, range: str, default: str, sentence: str) -> SettingWords:
    kind = range.removesuffix(" or None")
    optional = kind != range
    if kind == SWITCH:
        return SettingWords(name, "switch", range, default, sentence)
    if range == "true, false or None":
        return SettingWords(name, "choice", range, default, sentence, ("true", "false"))
    spoken = kind if not optional or " or " in kind else _last_or(kind)
    if CHOICES.fullmatch(spoken) and not KINDS_OF_TEXT & set(spoken.split()):
        return SettingWords(name, "choice", range, default, sentence, tuple(re.split(r", | or ", spoken)))
    if not (default == "None" or re.fullmatch(NUMBER, default)):  # a word in the place of a number
        return SettingWords(name, "text", range, default, sentence)
    for start, word in (("whole number", "int"), ("number", "number")):
        if re.match(rf"{start}\b(?!s)", kind):
            return SettingWords(name, word, range, default, sentence, (), *_bounds(kind))
    return SettingWords(name, "text", range, default, sentence)


def _last_or(words: str) -> str:
    """'a, b' of 'a, b or None' as a list of its own; one word alone stays as it is."""
    first, comma, last = words.rpartition(", ")
    return f"{first} or {last}" if comma else words


def _bounds(range: str) -> tuple[float | None, float | None]:
    """The least and the largest number, as far as they are numbers and not names of other settings."""
    if match := INTERVAL.search(range):
        return float(match[2]), None if match[3] is None else float(match[3])
    match = LEAST.search(range)
    return (None if match is None else float(match[2])), None
