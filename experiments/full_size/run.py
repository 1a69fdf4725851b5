"""SDXL, SD3.5 large and FLUX.1 at full size with random weights: what the adapter costs over the bare network.

    python -m experiments.full_size run [--family sdxl sd3 flux]      on an accelerator
    python -m experiments.full_size run --plan                        what would be measured
    python -m experiments.full_size run --quick                       the same code at toy sizes, on any device

Sizes are the published configurations; weights are random, which changes no time and no memory. Per family and variant
(eager, compiled blocks, rows cut to 1) it records evaluations per second through `Model.predict` and through the bare
network with the same rows, their ratio (wanted: at most 1.02), the peak memory, and the estimate made without data.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor

from experiments import common
from fairlead.core.key import Key, normals
from fairlead.core.model import Conditioning, whole
from fairlead.run import memory, models

SCALED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "sample_size": 1024,
}
SMALL_VAE = {**VAE, "block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "layers_per_block": 1}


def sdxl(tiny: bool) -> Any:
    """The U-Net of SDXL base 1.0, 2.6 billion parameters."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    width = 16 if tiny else 320
    net = UNet2DConditionModel(
        sample_size=8 if tiny else 128,
        block_out_channels=(width, 2 * width, 4 * width),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 2) if tiny else (1, 2, 10),
        attention_head_dim=(2, 4, 8) if tiny else (5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
        norm_num_groups=4 if tiny else 32,
    )
    return StableDiffusionXLPipeline(
        vae=AutoencoderKL(**(SMALL_VAE if tiny else VAE), latent_channels=4, scaling_factor=0.13025),
        unet=net,
        scheduler=EulerDiscreteScheduler(**SCALED, timestep_spacing="leading", steps_offset=1),
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        add_watermarker=False,
    )


