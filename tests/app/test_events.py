"""Events of runs and the loggers that write them: every candidate once, also after a resume and in a set."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fairlead
from fairlead.app import loggers
from fairlead.app.cli import main
from fairlead.app.events import Event
from fairlead.core.errors import FairleadError
from fairlead.run.store import Store

RUN: dict[str, Any] = {"model": "mixture", "reward": "brightness", "steps": 5, "settings": {"mixture": {"size": 16}}}


def told(events: list[Event], kind: str = "candidate") -> list[tuple[int, float | None]]:
    return [(event.candidate, event.reward) for event in events if event.kind == kind]


def recorded(folder: Path) -> list[tuple[int, float]]:
    return [(candidate.index, candidate.reward) for candidate in Store.open(folder).candidates()]


def test_every_candidate_is_an_event_once_also_after_a_resume(tmp_path: Path) -> None:
    out = tmp_path / "run"
    events: list[Event] = []
    fairlead.run("a dog", **RUN, batch=2, budget={"nfe": 30}, out=out, on_event=events.append)
    assert told(events) == recorded(out)
    first = len(events)
    fairlead.resume(out, budget={"nfe": 60}, on_event=events.append)
    candidates = [event for event in events if event.kind == "candidate"]
    assert told(candidates) == recorded(out)
    assert [event.kind for event in events[first - 1 :]].count("end") == 2
    best = Store.open(out).best()
    assert told(events, "end")[-1] == (best.index, best.reward)
    for before, after in pairwise(candidates):
        assert after.spent.nfe >= before.spent.nfe
        assert after.best is not None
        assert before.best is not None
        assert after.best >= before.best
    last = candidates[-1]
    assert last.best == best.reward
    assert last.picture.size[0] == 16
    assert dict(last.terms) == {"brightness": last.reward}


def test_previews_are_events_and_change_nothing(tmp_path: Path) -> None:
    plain, watched = tmp_path / "plain", tmp_path / "watched"
    events: list[Event] = []
    fairlead.run("a dog", **RUN, budget={"nfe": 20}, out=plain)
    fairlead.run("a dog", **RUN, budget={"nfe": 20}, out=watched, on_event=events.append, previews=2)
    assert recorded(plain) == recorded(watched)
    forming = [event for event in events if event.kind == "preview"]
    assert {event.step for event in forming} == {2, 4}
    assert {event.candidate for event in forming} == {index for index, _ in recorded(plain)}
    assert forming[0].picture.size[0] == 16


def test_a_set_tells_the_events_of_each_run(tmp_path: Path) -> None:
    events: list[Event] = []
    found = fairlead.run(
        ["a dog", "a cat"], **RUN, budget={"nfe": 20}, out=tmp_path / "set", on_event=events.append, log="tensorboard"
    )
    for result in found:
        assert told([event for event in events if event.run == result.folder]) == recorded(result.folder)
        assert read(result.folder)["reward"] == recorded(result.folder)


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What the real package reads: scalars by name, without what is no number."""
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = event_accumulator.EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    values = {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    assert found.Tags()["images"] == [loggers.BEST_PICTURE]
    return {tag: [(step, pytest.approx(value)) for step, value in column] for tag, column in values.items()}


def test_tensorboard_reads_what_a_command_logged(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["--model", "mixture", "--reward", "brightness", "--steps", "5", "--budget", "nfe=20", "--out", str(out)]
    assert main(["run", "a dog", *words, "--log", "tensorboard", "--set", "mixture.size=16"]) == 0
    assert main(["resume", str(out), "--budget", "nfe=40", "--log", "tensorboard"]) == 0
    logged = read(out)
    assert logged["reward"] == recorded(out)
    assert logged["terms/brightness"] == recorded(out)
    assert logged["best"][-1][1] == Store.open(out).best().reward
    assert [step for step, _ in logged["nfe"]] == [index for index, _ in recorded(out)]
    assert set(logged) == {"reward", "best", "nfe", "seconds", "terms/brightness"}


def test_wandb_writes_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the package wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    out = tmp_path / "run"
    fairlead.run("a dog", **RUN, budget={"nfe": 20}, out=out, log="wandb")
    (written,) = (out / "wandb").glob("offline-run-*/run-*.wandb")
    data = written.read_bytes()
    for word in (b"candidate", b"best picture", b"brightness", b"nfe", b"seconds"):
        assert word in data
    picture = next((out / "wandb").glob("offline-run-*/files/media/images/*.png"))
    assert picture.stat().st_size > 0


def test_a_logger_that_is_missing_is_refused_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    with pytest.raises(FairleadError, match=r"Logger 'tensorbord' is unknown\. Did you mean 'tensorboard'"):
        fairlead.run("a dog", **RUN, budget={"nfe": 20}, out=out, log="tensorbord")
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    assert main(["run", "a dog", "--model", "mixture", "--out", str(out), "--log", "wandb"]) == 2
    said = capsys.readouterr().err
    assert "log is 'wandb', but the package wandb is not installed" in said
    assert "pip install 'fairlead[wandb]'" in said
    assert not out.exists()


def test_what_is_logged_holds_no_nan() -> None:
    event = Event("candidate", Path("run"), 3, math.nan, {"a": 1.0, "b": math.nan}, 2.0, 1)
    assert loggers.scalars(event) == {"best": 2.0, "nfe": 0.0, "seconds": 0.0, "terms/a": 1.0}
    assert json.dumps(loggers.scalars(event), allow_nan=False)
    assert np.isfinite(list(loggers.scalars(event).values())).all()
