"""Checks of single fields of a request; each raises the refusal that names the field."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from fairlead.app.serve.errors import Refused, invalid
from fairlead.core.check import is_text
from fairlead.core.errors import nearest
from fairlead.run.spec import MAX_PROMPT

SIZE = re.compile(r"auto|([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
LARGEST = 4096
"""Pixels of a side."""


def prompt(value: Any, param: str = "prompt") -> str:
    """A prompt within its limits."""
    if not isinstance(value, str):
        raise invalid(param, f"{param} is {value!r:.60}: must be a text.")
    if len(value) > MAX_PROMPT:
        message = f"{param} has {len(value)} characters: must be at most {MAX_PROMPT}."
        raise Refused(400, "prompt_too_long", message, param)
    if not value.strip():
        raise invalid(param, f"{param} is {value!r:.40}: write what the picture should show.")
    odd = next((letter for letter in value if ord(letter) < 32 and letter not in "\t\n"), None)
    if odd is not None or "\x7f" in value or not is_text(value):
        raise invalid(param, f"{param} is {value!a:.80}: must not hold control characters or halves of characters.")
    return value


def whole(param: str, value: Any, least: int, most: int, default: int) -> int:
    """A whole number; null stands for the default. JSON's 2.0, "2" and true are none."""
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise invalid(param, f"{param} is {value!r:.40}: must be a whole number in [{least}, {most}].")
    return value


def word(param: str, value: Any, known: Collection[str], default: str) -> str:
    """One of some words; null stands for the default."""
    if value is None:
        return default
    if not isinstance(value, str) or value not in known:
        raise invalid(param, f"{param} is {value!r:.40}: must be one of {', '.join(sorted(known))}.")
    return value


def truth(param: str, value: Any) -> bool:
    """True or false; null is false."""
    if value is not None and not isinstance(value, bool):
        raise invalid(param, f"{param} is {value!r:.40}: must be true or false.")
    return bool(value)


def number(param: str, value: Any, least: float, most: float, default: float) -> float:
    """A number; null stands for the default."""
    if value is None:
        return default
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        raise invalid(param, f"{param} is {value!r:.40}: must be a number in [{least:g}, {most:g}].")
    return float(value)


def size(value: Any, own: str) -> tuple[int, int] | None:
    """Width and height; None for the model's own. `own` is the only size of a model that has one."""
    if value is None:
        return None
    found = SIZE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise invalid("size", f"size is {value!r:.40}: must be 'auto' or like '1024x1024'.")
    if value in ("auto", own):
        return None
    width = int(found[1])
    height = int(found[2])
    if own or max(width, height) > LARGEST:
        limit = f"'auto' or {own!r}" if own else f"'auto' or at most {LARGEST}x{LARGEST}"
        raise invalid("size", f"size is {value!r}: this model makes {limit}.")
    return width, height


def known_keys(value: dict[str, Any], known: Collection[str], where: str) -> None:
    """Refuse keys that mean nothing, with the nearest that does."""
    for key in value:
        if key not in known:
            near = nearest(key, known)
            hint = f" Did you mean {near!r}?" if near else f" Known: {', '.join(sorted(known))}."
            raise invalid(f"{where}.{key:.40}", f"{where} has no setting {key!r:.40}.{hint}", "unknown_setting")
