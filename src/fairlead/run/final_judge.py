"""The final judge of a run as its record tells it: who entered, what was answered, who won. Imports no torch.

A run may name a judge that compares finished pictures two at a time (`Spec.final_judge`). Its answers stand among the
questions of the record, and its cost in a row of its own. Who won follows from the answers. A run that ended without
a judge can be judged afterwards: then the row names the judge.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

from fairlead.core.cost import Cost
from fairlead.core.errors import StoreError
from fairlead.core.people import Question
from fairlead.run import rows
from fairlead.run.claim import DATABASE, connect
from fairlead.run.knockout import FIRST, MOST_LOOKS, SECOND, TIE, Look, Standing, standing
from fairlead.run.part import Part
from fairlead.run.question_store import SCHEMA as QUESTIONS
from fairlead.run.question_store import QuestionStore
from fairlead.run.records import Candidate
from fairlead.run.spec import Spec
from fairlead.run.sqlite_errors import sqlite_errors
from fairlead.run.store import Store, write_atomically

ROW = "final judge"
"""The row among what a run prepared."""
HUMAN = "human"
ANSWERS = {FIRST: "1", SECOND: "2", TIE: "tie"}
VALUES = {(0,): FIRST, (1,): SECOND, (): TIE}


@dataclass(frozen=True)
class Judging:
    """A knockout among recorded candidates, finished or not."""

    judge: str
    """Its name."""
    entrants: tuple[Candidate, ...]
    """The best by reward first."""
    looks: int
    ended: str
    """Why it ended before the winner was found, as a `StopReason`; empty if it did not."""
    cost: Cost
    standing: Standing
    answered: int
    """Looks with an answer, out of those of this knockout."""

    @property
    def winner(self) -> Candidate:
        """The winner, or so far the best by reward of those that have not lost."""
        return self.entrants[self.standing.leader]

    @property
    def finished(self) -> bool:
        """True once nothing is left to ask."""
        return not self.standing.open

    @property
    def flat(self) -> bool:
        """True if no picture was preferred to another one: any of these."""
        met = [pair for pairs in self.standing.rounds for pair in pairs]
        return self.finished and len(met) > 1 and all(pair.tied for pair in met)


def finished_pictures(spec: Spec, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The full pictures with a reward, the best first, the earlier of equals first."""
    full = [c for c in candidates if c.reward == c.reward and c.rung == len(spec.rungs)]
    return sorted(full, key=lambda c: (-c.reward, c.index))


def name_of(candidate: Candidate) -> str:
    """What its picture is called in questions."""
    return Path(candidate.image).stem


def question_of(spec: Spec, look: Look, entrants: Sequence[Candidate]) -> Question:
    """The question of a look. Equal pictures, judge and prompt make it the same one, whatever else the run has."""
    judge = spec.final_judge.name if spec.final_judge is not None else HUMAN
    start = "Once more: which" if look.again else "Which"
    text = f"{start} of the two shows {spec.prompt!r} better?"
    text = text if judge == HUMAN else f"{judge}: {text}"
    return Question("pair", text, (name_of(entrants[look.first]), name_of(entrants[look.second])))


def swapped(spec: Spec, entrants: Sequence[Candidate]) -> Callable[[int, int], bool]:
    """Whether the first look at a pair shows the better by reward second: half the pairs, by seed and pictures."""

    def draw(kept: int, other: int) -> bool:
        names = f"{spec.seed} {name_of(entrants[kept])} {name_of(entrants[other])}"
        return bool(blake2b(names.encode(), digest_size=1).digest()[0] % 2)

    return draw


def answers_of(folder: Path, spec: Spec, entrants: Sequence[Candidate]) -> dict[Look, float]:
    """Every recorded answer about these pictures. Equal pictures are a tie without a question."""
    recorded = {p.question.name: p for p in QuestionStore(folder).questions() if p.answer is not None}
    places = range(len(entrants))
    every = [Look(a, b, again) for a in places for b in places if a != b for again in (False, True)]
    out: dict[Look, float] = {}
    for look in every:
        question = question_of(spec, look, entrants)
        if len(set(question.pictures)) == 1:
            out[look] = TIE
        elif (found := recorded.get(question.name)) is not None and found.answer is not None:
            try:
                out[look] = VALUES[question.read(found.answer)]
            except ValueError as error:
                raise StoreError(f"An answer in {folder} cannot be read ({error}): restore the record.") from None
    return out


