"""Many runs as one set: batches are shared, and nothing else about a run changes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fairlead.core.errors import FairleadError, StoreError
from fairlead.run import engine, models, png, run_set, shared_batches, store, together
from fairlead.run.options import RunOptions
from fairlead.run.records import RunStatus
from fairlead.run.run_set import Changes, Lent
from fairlead.run.set_file import NAME, SetFile
from fairlead.run.spec import Spec
from fairlead.run.store import Store

PROMPTS = ("a photo of a red apple", "a photo of a dog", "a photo of two blue cars")


def specs(prompts: Sequence[str] = PROMPTS, nfe: int = 8, **words: object) -> list[Spec]:
    options: dict[str, object] = {"model": "pocket-turbo", "reward": "brightness", "batch": 4, **words}
    return [models.spec_of(RunOptions(p, budget={"nfe": nfe}, **options)) for p in prompts]  # type: ignore[arg-type]


def made(folder: Path, chosen: Sequence[Spec], exact: bool = False, **words: object) -> list[Path]:
    SetFile.create(folder, chosen, exact)
    run_set.run_set(folder, **words)  # type: ignore[arg-type]
    return places(folder)


def places(folder: Path) -> list[Path]:
    return [folder / entry.folder for entry in SetFile.read(folder).entries]


def contents(folder: Path) -> list[tuple[object, ...]]:
    """What must not depend on how a set came to its end."""
    with contextlib.closing(Store.open(folder)) as kept:
        found = [(c.index, c.reward, dict(c.terms), c.image, c.task) for c in kept.candidates()]
        among = [kept.companions_of(c.index) for c in kept.candidates()]
        return [*found, *among, kept.status, kept.stopped, replace(kept.spent(), seconds=0.0)]


def pixels(folder: Path, index: int) -> np.ndarray:
    with contextlib.closing(Store.open(folder)) as kept:
        image = kept.get(index).image
    return png.read((folder / image).read_bytes())[0].astype(int)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "whole"
    made(folder, specs())
    return folder


def test_batches_are_filled_across_prompts(whole: Path) -> None:
    first, second, third = places(whole)
    found = []
    for folder in (first, second, third):
        with contextlib.closing(Store.open(folder)) as kept:
            assert kept.count() == 2
            assert kept.spent().nfe == 8
            found.append(kept.companions_of(0))
    runs = ((first.name, (0, 1)), (second.name, (0, 1)))
    assert [(c.before, c.rows, c.runs) if c else None for c in found] == [(0, 4, runs), (2, 4, runs), None]


def test_a_piece_of_a_shared_batch_is_replayed_bit_for_bit(whole: Path) -> None:
    for folder in places(whole):
        for index in (0, 1):
            again = engine.replay(folder, index)
            assert again.identical, again.message


def test_a_replay_fills_the_places_of_the_others(monkeypatch: pytest.MonkeyPatch, whole: Path) -> None:
    sizes = []
    real = shared_batches.padded

    def seen(task: object) -> object:
        out = real(task)  # type: ignore[arg-type]
        sizes.append((len(out.indices), out.indices))
        return out

    monkeypatch.setattr("fairlead.run.worker.padded", seen)
    engine.replay(places(whole)[1], 1)
    assert sizes == [(4, (0, 1, 0, 1))]


@pytest.mark.parametrize("killed_at", [1, 2, 3])
def test_a_set_that_was_killed_is_resumed_bit_for_bit(
    killed_at: int, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the n-th piece is recorded: also between two pieces of one batch."""

    class Killed(BaseException):
        pass

    real = Store.record
    pieces = []

    def record(self: Store, *words: object) -> None:
        pieces.append(words)
        if len(pieces) == killed_at:
            raise Killed
        real(self, *words)  # type: ignore[arg-type]

    monkeypatch.setattr(store.Store, "record", record)
    with pytest.raises(Killed):
        made(tmp_path / "set", specs())
    monkeypatch.undo()
    run_set.run_set(tmp_path / "set")
    for place, other in zip(places(whole), places(tmp_path / "set"), strict=True):
        assert contents(place) == contents(other)


@pytest.mark.parametrize("after", [0, 1])
def test_a_set_that_was_stopped_is_resumed_bit_for_bit(after: int, whole: Path, tmp_path: Path) -> None:
    asked = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > after + 1

    made(tmp_path / "set", specs(), stop=stop)
    states = [Store.open(p).status for p in places(tmp_path / "set")]
    assert states.count(RunStatus.STOPPED) == 3 - 2 * after
    run_set.run_set(tmp_path / "set")
    for place, other in zip(places(whole), places(tmp_path / "set"), strict=True):
        assert contents(place) == contents(other)


