"""Checks that settings share: each raises one sentence with the setting's name, its value and what it must be.

    whole_number("demon.k", k, least=1)               demon.k is 0: must be a whole number >= 1.
    number_in_range("adam.beta1", beta1, "[0, 1)")    adam.beta1 is 1.5: must be a number in [0, 1).
    one_of("demon.solver", solver, ("ode", "sde"))    demon.solver is 'odd': must be 'ode' or 'sde'. Did you mean 'ode'?

Every check returns the value, so that it can stand in an assignment. `optional=True` also accepts None.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from fairlead.core.errors import FairleadError, nearest


def whole_number(
    name: str, value: Any, least: int | None = None, most: int | None = None, *, optional: bool = False
) -> Any:
    """An integer in [least, most]. True and False are not numbers."""
    if optional and value is None:
        return None
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if is_whole and (least is None or value >= least) and (most is None or value <= most):
        return value
    if least is not None and most is not None:
        wanted = f"a whole number in [{least}, {most}]"
    elif least is not None:
        wanted = f"a whole number >= {least}"
    elif most is not None:
        wanted = f"a whole number <= {most}"
    else:
        wanted = "a whole number"
    raise FairleadError(must_be(name, value, wanted, optional=optional))


def number_in_range(name: str, value: Any, interval: str = "(-inf, inf)", *, optional: bool = False) -> Any:
    """A number in `interval`, in the usual notation: "[0, 1)", "(0, inf)". NaN, True and False are not numbers."""
    if optional and value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and _inside(value, interval):
        return value
    raise FairleadError(must_be(name, value, _as_words(interval), optional=optional))


def one_of(name: str, value: Any, allowed: Collection[Any], *, optional: bool = False) -> Any:
    """One of a few allowed values, usually words."""
    if value in allowed or (optional and value is None):
        return value
    words = [repr(word) for word in allowed]
    wanted = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
    near = nearest(value, [word for word in allowed if isinstance(word, str)])
    hint = f" Did you mean {near!r}?" if near is not None else ""
    raise FairleadError(must_be(name, value, wanted, optional=optional) + hint)


def must_be(name: str, value: Any, wanted: str, *, optional: bool = False) -> str:
    """The sentence for a wrong value, for checks that are used only once."""
    leave_out = ", or leave it out" if optional else ""
    return f"{name} is {value!r}: must be {wanted}{leave_out}."


def is_text(value: str) -> bool:
    """False for halves of characters, which no file can hold."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value


def _bounds(interval: str) -> tuple[float, float]:
    low, high = interval[1:-1].split(",")
    return float(low), float(high)


def _inside(value: float, interval: str) -> bool:
    low, high = _bounds(interval)
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    return above and below


def _as_words(interval: str) -> str:
    """The interval as a person says it: "[0, inf)" -> "a finite number >= 0"; two finite ends stay an interval."""
    low, high = _bounds(interval)
    kind = "a number" if interval[-1] == "]" and math.isinf(high) else "a finite number"
    if math.isfinite(low) and math.isfinite(high):
        return f"a number in {interval}"
    if math.isfinite(low):
        return f"{kind} {'>=' if interval[0] == '[' else '>'} {low:g}"
    if math.isfinite(high):
        return f"{kind} {'<=' if interval[-1] == ']' else '<'} {high:g}"
    return kind
