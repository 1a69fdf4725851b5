"""Asking an OpenAI-compatible server: retries, time-outs, concurrency, a spending cap, and a cache by content."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from fairlead.core.cost import Cost
from fairlead.core.errors import FairleadError, RewardError

LONGEST_PAUSE = 30.0
"""Seconds waited at most between two tries."""


@dataclass(frozen=True)
class Reply:
    """What came back for one question."""

    text: str = ""
    logprobs: tuple[tuple[str, float], ...] = ()
    """Alternatives of the first token with their natural log-probabilities."""
    refusal: str = ""
    """Why there is no answer to read, empty if there is one."""
    model: str = ""
    """The id the server gives itself."""
    dollars: float = 0.0


class NoAnswer(RewardError):
    """The server was busy, broken, slow or unreachable at every attempt."""

    def __init__(self, why: str) -> None:
        super().__init__(f"{why}. Check the server, then resume the run. Earlier answers are kept.")
        self.why = why


class Client:
    """Questions in, replies out, in the order of the questions whatever the order of the answers.

    Busy (429), broken (5xx), slow and unreachable servers are asked again with growing pauses, as long as the server
    says where it does; then the run stops, resumable. Refusals are replies. Anything else the server objects to is an
    error at once. `prices` are dollars per million tokens read and written; `cap` limits what this object spends.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None,
        *,
        timeout: float,
        retries: int,
        pause: float,
        concurrency: int,
        prices: tuple[float, float],
        cap: float | None,
        cache: str | bool | None,
    ) -> None:
        try:
            import openai
        except ImportError as error:
            raise FairleadError(
                "The reward judge needs the package openai. Install it with pip install 'fairlead[judge]'."
            ) from error
        self._openai, self._base_url, self._timeout = openai, base_url, timeout
        self.model, self._where = model, base_url or "the default server"
        self._retries, self._pause, self._threads = retries, pause, max(1, concurrency)
        self._prices, self._cap, self.spent = prices, cap, 0.0
        self.lost = 0
        """Questions that a patient `ask` went on without."""
        self._cache: _Cache | None = None
        if cache is not False:
            self._cache = _Cache(Path(cache).expanduser() if isinstance(cache, str) else _default())
        self.charge: Callable[[Cost], None] = lambda cost: None
        self.models: set[str] = set()

    @cached_property
    def _client(self) -> Any:
        key = os.environ.get("OPENAI_API_KEY") or ("none" if self._base_url else "")
        if not key:
            raise FairleadError("Neither judge.base_url nor OPENAI_API_KEY is set. Set one of them.")
        return self._openai.OpenAI(base_url=self._base_url, api_key=key, timeout=self._timeout, max_retries=0)

    def ready(self) -> None:
        """Check that there is a server to ask. The constructor does not check, because a price needs no server."""
        _ = self._client

    def ask(self, questions: Sequence[Mapping[str, Any]], patient: bool = False) -> list[Reply]:
        """Request bodies -> replies in their order. Equal questions, and those of the past, are not asked again.

        `patient`: where the server gave no answer, the reply is a refusal that says so, not an error.
        """
        names = [
            sha256(json.dumps([self._where, self.model, q], sort_keys=True).encode()).hexdigest() for q in questions
        ]
        known = {n: r for n in set(names) if self._cache and (r := self._cache.get(n)) is not None}
        new = {n: q for n, q in zip(names, questions, strict=True) if n not in known}
        if new:
            self.ready()
        dearest = sum(self.dearest(q) for q in new.values())
        if self._cap is not None and self.spent + dearest > self._cap + 1e-12:
            raise RewardError(
                f"judge.cap is ${self._cap:g} and ${self.spent:.4f} are spent. {len(new)} more questions could cost "
                f"${dearest:.4f}. Increase judge.cap, then resume the run."
            )
        self.charge(Cost(dollars=dearest))
        paid = 0.0
        try:
            with ThreadPoolExecutor(min(self._threads, max(1, len(new)))) as pool:
                futures = {n: pool.submit(self._one, q) for n, q in new.items()}
                failed: BaseException | None = None
                for name, future in futures.items():
                    try:
                        reply = known[name] = future.result()
                    except Exception as error:
                        if patient and isinstance(error, NoAnswer):
                            known[name], self.lost = Reply(refusal=error.why), self.lost + 1
                        else:
                            failed = failed or error
                        continue
                    paid += reply.dollars
                    self.models.add(reply.model)
                    if self._cache and not reply.refusal:
                        self._cache.put(name, reply)
                if failed:
                    raise failed
        finally:
            self.spent += paid
            self.charge(Cost(dollars=paid - dearest))
        return [known[n] for n in names]

    def forget(self, questions: Sequence[Mapping[str, Any]]) -> None:
        """Take replies out of the cache that turned out to be unreadable."""
        for q in questions:
            name = sha256(json.dumps([self._where, self.model, q], sort_keys=True).encode()).hexdigest()
            if self._cache:
                self._cache.drop(name)

    def dearest(self, question: Mapping[str, Any]) -> float:
        """Dollars one question costs at most, tries included: a picture is taken for 2000 tokens, two letters for
        one.
        """
        text = sum(len(p.get("text", "")) for m in question["messages"] for p in m["content"])
        images = sum(p["type"] == "image_url" for m in question["messages"] for p in m["content"])
        return float(self._prices[0] * (2000 * images + text / 2) + self._prices[1] * question["max_tokens"]) / 1e6

    def _one(self, question: Mapping[str, Any]) -> Reply:
        api, body = self._openai, dict(question)
        for attempt in range(self._retries + 1):
            try:
                return self._read(self._client.chat.completions.create(model=self.model, **body))
            except (api.APITimeoutError, api.APIConnectionError, api.RateLimitError, api.InternalServerError) as error:
                why: Exception = error
                if getattr(error, "code", None) == "insufficient_quota":
                    raise RewardError(
                        f"{self._where} reports that the account has no credit. Add credit, then resume the run."
                    ) from error
                if attempt < self._retries:
                    time.sleep(_wait(error, self._pause * 2**attempt))
            except api.BadRequestError as error:
                told = str(error).lower()
                if "content_policy" in told or "content_filter" in told or "moderation" in told:
                    return Reply(refusal="refused by the server's filter")
                if "response_format" in told and "response_format" in body:
                    del body["response_format"]
                    why = error
                    continue
                raise RewardError(
                    f"{self._where} rejects the question ({_brief(error)}). Check judge.model and judge.mode."
                ) from error
            except api.APIStatusError as error:
                raise RewardError(
                    f"{self._where} answers {error.status_code} ({_brief(error)}). Check judge.model, judge.base_url "
                    "and OPENAI_API_KEY."
                ) from error
            except (ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
                return Reply(refusal=f"unreadable reply: {type(error).__name__}")
        raise NoAnswer(f"{self._where} gave no answer in {self._retries + 1} tries ({_brief(why)})") from why

    def _read(self, reply: Any) -> Reply:
        usage = getattr(reply, "usage", None)
        read, wrote = (getattr(usage, k, 0) or 0 for k in ("prompt_tokens", "completion_tokens"))
        dollars = (self._prices[0] * read + self._prices[1] * wrote) / 1e6
        model = str(getattr(reply, "model", "") or self.model)
        if not getattr(reply, "choices", None):
            return Reply(refusal="empty reply", model=model, dollars=dollars)
        choice = reply.choices[0]
        message, first = choice.message, (choice.logprobs.content or []) if choice.logprobs else []
        if getattr(message, "refusal", None) or choice.finish_reason == "content_filter":
            said = str(getattr(message, "refusal", "") or "content filter")
            return Reply(refusal=f"refused: {said[:80]}", model=model, dollars=dollars)
        top = tuple((t.token, float(t.logprob)) for t in first[0].top_logprobs) if first else ()
        return Reply(str(message.content or ""), top, "", model, dollars)


def _wait(error: Exception, pause: float) -> float:
    response = getattr(error, "response", None)
    try:
        told = float(response.headers.get("retry-after", "")) if response is not None else 0.0
    except ValueError:
        told = 0.0
    return min(LONGEST_PAUSE, max(pause, told))


def _brief(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:120]


def _default() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fairlead" / "judge.sqlite"


class _Cache:
    """Replies by the digest of server, model and question (pictures included), across runs."""

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(path, timeout=30)) as db, db:
                db.execute(
                    "create table if not exists reply(name text primary key, data text not null, at real not null)"
                )
        except (OSError, sqlite3.Error) as error:
            raise FairleadError(
                f"The judge's cache cannot be stored in {path} ({error}). Set judge.cache to another path, or to False."
            ) from error
        self._path = path

    def get(self, name: str) -> Reply | None:
        with closing(sqlite3.connect(self._path, timeout=30)) as db:
            row = db.execute("select data from reply where name=?", (name,)).fetchone()
        if row is None:
            return None
        data = json.loads(row[0])
        return Reply(data["text"], tuple((t, v) for t, v in data["logprobs"]), "", data["model"], 0.0)

    def put(self, name: str, reply: Reply) -> None:
        data = json.dumps({"text": reply.text, "logprobs": reply.logprobs, "model": reply.model})
        with closing(sqlite3.connect(self._path, timeout=30)) as db, db:
            db.execute("insert or replace into reply values(?,?,?)", (name, data, time.time()))

    def drop(self, name: str) -> None:
        with closing(sqlite3.connect(self._path, timeout=30)) as db, db:
            db.execute("delete from reply where name=?", (name,))
