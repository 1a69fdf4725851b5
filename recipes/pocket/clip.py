"""Train the CLIP model and the aesthetic head: ``python clip.py --folder RUN --minutes 10``.

Batches are groups of four captions that differ in one thing (a colour, a relation, a number, a class), so
that the score must look at composition.  Pictures that satisfy another caption of the batch are not its
negatives.  Ruined copies of some pictures are extra negatives of their own captions.

The aesthetic head is trained jointly with a small weight and fitted again at the end, by ridge regression
on the finished embedding.  The aesthetic target of a picture, 1 to 10, is ``1 + 6 sharpness + 2 contrast +
balance``: sharpness is the
mean over its objects of 1 (clean), 1 - blur (mild) or 0 (ruined, see damage.py); contrast the mean distance
between object and background, as a fraction of 150 grey levels, at most 1; balance 1 for objects centred on
the canvas, falling to 0 for a single object in a corner.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from common import Loop, Run, fall, to_tensor
from damage import RUINED, draw
from latents import noun_tokens, token_maps
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel

from fairlead.pocket import world

GROUPS, RUINS, RATE = 24, 24, 1e-3
MAP_WEIGHT, NOUN_WEIGHT, AESTHETIC_WEIGHT = 0.5, 0.1, 0.15
HEAD_RATE = 30.0
"""Learning rate of the aesthetic head relative to the rest: it acts on unit vectors, so its weights are large."""
NAMES, COLOURS = len(world.NAMES) + 1, len(world.COLOURS) + 2
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def network() -> CLIPModel:
    """Vision: 64x64, patch 8, 192 wide, 4 layers.  Text: 128 wide, 3 layers.  Projection 128."""
    return CLIPModel(
        CLIPConfig(
            projection_dim=128,
            text_config={
                "vocab_size": len(world.vocabulary()),
                "hidden_size": 128,
                "intermediate_size": 384,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "max_position_embeddings": world.TOKENS,
                "bos_token_id": 2,
                "eos_token_id": 3,
                "pad_token_id": 0,
                "projection_dim": 128,
            },
            vision_config={
                "hidden_size": 192,
                "intermediate_size": 576,
                "num_hidden_layers": 4,
                "num_attention_heads": 6,
                "image_size": world.SIZE,
                "patch_size": 8,
                "projection_dim": 128,
            },
        )
    )


@dataclass(frozen=True)
class Plan:
    """What a caption says, before objects are placed."""

    task: str
    names: tuple[str, ...]
    colours: tuple[str | None, ...]
    relation: str
    count: int

    def scene(self, rng: random.Random) -> world.Scene:
        items = world.arrange(rng, self.task, list(self.names), list(self.colours), self.relation, self.count)
        caption = world.caption_of(self.task, items, self.relation, rng)
        plain = world.sample(rng, "single_object")
        return world.Scene(self.task, caption, items, plain.top, plain.bottom)


def plan(rng: random.Random) -> Plan:
    """A random plan, with the world's task weights."""
    scene = world.sample(rng)
    items = scene.items[:1] if scene.task == "counting" else scene.items
    names, colours = tuple(i.name for i in items), tuple(i.colour for i in items)
    return Plan(scene.task, names, colours, rng.choice(world.RELATIONS), len(scene.items))


def variant(first: Plan, rng: random.Random) -> Plan:
    """The plan with one thing changed."""
    which = rng.randrange(len(first.names))
    if first.task == "counting" and rng.random() < 0.8:
        return replace(first, count=rng.choice([n for n in (2, 3, 4) if n != first.count]))
    if first.task == "position" and rng.random() < 0.75:
        if rng.random() < 0.6:
            return replace(first, relation=OPPOSITE[first.relation])
        return replace(first, relation=rng.choice(world.RELATIONS))
    coloured = first.colours[which] is not None
    if len(first.names) == 2 and any(first.colours) and rng.random() < 0.5:
        return replace(first, colours=first.colours[::-1])
    if coloured and rng.random() < 0.6:
        colours = list(first.colours)
        colours[which] = rng.choice([c for c in world.COLOUR_NAMES if c not in first.colours])
        return replace(first, colours=tuple(colours))
    names = list(first.names)
    names[which] = rng.choice([n for n in world.NAMES if n not in first.names])
    return replace(first, names=tuple(names))


def holds(relation: str, a: world.Item, b: world.Item) -> bool:
    """Whether ``a`` is clearly ``relation`` ``b``."""
    return {
        "left of": b.x - a.x >= 16,
        "right of": a.x - b.x >= 16,
        "above": b.y - a.y >= 16,
        "below": a.y - b.y >= 16,
    }[relation]


def agrees(scene: world.Scene, said: Plan) -> bool:
    """Whether the picture of ``scene`` also satisfies the caption of ``said``."""
    wanted = sorted(said.names * (said.count if said.task == "counting" else 1))
    if wanted != sorted(item.name for item in scene.items):
        return False
    by_name = {item.name: item for item in scene.items}
    if any(c is not None and by_name[n].colour != c for n, c in zip(said.names, said.colours, strict=True)):
        return False
    return said.task != "position" or holds(said.relation, by_name[said.names[0]], by_name[said.names[1]])


