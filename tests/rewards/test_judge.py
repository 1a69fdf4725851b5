"""The judge against a local server that misbehaves in every way a real one does."""

from __future__ import annotations

import base64
import io
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from server import Server, serving
from torch import Tensor

import fairlead
from fairlead.core.cost import Cost, Meter
from fairlead.core.errors import FairleadError, RewardError
from fairlead.rewards.http import png
from fairlead.rewards.judge import RUBRICS, Judge
from fairlead.run.price import price
from fairlead.run.spec import make_spec

ASPECTS = list(RUBRICS["five_aspects"])


def grey(url: str) -> int:
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        value = image.convert("L").getpixel((0, 0))
    assert isinstance(value, int)
    return value


def shots(body: dict[str, Any]) -> list[int]:
    """Grey values of the pictures of a question, in order."""
    return [grey(p["image_url"]["url"]) for p in body["messages"][0]["content"] if p["type"] == "image_url"]


def reply(
    text: str | None = None, *, logprobs: Any = None, refusal: str | None = None, finish: str = "stop"
) -> dict[str, Any]:
    first = [{"token": t, "logprob": v, "bytes": None} for t, v in (logprobs or [])]
    content = [{"token": first[0]["token"], "logprob": 0.0, "bytes": None, "top_logprobs": first}] if first else None
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "tiny-judge-7",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish,
                "message": {"role": "assistant", "content": text, "refusal": refusal},
                "logprobs": None if content is None else {"content": content, "refusal": None},
            }
        ],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100},
    }


def rated(body: dict[str, Any]) -> dict[str, Any]:
    """Every aspect rated by the grey value of the picture, explanation first."""
    return reply(json.dumps({"explanation": "grey", **{a: min(100, shots(body)[0]) for a in ASPECTS}}))


def pictures(*greys: int) -> Tensor:
    return torch.tensor(greys, dtype=torch.float32)[:, None, None, None].expand(-1, 3, 4, 4) / 255


@pytest.fixture
def judge(tmp_path: Path) -> Callable[..., Judge]:
    def make(server: Server, **settings: Any) -> Judge:
        wanted = {"pause": 0.01, "cache": str(tmp_path / "cache" / "judge.sqlite"), **settings}
        return Judge("tiny", base_url=f"{server.url}/v1", **wanted)

    return make


def test_every_picture_gets_its_own_answer_under_concurrency(judge: Any) -> None:
    def late(n: int, body: dict[str, Any]) -> Any:
        time.sleep(0.002 * (40 - shots(body)[0]))
        return 200, rated(body)

    with serving(late) as server:
        reward = judge(server)
        greys = list(range(5, 37))
        assert reward(pictures(*greys), ["p"] * 32)[0].tolist() == greys
        assert reward.client.models == {"tiny-judge-7"}
        assert reward.reasons == ("",) * 32
        body = server.requests[0]
        assert body["temperature"] == 0
        assert next(iter(body["response_format"]["json_schema"]["schema"]["properties"])) == "explanation"
        assert reward(pictures(*greys), ["p"] * 32)[0].tolist() == greys
        assert judge(server)(pictures(7, 7), ["p", "other"])[0].tolist() == [7, 7]
        assert len(server.requests) == 33


def test_the_mean_is_ours_and_not_the_models(judge: Any) -> None:
    said = {"explanation": "", **dict(zip(ASPECTS, (10, 20, 30, 40, 55), strict=True)), "overall": 99}
    with serving(lambda n, body: (200, reply("```json\n" + json.dumps(said) + "\n```"))) as server:
        assert judge(server)(pictures(1), ["p"])[0].tolist() == [31.0]


@pytest.mark.parametrize(
    ("broken", "why", "asked"),
    [
        (reply("I think it is lovely, 90 of 100."), "no JSON object", 2),
        (reply(json.dumps({"explanation": "x", "originality": 50})), "accuracy_to_prompt is None", 2),
        (reply(json.dumps({"explanation": "x", **dict.fromkeys(ASPECTS, 400)})), "not a number from 0 to 100", 2),
        (reply(json.dumps(dict.fromkeys(ASPECTS, "90"))), "not a number from 0 to 100", 2),
        (reply(json.dumps(dict.fromkeys(ASPECTS, True))), "not a number from 0 to 100", 2),
        (reply('{"explanation": "cut', finish="length"), "no JSON object", 2),
        (reply(None, refusal="I cannot judge people."), "refused: I cannot judge people.", 1),
        (reply(None, finish="content_filter"), "refused: content filter", 1),
        ({**reply("x"), "choices": []}, "empty reply", 1),
    ],
)
def test_refusals_and_broken_replies_are_nan_with_a_reason(broken: Any, why: str, asked: int, judge: Any) -> None:
    with serving(lambda n, body: (200, broken if shots(body)[0] == 1 else rated(body))) as server:
        reward = judge(server)
        first, second = reward(pictures(1, 2), ["p", "p"])[0].tolist()
        assert math.isnan(first)
        assert second == 2
        assert why in reward.reasons[0]
        assert reward.reasons[1] == ""
        assert len(server.requests) == asked + 1


