"""The command `keep`: choose pictures of a run that are good and different. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fairlead.app.console import say
from fairlead.app.diverse_subset import mean_reward, read, stale, worth
from fairlead.app.report import write_report
from fairlead.app.words import number
from fairlead.core.errors import FairleadError
from fairlead.run import marks
from fairlead.run.judged import Judged
from fairlead.run.store import Store
from fairlead.run.view import View

Keep = Annotated[
    int | None,
    typer.Option("--keep", metavar="K", min=1, help="Also choose K pictures that are good and different, into kept/."),
]


def keep(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    k: Annotated[int, typer.Argument(metavar="K", min=1, help="How many.")],
    weight: Annotated[
        float, typer.Option(metavar="W", help="Of the reward, in its deviations: 0 keeps the most different.")
    ] = 0.5,
    floor: Annotated[
        str,
        typer.Option(
            metavar="LEVEL", help="Keep nothing below it while K are above: a reward, median (of the run) or none."
        ),
    ] = "median",
    likeness: Annotated[
        str | None, typer.Option(metavar="NAME", help="clip, pixels, or an image encoder's folder or hub name.")
    ] = None,
    starred: Annotated[bool, typer.Option("--starred", help="Only from pictures with a star.")] = False,
    judged: Annotated[
        bool,
        typer.Option("--judged", help="Quality is what people said instead of the reward; only pictures they judged."),
    ] = False,
) -> int:
    """Choose K pictures of a run that are good and different. Nothing is rendered."""
    from fairlead.run.diverse_subset import keep as choose

    among = starred_of(run) if starred else None
    quality = strengths(run) if judged else None
    chosen = choose(run, k, weight=weight, floor=_level(floor), likeness=likeness, among=among, quality=quality)
    print(" ".join(map(str, chosen)))
    say_what_was_kept(run)
    say(f"Pictures are in {run / 'kept'}, the front in {write_report(run)}.")
    return 0


def _level(floor: str) -> float | str:
    """A number where one was typed; other words are checked where the floor is used."""
    try:
        return float(floor)
    except ValueError:
        return floor


def starred_of(run: Path) -> list[int]:
    """The candidates with a star."""
    Store.open(run).close()
    if found := marks.starred(run):
        return found
    raise FairleadError(f"{run} has no picture with a star. Star some in 'fairlead studio', or leave out --starred.")


def strengths(run: Path) -> dict[int, float]:
    """What people said about each picture that they judged."""
    if found := {place.candidate: place.strength for place in Judged.of(run).ranking}:
        return found
    raise FairleadError(f"Nobody has judged the pictures of {run}. Judge them in 'fairlead studio'.")


def say_what_was_kept(folder: Path) -> None:
    """One line on stderr about the pictures that were kept, if any were."""
    if (found := read(folder)) is not None:
        if old := stale(View.read(folder), found):
            say(old)
            return
        a = found["chosen"]
        b = found["best"]
        if found.get("below"):
            say(f"{found['below']} of them are below the floor of {number(found['floor'])}: too few are above it.")
        say(
            f"Kept {found['k']}: mean {worth(found)} {number(mean_reward(a))} and Vendi {a['vendi']:.2f}; "
            f"the {found['k']} best have {number(mean_reward(b))} and {b['vendi']:.2f}."
        )
