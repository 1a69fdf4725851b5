"""A person as the judge: the run puts questions into its record and goes on when they are answered."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from fairlead.core.check import one_of, whole_number
from fairlead.core.people import Ask, Question, chunks
from fairlead.core.reward import FinalJudge, HumanReward

MODES = {"pick": "1 if you chose it, else 0", "pairwise": "how many champions it beat"}
"""How a person is asked, and what a point of the answer means."""


class Human(HumanReward, FinalJudge):
    """Asks you through the run's record: `fairlead answer RUN` shows the pictures, takes the answers and continues.

    A steering that can ask during sampling (demon) shows the previews of every step on one numbered sheet: liked is
    1, disliked is -1, the others are 0. As the final judge of a run (`--final-judge human`) you compare finished
    pictures two at a time, whatever the mode.

    Settings:
        mode (pick or pairwise, default 'pick'): `pick` lets you choose any number of pictures of a round: chosen is
            1, not chosen is 0. `pairwise` compares every picture with the best so far, one question each: a better
            one counts one more than the best so far had, a tie the same, a worse one half less (it lies between
            this best and the one before). The first picture has 0.
        k (whole number in [2, 36], default 4): pictures shown at once in mode `pick`.
    """

    name = "human"
    unit = "1 if you chose it, else 0; pairwise: how many champions it beat"
    licence: ClassVar[str] = "yours"
    source: ClassVar[str] = "you"
    looks = 1
    repeats = False

    def __init__(self, mode: str = "pick", k: int = 4) -> None:
        self._mode = one_of("human.mode", mode, MODES)
        self.unit = MODES[mode]
        self._k = whole_number("human.k", k, least=2, most=36)

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """NaN [B]: nobody has seen them yet."""
        return torch.full((len(images),), math.nan)

    def decide(self, rounds: Sequence[Sequence[str]], prompt: str, ask: Ask) -> list[list[float]]:
        """Names of the pictures of every round -> their scores, as far as the answers of `ask` reach."""
        return self._pick(rounds, prompt, ask) if self._mode == "pick" else self._pairwise(rounds, prompt, ask)

    def choose(self, names: Sequence[str], prompt: str, ask: Ask) -> list[float]:
        """Names of the previews of one step -> 1 where liked, -1 where disliked, 0 elsewhere."""
        said = ask(Question("steer", f"Which of these previews of {prompt!r} do you like?", tuple(names)))
        return [float(i in said) - float(~i in said) for i in range(len(names))]

    def _pick(self, rounds: Sequence[Sequence[str]], prompt: str, ask: Ask) -> list[list[float]]:
        text = f"Which of these show {prompt!r} well? Choose any number of them."
        out = []
        for names in rounds:
            scores: list[float] = []
            for shown in chunks(names, self._k):
                chosen = ask(Question("pick", text, shown))
                scores += [float(i in chosen) for i in range(len(shown))]
            out.append(scores)
        return out

    def _pairwise(self, rounds: Sequence[Sequence[str]], prompt: str, ask: Ask) -> list[list[float]]:
        text = f"Which of the two shows {prompt!r} better?"
        out: list[list[float]] = []
        best: tuple[str, float] | None = None
        for names in rounds:
            scores: list[float] = []
            for name in names:
                if best is None:
                    best = (name, 0.0)
                    scores.append(0.0)
                    continue
                chosen = () if name == best[0] else ask(Question("pair", text, (best[0], name)))
                if chosen == (1,):
                    best = (name, best[1] + 1.0)
                    scores.append(best[1])
                elif chosen:
                    scores.append(best[1] - 0.5)
                else:
                    scores.append(best[1])
            out.append(scores)
        return out
