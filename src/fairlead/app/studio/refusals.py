"""Where in the form a refused run is wrong, and what needs the yes of a person. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from fairlead.app.studio.answers import Refused
from fairlead.app.workers.form import chosen
from fairlead.core.errors import FairleadError
from fairlead.run import config
from fairlead.run.options import RunOptions, described

Check = Callable[[RunOptions], object]


def field_of(sentence: str, options: RunOptions, check: Check) -> str:
    """The option or the `part.setting` that a refusal concerns; empty where the words and the check do not tell.

    It is a setting that the sentence names, else what the run is not refused without, else what is named first.
    """
    settings = {line.partition("=")[0]: line for line in options.settings or ()}
    named = _first(sentence, {path: path for path in settings})
    if named:
        return named
    found = chosen(options)
    places = {name: _words_of(name, value) for name, value in found.items() if name != "settings"}
    needed = [name for name in places if _passes(replace(options, **{name: _default(name)}), check)]
    needed += [path for path, line in settings.items() if _passes(_without(options, line), check)]
    if len(needed) == 1:
        return needed[0]
    words = {word: name for name, own in places.items() if not needed or name in needed for word in own}
    return _first(sentence, {"prompt": "prompt", "budget": "budget", **words})


def named_in(sentence: str) -> str:
    """The option that a sentence about a value of the wrong type names."""
    return _first(sentence, {name: name for name in described()})


def _words_of(name: str, value: Any) -> list[str]:
    return [name, *(str(one) for one in (value if isinstance(value, list) else [value]))]


def _default(name: str) -> Any:
    return RunOptions.__dataclass_fields__[name].default


def _without(options: RunOptions, line: str) -> RunOptions:
    return replace(options, settings=[one for one in options.settings or () if one != line])


def _passes(options: RunOptions, check: Check) -> bool:
    try:
        check(options)
    except FairleadError:
        return False
    return True


def _first(sentence: str, words: Mapping[str, str]) -> str:
    """What belongs to the word that comes first in a sentence; empty if none is in it."""
    at: dict[int, str] = {}
    for word, name in words.items():
        if match := re.search(rf"(?<![\w.]){re.escape(word)}(?![\w])", sentence):
            at.setdefault(match.start(), name)
    return at[min(at)] if at else ""


def need_yes(formulas: Mapping[str, str], agreed: Any) -> None:
    """Refuse a run that executes a file or asks a server, unless a person agreed to exactly these formulas."""
    known: Collection[Any] = agreed if isinstance(agreed, list) else ()
    for formula, field in formulas.items():
        if (why := config.reaches_out(formula)) and formula not in known:
            raise Refused(
                422,
                "needs_yes",
                f"{formula[:200]!r} {why}, with all that your account may do. Read what it names before you say yes.",
                field=field,
                formula=formula,
            )
