"""Distil pocket into a model of one to four steps without guidance at run time.

    python turbo.py pairs --folder RUN --minutes 8      noise and what the guided teacher makes of it -> pairs.pt
    python turbo.py train --folder RUN --minutes 15     the student -> turbo.pt

The method is reflow (Liu et al. 2022, arXiv 2209.03003; Liu et al. 2023, arXiv 2309.06380): rectified flow trained
again on the teacher's own couplings, whose paths are then nearly straight. The teacher samples with classifier-free
guidance, so the guidance is baked in (Meng et al. 2022, arXiv 2210.03142). Times are drawn mostly from the levels that
1, 2, 3 and 4 Euler steps visit. Needs transformer.pt of transformer.py; both stages resume from their checkpoints.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import random
import time
from pathlib import Path

import numpy as np
import torch
from common import Run, autoencoder, clip_encoder, step_random, t5_encoder, to_pixels, transformer, unpack
from torch.nn import functional as F
from transformer import EMPTY, POSITIONS, PROMPTS, plain_attention, predict, read

from fairlead.pocket import world

RATE, BATCH, WARM_UP, AVERAGE = 6e-4, 32, 100, 0.999
TEACHER_STEPS, GUIDANCE, CHUNK = 12, 3.0, 64
VISITED = torch.tensor([1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 2 / 3, 1 / 3])
"""Levels of 1 to 4 Euler steps; the first step of all of them is drawn more often."""
OFF_GRID = 0.25
"""Share of times drawn uniformly, so that other step counts work too."""


def nets_from(path: Path) -> tuple[tuple, float, float]:
    """Averaged networks of a checkpoint with the latent shift and scale."""
    state = torch.load(path)
    nets = (transformer(), t5_encoder(), clip_encoder())
    for net, weights in zip(nets, state["averaged"], strict=True):
        net.load_state_dict(weights)
        net.eval()
    return nets, state["shift"], state["scale"]


@torch.no_grad()
def teach(nets: tuple, ids: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Noise [B, 64, 32] -> the guided teacher's latents [B, 64, 32], by Euler steps."""
    sigmas = [*np.linspace(1.0, 1 / TEACHER_STEPS, TEACHER_STEPS).tolist(), 0.0]
    with torch.autocast("cpu", torch.bfloat16):
        text = read(nets[1], nets[2], torch.cat([ids, EMPTY.expand(len(ids), -1)]))
        rope = nets[0].pos_embed(POSITIONS)
        for now, then in itertools.pairwise(sigmas):
            t = torch.full((2 * len(ids),), now)
            given, empty = predict(nets[0], torch.cat([z, z]), t, *text, rope)[0].float().chunk(2)
            z = z + (then - now) * (empty + GUIDANCE * (given - empty))
    return z


def pairs(folder: Path, minutes: float, seed: int) -> None:
    """Write (caption ids, noise seed, teacher's latents); the noise itself is drawn again when it is needed."""
    nets, _, _ = nets_from(folder / "transformer.pt")
    path = folder / "pairs.pt"
    kept = torch.load(path) if path.exists() else {"ids": [], "z": []}
    ids, ends, since = list(kept["ids"]), list(kept["z"]), time.time()
    while time.time() - since < 60 * minutes:
        rng = random.Random(seed * 7919 + len(ids))
        captions = torch.from_numpy(world.encode([world.sample(rng).caption for _ in range(CHUNK)]))
        ends.append(teach(nets, captions, start(seed, len(ids))).bfloat16())
        ids.append(captions.short())
        if len(ids) % 25 == 0:
            torch.save({"ids": ids, "z": ends}, path)
            print(f"{len(ids) * CHUNK} pairs, {time.time() - since:.0f} s", flush=True)
    torch.save({"ids": ids, "z": ends}, path)
    print(f"{len(ids) * CHUNK} pairs")


def start(seed: int, chunk: int) -> torch.Tensor:
    """The noise of one chunk, [64, 64, 32]."""
    return torch.randn(CHUNK, 64, 32, generator=torch.Generator().manual_seed(seed * 104_729 + chunk))


