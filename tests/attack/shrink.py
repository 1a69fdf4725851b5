"""A smaller input that fails in the same way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

TRIES, SECONDS = 300, 30.0


def smallest(what: Any, fails: Callable[[Any], bool]) -> Any:
    """The smallest input that was found within a few tries."""
    end = time.monotonic() + SECONDS
    left = TRIES
    progress = True
    while progress:
        progress = False
        for one in smaller(what):
            left -= 1
            if left < 0 or time.monotonic() > end:
                return what
            if fails(one):
                what = one
                progress = True
                break
    return what


def smaller(what: Any) -> Iterator[Any]:
    """Inputs with something less, the boldest first."""
    if isinstance(what, str | bytes | list | tuple):
        size = len(what)
        step = size
        while step > 0:
            for start in range(0, size, step):
                yield what[:start] + what[start + step :]
            step //= 2
    if isinstance(what, list | tuple):
        for i, inner in enumerate(what):
            for one in smaller(inner):
                yield type(what)([*what[:i], one, *what[i + 1 :]])
    if isinstance(what, dict):
        for key in what:
            yield {name: inner for name, inner in what.items() if name != key}
        for key, inner in what.items():
            for one in smaller(inner):
                yield {**what, key: one}
