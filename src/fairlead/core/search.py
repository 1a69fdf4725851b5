"""Ask/tell over points of a space. A search knows vectors and numbers, nothing else."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from fairlead.core.key import Key
from fairlead.core.model import Conditioning, Model


class Space(Protocol):
    """What is searched, as vectors: initial noise, a shift of the prompt tokens, a subspace, a product of spaces.

    Built as cls(shape, **settings) with the model's `Shape`.
    """

    @property
    def dim(self) -> int:
        """d"""
        ...

    def draw(self, key: Key) -> Tensor:
        """[d] from the prior; for embeddings the zero shift, which reproduces the unsearched picture bit for bit."""
        ...

    def place(self, x: Tensor, model: Model, cond: Conditioning, keys: tuple[Key, ...]) -> tuple[Tensor, Conditioning]:
        """x [B, d] -> unit-normal latents [B, C, h, w] and Conditioning. Differentiable."""
        ...


@dataclass(frozen=True)
class Proposal:
    """A question: this point, with this randomness."""

    x: Tensor
    """[d] float32 cpu, never written to afterwards"""
    key: Key
    """Randomness of the rollout; equal keys share sampler noise (common random numbers)."""
    steps: int | str | None = None
    """How it is seen: None is the finished picture, a text a rung of `run/rungs.py`, a number that many even steps."""
    origin: int | None = None
    """Which proposal it was drawn from: its place among all that this search has made, from 0. None: from none. It is
    recorded for readers and changes nothing.
    """


@dataclass(eq=False)
class Feedback:
    """The answer, carrying its question: nothing is matched by position or by value.

    A search that compares new answers with earlier ones keeps the `Feedback`, not the number. A reward that compares
    candidates (`rank_mean`) changes the earlier numbers as the set grows. The run corrects them before every `tell`.
    """

    proposal: Proposal
    reward: float
    """Higher is better; NaN = failed, and a failed candidate never ranks first. Only the run writes to it."""
    terms: Mapping[str, float]
    gradient: Tensor | None = None
    """[d] d reward / d x, if the search asked for it"""

    @property
    def value(self) -> float:
        """The reward, minus infinity where it failed: what to rank by."""
        return float("-inf") if math.isnan(self.reward) else self.reward


class Search(Protocol):
    """Knows vectors and numbers. No model, device, store, budget or executor. Built as cls(space, key, **settings)."""

    @property
    def wants_gradient(self) -> bool:
        """True if `tell` needs d reward / d x."""
        ...

    def ask(self, n: int) -> list[Proposal]:
        """At most n proposals, which is what the budget affords. Empty if the search is finished or cannot use that
        few.
        """
        ...

    def tell(self, feedback: Sequence[Feedback]) -> None:
        """Everything asked last, in the order asked. The state is a function of the key and of the feedback.

        The rewards of earlier `Feedback` objects are up to date when this is called.
        """
        ...


class Generations(ABC):
    """A search that moves in generations. Only a whole answered generation moves it.

    A generation may be asked for and answered in pieces, so neither the size of a piece nor the end of the budget
    changes a question: what is left of a budget is spent on the front of a generation.
    """

    wants_gradient: ClassVar[bool] = False

    def __init__(self) -> None:
        self._queue: list[Proposal] = []
        self._answered: list[Feedback] = []
        self.made = 0
        """How many proposals were made before this generation: the place of its first one."""

    @abstractmethod
    def propose(self) -> list[Proposal]:
        """The next generation; empty if the search is finished."""

    @abstractmethod
    def learn(self, generation: Sequence[Feedback]) -> None:
        """Everything `propose` returned last, answered, in order."""

    def ask(self, n: int) -> list[Proposal]:
        """The next questions of this generation, at most n."""
        if not self._queue and not self._answered:
            self._queue = self.propose()
        out, self._queue = self._queue[: max(0, n)], self._queue[max(0, n) :]
        return out

    def tell(self, feedback: Sequence[Feedback]) -> None:
        """Collected until the generation is whole."""
        self._answered += feedback
        if self._answered and not self._queue:
            answered, self._answered = self._answered, []
            self.learn(answered)
            self.made += len(answered)


def best_first(feedback: Sequence[Feedback]) -> list[Feedback]:
    """By falling reward; the earlier of equals first, failures last."""
    return sorted(feedback, key=lambda f: -f.value)
