"""Train the U-Net sibling: ``python unet.py --folder RUN --minutes 6``, after transformer.py and clip.py.

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
import world
from common import LATENT, LATENT_SIDE, WIDTH, Loop, Run, clip_encoder, fall, frozen, mixed, place, unpack
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import nn
from torch.nn import functional as F
from transformer import EMPTY, POSITIONS, PROMPTS, decode, predict, quicken, read

WARM_UP, CONSTANT = 300, 0.5
DROPOUT, NOISE_MEAN = 0.1, 0.8
ALIGNED = 0.2
"""Weight of the feature loss."""
AVERAGE = 0.9993
HEAVIEST = 100.0
"""Cap of the loss weight (1 + sigma/alpha)^2, which makes an eps error count like the error of pocket's velocity."""
STEPS, GUIDANCE = 20, 3.0
"""The defaults of the finished model."""


def unet() -> UNet2DConditionModel:
    """Two levels, 64 and 128 wide, one ResNet per level and cross-attention at 8x8 only."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        in_channels=LATENT,
        out_channels=LATENT,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 128),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=(2, 4),
        norm_num_groups=16,
        use_linear_projection=True,
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
    time = model.time_embedding(model.time_proj(t).to(x.dtype))
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
def follow(
    nets: Any, ids: torch.Tensor, z: torch.Tensor, steps: int, guidance: float, fast: bool = True
) -> list[torch.Tensor]:
    """Scaled latents [B, 16, 16, 16] after every DDIM step with guidance, from the noise ``z``."""
    model, text = nets
    plan = scheduler()
    plan.set_timesteps(steps)
    points = []
    empty = EMPTY.to(z.device).expand(len(ids), -1)
    with mixed(z.device, fast):
        words = text(input_ids=torch.cat([empty, ids]) if guidance != 1 else ids).last_hidden_state
        for t in plan.timesteps.tolist():
            times = torch.full((len(words),), t, device=z.device)
            out = denoise(model, torch.cat([z, z]) if guidance != 1 else z, times, words)[0].float()
            if guidance != 1:
                without, given = out.chunk(2)
                out = without + guidance * (given - without)
            z = plan.step(out, t, z).prev_sample
            points.append(z)
    return points


def sample(
    nets: Any, prompts: list[str], steps: int = STEPS, guidance: float = GUIDANCE, seed: int = 0, fast: bool = True
) -> torch.Tensor:
    """Scaled latents [B, 16, 16, 16] by DDIM."""
    device = next(nets[0].parameters()).device
    ids = torch.from_numpy(world.encode(prompts)).to(device)
    draw = torch.Generator().manual_seed(seed)
    z = torch.randn(len(prompts), LATENT, LATENT_SIDE, LATENT_SIDE, generator=draw).to(device)
    return follow(nets, ids, z, steps, guidance, fast)[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, help="checkpoint of transformer.py; default the folder's")
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--until")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--taught", type=float, default=0.7, help="share of the target that is pocket's prediction")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    torch.manual_seed(a.seed)
    device = place()
    quicken(device)
    pool = torch.load(a.folder / "pool.pt")
    held_out = torch.load(a.folder / "held_out.pt")
    pocket, shift, scale = frozen(a.teacher or a.folder / "transformer.pt")
    pocket = tuple(net.to(device) for net in pocket)
    rope = pocket[0].pos_embed(POSITIONS.to(device))
    data = {key: pool[key].to(device) for key in ("z", "ids")}
    held = {key: held_out[key].to(device) for key in ("z", "ids")}
    count = len(data["z"])
    nets = (unet().to(device, memory_format=torch.channels_last), clip_encoder(a.folder).to(device))
    align = nn.Conv2d(128, WIDTH, 1).to(device)
    averaged = tuple(copy.deepcopy(net).eval() for net in nets)
    source = [p for net in nets for p in net.parameters()]
    target = [p for net in averaged for p in net.parameters()]
    trained = source + list(align.parameters())
    optimiser = torch.optim.AdamW(trained, a.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    run = Run(a.folder, "unet", a.minutes, a.until, a.steps)
    state = run.load()
    if state:
        for net, average, weights, mean in zip(nets, averaged, state["nets"], state["averaged"], strict=True):
            net.load_state_dict(weights)
            average.load_state_dict(mean)
        align.load_state_dict(state["align"])
        optimiser.load_state_dict(state["optimiser"])
    bar = scheduler().alphas_cumprod.to(device)
    alpha, sigma = bar.sqrt(), (1 - bar).sqrt()
    flow = sigma / (alpha + sigma)
    fast = torch.compile(denoise) if a.compile else denoise
    teacher = torch.compile(predict) if a.compile else predict
    empty = EMPTY.to(device)

    def ask_pocket(x: torch.Tensor, k: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pocket's clean latents [B, 64, 64], scaled but not shifted, and its middle; x [B, 64, 64] is ours at k."""
        t = flow[k]
        a_, s_ = alpha[k][:, None, None], sigma[k][:, None, None]
        theirs = (x - a_ * shift * scale) / (a_ + s_)
        with torch.no_grad(), mixed(device):
            v, middle = teacher(pocket[0], theirs, t, *read(pocket[1], pocket[2], ids), rope)
        return theirs - t[:, None, None] * v.float() + shift * scale, middle.float()

    def mix(z: torch.Tensor, e: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return alpha[k][:, None, None] * z + sigma[k][:, None, None] * e

    def losses(_: random.Random, noise: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        def uniform() -> torch.Tensor:
            return torch.rand(a.batch, generator=noise, device=device)

        index = torch.randint(count, (a.batch,), generator=noise, device=device)
        z = data["z"][index].float() * scale
        kept = uniform() >= DROPOUT
        ids = torch.where(kept[:, None], data["ids"][index].long(), empty)
        e = torch.randn(z.shape, generator=noise, device=device)
        t = torch.sigmoid(torch.randn(a.batch, generator=noise, device=device) + NOISE_MEAN)
        t = torch.where(uniform() < 0.1, uniform(), t)
        k = torch.searchsorted(flow, t).clamp(max=len(flow) - 1)
        x = mix(z, e, k)
        clean, theirs = ask_pocket(x, k, ids)
        clean = torch.lerp(z, clean, a.taught)
        goal = (x - alpha[k][:, None, None] * clean) / sigma[k][:, None, None]
        with mixed(device):
            words = nets[1](input_ids=ids).last_hidden_state
            out, middle = fast(nets[0], unpack(x).contiguous(memory_format=torch.channels_last), k, words)
            mine = align(middle).float().flatten(2).transpose(1, 2)
        weight = ((alpha[k] + sigma[k]) / alpha[k]).pow(2).clamp(max=HEAVIEST)
        error = (out.float() - unpack(goal)).pow(2).mean((1, 2, 3))
        apart = F.mse_loss(mine, F.layer_norm(theirs, theirs.shape[-1:]))
        return (error * weight).mean() + ALIGNED * apart, (error * weight).mean()

    @torch.no_grad()
    def validate() -> float:
        """Pocket's velocity error of the averaged weights on held-out scenes: flow time uniform, fixed noise."""
        noise = torch.Generator().manual_seed(7)
        z = held["z"].float() * scale
        t = ((torch.arange(len(z)) + 0.5) / len(z))[torch.randperm(len(z), generator=noise)].to(device)
        k = torch.searchsorted(flow, t).clamp(max=len(flow) - 1)
        e = torch.randn(z.shape, generator=noise).to(device)
        total = 0.0
        for part in torch.arange(len(z), device=device).split(256):
            with mixed(device):
                words = averaged[1](input_ids=held["ids"][part].long()).last_hidden_state
                out = denoise(averaged[0], unpack(mix(z[part], e[part], k[part])), k[part], words)[0].float()
            weight = ((alpha + sigma) / alpha).pow(2)[k[part]]
            total += (weight * (out - unpack(e[part])).pow(2).mean((1, 2, 3))).sum().item()
        return total / len(z)

    def save() -> None:
        run.save(
            nets=[net.state_dict() for net in nets],
            averaged=[net.state_dict() for net in averaged],
            align=align.state_dict(),
            optimiser=optimiser.state_dict(),
            scale=scale,
        )

    def show() -> None:
        pixels = decode(a.folder, sample(averaged, PROMPTS) / scale)
        world.grid(pixels, 8, 2).save(a.folder / f"unet_{int(run.seconds):04d}.png")

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
