"""What every stage of the recipe shares: models, run bookkeeping, conversions."""

from __future__ import annotations

import csv
import json
import os
import platform
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import world
from diffusers import AutoencoderKL, FluxTransformer2DModel
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

WIDTH, DOUBLE, SINGLE, TEXT = 192, 2, 4, 128
LATENT = 16
"""Channels of the autoencoder; packed 2x2 they give the transformer's 64."""
LATENT_SIDE = world.SIZE // 8
"""Side of the latents: the autoencoder has FLUX's factor of 8."""
TOKENS_ACROSS = world.SIZE // world.GRID
"""Image tokens in a row; 64 in all."""


def place() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def mixed(device: torch.device, enabled: bool = True) -> torch.autocast:
    """Matrix products in bfloat16."""
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def autoencoder() -> AutoencoderKL:
    """f8 autoencoder with 16 latent channels, used at its mode."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 80),
        layers_per_block=1,
        latent_channels=LATENT,
        norm_num_groups=8,
        sample_size=world.SIZE,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


GOOD = 26.0
"""PSNR in dB from which an autoencoder is worth passing pictures through, to make them look generated."""


def good_autoencoder(folder: Path, device: torch.device) -> AutoencoderKL | None:
    """The newest autoencoder of a run folder, not to be trained; ``None`` as long as it is not good."""
    paths = [folder / name for name in ("decoder.pt", "autoencoder.pt")]
    state = next((torch.load(path, map_location="cpu") for path in paths if path.exists()), None)
    if state is None or state["psnr"] < GOOD:
        return None
    model = autoencoder().eval().requires_grad_(False)
    model.load_state_dict(state["model"])
    return model.to(device)


def transformer(width: int = WIDTH, double: int = DOUBLE, single: int = SINGLE) -> FluxTransformer2DModel:
    """FLUX transformer without guidance embedding (real CFG is used)."""
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * LATENT,
        num_layers=double,
        num_single_layers=single,
        attention_head_dim=32,
        num_attention_heads=width // 32,
        joint_attention_dim=TEXT,
        pooled_projection_dim=TEXT,
        guidance_embeds=False,
        axes_dims_rope=(8, 12, 12),
    )


def t5_encoder() -> T5EncoderModel:
    """Three layers, one vector per token."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(world.vocabulary()),
            d_model=TEXT,
            d_kv=32,
            d_ff=3 * TEXT,
            num_layers=3,
            num_heads=TEXT // 32,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
        )
    )


def text_tower() -> dict[str, Any]:
    """Settings of the text tower of clip.py, from which the CLIP text encoders of both families start."""
    return {
        "vocab_size": len(world.vocabulary()),
        "hidden_size": TEXT,
        "intermediate_size": 3 * TEXT,
        "num_hidden_layers": 3,
        "num_attention_heads": TEXT // 32,
        "max_position_embeddings": world.TOKENS,
        "projection_dim": TEXT,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "pad_token_id": 0,
    }


def clip_encoder(folder: Path | None = None) -> CLIPTextModel:
    """The text tower of clip.py: three causal layers; with its weights if ``folder`` holds ``clip.pt``."""
    model = CLIPTextModel(CLIPTextConfig(**text_tower()))
    if folder is not None:
        tower = torch.load(folder / "clip.pt", map_location="cpu")["model"]
        prefix = "text_model."
        model.load_state_dict({k.removeprefix(prefix): v for k, v in tower.items() if k.startswith(prefix)})
    return model


