"""Train the preference network: ``python preference.py --folder RUN --minutes 3 --out ASSETS/preference``.

The architecture of ImageReward, small: a vision transformer, a text encoder that attends to every image token, and
five linear layers on its first token.  Written under the published names of its tensors, so that the reward
``image_reward`` reads it like the real one.

The synthetic preferences follow a written rule.  The value of a picture for a caption is ``4 match + 4 looks``.
``match`` is the mean of two numbers: the share of the caption's conditions that hold (each object there, each colour,
each size, the relation and the background right, nothing else there; a ruined object is not there), and 1 if all of
them hold, else 0.  By the share alone, good looks would outweigh a wrong relation in a long caption.  ``looks`` is
`scenes.Painter.looks` brought to [0, 1].  Of two pictures of one caption the first is preferred with probability
sigmoid(value difference), which is the label itself; no labels are drawn.  Each caption comes with six pictures: its
own scene in two layouts, clean or mildly damaged; its own scene ruined; two scenes that differ in one thing
(see kinds.py) and one that differs in two.

Training aids, thrown away afterwards: every patch names its object, its colour, its place and whether it is ruined;
every noun of the caption says what it is, and whether it is there in its number, colour, size and relation; token 0
says which of the other conditions hold.

At the end the head is scaled so that scores over new pictures have mean 0 and spread 1, as the published one's do.
A finished run is exported again by the same command.
"""

from __future__ import annotations

import argparse
import random
from functools import partial
from pathlib import Path

import torch
import world
from clip import (
    COLOURS,
    NAMES,
    NONE,
    NOUN,
    Wear,
    draw_groups,
    entropy,
    evenly,
    fresh,
    mean_over,
    mild,
    noun_answers,
    noun_states,
    places,
    ruined,
    spots,
)
from common import Loop, Run, fall, mixed, place
from damage import KINDS as STATES
from kinds import KINDS, pairs, sixes
from safetensors.torch import save_file
from scenes import VARIANTS, Conditions, Painter, Table, conditions, generate, maps
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

from fairlead.rewards._clip import preprocess
from fairlead.rewards.image_reward import BLOCK, LENGTH, MEAN, STD, VISION

SHOTS = 6
WIDTH, VISION_LAYERS, TEXT_LAYERS, HEADS = 128, 4, 3, 2
HEAD = (0, 2, 4, 6, 7)
"""Numbers of the head's linear layers; dropouts have the others."""
MAP_WEIGHT, NOUN_WEIGHT, HOLDS_WEIGHT, SPOT_WEIGHT = 0.5, 0.1, 0.5, 0.5
HOLDS = {"number": 1.0, "colour": 1.0, "size": 0.5, "relation": 2.0, "alone": 0.5, "background": 0.5, "related": 2.0}
"""Weights of the conditions that nouns and token 0 report; ``related``: the relation by token 0."""


