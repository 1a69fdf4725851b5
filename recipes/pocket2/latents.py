"""Encode scenes once: ``python latents.py --folder RUN`` writes ``pool.pt`` and ``held_out.pt``."""

from __future__ import annotations

import argparse
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from common import autoencoder, mixed, pack, place
from scenes import Painter, Table, generate, maps, plain_scenes

CHUNK = 512


@torch.no_grad()
def encode(folder: Path, count: int, seed: int, painter: Painter) -> dict[str, Any]:
    """A pool: latents ``z`` [N, 64, 64], the columns of its table, class and colour of every token."""
    device = painter.device
    model = autoencoder().eval().to(device, memory_format=torch.channels_last)
    model.load_state_dict(torch.load(folder / "autoencoder.pt", map_location="cpu")["model"])
    start = time.time()
    table = generate(plain_scenes, count, seed)
    latents, names, colours = [], [], []
    for first in range(0, count, CHUNK):
        part = table[first : first + CHUNK].to(device)
        x = painter.paint(part.items, part.ground) * 2 - 1
        with mixed(device):
            z = model.encode(x.contiguous(memory_format=torch.channels_last)).latent_dist.mode()
        latents.append(pack(z).bfloat16().cpu())
        at = maps(part.items)
        names.append(at[0].byte().cpu())
        colours.append(at[1].byte().cpu())
    z = torch.cat(latents)
    some = z[:4000].float()
    pool: dict[str, Any] = {field.name: getattr(table, field.name) for field in fields(Table)}
    pool |= {"z": z, "names": torch.cat(names), "colours": torch.cat(colours)}
    pool |= {"shift": some.mean().item(), "scale": 1 / some.std().item()}
    print(f"{count} scenes in {time.time() - start:.0f} s; shift {pool['shift']:.4f} scale {pool['scale']:.4f}")
    return pool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--count", type=int, default=600_000)
    parser.add_argument("--seed", type=int, default=1)
    a = parser.parse_args()
    painter = Painter(place(), a.folder)
    torch.save(encode(a.folder, a.count, a.seed, painter), a.folder / "pool.pt")
    torch.save(encode(a.folder, 1024, 999_999, painter), a.folder / "held_out.pt")


if __name__ == "__main__":
    main()
