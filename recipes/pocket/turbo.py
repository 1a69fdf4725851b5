"""Distil pocket into a model of one to four steps without guidance at run time.

    python turbo.py pairs --folder RUN --minutes 8 [--seed 1]    trajectories of the guided teacher -> pairs_SEED.pt
    python turbo.py train --folder RUN --minutes 15              the student -> turbo.pt

The teacher takes 8 guided steps on a shifted schedule (Esser et al. 2024, arXiv 2403.03206, eq. 23), because what goes
where is decided near pure noise. The student, which starts as the teacher, learns to take two of them at once and
without the second row: guidance and step distillation (Salimans and Ho 2022, arXiv 2202.00512; Meng et al. 2022, arXiv
2210.03142) on the teacher's own trajectories, cut into windows (Yan et al. 2024, PeRFlow, arXiv 2405.07510). Only the
first window aims at the end of the trajectory, from noise straight to the picture (Liu et al. 2022, rectified flow,
arXiv 2209.03003): that is what one step uses. It trains exactly the four times that four steps visit.
The text encoders stay pocket's. Needs transformer.pt of transformer.py; both stages resume from their checkpoints.
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
from common import Loop, Run, autoencoder, frozen, to_pixels, unpack
from torch.nn import functional as F
from transformer import EMPTY, POSITIONS, PROMPTS, generate, plain_attention, predict, read

from fairlead.pocket import world

RATE, BATCH, WARM_UP, AVERAGE = 1e-3, 32, 100, 0.998
STEPS, SHIFT, GUIDANCE, CHUNK = 8, 3.0, 3.0, 32
SHARES = (0.4, 0.2, 0.2, 0.2)
"""How often each window is drawn; the first is the hardest."""


def levels(steps: int) -> list[float]:
    """Noise levels of `steps` Euler steps under the shift, ending in 0, as FlowMatchEulerDiscreteScheduler gives."""
    return [SHIFT * s / (1 + (SHIFT - 1) * s) for s in np.linspace(1.0, 1 / steps, steps).tolist()] + [0.0]


@torch.no_grad()
def teach(nets: tuple, ids: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Noise [B, 64, 32] -> the guided teacher's latents after every second step [B, 4, 64, 32]."""
    kept, rope = [], nets[0].pos_embed(POSITIONS)
    with torch.autocast("cpu", torch.bfloat16):
        text = read(nets[1], nets[2], torch.cat([ids, EMPTY.expand(len(ids), -1)]))
        for step, (now, then) in enumerate(itertools.pairwise(levels(STEPS))):
            t = torch.full((2 * len(ids),), now)
            given, empty = predict(nets[0], torch.cat([z, z]), t, *text, rope)[0].float().chunk(2)
            z = z + (then - now) * (empty + GUIDANCE * (given - empty))
            if step % 2:
                kept.append(z)
    return torch.stack(kept, 1)


def start(seed: int, chunk: int) -> torch.Tensor:
    """The noise of one chunk, [32, 64, 32]."""
    return torch.randn(CHUNK, 64, 32, generator=torch.Generator().manual_seed(seed * 104_729 + chunk))


def pairs(folder: Path, minutes: float, seed: int) -> None:
    """Write captions and the teacher's trajectories; their noise is drawn again when it is needed."""
    F.scaled_dot_product_attention = plain_attention
    nets, _, _ = frozen(folder / "transformer.pt")
    path, since = folder / f"pairs_{seed}.pt", time.time()
    kept = torch.load(path) if path.exists() else {"ids": [], "z": []}
    ids, ends = list(kept["ids"]), list(kept["z"])
    while time.time() - since < 60 * minutes:
        rng = random.Random(seed * 7919 + len(ids))
        captions = torch.from_numpy(world.encode([world.sample(rng).caption for _ in range(CHUNK)]))
        ends.append(teach(nets, captions, start(seed, len(ids))).bfloat16())
        ids.append(captions.short())
        if len(ids) % 50 == 0:
            torch.save({"ids": ids, "z": ends}, path)
            print(f"{len(ids) * CHUNK} trajectories, {time.time() - since:.0f} s", flush=True)
    torch.save({"ids": ids, "z": ends}, path)
    print(f"{len(ids) * CHUNK} trajectories")


