"""A vision-language model that compares the candidates of a steering two at a time: Demon's judge, made robust."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from fairlead.core.errors import RewardError, unknown
from fairlead.core.key import Key
from fairlead.core.reward import FinalJudge, PairwiseReward
from fairlead.rewards import _ordering
from fairlead.rewards.judge import Judge, outcome, pair, shot_of

SIDES = ("drawn", "both")


class PairwiseJudge(Judge, PairwiseReward, FinalJudge):
    """Asks a model which of two pictures is better: ranks those that compete in a step of `demon` or `paths`, and
    chooses among finished pictures as the final judge of a run (`--final-judge`).

    Questions that do not need another answer first are asked at once. Equal pictures are not compared. A comparison
    that stays without a readable answer is a tie, with a warning. If no comparison is answered, the run stops and
    can be resumed. A finished picture competes with no other: it is rated by `rubric`, as by `judge`, and that
    rating is the recorded term. As the final judge, `scheme`, `sides` and `rubric` have no effect: the run arranges a
    knockout.

    Settings:
        scheme (partition, sort, pairs or round_robin, default 'partition'): `partition` is Demon's, 1 for the
            better half of K and 0 for the rest: 15 or 23 to 29 questions with K=16 (use demon(tau=0), so that each
            weight is +1 or -1). `sort` gives ranks and expects 2(K+1)H_K - 4K questions, `pairs` asks K/2,
            `round_robin` K(K-1)/2.
        sides (drawn or both, default 'drawn'): which picture comes first: `drawn` per pair from `seed` and the
            pixels, so that a pair is always the same question; `both` asks in both orders for twice the price, and
            a contradiction is a tie.
        scenario (text, default ''): who wants the picture, and for what.
        rubric (name, default 'five_aspects'): what a finished picture is rated by.
        seed (whole number, default 0): seed of `drawn` sides and of the order of comparisons.

    How the server is asked and paid is set as for `judge`: `model`, `base_url`, and `concurrency` to `cache`.
    """

    name = "pairwise_judge"
    unit = "rating by the judge, 0 to 100"
    licence: ClassVar[str] = "the model's own"
    source: ClassVar[str] = (
        "Yeh et al. 2025, arXiv 2410.05760; ties, sides and schemes beside `partition` and `pairs` ours"
    )

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        scheme: str = "partition",
        sides: str = "drawn",
        scenario: str = "",
        rubric: str = "five_aspects",
        seed: int = 0,
        concurrency: int = 8,
        retries: int = 4,
        timeout: float = 60.0,
        pause: float = 1.0,
        price_in: float = 0.0,
        price_out: float = 0.0,
        picture_tokens: int = 2000,
        cap: float | None = None,
        cache: str | bool | None = None,
    ) -> None:
        for what, value, known in (("scheme", scheme, _ordering.SCHEMES), ("sides", sides, SIDES)):
            if value not in known:
                raise unknown(f"pairwise_judge {what}", str(value), known)
        super().__init__(
            model,
            base_url,
            rubric=rubric,
            concurrency=concurrency,
            retries=retries,
            timeout=timeout,
            pause=pause,
            price_in=price_in,
            price_out=price_out,
            picture_tokens=picture_tokens,
            cap=cap,
            cache=cache,
        )
        self.name = "pairwise_judge"
        self._scheme, self._both, self._scenario = scheme, sides == "both", scenario
        self._key = Key.root(seed).fold("pairwise_judge")

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Finished images [B, 3, H, W] in [0, 1], prompts of length B -> ratings [B], 0 to 100."""
        return super().score(images, [self._told(prompt) for prompt in prompts])

    def rank(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Competing images [K, 3, H, W] in [0, 1] of one prompt -> [K] in [0, 1], best highest, in whatever order
        they come.
        """
        if len(set(prompts)) != 1:
            raise RewardError(
                f"pairwise_judge was given {len(set(prompts))} prompts: all pictures must be of one prompt."
            )
        shots = [shot_of(image) for image in images]
        only, prompt = list(dict.fromkeys(shots)), self._told(prompts[0])
        keys = [self._key.fold(prompt, shot) for shot in only]
        asked, failed, lost = 0, list[str](), self.client.lost

        def compare(pairs: Sequence[tuple[int, int]]) -> list[float]:
            nonlocal asked
            turns = [[(i, j), (j, i)] if self._both else [self._turned(i, j, keys)] for i, j in pairs]
            bodies = [pair(prompt, only[a], only[b]) for turn in turns for a, b in turn]
            found = iter(self._read(bodies, outcome, patient=True))
            out = []
            for (i, _), turn in zip(pairs, turns, strict=True):
                values = []
                for first, _ in turn:
                    value, why = next(found)
                    failed.extend([why] if why else [])
                    value = 0.5 if math.isnan(value) else value
                    values.append(value if first == i else 1 - value)
                out.append(sum(values) / len(values))
            asked += len(bodies)
            return out

        values = dict(zip(only, _ordering.order(self._scheme, [key.integer() for key in keys], compare), strict=True))
        self._reasons = ()
        if asked and self.client.lost - lost == asked:
            raise RewardError(
                f"None of {asked} comparisons was answered ({failed[0]}). Check the server, then resume the run."
            )
        if failed:
            warnings.warn(
                f"{len(failed)} of {asked} comparisons of pairwise_judge failed and count as ties: {failed[0]}.",
                stacklevel=2,
            )
        return torch.tensor([values[shot] for shot in shots])

    def prefer(self, first: Tensor, second: Tensor, prompt: str) -> list[tuple[float, str]]:
        """Pairs of finished pictures -> which is better, or NaN with the reason; a failed question is not repeated."""
        bodies = [pair(self._told(prompt), shot_of(a), shot_of(b)) for a, b in zip(first, second, strict=True)]
        return self._read(bodies, outcome, patient=True, attempts=1)

    def dollars_per_look(self, prompt: str) -> float:
        """What one question costs at most, as far as is known."""
        return self.client.dearest(pair(self._told(prompt), "", ""))

    def questions(self, rivals: int = 1) -> tuple[float, float]:
        """A share of those that the order of all takes; one for a finished picture, which has no rivals."""
        if rivals < 2:
            return super().questions()
        expected, most = (n * (1 + self._both) / rivals for n in _ordering.calls(self._scheme, rivals))
        return expected, most

    def dollars(self, prompt: str, rivals: int = 1) -> float:
        """A share of the most that the order of all can take, each question asked twice as in `judge`."""
        if rivals < 2:
            return super().dollars(self._told(prompt))
        return 2 * self.questions(rivals)[1] * self.client.dearest(pair(self._told(prompt), "", ""))

    def _told(self, prompt: str) -> str:
        return f"{prompt} (wanted for: {self._scenario})" if self._scenario else prompt

    def _turned(self, i: int, j: int, keys: Sequence[Key]) -> tuple[int, int]:
        """The pair in the order it is shown, the same whichever of the two is named first."""
        low, high = sorted((i, j), key=lambda n: keys[n].digest)
        return (low, high) if self._key.fold(keys[low].hex(), keys[high].hex()).integer() % 2 else (high, low)
