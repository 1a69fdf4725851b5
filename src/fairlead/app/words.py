"""Numbers, names and command lines as a person reads and types them. Imports no torch."""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairlead.core.errors import FairleadError
from fairlead.run import inputs, rungs
from fairlead.run.records import StopReason
from fairlead.run.spec import Part, Spec, reward_parts, reward_text

if TYPE_CHECKING:
    from fairlead.run.view import View


def number(value: float | None, sign: bool = False) -> str:
    """A reward, a term or a difference with four significant digits, so that a column of them lines up."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    if size >= 1e7 or 0 < size < 0.0005:
        text = f"{size:.2e}"
    else:
        decimals = 4 - sum(size >= bound for bound in (1, 10, 100, 1000))
        text = f"{size:,.{decimals}f}"
    if value < 0:
        return "−" + text
    return "+" + text if sign and value > 0 else text


def count(value: float | None) -> str:
    """A cost: whole numbers whole."""
    if value is None or not math.isfinite(value):
        return number(value)
    if 0 < abs(value) < 0.1:
        return number(value)
    return f"{value:,.0f}" if float(value).is_integer() or value >= 1000 else f"{value:,.2f}"


def duration(seconds: float | None) -> str:
    """`0.02 s`, `0.4 s`, `12 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 0.095:
        return f"{max(0.0, seconds):.2f} s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def shown(path: Path) -> str:
    """The path as one would type it: relative where it lies below the current folder."""
    try:
        return os.path.relpath(path) if path.resolve().is_relative_to(Path.cwd()) else str(path)
    except OSError:
        return str(path)


def part_text(part: Part) -> str:
    """`name(setting=value)`, as `parse_part` reads it."""
    return reward_text(part)


def budget_text(budget: Mapping[str, float]) -> str:
    """`nfe=640,seconds=60`, as `parse_budget` reads it."""
    return ",".join(f"{name}={value:.15g}" for name, value in budget.items())


def _literal(value: Any) -> str:
    """As `parse_settings` reads it: bare words stay bare."""
    bare = (
        isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w./-]*", value) and value not in ("True", "False", "None")
    )
    return str(value) if bare else repr(value)


def reason(stopped: str) -> str:
    """Why a run ended, as a clause."""
    kind, _, names = stopped.partition(": ")
    if kind == StopReason.BUDGET and names:
        words = " and ".join("NFE" if name == "nfe" else name for name in names.split(", "))
        return f"the budget of {words} is spent"
    if kind == StopReason.UNTIL and names:
        return f"{names} is reached"
    return {
        StopReason.INTERRUPTED.value: "interrupted",
        StopReason.ERROR.value: "an error ended it",
        StopReason.SEARCH_FINISHED.value: "the search is finished",
    }.get(stopped, stopped)


def rung_words(name: str) -> str:
    """How candidates are seen at a rung, in words; its own name where that is not a kind of draft."""
    try:
        rung = rungs.read(name)
    except FairleadError:
        return name
    if isinstance(rung, rungs.By):
        return f"{rung.model} after {rung.after} steps" if rung.after else f"{rung.model} in {rung.own} steps"
    if isinstance(rung, rungs.Few):
        return "1 evaluation" if rung.steps == 1 else f"{rung.steps} evaluations"
    if isinstance(rung, rungs.Peek):
        return f"the first {rung.upto} steps"
    if isinstance(rung, rungs.Even):
        return f"{rung.steps} even steps"
    return f"early prediction after {rung.upto} steps"


def nothing_left(view: View) -> str:
    """What a command says that continued nothing, and what would continue the run."""
    kind = view.stopped.partition(": ")[0]
    if kind == StopReason.UNTIL:
        return (
            f"Nothing was left to do: the run ended because {reason(view.stopped)}. Another --until, or a larger "
            "--budget, continues from here."
        )
    if kind == StopReason.FLAT:
        return (
            f'Nothing was left to do: the run ended early ({view.stopped}). A lower price in --stop "flat(price=...)", '
            "--stop '', or a larger --budget continues from here."
        )
    return "Nothing was left to do. A larger --budget continues from here."


def _flags(spec: Spec, folder: Path) -> Iterator[tuple[str, str]]:
    yield "--model", spec.model.name
    yield "--reward", reward_text(spec.reward)
    for tree in spec.watch:
        yield "--watch", reward_text(tree)
    yield "--space", part_text(spec.space)
    yield "--search", part_text(spec.search)
    for part in spec.steering:
        yield "--steer", part_text(part)
    for part in spec.interventions:
        yield "--intervene", part_text(part)
    for name, value in spec.model.settings.items():
        if name in inputs.MODES:
            yield f"--{name}", shown(inputs.path_of(folder, value))
            continue
        yield "--set", f"{spec.model.name}.{name}={_literal(value)}"
    yield "--budget", budget_text(spec.budget)
    yield "--sampler", spec.sampler
    for word in ("steps", "group", "batch", "seed"):
        yield f"--{word}", str(getattr(spec, word))
    if spec.draft is not None:
        written = str(rungs.read(spec.draft)) if isinstance(spec.draft, int) else spec.draft
        yield "--rungs" if ">" in written else "--draft", written
        if spec.finals:
            yield "--finals", str(spec.finals)
        if spec.exact:
            yield "--exact", ""
    if spec.final_judge is not None:
        yield "--final-judge", part_text(spec.final_judge)
        yield "--entrants", str(spec.entrants)
        if spec.looks:
            yield "--looks", str(spec.looks)
    for word in ("until", "stop"):
        if getattr(spec, word):
            yield f"--{word}", getattr(spec, word)


def run_command(spec: Spec, folder: Path) -> str | None:
    """The command line of the same run; None where it starts from another run's picture, or only Python can ask it: a
    function as reward, or a live pipeline.
    """
    objects = [spec.model, *reward_parts(spec.reward)]
    if spec.parent is not None or any(part.name == "python" for part in objects):
        return None
    return shlex.join(
        ["fairlead", "run", spec.prompt, *(word for pair in _flags(spec, folder) for word in pair if word)]
    )


def command(*words: Any) -> str:
    """A `fairlead` command line, quoted for a shell."""
    return shlex.join(["fairlead", *map(str, words)])


def shorter(words: str, most: int = 48) -> str:
    """Words as far as they fit beside an axis."""
    return words if len(words) <= most else f"{words[: most - 1].rstrip()}…"
