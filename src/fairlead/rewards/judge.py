"""A vision-language model as judge, through any OpenAI-compatible server (OpenAI, vLLM, SGLang, ...)."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from fairlead.core.check import one_of
from fairlead.core.cost import Cost
from fairlead.core.errors import FairleadError
from fairlead.core.reward import PaidReward
from fairlead.rewards._asking import Client, Reply
from fairlead.rewards.http import png

FIVE = {
    "accuracy_to_prompt": "all that the prompt asks for is there, in number, colour and place, and nothing "
    "contradicts it",
    "originality": "the picture finds its own way to show the subject instead of the most ordinary one",
    "visual_quality": "it is sharp, well lit and well composed, without artefacts or broken anatomy",
    "internal_consistency": "its parts fit together in perspective, light, scale and style",
    "emotional_resonance": "it carries the mood that the subject calls for",
}
RUBRICS: dict[str, dict[str, str]] = {
    "five_aspects": FIVE,
    "alignment": {"alignment": FIVE["accuracy_to_prompt"]},
    "quality": {"quality": FIVE["visual_quality"]},
}
"""Name -> what is rated, each from 0 to 100. `five_aspects` has the aspects of Ma et al. 2025; the wording is ours."""
MODES = {
    "rubric": "rating by the judge, 0 to 100",
    "yes_no": "probability of yes, 0 to 1",
    "pairwise": "1 if better than the reference, 0 if worse",
}
"""What the judge can be asked, and what a point of the answer means."""
WINNER = re.compile(
    r"(?:the )?(?:winner|answer|better(?: one)?)?(?: is)?\s*:?\s*"
    r"(?:the )?(?:image|picture|photo|option)?\s*[\"'(*]*"
    r"(?:(?P<first>a|1|one|first)|(?P<second>b|2|two|second)|(?P<tie>tie|draw|equal|neither))[\"')*]*"
    r"(?: (?:image|picture|photo|one|option))?\s*[.!]*"
)
"""A reply that names one picture, or neither, and says nothing else: the whole of it is matched, never a part."""
QUESTION = 'Does this figure show "{}"? Please answer Yes or No.'


class Judge(PaidReward):
    """Asks a vision-language model about every picture; what cannot be read is NaN with a reason, never a number.

    Even at temperature 0 servers repeat themselves only to about 1e-3.

    Settings:
        model (name, required): the model, as the server calls it.
        base_url (address or None, default None): the server; None is OpenAI's, with the key in OPENAI_API_KEY.
        mode (rubric, yes_no or pairwise, default 'rubric'): `rubric` rates each aspect from 0 to 100 as a
            structured reply with the explanation first, and the score is their mean, computed here. `yes_no` is
            P(yes) over P(yes) + P(no) from the log-probabilities of the first token, spellings merged. `pairwise`
            compares with `reference` in both orders: 1 won, 0 lost, ties and contradictions between.
        rubric (name or mapping, default 'five_aspects'): what is rated in mode `rubric`.
        question (text with a place for the prompt, default 'Does this figure show "{}"? Please answer Yes or No.'):
            the question of mode `yes_no`.
        reference (file or None, default None): the picture that mode `pairwise` compares with.
        concurrency (whole number >= 1, default 8): questions that are open at once.
        retries (whole number >= 0, default 4): further attempts after a failed request.
        timeout (number > 0, default 60.0): seconds to wait for the whole answer, which may have 16 MiB.
        pause (number >= 0, default 1.0): seconds before the second attempt; later pauses grow.
        price_in (number >= 0, default 0.0): US dollars per million tokens sent; spending is charged to the run's
            budget entry `dollars`.
        price_out (number >= 0, default 0.0): US dollars per million tokens received.
        picture_tokens (whole number >= 1, default 2000): tokens that a picture is taken for until a reply has shown
            more. With a price, the first question is asked alone to see it; requests that time out are not seen.
        cap (number >= 0 or None, default None): most that this reward alone may spend, in US dollars.
        cache (file, false or None, default None): where replies are kept by picture, question and model; None is
            the usual place, false keeps none.
    """

    name = "judge"
    unit = "rating by the judge, 0 to 100; 0 to 1 for yes_no and pairwise"
    licence: ClassVar[str] = "the model's own"
    source: ClassVar[str] = "rubric: Ma et al. 2025, arXiv 2501.09732; yes_no: Lin et al. 2024, arXiv 2404.01291"

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        mode: str = "rubric",
        rubric: str = "five_aspects",
        question: str = QUESTION,
        reference: str | None = None,
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
        one_of("judge.mode", mode, MODES)
        one_of("judge.rubric", rubric, RUBRICS)
        if "{}" not in question:
            raise FairleadError(f"judge.question is {question!r}: must contain {{}}, which the prompt replaces.")
        if mode == "pairwise" and not (reference and Path(reference).expanduser().is_file()):
            raise FairleadError(
                f"judge.reference is {reference!r}: must be a picture in mode 'pairwise', for example RUN/baseline.png."
            )
        self._mode, self._aspects, self._question = mode, RUBRICS[rubric], question
        self.unit = MODES[mode]
        self._reference = _url(Path(str(reference)).expanduser().read_bytes()) if mode == "pairwise" else ""
        self.name = f"judge_{mode}" if mode != "rubric" else f"judge_{rubric}"
        self._reasons: tuple[str, ...] = ()
        self.client = Client(
            model,
            base_url,
            timeout=timeout,
            retries=retries,
            pause=pause,
            concurrency=concurrency,
            prices=(price_in, price_out),
            picture_tokens=picture_tokens,
            cap=cap,
            cache=cache,
        )

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the NaN of the last call are NaN."""
        return self._reasons

    def charge_to(self, charge: Callable[[Cost], None]) -> None:
        """Dollars are charged at their highest before asking and settled after."""
        self.client.charge = charge

    def ready(self) -> None:
        """Whether there is a server to ask."""
        self.client.ready()

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images [B, 3, H, W] in [0, 1], prompts of length B -> [B]."""
        shots = [shot_of(image) for image in images]
        ask, read, orders = self._way()
        questions = [
            ask(shot, prompt, turned) for turned in orders for shot, prompt in zip(shots, prompts, strict=True)
        ]
        found = self._read(questions, read)
        n = len(shots)
        both = [(found[i], found[i + n]) if len(orders) == 2 else (found[i],) for i in range(n)]
        self._reasons = tuple(_reasons(own) for own in both)
        return torch.tensor([_average(own, orders) for own in both])

    def _way(self) -> tuple[Callable[[str, str, bool], dict[str, Any]], Callable[[Reply], float], tuple[bool, ...]]:
        """How this mode asks, reads, and in which orders it shows."""
        ask, read = {
            "rubric": (self._rubric, self._mean),
            "yes_no": (self._yes_no, _probability),
            "pairwise": (self._pair, outcome),
        }[self._mode]
        return ask, read, (False, True) if self._mode == "pairwise" else (False,)

    def questions(self, rivals: int = 1) -> tuple[float, float]:
        """One a picture, or one an order."""
        n = float(len(self._way()[2]))
        return n, n

    def dollars(self, prompt: str, rivals: int = 1) -> float:
        """Every order of a picture asked twice, because what cannot be read is asked for again."""
        ask, _, orders = self._way()
        return 2 * len(orders) * self.client.dearest(ask("", prompt, False))

    def _read(
        self,
        questions: list[dict[str, Any]],
        read: Callable[[Reply], float],
        patient: bool = False,
        attempts: int = 2,
    ) -> list[tuple[float, str]]:
        """Values and reasons; unreadable replies are asked for again. `patient` as in `Client.ask`."""
        out: list[tuple[float, str]] = [(math.nan, "")] * len(questions)
        todo = list(range(len(questions)))
        for _ in range(attempts):
            again = []
            for i, reply in zip(todo, self.client.ask([questions[i] for i in todo], patient), strict=True):
                try:
                    out[i] = (math.nan, reply.refusal) if reply.refusal else (read(reply), "")
                except ValueError as error:
                    out[i] = (math.nan, f"unreadable reply: {error}")
                    again.append(i)
            self.client.forget([questions[i] for i in again])
            todo = again
            if not todo:
                break
        return out

    def _rubric(self, shot: str, prompt: str, turned: bool) -> dict[str, Any]:
        lines = "\n".join(f"- {name}: {what}." for name, what in self._aspects.items())
        text = (
            f"The picture was made for this prompt: {prompt!r}.\nRate it on every aspect with a whole number from 0 "
            "(fails "
            f"completely) to 100 (could not be better); 50 is an ordinary result.\n{lines}\nAnswer with one JSON "
            "object: first "
            f"`explanation`, what you see in two sentences, then {', '.join(f'`{name}`' for name in self._aspects)}."
        )
        numbers = {name: {"type": "number", "minimum": 0, "maximum": 100} for name in self._aspects}
        return _structured(text, [shot], numbers)

    def _mean(self, reply: Reply) -> float:
        data = _object(reply.text)
        values = []
        for name in self._aspects:
            value = data.get(name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
                raise ValueError(f"{name} is {value!r}, not a number from 0 to 100")
            values.append(float(value))
        return sum(values) / len(values)

    def _yes_no(self, shot: str, prompt: str, turned: bool) -> dict[str, Any]:
        body = _messages(self._question.replace("{}", prompt), [shot])
        return {**body, "max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": 20}

    def _pair(self, shot: str, prompt: str, turned: bool) -> dict[str, Any]:
        return pair(prompt, *((self._reference, shot) if turned else (shot, self._reference)))


def pair(prompt: str, first: str, second: str) -> dict[str, Any]:
    """The question which of two pictures (as `shot_of` gives them) is better; `outcome` reads its reply."""
    text = (
        f"Both pictures were made for this prompt: {prompt!r}.\nWhich one would its author choose, by agreement with "
        "the prompt first and by quality second? Answer with one JSON object: first `explanation`, the "
        "differences in two sentences, then `winner`, one of `first`, `second`, `tie`."
    )
    return _structured(text, [first, second], {"winner": {"type": "string", "enum": ["first", "second", "tie"]}})


def _probability(reply: Reply) -> float:
    if not reply.logprobs:
        raise ValueError("no log-probabilities (reasoning models give none)")
    every = [math.exp(min(logprob, 1.0)) for _, logprob in reply.logprobs]
    if not all(p <= 1 + 1e-6 for p in every) or sum(every) > 1 + 1e-3:
        raise ValueError("its log-probabilities are none: they add up to more than 1")
    if len(every) == 1 and every[0] < 0.5:
        raise ValueError("one alternative, and the others are more probable")
    mass = {"yes": 0.0, "no": 0.0}
    for token, logprob in reply.logprobs:
        word = token.strip().lower()
        if word in mass:
            mass[word] += math.exp(logprob)
    if not any(mass.values()):
        raise ValueError(f"neither yes nor no among {len(reply.logprobs)} alternatives")
    least = min(every) if len(every) > 1 else 1 - every[0]  # the most that a missing answer can have
    yes, no = (m or least for m in (mass["yes"], mass["no"]))
    return yes / (yes + no)


def outcome(reply: Reply) -> float:
    """1 if the first of two pictures won, 0 if the second, 1/2 for a tie; ValueError if the reply names none."""
    said = _object(reply.text).get("winner") if "{" in reply.text else reply.text
    found = WINNER.fullmatch(str(said).strip().casefold())
    if found is None or isinstance(said, bool):
        raise ValueError(f"winner is {said!r:.60}")
    return next(value for name, value in (("first", 1.0), ("second", 0.0), ("tie", 0.5)) if found[name])


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys occur once: of two, nobody knows which one is meant."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _object(text: str) -> Mapping[str, Any]:
    """The JSON object in a reply, also between code fences."""
    start, end = text.find("{"), text.rfind("}")
    try:
        data = json.loads(text[start : end + 1], object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise ValueError(f"no JSON object in {text[:60]!r}") from None
    if not isinstance(data, dict):
        raise ValueError(f"no JSON object in {text[:60]!r}")
    return data


def _reasons(own: Sequence[tuple[float, str]]) -> str:
    """Why some of the answers about one picture have no number."""
    return "; ".join(dict.fromkeys(why for _, why in own if why))


def _average(own: Sequence[tuple[float, str]], orders: Sequence[bool]) -> float:
    """The mean of the answers about one picture; an answer in exchanged order is turned back."""
    values = [1 - v if turned else v for (v, _), turned in zip(own, orders, strict=True)]
    return sum(values) / len(values)


def shot_of(image: Tensor) -> str:
    """Image [3, H, W] in [0, 1] -> how it stands in a question; equal pixels give equal text."""
    return _url(png(image))


def _url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def _messages(text: str, shots: Sequence[str]) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": shot}} for shot in shots]
    return {"messages": [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]}


def _structured(text: str, shots: Sequence[str], properties: Mapping[str, Any]) -> dict[str, Any]:
    """A question whose reply is one JSON object with the explanation before everything else."""
    schema = {
        "type": "object",
        "properties": {"explanation": {"type": "string"}, **properties},
        "required": ["explanation", *properties],
        "additionalProperties": False,
    }
    shape = {"type": "json_schema", "json_schema": {"name": "judgement", "strict": True, "schema": schema}}
    return {**_messages(text, shots), "max_tokens": 600, "temperature": 0, "response_format": shape}
