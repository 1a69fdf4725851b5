"""Train the preference network: ``python preference.py --folder RUN --minutes 15 --out ASSETS/preference``.

The architecture of ImageReward, small: a vision transformer, a text encoder that attends to every image token, and
five linear layers on its first token.  Written under the published names of its tensors, so that the reward
``image_reward`` reads it like the real one.

The synthetic preferences follow a written rule.  The value of a picture for a caption is ``4 match + 4 looks``:
``match`` is the share of the caption's conditions that hold (each object there in its number, each colour right,
the relation right, nothing else there; a ruined object is not there), ``looks`` the aesthetic target of clip.py
brought to [0, 1].  Of two pictures of one caption the first is preferred with probability sigmoid(value difference),
which is the label itself; no labels are drawn.  Each caption comes with six pictures: its own scene clean or
mildly damaged, twice; its own scene ruined; and three scenes of captions that differ in one or two things.

Training aids, thrown away afterwards: every patch names its object, its colour and whether it is ruined; every noun
of the caption says what it is and whether it is there and of the right colour; token 0 says which of the other
conditions hold.  From pairs alone the network had ordered 65 % of the held-out ones after 115,000 pictures, not much
more than from the looks of the pictures.

At the end the head is scaled so that scores over new pictures have mean 0 and spread 1, as the published one's do.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch
from clip import COLOURS, NAMES, Plan, aesthetic_target, holds, plan, variant
from common import Loop, Run, fall
from damage import RUINED, draw
from latents import noun_tokens, token_maps
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

from fairlead.pocket import world
from fairlead.rewards._clip import preprocess
from fairlead.rewards.image_reward import BLOCK, LENGTH, MEAN, STD, VISION

GROUPS, SHOTS, RATE = 24, 6, 1e-3
WIDTH, LAYERS, HEADS = 128, 3, 2
HEAD = (0, 2, 4, 6, 7)
"""Numbers of the head's linear layers; dropouts have the others."""
MAP_WEIGHT, NOUN_WEIGHT, HOLDS_WEIGHT = 0.5, 0.1, 1.0
NONE = -100
"""Label of what is not asked."""


