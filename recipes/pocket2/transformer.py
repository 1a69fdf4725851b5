"""Train transformer and text encoders together: ``python transformer.py --folder RUN --minutes 8``.

Needs ``pool.pt`` and ``held_out.pt`` of latents.py, and ``clip.pt`` of clip.py, from whose text tower the pooled text
encoder starts.  The middle of the transformer is aligned with what is in the picture (class and colour of every token),
as Yu et al. 2024 (REPA, arXiv 2410.06940) align theirs with an image encoder.  Stop it whenever you like: the same
command resumes from the last checkpoint.  ``--until HH:MM`` ends the rate's decay at that time, ``--steps`` makes the
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
import world
from common import (
    LATENT,
    TEXT,
    TOKENS_ACROSS,
    WIDTH,
    Loop,
    Run,
    autoencoder,
    clip_encoder,
    fall,
    mixed,
    place,
    t5_encoder,
    to_pixels,
    transformer,
    unpack,
)
from torch import nn
from torch.nn import functional as F

WARM_UP, CONSTANT = 300, 0.45
DROPOUT, MAP_WEIGHT, NOUN_WEIGHT = 0.1, 0.1, 0.03
AVERAGE = 0.9993
STEPS, GUIDANCE, SHIFT = 20, 3.0, 3.0
"""The defaults of the finished model: Euler steps, scale of the guidance, shift of the schedule."""
NAMES, COLOURS, COUNTS, PLACES = len(world.NAMES) + 1, len(world.COLOURS) + 2, 5, 5
IMAGE_TOKENS = TOKENS_ACROSS**2

PROMPTS = [
    "a photo of a dog",
    "a photo of an apple",
    "a photo of three donuts",
    "a photo of a purple car",
    "a photo of a cat left of a pizza",
    "a photo of a blue bear and a red bus",
    "a photo of a zebra above a tv",
    "a photo of two red carrots and three cups",
    "a photo of a kite on a green background",
    "a photo of a small elephant",
    "a photo of four clocks",
    "a photo of a pink couch and a green book",
    "a photo of a blue giraffe right of a red boat",
    "a photo of a cup, a spoon and a banana",
    "a photo of a big orange horse",
    "a photo of a red apple left of a dog",
]

TEXT_IDS = torch.zeros(world.TOKENS, 3)
IMAGE_IDS = torch.zeros(TOKENS_ACROSS, TOKENS_ACROSS, 3)
IMAGE_IDS[..., 1] += torch.arange(TOKENS_ACROSS)[:, None]
IMAGE_IDS[..., 2] += torch.arange(TOKENS_ACROSS)[None]
POSITIONS = torch.cat([TEXT_IDS, IMAGE_IDS.view(IMAGE_TOKENS, 3)])
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


def quicken(device: torch.device) -> None:
    """On a CPU, attention by matrix products."""
    if device.type == "cpu":
        F.scaled_dot_product_attention = plain_attention


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


def levels(steps: int, shift: float = SHIFT) -> list[float]:
    """Noise levels of Euler steps under a shift (Esser et al. 2024, arXiv 2403.03206, eq. 23), ending in 0, as
    FlowMatchEulerDiscreteScheduler has them."""
    return [shift * s / (1 + (shift - 1) * s) for s in np.linspace(1.0, 1 / steps, steps).tolist()] + [0.0]


@torch.no_grad()
def follow(
    nets: Any, ids: torch.Tensor, z: torch.Tensor, steps: int, guidance: float, shift: float = SHIFT, fast: bool = True
) -> list[torch.Tensor]:
    """Latent tokens [B, 64, 64] after every Euler step with real guidance, from the noise ``z``."""
    model, t5, clip = nets
    device = z.device
    points = []
    empty = EMPTY.to(device).expand(len(ids), -1)
    rope = model.pos_embed(POSITIONS.to(device))
    with mixed(device, fast):
        text = read(t5, clip, torch.cat([ids, empty]) if guidance != 1 else ids)
        for now, then in itertools.pairwise(levels(steps, shift)):
            t = torch.full((len(text[0]),), now, device=device)
            v = predict(model, torch.cat([z, z]) if guidance != 1 else z, t, *text, rope)[0].float()
            if guidance != 1:
                with_text, without = v.chunk(2)
                v = without + guidance * (with_text - without)
            z = z + (then - now) * v
            points.append(z)
    return points


def generate(
    nets: Any,
    prompts: list[str],
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    seed: int = 0,
    fast: bool = True,
    shift: float = SHIFT,
) -> torch.Tensor:
    """Latent tokens ``[B, 64, 64]`` (normalised) by Euler steps with real guidance."""
    device = next(nets[0].parameters()).device
    ids = torch.from_numpy(world.encode(prompts)).to(device)
    draw = torch.Generator().manual_seed(seed)
    z = torch.randn(len(prompts), IMAGE_TOKENS, 4 * LATENT, generator=draw).to(device)
    return follow(nets, ids, z, steps, guidance, shift, fast)[-1]


@torch.no_grad()
def decode(folder: Path, latents: torch.Tensor) -> world.Pixels:
    """Pictures of latents [B, 16, 16, 16] as the autoencoder gives them."""
    decoder = autoencoder().eval().to(latents.device)
    decoder.load_state_dict(torch.load(folder / "autoencoder.pt", map_location="cpu")["model"])
    return to_pixels(decoder.decode(latents).sample)


class Heads(nn.Module):
    """Training aids, thrown away afterwards: what is at each image token, what each noun means."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Linear(WIDTH, NAMES + COLOURS)
        self.text = nn.Linear(TEXT, NAMES + COLOURS + COUNTS + PLACES)


