"""Judgements about pictures of several runs: each record keeps what concerns it, and the union is the ranking."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fairlead.core.errors import FairleadError, StoreError
from fairlead.run import engine, judged_across, judgements
from fairlead.run.judged_across import JudgedAcross, Row
from fairlead.run.spec import make_spec
from fairlead.testing.runs import small_spec


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("across")
    folders = [root / name for name in ("a", "b", "c")]
    for seed, folder in enumerate(folders):
        engine.start(small_spec(seed=seed, budget={"nfe": 16.0}), folder).close()
    return folders


@pytest.fixture
def runs(three: list[Path], tmp_path: Path) -> list[Path]:
    return [Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in three]


def winners(runs: list[Path]) -> dict[str, str]:
    """The digest of the best picture of each run."""
    return {name: Path(view.finished[0].image).stem for name, view in JudgedAcross(runs).views.items()}


def say(runs: list[Path], left: str, right: str, answer: str, who: str = "Ada") -> None:
    best = winners(runs)
    judged_across.add(runs, [best[left], best[right]], answer, who, JudgedAcross(runs).turn_of(who))


def ranked(runs: list[Path]) -> list[str]:
    now = JudgedAcross(runs)
    return [now.pictures[place.candidate].run for place in now.judged().ranking]


def kept(folder: Path) -> list[set[str]]:
    """The runs that the rows of a record are about."""
    return [{picture.run for picture in row.pictures} for row in judged_across.of(folder)]


def test_each_record_keeps_what_concerns_it_and_the_ranking_is_made_again(runs: list[Path]) -> None:
    for left, right, answer in (("a", "b", "2"), ("c", "b", "2"), ("a", "c", "1")):
        say(runs, left, right, answer)
    a, b, c = runs
    assert ranked(runs) == ["b", "a", "c"]
    assert kept(a) == [{"a", "b"}, {"a", "c"}]
    assert kept(b) == [{"a", "b"}, {"b", "c"}]
    assert ranked([a, b]) == ["b", "a"], "of two of them, what was said about these two"
    assert len(JudgedAcross([c, b]).judgements) == 1
    assert judgements.of(a) == [], "the ranking of one run is its own"
    whole = [JudgedAcross(order).judged().judgements for order in (runs, [c, a, b])]
    assert [j.at for j in whole[0]] == [j.at for j in whole[1]], "the order of the runs says nothing"


def test_a_row_that_only_one_record_holds_counts_once(runs: list[Path]) -> None:
    """The process died between the two writes, also while it took something back."""
    say(runs, "a", "b", "1")
    say(runs, "c", "b", "1")
    for folder, name in ((runs[1], "a"), (runs[2], "b")):
        with closing(sqlite3.connect(folder / "run.sqlite")) as db, db:
            db.execute("delete from judgement_across where pictures like ?", (f'%"{name}"%',))
    assert len(JudgedAcross(runs).judged().judgements) == 2
    assert judged_across.undo(runs, "Ada", 2)
    with closing(sqlite3.connect(runs[1] / "run.sqlite")) as db, db:
        db.execute("delete from judgement_across where answer like 'undo%'")
    assert [j.answer for j in JudgedAcross(runs).judged().judgements] == ["1"]
    assert judged_across.undo(runs, "Ada", 3)
    assert not judged_across.undo(runs, "Ada", 4), "nothing is left to take back"
    assert ranked(runs) == []


def test_an_answer_that_is_sent_twice_counts_once(runs: list[Path]) -> None:
    best = winners(runs)
    judged_across.add(runs, [best["a"], best["b"]], "1", "Ada", 0)
    with pytest.raises(StoreError, match="Another window has judged as Ada"):
        judged_across.add(runs, [best["a"], best["b"]], "1", "Ada", 0)
    assert len(JudgedAcross(runs).rows) == 1
    with pytest.raises(FairleadError, match="left"):
        judged_across.add(runs, [best["a"], best["b"]], "left", "Ada", 1)
    own = [Path(c.image).stem for c in JudgedAcross(runs).views["a"].finished[:2]]
    for shown in (own, [best["a"], "0" * 32], [best["a"]]):
        with pytest.raises(StoreError, match="not two of different runs"):
            judged_across.add(runs, shown, "1", "Ada", 1)


def test_every_pair_of_different_runs_is_shown_once(runs: list[Path]) -> None:
    now = JudgedAcross(runs)
    playing = now.entrants(2)
    assert len(playing) == 6
    seen = []
    while (pair := JudgedAcross(runs).judged().next_pair(playing, "Ada", len(seen), "s", now.are_apart)) is not None:
        judged_across.add(runs, [now.pictures[n].image for n in pair], "tie", "Ada", len(seen))
        seen.append(frozenset(pair))
    assert len(seen) == len(set(seen)) == 12, "of 15 pairs, three are of one run"


def test_runs_that_found_the_same_picture(runs: list[Path]) -> None:
    """It takes part once: a copy of a run is no rival of it."""
    copy = Path(shutil.copytree(runs[0], runs[0].parent / "copy"))
    assert len(JudgedAcross([runs[0], copy, runs[1]]).entrants(1)) == 2
    assert len(JudgedAcross([runs[0], copy]).entrants(1)) == 1


def test_what_cannot_be_judged_together(runs: list[Path], tmp_path: Path) -> None:
    engine.start(make_spec("another prompt", model="mixture", budget={"nfe": 8.0}, steps=4), tmp_path / "other").close()
    with pytest.raises(FairleadError, match="2 prompts"):
        JudgedAcross([*runs, tmp_path / "other"])
    with pytest.raises(FairleadError, match="must be 2 to 64"):
        JudgedAcross([runs[0], runs[0]])


def test_a_row_that_somebody_changed_is_refused(runs: list[Path]) -> None:
    say(runs, "a", "b", "1")
    with closing(sqlite3.connect(runs[0] / "run.sqlite")) as db, db:
        db.execute("update judgement_across set answer='2'")
    with pytest.raises(StoreError, match="does not have its checksum"):
        judged_across.of(runs[0])
    assert isinstance(judged_across.of(runs[1])[0], Row)