def state(folder: Path, spec: Spec, entrants: Sequence[Candidate], looks: int) -> tuple[Standing, int]:
    """The knockout after the recorded answers, and how many of them it used."""
    answers = answers_of(folder, spec, entrants)
    now = standing(len(entrants), looks, answers, swapped(spec, entrants))
    met = {frozenset((pair.kept, pair.other)) for pairs in now.rounds for pair in pairs}
    used = sum(frozenset((look.first, look.second)) in met for look in answers)
    return now, used


def read_judging(store: Store) -> Judging | None:
    """What the record says, None without a final judge, before it has begun, or if candidates were added since."""
    spec = store.spec
    recorded = store.recall_prepared(ROW)
    if recorded is None:
        return None
    data, cost = recorded
    candidates = store.candidates()
    with sqlite_errors(store.folder):
        note = _note(data, {c.index for c in candidates})
    judge = note["judge"] or spec.final_judge
    if note["of"] != len(candidates) or judge is None:
        return None
    spec = replace(spec, final_judge=judge)
    by_index = {c.index: c for c in candidates}
    entrants = tuple(by_index[i] for i in note["entrants"])
    now, used = state(store.folder, spec, entrants, note["looks"])
    return Judging(judge.name, entrants, note["looks"], note["ended"], cost, now, used)


def _note(data: bytes, known: set[int]) -> dict[str, Any]:
    """The row's data with every value checked; a stored run may come from somebody else."""
    try:
        note = json.loads(data)
        entrants = [int(i) for i in note["entrants"]]
        right = set(entrants) <= known and len(set(entrants)) == len(entrants) > 0
        right = right and note["looks"] in range(1, MOST_LOOKS + 1) and isinstance(note["of"], int)
        right = right and isinstance(note["ended"], str) and _is_part(note.get("judge"))
    except (ValueError, TypeError, KeyError, RecursionError):
        right = False
    if not right:
        raise rows.BadRow(f"the final judge's row is {data!r:.60}")
    judge = note.get("judge")
    return {**note, "entrants": entrants, "judge": None if judge is None else Part(judge["name"], judge["settings"])}


def _is_part(value: Any) -> bool:
    """True for nothing, and for a name with settings."""
    if value is None:
        return True
    named = isinstance(value, dict) and set(value) == {"name", "settings"}
    return named and isinstance(value["name"], str) and isinstance(value["settings"], dict)


def judged_by(store: Store) -> Part | None:
    """Whose answers the record has, if anybody's."""
    recorded = store.recall_prepared(ROW)
    if recorded is None:
        return None
    with sqlite_errors(store.folder):
        note = _note(recorded[0], {c.index for c in store.candidates()})
    judge: Part | None = note["judge"]
    return judge or store.spec.final_judge


def winner(store: Store) -> Candidate | None:
    """Whom the final judge chose, or the candidate with the best reward where there is no such choice."""
    judging = read_judging(store)
    return store.best() if judging is None else judging.winner


def spent(store: Store) -> Cost:
    """What the final judge has cost so far."""
    recorded = store.recall_prepared(ROW)
    return Cost() if recorded is None else recorded[1]


def record(
    store: Store,
    entrants: Sequence[Candidate],
    looks: int,
    cost: Cost,
    answers: Mapping[Question, float] | None = None,
    ended: str = "",
    judge: Part | None = None,
) -> None:
    """Write who entered, all that was spent, and new answers, in one transaction.

    `judge` is the judge of a run that was judged afterwards.
    """
    of = len(store.candidates())
    facts = {"entrants": [c.index for c in entrants], "looks": looks, "of": of, "ended": ended}
    note = json.dumps(facts | ({} if judge is None else {"judge": vars(judge)})).encode()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    spent_so_far = json.dumps(cost.as_dict())
    with sqlite_errors(store.folder), closing(connect(store.folder / DATABASE)) as db, db:
        try:
            db.execute(QUESTIONS)
            for question, value in (answers or {}).items():
                pictures = json.dumps(question.pictures)
                values = (question.name, question.kind, question.text, pictures, now, ANSWERS[value], now)
                db.execute("insert or replace into question values(?,?,?,?,?,?,?)", values)
            db.execute("insert or replace into prepared values(?,?,?,null)", (ROW, note, spent_so_far))
            rows.seal(db, "prepared", "name=?", [ROW])
        except sqlite3.Error as error:
            raise StoreError(f"{store.folder} cannot be written ({error}). Check its permissions.") from error


def write_pictures(store: Store) -> None:
    """The winner and the plain sample as files beside the record, unless they are there."""
    for name, candidate in (("best", winner(store)), ("baseline", store.baseline())):
        if candidate is not None:
            path, data = store.folder / f"{name}.png", store.image(Path(candidate.image).stem)
            if not path.is_file() or path.read_bytes() != data:
                write_atomically(path, data)
