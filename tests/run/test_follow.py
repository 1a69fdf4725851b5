"""A record that is read while it grows: after any interruption everything arrives, in order and once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fairlead.run import engine, marks
from fairlead.run.follow import Follower, Position, as_number, is_held
from fairlead.run.store import Store
from fairlead.testing.runs import after, small_spec


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("follow") / "run"
    engine.start(small_spec(), folder).close()
    return folder


@pytest.mark.parametrize(
    "position", [Position(), Position(0, 0, "ab"), Position(12, 3, "01234567"), Position(-1, 4, "")]
)
def test_a_position_is_read_back(position: Position) -> None:
    assert Position.parse(str(position)) == position


@pytest.mark.parametrize("text", ["", "x", "1", "1-2", "1-2-3-4", "../../etc", "9" * 5000, "1-x-2"])
def test_what_is_no_position_is_the_start(text: str) -> None:
    assert Position.parse(text) == Position()


def test_the_parts_after_every_batch_make_the_whole(run: Path) -> None:
    follower = Follower(run)
    every = follower.candidates(-1)
    last = follower.position().task
    assert last >= 2
    for cut in range(-1, last + 1):
        first = [c for c in every if c.task <= cut]
        assert first + follower.candidates(cut) == every
    follower.close()


def test_it_sees_what_another_process_writes(run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    follower = Follower(folder)
    assert follower.changed()
    assert not follower.changed()
    before = follower.position()
    marks.add(folder, 0, "star", "1")
    assert follower.changed()
    assert follower.position().mark == before.mark + 1
    assert [mark.candidate for mark in follower.marks(before.mark)] == [0]
    follower.close()


def test_a_reward_that_changes_later_is_noticed(run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    follower = Follower(folder)
    at = follower.position()
    assert follower.same_rewards(at)
    store = Store.open(folder)
    store.set_rewards({0: 17.0}, {})
    store.close()
    assert not follower.same_rewards(at)
    follower.close()


def test_a_record_that_was_moved_is_gone(run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    follower = Follower(folder)
    assert not follower.is_gone()
    folder.rename(tmp_path / "elsewhere")
    assert follower.is_gone()
    follower.close()


def test_only_pictures_of_the_record(run: Path) -> None:
    follower = Follower(run)
    digest = Path(follower.candidates(-1)[0].image).stem
    assert follower.has_picture(digest)
    for name in ("0" * 32, "../run", digest[:-1], f"{digest}.png", "%"):
        assert not follower.has_picture(name)
    follower.close()


def test_held_while_it_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    seen: list[bool] = []
    stop = after(2)

    def asked() -> bool:
        seen.append(is_held(folder))
        return stop()

    engine.start(small_spec(), folder, stop=asked).close()
    assert seen
    assert all(seen)
    assert not is_held(folder)
    assert not is_held(tmp_path / "nothing")


def test_numbers_that_json_does_not_have() -> None:
    found = [as_number(value) for value in (1.5, float("nan"), float("inf"), float("-inf"))]
    assert found == [1.5, None, "Infinity", "-Infinity"]
