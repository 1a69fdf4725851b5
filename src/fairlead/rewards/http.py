"""A scorer behind an address: pictures and prompts go out as JSON, numbers come back."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from fairlead.core import trust
from fairlead.core.check import number_in_range
from fairlead.core.errors import RewardError
from fairlead.core.reward import Reward
from fairlead.rewards._post import NoReply, TooLarge, check_address, post

TRIES = 3
LARGEST_SCORE = 3e38
"""What a float32 can hold."""


def png(image: Tensor) -> bytes:
    """Image [3, H, W] in [0, 1] -> PNG, rounded to 8 bits."""
    array = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


class HttpReward(Reward):
    """POST {"images": [base64 PNG, ...], "prompts": [...]} -> {"scores": [...]}, or a bare list; null is no number.

    There is one request per batch. A server that is down, busy (429) or broken (5xx) is asked three times with
    growing pauses. Any other answer is an error at once;
    redirects are not followed.

    Settings:
        url (address, required): where the request is sent.
        timeout (number > 0, default 60.0): seconds to wait for the whole answer, which may have 16 MiB.
        pause (number >= 0, default 1.0): seconds before the second attempt; later pauses grow.
        token_env (name or None, default None): the environment variable whose value is sent as a bearer token. It is
            read when a question is sent and recorded nowhere; a server that only a stored run names does not get it.
    """

    name = "http"
    unit = "the server's own scale"
    licence: ClassVar[str] = "the server's own"
    source: ClassVar[str] = "the server"

    def __init__(self, url: str, timeout: float = 60.0, pause: float = 1.0, token_env: str | None = None) -> None:
        self._url = check_address("http.url", url)
        self._timeout = number_in_range("http.timeout", timeout, "(0, 86400]")
        self._pause = number_in_range("http.pause", pause, "[0, 3600]")
        if token_env is not None and not (isinstance(token_env, str) and token_env.isidentifier()):
            raise RewardError(f"http.token_env is {token_env!r:.60}: must be the name of an environment variable.")
        self._token_env = token_env
        self._sends_token = not trust.is_stored()

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images [B, 3, H, W] in [0, 1], prompts of length B -> [B]."""
        sent = {"images": [base64.b64encode(png(i)).decode() for i in images], "prompts": list(prompts)}
        answer = self._ask(json.dumps(sent).encode())
        scores = answer.get("scores") if isinstance(answer, dict) else answer
        if not isinstance(scores, list) or len(scores) != len(images) or not all(_is_score(s) for s in scores):
            said = self._masked(str(answer))[:80]
            raise RewardError(
                f"{self._url} answered {said!r} for {len(images)} images: the answer must be "
                '{"scores": [...]} with one number or null per image.'
            )
        return torch.tensor([math.nan if s is None else float(s) for s in scores])

    def _token(self) -> str:
        """The bearer token, empty where none is sent."""
        if self._token_env is None or not self._sends_token:
            return ""
        token = os.environ.get(self._token_env, "").strip()
        if not token.isascii() or not token.isprintable() or not token:
            raise RewardError(f"http.token_env is {self._token_env!r}, and that variable holds no token. Set it.")
        return token

    def _masked(self, text: str) -> str:
        """What a server said, without the token that it may repeat."""
        token = self._token()
        return text.replace(token, "***") if token else text

    def _ask(self, body: bytes) -> Any:
        token = self._token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        for attempt in range(TRIES):
            try:
                answer = post(self._url, body, headers, seconds=self._timeout)
            except NoReply as error:
                why = str(error)
            except TooLarge:
                why = "an answer without end"
                break
            else:
                if answer.status == 200:
                    try:
                        return json.loads(answer.body)
                    except (ValueError, RecursionError):
                        why = "something that is not JSON"
                        break
                why = f"status {answer.status}"
                if 300 <= answer.status < 400:
                    place = self._masked(answer.headers.get("Location", ""))
                    why += f", a redirect to {place!r:.80}; pictures go only where you say"
                if answer.status < 500 and answer.status != 429:
                    break
            if attempt + 1 < TRIES:
                time.sleep(self._pause * 2**attempt)
        if "401" in why and self._token_env is not None and not token:
            why += ", and the token was not sent to a server that a stored run names: see --trust"
        raise RewardError(
            f"{self._url} returned no scores ({why}). Check the server, then resume the run. Earlier scores are kept."
        )


def _is_score(value: object) -> bool:
    """None, or a finite number: JSON has no infinity, and a number too large to hold is none."""
    if value is None:
        return True
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST_SCORE
