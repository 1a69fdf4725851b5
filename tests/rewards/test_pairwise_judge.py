"""A model that compares pairs, behind a local server: its order, its bill, its failures, and demon steered by it."""

from __future__ import annotations

import base64
import io
import json
import math
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageStat
from server import Server, serving
from test_judge import pictures, reply, shots

import fairlead
from fairlead.app.cli import main
from fairlead.core.cost import Cost, Meter
from fairlead.core.errors import FairleadError, RewardError
from fairlead.rewards._asking import Reply
from fairlead.rewards._ordering import calls
from fairlead.rewards.judge import outcome
from fairlead.rewards.pairwise_judge import PairwiseJudge
from fairlead.run.price import price
from fairlead.run.spec import make_spec


def light(body: dict[str, Any]) -> list[float]:
    """Mean grey values of the pictures of a question, in order."""
    urls = [p["image_url"]["url"] for p in body["messages"][0]["content"] if p["type"] == "image_url"]
    images = [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]
    return [ImageStat.Stat(image.convert("L")).mean[0] for image in images]


def answer(n: int, body: dict[str, Any]) -> Any:
    """Of two pictures the lighter wins; one picture is rated by its light."""
    seen = light(body)
    if len(seen) == 1:
        return 200, reply(json.dumps({"explanation": "", "alignment": seen[0] / 2.55}))
    winner = "tie" if seen[0] == seen[1] else "first" if seen[0] > seen[1] else "second"
    return 200, reply(json.dumps({"explanation": "", "winner": winner}))


def make(server: Server, folder: Path | None = None, **settings: Any) -> PairwiseJudge:
    cache = False if folder is None else str(folder / "judge.sqlite")
    wanted = {"rubric": "alignment", "pause": 0.01, "cache": cache, **settings}
    return PairwiseJudge("tiny", f"{server.url}/v1", **wanted)


def ranked(judge: PairwiseJudge, *greys: int) -> list[float]:
    values: list[float] = judge(pictures(*greys), ["p"] * len(greys), None, True)[0].tolist()
    return values


GREYS = (30, 90, 10, 70, 50, 110, 130, 20, 40, 60, 80, 100, 120, 140, 150, 160)


def test_the_order_of_a_consistent_judge_and_answers_paid_for_once(tmp_path: Path) -> None:
    with serving(answer) as server:
        judge = make(server, tmp_path, scheme="sort")
        wanted = [sorted(GREYS).index(g) / 15 for g in GREYS]
        assert ranked(judge, *GREYS) == pytest.approx(wanted)
        asked = len(server.requests)
        assert 15 < asked <= 120
        assert ranked(judge, *GREYS[::-1]) == pytest.approx(wanted[::-1]), "the same pairs, however they come"
        assert ranked(make(server, tmp_path, scheme="sort"), *GREYS) == pytest.approx(wanted)
        assert len(server.requests) == asked
        half = ranked(make(server, tmp_path), *GREYS)
        assert len(server.requests) == asked, "the first pivots are the same"
        assert sum(half) == pytest.approx(8)
        ranked(make(server, tmp_path, scheme="round_robin"), *GREYS)
        assert len(server.requests) == 120, "each pair once, whichever of the two is named first"
        assert judge(pictures(51), ["p"])[0].tolist() == pytest.approx([20.0]), "a finished picture is rated"


def test_few_pictures_and_equal_ones() -> None:
    with serving(answer) as server:
        judge = make(server)
        assert ranked(judge, 7) == [0.5]
        assert ranked(judge, 7, 7, 7) == [0.5, 0.5, 0.5]
        assert not server.requests
        assert ranked(judge, 7, 9) == [0, 1]
        assert ranked(judge, 9, 7, 9) == [1, 0, 1]
        assert len(server.requests) == 2
        with pytest.raises(RewardError, match="2 prompts"):
            judge(pictures(1, 2), ["a", "b"], None, True)


