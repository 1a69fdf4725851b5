"""A search that says whom a proposal was drawn from tells the truth."""

from __future__ import annotations

import pytest

from fairlead.core.key import Key
from fairlead.core.search import Feedback, Proposal
from fairlead.run import engine
from fairlead.run.setup import make_search
from fairlead.testing.runs import small_spec


def cosine(a: Proposal, b: Proposal) -> float:
    return float(a.x.double() @ b.x.double() / (a.x.double().norm() * b.x.double().norm()))


@pytest.mark.parametrize("piece", [1, 3, 100])
@pytest.mark.parametrize("name", ["zero_order", "evolution", "first_order"])
def test_a_proposal_is_nearest_to_its_origin(name: str, piece: int) -> None:
    spec = small_spec(search=name)
    space = engine.Local(spec).space
    search = make_search(spec, space)
    made: list[Proposal] = []
    goal = space.draw(Key.root(99))
    while len(made) < 60:
        asked = search.ask(piece)
        made += asked
        search.tell([Feedback(p, float(p.x @ goal), {}, goal) for p in asked])
    drawn = [(p, p.origin) for p in made if p.origin is not None]
    assert len(drawn) > 25
    for place, p in enumerate(made):
        if p.origin is None:
            continue
        assert p.origin < place
        near = cosine(p, made[p.origin])
        least = {"zero_order": 0.949, "evolution": 0.9, "first_order": 0.9}[name]
        assert near > least, f"proposal {place} has the cosine {near} with its origin {p.origin}"