@torch.no_grad()
def student_pictures(nets: tuple, prompts: list[str], steps: int, seed: int = 0) -> torch.Tensor:
    """Latents [B, 64, 32] by plain Euler steps, no guidance."""
    z = torch.randn(len(prompts), 64, 32, generator=torch.Generator().manual_seed(seed))
    sigmas = [*np.linspace(1.0, 1 / steps, steps).tolist(), 0.0]
    with torch.autocast("cpu", torch.bfloat16):
        text = read(nets[1], nets[2], torch.from_numpy(world.encode(prompts)))
        rope = nets[0].pos_embed(POSITIONS)
        for now, then in itertools.pairwise(sigmas):
            z = z + (then - now) * predict(nets[0], z, torch.full((len(z),), now), *text, rope)[0].float()
    return z


def train(folder: Path, minutes: float, until: str | None, seed: int) -> None:
    """The student, started from the teacher."""
    F.scaled_dot_product_attention = plain_attention
    torch.nn.functional.scaled_dot_product_attention = plain_attention
    nets, shift, scale = nets_from(folder / "transformer.pt")
    kept = torch.load(folder / "pairs.pt")
    chunks = len(kept["ids"])
    ids, ends = torch.cat(kept["ids"]).long(), torch.cat(kept["z"])
    noise = torch.cat([start(seed, chunk).bfloat16() for chunk in range(chunks)])
    averaged = tuple(copy.deepcopy(net) for net in nets)
    for net in nets:
        net.train()
    source = [p for net in nets for p in net.parameters()]
    target = [p for net in averaged for p in net.parameters()]
    optimiser = torch.optim.AdamW(source, RATE, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    run = Run(folder, "turbo", minutes, until, None)
    if state := run.load():
        for net, average, weights, mean in zip(nets, averaged, state["nets"], state["averaged"], strict=True):
            net.load_state_dict(weights)
            average.load_state_dict(mean)
        optimiser.load_state_dict(state["optimiser"])
    for block in [*nets[0].transformer_blocks, *nets[0].single_transformer_blocks]:
        block.compile()
    rope = nets[0].pos_embed(POSITIONS)
    held = torch.arange(len(ids))[-256:]

    def loss_of(which: torch.Tensor, some: tuple, draw: torch.Generator) -> torch.Tensor:
        z0, z1 = ends[which].float(), noise[which].float()
        on_grid = VISITED[torch.randint(len(VISITED), (len(which),), generator=draw)]
        free = torch.rand(len(which), generator=draw)
        t = torch.where(torch.rand(len(which), generator=draw) < OFF_GRID, free, on_grid)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = torch.lerp(z0, z1, t[:, None, None])
            v, _ = predict(some[0], mixed, t, *read(some[1], some[2], ids[which]), rope)
        return (v.float() - (z1 - z0)).pow(2).mean()

    def save() -> None:
        run.save(
            nets=[net.state_dict() for net in nets],
            averaged=[net.state_dict() for net in averaged],
            optimiser=optimiser.state_dict(),
            shift=shift,
            scale=scale,
        )

    loss_of(torch.arange(BATCH), nets, torch.Generator()).backward()
    optimiser.zero_grad()
    run.begin()
    saved, mean = run.seconds, 0.0
    while (done := run.done) < 1:
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1, (run.step + 1) / WARM_UP) * (1 - done + 0.01)
        rng, draw = step_random(seed, run.step)
        loss = loss_of(torch.tensor(rng.sample(range(len(ids) - len(held)), BATCH)), nets, draw)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(source, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        run.step, run.samples = run.step + 1, run.samples + BATCH
        mean = loss.item() if mean == 0 else 0.98 * mean + 0.02 * loss.item()
        with torch.no_grad():
            torch._foreach_lerp_(target, source, 1 - min(AVERAGE, (run.step + 1) / (run.step + 10)))
        if run.step % 500 == 0:
            with torch.no_grad():
                outside = loss_of(held, averaged, torch.Generator().manual_seed(1)).item()
            run.log(loss=mean, held_out=outside)
        if run.seconds - saved > 180:
            save()
            saved = run.seconds
    save()
    decoder = autoencoder().eval()
    decoder.load_state_dict(torch.load(folder / "autoencoder.pt")["model"])
    for steps in (1, 2, 4):
        with torch.no_grad():
            images = decoder.decode(unpack(student_pictures(averaged, PROMPTS, steps)) / scale + shift).sample
        world.grid(to_pixels(images)).save(folder / f"turbo_{steps}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("pairs", "train"))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--until")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    torch.manual_seed(a.seed)
    if a.stage == "pairs":
        pairs(a.folder, a.minutes, a.seed)
    else:
        train(a.folder, a.minutes, a.until, a.seed)


if __name__ == "__main__":
    main()
