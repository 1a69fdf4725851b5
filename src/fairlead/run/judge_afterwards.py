"""Let a judge choose among the finished pictures of a run that has ended. Loads no model and renders nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fairlead.core.check import whole_number
from fairlead.core.cost import Cost, Ledger
from fairlead.core.errors import FairleadError
from fairlead.core.reward import PaidReward
from fairlead.run import final_judge
from fairlead.run.final_judge import Judging
from fairlead.run.judging import FinalJudging
from fairlead.run.knockout import MOST_LOOKS
from fairlead.run.part import Part
from fairlead.run.question_store import Person, QuestionStore
from fairlead.run.records import RunStatus
from fairlead.run.rewards import build_final_judge
from fairlead.run.spec import MOST
from fairlead.run.store import Store


def judge_afterwards(
    folder: Path,
    judge: Part,
    *,
    entrants: int = 8,
    looks: int = 0,
    budget: Mapping[str, float] | None = None,
    person: Person | None = None,
) -> Judging:
    """The knockout of the best finished pictures, recorded as that of a run's own final judge.

    Answers that the record has are not asked again. `budget` limits questions, dollars and seconds of this judging;
    the run's own budget does not count. Where `judge` is a person, `person` asks; without it the first question is
    recorded and `Pending` is raised.
    """
    whole_number("entrants", entrants, 2, MOST["entrants"])
    whole_number("looks", looks, 0, MOST_LOOKS)
    store = Store.open(folder)
    with store.lock():
        spec = store.spec
        if store.status != RunStatus.FINISHED:
            raise FairleadError(f"The run in {folder} has not ended. Resume it, then judge it.")
        pictures = final_judge.finished_pictures(spec, store.candidates())
        if len(pictures) < 2:
            raise FairleadError(
                f"The run in {folder} has {len(pictures)} finished pictures with a reward: a judge needs two. "
                "Resume it with a larger --budget."
            )
        before = final_judge.judged_by(store)
        if before is not None and before.name == judge.name and before != judge:
            raise FairleadError(
                f"The run in {folder} has answers of {judge.name} with other settings, which would be mixed with new "
                "ones. Use the same settings, or judge a copy of the run."
            )
        asked = replace(spec, final_judge=judge, entrants=entrants, looks=looks)
        made = build_final_judge(asked)
        assert made is not None
        if isinstance(made, PaidReward):
            made.ready()
        ledger = Ledger(Cost.budget(budget or {}) + final_judge.spent(store))
        ledger.settle(Cost(), final_judge.spent(store))
        FinalJudging(asked, made, ledger, store).choose(pictures, QuestionStore(store.folder, person).ask)
        final_judge.write_pictures(store)
        found = final_judge.read_judging(store)
    store.close()
    assert found is not None
    return found