def test_a_round_is_asked_at_once() -> None:
    lock, inside, most = threading.Lock(), 0, 0

    def slow(n: int, body: dict[str, Any]) -> Any:
        nonlocal inside, most
        with lock:
            inside, most = inside + 1, max(most, inside + 1)
        time.sleep(0.05)
        with lock:
            inside -= 1
        return answer(n, body)

    with serving(slow) as server:
        ranked(make(server, concurrency=5), *GREYS)
        assert most == 5


def test_sides_are_drawn_or_both_are_shown() -> None:
    """A model that always takes the first picture has no say with both sides, and favours nobody with drawn ones."""

    def biased(n: int, body: dict[str, Any]) -> Any:
        return 200, reply(json.dumps({"explanation": "", "winner": "first"}))

    with serving(biased) as server:
        assert ranked(make(server, scheme="round_robin", sides="both"), *GREYS[:6]) == [0.5] * 6
        assert len(server.requests) == 30
        server.requests.clear()
        ranked(make(server, scheme="round_robin"), *GREYS)
        lighter = [a > b for a, b in map(shots, server.requests)]
        assert len(lighter) == 120
        assert 0.35 < sum(lighter) / 120 < 0.65
    with serving(answer) as server:
        assert ranked(make(server, scheme="sort", sides="both"), 40, 10, 30, 20) == pytest.approx([1, 0, 2 / 3, 1 / 3])


@pytest.mark.parametrize(
    ("status", "broken", "why"),
    [
        (200, reply("the second, I think"), "unreadable reply"),
        (200, reply(None, refusal="no"), "refused: no"),
        (503, {"error": {"message": "later"}}, "gave no answer"),
    ],
)
def test_a_comparison_that_fails_is_a_tie(status: int, broken: Any, why: str) -> None:
    with serving(lambda n, body: (status, broken) if 7 in shots(body) else answer(n, body)) as server:
        judge = make(server, scheme="round_robin", retries=1)
        with pytest.warns(UserWarning, match=f"3 of 6 comparisons of pairwise_judge failed and count as ties: .*{why}"):
            assert ranked(judge, 7, 30, 20, 10) == pytest.approx([0.5, 2.5 / 3, 0.5, 0.5 / 3])
        assert judge.reasons == ()


def test_no_answer_at_all_stops_the_run_and_no_readable_one_leaves_it_to_chance() -> None:
    with (
        serving(lambda n, body: (503, {"error": {"message": "later"}})) as server,
        pytest.raises(RewardError, match=r"None of 3 comparisons was answered \(.*gave no answer.*then resume"),
    ):
        ranked(make(server, retries=0), 1, 2, 3, 4)
    with (
        serving(lambda n, body: (401, {"error": {"message": "bad key"}})) as server,
        pytest.raises(RewardError, match="OPENAI_API_KEY"),
    ):
        ranked(make(server), 1, 2)
    with serving(lambda n, body: (200, reply("hm"))) as server, pytest.warns(UserWarning, match="3 of 3"):
        assert ranked(make(server), 1, 2, 3, 4) == [0.5] * 4


def test_the_cap_stops_in_time_and_what_was_paid_is_kept(tmp_path: Path) -> None:
    with serving(answer) as server:
        settings: dict[str, Any] = {"scheme": "sort", "price_in": 1.0, "price_out": 10.0}
        judge = make(server, tmp_path, cap=0.17, **settings)  # a question costs 0.0102 at most and 0.002 in fact
        with pytest.raises(RewardError, match=r"cap is \$0.17 and \$0.03.*Increase judge.cap, then resume"):
            ranked(judge, *GREYS[:13], 5, 6, 8, 9)
        first = len(server.requests)
        assert 0 < judge.client.spent <= 0.17
        again = make(server, tmp_path, **settings)
        ranked(again, *GREYS[:13], 5, 6, 8, 9)
        assert again.client.spent == pytest.approx(0.002 * (len(server.requests) - first))
        bodies = [json.dumps(body, sort_keys=True) for body in server.requests]
        assert len(set(bodies)) == len(bodies), "nothing is paid twice"
        meter = Meter()
        metered = make(server, **settings).copy()
        metered.meter(meter)
        with meter.grant(Cost(scores=4, seconds=60, dollars=1)):
            ranked(metered, 1, 2, 3, 4)
        assert meter.spent.scores == 4
        assert 0 < meter.spent.dollars <= 4 * metered.dollars("p", 4)


