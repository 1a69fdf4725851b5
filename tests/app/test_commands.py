"""The commands as functions: the same numbers as the command line, as tables; a run as an iterator."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

import fairlead
from fairlead.app.cli import main
from fairlead.core.errors import FairleadError
from fairlead.run.store import Store
from fairlead.streaming import WAITING

RUN: dict[str, Any] = {"model": "mixture", "reward": "brightness", "steps": 5, "settings": {"mixture": {"size": 16}}}
WORDS = ["--model", "mixture", "--reward", "brightness", "--steps", "5", "--set", "mixture.size=16"]


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    """What a command prints with --json."""
    capsys.readouterr()
    assert main([*argv, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def recorded(folder: Path) -> list[tuple[int, float]]:
    return [(candidate.index, candidate.reward) for candidate in Store.open(folder).candidates()]


def test_price_is_that_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    found = fairlead.price("a dog", **RUN, budget={"nfe": 60})
    printed = said(capsys, "price", "a dog", *WORDS, "--budget", "nfe=60")
    assert {row["part"]: row["nfe"] for row in found} == {
        part: printed[part].get("nfe", 0.0) for part in ("candidate", "baseline", "once", "finals", "total")
    }
    assert found.price.candidates == printed["candidates"] == 12
    assert found[-1]["nfe"] == found.price.total.nfe == 60
    assert list(found.to_pandas()["part"]) == found["part"]
    with pytest.raises(FairleadError, match=r"reward is .*: must be a name here"):
        fairlead.price("a dog", model="mixture", reward=lambda images: images.mean((1, 2, 3)))


def test_keep_replay_and_report_are_those_of_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    fairlead.run("a dog", **RUN, budget={"nfe": 60}, out=out)
    kept = fairlead.keep(out, 3, likeness="pixels")
    capsys.readouterr()
    assert main(["keep", str(out), "3", "--likeness", "pixels"]) == 0
    assert kept["candidate"] == [int(word) for word in capsys.readouterr().out.split()]
    assert all(Path(file).is_file() for file in kept["file"])
    again = fairlead.replay(out, out=tmp_path / "best.png")
    printed = said(capsys, "replay", str(out), "best")
    assert again.identical
    assert printed["identical"]
    assert again["candidate"] == [printed["candidate"]] == [Store.open(out).best().index]
    assert (tmp_path / "best.png").read_bytes() == again.image
    with pytest.raises(FairleadError, match="has no candidate 99"):
        fairlead.replay(out, 99)
    assert fairlead.report(out) == out / "report.html"
    assert fairlead.report(out, out, out=tmp_path / "both.html").is_file()
    with pytest.raises(FairleadError, match="no run to report"):
        fairlead.report()


def test_calibrate_is_a_table() -> None:
    found = fairlead.calibrate(["a dog", "a cat"], **RUN, drafts=["2"], candidates=4)
    assert len(found) == 2
    assert found["rung"][-1] is None or found["rung"][0] is None
    assert set(found.columns) == {"rung", "nfe", "price", "correlation", "kept", "low", "high"}


PLAN = """
reward = "brightness"
budget = "nfe=20"
model = "mixture"
steps = 5
prompts = ["a dog"]
seeds = [0, 1]

[methods.best_of]
"""


def test_compare_is_that_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN)
    seen = []
    found = fairlead.compare(plan, out=tmp_path / "compared", on_cell=lambda cell, status: seen.append(status))
    assert seen == ["done"] * 2
    assert found.complete
    assert found.page.is_file()
    printed = said(capsys, "compare", str(plan), "--out", str(tmp_path / "compared"))
    assert [row["value"] for row in found] == [row["value"] for row in printed["methods"]]
    assert [row["seed"] for row in found.cells] == [0, 1]


def test_a_benchmark_is_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = tmp_path / "prompts.txt"
    texts.write_text("a dog\na cat\n")
    own = {name: value for name, value in RUN.items() if name != "reward"}
    found = fairlead.benchmark("prompts", **own, prompts=texts, judge=["brightness"], images=1, out=tmp_path / "bench")
    words = ["--model", "mixture", "--steps", "5", "--set", "mixture.size=16", "--prompts", str(texts)]
    more = ["--judge", "brightness", "--images", "1", "--out", str(tmp_path / "bench")]
    printed = said(capsys, "bench", "prompts", *words, *more)
    assert found[-1]["value"] == printed["results"][0]["overall"]["value"]
    assert found[-1]["judge"] == "brightness"


def test_a_stream_tells_what_the_run_records(tmp_path: Path) -> None:
    events = []
    stream = fairlead.stream("a dog", **RUN, budget={"nfe": 40}, out=tmp_path / "run", previews=2)
    with pytest.raises(FairleadError, match="has not ended"):
        assert stream.result
    for event in stream:
        events.append(event)
    told = [(event.candidate, event.reward) for event in events if event.kind == "candidate"]
    assert told == recorded(tmp_path / "run")
    assert {event.kind for event in events} == {"candidate", "preview", "end"}
    assert stream.result.best.reward == events[-1].reward
    with pytest.raises(FairleadError, match="iterated once"):
        next(iter(stream))


def test_a_stream_that_is_left_ends_the_run_and_can_be_resumed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    for event in fairlead.stream("a dog", **RUN, batch=1, budget={"nfe": 1000}, out=out):
        if event.candidate == 2:
            break
    assert 3 <= len(recorded(out)) <= 2 * WAITING
    fairlead.resume(out, budget={"nfe": 200})
    fairlead.run("a dog", **RUN, batch=1, budget={"nfe": 200}, out=tmp_path / "whole")
    assert recorded(out) == recorded(tmp_path / "whole")


def test_an_asynchronous_loop_goes_on_while_pictures_are_made(tmp_path: Path) -> None:
    async def both() -> tuple[int, int]:
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                beats += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(beat())
        seen = 0
        async for event in fairlead.stream("a dog", **RUN, budget={"nfe": 40}, out=tmp_path / "run"):
            seen += event.kind == "candidate"
        task.cancel()
        return seen, beats

    seen, beats = asyncio.run(both())
    assert seen == len(recorded(tmp_path / "run"))
    assert beats > 1


def test_an_error_of_a_streamed_run_is_raised_in_the_loop(tmp_path: Path) -> None:
    with pytest.raises(FairleadError, match=r"rewrd|unknown"):
        list(fairlead.stream("a dog", **{**RUN, "reward": "rewrd"}, out=tmp_path / "run"))
    with pytest.raises(TypeError, match=r"promt|unexpected"):
        fairlead.stream("a dog", promt="a cat")
    with pytest.raises(TypeError, match="no argument 'on_event'"):
        fairlead.stream("a dog", on_event=print)


def test_every_public_name_is_there() -> None:
    for name in fairlead.__all__:
        assert getattr(fairlead, name) is not None
