"""Train transformer and text encoders together: ``python transformer.py --folder RUN --minutes 100``.

Needs ``pool.pt`` and ``held_out.pt`` of latents.py.  Stop it whenever you like: the same command resumes
from the last checkpoint.  ``--until HH:MM`` ends the rate's decay at that time, ``--steps`` makes the
schedule a function of steps only.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import (
    WIDTH,
    Loop,
    Run,
    autoencoder,
    clip_encoder,
    fall,
    t5_encoder,
    to_pixels,
    transformer,
    unpack,
)
from latents import NO_ROLE
from torch import nn
from torch.nn import functional as F

from fairlead.pocket import world

RATE, BATCH, WARM_UP, CONSTANT = 2e-3, 16, 100, 0.3
DROPOUT, MAP_WEIGHT, NOUN_WEIGHT = 0.1, 0.1, 0.03
AVERAGE = 0.9993
NAMES, COLOURS = len(world.NAMES) + 1, len(world.COLOURS) + 2

PROMPTS = [
    "a photo of a dog",
    "a photo of an apple",
    "a photo of three donuts",
    "a photo of a purple car",
    "a photo of a cat left of a pizza",
    "a photo of a blue bear and a red bus",
    "a photo of a zebra above a tv",
    "a photo of two carrots",
    "a photo of a kite",
    "a photo of a green elephant",
    "a photo of four clocks",
    "a photo of a pink couch and a green book",
    "a photo of a giraffe right of a boat",
    "a photo of a cup and a spoon",
    "a photo of an orange horse",
    "a photo of a red apple left of a dog",
]

TEXT_IDS = torch.zeros(world.TOKENS, 3)
IMAGE_IDS = torch.zeros(8, 8, 3)
IMAGE_IDS[..., 1] += torch.arange(8)[:, None]
IMAGE_IDS[..., 2] += torch.arange(8)[None]
POSITIONS = torch.cat([TEXT_IDS, IMAGE_IDS.view(64, 3)])
EMPTY = torch.from_numpy(world.encode([""]))


def plain_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Attention by two matrix products: its backward on a CPU is much faster than the flash kernel's."""
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-1, -2)
    if is_causal:
        scores = scores + torch.full(scores.shape[-2:], -1e4, dtype=scores.dtype).triu(1)
    if attn_mask is not None:
        bias = torch.where(attn_mask, 0.0, -1e4) if attn_mask.dtype == torch.bool else attn_mask
        scores = scores + bias.to(scores.dtype)
    return scores.softmax(-1).to(value.dtype) @ value


