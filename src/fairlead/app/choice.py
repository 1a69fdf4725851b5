"""How the winner was chosen, in words: by a final judge, and whether there was anything to choose. Imports no torch."""

from __future__ import annotations

from fairlead.app.words import number, reason
from fairlead.run.view import View

LEAST_CORRELATION = 0.2
"""Below it the drafts of a prompt say nothing about its finished pictures."""


def sentence(view: View) -> str:
    """What the final judge did; empty for a run without one, or before it has begun."""
    judging = view.judging
    if judging is None:
        return ""
    judge = judging.judge
    many = len(judging.entrants)
    asked = judging.answered
    questions = "1 question" if asked == 1 else f"{asked} questions"
    if many == 1:
        return f"{judge} was not asked: only one picture could enter"
    if judging.flat:
        return f"{judge} preferred none of the best {many} to another in {questions}: any of these"
    winner = judging.winner
    if not judging.finished:
        why = reason(judging.ended) if judging.ended else "the rest is not answered yet"
        return f"{judge} answered {questions} about the best {many}; candidate {winner.index} leads, and {why}"
    if winner.index == judging.entrants[0].index:
        return f"{judge} confirmed the best reward among the best {many} in {questions}"
    first = judging.entrants[0]
    place = [c.index for c in judging.entrants].index(winner.index) + 1
    return (
        f"{judge} chose candidate {winner.index}, number {place} of {many} by reward, over candidate {first.index} "
        f"({number(first.reward)}) in {questions}"
    )


def flat(view: View) -> str:
    """A sentence if any finished picture is as good as another, as far as the run can tell; empty otherwise."""
    if view.spread == 0:
        return f"Flat: any of these. All {len(view.finished)} finished pictures have the same reward."
    measured = [rung for rung in view.rungs if rung.correlation is not None and rung.interval is not None]
    if measured and (last := measured[-1]).correlation is not None and last.correlation < LEAST_CORRELATION:
        return (
            f"Flat: any of these. On this prompt the drafts of {last.name} say nothing about the finished pictures "
            f"(correlation {last.correlation:.2f})."
        )
    return ""
