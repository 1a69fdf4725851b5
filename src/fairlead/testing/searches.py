"""Laws of a search: ask/tell over vectors."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fairlead.core.key import Key
from fairlead.core.model import Conditioning, Model
from fairlead.core.search import Feedback, Proposal, Search, Space
from fairlead.testing._check import equal, global_randomness_untouched, law

TARGET = 1.0


class Plain:
    """R^d with a standard normal prior; nothing to place."""

    def __init__(self, dim: int) -> None:
        self._dim = dim

    @property
    def dim(self) -> int:
        """d"""
        return self._dim

    def draw(self, key: Key) -> Tensor:
        """[d] standard normal."""
        return key.fold("init").normal(self._dim)

    def place(self, x: Tensor, model: Model, cond: Conditioning, keys: tuple[Key, ...]) -> tuple[Tensor, Conditioning]:
        """Not needed by a search."""
        raise NotImplementedError


def sphere(p: Proposal) -> Feedback:
    """Reward -|x - 1|^2 with its gradient: what every search should climb."""
    gap = p.x.double() - TARGET
    return Feedback(p, -float(gap.square().sum()), {"sphere": -float(gap.square().sum())}, (-2 * gap).float())


def search_laws(make: Callable[[Space, Key], Search], *, dim: int = 6, n: int = 48, rounds: int = 3) -> None:
    """`make(space, key)` builds the search; `n` must afford a generation.

    Checks: at most n asked; points [d] float32 on the cpu and finite; a function of the key and of what was told;
    another key asks otherwise; nothing told or asked is written to; a NaN is never treated as the best; no global
    randomness.
    """
    space = Plain(dim)
    key = Key.root(11).fold("search")
    with global_randomness_untouched("The search"):
        for few in (0, 1, 2, 5, n):
            asked = make(space, key).ask(few)
            law(len(asked) <= few, f"ask({few}) returned {len(asked)} proposals: at most {few} are affordable.")
        law(len(make(space, key).ask(n)) > 0, f"ask({n}) of a fresh search returned nothing.")
        first, frozen = _dialogue(make(space, key), n, rounds)
        second, _ = _dialogue(make(space, key), n, rounds)
        other, _ = _dialogue(make(space, key.fold("other")), n, rounds)
    law(
        [len(r) for r in first] == [len(r) for r in second],
        "Two searches with one key asked different numbers of questions.",
    )
    for a, b in zip(_flat(first), _flat(second), strict=True):
        equal(a.x, b.x, "Two searches with one key and one history asked different points")
        law((a.key, a.steps) == (b.key, b.steps), "Two searches with one key and one history asked different rollouts.")
    pairs = list(zip(_flat(first), _flat(other), strict=False))
    law(
        any(not torch.equal(a.x, b.x) or a.key != b.key for a, b in pairs),
        "Another key asked the same questions: randomness does not come from the key.",
    )
    for p, was in zip(_flat(first), frozen, strict=True):
        law(p.x.shape == (dim,), f"A point has shape {tuple(p.x.shape)}, the space has {dim} dimensions.")
        law(p.x.dtype == torch.float32 and p.x.device.type == "cpu", "A point is not float32 on the cpu.")
        law(bool(p.x.isfinite().all()), "A point is not finite.")
        equal(p.x, was, "A point was written to after it was asked")
    _nan_is_never_best(make, space, key, n)


def _flat(rounds: list[list[Proposal]]) -> list[Proposal]:
    return [p for r in rounds for p in r]


def _dialogue(search: Search, n: int, rounds: int) -> tuple[list[list[Proposal]], list[Tensor]]:
    """Everything asked over some rounds on the sphere, and copies of the points as they were when asked."""
    out: list[list[Proposal]] = []
    frozen: list[Tensor] = []
    for _ in range(rounds):
        asked = search.ask(n)
        if not asked:
            break
        out.append(list(asked))
        frozen += [p.x.clone() for p in asked]
        told = [sphere(p) for p in asked]
        before = [(f.reward, dict(f.terms), None if f.gradient is None else f.gradient.clone()) for f in told]
        search.tell(told)
        for f, (reward, terms, gradient) in zip(told, before, strict=True):
            law(f.reward == reward and dict(f.terms) == terms, "tell() wrote to the feedback it was given.")
            if f.gradient is not None and gradient is not None:
                equal(f.gradient, gradient, "tell() wrote to the gradient it was given")
    return out, frozen


def _nan_is_never_best(make: Callable[[Space, Key], Search], space: Space, key: Key, n: int) -> None:
    """Where being told the best changes the next questions, being told NaN must not change them the same way."""

    def after(position: int, value: float) -> list[Proposal]:
        search = make(space, key)
        asked = search.ask(n)
        position %= len(asked)
        search.tell(
            [
                f if i != position else Feedback(f.proposal, value, f.terms, f.gradient)
                for i, f in enumerate(map(sphere, asked))
            ]
        )
        return search.ask(n)

    for position in (0, 1, -1):
        best = after(position, 1e3)
        worst = after(position, -1e6)
        nan = after(position, math.nan)
        law(all(bool(p.x.isfinite().all()) for p in nan), "A NaN reward led to a point that is not finite.")
        if _asks(best) != _asks(worst):
            law(_asks(nan) != _asks(best), "A NaN reward was treated as the best: its questions are those after a win.")
    search = make(space, key)
    asked = search.ask(n)
    search.tell([Feedback(p, math.nan, {}, torch.full_like(p.x, math.nan)) for p in asked])
    law(
        all(bool(p.x.isfinite().all()) for p in search.ask(n)), "A round of NaN only led to points that are not finite."
    )


def _asks(proposals: list[Proposal]) -> list[tuple[bytes, bytes]]:
    return [(p.x.numpy().tobytes(), p.key.digest) for p in proposals]