def aesthetic_target(scene: world.Scene, kinds: list[str], sharpness: float) -> float:
    """The analytic aesthetic value, 1 to 10 (module docstring)."""
    quality = np.mean([0.0 if kind in RUINED else sharpness if kind == "mild" else 1.0 for kind in kinds])
    ground = world.backdrop(scene)
    distances = []
    for item in scene.items:
        rgb, alpha = world.sprite(item.name, item.colour)
        part = ground[item.y + 1 : item.y + 1 + world.SPRITE, item.x + 1 : item.x + 1 + world.SPRITE]
        distances.append((np.sqrt(((rgb - part) ** 2).sum(2, keepdims=True)) * alpha).sum() / alpha.sum())
    contrast = min(1.0, float(np.mean(distances)) / 150)
    centre = np.mean([(item.x, item.y) for item in scene.items], 0) - 16
    balance = 1 - float(np.hypot(*centre)) / np.hypot(16, 16)
    return float(1 + 6 * quality + 2 * contrast + balance)


class Aids(nn.Module):
    """Training aids, thrown away, and the aesthetic head, kept."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Linear(192, NAMES + COLOURS)
        self.text = nn.Linear(128, NAMES + COLOURS + 8)
        self.aesthetic = nn.Linear(128, 1)
        nn.init.constant_(self.aesthetic.bias, 7.0)


def make_batch(rng: random.Random, groups: int, ruins: int) -> dict[str, torch.Tensor]:
    """Contrastive images and captions ``[4 groups]``, then ``ruins`` damaged images, and all labels."""
    plans = []
    for _ in range(groups):
        first = plan(rng)
        plans += [first, *(variant(first, rng) for _ in range(3))]
    scenes = [one.scene(rng) for one in plans]
    images, values, maps = [], [], []
    for scene in scenes:
        kind = "mild" if rng.random() < 0.3 else "clean"
        images.append(draw(scene, [kind] * len(scene.items), rng))
        values.append(aesthetic_target(scene, [kind] * len(scene.items), 0.85))
        maps.append(token_maps(scene))
    for scene in scenes[:: len(scenes) // ruins][:ruins]:
        kinds = [rng.choice(RUINED) for _ in scene.items]
        if len(kinds) > 1 and rng.random() < 0.4:
            kinds[rng.randrange(len(kinds))] = "clean"
        images.append(draw(scene, kinds, rng))
        values.append(aesthetic_target(scene, kinds, 0.85))
    same = np.zeros((len(scenes), len(scenes)), bool)
    by_objects: dict[tuple[str, ...], list[int]] = {}
    for index, scene in enumerate(scenes):
        by_objects.setdefault(tuple(sorted(item.name for item in scene.items)), []).append(index)
    for alike in by_objects.values():
        for i in alike:
            for j in alike:
                same[i, j] = i != j and agrees(scenes[i], plans[j])
    return {
        "images": to_tensor(np.stack(images)),
        "ids": torch.from_numpy(world.encode([scene.caption for scene in scenes])),
        "same": torch.from_numpy(same),
        "values": torch.tensor(values),
        "names": torch.from_numpy(np.stack([m[0] for m in maps])).long(),
        "colours": torch.from_numpy(np.stack([m[1] for m in maps])).long(),
        "nouns": torch.tensor([noun_tokens(scene) for scene in scenes]),
    }


def forward(model: CLIPModel, aids: Aids, b: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The losses, and the similarity table ``[captions, images]``."""
    seen = model.vision_model(pixel_values=b["images"])
    said = model.text_model(input_ids=b["ids"])
    image = F.normalize(model.visual_projection(seen.pooler_output).float(), dim=-1)
    text = F.normalize(model.text_projection(said.pooler_output).float(), dim=-1)
    count = len(text)
    cosine = text @ image.T
    logits = cosine * model.logit_scale.exp().clamp(max=50)
    blocked = F.pad(b["same"].T, (0, len(image) - count))
    logits = logits.masked_fill(blocked, -1e4)
    goal = torch.arange(count)
    losses = {"contrast": (F.cross_entropy(logits, goal) + F.cross_entropy(logits[:, :count].T, goal)) / 2}
    at = aids.image(seen.last_hidden_state[:count, 1:]).float()
    losses["map"] = F.cross_entropy(at[..., :NAMES].flatten(0, 1), b["names"].flatten()) + F.cross_entropy(
        at[..., NAMES:].flatten(0, 1), b["colours"].flatten()
    )
    where = b["nouns"][..., :1].clamp(max=world.TOKENS - 1).expand(-1, -1, 128)
    words = aids.text(said.last_hidden_state.gather(1, where)).float().flatten(0, 1)
    label = b["nouns"][..., 1:].flatten(0, 1)
    parts = (words[:, :NAMES], words[:, NAMES : NAMES + COLOURS], words[:, NAMES + COLOURS :])
    losses["noun"] = sum(
        (F.cross_entropy(part, label[:, k], ignore_index=-1) for k, part in enumerate(parts)), torch.zeros(())
    )
    value = aids.aesthetic(image)[:, 0]
    losses["aesthetic"] = F.mse_loss(value, b["values"])
    return losses, cosine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--until")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where to write the transformers folder and the head")
    a = parser.parse_args()
    torch.manual_seed(a.seed)
    model, aids = network(), Aids()
    model.set_attn_implementation("eager")
    run = Run(a.folder, "clip", a.minutes, a.until, a.steps)
    trained = [*model.parameters(), *aids.parameters()]
    slow = [*model.parameters(), *aids.image.parameters(), *aids.text.parameters()]
    groups = [{"params": slow, "scale": 1.0}, {"params": [*aids.aesthetic.parameters()], "scale": HEAD_RATE}]
    optimiser = torch.optim.AdamW(groups, RATE, betas=(0.9, 0.98), weight_decay=0.02, fused=True)
    state = run.load()
    if state:
        model.load_state_dict(state["model"])
        aids.load_state_dict(state["aids"])
        if len(state["optimiser"]["param_groups"]) == len(groups):
            optimiser.load_state_dict(state["optimiser"])
    held_out = make_batch(random.Random(999_999), 48, 48)

    @torch.no_grad()
    def report() -> None:
        losses, cosine = forward(model, aids, held_out)
        count = len(cosine)
        own = cosine.diagonal()
        groups = cosine[:, :count].view(count // 4, 4, count // 4, 4).diagonal(0, 0, 2).permute(2, 0, 1)
        within = (groups.argmax(2) == torch.arange(4)).float().mean().item()
        ruined = cosine[torch.arange(0, count, count // 48), torch.arange(count, cosine.shape[1])]
        refused = (own[:: count // 48] > ruined).float().mean().item()
        run.log(
            **{key: value.item() for key, value in losses.items()},
            within_group=within,
            own=own.mean().item(),
            ruined_lower=refused,
        )

    def step(rng: random.Random, _: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        batch = make_batch(rng, GROUPS, RUINS)
        with torch.autocast("cpu", torch.bfloat16):
            losses, _ = forward(model, aids, batch)
        aid = MAP_WEIGHT * losses["map"] + NOUN_WEIGHT * losses["noun"]
        loss = losses["contrast"] + aid + AESTHETIC_WEIGHT * losses["aesthetic"]
        return loss, loss

    def keep() -> None:
        run.save(model=model.state_dict(), aids=aids.state_dict(), optimiser=optimiser.state_dict())

    loop = Loop(run, optimiser, trained, RATE, 100, fall(0.7, 0.003), a.seed + 9)
    loop.go(step, 4 * GROUPS + RUINS, report, lambda n: n % 200 == 0, [(120, keep)])
    report()
    keep()
    if a.out:
        model.eval()
        save(model, aids, a.out)


@torch.no_grad()
def fit_head(model: CLIPModel, aids: Aids, batches: int = 48, ridge: float = 0.02) -> None:
    """Least squares of the aesthetic target on the normalised image embedding; prints the held-out fit."""
    rows, values = [], []
    for index in range(batches):
        b = make_batch(random.Random(77_000 + index), 8, 32)
        seen = model.vision_model(pixel_values=b["images"]).pooler_output
        rows.append(F.normalize(model.visual_projection(seen).float(), dim=-1))
        values.append(b["values"])
    x, y = torch.cat(rows).double(), torch.cat(values).double()
    fit, test = slice(0, len(x) * 3 // 4), slice(len(x) * 3 // 4, None)
    centre, mean = x[fit].mean(0), y[fit].mean()
    a = x[fit] - centre
    weight = torch.linalg.solve(a.T @ a + ridge * torch.eye(a.shape[1]), a.T @ (y[fit] - mean))
    aids.aesthetic.weight.copy_(weight[None].float())
    aids.aesthetic.bias.copy_((mean - centre @ weight)[None].float())
    error = y[test] - (x[test] - centre) @ weight - mean
    share = 1 - error.pow(2).mean() / y[test].var()
    print(f"aesthetic head: held-out R2 {share:.3f}, |weight| {weight.norm():.1f}")


def save(model: CLIPModel, aids: Aids, out: Path) -> None:
    """Write ``clip/`` (model and processor) and ``aesthetic.safetensors`` (keys ``weight`` and ``bias``)."""
    fit_head(model, aids)
    from export import tokenizer
    from transformers import CLIPImageProcessor, CLIPProcessor

    model.half().save_pretrained(out / "clip")
    size = {"height": world.SIZE, "width": world.SIZE}
    processor = CLIPProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": world.SIZE}, crop_size=size, image_mean=list(MEAN), image_std=list(STD)
        ),
        tokenizer=tokenizer(),
    )
    processor.save_pretrained(out / "clip")
    head = {key: value.detach().float().contiguous() for key, value in aids.aesthetic.state_dict().items()}
    save_file(head, out / "aesthetic.safetensors")


if __name__ == "__main__":
    main()
