"""Train the judge: ``python detector.py --folder RUN --minutes 3``.

About a third of the objects are ruined (see damage.py) and labelled as no object; the others are clean or mildly
degraded.  A share of the pictures gets blur, ringing, blocks and noise, and another goes through the autoencoder with
noise on its latents; ``RUN/autoencoder.pt`` may appear or improve while this runs.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
import torch
import world
from common import Loop, Run, dense_scenes, fall, good_autoencoder, mixed, place
from damage import KINDS, RUINED, draw
from diffusers import AutoencoderKL
from judge import STRIDE, Detector
from scenes import CELLS, Painter, Table, generate, plain_scenes, table
from torch import Tensor
from torch.nn import functional as F
from transformers import SegformerConfig, SegformerForSemanticSegmentation

SIDE, NOTHING = world.SIZE // STRIDE, len(world.NAMES)
SURE = 0.3
"""A detection counts above this score."""
CENTRE, RUINED_AROUND = 30.0, 4.0
"""Weights of the centre of an object and of the positions around a ruined one; of any other position 1."""
OUTSIDE = SIDE * SIDE
"""A position behind the map, for objects that are not there."""
LEVEL = 0.2
"""The noise on the latents has at most this share of their deviation."""


def network() -> SegformerForSemanticSegmentation:
    """Three stages at strides 4, 8 and 16."""
    labels = dict(enumerate([*world.NAMES, "nothing", *(f"side {side}" for side in CELLS)]))
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


def sized_scene(rng: random.Random) -> world.Scene:
    """Unrelated objects of the sizes that are rare in the world: small ones, with or without a big one in a corner."""
    small, big = world.SIDES["small"], world.SIDES["big"]
    places = [(x * small, y * small) for x in range(world.SIZE // small) for y in range(world.SIZE // small)]
    boxes = []
    if rng.random() < 0.6:
        left, top = rng.choice((0, world.SIZE - big)), rng.choice((0, world.SIZE - big))
        boxes.append((left, top, big))
        places = [(x, y) for x, y in places if not (left <= x < left + big and top <= y < top + big)]
    for x, y in rng.sample(places, rng.randint(1 - len(boxes), world.MOST - len(boxes))):
        boxes.append((x, y, small))
    items = []
    for x, y, side in boxes:
        colour = None if rng.random() < 0.25 else rng.choice(world.COLOUR_NAMES)
        items.append(world.Item(rng.choice(world.NAMES), colour, x, y, side))
    plain = world.sample(rng, rng.choice(("single_object", "background")))
    return world.Scene("sized", "", tuple(items), plain.top, plain.bottom)


def sized_scenes(rng: random.Random, count: int) -> list[world.Scene]:
    """Many of them, in the form that `scenes.generate` takes."""
    return [sized_scene(rng) for _ in range(count)]


def uniform(noise: torch.Generator, *shape: int) -> Tensor:
    """Uniform random numbers in [0, 1) on the generator's device."""
    return torch.rand(*shape, generator=noise, device=noise.device)


def middles(items: Tensor) -> tuple[Tensor, Tensor]:
    """Centres ``[B, 6, 2]`` (x, y) and sides ``[B, 6]`` of the cells in pixels."""
    side = torch.tensor(CELLS, device=items.device)[items[:, :, 4].long().clamp(min=0)].float()
    return items[:, :, 2:4].float() + side[..., None] / 2, side


def shifted(items: Tensor, noise: torch.Generator) -> Tensor:
    """In three tenths of the scenes the objects are up to three pixels off their places, still inside the canvas."""
    _, side = middles(items)
    count = len(items)
    some = uniform(noise, count, 1, 1) < 0.3
    offset = (uniform(noise, count, world.MOST, 2) * 7).floor() - 3
    corner = items[:, :, 2:4].float() + offset * some
    corner = torch.minimum(corner.clamp(min=0), world.SIZE - side[..., None])
    there = items[:, :, :1] >= 0
    return torch.cat(
        [items[:, :, :2], torch.where(there, corner.to(items.dtype), items[:, :, 2:4]), items[:, :, 4:]], 2
    )