def test_a_broken_reply_is_asked_for_once_more_and_not_cached(judge: Any) -> None:
    with serving(lambda n, body: (200, reply("{") if n == 0 else rated(body))) as server:
        reward = judge(server)
        assert reward(pictures(9), ["p"])[0].tolist() == [9]
        assert reward(pictures(9), ["p"])[0].tolist() == [9]
        assert len(server.requests) == 2


@pytest.mark.parametrize("status", [429, 500, 503])
def test_busy_and_broken_servers_are_asked_again(status: int, judge: Any) -> None:
    with serving(lambda n, body: (status, {"error": {"message": "later"}}) if n < 3 else (200, rated(body))) as server:
        assert judge(server)(pictures(8), ["p"])[0].tolist() == [8]
    with serving(lambda n, body: (status, {"error": {"message": "later"}})) as server:
        with pytest.raises(RewardError, match="3 tries"):
            judge(server, retries=2)(pictures(8), ["p"])
        assert len(server.requests) == 3


def test_slow_and_absent_servers(judge: Any) -> None:
    def slow(n: int, body: dict[str, Any]) -> Any:
        if n == 0:
            time.sleep(0.6)
        return 200, rated(body)

    with serving(slow) as server:
        assert judge(server, timeout=0.2)(pictures(8), ["p"])[0].tolist() == [8]
        assert len(server.requests) == 2
    with pytest.raises(RewardError, match="gave no answer"):
        Judge("tiny", "http://127.0.0.1:9/v1", retries=1, pause=0.0, cache=False)(pictures(8), ["p"])


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (401, {"message": "bad key"}, "OPENAI_API_KEY"),
        (404, {"message": "no such model"}, "judge.model"),
        (400, {"message": "images are not supported"}, "rejects the question"),
        (429, {"message": "no money", "code": "insufficient_quota"}, "account has no credit"),
    ],
)
def test_what_a_person_must_mend_stops_the_run(status: int, error: Any, said: str, judge: Any) -> None:
    with serving(lambda n, body: (status, {"error": error})) as server:
        with pytest.raises(RewardError, match=said):
            judge(server)(pictures(8), ["p"])
        assert len(server.requests) == 1


def test_the_servers_filter_is_a_refusal_and_a_plain_server_needs_no_schema(judge: Any) -> None:
    with serving(lambda n, body: (400, {"error": {"message": "content_policy_violation"}})) as server:
        reward = judge(server)
        assert reward(pictures(8), ["p"])[0].isnan().all()
        assert "filter" in reward.reasons[0]

    def plain(n: int, body: dict[str, Any]) -> Any:
        refused = 400, {"error": {"message": "response_format is not supported"}}
        return refused if "response_format" in body else (200, rated(body))

    with serving(plain) as server:
        assert judge(server)(pictures(8), ["p"])[0].tolist() == [8]


YES_NO: list[tuple[list[tuple[str, float]], float]] = [
    ([("Yes", math.log(0.5)), (" yes", math.log(0.2)), ("No", math.log(0.1)), ("maybe", math.log(0.05))], 0.875),
    ([("Yes", -0.1269280110), ("No", -2.1269280110)], 0.880797),
    ([("Yes", math.log(0.9)), ("sure", math.log(0.1))], 0.9),
    ([("Maybe", -0.1), ("Perhaps", -3.0)], math.nan),
]


@pytest.mark.parametrize(("logprobs", "wanted"), YES_NO)
def test_probability_of_yes(logprobs: Any, wanted: float, judge: Any) -> None:
    with serving(lambda n, body: (200, reply("Yes", logprobs=logprobs))) as server:
        reward = judge(server, mode="yes_no")
        found = reward(pictures(8), ["a dog"])[0].item()
        assert found == pytest.approx(wanted, abs=1e-6, nan_ok=True)
        assert bool(reward.reasons[0]) == math.isnan(wanted)
        body = server.requests[0]
        assert (body["max_tokens"], body["temperature"], body["logprobs"], body["top_logprobs"]) == (1, 0, True, 20)
        assert 'Does this figure show "a dog"?' in body["messages"][0]["content"][-1]["text"]


def test_a_model_without_logprobs_is_refused_by_reason(judge: Any) -> None:
    with serving(lambda n, body: (200, reply("Yes"))) as server:
        reward = judge(server, mode="yes_no")
        assert reward(pictures(8), ["p"])[0].isnan().all()
        assert "reasoning models" in reward.reasons[0]