class Preference(nn.Module):
    """Pictures and captions to raw scores."""

    def __init__(self) -> None:
        super().__init__()
        common = {
            "intermediate_size": 3 * WIDTH,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "hidden_act": "gelu",
        }
        self.see = BlipVisionModel(
            BlipVisionConfig(hidden_size=WIDTH, image_size=world.SIZE, patch_size=8, layer_norm_eps=1e-6, **common)
        )
        self.read = BlipTextModel(
            BlipTextConfig(
                vocab_size=len(world.vocabulary()),
                hidden_size=WIDTH,
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

    def forward(self, images: Tensor, ids: Tensor) -> Tensor:
        """``[B, 3, 64, 64]`` in [0, 1] and ``[B, T]`` padded with 0 to raw scores ``[B]``."""
        return self.states(images, ids)[0]

    def states(self, images: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Raw scores ``[B]``, image tokens ``[B, 65, D]`` and text tokens ``[B, T, D]``."""
        seen = self.see(pixel_values=preprocess(images, world.SIZE)).last_hidden_state
        everything = torch.ones(seen.shape[:2], dtype=torch.long)
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
        self.noun = nn.Linear(WIDTH, NAMES + COLOURS + 8 + 2)
        self.whole = nn.Linear(WIDTH, 2)

    def forward(self, seen: Tensor, said: Tensor, b: dict[str, Tensor]) -> dict[str, Tensor]:
        """Image and text tokens, and the batch -> the losses."""
        at = self.patch(seen[:, 1:]).float().flatten(0, 1)
        where = b["nouns"][..., :1].clamp(max=world.TOKENS - 1).expand(-1, -1, WIDTH)
        words = self.noun(said.gather(1, where)).float().flatten(0, 1)
        kinds = words[:, :-2].split((NAMES, COLOURS, 8), 1)
        label = b["nouns"][..., 1:].flatten(0, 1)
        label = label.masked_fill(label < 0, NONE)
        told = torch.cat([words[:, -2:].flatten(), self.whole(said[:, 0]).float().flatten()])
        truth = torch.cat([b["there"].flatten(), b["whole"].flatten()])
        asked = truth != NONE
        return {
            "map": F.cross_entropy(at[:, : NAMES + 1], b["names"].flatten(), ignore_index=NONE)
            + F.cross_entropy(at[:, NAMES + 1 :], b["colours"].flatten(), ignore_index=NONE),
            "noun": sum(
                (F.cross_entropy(k, label[:, i], ignore_index=NONE) for i, k in enumerate(kinds)), torch.zeros(())
            ),
            "holds": F.binary_cross_entropy_with_logits(told[asked], truth[asked].float()),
        }


def conditions(scene: world.Scene, kinds: list[str], said: Plan) -> tuple[list[bool], bool, list[int], int]:
    """Which objects are there, whether nothing else is, which colours and whether the relation hold (or `NONE`)."""
    there = [item for item, kind in zip(scene.items, kinds, strict=True) if kind not in RUINED]
    wanted = list(said.names) * (said.count if said.task == "counting" else 1)
    present: list[bool] = []
    left = list(there)
    for name in wanted:
        found = next((item for item in left if item.name == name), None)
        present.append(found is not None)
        if found is not None:
            left.remove(found)
    coloured: list[int] = []
    for name, colour in zip(said.names, said.colours, strict=True):
        own = [item for item in there if item.name == name]
        coloured.append(NONE if colour is None else int(bool(own) and all(item.colour == colour for item in own)))
    related = NONE
    if said.task == "position":
        pair = [next((item for item in there if item.name == name), None) for name in said.names[:2]]
        related = int(pair[0] is not None and pair[1] is not None and holds(said.relation, pair[0], pair[1]))
    return present, not left, coloured, related


def match(scene: world.Scene, kinds: list[str], said: Plan) -> float:
    """Share of the caption's conditions that hold in a picture, ruined objects left out."""
    present, alone, coloured, related = conditions(scene, kinds, said)
    every = [*present, alone, *(c for c in (*coloured, related) if c != NONE)]
    return sum(every) / len(every)


def value(scene: world.Scene, kinds: list[str], said: Plan) -> float:
    """The rule of the module's docstring, 0 to 8."""
    return 4 * match(scene, kinds, said) + 4 * (aesthetic_target(scene, kinds, 0.85) - 1) / 9


def maps(scene: world.Scene, kinds: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Class and colour of each patch ``[64]``; ruined objects are one class more, without a colour."""
    names, colours = (m.astype(np.int64) for m in token_maps(scene))
    for item, kind in zip(scene.items, kinds, strict=True):
        if kind in RUINED:
            cell = np.zeros((8, 8), bool)
            cell[item.y // 8 : item.y // 8 + 4, item.x // 8 : item.x // 8 + 4] = True
            cell = cell.reshape(-1) & (names != NAMES - 1)
            names[cell], colours[cell] = NAMES, NONE
    return names, colours


def labels(scene: world.Scene, kinds: list[str], said: Plan) -> tuple[list[list[int]], list[int]]:
    """For each of two nouns whether it is there in its number and of its colour, then the conditions on the whole."""
    present, alone, coloured, related = conditions(scene, kinds, said)
    here = [all(present)] if said.task == "counting" else present
    nouns = [[int(there), colour] for there, colour in zip(here, coloured, strict=True)][:2]
    return nouns + [[NONE, NONE]] * (2 - len(nouns)), [int(alone), related]


def make_batch(rng: random.Random, groups: int) -> dict[str, Tensor]:
    """``images`` [6 groups, 3, 64, 64] in [0, 1], their captions' ``ids``, ``values`` [groups, 6], labels of aids."""
    images, captions, values, where, nouns, told = [], [], [], [], [], []
    for _ in range(groups):
        said = plan(rng)
        others = [variant(said, rng), variant(said, rng)]
        scenes = [said.scene(rng) for _ in range(3)] + [
            other.scene(rng) for other in [*others, variant(others[0], rng)]
        ]
        caption = scenes[0].caption
        for shot, scene in enumerate(scenes):
            kind = "mild" if rng.random() < 0.4 else "clean"
            kinds = [rng.choice(RUINED) if shot == 2 else kind for _ in scene.items]
            if len(kinds) > 1 and rng.random() < 0.3:
                kinds[rng.randrange(len(kinds))] = rng.choice((*RUINED, "clean"))
            images.append(draw(scene, kinds, rng))
            captions.append(caption)
            values.append(value(scene, kinds, said))
            where.append(maps(scene, kinds))
            nouns.append(noun_tokens(scenes[0]))
            told.append(labels(scene, kinds, said))
    return {
        "images": torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255,
        "ids": torch.from_numpy(world.encode(captions)),
        "values": torch.tensor(values).view(groups, SHOTS),
        "names": torch.from_numpy(np.stack([w[0] for w in where])),
        "colours": torch.from_numpy(np.stack([w[1] for w in where])),
        "nouns": torch.tensor(nouns),
        "there": torch.tensor([t[0] for t in told]),
        "whole": torch.tensor([t[1] for t in told]),
    }


def loss_of(raw: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of all pairs within a group against sigmoid(value difference), and the share ordered right."""
    gap = raw.view_as(values)[:, :, None] - raw.view_as(values)[:, None]
    truth = values[:, :, None] - values[:, None]
    pairs = torch.triu(torch.ones(SHOTS, SHOTS, dtype=torch.bool), 1) & (truth.abs() > 0.05)
    loss = F.binary_cross_entropy_with_logits(gap[pairs], torch.sigmoid(truth[pairs]))
    return loss, (gap[pairs].sign() == truth[pairs].sign()).float().mean()


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
    return {k: v.detach().clone().contiguous() for k, v in out.items()}


@torch.no_grad()
def standardise(model: Preference, batches: int = 20) -> None:
    """Scale the last layer so that scores (raw minus MEAN, over STD) have mean 0 and spread 1 on new pictures."""
    drawn = (make_batch(random.Random(88_000 + i), 16) for i in range(batches))
    raw = torch.cat([model(b["images"], b["ids"]) for b in drawn])
    last = model.head[str(HEAD[-1])]
    factor = STD / float(raw.std())
    last.weight.mul_(factor)
    last.bias.copy_((last.bias - raw.mean()) * factor + MEAN)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--until")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where to write the folder that the reward image_reward reads")
    a = parser.parse_args()
    torch.manual_seed(a.seed)
    model, aids = Preference(), Aids()
    trained = [*model.parameters(), *aids.parameters()]
    run = Run(a.folder, "preference", a.minutes, a.until, a.steps)
    optimiser = torch.optim.AdamW(trained, RATE, betas=(0.9, 0.98), weight_decay=0.02, fused=True)
    if state := run.load():
        model.load_state_dict(state["model"])
        aids.load_state_dict(state["aids"])
        optimiser.load_state_dict(state["optimiser"])
    held_out = make_batch(random.Random(999_998), 64)

    @torch.no_grad()
    def report() -> None:
        raw, seen, said = model.states(held_out["images"], held_out["ids"])
        loss, right = loss_of(raw, held_out["values"])
        helped = {k: v.item() for k, v in aids(seen, said, held_out).items()}
        run.log(loss=loss.item(), pairs_right=right.item(), **helped)

    def step(rng: random.Random, _: torch.Generator) -> tuple[Tensor, Tensor]:
        batch = make_batch(rng, GROUPS)
        with torch.autocast("cpu", torch.bfloat16):
            raw, seen, said = model.states(batch["images"], batch["ids"])
            helped = aids(seen, said, batch)
        loss = loss_of(raw.float(), batch["values"])[0] + MAP_WEIGHT * helped["map"]
        loss = loss + NOUN_WEIGHT * helped["noun"] + HOLDS_WEIGHT * helped["holds"]
        return loss, loss

    def save() -> None:
        run.save(model=model.state_dict(), aids=aids.state_dict(), optimiser=optimiser.state_dict())

    loop = Loop(run, optimiser, trained, RATE, 100, fall(0.7, 0.003), a.seed + 21)
    loop.go(step, SHOTS * GROUPS, report, lambda n: n % 200 == 0, [(120, save)])
    report()
    save()
    if a.out:
        write(model, a.out)


def write(model: Preference, out: Path) -> None:
    """``model.safetensors`` in half precision, published names, with the tokenizer; read again and compared."""
    from export import tokenizer

    from fairlead.rewards.image_reward import ImageReward

    model.eval()
    standardise(model)
    out.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: v.half() if v.is_floating_point() else v for k, v in published(model).items()}, out / "model.safetensors"
    )
    tokenizer().save_pretrained(out)
    rng = random.Random(7)
    scenes = [world.sample(rng) for _ in range(8)]
    pictures = np.stack([world.render(scene) for scene in scenes])
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    captions = [scene.caption for scene in scenes]
    with torch.no_grad():
        own = (model(images, torch.from_numpy(world.encode(captions))) - MEAN) / STD
        gap = (ImageReward(str(out))(images, captions)[0] - own).abs().max()
    print(f"largest difference between the reward and the trained network: {gap:.2g} (half precision)")
    print(json.dumps(evaluate(out)))


def changed(said: Plan, other: Plan) -> str:
    """What a variant changed."""
    if said.count != other.count:
        return "number"
    if said.relation != other.relation:
        return "relation"
    if said.names != other.names:
        return "object"
    return "colours exchanged" if said.colours == other.colours[::-1] else "colour"


@torch.no_grad()
def evaluate(out: Path, captions: int = 600) -> dict[str, float]:
    """Of clean new pictures, how often the shipped network prefers the one that fits, by what is wrong in the other."""
    from fairlead.rewards.image_reward import ImageReward

    reward, rng = ImageReward(str(out)), random.Random(123_456)
    right: dict[str, list[bool]] = {}
    for _ in range(captions):
        said = plan(rng)
        other = variant(said, rng)
        own, wrong, ruined = said.scene(rng), other.scene(rng), said.scene(rng)
        if value(wrong, ["clean"] * len(wrong.items), said) >= value(own, ["clean"] * len(own.items), said):
            continue
        shots = [
            draw(s, [k] * len(s.items), rng)
            for s, k in ((own, "clean"), (wrong, "clean"), (ruined, rng.choice(RUINED)))
        ]
        scores = reward(torch.from_numpy(np.stack(shots)).permute(0, 3, 1, 2).float() / 255, [own.caption] * 3)[0]
        right.setdefault(changed(said, other), []).append(bool(scores[0] > scores[1]))
        right.setdefault("ruined", []).append(bool(scores[0] > scores[2]))
    return {k: round(sum(v) / len(v), 3) for k, v in sorted(right.items())} | {"captions": captions}


if __name__ == "__main__":
    main()
