"""What is cut short: by the clock, by memory, by an interruption right after a larger budget was given. Nothing that
was spent is forgotten, what was kept for the end is still spent on it, and a resumed run asks what an uninterrupted one
asks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from fairlead.core.cost import BudgetExceeded, Cost
from fairlead.core.errors import FairleadError, RewardError
from fairlead.core.function import Function
from fairlead.core.reward import PaidReward
from fairlead.models.mixture import Mixture
from fairlead.run import engine
from fairlead.run.executor import Local
from fairlead.run.setup import resolve
from fairlead.run.spec import Part
from fairlead.run.store import Store
from fairlead.run.worker import Worker
from fairlead.testing.runs import after, small_spec, some_tasks


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that only the test moves."""
    hands = SimpleNamespace(now=0.0)
    monkeypatch.setattr("fairlead.core.cost.time", SimpleNamespace(perf_counter=lambda: hands.now))
    return hands


def asked(store: Store) -> list[tuple[int, str, int, int | None]]:
    return [(c.index, c.key, c.steps, c.refines) for c in store.candidates()]


def test_drafts_cut_by_the_clock_are_still_committed(
    clock: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network warms up on the baseline, and hangs in the third batch: the time kept for the end is still used."""
    predict, calls = Mixture.predict, [0]

    def slower(self: Mixture, x: Tensor, *rest: Any) -> Tensor:
        calls[0] += 1
        clock.now += 0.03 if calls[0] <= 8 else 1.1 if calls[0] == 14 else 0.01 * len(x)
        return predict(self, x, *rest)

    monkeypatch.setattr(Mixture, "predict", slower)
    spec = small_spec(steps=8, draft=2, finals=1, batch=4, budget={"seconds": 2.0, "nfe": 900})
    store = engine.start(spec, tmp_path / "run")
    assert store.stopped == "budget: seconds"
    assert [c for c in store.candidates() if c.refines is not None], "the best draft is rendered fully"
    assert store.spent().seconds == pytest.approx(clock.now), "the seconds of the batch that was cut are spent as well"
    longer = engine.resume(tmp_path / "run", budget={"seconds": 5.0, "nfe": 900})
    assert longer.spent().seconds == pytest.approx(clock.now), "also in the record of a run that went on"


def test_seconds_are_kept_for_renderings_in_a_batch_that_is_not_full(
    clock: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One picture takes as long as four at once, as on any device that is not busy: 8 calls of 0.1 s are set aside."""
    predict = Mixture.predict

    def constant(self: Mixture, x: Tensor, *rest: Any) -> Tensor:
        clock.now += 0.1
        return predict(self, x, *rest)

    monkeypatch.setattr(Mixture, "predict", constant)
    spec = small_spec(steps=8, draft=2, batch=4, budget={"seconds": 6.0})
    store = engine.start(spec, tmp_path / "run")
    assert store.stopped == "budget: seconds"
    assert [c for c in store.candidates() if c.refines is not None], "the best draft is rendered fully"
    assert 5.0 < store.spent().seconds <= 6.0


def test_seconds_end_a_resumed_run_where_they_end_an_uninterrupted_one(clock: SimpleNamespace, tmp_path: Path) -> None:
    """Four pictures take 0.2 s of 0.32 s: another four do not fit, whether or not the process is the same."""

    def slow(images: Tensor, prompts: Sequence[str]) -> Tensor:
        clock.now += 0.05 * len(images)
        return images.mean((1, 2, 3))

    spec = small_spec(budget={"seconds": 0.32}, batch=4)
    engine.start(spec, tmp_path / "run", reward=Function(slow), stop=after(1)).close()
    store = engine.resume(tmp_path / "run", reward=Function(slow))
    assert len(store.candidates()) == 4
    assert store.spent().seconds <= 0.32


def test_an_interruption_right_after_a_larger_budget_changes_no_question(tmp_path: Path) -> None:
    words: dict[str, Any] = {"steps": 8, "draft": 2, "budget": {"nfe": 60.0}, "search": "zero_order"}
    for name in ("whole", "cut"):
        engine.start(small_spec(**words), tmp_path / name).close()
    whole = engine.resume(tmp_path / "whole", budget={"nfe": 120.0})
    engine.resume(tmp_path / "cut", budget={"nfe": 120.0}, stop=lambda: True).close()
    assert asked(engine.resume(tmp_path / "cut")) == asked(whole)


def test_a_refused_resume_changes_nothing(tmp_path: Path) -> None:
    spec = small_spec(reward=Part("python"))
    engine.start(spec, tmp_path / "run", reward=Function(lambda x, p: x.mean((1, 2, 3)))).close()
    with pytest.raises(FairleadError, match="Python object"):
        engine.resume(tmp_path / "run", budget={"nfe": 99})
    assert Store.open(tmp_path / "run").spec.budget == {"nfe": 40.0}


class _Paid(PaidReward):
    """Costs a dollar a picture, then needs more memory than there is for more than one picture."""

    name = "paid"

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        raise NotImplementedError

    def charge_to(self, charge: Callable[[Cost], None]) -> None:
        def score(images: Tensor, prompts: Sequence[str]) -> Tensor:
            charge(Cost(scores=len(images), dollars=len(images)))
            if len(images) > 1:
                raise torch.OutOfMemoryError("simulated")
            return images.mean((1, 2, 3))

        self.score = score  # type: ignore[method-assign]


def test_what_was_paid_before_memory_ran_out_was_paid() -> None:
    """Counted work of a failed attempt is not charged, so that the price is the bill; its money is."""
    spec = small_spec(batch=2)
    executor = Local(spec, reward=_Paid())
    (task,) = some_tasks(executor, spec, sizes=(2,))
    outcomes, cost = executor.worker.evaluate(task, executor.worker.steering)
    assert len(outcomes) == 2
    assert (cost.nfe, cost.scores, cost.dollars) == (8, 2, 4)
    assert sum(o.cost.dollars for o in outcomes) == pytest.approx(4)


def test_what_was_paid_before_a_reward_broke_is_in_the_record(tmp_path: Path) -> None:
    """Three pictures are paid for, then another reward raises: a resumed run has three dollars less."""

    class Judge(_Paid):
        def charge_to(self, charge: Callable[[Cost], None]) -> None:
            def score(images: Tensor, prompts: Sequence[str]) -> Tensor:
                charge(Cost(scores=len(images), dollars=len(images)))
                return images.mean((1, 2, 3))

            self.score = score  # type: ignore[method-assign]

    def broken(images: Tensor, prompts: Sequence[str]) -> Tensor:
        raise ValueError("oh")

    spec = small_spec(reward=Part("python"), budget={"nfe": 40.0, "dollars": 5.0})
    with pytest.raises(RewardError, match="oh"):
        engine.start(spec, tmp_path / "run", reward=Judge() + Function(broken))
    assert Store.open(tmp_path / "run").spent().dollars == 3
    with pytest.raises(FairleadError, match=r"before its first candidate.* larger budget, then resume .*run"):
        engine.resume(tmp_path / "run", reward=Judge())
    store = Store.open(tmp_path / "run")
    assert (len(store.candidates()), store.stopped) == (0, "budget: dollars")
    assert store.spent().dollars == 6


def test_pieces_share_one_clock(clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch in pieces has the seconds of its grant once, not once per piece."""
    predict = Mixture.predict

    def slow(self: Mixture, x: Tensor, *rest: Any) -> Tensor:
        clock.now += 0.1
        return predict(self, x, *rest)

    spec = small_spec(batch=4)
    worker = Worker(resolve(spec))
    monkeypatch.setattr(Mixture, "predict", slow)
    monkeypatch.setattr(worker, "_fits", 1)
    (task,) = some_tasks(Local(spec), spec, sizes=(4,))
    with pytest.raises(BudgetExceeded):
        worker.evaluate(replace(task, grant=replace(task.grant, seconds=0.9)), worker.steering)
    assert clock.now == pytest.approx(1.0)


@pytest.mark.parametrize("words", [{}, {"draft": 2}])
def test_the_prompt_is_encoded_once(words: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text encoders are large: a dry run uses what the worker has."""
    encode, seen = Mixture.encode, []

    def counted(self: Mixture, prompts: Sequence[str]) -> Any:
        seen.append(prompts)
        return encode(self, prompts)

    monkeypatch.setattr(Mixture, "encode", counted)
    engine.start(small_spec(**words), tmp_path / "run")
    assert len(seen) == 1