def predict(
    model: Any, z: torch.Tensor, t: torch.Tensor, embeddings: torch.Tensor, pooled: torch.Tensor, rope: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """The stock forward, which also returns the image tokens in the middle of the single blocks."""
    hidden, text = model.x_embedder(z), model.context_embedder(embeddings)
    temb = model.time_text_embed((t * 1000).to(hidden.dtype), pooled)
    middle = hidden
    for block in model.transformer_blocks:
        text, hidden = block(hidden, text, temb=temb, image_rotary_emb=rope)
    for index, block in enumerate(model.single_transformer_blocks):
        text, hidden = block(hidden, text, temb=temb, image_rotary_emb=rope)
        if index == len(model.single_transformer_blocks) // 2 - 1:
            middle = hidden
    return model.proj_out(model.norm_out(hidden, temb)), middle


def read(t5: Any, clip: Any, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Token vectors and pooled vector of captions; no mask, as in FluxPipeline."""
    return t5(input_ids=ids).last_hidden_state, clip(input_ids=ids).pooler_output


@torch.no_grad()
def generate(
    nets: Any,
    prompts: list[str],
    steps: int = 20,
    guidance: float = 3.0,
    seed: int = 0,
    autocast: bool = True,
    shift: float = 1.0,
) -> torch.Tensor:
    """Latent tokens ``[B, 64, 32]`` (normalised) by Euler steps with real guidance."""
    model, t5, clip = nets
    ids = torch.from_numpy(world.encode(prompts))
    z = torch.randn(len(prompts), 64, 32, generator=torch.Generator().manual_seed(seed))
    sigmas = [shift * s / (1 + (shift - 1) * s) for s in np.linspace(1.0, 1 / steps, steps).tolist()] + [0.0]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        embeddings, pooled = read(t5, clip, torch.cat([ids, EMPTY.expand(len(ids), -1)]))
        rope = model.pos_embed(POSITIONS)
        for now, then in itertools.pairwise(sigmas):
            t = torch.full((2 * len(ids),), now)
            v = predict(model, torch.cat([z, z]), t, embeddings, pooled, rope)[0].float()
            with_text, without = v.chunk(2)
            z = z + (then - now) * (without + guidance * (with_text - without))
    return z


class Heads(nn.Module):
    """Training aids, thrown away afterwards: what is at each image token, what each noun means."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Linear(WIDTH, NAMES + COLOURS)
        self.text = nn.Linear(128, NAMES + COLOURS + 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=100)
    parser.add_argument("--until")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--noise-mean", type=float, default=1.0, help="of the logit of the noise level")
    parser.add_argument("--easy", type=float, default=0.4, help="share kept of scenes with one object")
    parser.add_argument("--object-weight", type=float, default=1.5, help="extra weight of tokens with objects")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    torch.manual_seed(a.seed)
    F.scaled_dot_product_attention = plain_attention
    pool, held_out = torch.load(a.folder / "pool.pt"), torch.load(a.folder / "held_out.pt")
    shift, scale, count = pool["shift"], pool["scale"], len(pool["z"])
    decoder = autoencoder().eval()
    decoder.load_state_dict(torch.load(a.folder / "autoencoder.pt")["model"])
    nets = (transformer(), t5_encoder(), clip_encoder())
    heads = Heads()
    averaged = tuple(copy.deepcopy(net).eval() for net in nets)
    source = [p for net in nets for p in net.parameters()]
    target = [p for net in averaged for p in net.parameters()]
    trained = source + list(heads.parameters())
    optimiser = torch.optim.AdamW(trained, RATE, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    run = Run(a.folder, "transformer", a.minutes, a.until, a.steps)
    state = run.load()
    if state:
        for net, average, weights, mean in zip(nets, averaged, state["nets"], state["averaged"], strict=True):
            net.load_state_dict(weights)
            average.load_state_dict(mean)
        heads.load_state_dict(state["heads"])
        optimiser.load_state_dict(state["optimiser"])
    for block in [*nets[0].transformer_blocks, *nets[0].single_transformer_blocks]:
        block.compile()
    rope = nets[0].pos_embed(POSITIONS)
    easy = (pool["nouns"][:, 1, 1] < 0) & (pool["nouns"][:, 0, 3] == NO_ROLE)
    chances = torch.where(easy, a.easy, 1.0).cumsum(0).tolist()

    def losses(index: torch.Tensor, noise: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        size = len(index)
        z = (pool["z"][index].float() - shift) * scale
        kept = torch.rand(size, generator=noise) >= DROPOUT
        ids = torch.where(kept[:, None], pool["ids"][index].long(), EMPTY)
        e = torch.randn(z.shape, generator=noise)
        t = torch.sigmoid(torch.randn(size, generator=noise) + a.noise_mean)
        uniform = torch.rand(size, generator=noise)
        t = torch.where(torch.rand(size, generator=noise) < 0.1, uniform, t)
        with torch.autocast("cpu", torch.bfloat16):
            embeddings, pooled = read(nets[1], nets[2], ids)
            mixed = (1 - t[:, None, None]) * z + t[:, None, None] * e
            v, middle = predict(nets[0], mixed, t, embeddings, pooled, rope)
            seen = heads.image(middle).float()
            nouns = pool["nouns"][index].long()
            said = heads.text(embeddings.gather(1, nouns[..., :1].expand(-1, -1, 128))).float()
        names, colours = pool["names"][index].long(), pool["colours"][index].long()
        error = (v.float() - (e - z)).pow(2).mean(2)
        weight = 1 + a.object_weight * (names < NAMES - 1).float() * (1 - t)[:, None]
        maps = F.cross_entropy(seen[..., :NAMES].flatten(0, 1), names.flatten())
        maps = maps + 0.5 * F.cross_entropy(seen[..., NAMES:].flatten(0, 1), colours.flatten())
        label = torch.where(kept[:, None, None], nouns[..., 1:], -1).flatten(0, 1)
        said = said.flatten(0, 1)
        parts = (said[:, :NAMES], said[:, NAMES : NAMES + COLOURS], said[:, NAMES + COLOURS :])
        valid = (label[:, 0] >= 0).sum().clamp(min=1)
        words = sum(
            F.cross_entropy(p, label[:, k], ignore_index=-1, reduction="sum") / valid for k, p in enumerate(parts)
        )
        total = (error * weight).sum() / weight.sum() + MAP_WEIGHT * maps + NOUN_WEIGHT * words
        return total, error.mean()

    @torch.no_grad()
    def validate() -> float:
        """Velocity error of the averaged weights on held-out scenes, t uniform, fixed noise."""
        noise = torch.Generator().manual_seed(7)
        z = (held_out["z"].float() - shift) * scale
        t = (torch.arange(len(z)) + 0.5) / len(z)
        e = torch.randn(z.shape, generator=noise)
        total = 0.0
        order = torch.randperm(len(z), generator=noise)
        for part in order.split(128):
            with torch.autocast("cpu", torch.bfloat16):
                s = t[part][:, None, None]
                text = read(averaged[1], averaged[2], held_out["ids"][part].long())
                v = predict(averaged[0], (1 - s) * z[part] + s * e[part], t[part], *text, rope)[0]
            total += (v.float() - (e[part] - z[part])).pow(2).mean().item() * len(part)
        return total / len(z)

    def save() -> None:
        run.save(
            nets=[net.state_dict() for net in nets],
            averaged=[net.state_dict() for net in averaged],
            heads=heads.state_dict(),
            optimiser=optimiser.state_dict(),
            shift=shift,
            scale=scale,
        )

    def show() -> None:
        latents = unpack(generate(averaged, PROMPTS)) / scale + shift
        with torch.no_grad():
            images = decoder.decode(latents).sample
        world.grid(to_pixels(images)).save(a.folder / f"grid_{int(run.seconds / 60):03d}.png")

    decay = fall(1 - CONSTANT, 0.01)
    loop = Loop(run, optimiser, trained, RATE, WARM_UP, decay, a.seed, 0.01, target, source, AVERAGE)

    def step(rng: random.Random, noise: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        return losses(torch.tensor(rng.choices(range(count), cum_weights=chances, k=BATCH)), noise)

    def log() -> None:
        run.log(loss=loop.mean, held_out=validate(), rate=loop.now)

    losses(torch.arange(BATCH), torch.Generator())[0].backward()
    optimiser.zero_grad()
    loop.go(step, BATCH, log, lambda n: n % 1000 == 0 or n in (50, 200, 500), [(300, save), (600, show)])
    log()
    save()
    show()


if __name__ == "__main__":
    main()
