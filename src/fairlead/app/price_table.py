"""What `price` and `run --dry-run` print."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from fairlead.app.console import print_json, quiet, stdout
from fairlead.app.words import count, duration, rung_words
from fairlead.core.cost import UNITS, Cost
from fairlead.run.spec import Spec

if TYPE_CHECKING:
    from fairlead.run.funnel import PlannedRung
    from fairlead.run.price import Price

WHERE = {"calibrated": "measured by calibrate", "assumed": "assumed; 'fairlead calibrate' measures it"}
"""Where a correlation comes from, in words."""
TITLES = {
    "candidate": "one candidate",
    "baseline": "its own baseline",
    "once": "once, to prepare",
    "finals": "higher rungs",
}


def show_price(spec: Spec, as_json: bool) -> int:
    """What a run would cost, as a table or as JSON."""
    from fairlead.run.price import price

    with quiet(as_json):
        found = price(spec)
    parts = parts_of(found)
    if as_json:
        _print_object(spec, found, parts)
        return 0
    console = stdout()
    console.print(_table(spec, parts))
    if (plan := _plan(found)) is not None:
        console.print()
        console.print(plan)
    if said := _gain(found):
        console.print(Text(said))
    if found.warning:
        console.print(Text(found.warning, style="yellow"))
    console.print(Text(sentence(found)))
    need = found.setup_cost + found.baseline + found.cost_per_candidate * spec.group + found.finals
    if not found.candidates and (lacking := need.over(spec.limit)):
        wanted = ", ".join(f"{name}={getattr(need, name):g}" for name in lacking)
        fitting = f" {found.fits} would fit." if found.fits else ""
        console.print(Text(f"The budget covers no picture: the first one takes {wanted}.{fitting}", style="yellow"))
    return 0


def parts_of(found: Price) -> dict[str, Cost]:
    """What each part of a run costs."""
    return {
        "candidate": found.cost_per_candidate,
        "baseline": found.baseline,
        "once": found.setup_cost,
        "finals": found.finals,
        "total": found.total,
    }


def _print_object(spec: Spec, found: Price, parts: dict[str, Cost]) -> None:
    print_json(
        {
            "candidates": found.candidates,
            **{name: cost.as_dict() for name, cost in parts.items()},
            "budget": dict(spec.budget),
            "questions_expected": found.queries.expected,
            "questions_at_most": found.queries.most,
            "dollars_at_most": found.dollars,
            "final_judge": None if found.judging is None else asdict(found.judging),
            "seconds": found.seconds,
            "memory_bytes": found.memory,
            "batch": found.batch,
            "fits": found.fits,
            "rungs": [{**asdict(rung), "candidates": n} for rung, n in _funnel(found)],
            "gain": found.plan.gain,
            "warning": found.warning,
        }
    )


def _table(spec: Spec, parts: dict[str, Cost]) -> Table:
    """A row for each resource that is spent or limited; a column for each part that costs something."""
    always = ("candidate", "total")
    shown = {name: cost for name, cost in parts.items() if name in always or any(asdict(cost).values())}
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("")
    for name in shown:
        table.add_column(TITLES.get(name, name), justify="right")
    table.add_column("budget", justify="right")
    limits = spec.limit.limits()
    for name in UNITS:
        values = [getattr(cost, name) for cost in shown.values()]
        if not any(values) and name not in limits:
            continue
        known = name != "seconds" or any(values)
        cells = [_amount(name, value) if known else "?" for value in values]
        table.add_row(name, *cells, _amount(name, limits[name]) if name in limits else "")
    return table


def _funnel(found: Price) -> list[tuple[PlannedRung, int]]:
    """The rungs with the candidates that the budget affords in each."""
    return list(zip(found.plan.rungs, found.entered, strict=True)) if found.plan.rungs else []


def _plan(found: Price) -> Table | None:
    """The whole plan, a row for each stage; None for a run that only searches."""
    judging = found.judging
    if not found.plan.rungs and judging is None:
        return None
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("plan")
    table.add_column("pictures", justify="right")
    table.add_column("one costs")
    table.add_column("predicts the finished picture", overflow="fold")
    for rung, n in _funnel(found)[:-1]:
        predicts = f"r = {rung.correlation:.2f}, {WHERE[rung.source]}"
        table.add_row(rung_words(rung.name), count(n), f"{rung.price:.2f} of a picture", predicts)
    finished = found.entered[-1] if found.entered else found.candidates
    table.add_row("finished", count(finished), "1 picture", "")
    if judging is not None:
        each = "1 question" if judging.looks == 1 else f"at most {judging.looks} questions"
        table.add_row("final judge", f"best {judging.entrants}", f"{each} a pair", "")
    return table


def _gain(found: Price) -> str:
    """What drafts are expected to gain; empty without them."""
    gain = found.plan.gain
    if not found.plan.rungs or gain is None:
        return ""
    return f"Expected gain over best_of at equal cost: {gain:+.2f} standard deviations."


def sentence(found: Price) -> str:
    """Candidates, time, questions, dollars and memory in one sentence."""
    clauses = [f"{found.candidates} candidates"]
    if found.seconds is not None:
        clauses.append(f"about {duration(found.seconds)}")
    expected = round(found.queries.expected)
    most = round(found.queries.most)
    if most and expected < most:
        clauses.append(f"about {expected} questions to the judge ({most} at most)")
    elif most:
        clauses.append(f"{most} questions to the judge")
    if (judging := found.judging) is not None:
        asked = f"about {judging.expected:.0f}" if judging.expected < judging.most else f"{judging.most}"
        limit = f" ({judging.most} at most)" if judging.expected < judging.most else ""
        clauses.append(f"then {asked} questions to the final judge about the best {judging.entrants}{limit}")
    if found.dollars:
        clauses.append(f"at most ${found.dollars:.2f}")
    if found.memory is not None:
        clauses.append(f"about {_bytes(found.memory)} of memory for {found.batch} at once")
    return f"{', '.join(clauses)}. Nothing was run or written."


def _amount(name: str, value: float) -> str:
    return duration(value) if name == "seconds" else count(value)


def _bytes(n: int) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{max(1, round(n / 1e6))} MB"