def to_tensor(images: world.Pixels) -> torch.Tensor:
    """``uint8 [B, H, W, 3]`` to ``float [B, 3, H, W]`` in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()


def to_pixels(images: torch.Tensor) -> world.Pixels:
    """``[B, 3, H, W]`` in [-1, 1] to ``uint8 [B, H, W, 3]``."""
    scaled = images.float().clamp(-1, 1).add(1).mul(127.5).round().byte()
    return np.ascontiguousarray(scaled.permute(0, 2, 3, 1).cpu().numpy())


def pack(latents: torch.Tensor) -> torch.Tensor:
    """``[B, 16, 16, 16]`` to tokens ``[B, 64, 64]``, as FluxPipeline packs them."""
    n = TOKENS_ACROSS
    split = latents.reshape(len(latents), LATENT, n, 2, n, 2)
    return split.permute(0, 2, 4, 1, 3, 5).reshape(len(latents), n * n, 4 * LATENT)


def unpack(tokens: torch.Tensor) -> torch.Tensor:
    """Inverse of :func:`pack`."""
    n = TOKENS_ACROSS
    split = tokens.view(len(tokens), n, n, LATENT, 2, 2)
    return split.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), LATENT, 2 * n, 2 * n)


def frozen(path: Path) -> tuple[tuple[Any, ...], float, float]:
    """Averaged transformer and text encoders of a checkpoint, not to be trained, with the latents' shift and scale."""
    state = torch.load(path, map_location="cpu")
    nets = (transformer(), t5_encoder(), clip_encoder())
    for net, weights in zip(nets, state["averaged"], strict=True):
        net.load_state_dict(weights)
        net.eval().requires_grad_(False)
    return nets, state["shift"], state["scale"]


def step_random(seed: int, step: int, device: torch.device) -> tuple[random.Random, torch.Generator]:
    """Random sources of one step: a resumed run on the same kind of device draws what it would have drawn anyway."""
    number = seed * 1_000_003 + step
    return random.Random(number), torch.Generator(device).manual_seed(number)


def dense_scene(rng: random.Random) -> world.Scene:
    """Four unrelated objects, one per quarter, or nine small ones: more object pixels per image than the world has."""
    crowded = rng.random() < 0.3
    step, side = (43, world.CROWDED) if crowded else (world.CELL, world.CELL)
    spots = [(x * step, y * step) for x in range(3 if crowded else 2) for y in range(3 if crowded else 2)]
    items = []
    for x, y in rng.sample(spots, min(len(spots), world.MOST)):
        colour = None if rng.random() < 0.25 else rng.choice(world.COLOUR_NAMES)
        own = world.SIDES["small"] if rng.random() < 0.15 else side
        inset = (side - own) // 2
        items.append(world.Item(rng.choice(world.NAMES), colour, x + inset, y + inset, own))
    plain = world.sample(rng, rng.choice(("single_object", "background")))
    return world.Scene("dense", "", tuple(items), plain.top, plain.bottom)


def dense_scenes(rng: random.Random, count: int) -> list[world.Scene]:
    """Many of them, in the form that `scenes.generate` takes."""
    return [dense_scene(rng) for _ in range(count)]