def sd3(tiny: bool) -> Any:
    """The transformer of SD3.5 large, 8.1 billion parameters."""
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    layers = 2 if tiny else 38
    net = SD3Transformer2DModel(
        sample_size=8 if tiny else 128,
        patch_size=2,
        in_channels=16,
        num_layers=layers,
        attention_head_dim=64,
        num_attention_heads=layers,
        joint_attention_dim=4096,
        caption_projection_dim=64 * layers,
        pooled_projection_dim=2048,
        out_channels=16,
        pos_embed_max_size=192,
        qk_norm="rms_norm",
    )
    return StableDiffusion3Pipeline(
        vae=AutoencoderKL(
            **(SMALL_VAE if tiny else VAE),
            latent_channels=16,
            scaling_factor=1.5305,
            shift_factor=0.0609,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        transformer=net,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=None,
        text_encoder_2=None,
        text_encoder_3=None,
        tokenizer=None,
        tokenizer_2=None,
        tokenizer_3=None,
    )


def flux(tiny: bool) -> Any:
    """The transformer of FLUX.1 dev, 11.9 billion parameters."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    net = FluxTransformer2DModel(
        in_channels=64,
        num_layers=1 if tiny else 19,
        num_single_layers=1 if tiny else 38,
        attention_head_dim=128,
        num_attention_heads=1 if tiny else 24,
        joint_attention_dim=4096,
        pooled_projection_dim=768,
        guidance_embeds=True,
    )
    return FluxPipeline(
        vae=AutoencoderKL(
            **(SMALL_VAE if tiny else VAE),
            latent_channels=16,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        transformer=net,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
    )


FAMILIES: dict[str, tuple[Callable[[bool], Any], dict[str, Any], tuple[int, int, int]]] = {
    "sdxl": (sdxl, {"guidance_scale": 5.0}, (77, 2048, 1280)),
    "sd3": (sd3, {"guidance_scale": 4.5}, (333, 4096, 2048)),
    "flux": (flux, {"guidance_scale": 3.5}, (512, 4096, 768)),
}
"""Name -> pipeline, settings of the adapter, (T, D, width of the pooled vector)."""
VARIANTS = ("eager", "rows of 1", "compiled")


def conditioning(model: Any, n: int, shape: tuple[int, int, int]) -> Conditioning:
    """Random text of the right shape: no text encoder is built."""
    t, d, pooled = shape
    tokens = Key.root(1).normal(1, t, d).to(model.device, model.dtype).expand(n, -1, -1)
    extra = {"pooled": Key.root(2).normal(1, pooled).to(tokens).expand(n, -1)}
    if "addition_time_embed_dim" in model.net.config:  # SDXL is told the size and the crop of its picture
        ids = [*model.size, 0.0, 0.0, *model.size]
        extra["time_ids"] = torch.tensor([ids], device=model.device).to(tokens).expand(n, -1)
    if model.branches == 2:
        extra |= {f"negative_{name}": value for name, value in extra.items()} | {"negative": tokens}
    return Conditioning(tokens, ("",) * n, extra)


def timed(work: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Median seconds of one call, after two to warm up."""
    seconds = []
    for i in range(repeats + 2):
        if device.type == "cuda":
            torch.cuda.synchronize()
        since = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if i >= 2:
            seconds.append(time.perf_counter() - since)
    return statistics.median(seconds)


def measure(name: str, variant: str, *, tiny: bool, device: str, batch: int, repeats: int) -> dict[str, Any]:
    """One row of the result."""
    make, settings, shape = FAMILIES[name]
    number = torch.float32 if device == "cpu" else torch.bfloat16
    with torch.device(device):
        pipe = make(tiny)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.to(device, number)
    size = {"height": 64, "width": 64} if tiny else {"height": 1024, "width": 1024}
    model = models.lend(pipe, {**settings, **size})
    if variant == "compiled":
        model.compile()
    if variant == "rows of 1":
        model._limit = 1
    cond = conditioning(model, batch, shape)
    at = model.levels(20)[5]
    x = normals(tuple(Key.root(i) for i in range(batch)), *model.latent).to(model.device)
    rows = whole(batch, at)
    seen: list[tuple[Any, Any]] = []
    with torch.no_grad():
        hook = model.net.register_forward_pre_hook(lambda m, a, k: seen.append((a, k)), with_kwargs=True)
        model.predict(x, at, cond, rows)
        hook.remove()
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()

        def bare() -> list[Tensor]:
            return [model.net(*given, **words)[0] for given, words in seen]

        turns = [
            (timed(lambda: model.predict(x, at, cond, rows), model.device, repeats), timed(bare, model.device, repeats))
            for _ in range(3)
        ]
        ours, theirs = (statistics.median(side) for side in zip(*turns, strict=True))
        peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    weights = sum(p.numel() * p.element_size() for p in model.networks())
    first = cond.take(torch.tensor([0]))
    one = memory.peak_without_data(lambda: model.predict(x[:1], at, first, whole(1, at)))
    return {
        "family": name,
        "variant": variant,
        "batch": batch,
        "rows": batch * model.branches,
        "device": device,
        "dtype": str(number),
        "parameters": sum(p.numel() for p in model.net.parameters()),
        "nfe_per_second": batch / ours,
        "bare_nfe_per_second": batch / theirs,
        "ratio": ours / theirs,
        "peak_bytes": peak,
        "weights_bytes": weights,
        "estimated_bytes": weights + batch * one,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write the rows and print them."""
    p = common.parser(__doc__, Path(__file__).parent / "results.json")
    p.add_argument("--family", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    p.add_argument("--variant", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--repeats", type=int, default=10)
    p.add_argument("--plan", action="store_true", help="only say what would be measured")
    o = common.parse(p, argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if o.word == "report":
        report(json.loads(o.out.read_text()))
    elif o.plan or (device == "cpu" and not o.quick):
        plan(o)
        if not o.plan:
            print("No accelerator here: nothing was measured. Use --quick to run the same code at toy sizes.")
    else:
        rows = [
            measure(name, variant, tiny=o.quick, device=device, batch=o.batch, repeats=o.repeats)
            for name in o.family
            for variant in o.variant
        ]
        o.out.write_text(json.dumps(rows, indent=1) + "\n")
        report(rows)


def plan(o: argparse.Namespace) -> None:
    """Sizes of everything that would be measured."""
    for name in o.family:
        with init_empty_weights():
            pipe = FAMILIES[name][0](o.quick)
        parts = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
        count = sum(w.numel() for part in parts for w in part.parameters())
        print(
            f"{name}: {count / 1e9:.2f} billion parameters, {2 * count / 1e9:.1f} GB in bfloat16, 1024x1024, "
            f"batch {o.batch}, variants {', '.join(o.variant)}"
        )


def report(rows: Sequence[dict[str, Any]]) -> None:
    """A line for each measurement."""
    for row in rows:
        peak = "" if row["peak_bytes"] is None else f", peak {row['peak_bytes'] / 1e9:.1f} GB"
        print(
            f"{row['family']:5} {row['variant']:10} {row['nfe_per_second']:8.2f} NFE/s, "
            f"bare {row['bare_nfe_per_second']:8.2f}, ratio {row['ratio']:.3f}{peak}, "
            f"estimated {row['estimated_bytes'] / 1e9:.2f} GB"
        )


if __name__ == "__main__":
    main()
