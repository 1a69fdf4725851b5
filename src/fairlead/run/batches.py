"""How questions are put together into batches. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from fairlead.run.records import IndexedProposal
from fairlead.run.spec import Spec


def batches(spec: Spec, asked: Sequence[IndexedProposal]) -> list[list[IndexedProposal]]:
    """Batches in ask order; a batch has one effort and never cuts a group."""
    out: list[list[IndexedProposal]] = []
    for a in asked:
        last = out[-1][-1] if out else None
        other = last is not None and last.proposal.steps != a.proposal.steps
        if last is not None and last.group == a.group:
            if other:
                both = f"{last.proposal.steps or spec.steps} and {a.proposal.steps or spec.steps}"
                raise RuntimeError(f"{spec.search.name} asked for {both} steps in one group: it has one effort")
        elif last is None or other or len(out[-1]) >= spec.batch:
            out.append([])
        out[-1].append(a)
    return out


def asked_at_once(spec: Spec, affordable: int, most: int) -> int:
    """How many candidates a search is asked for: whole groups, and whole batches where another round follows."""
    n = affordable - affordable % spec.group
    return n - n % spec.batch if most <= affordable and n > spec.batch else n