def targets(items: Tensor, good: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Class, weight and position in `CELLS` (-100: none) at every position ``[B, 32, 32]``; ``good`` is ``[B, 6]``.

    The neighbours of a good centre are ignored: an object may lie between two positions.
    """
    count, device = len(items), items.device
    label = torch.full((count, OUTSIDE + 1), NOTHING, device=device)
    weight = torch.ones((count, OUTSIDE + 1), device=device)
    sides = torch.full((count, OUTSIDE + 1), -100, device=device)
    there = items[:, :, 0] >= 0
    centre, _ = middles(items)
    column, row = (centre / STRIDE + 0.5).floor().long().unbind(2)
    near = torch.arange(-1, 2, device=device)
    rows = (row[:, :, None, None] + near[:, None]).expand(-1, -1, 3, 3)
    columns = (column[:, :, None, None] + near).expand(-1, -1, 3, 3)
    inside = there[..., None, None] & (rows >= 0) & (rows < SIDE) & (columns >= 0) & (columns < SIDE)
    around = torch.where(inside, rows * SIDE + columns, OUTSIDE).flatten(2)  # [B, 6, 9]
    middle = around[:, :, 4]
    soft = torch.where(good, 0.0, RUINED_AROUND)[..., None].expand(-1, -1, 9)
    weight.scatter_(1, around.flatten(1), soft.flatten(1))
    weight.scatter_(1, middle, torch.full_like(middle, CENTRE, dtype=weight.dtype))
    label.scatter_(1, torch.where(good, middle, OUTSIDE), items[:, :, 0].long())
    cell = items[:, :, 4].long()[..., None].expand(-1, -1, 9)
    sides.scatter_(1, torch.where(good[..., None], around, OUTSIDE).flatten(1), cell.flatten(1))
    shape = (count, SIDE, SIDE)
    return label[:, :-1].reshape(shape), weight[:, :-1].reshape(shape), sides[:, :-1].reshape(shape)


def states(items: Tensor, noise: torch.Generator) -> Tensor:
    """A number in `KINDS` for each object ``[B, 6]``: in seven tenths of the scenes half of them are ruined."""
    count = len(items)
    ruined = (uniform(noise, count, 1) < 0.7) & (uniform(noise, count, world.MOST) < 0.5)
    bad = 2 + (uniform(noise, count, world.MOST) * len(RUINED)).long()
    return torch.where(ruined, bad, (uniform(noise, count, world.MOST) < 0.5).long())


def spoilt(
    items: Tensor, ground: Tensor, clean: Tensor, chosen: Tensor, painter: Painter, noise: torch.Generator
) -> Tensor:
    """The pictures ``clean`` with the ``chosen`` objects ``[B, 6]`` cut, faded, or mixed with another one.

    Two drawings of the same cells are mixed pixel by pixel: parted by a line, or with one share all over the cell.
    """
    count, device = len(items), items.device
    other = items.clone()
    step = 1 + (uniform(noise, count, world.MOST) * (len(world.NAMES) - 1)).long()
    other[:, :, 0] = ((items[:, :, 0].long() + step) % len(world.NAMES)).to(items.dtype)
    present = (uniform(noise, count, world.MOST) < 0.6) & chosen
    other[:, :, 0] = torch.where(present, other[:, :, 0], -1)
    second = painter.paint(other, ground)
    centre, side = middles(items)
    pixel = torch.arange(world.SIZE, device=device) + 0.5
    share = torch.ones(count, world.SIZE, world.SIZE, device=device)
    angle, offset = uniform(noise, count, world.MOST) * 6.2832, uniform(noise, count, world.MOST) * 7 - 2
    parted = uniform(noise, count, world.MOST) < 0.5
    flat = torch.where(present, 0.4, 0.1) + torch.where(present, 0.2, 0.3) * uniform(noise, count, world.MOST)
    for slot in range(world.MOST):
        x = (pixel - centre[:, slot, :1])[:, None, :]
        y = (pixel - centre[:, slot, 1:])[:, :, None]
        half = side[:, slot, None, None] / 2
        inside = (x.abs() <= half) & (y.abs() <= half) & chosen[:, slot, None, None]
        turn = angle[:, slot, None, None]
        first = (x * turn.cos() + y * turn.sin() < offset[:, slot, None, None] * half / 16).float()
        own = torch.where(parted[:, slot, None, None], first, flat[:, slot, None, None])
        share = torch.where(inside, own, share)
    return clean * share[:, None] + second * (1 - share[:, None])


def blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur with one deviation in pixels."""
    reach = round(3 * sigma)
    t = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-(t**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1).expand(x.shape[1], 1, 1, -1)
    rows = F.conv2d(F.pad(x, (reach, reach, 0, 0), mode="replicate"), kernel, groups=x.shape[1])
    return F.conv2d(F.pad(rows, (0, 0, reach, reach), mode="replicate"), kernel.transpose(2, 3), groups=x.shape[1])


def worn(x: Tensor, noise: torch.Generator) -> Tensor:
    """Pictures ``[B, 3, 128, 128]`` in [0, 1] as a model might make them: soft or ringing, blocky, noisy, tinted."""
    count = len(x)

    def number(low: float, high: float, share: float = 1.0) -> Tensor:
        some = uniform(noise, count, 1, 1, 1) < share
        return torch.where(some, low + (high - low) * uniform(noise, count, 1, 1, 1), 0.0)

    x = x + number(-0.9, 1.0, 0.7) * (blur(x, 0.9) - x)
    x = x + number(0.0, 0.6, 0.3) * (F.interpolate(F.avg_pool2d(x, 2), scale_factor=2) - x)
    for scale, most in ((1, 0.04), (4, 0.04), (8, 0.05)):
        across = world.SIZE // scale
        field = torch.randn(count, 3, across, across, generator=noise, device=noise.device)
        if scale > 1:
            field = F.interpolate(field, scale_factor=scale, mode="bilinear")
        x = x + number(0.0, most, 0.5) * field
    return (x * (1 + number(-0.08, 0.08)) + number(-0.04, 0.04)).clamp(0, 1)


class Reconstructions:
    """The autoencoder of a run folder, once it is good; read again now and then."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder, self.device = folder, device
        self.model: AutoencoderKL | None = None
        self.refresh()

    def refresh(self) -> None:
        """Read the newest weights, if they are good."""
        newest = good_autoencoder(self.folder, self.device)
        if self.model is None and newest is not None:
            print("pictures go through the autoencoder from now on", flush=True)
        self.model = newest or self.model

    @torch.no_grad()
    def __call__(self, images: Tensor, noise: torch.Generator | None = None) -> Tensor:
        """Pictures in [0, 1] encoded and decoded; with ``noise`` each with its own amount of it on the latents."""
        assert self.model is not None
        with mixed(self.device):
            z = self.model.encode(images * 2 - 1).latent_dist.mode()
            if noise is not None:
                level = uniform(noise, len(z), 1, 1, 1) * LEVEL * z.float().std()
                z = z + level * torch.randn(z.shape, generator=noise, device=self.device)
            return self.model.decode(z).sample.float().clamp(-1, 1) / 2 + 0.5


class Pictures:
    """Draws batches to train on from tables of scenes."""

    def __init__(self, pools: list[Table], painter: Painter, back: Reconstructions) -> None:
        self.pools, self.painter, self.back = pools, painter, back

    def __call__(self, size: int, noise: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pictures ``[B, 3, 128, 128]`` in [0, 1], labels, weights and sides ``[B, 32, 32]``."""
        parts = []
        for number, pool in enumerate(self.pools):
            share = size // len(self.pools) if number else size - (len(self.pools) - 1) * (size // len(self.pools))
            index = torch.randint(len(pool), (share,), generator=noise, device=noise.device)
            parts.append((pool.items[index], pool.ground[index]))
        items = shifted(torch.cat([part[0] for part in parts]), noise)
        ground = torch.cat([part[1] for part in parts])
        order = torch.randperm(size, generator=noise, device=noise.device)
        items, ground = items[order], ground[order]
        kinds = states(items, noise)
        bad = kinds >= len(KINDS) - len(RUINED)
        mixed_up = bad & (uniform(noise, size, world.MOST) < 0.4)
        variant = int(noise.initial_seed()) % 2
        x = self.painter.paint(items, ground, torch.where(mixed_up, 0, kinds), variant)
        x = spoilt(items, ground, x, mixed_up, self.painter, noise)
        third = size // 3
        x = torch.cat([self._made(x[:third], noise), worn(x[third : 2 * third], noise), x[2 * third :]])
        return x, *targets(items, ~bad & (items[:, :, 0] >= 0))

    def _made(self, x: Tensor, noise: torch.Generator) -> Tensor:
        return worn(x, noise) if self.back.model is None else self.back(x, noise)


def losses(logits: Tensor, label: Tensor, weight: Tensor, sides: Tensor) -> Tensor:
    """Weighted cross entropy of the classes plus that of the sides near good centres."""
    classes, cells = logits[:, : NOTHING + 1], logits[:, NOTHING + 1 :]
    named = (F.cross_entropy(classes, label, reduction="none") * weight).sum() / weight.sum()
    return named + 0.1 * F.cross_entropy(cells, sides)


def accuracy(detector: Detector, scenes: list[world.Scene], images: Tensor, batch: int = 128) -> dict[str, float]:
    """Shares of the objects, found near their places in ``images`` ``[B, 3, 128, 128]`` in [0, 1].

    ``named``: found with the right class; ``coloured``, ``sized``: also with the right colour or cell; ``certain``:
    with a score above 0.9; ``named 32`` and so on: named, of the objects with that side.  ``extra``: other detections
    per image.
    """
    hits: dict[str, list[float]] = {}
    extra = 0
    found = [row for part in images.split(batch) for row in detector.detect(part)]
    for scene, row in zip(scenes, found, strict=True):
        rest = [one for one in row if one.score > SURE]
        for item in scene.items:
            middle = item.x + item.side / 2, item.y + item.side / 2
            hit = None
            for one in rest:
                centre = (one.box[0] + one.box[2]) / 2, (one.box[1] + one.box[3]) / 2
                near = max(abs(a - b) for a, b in zip(middle, centre, strict=True)) <= 6
                if one.name == item.name and near:
                    hit = one
                    break
            marks = {"named": hit is not None, f"named {item.side}": hit is not None}
            marks["coloured"] = hit is not None and hit.colour == item.colour
            marks["sized"] = hit is not None and round(hit.box[2] - hit.box[0]) == item.side
            marks["certain"] = hit is not None and hit.score > 0.9
            for key, value in marks.items():
                hits.setdefault(key, []).append(float(value))
            if hit is not None:
                rest.remove(hit)
        extra += len(rest)
    return {key: float(np.mean(values)) for key, values in hits.items()} | {"extra": extra / len(scenes)}


def held_out(count: int, seed: int, painter: Painter) -> tuple[list[world.Scene], Tensor]:
    """Scenes and their pictures ``[B, 3, 128, 128]`` in [0, 1]."""
    rng = random.Random(seed)
    scenes = [world.sample(rng) for _ in range(count)]
    part = table(scenes).to(painter.device)
    return scenes, painter.paint(part.items, part.ground)


def ruined(scenes: list[world.Scene], seed: int, kind: str | None = None) -> Tensor:
    """The scenes with every object ruined anew (in one way or any), ``[B, 3, 128, 128]`` in [0, 1]."""
    rng = random.Random(seed)
    pictures = [draw(scene, [kind or rng.choice(RUINED) for _ in scene.items], rng) for scene in scenes]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


def accepted(detector: Detector, images: Tensor, scenes: list[world.Scene]) -> float:
    """Detections per object in pictures whose objects are all ruined."""
    found = [row for part in images.split(128) for row in detector.detect(part)]
    return sum(one.score > SURE for row in found for one in row) / sum(len(scene.items) for scene in scenes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--until")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=384)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--warm-up", type=int, default=200)
    parser.add_argument("--pool", type=int, default=400_000, help="scenes to draw from")
    parser.add_argument("--check", type=int, default=400, help="held-out scenes")
    parser.add_argument("--rows", type=int, default=30, help="about as many rows of the curve")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--out", type=Path, help="where to write the transformers folder")
    a = parser.parse_args()
    torch.manual_seed(a.seed)
    device = place()
    model = network().to(device)
    run = Run(a.folder, "detector", a.minutes, a.until, a.steps)
    optimiser = torch.optim.AdamW(model.parameters(), a.rate, betas=(0.9, 0.99), weight_decay=0.02, fused=True)
    state = run.load()
    if state:
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
    painter = Painter(device, a.folder)
    makers = (dense_scenes, plain_scenes, sized_scenes)
    pools = [generate(make, max(1, a.pool // len(makers)), a.seed + 5).to(device) for make in makers]
    back = Reconstructions(a.folder, device)
    pictures = Pictures(pools, painter, back)
    scenes, clean = held_out(a.check, 999_999, painter)
    refused = ruined(scenes[: a.check // 2], 1)
    trained = list(model.parameters())
    decay = fall(0.7, 0.003)
    loop = Loop(run, optimiser, trained, a.rate, a.warm_up, decay, a.seed + 5, smooth=0.02, device=device)
    forward = torch.compile(model) if a.compile else model
    shown = -1.0

    def due(number: int) -> bool:
        nonlocal shown
        if int(run.done * a.rows) == int(shown * a.rows) and shown >= 0:
            return False
        shown = run.done
        return True

    def report() -> None:
        detector = Detector(model)
        seen = accuracy(detector, scenes, clean)
        shares = {key: seen[key] for key in ("named", "coloured", "sized", "certain", "extra")}
        least = min(value for key, value in seen.items() if key.startswith("named "))
        made = accuracy(detector, scenes, back(clean))["named"] if back.model else float("nan")
        wrong = accepted(detector, refused, scenes[: len(refused)])
        run.log(loss=loop.mean, **shares, named_of_worst_side=least, named_back=made, damaged_accepted=wrong)
        model.train()

    def step(rng: random.Random, noise: torch.Generator) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            x, label, weight, sides = pictures(a.batch, noise)
        with mixed(device):
            logits = forward(pixel_values=x * 2 - 1).logits
        loss = losses(logits.float(), label, weight, sides)
        return loss, loss

    def save() -> None:
        run.save(model=model.state_dict(), optimiser=optimiser.state_dict())

    model.train()
    loop.go(step, a.batch, report, due, [(60, save), (20, back.refresh)])
    report()
    save()
    if a.out:
        model.eval().half().save_pretrained(a.out)


if __name__ == "__main__":
    main()