def meanings(pool: dict[str, torch.Tensor]) -> torch.Tensor:
    """``[N, 3, 5]``: token, class, colour (10: none named), number, place (0..3 relation to the other, 4 none)."""
    things, relation = pool["things"].long(), pool["whole"][:, 0].long()
    place = torch.full(things.shape[:2], PLACES - 1)
    place[:, 0] = torch.where(relation >= 0, relation, place[:, 0])
    place[:, 1] = torch.where(relation >= 0, relation ^ 1, place[:, 1])
    colour = torch.where(things[..., 2] < 0, len(world.COLOURS), things[..., 2])
    out = torch.stack([things[..., 0], things[..., 1], colour, things[..., 3], place], 2)
    return torch.where(things[..., 1:2] < 0, -1, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--until")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--noise-mean", type=float, default=0.8, help="of the logit of the noise level")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    torch.manual_seed(a.seed)
    device = place()
    quicken(device)
    pool, held_out = torch.load(a.folder / "pool.pt"), torch.load(a.folder / "held_out.pt")
    shift, scale, count = pool["shift"], pool["scale"], len(pool["z"])
    nouns_of = meanings(pool).to(device)
    data = {key: pool[key].to(device) for key in ("z", "ids", "names", "colours")}
    held = {key: held_out[key].to(device) for key in ("z", "ids")}
    nets = tuple(net.to(device) for net in (transformer(), t5_encoder(), clip_encoder(a.folder)))
    heads = Heads().to(device)
    averaged = tuple(copy.deepcopy(net).eval() for net in nets)
    source = [p for net in nets for p in net.parameters()]
    target = [p for net in averaged for p in net.parameters()]
    trained = source + list(heads.parameters())
    optimiser = torch.optim.AdamW(trained, a.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    run = Run(a.folder, "transformer", a.minutes, a.until, a.steps)
    state = run.load()
    if state:
        for net, average, weights, mean in zip(nets, averaged, state["nets"], state["averaged"], strict=True):
            net.load_state_dict(weights)
            average.load_state_dict(mean)
        heads.load_state_dict(state["heads"])
        optimiser.load_state_dict(state["optimiser"])
    empty = EMPTY.to(device)
    rope = nets[0].pos_embed(POSITIONS.to(device))
    forward = torch.compile(predict) if a.compile else predict

    def losses(_: random.Random, noise: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        def uniform(*shape: int) -> torch.Tensor:
            return torch.rand(shape, generator=noise, device=device)

        index = torch.randint(count, (a.batch,), generator=noise, device=device)
        z = (data["z"][index].float() - shift) * scale
        kept = uniform(a.batch) >= DROPOUT
        ids = torch.where(kept[:, None], data["ids"][index].long(), empty)
        e = torch.randn(z.shape, generator=noise, device=device)
        t = torch.sigmoid(torch.randn(a.batch, generator=noise, device=device) + a.noise_mean)
        t = torch.where(uniform(a.batch) < 0.1, uniform(a.batch), t)
        with mixed(device):
            embeddings, pooled = read(nets[1], nets[2], ids)
            blended = (1 - t[:, None, None]) * z + t[:, None, None] * e
            v, middle = forward(nets[0], blended, t, embeddings, pooled, rope)
            seen = heads.image(middle).float()
            nouns = nouns_of[index]
            where = nouns[..., :1].clamp(min=0).expand(-1, -1, TEXT)
            told = heads.text(embeddings.gather(1, where)).float()
        error = (v.float() - (e - z)).pow(2).mean()
        maps = F.cross_entropy(seen[..., :NAMES].flatten(0, 1), data["names"][index].long().flatten())
        maps = maps + 0.5 * F.cross_entropy(seen[..., NAMES:].flatten(0, 1), data["colours"][index].long().flatten())
        label = torch.where(kept[:, None, None], nouns[..., 1:], -1).flatten(0, 1)
        parts = told.flatten(0, 1).split((NAMES, COLOURS, COUNTS, PLACES), 1)
        valid = (label[:, 0] >= 0).sum().clamp(min=1)
        words = sum(
            F.cross_entropy(p, label[:, k], ignore_index=-1, reduction="sum") / valid for k, p in enumerate(parts)
        )
        return error + MAP_WEIGHT * maps + NOUN_WEIGHT * words, error

    @torch.no_grad()
    def validate() -> float:
        """Velocity error of the averaged weights on held-out scenes, t uniform, fixed noise."""
        noise = torch.Generator().manual_seed(7)
        z = (held["z"].float() - shift) * scale
        t = ((torch.arange(len(z)) + 0.5) / len(z))[torch.randperm(len(z), generator=noise)].to(device)
        e = torch.randn(z.shape, generator=noise).to(device)
        total = 0.0
        for part in torch.arange(len(z), device=device).split(256):
            with mixed(device):
                s = t[part][:, None, None]
                text = read(averaged[1], averaged[2], held["ids"][part].long())
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
            schedule_shift=SHIFT,
        )

    def show() -> None:
        pixels = decode(a.folder, unpack(generate(averaged, PROMPTS)) / scale + shift)
        world.grid(pixels, 8, 2).save(a.folder / f"grid_{int(run.seconds):04d}.png")

    decay = fall(1 - CONSTANT, 0.01)
    loop = Loop(run, optimiser, trained, a.rate, WARM_UP, decay, a.seed, 0.01, target, source, AVERAGE, device)

    def log() -> None:
        run.log(loss=loop.mean, held_out=validate(), rate=loop.now)

    losses(random.Random(0), torch.Generator(device).manual_seed(0))[0].backward()
    optimiser.zero_grad()
    loop.go(losses, a.batch, log, lambda n: n in (50, 200), [(300, log), (300, save), (1500, show)])
    log()
    save()
    show()


if __name__ == "__main__":
    main()
