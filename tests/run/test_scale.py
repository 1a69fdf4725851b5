"""A run of many candidates costs as much for each as a run of few, in work and in memory.

Work is counted in calls of Python functions, which are the same on every machine. The command
`python -m experiments.overhead.scale run` measures 100,000 candidates in seconds.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fairlead.app.report import DOTS, write_report
from fairlead.core.key import Key
from fairlead.core.search import Feedback
from fairlead.run import engine, ranking, search_loop
from fairlead.run.records import Progress
from fairlead.run.spec import Spec
from fairlead.run.store import Store
from fairlead.searches.best_of import BestOf
from fairlead.testing.runs import answers, small_spec

REWARDS = ["brightness", "rank_mean(brightness, jpeg_size)"]
FEW, MANY = 250, 1000


@pytest.fixture(autouse=True)
def rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short rounds, so that 1,000 candidates are as many rounds as 16,000 usually are."""
    monkeypatch.setattr(search_loop, "ASKED_AT_ONCE", 16)
    monkeypatch.setattr(ranking, "MANY", 0)


def many(count: int, reward: str) -> Spec:
    """A run of `count` candidates."""
    return small_spec(reward=reward, steps=1, batch=16, budget={"nfe": float(count)})


def calls(work: Callable[[], Any]) -> int:
    """Python functions that were called, also those that SQLite calls."""
    counted = 0

    def seen(frame: Any, event: str, argument: Any) -> None:
        nonlocal counted
        counted += event == "call"

    sys.setprofile(seen)
    try:
        work()
    finally:
        sys.setprofile(None)
    return counted


@pytest.mark.parametrize("reward", REWARDS)
def test_work_for_a_candidate_does_not_grow(reward: str, tmp_path: Path) -> None:
    """Running and resuming; what is read once at the start or at the end is within the margin."""
    each = []
    again = []
    for count in (FEW, MANY):
        folder = tmp_path / str(count)
        each.append(calls(lambda: engine.start(many(count, reward), folder).close()) / count)  # noqa: B023
        more = {"nfe": float(count + 16)}
        again.append(calls(lambda: engine.resume(folder, budget=more).close()) / count)  # noqa: B023
    assert each[1] < 1.15 * each[0], f"{each} calls for a candidate of {FEW} and of {MANY}"
    assert again[1] < 1.15 * again[0], f"{again} calls for a candidate resumed, of {FEW} and of {MANY}"


def test_totals_are_written_now_and_then(rounds: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every candidate may change the totals of all: they are written a few times in all, and not again when read."""
    written = 0
    write = Store.set_rewards

    def counting(store: Store, rewards: Mapping[int, float], *rest: Any) -> None:
        nonlocal written
        written += len(rewards)
        write(store, rewards, *rest)

    monkeypatch.setattr(Store, "set_rewards", counting)
    engine.start(many(MANY, REWARDS[1]), tmp_path / "run").close()
    assert MANY <= written < 15 * MANY
    written = 0
    engine.resume(tmp_path / "run", budget={"nfe": MANY + 16.0}).close()
    assert written < 5 * MANY


class Remembers(BestOf):
    """Draws like best_of and keeps every answer; reads all of them when it is told more."""

    def __init__(self, *given: Any, read: bool) -> None:
        super().__init__(*given)
        self.read = read
        self.kept: list[Feedback] = []
        self.seen: list[list[float]] = []

    def tell(self, feedback: Sequence[Feedback]) -> None:
        """Keep them, and note what all of them are now."""
        self.kept += feedback
        self.seen += [[f.reward for f in self.kept]] if self.read else []


@pytest.mark.parametrize("read", [True, False])
def test_totals_are_computed_when_they_are_read(
    rounds: None, read: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed run does not rank what nobody reads, and a search that reads sees what it saw in the whole run."""
    made: list[Remembers] = []
    ranked = 0
    totals = ranking.Ranking._totals

    def make(spec: Spec, space: Any) -> Remembers:
        made.append(Remembers(space, Key.root(spec.seed).fold("search"), read=read))
        return made[-1]

    def counting(self: ranking.Ranking, n: int) -> Any:
        nonlocal ranked
        ranked += 1
        return totals(self, n)

    spec = replace(many(160, "rank_mean(brightness, brightness)"), steps=4, budget={"nfe": 640.0})
    engine.start(spec, tmp_path / "run").close()
    monkeypatch.setattr(search_loop, "make_search", make)
    monkeypatch.setattr(ranking.Ranking, "_totals", counting)
    engine.resume(tmp_path / "run", budget={"nfe": 704.0}).close()
    engine.start(replace(spec, budget={"nfe": 704.0}), tmp_path / "whole").close()
    again, whole = made[-2], made[-1]
    assert again.seen == whole.seen
    assert [f.reward for f in again.kept] == [f.reward for f in whole.kept]
    if read:
        first = [seen[:16] for seen in whole.seen]
        assert len(first) >= 10
        assert first[0] != first[-1], "the first answers rank otherwise among more"
    else:
        ranked = 0
        engine.resume(tmp_path / "run", budget={"nfe": 768.0}).close()
        assert ranked <= 4, f"a resumed run of 11 rounds was ranked {ranked} times"


@pytest.mark.parametrize("reward", REWARDS)
def test_memory_for_a_candidate(reward: str, tmp_path: Path) -> None:
    """At most a few numbers stay of a candidate while the run goes on."""
    held: list[int] = []

    def look(progress: Progress) -> None:
        if progress.done >= FEW * (1 + 3 * len(held)):
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])

    tracemalloc.start()
    try:
        engine.start(many(MANY, reward), tmp_path / "run", on_progress=look).close()
    finally:
        tracemalloc.stop()
    each = (held[1] - held[0]) / (MANY - FEW)
    assert each < 400, f"{each:.0f} bytes of every candidate stay in memory"


def test_the_report_shows_so_many_dots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.start(many(50, "brightness"), tmp_path / "run").close()
    assert write_report(tmp_path / "run").read_text().count('class="dot"') == 2 * 50
    monkeypatch.setattr("fairlead.app.report.DOTS", 20)
    page = write_report(tmp_path / "run").read_text()
    assert page.count('class="dot"') == 2 * 17
    assert page.count("one candidate of 3 is shown") == 2
    assert DOTS >= 1000


@pytest.mark.parametrize("reward", REWARDS)
def test_a_resumed_run_has_the_same_record(reward: str, tmp_path: Path) -> None:
    """Also where the record's totals are written only now and then."""
    engine.start(many(100, reward), tmp_path / "whole").close()
    engine.start(many(60, reward), tmp_path / "part").close()
    whole = engine.resume(tmp_path / "whole")
    part = engine.resume(tmp_path / "part", budget={"nfe": 100.0})
    assert answers(part) == answers(whole)
