"""`fairlead bench`: a model, or a search over it, on a benchmark's prompts."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from fairlead.core.errors import FairleadError
from fairlead.run.spec import Part, Spec
from fairlead.run.store import as_json as to_json

app = typer.Typer(no_args_is_help=True, help="A model on a benchmark's prompts.", rich_markup_mode=None)


@app.callback()
def _root() -> None:
    """A model on a benchmark's prompts."""


@app.command()
def geneval(
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="NAME", help="A model of the pocket world.")
    ] = "pocket",
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="GenEval's evaluation_metadata.jsonl.  [default: new prompts in its grammar]"
        ),
    ] = None,
    images: Annotated[int, typer.Option(metavar="N", help="Pictures per prompt.")] = 4,
    steps: Annotated[int | None, typer.Option(metavar="N", help="Denoising steps.  [default: the model's own]")] = None,
    sampler: Annotated[str, typer.Option(metavar="NAME", help="How a step is taken.")] = "euler",
    seed: Annotated[int, typer.Option(metavar="N", help="Names the randomness.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> int:
    """The six task scores by the published rules, judged by the pocket detector, with 95 % intervals over prompts."""
    from fairlead.run import models

    if images < 1:
        raise FairleadError(f"--images is {images}: give at least 1.")
    own = models.defaults(model)
    if own.get("vocabulary") != "words":
        raise FairleadError(
            f"{model!r} does not paint the pocket world, and its detector knows no other: use --model pocket."
        )
    from fairlead.bench import geneval as rules
    from fairlead.pocket import world
    from fairlead.pocket.judge import Detector
    from fairlead.pocket.load import detector_folder
    from fairlead.run.render import Renderer

    if prompts is None:
        chosen, source = rules.generate(world.NAMES, seed=43), "generated in GenEval's grammar, seed 43"
    else:
        try:
            chosen = rules.read_prompts(prompts, world.NAMES)
            digest = hashlib.sha256(prompts.read_bytes()).hexdigest()[:12]
        except OSError as error:
            raise FairleadError(
                f"{prompts} cannot be read ({error.strerror}): give GenEval's evaluation_metadata.jsonl."
            ) from error
        source = f"{prompts.name}, sha256 {digest}, the {len(chosen)} whose classes are in the world"
    spec = Spec(
        "",
        model=Part(model),
        sampler=sampler,
        steps=steps or int(own.get("steps", 20)),
        batch=int(own.get("batch", 16)),
    )
    since = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        renderer = Renderer(spec)
        table = rules.evaluate(renderer, Detector.from_pretrained(detector_folder()), chosen, images, seed=seed)
    seconds, spent = time.perf_counter() - since, renderer.meter.spent
    if as_json:
        about = {
            "model": model,
            "steps": spec.steps,
            "sampler": sampler,
            "seed": seed,
            "prompts": source,
            "seconds": seconds,
        }
        print(to_json({**about, **table.as_dict(), "cost": spent.as_dict()}), flush=True)
        return 0
    print(table.markdown())
    print(f"\n{model}, {sampler}, {spec.steps} steps, {images} pictures per prompt, seed {seed}; prompts: {source}.")
    print("Judge: the pocket detector with GenEval's rules; numbers are not comparable with the official detector's.")
    print(f"{spent.nfe:g} NFE, {spent.forwards:g} network rows, {seconds:.0f} s.")
    return 0
