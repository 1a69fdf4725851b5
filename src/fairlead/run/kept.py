"""What many runs in one process have in common is made once: models, rewards, encoded prompts, prices."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
KINDS = ("model", "reward", "prompt", "price")
_kept: dict[Hashable, Any] = {}
_kinds: frozenset[str] = frozenset()


@contextmanager
def shared(*kinds: str) -> Iterator[None]:
    """Inside, `once` makes things of these kinds once and returns the same object again; all kinds if none is named."""
    global _kept, _kinds
    before = (_kept, _kinds)
    _kept = dict(_kept)
    _kinds = _kinds | set(kinds or KINDS)
    try:
        yield
    finally:
        _kept, _kinds = before


def once(kind: str, key: Hashable, make: Callable[[], T]) -> T:
    """What `make` returns; inside `shared`, what it returned the first time for this kind and key."""
    if kind not in _kinds:
        return make()
    if (kind, key) not in _kept:
        _kept[kind, key] = make()
    found: T = _kept[kind, key]
    return found