def steered(server: Server, folder: Path, **more: Any) -> dict[str, Any]:
    formula = (
        f"pairwise_judge(model='tiny', base_url='{server.url}/v1', rubric='alignment', price_in=1, price_out=10, "
        f"cache='{folder}/judge.sqlite')"
    )
    return {
        "model": "mixture",
        "reward": formula,
        "steps": 16,
        "batch": 2,
        "search": "best_of(n=2)",
        "watch": "brightness",
        "steer": "demon(k=8, tau=0, beta=0.5, estimate='clean', stop=3)",
        "budget": {"nfe": 500},
        **more,
    }


def test_demon_follows_the_judge_at_the_price_named(tmp_path: Path) -> None:
    """On the exact mixture: pictures become lighter, the bill stays below what was said, and again costs nothing."""

    with serving(answer) as server:
        words = steered(server, tmp_path)
        found = price(make_spec("a dog", **words))
        assert not server.requests
        each = (
            found.cost_per_candidate.scores - 2
        ) / 8  # of a candidate: steps asked, beside its own score and its watcher's
        expected, most = calls("partition", 8)
        assert (found.queries.expected, found.queries.most) == pytest.approx(
            (2 * (each * expected + 1) + 1, 2 * (each * most + 1) + 1)
        )
        result = fairlead.run("a dog", out=tmp_path / "run", **words)
        asked = len(server.requests)
        assert abs(asked - found.queries.expected) < 0.35 * found.queries.expected
        assert asked <= found.queries.most
        assert 0 < result.cost.dollars <= found.dollars
        table = result.candidates
        assert table["brightness"].min() > result.baseline.terms["brightness"] + 0.05
        again = fairlead.run("a dog", out=tmp_path / "again", **words)
        assert len(server.requests) == asked
        assert again.candidates["brightness"].tolist() == table["brightness"].tolist()
        assert again.cost.dollars == 0


