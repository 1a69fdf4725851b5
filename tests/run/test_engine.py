"""Whole runs on the mixture: budgets, prices, groups, batches, failures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fairlead.core.cost import Cost
from fairlead.core.errors import FairleadError, RewardError, StoreError
from fairlead.core.function import Function
from fairlead.core.key import Key
from fairlead.core.reward import Reward
from fairlead.rewards.brightness import Brightness
from fairlead.run import engine, models, png, search_loop
from fairlead.run.executor import Local
from fairlead.run.price import price
from fairlead.run.records import BASELINE, Progress
from fairlead.run.setup import make_search, resolve
from fairlead.run.spec import Part, Spec
from fairlead.run.store import Store
from fairlead.run.worker import Worker
from fairlead.testing.runs import answers, small_spec, some_tasks


@pytest.fixture
def go(tmp_path: Path) -> Callable[..., Store]:
    """go(name, spec, ...) runs into a folder of that name."""

    def start(name: str, spec: Spec | None = None, **more: Any) -> Store:
        return engine.start(small_spec() if spec is None else spec, tmp_path / name, **more)

    return start


@pytest.fixture
def steerings(register: Any) -> None:
    for name in ("Toward", "Tries", "Spends", "Pull"):
        register("steerings", name.lower(), f"items:{name}")
    for name in ("Walk", "Climb", "Efforts", "OtherPoints"):
        register("searches", name.lower(), f"items:{name}")


def counts(cost: Cost) -> dict[str, float]:
    return {k: v for k, v in cost.as_dict().items() if k != "seconds" and v}


# budgets

unit_limits = st.dictionaries(
    st.sampled_from(["nfe", "forwards", "decodes", "scores"]), st.integers(1, 60), min_size=1, max_size=3
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    budget=unit_limits,
    steps=st.integers(1, 4),
    group=st.integers(1, 3),
    batch=st.integers(1, 7),
    sampler=st.sampled_from(["euler", "heun", "ancestral"]),
    reward=st.sampled_from(["brightness", "brightness + jpeg_size", "2*brightness*brightness"]),
)
def test_a_budget_is_used_up_and_never_exceeded(
    tmp_path_factory: pytest.TempPathFactory,
    budget: dict[str, float],
    steps: int,
    group: int,
    batch: int,
    sampler: str,
    reward: str,
) -> None:
    spec = small_spec(budget=budget, steps=steps, group=group, batch=batch, sampler=sampler, reward=reward)
    each = {"nfe": {"heun": 2 * steps - 1}.get(sampler, steps), "decodes": 1, "scores": 2 if "+" in reward else 1}
    each["forwards"] = each["nfe"]
    expected = min(int(v) // (each[k] * group) for k, v in budget.items()) * group
    folder = tmp_path_factory.mktemp("budget") / "run"
    if expected == 0:
        with pytest.raises(FairleadError, match="does not cover"):
            engine.start(spec, folder)
        assert not folder.exists()
        return
    store = engine.start(spec, folder)
    assert len(store.candidates()) == expected
    assert store.spent().fits(replace(spec.limit, seconds=math.inf))
    assert counts(store.spent()) == {k: v * expected for k, v in each.items()}
    assert store.status == "finished"
    assert store.stopped.startswith("budget: ")
    said = store.stopped.removeprefix("budget: ").split(", ")
    assert said
    assert all(each[k] * group * (expected / group + 1) > budget[k] for k in said)
    store.close()


def test_seconds_end_a_run(go: Callable[..., Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that only the reward moves: six images of 0.05 s fit into 0.32 s, a seventh does not."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("fairlead.core.cost.time", SimpleNamespace(perf_counter=lambda: clock.now))

    def slow(images: Tensor, prompts: Sequence[str]) -> Tensor:
        clock.now += 0.05 * len(images)
        return images.mean((1, 2, 3))

    one = go("one", small_spec(budget={"seconds": 0.32}, batch=1), reward=Function(slow))
    assert len(one.candidates()) == 6
    assert one.stopped == "budget: seconds"
    assert one.spent().seconds == pytest.approx(0.3)
    two = go("two", small_spec(budget={"seconds": 0.32}, batch=4), reward=Function(slow))
    assert len(two.candidates()) == 4, "a second batch of four would take 0.2 s, and 0.12 s are left"
    both = go("both", small_spec(budget={"seconds": 0.32, "nfe": 8}, batch=1), reward=Function(slow))
    assert both.stopped == "budget: nfe"


def test_a_search_may_finish_first(go: Callable[..., Store]) -> None:
    store = go("run", small_spec(search="best_of(n=3)"))
    assert len(store.candidates()) == 3
    assert (store.status, store.stopped) == ("finished", "search finished")


def test_a_search_may_not_ask_for_more_than_it_may(go: Callable[..., Store], monkeypatch: pytest.MonkeyPatch) -> None:
    from fairlead.searches.best_of import BestOf

    original = BestOf.ask
    monkeypatch.setattr(BestOf, "ask", lambda self, n: original(self, n + 1))
    with pytest.raises(RuntimeError, match="asked 11 questions where 10 were affordable"):
        go("run")


# prices

PRICED: list[dict[str, Any]] = [
    {},
    {"sampler": "heun"},
    {"reward": "brightness + jpeg_size"},
    {"reward": "brightness*brightness + 2"},
    {"group": 2, "batch": 4},
    {"steer": "spends(k=3)", "budget": {"nfe": 200}},
    {"steer": "toward", "budget": {"nfe": 60}},
    {"steer": "tries", "sampler": "ancestral", "budget": {"nfe": 300}},
    {"steer": ["toward", "pull"], "group": 3, "batch": 3, "budget": {"nfe": 80}},
    {"steer": ["toward", "tries", "spends"], "sampler": "ancestral", "group": 2, "batch": 4, "budget": {"decodes": 60}},
    {"search": "walk"},
    {"search": "climb", "budget": {"backwards": 40}},
]


@pytest.mark.parametrize("words", PRICED, ids=str)
def test_the_price_is_the_bill(words: dict[str, Any], go: Callable[..., Store], steerings: None) -> None:
    spec = small_spec(**words)
    said = price(spec)
    store = go("run", spec)
    assert said.candidates == len(store.candidates()) > 0
    assert counts(store.spent()) == pytest.approx(counts(said.total))
    assert counts(said.total) == pytest.approx(
        counts(said.setup_cost + said.baseline + said.cost_per_candidate * said.candidates)
    )
    for c in store.candidates():
        assert counts(c.cost) == pytest.approx(counts(said.cost_per_candidate))
    assert (store.get(BASELINE).cost.nfe == said.baseline.nfe) if spec.controlled else said.baseline == Cost()


def test_prices_in_numbers(steerings: None) -> None:
    """Counted by hand."""
    assert counts(price(small_spec()).cost_per_candidate) == {"nfe": 4, "forwards": 4, "decodes": 1, "scores": 1}
    assert counts(price(small_spec(sampler="heun")).cost_per_candidate)["nfe"] == 7
    assert counts(price(small_spec(steer="spends(k=3)")).cost_per_candidate)["nfe"] == 16
    toward = price(small_spec(steer="toward", budget={"nfe": 60}))
    assert counts(toward.setup_cost) == {"nfe": 6, "forwards": 6, "decodes": 3, "scores": 3}
    assert toward.candidates == (60 - 6 - 4) // 4
    climb = price(small_spec(search="climb", budget={"nfe": 60}))
    assert (climb.cost_per_candidate.nfe, climb.cost_per_candidate.forwards, climb.cost_per_candidate.backwards) == (
        4,
        8,
        4,
    ), "steps are computed again on the way back"
    # 4 solved steps; after the first three, 3 noises each look ahead: from sigma 3/4 and 1/2 in 2 and 1 steps of 2,
    # from 1/4 in 1
    tries = price(small_spec(steer="tries", sampler="ancestral", budget={"nfe": 300}))
    assert counts(tries.cost_per_candidate) == {
        "nfe": 4 + 3 * (2 + 1 + 1),
        "forwards": 16,
        "decodes": 1 + 9,
        "scores": 1 + 9,
    }


def test_a_grant_is_the_price(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, steerings: None) -> None:
    """A steering that spends more than it did in the dry run is stopped before it does."""
    import items

    original = items.Spends.__call__
    real: list[bool] = []

    def greedy(self: Any, step: Any) -> Any:
        out = original(self, step)
        if real:
            step.denoise(step.x, step.at, step.rows)
        return out

    monkeypatch.setattr(items.Spends, "__call__", greedy)

    def watch(p: Progress) -> None:
        if p.done == 3:
            real.append(True)

    store = engine.start(small_spec(steer="spends(k=1)"), tmp_path / "run", on_progress=watch)
    assert len(store.candidates()) == 3
    assert store.spent().fits(replace(store.spec.limit, seconds=math.inf))
    assert store.stopped.startswith("budget: ")


def test_only_tensors_survive_preparation(go: Callable[..., Store], register: Any) -> None:
    """A number found while preparing would be lost on resuming: said at once, not then."""
    register("steerings", "measured", "items:Measured")
    with pytest.raises(TypeError, match=r"Measured prepared level as 3\.0: only tensors are recorded"):
        go("run", small_spec(steer="measured"))


# the same question, the same answer


def test_the_same_twice(go: Callable[..., Store]) -> None:
    for words in ({}, {"sampler": "ancestral", "group": 2, "batch": 4}, {"reward": "brightness + jpeg_size"}):
        a, b = go(f"a{len(words)}", small_spec(**words)), go(f"b{len(words)}", small_spec(**words))
        assert answers(a) == answers(b)
        assert (a.folder / "best.png").read_bytes() == (b.folder / "best.png").read_bytes()


def test_another_seed_is_another_run(go: Callable[..., Store]) -> None:
    a, b = go("a"), go("b", small_spec(seed=1))
    assert not {x[2] for x in answers(a)} & {x[2] for x in answers(b)}


def test_best_of_more_contains_best_of_less(go: Callable[..., Store]) -> None:
    few, many = go("few", small_spec(budget={"nfe": 24})), go("many", small_spec(budget={"nfe": 48}))
    assert [c.reward for c in many.candidates()][:6] == [c.reward for c in few.candidates()]
    assert [c.key for c in many.candidates()][:6] == [c.key for c in few.candidates()]


@pytest.mark.parametrize("sampler", ["euler", "ancestral", "dpmpp_2m"])
def test_batch_size_changes_rounding_only(sampler: str, go: Callable[..., Store]) -> None:
    """L0: the draws are the same. L1: rewards agree up to rounding of 8-bit pixels."""
    runs = [go(f"b{b}", small_spec(batch=b, sampler=sampler)) for b in (1, 2, 3, 7, 16)]
    for other in runs[1:]:
        assert [c.key for c in other.candidates()] == [c.key for c in runs[0].candidates()]
        mine = np.array([c.reward for c in other.candidates()])
        np.testing.assert_allclose(mine, [c.reward for c in runs[0].candidates()], atol=1 / 255 / 8 + 1e-6)


def test_steering_with_ungrouped_samples_does_not_see_the_batch(go: Callable[..., Store], steerings: None) -> None:
    words = {"steer": ["toward", "tries"], "sampler": "ancestral", "budget": {"nfe": 260}}
    one, four = go("one", small_spec(batch=1, **words)), go("four", small_spec(batch=4, **words))
    a, b = ([c.reward for c in s.candidates()] for s in (one, four))
    assert len(a) == len(b) > 4
    np.testing.assert_allclose(a, b, atol=2e-3)


def test_groups_are_the_unit_of_coupling(go: Callable[..., Store], steerings: None) -> None:
    """With a coupling steering, batch size (in whole groups) changes only rounding; group size changes pictures."""
    words = {"steer": "pull", "budget": {"nfe": 52}}
    two = go("two", small_spec(group=2, batch=2, **words))
    six = go("six", small_spec(group=2, batch=6, **words))
    three = go("three", small_spec(group=3, batch=3, **words))
    a, b, c = ([x.reward for x in s.candidates()] for s in (two, six, three))
    assert len(a) == len(b) == len(c) == 12
    np.testing.assert_allclose(a, b, atol=2e-3)
    assert np.abs(np.array(a) - np.array(c)).max() > 5e-3


@pytest.mark.parametrize(
    ("group", "batch", "sizes"), [(2, 5, [4, 4, 2]), (3, 3, [3, 3, 3]), (4, 2, [4, 4]), (1, 4, [4, 4, 2])]
)
def test_batches_hold_whole_groups(group: int, batch: int, sizes: list[int], go: Callable[..., Store]) -> None:
    store = go("run", small_spec(group=group, batch=batch))
    tasks: dict[int, list[int]] = {}
    for c in store.candidates():
        tasks.setdefault(c.task, []).append(c.index)
    assert [len(t) for t in tasks.values()] == sizes
    for members in tasks.values():
        assert members[0] % group == 0
        assert len(members) % group == 0


def test_odd_batches_hold_whole_groups(go: Callable[..., Store]) -> None:
    """Also where a Spec was written by hand: a batch of 3 in groups of 2."""
    store = go("run", replace(small_spec(group=2), batch=3))
    assert [c.task for c in store.candidates()] == [0] * 4 + [1] * 4 + [2] * 2


def test_a_group_may_be_larger_than_a_round(go: Callable[..., Store], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_loop, "ASKED_AT_ONCE", 2)
    spec = small_spec(group=3, batch=3, budget={"nfe": 24})
    assert price(spec).candidates == len(go("run", spec).candidates()) == 6


def test_a_group_has_one_effort(go: Callable[..., Store], steerings: None) -> None:
    with pytest.raises(RuntimeError, match="efforts asked for 2 and 7 steps in one group"):
        go("run", small_spec(search="efforts", group=4, batch=8, budget={"nfe": 70}))


def test_different_efforts_are_different_batches(go: Callable[..., Store], steerings: None) -> None:
    store = go("run", small_spec(search="efforts", batch=8, budget={"nfe": 70}))
    found = store.candidates()
    assert [c.steps for c in found[:8]] == [2, 2, 7, 7] * 2
    assert all(len({c.steps for c in found if c.task == t}) == 1 for t in {c.task for c in found})
    assert all(c.cost.nfe == pytest.approx(c.steps) for c in found)
    assert store.spent().nfe <= 70


# pictures and rewards


def test_the_reward_is_that_of_the_saved_picture(go: Callable[..., Store]) -> None:
    """Read the PNGs, score them: the same numbers; without the rounding to 8 bits they are 1e-4 and more away."""
    store = go("run", small_spec(reward="brightness + 0.5*jpeg_size"))
    reward: Any = Brightness()
    found = store.candidates()
    arrays = [png.read((store.folder / c.image).read_bytes())[0] for c in found]
    images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255
    for task in {c.task for c in found}:
        own = [c.index for c in found if c.task == task]
        expected = [found[i].terms["brightness"] for i in own]
        assert reward(images[own], ["x"] * len(own))[0].tolist() == pytest.approx(expected, abs=1e-6)
    for c in found:
        assert c.reward == pytest.approx(c.terms["brightness"] + 0.5 * c.terms["jpeg_size"], abs=1e-6)


def test_the_baseline(go: Callable[..., Store], steerings: None) -> None:
    plain = go("plain")
    assert plain.baseline() == plain.get(0)
    steered = go("steered", small_spec(steer="toward", budget={"nfe": 60}))
    base = steered.baseline()
    assert base is not None
    assert base.index == BASELINE
    assert base.reward == pytest.approx(plain.get(0).reward, abs=1e-3)
    assert base.key == plain.get(0).key
    assert steered.get(0).reward != base.reward
    assert BASELINE not in [c.index for c in steered.candidates()]
    assert (steered.folder / "baseline.png").read_bytes() == (steered.folder / base.image).read_bytes()


def test_search_finds_more_than_the_baseline(go: Callable[..., Store], steerings: None) -> None:
    """Best of n on a Gaussian mixture is above the median of n by construction; a hill climber is above that."""
    best_of = go("best_of", small_spec(budget={"nfe": 400}, batch=16))
    walk = go("walk", small_spec(search="walk", budget={"nfe": 400}, batch=16))
    climb = go("climb", small_spec(search="climb(rate=200)", budget={"nfe": 400}, batch=16))
    values = [c.reward for c in best_of.candidates()]
    best = {name: store.best() for name, store in (("best_of", best_of), ("walk", walk), ("climb", climb))}
    assert best["best_of"] is not None
    assert best["best_of"].reward == max(values) > np.median(values)
    assert best["walk"] is not None
    assert best["walk"].reward > best["best_of"].reward
    assert best["climb"] is not None
    assert best["climb"].reward > best["best_of"].reward


def test_gradients_are_those_of_the_reward(steerings: None) -> None:
    """What a gradient search is told, against central differences in the point, straight through the 8-bit rounding."""
    spec = small_spec(search="climb", batch=2)
    worker = Worker(resolve(spec))
    [task] = some_tasks(Local(spec), spec, (2,))
    outcomes, _ = worker.evaluate(task, worker.steering)
    grad = outcomes[0].gradient
    assert grad is not None
    x, h = task.proposals[0].x, 1.0  # far enough to step over the rounding: the mixture is smooth on that scale
    along = grad / grad.norm()
    values = []
    for sign in (1, -1):
        moved = replace(task, proposals=(replace(task.proposals[0], x=x + sign * h * along), task.proposals[1]))
        values.append(worker.evaluate(moved, worker.steering)[0][0].reward)
    assert (values[0] - values[1]) / (2 * h) == pytest.approx(float(grad.norm()), rel=0.25)


def test_a_search_with_gradients_needs_a_reward_that_has_one(go: Callable[..., Store], steerings: None) -> None:
    with pytest.raises(FairleadError, match="climb needs gradients, but reward 'jpeg_size' has none"):
        go("run", small_spec(search="climb", reward="jpeg_size"))


# what is refused


def test_nothing_runs_outside_a_grant() -> None:
    from fairlead.core.cost import Unmetered
    from fairlead.testing.models import predict

    spec = small_spec()
    worker = Worker(resolve(spec))
    x = torch.zeros(1, *worker.model.latent)
    cond, at = worker.model.encode(["x"]), worker.model.levels(2)[0]
    with pytest.raises(Unmetered):
        predict(worker.model, x, at, cond)
    with pytest.raises(Unmetered):
        worker.model.decode(x)
    with pytest.raises(Unmetered):
        worker.reward(torch.zeros(1, 3, 4, 4), ["x"])


def test_a_task_cannot_pass_its_grant() -> None:
    from fairlead.core.cost import BudgetExceeded

    spec = small_spec()
    worker, [task] = Worker(resolve(spec)), some_tasks(Local(spec), spec, (3,))
    cut = replace(task, grant=Cost(nfe=11, forwards=99, decodes=9, scores=9, seconds=60))
    with pytest.raises(BudgetExceeded, match="3 nfe wanted, 2 left"):
        worker.evaluate(cut, worker.steering)
    assert worker.meter.spent.nfe == 9


def test_the_users_reward_stays_usable(go: Callable[..., Store]) -> None:
    reward = Brightness() + 0.0
    first, second = go("a", reward=reward), go("b", reward=reward)
    assert answers(first) == answers(second)
    assert float(reward(torch.ones(1, 3, 2, 2), ["x"])[0]) == pytest.approx(1)


def nan_at(bad: set[int], failure: float = math.nan) -> Reward:
    """Brightness, but NaN (or infinity, which counts as it) for the images of those ordinals."""
    seen = [0]

    def sometimes(images: Tensor, prompts: Sequence[str]) -> Tensor:
        value = images.mean((1, 2, 3))
        for i in range(len(value)):
            if seen[0] in bad:
                value[i] = failure
            seen[0] += 1
        return value

    return Function(sometimes, takes="tensor", differentiable=False)


@pytest.mark.parametrize("failure", [math.nan, math.inf])
def test_nan_never_wins(failure: float, go: Callable[..., Store]) -> None:
    plain = go("plain", reward=nan_at(set()))
    order = sorted(plain.candidates(), key=lambda c: -c.reward)
    store = go("run", reward=nan_at({order[0].index, order[-1].index, 0}, failure))
    best = store.best()
    assert best is not None
    assert best.index == next(c.index for c in order[1:] if c.index != 0)
    assert math.isnan(store.get(order[0].index).reward)
    assert (store.folder / "best.png").read_bytes() == (store.folder / best.image).read_bytes()


def test_all_nan_is_an_error_that_keeps_the_record(go: Callable[..., Store], tmp_path: Path) -> None:
    with pytest.raises(RewardError, match="The reward of every candidate is NaN"):
        go("run", reward=nan_at(set(range(99))))
    store = Store.open(tmp_path / "run")
    assert len(store.candidates()) == 10
    assert store.best() is None
    assert not (tmp_path / "run" / "best.png").exists()


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (lambda images: 1 / 0, "raised ZeroDivisionError: division by zero"),
        (lambda images: torch.zeros(1), r"returned shape \(1,\) for 3 images"),
        (lambda images: torch.zeros(3, 1), r"returned shape \(3, 1\) for 3 images"),
        (lambda images: "good", "returned str 'good' for 3 images: return 3 numbers"),
    ],
)
def test_a_broken_reward_is_one_sentence(
    value: Callable[[Tensor], Any], sentence: str, go: Callable[..., Store], tmp_path: Path
) -> None:
    """The second batch fails; the first is kept, and a mended reward continues to the same end."""
    calls = [0]

    def fragile(images: Tensor, prompts: Sequence[str]) -> Any:
        calls[0] += 1
        return value(images) if calls[0] == 2 else images.mean((1, 2, 3))

    def sound(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return images.mean((1, 2, 3))

    with pytest.raises(RewardError, match=sentence) as told:
        go("run", reward=Function(fragile, takes="tensor", differentiable=False))
    assert "\n" not in str(told.value)
    store = Store.open(tmp_path / "run")
    assert len(store.candidates()) == 3
    assert (store.status, store.stopped) == ("stopped", "error")
    store.close()
    again = engine.resume(tmp_path / "run", reward=Function(sound))
    assert [a[:2] for a in answers(again)] == [a[:2] for a in answers(go("whole", reward=Function(sound)))]


def test_a_small_budget_is_refused_before_anything_is_written(go: Callable[..., Store], tmp_path: Path) -> None:
    with pytest.raises(FairleadError, match=r"nfe=3 does not cover one image\. Use at least nfe=4"):
        go("run", small_spec(budget={"nfe": 3}))
    with pytest.raises(FairleadError, match=r"one group of 3 images\. Use at least nfe=12"):
        go("run", small_spec(budget={"nfe": 11}, group=3))
    assert not (tmp_path / "run").exists()


def test_an_existing_folder_is_refused(go: Callable[..., Store], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    go("run").close()
    with pytest.raises(StoreError, match="exists already"):
        go("run")
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="exists already"):
        go("file")


def test_progress_counts_up(go: Callable[..., Store]) -> None:
    seen: list[Progress] = []
    store = go("run", on_progress=seen.append)
    assert [p.phase for p in seen] == ["loading model"] + ["searching"] * 5 + ["done"]
    assert [p.done for p in seen] == [0, 0, 3, 6, 9, 10, 10]
    assert [p.spent.nfe for p in seen[1:]] == pytest.approx([0, 12, 24, 36, 40, 40])
    assert all(p.expected == 10 for p in seen[1:])
    best = store.best()
    assert best is not None
    assert (seen[-1].best, seen[-1].best_index) == (best.reward, best.index)
    assert seen[-1].baseline == store.get(0).reward
    running = [p.best for p in seen[1:] if p.best is not None]
    assert running == sorted(running)


def test_tasks_fold_from_the_seed() -> None:
    """Candidate 0 of best_of is the plain sample of the seed: the baseline's key by name."""
    spec = small_spec(seed=4)
    local = Local(spec)
    [first] = make_search(spec, local.space).ask(1)
    assert first.key == Key.root(4).fold("search").fold("candidate", 0)
    again = make_search(replace(spec, search=Part("best_of", {"n": 1})), local.space).ask(5)
    assert [p.key for p in again] == [first.key]


def test_a_price_between_two_batches_changes_nothing(tmp_path: Path) -> None:
    """The studio counts prices while a run is computed, on the model that the run uses."""
    spec = small_spec()
    found = []
    with models.shared():
        store = engine.start(spec, tmp_path / "priced", on_progress=lambda now: found.append(price(spec).candidates))
    alone = engine.start(spec, tmp_path / "alone")
    assert len(found) > 3
    assert answers(store) == answers(alone)
    assert store.spent().nfe == alone.spent().nfe


def test_a_finished_run_never_claims_a_budget_that_it_has_not_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads the record while a larger budget is written must not take the run for finished within it."""
    engine.start(small_spec(budget={"nfe": 40}), tmp_path / "run").close()
    seen = []
    extend = Store.extend

    def watched(store: Store, *words: Any) -> None:
        seen.append(store.status.value)
        extend(store, *words)

    monkeypatch.setattr(Store, "extend", watched)
    engine.resume(tmp_path / "run", budget={"nfe": 80}).close()
    assert seen == ["running"]
