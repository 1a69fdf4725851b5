"""Distil a finished model into four steps without guidance: ``python turbo.py flux --folder RUN --minutes 3``.

``flux`` makes pocket-turbo of transformer.pt, ``unet`` makes pocket-unet-turbo of unet.pt.

The teacher takes its own default steps with guidance from known noise; every fifth point of its trajectory is kept.
The student, which starts as the teacher, learns to go from one kept point to the next in one evaluation without the
second row: guidance and step distillation (Salimans and Ho 2022, arXiv 2202.00512; Meng et al. 2022, arXiv 2210.03142)
on the teacher's own trajectories, cut into windows (Yan et al. 2024, PeRFlow, arXiv 2405.07510).  After a first part of
the schedule most windows start where the student itself arrives from the noise, not where the teacher was, so that it
learns to come back to the teacher's picture (dataset aggregation, Ross et al. 2011, arXiv 1011.0686).  Four steps of
the student therefore aim at the very picture that the teacher makes from the same noise.  The text encoders stay the
teacher's.
"""

from __future__ import annotations

import argparse
import copy
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformer
import unet
import world
from common import LATENT, Loop, Run, clip_encoder, frozen, mixed, pack, place, unpack
from transformer import IMAGE_TOKENS, POSITIONS, PROMPTS, decode, levels, predict, quicken, read

WARM_UP, AVERAGE = 100, 0.998
WINDOWS = 4
OWN, OWN_FROM = 0.75, 0.15
"""Share of windows that start at the student's own points, once this part of the schedule is over."""


@dataclass
class Family:
    """One family as the distillation sees it: states are tokens [B, 64, 64]."""

    nets: tuple[Any, ...]
    shift: float
    scale: float
    steps: int
    teach: Callable[[torch.Tensor, torch.Tensor], list[torch.Tensor]]
    """Captions and noise -> the teacher's states after each step."""
    words: Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
    """Captions -> what the network reads."""
    predict: Callable[[Any, torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]], torch.Tensor]
    """Network, states, number of the window, words -> its output as tokens."""
    advance: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    """States, output, number of the window -> states at the end of the window."""
    weight: torch.Tensor
    """Of the squared error of the states at the end of each window."""


