"""Train the U-Net sibling: ``python unet.py --folder RUN --minutes 60``, after transformer.py and clip.py.

An eps-predicting `UNet2DConditionModel` on Stable Diffusion's scaled-linear table, two levels (16x16 and 8x8) with
cross-attention at 8x8. It learns from pocket's outputs at the same noise and caption as well as from the data (output
and feature distillation, Kim et al. 2023, BK-SDM, arXiv 2305.15798): the teacher's prediction has none of the variance
that one drawn picture has, which is most of the gradient's noise on a small budget of samples. The middle of the
U-Net is aligned with the middle of the teacher (Yu et al. 2024, REPA, arXiv 2410.06940). The text encoder starts from
the text tower of clip.py. Resumes like the other stages.
"""

from __future__ import annotations

import argparse
import copy
import random
from pathlib import Path
from typing import Any

import torch
from common import Loop, Run, autoencoder, fall, frozen, to_pixels, unpack
from diffusers import DDIMScheduler, UNet2DConditionModel
from latents import NO_ROLE
from torch import nn
from torch.nn import functional as F
from transformer import EMPTY, POSITIONS, PROMPTS, plain_attention, predict, read
from transformers import CLIPTextConfig, CLIPTextModel

from fairlead.pocket import world

RATE, BATCH, WARM_UP, CONSTANT = 1.2e-3, 16, 200, 0.6
DROPOUT, NOISE_MEAN, EASY = 0.1, 1.0, 0.3
TAUGHT, ALIGNED = 0.85, 0.2
"""Share of the target that is the teacher's prediction, the rest is the data; weight of the feature loss."""
AVERAGE = 0.999
HEAVIEST = 100.0
"""Cap of the loss weight (1 + sigma/alpha)^2, which makes an eps error count like the error of pocket's velocity."""


def unet() -> UNet2DConditionModel:
    """Two levels, 64 and 128 wide, one ResNet per level and cross-attention at 8x8 only."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=8,
        out_channels=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 128),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=(2, 4),
        norm_num_groups=16,
        use_linear_projection=True,
    )


def text_encoder() -> CLIPTextModel:
    """The text tower of clip.py: three causal layers, one vector per token."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(world.vocabulary()),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=world.TOKENS,
            projection_dim=128,
            bos_token_id=2,
            eos_token_id=3,
            pad_token_id=0,
        )
    )


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's own table."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="trailing",
    )


