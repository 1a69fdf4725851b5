"""The words of the command line that make a run: every option once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from fairlead.core.cost import UNITS
from fairlead.run import registry


def _names(kind: str) -> Callable[[str], list[str]]:
    """Shell completion from the registry."""
    return lambda incomplete: [name for name in registry.table(kind) if name.startswith(incomplete)]


Prompt = Annotated[str, typer.Argument(metavar="PROMPT", help="What the picture should show.")]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        help="pocket, a hub name, a diffusers folder, or a .safetensors checkpoint.",
        autocompletion=_names("models"),
    ),
]
Reward = Annotated[
    str,
    typer.Option(
        metavar="FORMULA",
        help="A formula over rewards, like 'clip_score + 0.5*aesthetic'.",
        autocompletion=_names("rewards"),
    ),
]
Watched = Annotated[
    list[str] | None,
    typer.Option(
        "--watch",
        metavar="FORMULA",
        help="A reward that is recorded and never optimised; repeat for several.",
        autocompletion=_names("rewards"),
    ),
]
Space = Annotated[str, typer.Option(metavar="NAME", help="What the search moves.", autocompletion=_names("spaces"))]
Search = Annotated[str, typer.Option(metavar="NAME", help="The outer loop.", autocompletion=_names("searches"))]
Steer = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME", help="Control inside the denoising loop; repeat to chain.", autocompletion=_names("steerings")
    ),
]
Intervene = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME", help="Edit inside the network; repeat for several.", autocompletion=_names("interventions")
    ),
]
Setting = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="PART.SETTING=VALUE", help="part.setting=value, like best_of.n=16; repeat for several."
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        metavar="LIMITS", help=f"Limits like nfe=2000,seconds=60 over {', '.join(UNITS)}.  [default: nfe=640]"
    ),
]
Larger = Annotated[
    str | None,
    typer.Option("--budget", metavar="LIMITS", help="New limits like nfe=2000.  [default: what the run had]"),
]
Sampler = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="How a step is taken.  [default: the model's own]", autocompletion=_names("samplers")
    ),
]
Steps = Annotated[
    int | None, typer.Option(metavar="N", help="Denoising steps of a picture.  [default: the model's own]")
]
Group = Annotated[int, typer.Option(metavar="N", help="Candidates rendered together, for methods that couple them.")]
Batch = Annotated[int | None, typer.Option(metavar="N", help="Pictures rendered at once.  [default: the model's own]")]
Seed = Annotated[int, typer.Option(metavar="N", help="Names the run's randomness.")]
Draft = Annotated[
    int | None,
    typer.Option(metavar="N", help="Fewer steps while searching; the best drafts are rendered again at full --steps."),
]
Finals = Annotated[
    int | None, typer.Option(metavar="N", help="How many of the best drafts are rendered again.  [default: 1]")
]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="DIR", help="New folder for the run.  [default: runs/TIME-PROMPT]")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, everything else on stderr.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what it would cost.")]
Folder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]