def gather(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Captions [N, 16] and trajectories [N, 5, 64, 32] from the noise to the end, of all seeds."""
    ids, points = [], []
    for path in sorted(folder.glob("pairs_*.pt")):
        kept, seed = torch.load(path), int(path.stem.split("_")[1])
        for chunk, (captions, z) in enumerate(zip(kept["ids"], kept["z"], strict=True)):
            ids.append(captions.long())
            points.append(torch.cat([start(seed, chunk)[:, None].bfloat16(), z], 1))
    return torch.cat(ids), torch.cat(points)


def train(folder: Path, minutes: float, until: str | None, seed: int) -> None:
    """The student, started from the teacher."""
    F.scaled_dot_product_attention = plain_attention
    nets, shift, scale = frozen(folder / "transformer.pt")
    ids, points = gather(folder)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        texts = [[x.bfloat16() for x in read(nets[1], nets[2], part)] for part in ids.split(256)]
    embeddings, pooled = (torch.cat(part) for part in zip(*texts, strict=True))
    student = nets[0].train().requires_grad_(True)
    averaged = copy.deepcopy(student).eval()
    source, target = list(student.parameters()), list(averaged.parameters())
    optimiser = torch.optim.AdamW(source, RATE, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    run = Run(folder, "turbo", minutes, until, None)
    if state := run.load():
        student.load_state_dict(state["student"])
        averaged.load_state_dict(state["averaged"][0])
        optimiser.load_state_dict(state["optimiser"])
    for block in [*student.transformer_blocks, *student.single_transformer_blocks]:
        block.compile()
    rope = student.pos_embed(POSITIONS)
    held = torch.arange(len(ids))[-256:]
    times, shares = torch.tensor(levels(4)), torch.tensor(SHARES)

    def errors(which: torch.Tensor, model: torch.nn.Module, window: torch.Tensor) -> torch.Tensor:
        """Squared velocity error [B] of trajectories `which` in their windows 0..3."""
        after = torch.where(window == 0, 4, window + 1)
        x, goal = points[which, window].float(), points[which, after].float()
        t, ahead = times[window], times[after]
        with torch.autocast("cpu", torch.bfloat16):
            v, _ = predict(model, x, t, embeddings[which], pooled[which], rope)
        return (v.float() - (x - goal) / (t - ahead)[:, None, None]).pow(2).mean((1, 2))

    def save() -> None:
        run.save(
            student=student.state_dict(),
            averaged=[net.state_dict() for net in (averaged, nets[1], nets[2])],
            optimiser=optimiser.state_dict(),
            shift=shift,
            scale=scale,
            schedule_shift=SHIFT,
        )

    loop = Loop(
        run, optimiser, source, RATE, WARM_UP, lambda done: 1 - done + 0.01, seed, 0.02, target, source, AVERAGE
    )

    def step(rng: random.Random, draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        which = torch.tensor(rng.sample(range(len(ids) - len(held)), BATCH))
        loss = errors(which, student, torch.multinomial(shares, BATCH, replacement=True, generator=draw)).mean()
        return loss, loss

    @torch.no_grad()
    def log() -> None:
        outside = {f"held_{k}": errors(held, averaged, torch.full((256,), k)).mean().item() for k in range(4)}
        run.log(loss=loop.mean, **outside)

    errors(torch.arange(BATCH), student, torch.zeros(BATCH, dtype=torch.long)).mean().backward()
    optimiser.zero_grad()
    loop.go(step, BATCH, log, lambda n: n % 500 == 0 or n == 100, [(120, save)])
    save()
    show(folder, (averaged, nets[1], nets[2]), shift, scale)


def show(folder: Path, nets: tuple, shift: float, scale: float) -> None:
    """Sheets of 1, 2 and 4 steps."""
    decoder = autoencoder().eval()
    decoder.load_state_dict(torch.load(folder / "autoencoder.pt")["model"])
    for steps in (1, 2, 4):
        with torch.no_grad():
            latents = unpack(generate(nets, PROMPTS, steps, 1.0, shift=SHIFT))
            images = decoder.decode(latents / scale + shift).sample
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