class Run:
    """One stage: its folder, elapsed seconds over all restarts, samples seen, the curve."""

    def __init__(self, folder: Path, name: str, minutes: float, until: str | None, steps: int | None) -> None:
        self.folder, self.name, self.steps = folder, name, steps
        folder.mkdir(parents=True, exist_ok=True)
        self.step = self.samples = 0
        self.before = 0.0
        self.total = minutes * 60
        self.until = until
        self.start = time.time()

    @property
    def checkpoint(self) -> Path:
        return self.folder / f"{self.name}.pt"

    def load(self) -> dict[str, Any] | None:
        """The last checkpoint, or ``None``; restores the counters."""
        if not self.checkpoint.exists():
            return None
        state: dict[str, Any] = torch.load(self.checkpoint, map_location="cpu")
        self.step, self.samples, self.before = state["step"], state["samples"], state["seconds"]
        return state

    def begin(self) -> None:
        """Start the clock (after compilation)."""
        self.start = time.time()
        if self.until is not None:
            now = datetime.now()
            hour, minute = map(int, self.until.split(":"))
            end = now.replace(hour=hour, minute=minute, second=0)
            if end < now:
                end += timedelta(days=1)
            self.total = self.before + (end - now).total_seconds()

    @property
    def seconds(self) -> float:
        return self.before + time.time() - self.start

    @property
    def done(self) -> float:
        """Fraction of the schedule, from 0 to 1: of the steps if given, else of the time."""
        return self.step / self.steps if self.steps else self.seconds / self.total

    def save(self, **state: Any) -> None:
        """Write the checkpoint, replacing the old one only once it is complete."""
        part = self.checkpoint.with_suffix(".part")
        counters = {"step": self.step, "samples": self.samples, "seconds": self.seconds}
        torch.save({**state, **counters}, part)
        os.replace(part, self.checkpoint)
        hardware = {
            **counters,
            "processor": processor(),
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        (self.folder / f"{self.name}.json").write_text(json.dumps(hardware, indent=1) + "\n")

    def log(self, **values: float) -> None:
        """Append a row to the curve and print it."""
        path = self.folder / f"{self.name}.csv"
        row = {"step": self.step, "samples": self.samples, "seconds": round(self.seconds), **values}
        fresh = not path.exists()
        with path.open("a", newline="") as stream:
            writer = csv.writer(stream)
            if fresh:
                writer.writerow(row)
            writer.writerow([f"{v:.5g}" if isinstance(v, float) else v for v in row.values()])
        print(
            " ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()),
            flush=True,
        )


def fall(over: float, end: float) -> Callable[[float], float]:
    """Of the fraction done: 1, then linearly down to `end` in the last `over` of the schedule."""
    return lambda done: min(1.0, (1 - done) / over + end)


@dataclass
class Loop:
    """The steps of a stage: gradients clipped to norm 1; `rate` after a warm-up, times `decay` of the share done."""

    run: Run
    optimiser: torch.optim.Optimizer
    trained: Sequence[torch.nn.Parameter]
    rate: float
    warm_up: int
    decay: Callable[[float], float]
    seed: int
    smooth: float = 1.0
    """Weight of the newest error in `mean`."""
    averaged: Sequence[torch.nn.Parameter] = ()
    source: Sequence[torch.nn.Parameter] = ()
    average: float = 0.0
    """Share of itself that `averaged` keeps at every step, less at first; the rest comes from `source`."""
    device: torch.device = field(default_factory=place)
    following: torch.Tensor | None = None
    """Running mean of the error, on the device."""
    now: float = 0.0
    """The rate of the last step."""

    @property
    def mean(self) -> float:
        """Running mean of the error; reading it waits for the device."""
        return 0.0 if self.following is None else self.following.item()

    def go(
        self,
        losses: Callable[[random.Random, torch.Generator], tuple[torch.Tensor, torch.Tensor]],
        batch: int,
        log: Callable[[], None],
        due: Callable[[int], bool],
        every: Sequence[tuple[float, Callable[[], None]]],
    ) -> None:
        """Train until the schedule ends; `losses` draws a batch and gives what to descend and the error to show.

        `log` is called after the steps that are `due`, a callable in `every` when its seconds have gone by.
        """
        run = self.run
        run.begin()
        last = [run.seconds] * len(every)
        while (done := run.done) < 1:
            warm = min(1, (run.step + 1) / self.warm_up)
            for group in self.optimiser.param_groups:
                group["lr"] = self.now = group.get("scale", 1.0) * self.rate * warm * self.decay(done)
            loss, error = losses(*step_random(self.seed, run.step, self.device))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.trained, 1.0, foreach=True)
            self.optimiser.step()
            self.optimiser.zero_grad()
            run.step += 1
            run.samples += batch
            self._follow(error.detach())
            if due(run.step):
                log()
            for index, (seconds, call) in enumerate(every):
                if run.seconds - last[index] > seconds:
                    call()
                    last[index] = run.seconds

    @torch.no_grad()
    def _follow(self, error: torch.Tensor) -> None:
        """The running means: of the error and of the weights.  Nothing here waits for the device."""
        if self.following is None:
            self.following = error.clone()
        self.following = torch.lerp(self.following, error, self.smooth)
        if self.averaged:
            share = min(self.average, (self.run.step + 1) / (self.run.step + 10))
            torch._foreach_lerp_(self.averaged, self.source, 1 - share)


def processor() -> str:
    """Name of the processor, as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()
