"""Train the CLIP model and the aesthetic head: ``python clip.py --folder RUN --minutes 3``.

Batches are groups of four captions that differ in one thing (see kinds.py), so that the score must look at
composition; kinds that are hard to learn come more often.  Besides the usual contrast over the whole batch, each
caption is told from the three others of its group alone.  Pictures that satisfy another caption of the batch are not
its negatives.  Ruined copies of some pictures are extra negatives of all captions.  Some pictures are softened, noisy
or, once the one in RUN is good, passed through the autoencoder, because the score is used on generated pictures.

Training aids, thrown away afterwards: every patch names its object, its colour and its place; every noun of the caption
says what it is; and the pooled vectors answer questions about named classes: how many, which colour, where, how big,
how two of them lie to each other.

The aesthetic head is trained jointly with a small weight and fitted again at the end, by ridge regression on the
finished embedding.  Its target is `scenes.Painter.looks`.

A finished run is exported again by the same command with ``--out``.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import world
from common import Loop, Run, fall, good_autoencoder, mixed, place, text_tower
from damage import KINDS as STATES
from kinds import GROUP, KINDS, fours, pairs
from safetensors.torch import save_file
from scenes import CELLS, OWN, VARIANTS, Painter, Table, conditions, generate, lie, maps, plain_scenes
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel

WITHIN_WEIGHT, MAP_WEIGHT, NOUN_WEIGHT, IMAGE_WEIGHT, TEXT_WEIGHT, AESTHETIC_WEIGHT = 1.0, 0.4, 0.1, 0.6, 0.3, 0.1
SPOT_WEIGHT = 1.0
HEAD_RATE = 30.0
"""Learning rate of the aesthetic head relative to the rest: it acts on unit vectors, so its weights are large."""
CLASSES = len(world.NAMES)
NAMES, COLOURS = CLASSES + 1, OWN + 2
"""Labels of a patch, the last one background."""
IMAGE_WIDTH, TEXT_WIDTH, PROJECTION = 192, 128, 128
LARGEST_SCALE = 100.0
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
NONE = -100
"""Label of what is not asked."""
ACROSS = world.SIZE // world.GRID
"""Patches in a row."""


def places(width: int) -> Tensor:
    """Positions of the patches ``[64, width]`` as waves along both axes, 4 to 60 patches long.

    They are as large as what a patch shows.  From small random positions, as transformers draws them, nothing about
    places was learned in 200,000 pictures: no layer after the first still held them.
    """
    waves = width // 4
    angle = torch.arange(ACROSS)[:, None] * (torch.pi / 2) * 15.0 ** -torch.linspace(0, 1, waves)
    axis = torch.cat([angle.sin(), angle.cos()], 1)
    rows = axis[:, None].expand(-1, ACROSS, -1)
    return torch.cat([rows, rows.transpose(0, 1)], 2).flatten(0, 1)


def network() -> CLIPModel:
    """Vision: 128x128, patch 16, 192 wide, 4 layers.  Text: `common.text_tower`.  Projection 128."""
    vision = {
        "hidden_size": IMAGE_WIDTH,
        "intermediate_size": 3 * IMAGE_WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "image_size": world.SIZE,
        "patch_size": world.GRID,
        "projection_dim": PROJECTION,
    }
    model = CLIPModel(CLIPConfig(projection_dim=PROJECTION, text_config=text_tower(), vision_config=vision))
    with torch.no_grad():
        model.vision_model.embeddings.position_embedding.weight[1:] = places(IMAGE_WIDTH)
    return model


# ------------------------------------------------------------------------------------------ batches


def draw_groups(pool: Table, groups: int, size: int, draw: torch.Generator) -> Table:
    """Random groups of ``size`` consecutive scenes of a pool."""
    device = pool.items.device
    first = torch.randint(len(pool) // size, (groups, 1), generator=draw, device=device) * size
    return pool[(first + torch.arange(size, device=device)).flatten()]


def fresh(scenes: Table, draw: torch.Generator) -> Table:
    """The same scenes on new backgrounds of the same kind; half of them moved by up to 12 pixels as a whole."""
    device, count = scenes.items.device, len(scenes)
    items = scenes.items.long()
    there = (items[:, :, 0] >= 0)[..., None]
    side = torch.tensor(CELLS, device=device)[items[:, :, 4:].clamp(min=0)]
    corner = items[:, :, 2:4]
    before = torch.where(there, corner, world.SIZE).amin(1).clamp(max=12)
    after = (world.SIZE - torch.where(there, corner + side, 0).amax(1)).clamp(max=12)
    where = torch.rand(count, 2, generator=draw, device=device)
    shift = (where * (before + after + 1)).floor().long() - before
    shift = shift * (torch.rand(count, 1, generator=draw, device=device) < 0.5)
    moved = torch.where(there, corner + shift[:, None], corner)
    items = torch.cat([items[:, :, :2], moved, items[:, :, 4:]], 2)

    def whole(low: int, high: int) -> Tensor:
        return torch.randint(low, high + 1, (count, 3), generator=draw, device=device)

    pale = whole(178, 250)
    under = (pale + whole(-24, 24)).clamp(165, 255)
    shades = torch.tensor(list(world.COLOURS.values()), device=device)
    colour = scenes.whole[:, 1:].long()
    named = shades[colour[:, 0].clamp(min=0)]
    top = torch.where(colour >= 0, named + whole(-8, 20), pale)
    bottom = torch.where(colour >= 0, named + whole(-20, 8), under)
    ground = torch.cat([top, bottom], 1).clamp(0, 255)
    return Table(items, ground, scenes.ids.long(), scenes.things.long(), scenes.whole.long())


def mild(count: int, share: float, draw: torch.Generator) -> Tensor:
    """States of objects ``[count, 6]``: all clean, or in this share of the pictures all mildly damaged."""
    chosen = torch.rand(count, 1, generator=draw, device=draw.device) < share
    return chosen.long().expand(-1, world.MOST)


def ruined(items: Tensor, draw: torch.Generator, spared: float = 0.4) -> Tensor:
    """States of objects ``[B, 6]``: all ruined, or in a share ``spared`` of the pictures with several all but one."""
    count, device = len(items), items.device
    states = torch.randint(2, len(STATES), (count, world.MOST), generator=draw, device=device)
    there = (items[:, :, 0] >= 0).sum(1)
    lucky = (torch.rand(count, generator=draw, device=device) * there).long()
    saved = (torch.rand(count, generator=draw, device=device) < spared) & (there > 1)
    hit = F.one_hot(lucky, world.MOST).bool() & saved[:, None]
    return states.masked_fill(hit, 0)


def soften(images: Tensor) -> Tensor:
    """Binomial blur of five pixels."""
    one = torch.tensor([1.0, 4, 6, 4, 1], device=images.device) / 16
    kernel = (one[:, None] * one).expand(3, 1, 5, 5)
    return F.conv2d(F.pad(images, (2, 2, 2, 2), mode="replicate"), kernel, groups=3)


class Wear:
    """Makes pictures look generated: soft, noisy or passed through the autoencoder of the run."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder, self.device = folder, device
        self.model: nn.Module | None = None

    def look(self) -> None:
        """Take the autoencoder's newest weights if they are good."""
        newest = good_autoencoder(self.folder, self.device)
        if self.model is None and newest is not None:
            print("pictures pass through the autoencoder from here on", flush=True)
        self.model = newest or self.model

    @torch.no_grad()
    def __call__(self, images: Tensor, draw: torch.Generator) -> Tensor:
        """Pictures ``[B, 3, 128, 128]`` in [0, 1]."""
        count = len(images)
        chance = torch.rand(4, count, 1, 1, 1, generator=draw, device=images.device)
        images = torch.lerp(images, soften(images), chance[0] * (chance[1] < 0.35))
        noise = torch.randn(images.shape, generator=draw, device=images.device)
        images = (images + noise * (0.04 * chance[2] * (chance[3] < 0.35))).clamp(0, 1)
        if self.model is not None:
            some = torch.randperm(count, generator=draw, device=images.device)[: count // 4]
            with mixed(images.device):
                latents = self.model.encode(images[some] * 2 - 1).latent_dist.mode()
                noise = torch.randn(latents.shape, generator=draw, device=images.device)
                strength = 0.15 * torch.rand(len(some), 1, 1, 1, generator=draw, device=images.device)
                back = self.model.decode(latents + noise * strength * latents.std()).sample
            images[some] = (back.float() / 2 + 0.5).clamp(0, 1)
        return images


def agreeing(scenes: Table) -> Tensor:
    """Which pictures satisfy which other captions, ``bool [captions, pictures]``."""
    device = scenes.items.device
    keys = torch.randint(1 << 60, (CLASSES,), generator=torch.Generator().manual_seed(0)).to(device)
    names = scenes.items[:, :, 0].long()
    shown = (keys[names.clamp(min=0)] * (names >= 0)).sum(1)
    asked, number = scenes.things[:, :, 1].long(), scenes.things[:, :, 3].long()
    wanted = (keys[asked.clamp(min=0)] * number.clamp(min=0)).sum(1)
    same = (wanted[:, None] == shown[None]).fill_diagonal_(False)
    caption, picture = same.nonzero(as_tuple=True)
    items = scenes.items[picture]
    there = items[:, :, 0] >= 0
    found = conditions(items, scenes.whole[picture, 1], there, scenes.things[caption], scenes.whole[caption])
    same[caption, picture] = found.right
    return same


# --------------------------------------------------------------------------------------------- aids


def entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean cross-entropy over the labels that are not `NONE`; 0 if there are none."""
    logits, label = logits.float().flatten(0, -2), label.flatten()
    return F.cross_entropy(logits, label, ignore_index=NONE, reduction="sum") / (label != NONE).sum().clamp(min=1)


def mean_over(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values under a mask of the same shape; 0 if it is empty."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


class Questions(nn.Module):
    """Answers of a pooled vector about one class and about two."""

    def __init__(self, width: int, one: int, two: int, whole: int) -> None:
        super().__init__()
        self.key, self.first, self.second = (nn.Embedding(CLASSES, width) for _ in range(3))
        self.one = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, one))
        self.two = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, two))
        self.whole = nn.Linear(width, whole)

    def forward(self, pooled: Tensor, classes: Tensor, pair: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``[B, W]``, ``[B, Q]`` and ``[B, 2]`` to ``[B, Q, one]``, ``[B, two]`` and ``[B, whole]``."""
        one = self.one(pooled[:, None] * self.key(classes))
        two = self.two(torch.cat([pooled * self.first(pair[:, 0]), pooled * self.second(pair[:, 1])], 1))
        return one, two, self.whole(pooled)


ONE_IMAGE = (5, OWN + 1, len(CELLS), 2)
"""Number shown, colour, size of the cell, place."""
ONE_TEXT = (5, OWN + 1, 3)
"""Number asked, colour, size."""
NOUN = (CLASSES, OWN + 1, 4, 3, 5)
"""Class, colour, number, size and, for the second noun, the relation."""
GROUNDS = OWN + 1


class Aids(nn.Module):
    """Training aids, thrown away, and the aesthetic head, kept."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Linear(IMAGE_WIDTH, NAMES + COLOURS)
        self.noun = nn.Linear(TEXT_WIDTH, sum(NOUN))
        self.image = Questions(IMAGE_WIDTH, sum(ONE_IMAGE), 4, GROUNDS)
        self.text = Questions(TEXT_WIDTH, sum(ONE_TEXT), 5, GROUNDS)
        self.aesthetic = nn.Linear(PROJECTION, 1)
        nn.init.constant_(self.aesthetic.bias, 7.0)


def spots(told: Tensor, names: Tensor) -> Tensor:
    """Error of where the patches of objects say that they are; ``[B, 64, 2]`` across and down, ``[B, 64]``."""
    row, column = torch.meshgrid(torch.arange(ACROSS), torch.arange(ACROSS), indexing="ij")
    truth = (torch.stack([column, row], 2).flatten(0, 1) + 0.5).to(told.device) / ACROSS - 0.5
    return mean_over((told.float() - 4 * truth).pow(2).mean(2), names < CLASSES)


def about(scenes: Table, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Classes to ask about ``[B, 5]``: the caption's own, two of a neighbour; its first two; if they are swapped."""
    own = scenes.things[:, :, 1]
    classes = torch.cat([own, own.roll(1, 0)[:, :2]], 1)
    other = torch.randint(CLASSES, classes.shape, generator=draw, device=classes.device)
    classes = torch.where(classes < 0, other, classes)
    swapped = torch.rand(len(own), generator=draw, device=own.device) < 0.5
    pair = torch.where(swapped[:, None], own[:, :2].flip(1), own[:, :2])
    return classes, pair, swapped


def image_answers(
    answers: tuple[Tensor, Tensor, Tensor], items: Tensor, there: Tensor, ground: Tensor, classes: Tensor, pair: Tensor
) -> Tensor:
    """Error of what the image's vector says about classes, pairs and the background; ``there [B, 6]``: not ruined."""
    one, two, whole = answers
    number, colour, cell, at = one.split(ONE_IMAGE, 2)
    mine = (items[:, None, :, 0] == classes[..., None]) & there[:, None]
    have = mine.sum(2)
    first = mine.long().argmax(2)
    absent = have == 0
    side = torch.tensor(CELLS, device=items.device)[items[:, :, 4].clamp(min=0)]
    middle = (items[:, :, 2:4] + side[..., None] / 2) / world.SIZE - 0.5
    centre = (mine[..., None] * middle[:, None]).sum(2) / have.clamp(min=1)[..., None]
    loss = entropy(number, have.clamp(max=4))
    loss = loss + entropy(colour, items[:, :, 1].gather(1, first).masked_fill(absent, NONE))
    loss = loss + 0.5 * entropy(cell, items[:, :, 4].gather(1, first).masked_fill(absent, NONE))
    far = (at.float() - 4 * centre).pow(2).mean(2)
    loss = loss + mean_over(far, ~absent)
    both = [(items[:, :, 0] == pair[:, k : k + 1]) & there for k in (0, 1)]
    couples = both[0][:, :, None] & both[1][:, None]
    known = couples.any(2).any(1)
    truth = []
    for relation in range(len(world.RELATIONS)):
        holds = lie(items, torch.full((len(items),), relation, device=items.device))
        truth.append((holds | ~couples).all(2).all(1))
    error = F.binary_cross_entropy_with_logits(two.float(), torch.stack(truth, 1).float(), reduction="none")
    loss = loss + 4 * mean_over(error.mean(1), known)
    return loss + 0.5 * entropy(whole, torch.where(ground < 0, OWN, ground))


def text_answers(answers: tuple[Tensor, Tensor, Tensor], scenes: Table, classes: Tensor, swapped: Tensor) -> Tensor:
    """Error of what the caption's vector says about classes, pairs and the background."""
    one, two, whole = answers
    number, colour, size = one.split(ONE_TEXT, 2)
    things = scenes.things
    mine = things[:, None, :, 1] == classes[..., None]
    absent = ~mine.any(2)
    first = mine.long().argmax(2)
    asked = things.gather(1, first[..., None].expand(-1, -1, things.shape[2]))
    tint = torch.where(asked[..., 2] < 0, OWN, asked[..., 2])
    loss = entropy(number, asked[..., 3].masked_fill(absent, 0).clamp(min=0))
    loss = loss + entropy(colour, tint.masked_fill(absent, NONE))
    loss = loss + 0.5 * entropy(size, (asked[..., 4] + 1).masked_fill(absent, NONE))
    relation = scenes.whole[:, 0]
    relation = torch.where(swapped & (relation >= 0), relation ^ 1, relation)
    relation = torch.where(relation < 0, 4, relation).masked_fill(things[:, 1, 1] < 0, NONE)
    ground = scenes.whole[:, 1]
    return loss + 2 * entropy(two, relation) + 0.5 * entropy(whole, torch.where(ground < 0, OWN, ground))


def noun_answers(words: Tensor, scenes: Table) -> Tensor:
    """Error of what the last tokens of the nouns ``[B, 3, sum(NOUN)]`` say."""
    things = scenes.things
    missing = things[:, :, 1] < 0
    relation = torch.full_like(things[:, :, 0], NONE)
    relation[:, 1] = scenes.whole[:, 0] + 1
    colour = torch.where(things[:, :, 2] < 0, OWN, things[:, :, 2])
    labels = (things[:, :, 1], colour, things[:, :, 3] - 1, things[:, :, 4] + 1, relation)
    parts = words.split(NOUN, 2)
    error = [entropy(part, label.masked_fill(missing, NONE)) for part, label in zip(parts, labels, strict=True)]
    return torch.stack(error).sum()


def noun_states(hidden: Tensor, scenes: Table) -> Tensor:
    """Hidden states ``[B, 3, W]`` of the last tokens of the nouns."""
    where = scenes.things[:, :, :1].clamp(min=0, max=world.TOKENS - 1)
    return hidden.gather(1, where.expand(-1, -1, hidden.shape[2]))


# ------------------------------------------------------------------------------------------ training


def look_at(model: CLIPModel, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unit embedding, pooled vector and tokens of pictures in [0, 1]."""
    seen = model.vision_model(pixel_values=images * 2 - 1)
    return F.normalize(model.visual_projection(seen.pooler_output).float(), dim=-1), *seen.to_tuple()[1::-1]


def read(model: CLIPModel, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unit embedding, pooled vector and tokens of captions."""
    said = model.text_model(input_ids=ids.long())
    return F.normalize(model.text_projection(said.pooler_output).float(), dim=-1), *said.to_tuple()[1::-1]


def contrast(logits: Tensor, blocked: Tensor) -> tuple[Tensor, Tensor]:
    """Both ways over the whole batch and within the groups; ``[captions, pictures]``, ruined pictures last."""
    count = len(logits)
    logits = logits.masked_fill(F.pad(blocked, (0, logits.shape[1] - count)), -1e4)
    goal = torch.arange(count, device=logits.device)
    everywhere = F.cross_entropy(logits, goal) + F.cross_entropy(logits[:, :count].T, goal)
    blocks = own_groups(logits[:, :count])
    goal = goal[:GROUP].expand(len(blocks), -1)
    return everywhere / 2, (F.cross_entropy(blocks, goal) + F.cross_entropy(blocks.transpose(1, 2), goal)) / 2


def own_groups(table: Tensor) -> Tensor:
    """The blocks on the diagonal, ``[groups, 4, 4]``."""
    groups = len(table) // GROUP
    return table.reshape(groups, GROUP, groups, GROUP).diagonal(0, 0, 2).permute(2, 0, 1)


def step_losses(
    model: CLIPModel, aids: Aids, painter: Painter, wear: Wear, scenes: Table, draw: torch.Generator, turn: int
) -> dict[str, Tensor]:
    """The losses of one batch of groups; the ``turn``-th scene of every group is shown ruined as well."""
    count = len(scenes)
    bad = scenes[torch.arange(turn % GROUP, count, GROUP, device=scenes.items.device)]
    both = Table.join([scenes, bad])
    states = torch.cat([mild(count, 0.3, draw), ruined(bad.items, draw)])
    with torch.no_grad(), mixed(scenes.items.device, False):
        images = wear(painter.paint(both.items, both.ground, states, turn % VARIANTS), draw)
        values = painter.looks(both.items, both.ground, states)
        blocked = agreeing(scenes)
        names, colours = maps(scenes.items)
        classes, pair, swapped = about(both, draw)
    image, seen, patches = look_at(model, images)
    text, said, words = read(model, scenes.ids)
    with mixed(scenes.items.device, False):  # bfloat16 would round cosines to steps as large as the differences
        logits = text @ image.T * model.logit_scale.exp().clamp(max=LARGEST_SCALE)
        losses = dict(zip(("contrast", "within"), contrast(logits, blocked), strict=True))
    at = aids.patch(patches[:count, 1:])
    losses["map"] = entropy(at[..., :NAMES], names) + entropy(at[..., NAMES:], colours)
    losses["noun"] = noun_answers(aids.noun(noun_states(words, scenes)), scenes)
    # A patch answers what the pooled vector is asked about its class, so that the vector can sum answers.
    key = aids.image.key(names.clamp(max=CLASSES - 1))
    losses["spot"] = spots(aids.image.one(patches[:count, 1:] * key)[..., -ONE_IMAGE[-1] :], names)
    there = (both.items[:, :, 0] >= 0) & (states < 2)
    answers = aids.image(seen, classes, pair.clamp(min=0))
    losses["image"] = image_answers(answers, both.items, there, both.whole[:, 1], classes, pair)
    answers = aids.text(said, classes[:count], pair[:count].clamp(min=0))
    losses["text"] = text_answers(answers, scenes, classes[:count], swapped[:count])
    losses["aesthetic"] = F.mse_loss(aids.aesthetic(image.float())[:, 0].float(), values)
    return losses


def total(losses: dict[str, Tensor]) -> Tensor:
    """What is descended."""
    loss = losses["contrast"] + WITHIN_WEIGHT * losses["within"] + MAP_WEIGHT * losses["map"]
    loss = loss + NOUN_WEIGHT * losses["noun"] + IMAGE_WEIGHT * losses["image"] + TEXT_WEIGHT * losses["text"]
    return loss + SPOT_WEIGHT * losses["spot"] + AESTHETIC_WEIGHT * losses["aesthetic"]


@torch.no_grad()
def embed(model: CLIPModel, painter: Painter, scenes: Table, states: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Embeddings of pictures and captions, in parts."""
    images, texts = [], []
    for first in range(0, len(scenes), 512):
        part = scenes[slice(first, first + 512)]
        shown = None if states is None else states[first : first + 512]
        images.append(look_at(model, painter.paint(part.items, part.ground, shown))[0])
        texts.append(read(model, part.ids)[0])
    return torch.cat(images), torch.cat(texts)


def right_of(images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    """Of pairs, how often a caption finds its picture and a picture its caption."""
    own = (images * texts).sum(1)
    other_picture = (images.view(-1, 2, PROJECTION).flip(1).flatten(0, 1) * texts).sum(1)
    other_caption = (images * texts.view(-1, 2, PROJECTION).flip(1).flatten(0, 1)).sum(1)
    return (own > other_picture)[::2].float().mean(), (own > other_caption)[::2].float().mean()


def held_out(count: int, seed: int, device: torch.device) -> dict[str, Table]:
    """``count`` new pairs of each kind of difference."""
    tables = {}
    for number, kind in enumerate(KINDS):
        tables[kind] = generate(partial(pairs, kind=kind), 2 * count, 999_000 + 31 * seed + number, 100).to(device)
    return tables


def accuracies(model: CLIPModel, painter: Painter, tables: dict[str, Table]) -> dict[str, float]:
    """Share of held-out pairs ordered right for each kind, of their captions over all kinds, of ruined copies."""
    found, captions = {}, []
    for kind, scenes in tables.items():
        picture, caption = right_of(*embed(model, painter, scenes))
        found[kind] = picture.item()
        captions.append(caption)
    scenes = Table.join([one[slice(0, 40)] for one in tables.values()])
    images, texts = embed(model, painter, scenes)
    draw = torch.Generator(scenes.items.device).manual_seed(5)
    worse, _ = embed(model, painter, scenes, ruined(scenes.items, draw, 0.0))
    lower = ((images * texts).sum(1) > (worse * texts).sum(1)).float().mean()
    return {**found, "captions": torch.stack(captions).mean().item(), "ruined": lower.item()}


def evenly(run: Run, rows: int = 30) -> Callable[[int], bool]:
    """True about ``rows`` times over the schedule."""
    seen = -1

    def due(_: int) -> bool:
        nonlocal seen
        now = int(run.done * rows)
        fresh_row, seen = now != seen, now
        return fresh_row

    return due


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--until")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int, default=1024, help="captions; a quarter more pictures are ruined copies")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--pool", type=int, default=400_000, help="scenes to draw from")
    parser.add_argument("--held", type=int, default=200, help="held-out pairs of each kind")
    parser.add_argument("--head", type=int, default=16_000, help="pictures on which the aesthetic head is fitted")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where to write the transformers folder and the head")
    a = parser.parse_args()
    if a.out:
        import export  # noqa: F401 - fails now rather than after the training
    torch.manual_seed(a.seed)
    device = place()
    model, aids = network().to(device), Aids().to(device)
    model.set_attn_implementation("sdpa" if device.type == "cuda" else "eager")
    run = Run(a.folder, "clip", a.minutes, a.until, a.steps)
    trained = [*model.parameters(), *aids.parameters()]
    slow = [p for name, p in aids.named_parameters() if not name.startswith("aesthetic")]
    groups = [
        {"params": [*model.parameters(), *slow], "scale": 1.0},
        {"params": [*aids.aesthetic.parameters()], "scale": HEAD_RATE},
    ]
    optimiser = torch.optim.AdamW(groups, a.rate, betas=(0.9, 0.98), weight_decay=0.02, fused=True)
    if state := run.load():
        model.load_state_dict(state["model"])
        aids.load_state_dict(state["aids"])
        optimiser.load_state_dict(state["optimiser"])
    groups_of = max(1, a.batch // GROUP)
    painter, wear = Painter(device, a.folder), Wear(a.folder, device)
    wear.look()
    if run.done < 1:
        tables = held_out(a.held, a.seed, device)
        pool = generate(fours, a.pool // 4000 * 4000 or a.pool // GROUP * GROUP, a.seed).to(device)
    if a.compile:
        model.vision_model.compile()
        model.text_model.compile()
    last: dict[str, Tensor] = {}

    def step(rng: random.Random, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        scenes = fresh(draw_groups(pool, groups_of, GROUP, draw), draw)
        with mixed(device):
            losses = step_losses(model, aids, painter, wear, scenes, draw, rng.randrange(GROUP * VARIANTS))
        last.update({key: value.detach() for key, value in losses.items()})
        loss = total(losses)
        return loss, loss

    def report() -> None:
        run.log(**{key: value.item() for key, value in last.items()}, **accuracies(model, painter, tables))

    def keep() -> None:
        run.save(model=model.state_dict(), aids=aids.state_dict(), optimiser=optimiser.state_dict())

    if run.done < 1:
        loop = Loop(run, optimiser, trained, a.rate, 200, fall(0.7, 0.003), a.seed + 9, device=device)
        loop.go(step, groups_of * (GROUP + 1), report, evenly(run), [(60, keep), (20, wear.look)])
        keep()
        report()
    if a.out:
        model.eval()
        fit_head(model, aids, painter, wear, a.seed, a.head)
        save(model, aids, a.out)


@torch.no_grad()
def fit_head(
    model: CLIPModel, aids: Aids, painter: Painter, wear: Wear, seed: int, count: int, ridge: float = 0.02
) -> None:
    """Least squares of the aesthetic target on the normalised image embedding; prints the held-out fit."""
    device = painter.device
    scenes = generate(plain_scenes, count, 77_000 + seed).to(device)
    draw = torch.Generator(device).manual_seed(77)
    chance = torch.rand(len(scenes), 1, generator=draw, device=device)
    states = torch.where(chance < 0.4, ruined(scenes.items, draw), mild(len(scenes), 0.3, draw))
    values = painter.looks(scenes.items, scenes.ground, states)
    rows = []
    for first in range(0, len(scenes), 256):
        part = slice(first, first + 256)
        images = painter.paint(scenes.items[part], scenes.ground[part], states[part])
        rows.append(look_at(model, wear(images, draw))[0])
    x, y = torch.cat(rows).double(), values.double()
    fit, test = slice(0, len(x) * 3 // 4), slice(len(x) * 3 // 4, None)
    centre, mean = x[fit].mean(0), y[fit].mean()
    a = x[fit] - centre
    weight = torch.linalg.solve(a.T @ a + ridge * torch.eye(len(a.T), device=device), a.T @ (y[fit] - mean))
    aids.aesthetic.weight.copy_(weight[None].float())
    aids.aesthetic.bias.copy_((mean - centre @ weight)[None].float())
    error = y[test] - (x[test] - centre) @ weight - mean
    share = 1 - error.pow(2).mean() / y[test].var()
    print(f"aesthetic head: held-out R2 {share:.3f}, |weight| {weight.norm():.1f}")


def save(model: CLIPModel, aids: Aids, out: Path) -> None:
    """Write ``clip/`` (model and processor) and ``aesthetic.safetensors`` (keys ``weight`` and ``bias``)."""
    import transformers
    from export import tokenizer

    model.to("cpu", torch.float16).save_pretrained(out / "clip")
    size = {"height": world.SIZE, "width": world.SIZE}
    kind = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    images = kind(size={"shortest_edge": world.SIZE}, crop_size=size, image_mean=list(MEAN), image_std=list(STD))
    transformers.CLIPProcessor(image_processor=images, tokenizer=tokenizer()).save_pretrained(out / "clip")
    head = {key: value.detach().cpu().float().contiguous() for key, value in aids.aesthetic.state_dict().items()}
    save_file(head, out / "aesthetic.safetensors")


if __name__ == "__main__":
    main()
