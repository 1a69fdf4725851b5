"""Whoever watches a batch form changes neither its pictures nor its bill."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from fairlead.core.cost import Cost, Meter
from fairlead.models.mixture import Mixture
from fairlead.run import engine, machine
from fairlead.run.forming import SIDE, Watching, smaller
from fairlead.run.records import BatchStep
from fairlead.run.store import Store
from fairlead.testing.runs import small_spec

SPECS: dict[str, dict[str, Any]] = {
    "batches": {"budget": {"nfe": 30}, "steps": 3, "batch": 4},
    "steering": {
        "steer": "demon",
        "settings": {"demon": {"k": 2, "estimate": "clean"}},
        "budget": {"nfe": 300},
        "steps": 15,
    },
    "gradient": {"search": "first_order", "budget": {"nfe": 40}},
    "drafts that leave a state": {"rungs": "2 > 4", "budget": {"nfe": 60}, "steps": 6, "batch": 4},
    "drafts of their own": {"draft": 2, "exact": True, "finals": 2, "budget": {"nfe": 60}, "steps": 6, "batch": 4},
    "a draft by a sibling": {
        "model": "pocket",
        "draft": "pocket-turbo@3",
        "finals": 1,
        "budget": {"nfe": 60},
        "steps": 8,
        "batch": 2,
    },
    "noise at every step": {"sampler": "ancestral", "budget": {"nfe": 30}, "steps": 3, "batch": 4},
}


def told(store: Store) -> list[Any]:
    """Everything about a run but its seconds."""
    rows: list[Any] = [(c.index, c.reward, c.image, dict(c.terms), counts(c.cost)) for c in store.candidates()]
    return [*rows, counts(store.spent()), store.stopped]


def counts(cost: Cost) -> dict[str, float]:
    return {name: value for name, value in cost.as_dict().items() if name != "seconds"}


@pytest.mark.parametrize("kind", SPECS)
def test_previews_change_no_picture_and_no_bill(kind: str, tmp_path: Path) -> None:
    seen: list[BatchStep] = []
    alone = engine.start(small_spec(**SPECS[kind]), tmp_path / "alone")
    watched = engine.start(small_spec(**SPECS[kind]), tmp_path / "watched", on_step=seen.append, previews=2)
    assert told(watched) == told(alone)
    shown = [index for step in seen for index in step.previews]
    assert shown, "previews were made"
    assert seen[-1].apart.decodes == len(shown), "their cost is shown"
    assert seen[-1].apart.seconds > 0
    assert {c.index for c in watched.candidates()} <= {index for step in seen for index in step.indices}


def test_every_step_of_every_batch_is_told(tmp_path: Path) -> None:
    seen: list[BatchStep] = []
    spec = small_spec(budget={"nfe": 18}, steps=3, batch=4)
    engine.start(spec, tmp_path / "run", on_step=seen.append)
    assert [(s.indices, s.step, s.steps, s.spent.nfe) for s in seen] == [
        *[((0, 1, 2, 3), i, 3, 4 * i) for i in (1, 2, 3)],
        *[((4, 5), i, 3, 2 * i) for i in (1, 2, 3)],
    ]
    assert not any(s.previews for s in seen)


def test_a_switch_works_before_the_next_batch(tmp_path: Path) -> None:
    seen: list[BatchStep] = []
    spec = small_spec(budget={"nfe": 36}, steps=3, batch=4)
    engine.start(spec, tmp_path / "run", on_step=seen.append, previews=lambda: 1 if len(seen) >= 3 else 0)
    assert [len(s.previews) for s in seen] == [0, 0, 0, 4, 4, 0, 4, 4, 0], "the finished picture needs no preview"


def test_without_a_watcher_nothing_waits_for_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[str] = []
    monkeypatch.setattr(machine, "synchronise", waits.append)
    spec = small_spec(budget={"nfe": 36}, steps=3, batch=4)
    engine.start(spec, tmp_path / "off")
    off = len(waits)
    engine.start(spec, tmp_path / "progress", on_step=lambda step: None)
    assert len(waits) == 2 * off, "progress by steps reads nothing from the device"


def test_a_slow_preview_takes_nothing_from_a_budget_of_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Mixture.decode

    def slow(model: Mixture, x: Tensor) -> Tensor:
        if model._meter._is_apart:
            time.sleep(0.05)
        return whole(model, x)

    monkeypatch.setattr(Mixture, "decode", slow)
    seen: list[BatchStep] = []
    spec = small_spec(budget={"nfe": 24, "seconds": 0.6}, steps=6, batch=2)

    def watch(step: BatchStep) -> None:
        seen.append(step)
        time.sleep(0.05)  # twelve of these are the whole budget

    store = engine.start(spec, tmp_path / "run", on_step=watch, previews=1)
    assert seen[-1].apart.seconds > 0.45
    assert store.count() == 4
    assert store.spent().seconds < 0.4


def test_a_meter_counts_apart() -> None:
    meter = Meter()
    with meter.grant(Cost(decodes=1, seconds=60)):
        with meter.apart():
            meter.charge(Cost(decodes=5))
        meter.charge(Cost(decodes=1))
    assert (meter.spent.decodes, meter.apart_spent.decodes) == (1, 5)


def test_a_replay_can_be_watched(tmp_path: Path) -> None:
    store = engine.start(small_spec(budget={"nfe": 18}, steps=3, batch=4), tmp_path / "run")
    seen: list[BatchStep] = []
    before = told(store)
    again = engine.replay(tmp_path / "run", 1, watching=Watching(seen.append, every=1, only=(1,), last=True))
    assert again.identical
    assert told(Store.open(tmp_path / "run")) == before
    assert [list(s.previews) for s in seen] == [[1], [1], [1]]
    with Image.open(io.BytesIO(seen[-1].previews[1])) as picture:
        assert picture.format == "WEBP"


def test_previews_are_small_and_always_pictures() -> None:
    large = smaller(torch.full((2, 3, 2 * SIDE, SIDE), 0.25))
    assert large.shape == (2, 3, SIDE, SIDE // 2)
    assert torch.equal(large, torch.full_like(large, 0.25))
    assert torch.equal(smaller(torch.full((1, 3, 8, 8), float("nan"))), torch.zeros(1, 3, 8, 8))
