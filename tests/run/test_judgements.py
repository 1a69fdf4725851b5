"""Judgements of people in a run's own record, and the ranking that follows from them."""

from __future__ import annotations

import math
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fairlead.core.errors import FairleadError, StoreError
from fairlead.run import engine, judgements
from fairlead.run.held_out import correlation
from fairlead.run.judged import Judged, entrants
from fairlead.run.judgements import Judgement
from fairlead.run.store import Store
from fairlead.testing.runs import answers, small_spec


def judge_pairs(run: Path, who: str, many: int, players: list[int]) -> None:
    """A person who prefers the candidate with the higher number, and to whom neighbours are equal."""
    for _ in range(many):
        every = judgements.of(run)
        turn = judgements.turn_of(every, who)
        pair = Judged(every).next_pair(players, who, turn)
        assert pair is not None
        a, b = pair
        answer = "tie" if abs(a - b) == 1 else str(1 + (a < b))
        judgements.add(run, "pair", pair, answer, who, turn)


def test_the_ranking_agrees_with_the_answers(run: Path) -> None:
    players = list(range(8))
    judge_pairs(run, "Ada", 24, players)
    judged = Judged.of(run)
    assert len(judged.judgements) == 24
    assert correlation([(place.candidate, place.strength) for place in judged.ranking]) > 0.95
    first = judged.ranking[0]
    assert first.candidate in (6, 7)
    assert first.low < first.strength < first.high
    assert first.best_place == 1
    assert sum(place.seen for place in judged.ranking) == 48
    assert {frozenset((p.chosen, p.rejected)) for p in judged.preferences} == {
        frozenset(j.shown) for j in judged.judgements if j.answer != "tie"
    }
    assert all(p.chosen > p.rejected for p in judged.preferences)


def test_no_pair_comes_twice_and_the_last_pair_ends_it(run: Path) -> None:
    judge_pairs(run, "Ada", 6, [0, 1, 2, 3])
    pairs = [frozenset(j.shown) for j in judgements.of(run)]
    assert len(set(pairs)) == 6
    assert Judged.of(run).next_pair([0, 1, 2, 3], "Ada", 6) is None
    assert Judged.of(run).next_pair([0, 1, 2, 3], "Ben", 0) is not None


def test_the_next_pair_follows_from_the_record_and_its_sides_from_lots(run: Path) -> None:
    judge_pairs(run, "Ada", 12, list(range(8)))
    asked = [Judged.of(run).next_pair(range(8), "Ada", 12) for _ in range(3)]
    assert len(set(asked)) == 1
    left_is_lower = [j.shown[0] < j.shown[1] for j in judgements.of(run)]
    assert 2 <= sum(left_is_lower) <= 10


def test_undo_takes_back_ones_own_last_judgement_and_shows_it_again(run: Path) -> None:
    judge_pairs(run, "Ada", 5, list(range(6)))
    judge_pairs(run, "Ben", 1, list(range(6)))
    before = judgements.of(run)
    taken = judgements.undo(run, "Ada", 5)
    assert taken is not None
    assert (taken.kind, taken.answer) == ("undo", "5")
    every = judgements.of(run)
    assert every[:6] == before, "the list is the history"
    assert [j.number for j in judgements.valid(every)] == [1, 2, 3, 4, 6]
    assert Judged(every).next_pair(range(6), "Ada", 6) == before[4].shown
    judgements.undo(run, "Ada", 6)
    assert [j.number for j in judgements.valid(judgements.of(run))] == [1, 2, 3, 6]
    assert Judged.of(run).judges == {"Ada": 3, "Ben": 1}
    for turn in range(7, 10):
        judgements.undo(run, "Ada", turn)
    assert judgements.undo(run, "Ada", 10) is None
    assert [j.who for j in judgements.valid(judgements.of(run))] == ["Ben"]


def test_what_is_sent_twice_counts_once(run: Path) -> None:
    def send(_: int) -> str:
        try:
            judgements.add(run, "pair", (0, 1), "1", "Ada", 0)
        except StoreError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(6) as pool:
        said = list(pool.map(send, range(6)))
    assert said.count("") == 1
    assert sum("Another window has judged as Ada" in sentence for sentence in said) == 5
    assert len(judgements.of(run)) == 1


