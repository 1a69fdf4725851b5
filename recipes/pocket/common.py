"""What every stage of the recipe shares: models, run bookkeeping, conversions."""

from __future__ import annotations

import csv
import json
import os
import platform
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from fairlead.pocket import world

WIDTH, DOUBLE, SINGLE, TEXT = 192, 2, 4, 128
LATENT = 8
"""Channels of the autoencoder; packed 2x2 they give the transformer's 32."""


def autoencoder() -> AutoencoderKL:
    """f4 autoencoder with 8 latent channels, used at its mode."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=LATENT,
        norm_num_groups=8,
        sample_size=world.SIZE,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


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


def clip_encoder() -> CLIPTextModel:
    """Two layers, one pooled vector."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(world.vocabulary()),
            hidden_size=TEXT,
            intermediate_size=3 * TEXT,
            num_hidden_layers=2,
            num_attention_heads=TEXT // 32,
            max_position_embeddings=world.TOKENS,
            projection_dim=TEXT,
            bos_token_id=2,
            eos_token_id=3,
            pad_token_id=0,
        )
    )


def to_tensor(images: world.Pixels) -> torch.Tensor:
    """``uint8 [B, H, W, 3]`` to ``float [B, 3, H, W]`` in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()


def to_pixels(images: torch.Tensor) -> world.Pixels:
    """``[B, 3, H, W]`` in [-1, 1] to ``uint8 [B, H, W, 3]``."""
    scaled = images.float().clamp(-1, 1).add(1).mul(127.5).round().byte()
    return np.ascontiguousarray(scaled.permute(0, 2, 3, 1).cpu().numpy())


def pack(latents: torch.Tensor) -> torch.Tensor:
    """``[B, 8, 16, 16]`` to tokens ``[B, 64, 32]``, as FluxPipeline packs them."""
    count = len(latents)
    return latents.reshape(count, LATENT, 8, 2, 8, 2).permute(0, 2, 4, 1, 3, 5).reshape(count, 64, 4 * LATENT)


def unpack(tokens: torch.Tensor) -> torch.Tensor:
    """Inverse of :func:`pack`."""
    count = len(tokens)
    return tokens.view(count, 8, 8, LATENT, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(count, LATENT, 16, 16)


def frozen(path: Path) -> tuple[tuple[Any, ...], float, float]:
    """Averaged transformer and text encoders of a checkpoint, not to be trained, with the latents' shift and scale."""
    state = torch.load(path)
    nets = (transformer(), t5_encoder(), clip_encoder())
    for net, weights in zip(nets, state["averaged"], strict=True):
        net.load_state_dict(weights)
        net.eval().requires_grad_(False)
    return nets, state["shift"], state["scale"]


def step_random(seed: int, step: int) -> tuple[random.Random, torch.Generator]:
    """Random sources of one step; a resumed run draws what an uninterrupted one would have drawn."""
    return random.Random(seed * 1_000_003 + step), torch.Generator().manual_seed(seed * 1_000_003 + step)


def dense_scene(rng: random.Random) -> world.Scene:
    """Four unrelated objects, one per quarter: more object pixels per image than the world has."""
    items = []
    for x in (0, world.CELL):
        for y in (0, world.CELL):
            colour = None if rng.random() < 0.25 else rng.choice(world.COLOUR_NAMES)
            items.append(world.Item(rng.choice(world.NAMES), colour, x, y))
    plain = world.sample(rng, "single_object")
    return world.Scene("dense", "", tuple(items), plain.top, plain.bottom)


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
        state: dict[str, Any] = torch.load(self.checkpoint)
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
    """The steps of a stage: gradients clipped to norm 1, `rate` after a warm-up, times `decay` of the progress."""

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
    mean: float = 0.0
    now: float = 0.0
    """The rate of the last step."""

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
            loss, error = losses(*step_random(self.seed, run.step))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
            self.optimiser.step()
            self.optimiser.zero_grad()
            run.step += 1
            run.samples += batch
            self._follow(error.item())
            if due(run.step):
                log()
            for index, (seconds, call) in enumerate(every):
                if run.seconds - last[index] > seconds:
                    call()
                    last[index] = run.seconds

    @torch.no_grad()
    def _follow(self, error: float) -> None:
        """The running means: of the error and of the weights."""
        self.mean = error if self.mean == 0 else (1 - self.smooth) * self.mean + self.smooth * error
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
