"""A steering that learns from drafts receives those of the first rung as its bank, once, before the last rung."""

from __future__ import annotations

import torch

from fairlead.core.cost import Cost
from fairlead.core.steering import Chain
from fairlead.run import machine, prepared
from fairlead.run.states import States
from fairlead.run.store import Store

NAME = "steering from drafts"
"""Among what a run prepared."""


def with_bank(store: Store, steering: Chain) -> Chain:
    """The steering for finished pictures; unchanged where it does not learn from drafts.

    The bank is recorded when the first picture is finished, and stays what it is under a larger budget.
    """
    if not steering.learns_from_drafts:
        return steering
    kept = store.recall_prepared(NAME)
    if kept is None:
        drafts = [c for c in store.candidates() if c.rung == 0]
        states = States(store.folder)
        bank = torch.stack([states.get(c.index)[0] for c in drafts])
        ready = steering.with_bank(bank, torch.tensor([c.reward for c in drafts]))
        data = prepared.dump(ready, steering)
        store.record_prepared(NAME, data, Cost())
    else:
        data = kept[0]
    return prepared.restore(steering, data, machine.device())
