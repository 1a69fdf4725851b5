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
from fairlead.core.samplers import sampler_for
from fairlead.core.sampling import sample
from fairlead.core.twins import SCHEDULERS, nearest_to, sampler_of
from fairlead.models.flux import Flux
from fairlead.models.sd import StableDiffusion
from fairlead.pocket.load import folder, unet_folder
from fairlead.run.registry import resolve

PAGE = Path(__file__).parents[1] / "docs" / "schedulers.md"
PROMPTS = ["two blue squares", "a red circle and a green triangle"]
STEPS = 8
FLOW_STEPS = 4
SETTINGS = {"skip_prk_steps": True}
"""As every Stable Diffusion folder sets it."""
HEAD = f"""# Schedulers

For readers who bring a pipeline: what takes the steps of its scheduler, and how far the pictures are apart.

- **Twins.** A scheduler that one of fairlead's samplers steps alike is replaced by that sampler. The pictures agree up
  to rounding.
- **All others step themselves.** The sampler is then called `scheduler`: a copy of the pipeline's own scheduler takes
  every step. Its memory is kept by sample, so a steering may move, copy or compare samples.
- **What has no place in the list** is replaced by `euler`, and every run says so. The same holds for `PNDMScheduler`
  with `skip_prk_steps=False`, whose Runge-Kutta start cannot be cut by sample, and for `DPMSolverSDEScheduler`, which
  draws from a Brownian tree of its own.

A twin counts only with the usual settings. `DDIMScheduler` with `clip_sample=True` or `DPMSolverMultistepScheduler`
with `solver_order=3` step themselves too. Choose with `--sampler`: `--sampler scheduler` uses the pipeline's own
scheduler in any case, and any other name replaces it.

Two kinds of steps are not the scheduler's own. The sampler of the column "nearest" takes them:

- moves between other noise levels: drafts that skip levels, the schedule of `demon`, the first move of `paths`;
- with `LMSDiscreteScheduler` and `PNDMScheduler`, the steps after a steering has dropped the history (`dfs`), because
  these two can only start at the first step. All other schedulers start again there at first order.

Steerings that act through noise (`svdd`, `feynman_kac`) need a scheduler or sampler that draws some. Give
`--sampler ancestral` where the scheduler draws none.

The differences are the largest of any pixel, in steps of 255. They compare the pipeline's own call with fairlead
from the same noise, for {len(PROMPTS)} prompts: {STEPS} steps of `pocket-unet`, and for rectified flow
(`FlowMatch...`) {FLOW_STEPS} steps of `pocket`. A difference of 1 is rounding. "Default" is what a run uses that
names no sampler. What is not measured here needs a package or belongs to another family; the tests compare its latents.

| scheduler | default | difference | nearest | difference |
|---|---|---:|---|---:|
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
    nearest, usual = nearest_to(name), sampler_of(name, SETTINGS)
    cells = [name.removesuffix("Scheduler"), usual, measured(name, usual), nearest, measured(name, nearest)]
    return f"| {' | '.join(cells)} |"


def measured(name: str, sampler: str) -> str:
    """The largest difference, or that a package is missing or the family's pipeline refuses the scheduler."""
    try:
        return f"{difference(name, sampler):.0f}"
    except (FairleadError, ImportError):
        return "not measured"


@cache
def difference(name: str, sampler_name: str) -> float:
    """The largest difference of a pixel, in steps of 255."""
    import diffusers

    flow = name.startswith("FlowMatch")
    steps = FLOW_STEPS if flow else STEPS
    pipe = pipeline("FluxPipeline" if flow else "StableDiffusionPipeline")
    pipe.scheduler = getattr(diffusers, name).from_config({**pipe.config_of_the_folder, **({} if flow else SETTINGS)})
    guidance = {} if flow else {"guidance_scale": 4.0}
    keys = tuple(Key.root(0).fold("candidate", i) for i in range(len(PROMPTS)))
    model, meter = (Flux if flow else StableDiffusion)(pipe, **guidance), Meter()
    try:
        sampler = sampler_for(resolve("samplers", sampler_name), model)
        x = normals(tuple(key.fold("init") for key in keys), *model.latent)
        model.meter(meter)
        with torch.no_grad(), meter.grant(INFINITE):
            z = sample(model, sampler, x, model.encode(PROMPTS), model.levels(steps), keys, meter)
            mine = model.decode(z)
    finally:
        model.release()
    height, width = model.size

    def packed(noise: Tensor) -> Tensor:
        return pipe._pack_latents(noise, *noise.shape) if flow else noise

    with drawn(pipe, [packed(normals(tuple(k.fold("step", i) for k in keys), *x.shape[1:])) for i in range(steps)]):
        theirs = pipe(
            PROMPTS,
            latents=packed(x.clone()),
            num_inference_steps=steps,
            output_type="pt",
            height=height,
            width=width,
            **guidance,
        ).images
    return float(((mine * 255).round() - (theirs * 255).round()).abs().max())


@cache
def pipeline(kind: str) -> Any:
    """An embedded pipeline, loaded once."""
    import diffusers

    where = folder() if kind == "FluxPipeline" else unet_folder()
    pipe = getattr(diffusers, kind).from_pretrained(where, dtype=torch.float32)
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
