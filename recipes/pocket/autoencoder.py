"""Train the autoencoder: ``python autoencoder.py --minutes 10 --folder RUN``.

``--decoder-only`` continues with the encoder frozen, so that latents already used stay valid.
"""

from __future__ import annotations

import argparse
import math
import random
from pathlib import Path

import numpy as np
import torch
from common import Loop, Run, autoencoder, dense_scene, fall, to_pixels, to_tensor
from PIL import Image
from torch.nn import functional as F

from fairlead.pocket import world

BATCH, RATE = 32, 1.5e-3


def differences(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def psnr(model: torch.nn.Module, images: torch.Tensor) -> float:
    """PSNR of reconstructions at the mode, dB."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        back = model.decode(model.encode(images).latent_dist.mode()).sample.float().clamp(-1, 1)
    return 10 * math.log10(4 / F.mse_loss(back, images).item())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--until", help="HH:MM, instead of --minutes")
    parser.add_argument("--steps", type=int, help="schedule by steps: deterministic")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--decoder-only", action="store_true")
    a = parser.parse_args()
    torch.manual_seed(a.seed)
    model = autoencoder()
    run = Run(a.folder, "decoder" if a.decoder_only else "autoencoder", a.minutes, a.until, a.steps)
    rate = RATE / 2 if a.decoder_only else RATE
    trained = list(model.decoder.parameters()) if a.decoder_only else list(model.parameters())
    optimiser = torch.optim.AdamW(trained, rate, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)
    state = run.load()
    if state:
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
    elif a.decoder_only:
        model.load_state_dict(torch.load(a.folder / "autoencoder.pt")["model"])
    held_out = to_tensor(world.batch(random.Random(999_999), 96)[0])
    z = torch.zeros(())
    loop = Loop(run, optimiser, trained, rate, 200, fall(0.5, 0.005), a.seed)

    def step(rng: random.Random, noise: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal z
        scenes = [dense_scene(rng) if rng.random() < 0.6 else world.sample(rng) for _ in range(BATCH)]
        x = to_tensor(np.stack([world.render(scene) for scene in scenes]))
        objects = torch.from_numpy(np.stack([world.object_map(scene) for scene in scenes])).float()
        weight = 1 + 2 * F.interpolate(objects[:, None], scale_factor=8)
        with torch.autocast("cpu", torch.bfloat16):
            z = model.encode(x).latent_dist.mode()
            level = torch.rand(BATCH, 1, 1, 1, generator=noise) * 0.25 * z.detach().float().std()
            y = model.decode(z + level * torch.randn(z.shape, generator=noise)).sample.float()
        d = (y - x) * weight
        edges = sum((p - q).abs().mean() for p, q in zip(differences(y), differences(x), strict=True))
        loss = d.abs().mean() + (d * d).mean() + 0.5 * edges + 1e-3 * z.float().pow(2).mean()
        return loss, loss

    def log() -> None:
        run.log(loss=loop.mean, psnr=psnr(model, held_out), latent_std=z.float().std().item())

    def save() -> None:
        run.save(model=model.state_dict(), optimiser=optimiser.state_dict())

    loop.go(step, BATCH, log, lambda n: n % 250 == 0, [(240, save)])
    log()
    save()
    with torch.no_grad():
        back = model.decode(model.encode(held_out[:32]).latent_dist.mode()).sample
    both = np.concatenate([to_pixels(held_out[:32]), to_pixels(back)])
    picture: Image.Image = world.grid(both, 16)
    picture.save(a.folder / f"{run.name}.png")


if __name__ == "__main__":
    main()