def test_pairs_are_asked_in_both_orders_and_ties_count_half(judge: Any, tmp_path: Path) -> None:
    def compare(n: int, body: dict[str, Any]) -> Any:
        first, second = shots(body)
        winner = "tie" if 100 in (first, second) and first == second else "first" if first > second else "second"
        if 77 in (first, second):
            winner = "first"
        if 66 in (first, second):
            return 200, reply(None, refusal="no")
        return 200, reply(json.dumps({"explanation": "", "winner": winner}))

    path = tmp_path / "reference.png"
    path.write_bytes(png(pictures(100)[0]))
    with serving(compare) as server:
        reward = judge(server, mode="pairwise", reference=str(path))
        found = reward(pictures(150, 50, 100, 77, 66), ["p"] * 5)[0].tolist()
        assert found[:4] == [1.0, 0.0, 0.5, 0.5]
        assert math.isnan(found[4])
        assert len(server.requests) == 9  # the reference against itself is one question
    with pytest.raises(FairleadError, match=r"baseline\.png"):
        Judge("tiny", "http://x/v1", mode="pairwise")


def test_the_cap_stops_before_it_is_passed(judge: Any) -> None:
    with serving(lambda n, body: (200, rated(body))) as server:
        reward = judge(server, price_in=1.0, price_out=10.0, cap=0.02)
        reward(pictures(1), ["p"])
        assert reward.client.spent == pytest.approx(0.002)
        with pytest.raises(RewardError, match=r"cap is \$0.02"):
            reward(pictures(2, 3, 4, 5), ["p"] * 4)
        assert len(server.requests) == 1


def test_dollars_are_an_entry_of_the_budget(judge: Any, tmp_path: Path) -> None:
    with serving(lambda n, body: (200, rated(body))) as server:
        reward = judge(server, price_in=1.0, price_out=10.0)
        meter = Meter()
        metered = reward.copy()
        metered.meter(meter)
        with meter.grant(Cost(scores=9, seconds=60, dollars=1)):
            metered(pictures(1, 2), ["p", "p"])
        assert meter.spent.dollars == pytest.approx(0.004)
        out = tmp_path / "run"
        budget = {"nfe": 100, "dollars": 0.03}
        result = fairlead.run("a dog", model="mixture", reward=reward, steps=5, batch=2, budget=budget, out=out)
        assert result.stopped == "budget: dollars"
        assert 0 < result.cost.dollars <= 0.03
        assert 0 < len(result.candidates) < 20


def test_a_judge_inside_demon_is_priced_first_and_capped(judge: Any, tmp_path: Path) -> None:
    """The price names the most it may cost and asks nothing; the run stays below; unreadable answers are no
    preference.
    """

    def flaky(n: int, body: dict[str, Any]) -> Any:
        return (200, reply("no JSON")) if n % 5 == 1 else (200, rated(body))

    with serving(flaky) as server:
        formula = f"judge(model='tiny', base_url='{server.url}/v1', price_in=1, price_out=10, cache=False, cap=5)"
        words: dict[str, Any] = {
            "model": "mixture",
            "reward": formula,
            "steps": 8,
            "batch": 1,
            "search": "best_of(n=1)",
            "steer": "demon(k=4, estimate='clean', stop=4.0)",
        }
        found = price(make_spec("a dog", budget={"nfe": 60}, **words))
        assert not server.requests
        result = fairlead.run("a dog", budget={"nfe": 60}, out=tmp_path / "run", **words)
        assert found.cost_per_candidate.scores == 4 * 2 + 1
        assert len(server.requests) >= found.total.scores
        assert 0 < result.cost.dollars <= found.dollars
        each = Judge("tiny", f"{server.url}/v1", price_in=1, price_out=10).dollars("a dog")
        assert found.dollars == pytest.approx(found.total.scores * each)
        with pytest.raises(RewardError, match=r"cap is \$0.01"):
            fairlead.run("a dog", budget={"nfe": 60}, **{**words, "reward": formula.replace("cap=5", "cap=0.01")})


def test_the_judge_in_a_run_by_name(judge: Any, tmp_path: Path) -> None:
    with serving(lambda n, body: (200, rated(body))) as server:
        formula = f"judge(model='tiny', base_url='{server.url}/v1', rubric='quality', cache=False)/100"
        with pytest.raises(FairleadError, match="NaN"):
            fairlead.run("a dog", model="mixture", reward=formula, steps=5, budget={"nfe": 10})

    def quality(n: int, body: dict[str, Any]) -> Any:
        return 200, reply(json.dumps({"explanation": "", "quality": shots(body)[0] / 2.55}))

    with serving(quality) as server:
        formula = f"judge(model='tiny', base_url='{server.url}/v1', rubric='quality', cache=False)/100"
        result = fairlead.run("a dog", model="mixture", reward=formula, steps=5, budget={"nfe": 20})
        assert 0 < result.best.reward < 1
        assert "judge_quality" in result.candidates.columns


def test_a_run_says_why_a_picture_got_no_number(judge: Any) -> None:
    calls = iter(range(99))
    with serving(lambda n, body: (200, reply(None, refusal="not today") if next(calls) < 1 else rated(body))) as server:
        with pytest.warns(UserWarning, match="judge_five_aspects gave no number: refused: not today"):
            result = fairlead.run(
                "a dog", model="mixture", reward=judge(server, concurrency=1), steps=5, budget={"nfe": 10}
            )
        assert result.candidates.reward.isna().sum() == 1
