"""A run that starts from a picture of another run: its first point, its keys, and the picture itself.

The point is copied into the new record, so that the new run is resumed and replayed without the other one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fairlead.core.cost import Cost
from fairlead.core.errors import StoreError
from fairlead.core.reward import HumanReward, Reward
from fairlead.core.search import Proposal
from fairlead.run import fingerprint
from fairlead.run.clock import Clock, silent
from fairlead.run.executor import Local
from fairlead.run.live_objects import check_present
from fairlead.run.part import Part
from fairlead.run.records import BASELINE, Outcome, Task
from fairlead.run.search_loop import SearchLoop
from fairlead.run.setup import make_search
from fairlead.run.spec import Spec
from fairlead.run.start import first_key
from fairlead.run.store import Store

POINT = "start"
"""Under which name a record holds the first point."""


@dataclass(frozen=True)
class Beginning:
    """What a run takes from its parent."""

    point: Tensor
    """[d]"""
    outcome: Outcome | None
    """The parent's answer, where it is the answer to the new run's first question too; else it is drawn again."""


def recorded(store: Store) -> Tensor | None:
    """The first point [d] of a run that has a parent."""
    if store.spec.parent is None:
        return None
    kept = store.recall_prepared(POINT)
    if kept is None:
        raise StoreError(f"{store.folder} has lost the point it started from: restore the record.")
    try:
        point: Tensor = load(kept[0])[POINT]
    except (SafetensorError, ValueError, KeyError) as error:
        raise StoreError(f"The point that {store.folder} started from cannot be read ({error!s:.80}).") from error
    return point


def beginning(executor: Local, spec: Spec, folder: Path, reward: Reward | None) -> Beginning:
    """The point of the parent, found by replaying its search; from now on the executor's space starts there."""
    assert spec.parent is not None
    store = Store.open(folder)
    try:
        candidate = store.get(spec.parent.candidate)
        if store.spec.id() != spec.parent.run or Path(candidate.image).stem != spec.parent.picture:
            raise StoreError(f"{folder} has changed since its candidate was chosen. Start again.")
        parent = store.spec
        check_present(parent, reward, executor.setup.model, folder, "pass that object again as {}=")
        fingerprint.check(parent, store.versions, "its noise would make another picture")
        other = Local(parent, reward=reward, model=executor.setup.model)
        point = recorded(store)
        if point is not None:
            other.start_at(point)
        loop = SearchLoop(parent, other, Clock(parent, silent))
        found = loop.questions(store, [candidate.index])[0].get(candidate.index)
        if found is None:
            raise StoreError(f"The settings in {folder} do not lead to candidate {candidate.index}: restore it.")
        executor.start_at(found.proposal.x)
        answer = None
        if _same_question(executor, spec, parent, candidate.index) and candidate.rung == len(parent.rungs):
            image = store.image(spec.parent.picture)
            answer = Outcome(0, candidate.reward, candidate.terms, Cost(), image)
        return Beginning(found.proposal.x, answer)
    finally:
        store.close()


def _same_question(executor: Local, spec: Spec, parent: Spec, index: int) -> bool:
    """True if the parent's picture and reward answer the new run's first question."""
    neutral = {
        "budget": {},
        "search": Part("best_of"),
        "baseline": True,
        "final_judge": None,
        "until": "",
        "stop": "",
        "seed": 0,
        "parent": None,
        "draft": None,
        "finals": 1,
        "exact": False,
        "entrants": 8,
        "looks": 0,
        "batch": 1,
    }
    same = replace(spec, **neutral) == replace(parent, **neutral)  # type: ignore[arg-type]
    asks = any(isinstance(leaf, HumanReward) for leaf in executor.worker.reward.leaves())
    alone = not (executor.setup.couples or executor.setup.wants_gradient or executor.reward.relative or asks)
    return same and alone and not spec.rungs and index != BASELINE


def record(store: Store, spec: Spec, start: Beginning, executor: Local) -> None:
    """Write the point, and the parent's picture as candidate 0 where it answers the first question."""
    store.record_prepared(POINT, save({POINT: start.point.contiguous()}), Cost())
    if start.outcome is None:
        return
    first = make_search(spec, executor.space).ask(1)
    key = first_key(spec)
    if len(first) != 1 or first[0].key != key or not torch.equal(first[0].x, start.point):
        return
    question = Proposal(start.point, key, spec.efforts[0])
    store.record(Task((0,), (question,), (0,), Cost()), [start.outcome], Cost())
