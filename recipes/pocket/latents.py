"""Encode scenes once: ``python latents.py --folder RUN`` writes ``pool.pt`` and ``held_out.pt``."""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import numpy as np
import torch
from common import autoencoder, pack, to_tensor

from fairlead.pocket import world

CHUNK = 250
NO_ROLE = 7


def token_maps(scene: world.Scene) -> tuple[np.ndarray, np.ndarray]:
    """Class and colour index of each latent token ``[64]``; 48 and 11 mean background, 10 own colours."""
    names = np.full((8, 8), len(world.NAMES), np.uint8)
    colours = np.full((8, 8), len(world.COLOURS) + 1, np.uint8)
    covered = world.object_map(scene)
    for item in scene.items:
        cell = np.zeros((8, 8), bool)
        cell[item.y // 8 : item.y // 8 + 4, item.x // 8 : item.x // 8 + 4] = True
        names[cell & covered] = world.NAMES.index(item.name)
        index = world.COLOUR_NAMES.index(item.colour) if item.colour else len(world.COLOURS)
        colours[cell & covered] = index
    return names.reshape(-1), colours.reshape(-1)


def role(scene: world.Scene, index: int) -> int:
    """What the caption says of where or how many: 0..3 relations, 4..6 two to four, 7 nothing."""
    if scene.task == "counting":
        return len(scene.items) + 2
    if scene.task != "position":
        return NO_ROLE
    me, other = scene.items[index], scene.items[1 - index]
    caption = world.split(scene.caption)
    if "left" in caption or "right" in caption:
        return 0 if me.x < other.x else 1
    return 2 if me.y < other.y else 3


def noun_tokens(scene: world.Scene) -> list[tuple[int, int, int, int]]:
    """``(token, class, colour, role)`` of the last word of each noun of the caption."""
    words, cursor, out = world.split(scene.caption), 0, []
    for index, item in enumerate(scene.items[: 1 if scene.task == "counting" else 2]):
        if item.colour:
            cursor = words.index(item.colour, cursor) + 1
        forms = [world.split(item.name), world.split(world.plural(item.name))]
        while not any(words[cursor : cursor + len(form)] == form for form in forms):
            cursor += 1
        cursor += len(forms[0])
        colour = world.COLOUR_NAMES.index(item.colour) if item.colour else len(world.COLOURS)
        out.append((cursor, world.NAMES.index(item.name), colour, role(scene, index)))
    return out + [(0, -1, -1, -1)] * (2 - len(out))


@torch.no_grad()
def encode(folder: Path, count: int, seed: int, out: Path) -> None:
    model = autoencoder().eval()
    model.load_state_dict(torch.load(folder / "autoencoder.pt")["model"])
    rng = random.Random(seed)
    latents, ids, names, colours, nouns = [], [], [], [], []
    start = time.time()
    for first in range(0, count, CHUNK):
        images, scenes = world.batch(rng, min(CHUNK, count - first))
        with torch.autocast("cpu", torch.bfloat16):
            latents.append(pack(model.encode(to_tensor(images)).latent_dist.mode()).bfloat16())
        ids.append(torch.from_numpy(world.encode([scene.caption for scene in scenes])).short())
        maps = [token_maps(scene) for scene in scenes]
        names.append(torch.from_numpy(np.stack([m[0] for m in maps])))
        colours.append(torch.from_numpy(np.stack([m[1] for m in maps])))
        nouns.append(torch.tensor([noun_tokens(scene) for scene in scenes], dtype=torch.int8))
    z = torch.cat(latents)
    some = z[:4000].float()
    pool = {"z": z, "ids": torch.cat(ids), "names": torch.cat(names), "colours": torch.cat(colours)}
    pool |= {"nouns": torch.cat(nouns), "shift": some.mean().item(), "scale": 1 / some.std().item()}
    torch.save(pool, out)
    print(f"{count} scenes in {time.time() - start:.0f} s; shift {pool['shift']:.4f} scale {pool['scale']:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--count", type=int, default=80_000)
    parser.add_argument("--seed", type=int, default=1)
    a = parser.parse_args()
    encode(a.folder, a.count, a.seed, a.folder / "pool.pt")
    encode(a.folder, 512, 999_999, a.folder / "held_out.pt")


if __name__ == "__main__":
    main()