def test_everybody_judges_at_once(run: Path) -> None:
    def sit(who: str) -> None:
        for turn in range(5):
            judgements.add(run, "pair", (turn, turn + 1), "1", who, turn)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(sit, ["Ada", "Ben", "Cleo", ""]))
    assert [j.number for j in judgements.of(run)] == list(range(1, 21))
    assert Judged.of(run).agreement.alpha == 1.0


def test_agreement_counts_what_several_have_judged(run: Path) -> None:
    judge_pairs(run, "Ada", 8, list(range(6)))
    judge_pairs(run, "Ben", 8, list(range(6)))
    agreement = Judged.of(run).agreement
    assert agreement.pairs >= 2, "every fourth pair is one that somebody else has judged"
    assert agreement.alpha == 1.0
    alone = Judged.of(run, "Ada")
    assert {j.who for j in alone.judgements} == {"Ada"}
    with pytest.raises(FairleadError, match="Ada, Ben"):
        Judged.of(run, "Cleo")


def said(kind: str, shown: tuple[int, ...], answer: str, number: int = 1) -> Judgement:
    return Judgement(number, kind, shown, answer, "", "")


def test_ties_and_both_bad_prefer_none() -> None:
    for answer in ("tie", "both bad"):
        judged = Judged([said("pair", (3, 5), answer)])
        assert judged.preferences == []
        assert [place.strength for place in judged.ranking] == pytest.approx([0.0, 0.0])
        assert [place.bad for place in judged.ranking] == [int(answer == "both bad")] * 2


def test_a_pick_prefers_every_chosen_picture_to_every_other() -> None:
    judged = Judged([said("pick", (4, 2, 7, 1), "1,3")])
    assert {(p.chosen, p.rejected) for p in judged.preferences} == {(4, 2), (4, 1), (7, 2), (7, 1)}
    assert {place.candidate for place in judged.ranking[:2]} == {4, 7}
    one = Judged([said("pair", (4, 2), "1")]).ranking[0]
    assert judged.ranking[0].strength > one.strength
    assert Judged([said("pick", (4, 2, 7, 1), "none")]).preferences == []


def test_who_takes_part() -> None:
    finished = [5, 3, 8, 1, 0]
    assert entrants(finished, 0, 3) == [5, 3, 0], "the baseline beside the best"
    assert entrants(finished, -1, None) == [5, 3, 8, 1, 0, -1]
    assert entrants(finished, 0, 3, among=[8, 1]) == [8, 1]


def test_judgements_change_nothing_else(run: Path) -> None:
    store = Store.open(run)
    before = answers(store)
    store.close()
    judge_pairs(run, "Ada", 3, list(range(4)))
    engine.resume(run, budget={"nfe": 2 * small_spec().budget["nfe"]}).close()
    store = Store.open(run)
    assert answers(store)[: len(before)] == before
    assert len(answers(store)) > len(before)
    store.close()
    assert len(judgements.of(run)) == 3


@pytest.mark.parametrize(
    ("kind", "shown", "answer", "who"),
    [
        ("pair", (0, 999), "1", ""),
        ("pair", (0, 0), "1", ""),
        ("pair", (0, 1, 2), "1", ""),
        ("pair", (0, 1), "3", ""),
        ("pick", (0, 1, 2), "1,4", ""),
        ("pick", (0, 1, 2), "good", ""),
        ("rank", (0, 1), "1", ""),
        ("pair", (0, 1), "1", "x" * 61),
    ],
)
def test_wrong_judgements_are_refused(kind: str, shown: tuple[int, ...], answer: str, who: str, run: Path) -> None:
    with pytest.raises(FairleadError):
        judgements.add(run, kind, shown, answer, who, 0)
    assert judgements.of(run) == []


def test_a_changed_judgement_is_noticed(run: Path) -> None:
    judgements.add(run, "pair", (0, 1), "1", "Ada", 0)
    with sqlite3.connect(run / "run.sqlite") as db:
        db.execute("update judgement set answer='2'")
    with pytest.raises(StoreError, match="damaged"):
        judgements.of(run)


def test_a_run_without_judgements_has_none(run: Path) -> None:
    assert judgements.of(run) == []
    assert Judged.of(run).ranking == []
    assert math.isnan(Judged.of(run).agreement.alpha)
