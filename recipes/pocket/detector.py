"""Train the judge: ``python detector.py --folder RUN --minutes 6``.

Half of the objects are damaged (see damage.py) and labelled as no object; good ones are clean, mildly
degraded, or passed through the autoencoder with latent noise.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
import torch
from common import Loop, Run, autoencoder, dense_scene, fall, to_tensor
from damage import RUINED, draw
from torch.nn import functional as F
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from fairlead.pocket import world
from fairlead.pocket.judge import STRIDE, Detector

BATCH, RATE = 48, 2e-3
SIDE, NOTHING = world.SIZE // STRIDE, len(world.NAMES)


def network() -> SegformerForSemanticSegmentation:
    """Three stages at strides 4, 8 and 16."""
    labels = dict(enumerate([*world.NAMES, "nothing"]))
    return SegformerForSemanticSegmentation(
        SegformerConfig(
            num_encoder_blocks=3,
            depths=[1, 2, 2],
            sr_ratios=[4, 2, 1],
            hidden_sizes=[48, 96, 160],
            patch_sizes=[7, 3, 3],
            strides=[4, 2, 2],
            num_attention_heads=[1, 3, 5],
            mlp_ratios=[3, 3, 3],
            decoder_hidden_size=128,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            classifier_dropout_prob=0.0,
            drop_path_rate=0.0,
            num_labels=len(labels),
            id2label=labels,
            label2id={name: index for index, name in labels.items()},
            semantic_loss_ignore_index=255,
        )
    )


def shifted(scene: world.Scene, rng: random.Random) -> world.Scene:
    """The scene with objects a little off the 8-pixel grid, still inside the canvas."""
    items = []
    for item in scene.items:
        x = min(32, max(0, item.x + rng.randint(-2, 2)))
        y = min(32, max(0, item.y + rng.randint(-2, 2)))
        items.append(world.Item(item.name, item.colour, x, y))
    return world.Scene(scene.task, scene.caption, tuple(items), scene.top, scene.bottom)


def targets(scene: world.Scene, good: list[bool]) -> tuple[np.ndarray, np.ndarray]:
    """Class and weight of every position ``[16, 16]``; the neighbours of a good centre are ignored."""
    label = np.full((SIDE, SIDE), NOTHING, np.int64)
    weight = np.ones((SIDE, SIDE), np.float32)
    for item, fine in zip(scene.items, good, strict=True):
        row, column = round((item.y + 16) / STRIDE), round((item.x + 16) / STRIDE)
        around = slice(row - 1, row + 2), slice(column - 1, column + 2)
        weight[around] = 0 if fine else 3
        weight[row, column] = 12
        if fine:
            label[row, column] = world.NAMES.index(item.name)
    return label, weight


def make_batch(rng: random.Random, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images ``[B, 3, 64, 64]`` in [-1, 1], labels and weights ``[B, 16, 16]``."""
    images, labels, weights = [], [], []
    for _ in range(size):
        scene = dense_scene(rng) if rng.random() < 0.5 else world.sample(rng)
        if rng.random() < 0.3:
            scene = shifted(scene, rng)
        kinds = [rng.choice(RUINED) if rng.random() < 0.4 else rng.choice(("clean", "mild")) for _ in scene.items]
        images.append(draw(scene, kinds, rng))
        label, weight = targets(scene, [kind not in RUINED for kind in kinds])
        labels.append(label)
        weights.append(weight)
    stack = torch.from_numpy(np.stack(labels)), torch.from_numpy(np.stack(weights))
    return to_tensor(np.stack(images)), *stack


def accuracy(detector: Detector, scenes: list[world.Scene], images: torch.Tensor) -> tuple[float, float, float]:
    """Per object: found with the right class near its place; also with the right colour; extra objects per image.

    ``images`` are ``[B, 3, 64, 64]`` in [0, 1]; a detection needs a score above 0.3.
    """
    total = named = coloured = extra = 0
    for scene, found in zip(scenes, detector.detect(images), strict=True):
        rest = [one for one in found if one.score > 0.3]
        for item in scene.items:
            total += 1
            for one in rest:
                near = abs(one.box[0] - item.x) <= 4 and abs(one.box[1] - item.y) <= 4
                if one.name == item.name and near:
                    named += 1
                    coloured += one.colour == item.colour
                    rest.remove(one)
                    break
        extra += len(rest)
    return named / total, coloured / total, extra / len(scenes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--until")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where to write the transformers folder")
    a = parser.parse_args()
    torch.manual_seed(a.seed)
    model = network()
    vae = autoencoder().eval()
    vae.load_state_dict(torch.load(a.folder / "autoencoder.pt")["model"])
    run = Run(a.folder, "detector", a.minutes, a.until, a.steps)
    optimiser = torch.optim.AdamW(model.parameters(), RATE, betas=(0.9, 0.99), weight_decay=0.02, fused=True)
    state = run.load()
    if state:
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
    rng = random.Random(999_999)
    scenes = [world.sample(rng) for _ in range(200)]
    held_out = torch.from_numpy(np.stack([world.render(scene) for scene in scenes])).permute(0, 3, 1, 2) / 255
    ruined_rng = random.Random(1)
    ruined = np.stack([draw(s, [ruined_rng.choice(RUINED) for _ in s.items], ruined_rng) for s in scenes])
    refused = torch.from_numpy(ruined).permute(0, 3, 1, 2) / 255
    objects = sum(len(scene.items) for scene in scenes)
    trained = list(model.parameters())
    loop = Loop(run, optimiser, trained, RATE, 100, fall(0.7, 0.003), a.seed + 5)

    def report() -> None:
        detector = Detector(model)
        named, coloured, extra = accuracy(detector, scenes, held_out)
        wrong = sum(one.score > 0.3 for found in detector.detect(refused) for one in found) / objects
        run.log(loss=loop.mean, named=named, coloured=coloured, extra=extra, damaged_accepted=wrong)
        model.train()

    def step(rng: random.Random, noise: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        x, label, weight = make_batch(rng, BATCH)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            z = vae.encode(x[: BATCH // 4]).latent_dist.mode()
            level = torch.rand(len(z), 1, 1, 1, generator=noise) * 0.15 * z.float().std()
            x[: BATCH // 4] = vae.decode(z + level * torch.randn(z.shape, generator=noise)).sample.float().clamp(-1, 1)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(pixel_values=x).logits
        loss = (F.cross_entropy(logits.float(), label, reduction="none") * weight).sum() / weight.sum()
        return loss, loss

    def save() -> None:
        run.save(model=model.state_dict(), optimiser=optimiser.state_dict())

    model.train()
    loop.go(step, BATCH, report, lambda n: n % 250 == 0, [(120, save)])
    report()
    save()
    if a.out:
        model.eval().half().save_pretrained(a.out)


if __name__ == "__main__":
    main()
