"""Asking an OpenAI-compatible server: retries, time-outs, concurrency, a spending cap, and a cache by content."""

from __future__ import annotations

import json
import math
import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from fairlead.core import trust
from fairlead.core.check import number_in_range, whole_number
from fairlead.core.cost import Cost
from fairlead.core.errors import FairleadError, RewardError
from fairlead.rewards._post import Answer, NoReply, TooLarge, check_address, post

DEFAULT_SERVER = "https://api.openai.com/v1"
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
    wrong: str = ""
    """Why the server cannot be used any further, in words; what it cost is booked all the same."""


class NoAnswer(RewardError):
    """The server was busy, broken, slow or unreachable at every attempt."""

    def __init__(self, why: str) -> None:
        super().__init__(f"{why}. Check the server, then resume the run. Earlier answers are kept.")
        self.why = why


class Client:
    """Questions in, replies out, in the order of the questions whatever the order of the answers.

    Busy (429), broken (5xx), slow and unreachable servers are asked again with growing pauses, as long as the server
    says where it does; then the run stops, resumable. Refusals are replies. Anything else the server objects to is an
    error at once.

    `prices` are dollars per million tokens read and written; `cap` limits what this object spends. What a reply cost is
    booked before anything else, then compared with the cap. A question is taken for `picture_tokens` a picture, or for
    as many as a reply has shown; where there is a price, the first question is asked alone, to see it.

    The key in OPENAI_API_KEY goes to the default server, and to a `base_url` that the user of this command named: not
    to one that a stored run names (`core.trust`).
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
        picture_tokens: int,
        cap: float | None,
        cache: str | bool | None,
    ) -> None:
        self._base_url = None if base_url is None else check_address("judge.base_url", base_url).rstrip("/")
        self._timeout = number_in_range("judge.timeout", timeout, "(0, 86400]")
        self.model, self._where = model, base_url or "the default server"
        self._retries = whole_number("judge.retries", retries, 0, 100)
        self._pause = number_in_range("judge.pause", pause, "[0, 3600]")
        self._threads = whole_number("judge.concurrency", concurrency, 1, 256)
        names = ("judge.price_in", "judge.price_out")
        self._prices = [number_in_range(n, v, "[0, inf)") for n, v in zip(names, prices, strict=True)]
        self._cap, self.spent = number_in_range("judge.cap", cap, "[0, inf)", optional=True), 0.0
        self._picture_tokens = float(whole_number("judge.picture_tokens", picture_tokens, 1, 10**9))
        self._answer_tokens, self._measured = 0.0, False
        self._sends_key = not (base_url is not None and trust.is_stored())
        self.lost = 0
        """Questions that a patient `ask` went on without."""
        self._cache: _Cache | None = None
        if cache is not False:
            self._cache = _Cache(Path(cache).expanduser() if isinstance(cache, str) else _default())
        self.charge: Callable[[Cost], None] = lambda cost: None
        self.models: set[str] = set()

    def ready(self) -> None:
        """Refuse what nobody could answer. Not when it is built: a price asks nothing and needs no server."""
        if self._base_url is None and not _key():
            raise FairleadError("Neither judge.base_url nor OPENAI_API_KEY is set. Set one of them.")

    def ask(self, questions: Sequence[Mapping[str, Any]], patient: bool = False) -> list[Reply]:
        """Request bodies -> replies in their order. Equal questions, and those of the past, are not asked again.

        `patient`: where the server gave no answer, the reply is a refusal that says so, not an error.
        """
        names = [
            sha256(json.dumps([self._where, self.model, q], sort_keys=True).encode()).hexdigest() for q in questions
        ]
        known = {n: r for n in set(names) if self._cache and (r := self._cache.get(n)) is not None}
        todo = list({n: q for n, q in zip(names, questions, strict=True) if n not in known}.items())
        if todo:
            self.ready()
        held = 0.0
        try:
            while todo:
                need = sum(self.dearest(q) for _, q in todo)
                self._check_cap(need, len(todo))
                change, held = need - held, need
                self.charge(Cost(dollars=change))
                many = len(todo)
                if any(self._prices):
                    many = self._threads if self._measured else 1
                now, todo = todo[:many], todo[many:]
                self._ask_now(now, known, patient)
        finally:
            self.charge(Cost(dollars=-held))
        return [known[n] for n in names]

    def _check_cap(self, need: float, many: int) -> None:
        if self._cap is not None and self.spent + need > self._cap + 1e-12:
            raise RewardError(
                f"judge.cap is ${self._cap:g} and ${self.spent:.4f} are spent. {many} more questions could cost "
                f"${need:.4f}. Increase judge.cap, then resume the run."
            )

    def _ask_now(
        self, questions: Sequence[tuple[str, Mapping[str, Any]]], known: dict[str, Reply], patient: bool
    ) -> None:
        """Ask these at once, book what they cost, keep the replies; then raise what went wrong."""
        failed: BaseException | None = None
        paid = 0.0
        with ThreadPoolExecutor(min(self._threads, len(questions))) as pool:
            futures = {name: pool.submit(self._one, q) for name, q in questions}
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
                if reply.wrong:
                    failed = failed or RewardError(reply.wrong)
                elif self._cache and not reply.refusal:
                    self._cache.put(name, reply)
        self.spent += paid
        self.charge(Cost(dollars=paid))
        if failed:
            raise failed

    def forget(self, questions: Sequence[Mapping[str, Any]]) -> None:
        """Take replies out of the cache that turned out to be unreadable."""
        for q in questions:
            name = sha256(json.dumps([self._where, self.model, q], sort_keys=True).encode()).hexdigest()
            if self._cache:
                self._cache.drop(name)

    def dearest(self, question: Mapping[str, Any]) -> float:
        """Dollars one question costs at most, as far as is known: two letters are taken for one token."""
        text = sum(len(p.get("text", "")) for m in question["messages"] for p in m["content"])
        read = self._picture_tokens * _pictures(question) + text / 2
        wrote = max(question["max_tokens"], self._answer_tokens)
        return float(self._prices[0] * read + self._prices[1] * wrote) / 1e6

    def _one(self, question: Mapping[str, Any]) -> Reply:
        body, why = dict(question), ""
        for attempt in range(self._retries + 1):
            pause = self._pause * 2**attempt
            try:
                answer = post(self._url(), self._sent(body), self._headers(), seconds=self._timeout)
            except NoReply as error:
                why = self._brief(str(error))
            except TooLarge:
                raise RewardError(f"{self._where} answers without end: check judge.base_url.") from None
            else:
                if answer.status == 200:
                    return self._read(answer.body, question)
                why = f"status {answer.status}, {self._brief(_said(answer.body))}"
                if self._is_final(answer, body, why):
                    return Reply(refusal="refused by the server's filter")
                pause = max(pause, _retry_after(answer))
            if attempt < self._retries:
                time.sleep(min(LONGEST_PAUSE, pause))
        raise NoAnswer(f"{self._where} gave no answer in {self._retries + 1} tries ({why})")

    def _is_final(self, answer: Answer, body: dict[str, Any], why: str) -> bool:
        """True for a refusal, False where another try may help; raises where none does."""
        told = _said(answer.body).lower()
        if "insufficient_quota" in told:
            raise RewardError(f"{self._where} reports that the account has no credit. Add credit, then resume the run.")
        if answer.status in (408, 409, 429) or answer.status >= 500:
            return False
        if answer.status == 400:
            if any(word in told for word in ("content_policy", "content_filter", "moderation")):
                return True
            if "response_format" in told and body.pop("response_format", None) is not None:
                return False
            raise RewardError(f"{self._where} rejects the question ({why}). Check judge.model and judge.mode.")
        if 300 <= answer.status < 400:
            raise RewardError(
                f"{self._where} redirects to another address ({answer.headers.get('Location', '')!r:.80}), and "
                "pictures go only where you say: set judge.base_url to the right one."
            )
        kept = "" if self._sends_key else " (the key was not sent to a server that a stored run names: see --trust)"
        raise RewardError(f"{self._where} answers {why}{kept}: check judge.model, base_url and OPENAI_API_KEY.")

    def _url(self) -> str:
        base = self._base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_SERVER
        return f"{base.rstrip('/')}/chat/completions"

    def _headers(self) -> dict[str, str]:
        key = _key()
        return {"Authorization": f"Bearer {key}"} if key and self._sends_key else {}

    def _sent(self, body: Mapping[str, Any]) -> bytes:
        return json.dumps({"model": self.model, **body}).encode()

    def _brief(self, text: str) -> str:
        """The start of what a server said; a hostile one may repeat the key that it was sent."""
        key = _key()
        text = " ".join((text.replace(key, "***") if key else text).split())
        return "".join(c for c in text if c.isprintable())[:120]

    def _read(self, raw: bytes, question: Mapping[str, Any]) -> Reply:
        """What it cost, before anything else; then what it says."""
        try:
            data = json.loads(raw)
        except (ValueError, RecursionError):
            data = None
        if not isinstance(data, dict):
            return Reply(refusal="unreadable reply: no JSON object", dollars=self._bill({}, question))
        try:
            dollars = self._bill(data, question)
        except ValueError as error:
            wrong = (
                f"{self._where} reports the usage {error}, so its price cannot be counted: use another server, or set "
                "judge.price_in and price_out to 0."
            )
            return Reply(dollars=self.dearest(question), wrong=wrong)
        model = self._brief(str(data.get("model") or self.model))
        try:
            return replace(self._content(data), model=model, dollars=dollars)
        except (ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
            return Reply(refusal=f"unreadable reply: {type(error).__name__}", model=model, dollars=dollars)

    def _bill(self, data: Mapping[str, Any], question: Mapping[str, Any]) -> float:
        """Dollars of a reply; the most that was expected where it does not say. ValueError for usage that cannot be."""
        if not any(self._prices):
            return 0.0
        usage = data.get("usage")
        if usage is None:
            return self.dearest(question)
        found = [usage.get(k) for k in ("prompt_tokens", "completion_tokens")] if isinstance(usage, dict) else [usage]
        for value in found:
            usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e15
            if not usable:
                raise ValueError(f"{value!r:.40}")
        read, wrote = (float(value) for value in found if value is not None)
        self._picture_tokens = max(self._picture_tokens, read / max(1, _pictures(question)))
        self._answer_tokens, self._measured = max(self._answer_tokens, wrote), True
        return float(self._prices[0] * read + self._prices[1] * wrote) / 1e6

    def _content(self, data: Mapping[str, Any]) -> Reply:
        if not data.get("choices"):
            return Reply(refusal="empty reply")
        choice = data["choices"][0]
        message, first = choice["message"], (choice.get("logprobs") or {}).get("content") or []
        if message.get("refusal") or choice.get("finish_reason") == "content_filter":
            return Reply(refusal=f"refused: {self._brief(str(message.get('refusal') or 'content filter'))[:80]}")
        top = tuple((str(t["token"]), float(t["logprob"])) for t in first[0].get("top_logprobs") or ()) if first else ()
        return Reply(str(message.get("content") or ""), top)


def _key() -> str:
    return os.environ.get("OPENAI_API_KEY", "").strip()


def _pictures(question: Mapping[str, Any]) -> int:
    return sum(p["type"] == "image_url" for m in question["messages"] for p in m["content"])


def _said(body: bytes) -> str:
    """The error of an answer, as text."""
    text = body[:4000].decode(errors="replace")
    try:
        error = json.loads(text)["error"]
        return json.dumps(error) if isinstance(error, dict) else str(error)
    except (ValueError, KeyError, TypeError, RecursionError):
        return text


def _retry_after(answer: Answer) -> float:
    try:
        told = float(answer.headers.get("Retry-After", ""))
    except ValueError:
        return 0.0
    return told if 0 <= told < math.inf else 0.0


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