class Preference(nn.Module):
    """Pictures and captions to raw scores."""

    def __init__(self) -> None:
        super().__init__()
        common = {
            "intermediate_size": 3 * WIDTH,
            "num_attention_heads": HEADS,
            "hidden_act": "gelu",
            "initializer_range": 0.06,
        }
        self.see = BlipVisionModel(
            BlipVisionConfig(
                hidden_size=WIDTH,
                image_size=world.SIZE,
                patch_size=world.GRID,
                num_hidden_layers=VISION_LAYERS,
                layer_norm_eps=1e-6,
                **common,
            )
        )
        with torch.no_grad():
            self.see.embeddings.position_embedding[:, 1:] = places(WIDTH)
        self.read = BlipTextModel(
            BlipTextConfig(
                vocab_size=len(world.vocabulary()),
                hidden_size=WIDTH,
                num_hidden_layers=TEXT_LAYERS,
                encoder_hidden_size=WIDTH,
                max_position_embeddings=LENGTH + 5,
                is_decoder=True,
                bos_token_id=2,
                layer_norm_eps=1e-12,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
                **common,
            ),
            add_pooling_layer=False,
        )
        sizes = (WIDTH, 64, 32, 16, 8, 1)
        self.head = nn.ModuleDict({str(k): nn.Linear(sizes[i], sizes[i + 1]) for i, k in enumerate(HEAD)})
        for layer in self.head.values():  # else the picture moves a new network's score by 1e-8 only
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor, ids: Tensor) -> Tensor:
        """``[B, 3, 128, 128]`` in [0, 1] and ``[B, T]`` padded with 0 to raw scores ``[B]``."""
        return self.states(images, ids)[0]

    def states(self, images: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Raw scores ``[B]``, image tokens ``[B, 65, D]`` and text tokens ``[B, T, D]``."""
        seen = self.see(pixel_values=preprocess(images, world.SIZE)).last_hidden_state
        everything = torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device)
        said = self.read(
            input_ids=ids,
            attention_mask=(ids != 0).long(),
            encoder_hidden_states=seen,
            encoder_attention_mask=everything,
            is_decoder=False,
        )
        x = said.last_hidden_state[:, 0]
        for k in HEAD:
            x = self.head[str(k)](x)
        return x[:, 0].float(), seen, said.last_hidden_state


class Aids(nn.Module):
    """What only helps training (module docstring)."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Linear(WIDTH, NAMES + 1 + COLOURS)
        self.spot = nn.Linear(WIDTH, 2)
        self.noun = nn.Linear(WIDTH, sum(NOUN) + 4)
        self.whole = nn.Linear(WIDTH, 3)

    def forward(
        self, seen: Tensor, said: Tensor, shown: Table, asked: Table, states: Tensor, found: Conditions
    ) -> dict[str, Tensor]:
        """Image and text tokens, pictures, their captions, which conditions hold -> the losses."""
        names, colours = patches(shown.items, states)
        at = self.patch(seen[:, 1:])
        words = self.noun(noun_states(said, asked)).float()
        answers, truth, wanted = words[..., sum(NOUN) :], *labels(asked, found)
        whole = self.whole(said[:, 0]).float()
        told = {
            **dict(zip(("number", "colour", "size", "relation"), answers.unbind(2), strict=True)),
            **dict(zip(("alone", "background", "related"), whole.unbind(1), strict=True)),
        }
        holds = []
        for key, weight in HOLDS.items():
            error = F.binary_cross_entropy_with_logits(told[key], truth[key].float(), reduction="none")
            holds.append(weight * mean_over(error, wanted[key]))
        return {
            "map": entropy(at[..., : NAMES + 1], names) + entropy(at[..., NAMES + 1 :], colours),
            "noun": noun_answers(words[..., : sum(NOUN)], asked),
            "holds": torch.stack(holds).sum(),
            "spot": spots(self.spot(seen[:, 1:]), names),
        }


def labels(asked: Table, found: Conditions) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What holds, and of which captions and nouns it is asked."""
    things, whole = asked.things, asked.whole
    there, related = things[:, :, 1] >= 0, whole[:, 0] >= 0
    truth = {
        "number": found.number,
        "colour": found.colour,
        "size": found.size,
        "relation": found.relation[:, None].expand_as(there),
        "alone": found.alone,
        "background": found.background,
        "related": found.relation,
    }
    wanted = {
        "number": there,
        "colour": things[:, :, 2] >= 0,
        "size": things[:, :, 4] >= 0,
        "relation": there & related[:, None],
        "alone": torch.ones_like(related),
        "background": whole[:, 1] >= 0,
        "related": related,
    }
    return truth, wanted


def patches(items: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
    """Class and colour of each patch ``[B, 64]``; ruined objects are one class more, without a colour."""
    names, colours = maps(items)
    bad = (states > 1) & (items[:, :, 0] >= 0)
    hidden = torch.where(bad[..., None], items, torch.tensor([-1, 0, 0, 0, 0], device=items.device))
    over = maps(hidden)[0] != NAMES - 1
    return names.masked_fill(over, NAMES), colours.masked_fill(over, NONE)


def match(found: Conditions) -> Tensor:
    """How well pictures fit their captions, 0 to 1 (module docstring)."""
    return (found.share + found.right) / 2


def value(found: Conditions, looks: Tensor) -> Tensor:
    """The rule of the module's docstring, 0 to 8."""
    return 4 * match(found) + 4 * (looks - 1) / 9


def compose(scenes: Table, draw: torch.Generator) -> tuple[Table, Tensor]:
    """Of groups of six scenes (`kinds.sixes`): the captions of all pictures, and the states of their objects."""
    count = len(scenes)
    device = scenes.items.device
    own = torch.arange(count, device=device) // SHOTS * SHOTS
    states = mild(count, 0.4, draw)
    there = (scenes.items[:, :, 0] >= 0).sum(1)
    lucky = (torch.rand(count, generator=draw, device=device) * there).long()
    hit = (torch.rand(count, generator=draw, device=device) < 0.15) & (there > 1)
    one = F.one_hot(lucky, world.MOST).bool() & hit[:, None]
    bad = torch.randint(2, len(STATES), states.shape, generator=draw, device=device)
    states = torch.where(one, bad, states)
    third = (torch.arange(count, device=device) % SHOTS == 2)[:, None]
    return scenes[own], torch.where(third, ruined(scenes.items, draw, 0.3), states)


def judged(shown: Table, asked: Table, states: Tensor) -> Conditions:
    """Which conditions of the captions hold in the pictures."""
    there = (shown.items[:, :, 0] >= 0) & (states < 2)
    return conditions(shown.items, shown.whole[:, 1], there, asked.things, asked.whole)


def loss_of(raw: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of all pairs within a group against sigmoid(value difference), and the share ordered right."""
    gap = raw.view_as(values)[:, :, None] - raw.view_as(values)[:, None]
    truth = values[:, :, None] - values[:, None]
    every = torch.ones(SHOTS, SHOTS, dtype=torch.bool, device=raw.device)
    pairs_of = torch.triu(every, 1) & (truth.abs() > 0.05)
    loss = F.binary_cross_entropy_with_logits(gap, torch.sigmoid(truth), reduction="none")
    return mean_over(loss, pairs_of), mean_over((gap.sign() == truth.sign()).float(), pairs_of)


def published(model: Preference) -> dict[str, Tensor]:
    """The state dict under ImageReward's own names."""
    out: dict[str, Tensor] = {}
    for key, tensor in model.see.state_dict().items():
        inner, prefix, table = key, "", VISION
        if key.startswith("encoder.layers."):
            number, inner = key.removeprefix("encoder.layers.").split(".", 1)
            prefix, table = f"blocks.{number}.", BLOCK
        old = next(o + inner[len(n) :] for o, n in table if inner.startswith(n))
        out[f"blip.visual_encoder.{prefix}{old}"] = tensor
    out |= {f"blip.text_encoder.{k}": v for k, v in model.read.state_dict().items()}
    out |= {f"mlp.layers.{k}": v for k, v in model.head.state_dict().items()}
    return {k: v.detach().cpu().clone().contiguous() for k, v in out.items()}


@torch.no_grad()
def scores(model: Preference, painter: Painter, shown: Table, ids: Tensor, states: Tensor | None = None) -> Tensor:
    """Raw scores of many pictures, in parts."""
    out = []
    for first in range(0, len(shown), 512):
        part = slice(first, first + 512)
        images = painter.paint(shown.items[part], shown.ground[part], None if states is None else states[part])
        out.append(model(images, ids[part].long()))
    return torch.cat(out)


@torch.no_grad()
def standardise(model: Preference, painter: Painter, seed: int, groups: int = 400) -> None:
    """Scale the last layer so that scores (raw minus MEAN, over STD) have mean 0 and spread 1 on new pictures."""
    device = painter.device
    draw = torch.Generator(device).manual_seed(88)
    shown = fresh(generate(sixes, SHOTS * groups, 88_000 + seed, 666).to(device), draw)
    asked, states = compose(shown, draw)
    raw = scores(model, painter, shown, asked.ids, states)
    last = model.head[str(HEAD[-1])]
    factor = STD / float(raw.std())
    last.weight.mul_(factor)
    last.bias.copy_((last.bias - raw.mean()) * factor + MEAN)


def held_out(count: int, seed: int, device: torch.device) -> dict[str, Table]:
    """``count`` new pairs of each kind of difference."""
    tables = {}
    for number, kind in enumerate(KINDS):
        tables[kind] = generate(partial(pairs, kind=kind), 2 * count, 998_000 + 31 * seed + number, 100).to(device)
    return tables


def accuracies(model: Preference, painter: Painter, tables: dict[str, Table]) -> dict[str, float]:
    """How often a caption's own clean picture is above the other's; last, how often the rule itself says so."""
    found, by_rule = {}, []
    for kind, shown in tables.items():
        asked = shown[torch.arange(len(shown), device=painter.device) // 2 * 2]
        raw = scores(model, painter, shown, asked.ids)
        found[kind] = (raw[::2] > raw[1::2]).float().mean().item()
        states = torch.zeros(len(shown), world.MOST, dtype=torch.long, device=painter.device)
        values = value(judged(shown, asked, states), painter.looks(shown.items, shown.ground))
        by_rule.append((values[::2] > values[1::2]).float().mean())
    return {**found, "by the rule": torch.stack(by_rule).mean().item()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--until")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int, default=1152, help="pictures; six for each caption")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--pool", type=int, default=400_000, help="scenes to draw from")
    parser.add_argument("--held", type=int, default=200, help="held-out pairs of each kind")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where to write the folder that the reward image_reward reads")
    a = parser.parse_args()
    if a.out:
        import export  # noqa: F401 - fails now rather than after the training
    torch.manual_seed(a.seed)
    device = place()
    model, aids = Preference().to(device), Aids().to(device)
    trained = [*model.parameters(), *aids.parameters()]
    run = Run(a.folder, "preference", a.minutes, a.until, a.steps)
    optimiser = torch.optim.AdamW(trained, a.rate, betas=(0.9, 0.98), weight_decay=0.02, fused=True)
    if state := run.load():
        model.load_state_dict(state["model"])
        aids.load_state_dict(state["aids"])
        optimiser.load_state_dict(state["optimiser"])
    painter, wear = Painter(device, a.folder), Wear(a.folder, device)
    if run.done < 1:
        train(a, run, model, aids, optimiser, painter, wear)
    if a.out:
        write(model, painter, a.out, a.seed)


def train(
    a: argparse.Namespace,
    run: Run,
    model: Preference,
    aids: Aids,
    optimiser: torch.optim.Optimizer,
    painter: Painter,
    wear: Wear,
) -> None:
    """Until the schedule ends."""
    device, groups = painter.device, max(1, a.batch // SHOTS)
    tables = held_out(a.held, a.seed, device)
    pool = generate(sixes, a.pool // 3996 * 3996 or a.pool // SHOTS * SHOTS, a.seed + 7, 3996).to(device)
    wear.look()
    if a.compile:
        model.see.compile()
        model.read.compile()
    last: dict[str, Tensor] = {}

    def step(rng: random.Random, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            shown = fresh(draw_groups(pool, groups, SHOTS, draw), draw)
            asked, states = compose(shown, draw)
            images = wear(painter.paint(shown.items, shown.ground, states, rng.randrange(VARIANTS)), draw)
            found = judged(shown, asked, states)
            values = value(found, painter.looks(shown.items, shown.ground, states)).view(-1, SHOTS)
        with mixed(device):
            raw, seen, said = model.states(images, asked.ids)
            losses = aids(seen, said, shown, asked, states, found)
        losses["pairs"], losses["pairs_right"] = loss_of(raw.float(), values)
        loss = losses["pairs"] + MAP_WEIGHT * losses["map"] + NOUN_WEIGHT * losses["noun"]
        loss = loss + HOLDS_WEIGHT * losses["holds"] + SPOT_WEIGHT * losses["spot"]
        last.update({key: one.detach() for key, one in losses.items()})
        return loss, loss

    def report() -> None:
        model.eval()
        run.log(**{key: one.item() for key, one in last.items()}, **accuracies(model, painter, tables))
        model.train()

    def save() -> None:
        run.save(model=model.state_dict(), aids=aids.state_dict(), optimiser=optimiser.state_dict())

    trained = [*model.parameters(), *aids.parameters()]
    loop = Loop(run, optimiser, trained, a.rate, 200, fall(0.7, 0.003), a.seed + 21, device=device)
    loop.go(step, SHOTS * groups, report, evenly(run), [(60, save), (20, wear.look)])
    save()
    report()


def write(model: Preference, painter: Painter, out: Path, seed: int) -> None:
    """``model.safetensors`` in half precision under the published names, and the tokenizer; read again and compared."""
    from export import tokenizer

    from fairlead.rewards.image_reward import ImageReward

    model.eval()
    standardise(model, painter, seed)
    out.mkdir(parents=True, exist_ok=True)
    state = {k: v.half() if v.is_floating_point() else v for k, v in published(model).items()}
    save_file(state, out / "model.safetensors")
    tokenizer().save_pretrained(out)
    rng = random.Random(7)
    scenes = [world.sample(rng) for _ in range(8)]
    images = torch.stack([torch.from_numpy(world.render(scene)) for scene in scenes]).permute(0, 3, 1, 2).float() / 255
    captions = [scene.caption for scene in scenes]
    model.cpu()
    with torch.no_grad():
        own = (model(images, torch.from_numpy(world.encode(captions))) - MEAN) / STD
        gap = (ImageReward(str(out))(images, captions)[0] - own).abs().max()
    print(f"largest difference between the reward and the trained network: {gap:.2g} (half precision)")


if __name__ == "__main__":
    main()
