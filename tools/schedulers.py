"""How far fairlead's sampler is from each diffusers scheduler: `python -m tools.schedulers [--write]`.

The embedded U-Net makes the same pictures twice from the same noise, once by its pipeline's own call and once by
fairlead's sampler. The page is `docs/schedulers.md`; the classes are those in `fairlead.core.twins`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairlead.core.cost import INFINITE, Meter
from fairlead.core.errors import FairleadError
from fairlead.core.key import Key, normals
from fairlead.core.sampling import sample
from fairlead.core.twins import SCHEDULERS, no_twin, sampler_of
from fairlead.models.sd import StableDiffusion
from fairlead.pocket.load import unet_folder
from fairlead.run.registry import resolve

PAGE = Path(__file__).parents[1] / "docs" / "schedulers.md"
PROMPTS = ["two blue squares", "a red circle and a green triangle"]
STEPS = 20
HEAD = f"""# Schedulers

For readers who bring a pipeline: which sampler stands for its scheduler, and how far the pictures are apart.

fairlead reads noise levels from the scheduler's configuration and steps by a sampler of its own, its twin. A scheduler
without a twin gets the nearest sampler, and every run says so. Choose another one with `--sampler`, or set
`pipe.scheduler` to a class with a twin.

The differences are the largest of any pixel, in steps of 255. They compare the pipeline's own call with fairlead
from the same noise, for {len(PROMPTS)} prompts and {STEPS} steps of `pocket-unet`. A difference of 1 is rounding.

| scheduler | sampler | twin | largest difference |
|---|---|---|---:|
"""


def main() -> None:
    """Print the page, or write it."""
    warnings.simplefilter("ignore")
    page = HEAD + "".join(f"{line(name)}\n" for name in SCHEDULERS)
    if "--write" in sys.argv:
        PAGE.write_text(page + "\nWritten by `python -m tools.schedulers --write`.\n")
    else:
        print(page)


def line(name: str) -> str:
    """One row of the table."""
    sampler, yes = sampler_of(name), "no" if no_twin(name, {}) else "yes"
    try:
        found = f"{difference(name, sampler):.0f}"
    except (FairleadError, ImportError):  # rectified flow, or a package that is not installed
        found = "not measured"
    return f"| {name.removesuffix('Scheduler')} | {sampler} | {yes} | {found} |"


def difference(name: str, sampler_name: str, steps: int = STEPS) -> float:
    """The largest difference of a pixel, in steps of 255."""
    import diffusers

    pipe = pipeline()
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.config_of_the_folder)
    keys = tuple(Key.root(0).fold("candidate", i) for i in range(len(PROMPTS)))
    model, sampler, meter = StableDiffusion(pipe, guidance_scale=4.0), resolve("samplers", sampler_name), Meter()
    x = normals(tuple(key.fold("init") for key in keys), *model.latent)
    model.meter(meter)
    with torch.no_grad(), meter.grant(INFINITE):
        z = sample(model, sampler, x, model.encode(PROMPTS), model.levels(steps), keys, meter)
        mine = model.decode(z)
    model.release()
    with drawn(pipe, [normals(tuple(k.fold("step", i) for k in keys), *x.shape[1:]) for i in range(steps)]):
        theirs = pipe(
            PROMPTS, latents=x.clone(), num_inference_steps=steps, guidance_scale=4.0, output_type="pt"
        ).images
    return float(((mine * 255).round() - (theirs * 255).round()).abs().max())


@cache
def pipeline() -> Any:
    """The embedded U-Net's, loaded once."""
    import diffusers

    pipe = diffusers.StableDiffusionPipeline.from_pretrained(unet_folder(), dtype=torch.float32)
    pipe.config_of_the_folder = pipe.scheduler.config
    pipe.set_progress_bar_config(disable=True)
    return pipe


@contextmanager
def drawn(pipe: Any, noise: list[Tensor]) -> Iterator[None]:
    """The scheduler draws this noise."""
    where, rest = sys.modules[type(pipe.scheduler).__module__], iter(noise)
    old = getattr(where, "randn_tensor", None)
    where.randn_tensor = lambda *args, **words: next(rest, noise[-1])  # type: ignore[attr-defined]
    try:
        yield
    finally:
        where.randn_tensor = old  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
