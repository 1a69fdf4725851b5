"""What a reward's number means in a run, what to try next, and which commands do it. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice

from fairlead.app.words import budget_text, command, count, number, run_command, shown
from fairlead.core.cost import Cost
from fairlead.run import held_out
from fairlead.run.records import RunStatus, StopReason
from fairlead.run.spec import Part, Spec, parse_reward, reward_text
from fairlead.run.view import View

CLIMBS = "zero_order"
"""The search that is proposed after independent draws."""
LATE = 0.8
"""Share of the candidates after which a new best one says that more are worth their price."""
SECOND = ("aesthetic", "clip_score")
"""Rewards of the package that may be watched, the first that is not optimised already."""


def meaning(view: View) -> list[str]:
    """How to read the reward of this run."""
    found = [f"{reward_text(view.spec.reward)}: {view.unit}.{_which_way(view)}"]
    found += [f"{name}: {unit}." for name, unit in view.units.items() if name and unit != view.units.get("")]
    spread = view.spread
    if spread and math.isfinite(view.gain) and view.gain > 0:
        found.append(
            f"The rewards of this run's pictures have a standard deviation of {number(spread)}, so the gain of "
            f"{number(view.gain)} is {count(round(view.gain / spread, 1))} of them."
        )
    many = len(view.finished)
    if many > 1:
        found.append(
            f"The winner was chosen by this number among {count(many)} pictures, which raises the number of the winner "
            "even where the pictures are no better. A reward that was only watched tells how much of it is real."
        )
    return found


def _which_way(view: View) -> str:
    return " Higher is better." if view.units.get("") else ""


def next_steps(view: View) -> list[tuple[str, str]]:
    """What is worth trying, each with its reason and its command, the most useful first."""
    folder = shown(view.folder)
    steps: list[tuple[str, str | None]] = []
    if view.stopped == StopReason.WAITING:
        steps.append(("it waits for your answer", command("answer", folder)))
    if not view.best:
        return [(why, line) for why, line in steps if line]
    spec = view.spec
    if held_out.hacked(view) and not spec.watch:
        steps.append(("people prefer the baseline: choose by what they said", command("keep", folder, 1, "--judged")))
    elif held_out.hacked(view):
        watched = reward_text(spec.watch[0])
        steps.append((f"the gain may not be real: optimise {watched} too", _with_reward(view, watched)))
    if (late := _found_late(view)) is not None:
        if late:
            why = "the best picture was found near the end: more may be better still"
            steps.append((why, command("resume", folder, "--budget", larger_budget(spec, view.spent))))
        elif spec.search.name == "best_of" and not spec.rungs:
            why = "nothing better was found for a long time: climb from the best instead of drawing"
            steps.append((why, run_command(replace(spec, search=Part(CLIMBS)), view.folder)))
    if not spec.watch and (second := _second_opinion(spec)):
        steps.append(
            (f"see whether {second} agrees that it is better", run_command(_watching(spec, second), view.folder))
        )
    if len(view.finished) > 8:
        steps.append(("choose four that are good and different", command("keep", folder, 4)))
    return list(islice(((why, line) for why, line in steps if line), 4))


def _found_late(view: View) -> bool | None:
    """Whether the best picture came near the end; None where it cannot be told."""
    trace = [point for point in view.trace() if math.isfinite(point.best)]
    if len(trace) < 8 or view.best is None or view.judging is not None:
        return None
    place = next((i for i, point in enumerate(trace) if point.candidate.index == view.best.index), None)
    return None if place is None else place >= LATE * (len(trace) - 1)


def _with_reward(view: View, more: str) -> str | None:
    formula = f"{reward_text(view.spec.reward)} + {more}"
    return run_command(replace(view.spec, reward=parse_reward(formula), watch=()), view.folder)


def _second_opinion(spec: Spec) -> str | None:
    used = reward_text(spec.reward)
    return next((name for name in SECOND if name not in used), None)


def _watching(spec: Spec, name: str) -> Spec:
    return replace(spec, watch=(parse_reward(name),))


def commands(view: View) -> list[tuple[str, str]]:
    """What can be done with the run, and the command that does it."""
    folder = shown(view.folder)
    lines: list[tuple[str, str]] = []
    if view.status != RunStatus.FINISHED:
        lines.append(("continue this run", command("resume", folder)))
    if view.best:
        lines.append(("render the winner again and compare", command("replay", folder, view.best.index)))
        lines.append(("more like the winner", command("run", "--like", f"{folder}:{view.best.index}")))
    lines.append(
        ("go on with a larger budget", command("resume", folder, "--budget", larger_budget(view.spec, view.spent)))
    )
    if again := run_command(view.spec, view.folder):
        lines.append(("the same run from nothing", again))
    lines.append(("write this page again", command("report", folder)))
    return lines


def larger_budget(spec: Spec, spent: Cost) -> str:
    """Twice the budget in the entries that have one."""
    limits = spec.limit.limits() or {"nfe": spent.nfe or 640}
    return budget_text({name: 2 * value for name, value in limits.items()})