def flux(folder: Path, device: torch.device, compiled: bool) -> Family:
    """Pocket: Euler steps from level to level."""
    nets, shift, scale = frozen(folder / "transformer.pt")
    nets = tuple(net.to(device) for net in nets)
    rope = nets[0].pos_embed(POSITIONS.to(device))
    times = torch.tensor(levels(WINDOWS), device=device)
    lengths = times[1:] - times[:-1]
    forward = torch.compile(predict) if compiled else predict

    def output(model: Any, x: torch.Tensor, window: torch.Tensor, words: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return forward(model, x, times[window], *words, rope)[0].float()

    return Family(
        nets,
        shift,
        scale,
        transformer.STEPS,
        lambda ids, z: transformer.follow(nets, ids, z, transformer.STEPS, transformer.GUIDANCE),
        lambda ids: read(nets[1], nets[2], ids),
        output,
        lambda x, v, window: x + lengths[window][:, None, None] * v,
        lengths.pow(-2),
    )


def stable(folder: Path, device: torch.device, compiled: bool) -> Family:
    """pocket-unet: DDIM steps on Stable Diffusion's table."""
    state = torch.load(folder / "unet.pt", map_location="cpu")
    nets = (unet.unet(), clip_encoder())
    for net, weights in zip(nets, state["averaged"], strict=True):
        net.load_state_dict(weights)
        net.eval().requires_grad_(False).to(device)
    nets[0].to(memory_format=torch.channels_last)
    plan = unet.scheduler()
    plan.set_timesteps(WINDOWS)
    steps = plan.timesteps.to(device)
    bars = torch.cat([plan.alphas_cumprod[plan.timesteps], plan.final_alpha_cumprod[None]]).to(device)
    alpha, sigma = bars.sqrt(), (1 - bars).sqrt()
    grow = alpha[1:] / alpha[:-1]
    reach = sigma[1:] - grow * sigma[:-1]
    seen = ((alpha + sigma) / alpha)[:-1].clamp(max=unet.HEAVIEST**0.5)
    forward = torch.compile(unet.denoise) if compiled else unet.denoise

    def output(model: Any, x: torch.Tensor, window: torch.Tensor, words: tuple[torch.Tensor, ...]) -> torch.Tensor:
        latents = unpack(x).contiguous(memory_format=torch.channels_last)
        return pack(forward(model, latents, steps[window], words[0])[0].float())

    def teach(ids: torch.Tensor, z: torch.Tensor) -> list[torch.Tensor]:
        return [pack(point) for point in unet.follow(nets, ids, unpack(z), unet.STEPS, unet.GUIDANCE)]

    return Family(
        nets,
        0.0,
        state["scale"],
        unet.STEPS,
        teach,
        lambda ids: (nets[1](input_ids=ids).last_hidden_state,),
        output,
        lambda x, eps, window: grow[window][:, None, None] * x + reach[window][:, None, None] * eps,
        (seen / reach).pow(2),
    )


@torch.no_grad()
def trajectories(family: Family, ids: torch.Tensor, seconds: float, chunk: int, seed: int) -> torch.Tensor:
    """Noise and the teacher's states at the end of each window, bfloat16 ``[N, 5, 64, 64]``, for as many as fit."""
    device = ids.device
    noise = torch.Generator(device).manual_seed(seed)
    every, since = family.steps // WINDOWS, time.time()
    points = []
    for part in ids.split(chunk):
        z = torch.randn(len(part), IMAGE_TOKENS, 4 * LATENT, generator=noise, device=device)
        points.append(torch.stack([z, *family.teach(part, z)[every - 1 :: every]], 1).bfloat16())
        if device.type == "cuda":
            torch.cuda.synchronize()
        if time.time() - since > seconds and len(points) > 1:
            break
    return torch.cat(points)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=("flux", "unet"))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--until")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--teach-seconds", type=float, default=60)
    parser.add_argument("--batch", type=int, default=384)
    parser.add_argument("--chunk", type=int, default=2048, help="trajectories made at once")
    parser.add_argument("--rate", type=float, default=8e-4)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    torch.manual_seed(a.seed)
    device = place()
    quicken(device)
    family = (flux if a.family == "flux" else stable)(a.folder, device, a.compile)
    pool = torch.load(a.folder / "pool.pt", mmap=True)
    ids = pool["ids"].long().to(device)
    points = trajectories(family, ids, a.teach_seconds, a.chunk, 1000 + a.seed)
    ids = ids[: len(points)]
    print(f"{len(points)} trajectories", flush=True)
    with torch.no_grad(), mixed(device):
        parts = [[x.bfloat16() for x in family.words(part)] for part in ids.split(4096)]
    words = tuple(torch.cat(column) for column in zip(*parts, strict=True))
    student = copy.deepcopy(family.nets[0]).train().requires_grad_(True)
    averaged = copy.deepcopy(student).eval().requires_grad_(False)
    source, target = list(student.parameters()), list(averaged.parameters())
    optimiser = torch.optim.AdamW(source, a.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    name = "turbo" if a.family == "flux" else "unet_turbo"
    run = Run(a.folder, name, a.minutes, a.until, a.steps)
    if state := run.load():
        student.load_state_dict(state["student"])
        averaged.load_state_dict(state["averaged"][0])
        optimiser.load_state_dict(state["optimiser"])
    held = torch.arange(len(ids), device=device)[-512:]
    count = max(1, len(ids) - len(held))
    windows = torch.arange(WINDOWS, device=device)

    @torch.no_grad()
    def walk(which: torch.Tensor) -> list[torch.Tensor]:
        """Where the student is after each window, from the noise."""
        x, states = points[which, 0].float(), []
        told = tuple(part[which] for part in words)
        for window in windows:
            with mixed(device):
                out = family.predict(averaged, x, window.expand(len(x)), told)
            x = family.advance(x, out, window.expand(len(x)))
            states.append(x)
        return states

    def losses(_: random.Random, noise: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        which = torch.randint(count, (a.batch,), generator=noise, device=device)
        start = points[which, :-1].float()
        if run.done > OWN_FROM:
            own = torch.stack([start[:, 0], *walk(which)[:-1]], 1)
            chosen = torch.rand(a.batch, WINDOWS, 1, 1, generator=noise, device=device) < OWN
            start = torch.where(chosen, own, start)
        x, goal = start.flatten(0, 1), points[which, 1:].float().flatten(0, 1)
        window = windows.repeat(a.batch)
        told = tuple(part[which].repeat_interleave(WINDOWS, 0) for part in words)
        with mixed(device):
            out = family.predict(student, x, window, told)
        error = (family.advance(x, out, window) - goal).pow(2).mean((1, 2)) * family.weight[window]
        return error.mean(), error.mean()

    def save() -> None:
        run.save(
            student=student.state_dict(),
            averaged=[net.state_dict() for net in (averaged, *family.nets[1:])],
            optimiser=optimiser.state_dict(),
            shift=family.shift,
            scale=family.scale,
            schedule_shift=transformer.SHIFT,
        )

    loop = Loop(
        run,
        optimiser,
        source,
        a.rate,
        WARM_UP,
        lambda done: 1 - done + 0.01,
        a.seed,
        0.02,
        target,
        source,
        AVERAGE,
        device,
    )

    @torch.no_grad()
    def log() -> None:
        """The squared distance of the student's state from the teacher's after each window, on unseen noise."""
        ends = walk(held)
        apart = {f"held_{k}": (end - points[held, k + 1].float()).pow(2).mean().item() for k, end in enumerate(ends)}
        run.log(loss=loop.mean, **apart)

    losses(random.Random(0), torch.Generator(device).manual_seed(0))[0].backward()
    optimiser.zero_grad()
    loop.go(losses, a.batch, log, lambda n: n == 100, [(300, log), (300, save)])
    log()
    save()
    for steps in (1, 2, WINDOWS):
        if a.family == "flux":
            nets = (averaged, *family.nets[1:])
            latents = unpack(transformer.generate(nets, PROMPTS, steps, 1.0)) / family.scale + family.shift
        else:
            latents = unet.sample((averaged, family.nets[1]), PROMPTS, steps, 1.0) / family.scale
        world.grid(decode(a.folder, latents), 8, 2).save(a.folder / f"{name}_{steps}.png")


if __name__ == "__main__":
    main()
