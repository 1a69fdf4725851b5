"""Train the autoencoder: ``python autoencoder.py --minutes 3 --folder RUN``.

``--decoder-only`` continues with the encoder frozen, so that latents already used stay valid.
"""

from __future__ import annotations

import argparse
import math
import random
from pathlib import Path

import numpy as np
import torch
import world
from common import Loop, Run, autoencoder, dense_scenes, fall, mixed, place, to_pixels
from PIL import Image
from scenes import Painter, Table, generate, maps, plain_scenes
from torch.nn import functional as F

DENSE = 0.6
"""Share of pictures that are full of objects."""


def differences(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Between horizontal and between vertical neighbours."""
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def cropped(x: torch.Tensor, side: int, corner: tuple[int, int]) -> torch.Tensor:
    """The square of this side at this corner: the autoencoder is convolutional, so it learns from parts as well."""
    top, left = corner
    return x[..., top : top + side, left : left + side]


@torch.no_grad()
def psnr(model: torch.nn.Module, images: torch.Tensor) -> float:
    """PSNR in dB of reconstructions at the mode; ``images`` in [-1, 1]."""
    error = 0.0
    for part in images.split(64):
        with mixed(part.device):
            back = model.decode(model.encode(part).latent_dist.mode()).sample
        error += F.mse_loss(back.float().clamp(-1, 1), part).item() * len(part)
    return 10 * math.log10(4 * len(images) / error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--until", help="HH:MM, instead of --minutes")
    parser.add_argument("--steps", type=int, help="schedule by steps: deterministic")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--pool", type=int, default=200_000, help="scenes to draw from")
    parser.add_argument("--crop", type=int, default=world.SIZE, help="side of random crops; 64 suits a CPU")
    parser.add_argument("--every", type=float, default=20, help="seconds between two rows of the curve")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--decoder-only", action="store_true")
    a = parser.parse_args()
    torch.manual_seed(a.seed)
    device = place()
    model = autoencoder().to(device, memory_format=torch.channels_last)
    run = Run(a.folder, "decoder" if a.decoder_only else "autoencoder", a.minutes, a.until, a.steps)
    rate = a.rate / 2 if a.decoder_only else a.rate
    trained = list(model.decoder.parameters()) if a.decoder_only else list(model.parameters())
    optimiser = torch.optim.AdamW(trained, rate, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)
    state = run.load()
    if state:
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
    elif a.decoder_only:
        model.load_state_dict(torch.load(a.folder / "autoencoder.pt", map_location="cpu")["model"])
    painter = Painter(device, a.folder)
    dense = round(DENSE * a.pool)
    seed = 100 + a.seed
    pool = Table.join([generate(dense_scenes, dense, seed), generate(plain_scenes, a.pool - dense, seed)]).to(device)
    rng = random.Random(999_999)
    pictures = np.stack([world.render(world.sample(rng)) for _ in range(96)])
    held_out = torch.from_numpy(pictures).permute(0, 3, 1, 2).to(device).float().div(127.5).sub(1)
    encoder, decoder = model.encoder, model.decoder
    if a.compile:
        encoder, decoder = torch.compile(encoder), torch.compile(decoder)
    spread = torch.ones((), device=device)
    quality = 0.0
    loop = Loop(run, optimiser, trained, rate, 200, fall(0.6, 0.005), a.seed, 0.01, device=device)

    def step(rng: random.Random, noise: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal spread
        part = pool[torch.randint(len(pool), (a.batch,), device=device, generator=noise)]
        x = painter.paint(part.items, part.ground) * 2 - 1
        objects = (maps(part.items)[0] < len(world.NAMES)).float().view(-1, 1, 8, 8)
        weight = 1 + 2 * F.interpolate(objects, scale_factor=world.GRID)
        corner = (rng.randrange(0, world.SIZE - a.crop + 1, 8), rng.randrange(0, world.SIZE - a.crop + 1, 8))
        x = cropped(x, a.crop, corner)
        weight = cropped(weight, a.crop, corner)
        with mixed(device):
            z = encoder(x.contiguous(memory_format=torch.channels_last)).chunk(2, 1)[0]
            spread = z.detach().float().std()
            level = torch.rand(len(z), 1, 1, 1, generator=noise, device=device) * 0.25 * spread
            y = decoder(z + level * torch.randn(z.shape, generator=noise, device=device)).float()
        d = (y - x) * weight
        edges = sum((p - q).abs().mean() for p, q in zip(differences(y), differences(x), strict=True))
        loss = d.abs().mean() + (d * d).mean() + 0.5 * edges + 1e-3 * z.float().pow(2).mean()
        return loss, loss

    def log() -> None:
        nonlocal quality
        quality = psnr(model, held_out)
        run.log(loss=loop.mean, psnr=quality, latent_std=spread.item())

    def save() -> None:
        run.save(model=model.state_dict(), optimiser=optimiser.state_dict(), psnr=quality)

    loop.go(step, a.batch, log, lambda n: n in (20, 100), [(a.every, log), (max(60, a.every / 2), save)])
    log()
    save()
    with torch.no_grad():
        back = model.decode(model.encode(held_out[:16]).latent_dist.mode()).sample
    both = np.concatenate([to_pixels(held_out[:16]), to_pixels(back)])
    picture: Image.Image = world.grid(both, 8, 2)
    picture.save(a.folder / f"{run.name}.png")


if __name__ == "__main__":
    main()
