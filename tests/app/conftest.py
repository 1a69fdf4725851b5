"""Run folders written straight into a store: no model, no torch."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

import fairlead.run
from fairlead.core.cost import Cost
from fairlead.run.records import BASELINE, Outcome, Progress, Replay, Task
from fairlead.run.spec import Spec, make_spec
from fairlead.run.store import Store, write_atomically


class Point:
    """The two calls by which a store digests a point."""

    def __init__(self, index: int) -> None:
        self.index = index

    def detach(self) -> Point:
        return self

    def numpy(self) -> Point:
        return self

    def tobytes(self) -> bytes:
        return str(self.index).encode()


@dataclass(frozen=True)
class FakeKey:
    digest: bytes

    def hex(self) -> str:
        return self.digest.hex()


@dataclass(frozen=True)
class FakeProposal:
    x: Point
    key: FakeKey
    steps: int | None = None


def png(index: int, side: int = 64) -> bytes:
    """A flat picture whose colour names its index."""
    image = Image.new("RGB", (side, side), ((index * 67) % 256, (index * 31 + 90) % 256, (index * 149 + 40) % 256))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def task(indices: Sequence[int], is_baseline: bool = False) -> Task:
    proposals = tuple(FakeProposal(Point(i), FakeKey(blake2b(b"%d" % i, digest_size=16).digest())) for i in indices)
    return Task(tuple(indices), proposals, tuple(indices), Cost(), is_baseline)  # type: ignore[arg-type]


def write_run(
    folder: Path,
    rewards: Sequence[float],
    *,
    spec: Spec | None = None,
    terms: Callable[[float], Mapping[str, float]] = lambda reward: {"brightness": reward},
    baseline: float | None = None,
    picture: Callable[[int], bytes] = png,
    batch: int = 4,
    status: str = "finished",
    stopped: str = "budget: nfe",
    warnings: str | None = None,
    seconds: float = 0.05,
) -> Path:
    """A run folder as the engine leaves it."""
    spec = spec or make_spec("a photo of a red apple", reward="brightness", budget={"nfe": 640})
    versions = {"fairlead": "0.1.0", "torch": "2.13.0", "model": "sha256:0123"}
    if warnings is not None:
        versions["warnings"] = warnings
    store = Store.create(folder, spec, versions, "2026-11-20T12:00:00Z")
    each = Cost(nfe=spec.steps, forwards=spec.steps, decodes=1, scores=1, seconds=seconds)

    def outcome(index: int, reward: float) -> Outcome:
        return Outcome(index, reward, {} if math.isnan(reward) else dict(terms(reward)), each, picture(index))

    if baseline is not None:
        store.record(task([BASELINE], is_baseline=True), [outcome(BASELINE, baseline)], each)
    for start in range(0, len(rewards), batch):
        part = list(range(start, min(start + batch, len(rewards))))
        store.record(task(part), [outcome(i, rewards[i]) for i in part], each * len(part))
    for name, found in (("best.png", store.best()), ("baseline.png", store.baseline())):
        if found:
            write_atomically(folder / name, (folder / found.image).read_bytes())
    store.set_status(status, stopped)
    store.close()
    return folder


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run below the test's folder and returns its path."""
    made: list[Path] = []

    def make(rewards: Sequence[float] = (0.5, 0.2, 0.8, 0.4), name: str | None = None, **options: Any) -> Path:
        made.append(tmp_path / (name or f"run{len(made)}"))
        return write_run(made[-1], rewards, **options)

    return make


class FakeEngine(ModuleType):
    """Answers like `fairlead.run.engine` at once, with the rewards it was given."""

    def __init__(self) -> None:
        super().__init__("fairlead.run.engine")
        self.rewards: Sequence[float] = (0.5, 0.2, 0.8, 0.4)
        self.calls: list[tuple[str, Any]] = []
        self.error: BaseException | None = None
        self.while_running: Callable[[], None] = lambda: None

    def start(
        self, spec: Spec, out: Path, *, on_progress: Callable[[Progress], None], stop: Callable[[], bool], **more: Any
    ) -> Store:
        self.calls.append(("start", spec))
        if self.error:
            raise self.error
        print("a library talks on stdout")
        on_progress(Progress("loading model", 0, None, Cost(), spec.limit, None, None, None, 0.0, 0.0))
        self.while_running()
        on_progress(Progress("searching", 4, 32, Cost(nfe=80), spec.limit, 0.5, 0.8, 2, 1.0, 4.0))
        ended = ("stopped", "interrupted") if stop() else ("finished", "budget: nfe")
        write_run(out, self.rewards, spec=spec, status=ended[0], stopped=ended[1])
        return Store.open(out)

    def resume(self, folder: Path, *, budget: Mapping[str, float] | None = None, **watchers: Any) -> Store:
        self.calls.append(("resume", budget))
        return Store.open(folder)

    def replay(self, folder: Path, index: int, *, alone: bool = False, trust: bool = False) -> Replay:
        self.calls.append(("replay", index))
        store = Store.open(folder)
        recorded = next(c for c in store.candidates() if c.index == index)
        store.close()
        return Replay(index, recorded, recorded.reward, not alone, int(alone), png(index), 1 if alone else 4, "said so")


@pytest.fixture
def fake_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeEngine:
    """The command line in an empty folder with an engine that needs no torch."""
    engine = FakeEngine()
    monkeypatch.setitem(sys.modules, "fairlead.run.engine", engine)
    monkeypatch.setattr(fairlead.run, "engine", engine, raising=False)
    monkeypatch.chdir(tmp_path)
    return engine