def test_where_nothing_competes_it_is_refused(tmp_path: Path) -> None:
    with serving(answer) as server:
        for steer in ("lidar", "reward_gradient"):
            with pytest.raises(FairleadError, match=r"orders pictures that compete|has none"):
                fairlead.run("a dog", **steered(server, tmp_path, steer=steer))
    with pytest.raises(FairleadError, match=r"scheme 'quick' is unknown"):
        PairwiseJudge("tiny", "http://x/v1", scheme="quick")


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(answer) as server:
        words = steered(server, tmp_path)
        line = [
            "a dog",
            "-m",
            "mixture",
            "--reward",
            words["reward"],
            "--steps",
            "16",
            "--search",
            "best_of(n=1)",
            "--steer",
            "demon(k=4, estimate='clean', stop=8)",
            "--budget",
            "nfe=100,dollars=2",
        ]
        assert main(["price", *line]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "questions to the judge (" in said
        assert not server.requests
        assert main(["run", *line, "--out", str(tmp_path / "run"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["best"] is not None
        assert main(["list", "rewards"]) == 0
        assert "pairwise_judge" in capsys.readouterr().out


def test_a_price_needs_no_server_and_a_run_refuses_before_its_first_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    line = ["a dog", "--model", "mixture", "--steps", "3", "--budget", "nfe=12"]
    for judge in ("judge(model='x', cache=False)", "judge(model='x', cache=False) + 0.1*brightness"):
        assert main(["price", *line, "--reward", judge]) == 0
        assert "questions to the judge" in capsys.readouterr().out
        assert main(["run", *line, "--reward", judge, "--out", str(tmp_path / "run")]) == 2
        assert "nor OPENAI_API_KEY is set" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()
    steered = ["--reward", "pairwise_judge(model='x', cache=False)", "--steer", "demon(k=4, tau=0)"]
    assert main(["price", *line, *steered]) == 0
    alone = PairwiseJudge("x", cache=False)
    with pytest.raises(FairleadError, match="nor OPENAI_API_KEY is set"):
        ranked(alone, 1, 2)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"explanation": "x", "winner": "second"}', 0.0),
        ('{"winner": "Image B"}', 0.0),
        ('{"winner": "A"}', 1.0),
        ('{"winner": 2}', 0.0),
        ("Image B", 0.0),
        ("B.", 0.0),
        ("b", 0.0),
        ("Winner: Image B", 0.0),
        ("**A**", 1.0),
        ("The first picture.", 1.0),
        ("tie", 0.5),
    ],
)
def test_how_a_winner_is_read(text: str, value: float) -> None:
    assert outcome(Reply(text)) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "an image",
        "Image",
        "Image A is worse than image B",
        "A or B",
        "not B",
        '{"winner": true}',
        '{"winner": "both"}',
        '{"winner": "first", "winner": "second"}',
    ],
)
def test_what_names_no_winner_is_not_read(text: str) -> None:
    with pytest.raises(ValueError):
        outcome(Reply(text))


def test_finished_pictures_are_compared_once_each_and_an_unreadable_answer_is_no_tie() -> None:
    def odd(n: int, body: dict[str, Any]) -> Any:
        return answer(n, body) if 7 not in shots(body) else (200, reply("hm"))

    with serving(odd) as server:
        found = make(server).prefer(pictures(30, 10, 7, 20), pictures(20, 40, 30, 20), "a dog")
        assert [value for value, _ in found[:2] + found[3:]] == [1.0, 0.0, 0.5]
        assert math.isnan(found[2][0])
        assert "unreadable reply" in found[2][1]
        assert len(server.requests) == 4


@pytest.mark.filterwarnings("error")
def test_it_is_the_final_judge_of_a_run_within_its_price(tmp_path: Path) -> None:
    """Of the five darkest pictures the judge chooses the lightest; a wrong answer now and then is asked again."""
    broken = iter([True])

    def sometimes(n: int, body: dict[str, Any]) -> Any:
        return (200, reply("hm")) if next(broken, False) else answer(n, body)

    with serving(sometimes) as server:
        settings = "price_in=1, price_out=10, cache=False, pause=0.01"
        judge = f"pairwise_judge(model='tiny', base_url='{server.url}/v1', {settings})"
        words: dict[str, Any] = {
            "model": "mixture",
            "reward": "-1*brightness",
            "steps": 4,
            "final_judge": judge,
            "entrants": 5,
        }
        found = price(make_spec("a dog", **words, budget={"nfe": 60}))
        assert found.judging is not None
        assert found.judging.most == 8
        assert found.dollars > 0
        assert not server.requests
        result = fairlead.run("a dog", out=tmp_path / "run", **words, budget={"nfe": 60})
        ordered = sorted(result.candidates["reward"].tolist(), reverse=True)
        assert result.best.reward == ordered[4]
        assert len(server.requests) == result.cost.questions <= found.judging.most + 1
        assert 0 < result.cost.dollars <= found.dollars
        many = len(server.requests)
        assert fairlead.resume(tmp_path / "run").best.index == result.best.index
        assert len(server.requests) == many
        tight = {"nfe": 60, "dollars": 0.05}
        limited = fairlead.run("a dog", out=tmp_path / "tight", **words, budget=tight)
        assert limited.cost.dollars <= 0.05
        assert limited.best.reward in ordered[:5]