def denoise(model: Any, x: torch.Tensor, t: torch.Tensor, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The stock forward, which also returns the middle [B, C, 8, 8]."""
    time = model.time_embedding(model.time_proj(t))
    h = model.conv_in(x)
    skips = [h]
    for block in model.down_blocks:
        h, more = block(h, time, text) if hasattr(block, "attentions") else block(h, time)
        skips += more
    h = middle = model.mid_block(h, time, text)
    for block in model.up_blocks:
        kept, skips = tuple(skips[-len(block.resnets) :]), skips[: -len(block.resnets)]
        h = block(h, kept, time, text) if hasattr(block, "attentions") else block(h, kept, time)
    return model.conv_out(model.conv_act(model.conv_norm_out(h))), middle


@torch.no_grad()
def sample(
    nets: Any, prompts: list[str], steps: int = 20, guidance: float = 4.0, seed: int = 0, autocast: bool = True
) -> torch.Tensor:
    """Scaled latents [B, 8, 16, 16] by DDIM."""
    model, text = nets
    plan = scheduler()
    plan.set_timesteps(steps)
    ids = torch.from_numpy(world.encode(prompts))
    z = torch.randn(len(prompts), 8, 16, 16, generator=torch.Generator().manual_seed(seed))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        words = text(input_ids=torch.cat([EMPTY.expand(len(ids), -1), ids])).last_hidden_state
        for t in plan.timesteps:
            out = denoise(model, torch.cat([z, z]), t.expand(2 * len(ids)), words)[0].float()
            without, given = out.chunk(2)
            z = plan.step(without + guidance * (given - without), t, z).prev_sample
    return z


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, help="checkpoint of transformer.py; default the folder's")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--until")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    torch.manual_seed(a.seed)
    F.scaled_dot_product_attention = plain_attention
    pool = torch.load(a.folder / "pool.pt", mmap=True)
    held_out = torch.load(a.folder / "held_out.pt")
    pocket, shift, scale = frozen(a.teacher or a.folder / "transformer.pt")
    rope = pocket[0].pos_embed(POSITIONS)
    nets = (unet().to(memory_format=torch.channels_last), text_encoder())
    tower = torch.load(a.folder / "clip.pt")["model"]
    prefix = "text_model."
    nets[1].load_state_dict({k.removeprefix(prefix): v for k, v in tower.items() if k.startswith(prefix)})
    align = nn.Conv2d(128, 192, 1)
    averaged = tuple(copy.deepcopy(net).eval() for net in nets)
    source = [p for net in nets for p in net.parameters()]
    target = [p for net in averaged for p in net.parameters()]
    trained = source + list(align.parameters())
    optimiser = torch.optim.AdamW(trained, RATE, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    run = Run(a.folder, "unet", a.minutes, a.until, a.steps)
    state = run.load()
    if state:
        for net, average, weights, mean in zip(nets, averaged, state["nets"], state["averaged"], strict=True):
            net.load_state_dict(weights)
            average.load_state_dict(mean)
        align.load_state_dict(state["align"])
        optimiser.load_state_dict(state["optimiser"])
    bar = scheduler().alphas_cumprod
    alpha, sigma = bar.sqrt(), (1 - bar).sqrt()
    flow = sigma / (alpha + sigma)
    fast = denoise if a.eager else torch.compile(denoise)
    taught = pocket[0]
    if not a.eager:
        for block in [*taught.transformer_blocks, *taught.single_transformer_blocks]:
            block.compile()
    easy = (pool["nouns"][:, 1, 1] < 0) & (pool["nouns"][:, 0, 3] == NO_ROLE)
    chances = torch.where(easy, EASY, 1.0).cumsum(0).tolist()
    count = len(chances)

    def ask_pocket(x: torch.Tensor, k: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pocket's clean latents [B, 64, 32], scaled but not shifted, and its middle; x [B, 64, 32] is ours at k."""
        t = flow[k]
        a_, s_ = alpha[k][:, None, None], sigma[k][:, None, None]
        theirs = (x - a_ * shift * scale) / (a_ + s_)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            v, middle = predict(taught, theirs, t, *read(pocket[1], pocket[2], ids), rope)
        return theirs - t[:, None, None] * v.float() + shift * scale, middle.float()

    def mix(z: torch.Tensor, e: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return alpha[k][:, None, None] * z + sigma[k][:, None, None] * e

    def losses(index: torch.Tensor, noise: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        size = len(index)
        z = pool["z"][index].float() * scale
        kept = torch.rand(size, generator=noise) >= DROPOUT
        ids = torch.where(kept[:, None], pool["ids"][index].long(), EMPTY)
        e = torch.randn(z.shape, generator=noise)
        t = torch.sigmoid(torch.randn(size, generator=noise) + NOISE_MEAN)
        t = torch.where(torch.rand(size, generator=noise) < 0.1, torch.rand(size, generator=noise), t)
        k = torch.searchsorted(flow, t).clamp(max=len(flow) - 1)
        x = mix(z, e, k)
        clean, theirs = ask_pocket(x, k, ids)
        clean = torch.lerp(z, clean, TAUGHT)
        goal = (x - alpha[k][:, None, None] * clean) / sigma[k][:, None, None]
        with torch.autocast("cpu", torch.bfloat16):
            words = nets[1](input_ids=ids).last_hidden_state
            out, middle = fast(nets[0], unpack(x).to(memory_format=torch.channels_last), k, words)
            mine = align(middle).float().flatten(2).transpose(1, 2)
        weight = ((alpha[k] + sigma[k]) / alpha[k]).pow(2).clamp(max=HEAVIEST)
        error = (out.float() - unpack(goal)).pow(2).mean((1, 2, 3))
        apart = F.mse_loss(mine, F.layer_norm(theirs, theirs.shape[-1:]))
        return (error * weight).mean() + ALIGNED * apart, (error * weight).mean()

    @torch.no_grad()
    def validate() -> float:
        """Pocket's velocity error of the averaged weights on held-out scenes: flow time uniform, fixed noise."""
        noise, total = torch.Generator().manual_seed(7), 0.0
        z = held_out["z"].float() * scale
        k = torch.searchsorted(flow, (torch.arange(len(z)) + 0.5) / len(z)).clamp(max=len(flow) - 1)
        e = torch.randn(z.shape, generator=noise)
        for part in torch.randperm(len(z), generator=noise)[:256].split(64):
            with torch.autocast("cpu", torch.bfloat16):
                words = averaged[1](input_ids=held_out["ids"][part].long()).last_hidden_state
                out = denoise(averaged[0], unpack(mix(z[part], e[part], k[part])), k[part], words)[0].float()
            weight = ((alpha + sigma) / alpha).pow(2)[k[part]]
            total += (weight * (out - unpack(e[part])).pow(2).mean((1, 2, 3))).sum().item()
        return total / 256

    def save() -> None:
        run.save(
            nets=[net.state_dict() for net in nets],
            averaged=[net.state_dict() for net in averaged],
            align=align.state_dict(),
            optimiser=optimiser.state_dict(),
            scale=scale,
        )

    def show() -> None:
        decoder = autoencoder().eval()
        decoder.load_state_dict(torch.load(a.folder / "autoencoder.pt")["model"])
        with torch.no_grad():
            images = decoder.decode(sample(averaged, PROMPTS) / scale).sample
        world.grid(to_pixels(images)).save(a.folder / f"unet_{int(run.seconds / 60):03d}.png")

    decay = fall(1 - CONSTANT, 0.01)
    loop = Loop(run, optimiser, trained, RATE, WARM_UP, decay, a.seed, 0.01, target, source, AVERAGE)

    def step(rng: random.Random, noise: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        return losses(torch.tensor(rng.choices(range(count), cum_weights=chances, k=BATCH)), noise)

    def log() -> None:
        run.log(loss=loop.mean, held_out=validate(), rate=loop.now)

    losses(torch.arange(BATCH), torch.Generator())[0].backward()
    optimiser.zero_grad()
    loop.go(step, BATCH, log, lambda n: n % 500 == 0 or n in (20, 100, 200), [(300, save), (900, show)])
    log()
    save()
    show()


if __name__ == "__main__":
    main()