def test_neighbours_change_rounding_only(whole: Path, tmp_path: Path) -> None:
    alone = engine.start(specs()[1], tmp_path / "alone").folder
    for index in (0, 1):
        gap = np.abs(pixels(places(whole)[1], index) - pixels(alone, index))
        assert gap.mean() < 1


def test_exact_makes_every_run_equal_to_the_run_alone(tmp_path: Path) -> None:
    found = made(tmp_path / "set", specs(), exact=True)
    alone = engine.start(specs()[1], tmp_path / "alone").folder
    assert contents(found[1]) == contents(alone)


def test_a_larger_budget_continues_every_run(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    made(folder, specs())
    run_set.run_set(folder, changes=Changes(budget={"nfe": 12}))
    for place in places(folder):
        with contextlib.closing(Store.open(place)) as kept:
            assert kept.count() == 3
            assert kept.spent().nfe == 12
        assert engine.replay(place, 2).identical


def test_a_clock_that_may_cut_one_run_keeps_its_batches_apart(tmp_path: Path) -> None:
    limited = [replace(spec, budget={"nfe": 8, "seconds": 1e6}) for spec in specs(PROMPTS[:2])]
    for place in made(tmp_path / "set", limited):
        with contextlib.closing(Store.open(place)) as kept:
            assert all(kept.companions_of(c.index) is None for c in kept.candidates())


def test_drafts_share_batches_of_one_effort(tmp_path: Path) -> None:
    found = made(tmp_path / "set", specs(PROMPTS[:2], nfe=16, model="pocket", steps=6, draft=2, finals=1))
    shared = 0
    for place in found:
        with contextlib.closing(Store.open(place)) as kept:
            last = kept.candidates()[-1]
            assert last.rung == 1
            shared += sum(kept.companions_of(c.index) is not None for c in kept.candidates())
        assert engine.replay(place, last.index).identical
    assert shared == 6


def test_a_finished_block_is_not_opened_again(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "serve", None)
    run_set.run_set(whole)


def test_models_and_rewards_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    real: Callable[..., object] = models._load
    monkeypatch.setattr(models, "_load", lambda *words: loaded.append(words) or real(*words))
    made(tmp_path / "set", specs())
    assert len(loaded) == 1


def test_a_failing_reward_ends_the_set_and_keeps_what_was_recorded(tmp_path: Path) -> None:
    from fairlead.core.function import Function

    calls = []

    def broken(images: object, prompts: Sequence[str]) -> list[float]:
        calls.append(tuple(prompts))
        if len(calls) > 1:
            raise ValueError("the scorer is gone")
        return [1.0 * i for i in range(len(prompts))]

    with pytest.raises(FairleadError, match="the scorer is gone"):
        made(tmp_path / "set", specs(), lent=Lent(reward=Function(broken, takes="tensor", differentiable=False)))
    assert calls[0] == (PROMPTS[0], PROMPTS[0], PROMPTS[1], PROMPTS[1])
    counts = [Store.open(p).count() for p in places(tmp_path / "set")]
    assert counts == [2, 2, 0]


def test_a_run_without_a_reward_does_not_end_the_others(tmp_path: Path) -> None:
    from fairlead.core.function import Function

    def some(images: object, prompts: Sequence[str]) -> list[float]:
        return [float("nan") if prompt == PROMPTS[0] else 1.0 for prompt in prompts]

    with pytest.raises(FairleadError, match=r"1 of 3 runs .* NaN"):
        made(tmp_path / "set", specs(), lent=Lent(reward=Function(some, takes="tensor", differentiable=False)))
    assert [Store.open(p).count() for p in places(tmp_path / "set")] == [2, 2, 2]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("nothing", "cannot be read"),
        (json.dumps({"fairlead set": 9, "exact": False}), "newer fairlead"),
        (json.dumps({"fairlead set": 1}), "cannot be read"),
    ],
)
def test_a_damaged_list_is_one_sentence(line: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(line + "\n")
    with pytest.raises(StoreError, match=sentence):
        SetFile.read(tmp_path)


def test_a_list_names_no_folder_outside_its_own(tmp_path: Path) -> None:
    SetFile.create(tmp_path / "set", specs(PROMPTS[:1]))
    path = tmp_path / "set" / NAME
    path.write_text(path.read_text().replace("001-", "../001-"))
    with pytest.raises(StoreError, match="not the name of a folder"):
        SetFile.read(tmp_path / "set")
