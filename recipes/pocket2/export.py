"""Write a pipeline folder: ``python export.py --folder RUN --out ../../src/fairlead/pocket/assets/pocket``.

``--weights turbo`` writes pocket-turbo, ``--weights unet`` and ``--weights unet_turbo`` the StableDiffusionPipelines.
Half precision, averaged weights.  A few-step folder holds only what is its own, the denoiser and the scheduler;
``parts_from`` in its ``fairlead.json`` names the folder beside it that has the rest.  Checks that the folder, loaded
again, gives the pictures of the training code's own sampler from the same noise.
"""

from __future__ import annotations

import argparse
import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import unet
import world
from common import LATENT, LATENT_SIDE, autoencoder, clip_encoder, place, t5_encoder, to_pixels, transformer, unpack
from diffusers import AutoencoderKL, DiffusionPipeline, FlowMatchEulerDiscreteScheduler, FluxPipeline
from diffusers import StableDiffusionPipeline as SDPipeline
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformer import GUIDANCE, IMAGE_TOKENS, PROMPTS, STEPS, generate
from transformers import PreTrainedTokenizerFast

BASES = {"turbo": "pocket", "unet_turbo": "pocket-unet"}
"""Few-step models, and the folder whose autoencoder and text encoders they share."""
OWN = ("transformer", "unet", "scheduler", "tokenizer", "tokenizer_2")


def defaults(kind: str, steps: int, guidance: float) -> dict[str, Any]:
    """What `fairlead.json` says of the folder."""
    settings: dict[str, Any] = {"height": world.SIZE, "width": world.SIZE}
    if kind in ("unet", "unet_turbo"):
        settings["guidance_scale"] = guidance
    else:
        settings |= {"true_cfg_scale": guidance, "max_sequence_length": world.TOKENS}
    out: dict[str, Any] = {"steps": steps, "batch": 16, "settings": settings, "vocabulary": "words"}
    return out | ({"parts_from": BASES[kind]} if kind in BASES else {})


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per word, ``<bos>`` words ``<eos>``, padded to TOKENS."""
    vocabulary = {word: index for index, word in enumerate(world.vocabulary())}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        model_max_length=world.TOKENS,
    )


def decoder(folder: Path, scale: float, shift: float | None) -> AutoencoderKL:
    """Pocket's autoencoder with the numbers that bring its latents to unit variance."""
    path = folder / "decoder.pt"
    vae = autoencoder()
    vae.load_state_dict(torch.load(path if path.exists() else folder / "autoencoder.pt")["model"])
    vae.register_to_config(scaling_factor=scale, shift_factor=shift)
    return vae


def build(folder: Path, weights: str = "transformer") -> DiffusionPipeline:
    """The pipeline of a run folder, single precision."""
    state = torch.load(folder / f"{weights}.pt", map_location="cpu")
    stable = weights.startswith("unet")
    parts = (unet.unet(), clip_encoder()) if stable else (transformer(), t5_encoder(), clip_encoder())
    for part, averaged in zip(parts, state["averaged"], strict=True):
        part.load_state_dict(averaged)
    if stable:
        return SDPipeline(
            vae=decoder(folder, state["scale"], None),
            text_encoder=parts[1],
            tokenizer=tokenizer(),
            unet=parts[0],
            scheduler=unet.scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=state["schedule_shift"]),
        vae=decoder(folder, state["scale"], state["shift"]),
        text_encoder=parts[2],
        tokenizer=tokenizer(),
        text_encoder_2=parts[1],
        tokenizer_2=tokenizer(),
        transformer=parts[0],
    )


def shared_parts(folder: Path) -> dict[str, Any]:
    """The parts that a folder lacks, from the folder beside it that `parts_from` in its `fairlead.json` names."""
    base = json.loads((folder / "fairlead.json").read_text()).get("parts_from")
    if base is None:
        return {}
    beside = folder.parent / base
    index = json.loads((beside / "model_index.json").read_text())
    lacking = {name: entry for name, entry in index.items() if isinstance(entry, list) and entry[0] is not None}
    return {
        name: getattr(import_module(library), kind).from_pretrained(beside / name, dtype=torch.float32)
        for name, (library, kind) in lacking.items()
        if not (folder / name).exists()
    }


def opened(folder: Path) -> DiffusionPipeline:
    """The pipeline of a model folder, single precision, on the accelerator if there is one."""
    pipe = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, **shared_parts(folder))
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(place())


def pictures(pipe: Any, prompts: list[str], seed: int, steps: int = STEPS, guidance: float = GUIDANCE) -> torch.Tensor:
    """Pictures ``[B, 3, 128, 128]`` in [0, 1] by the stock pipeline, from the noise of the training code's sampler."""
    draw = torch.Generator().manual_seed(seed)
    common = {"prompt": prompts, "negative_prompt": [""] * len(prompts), "num_inference_steps": steps}
    common |= {"height": world.SIZE, "width": world.SIZE, "output_type": "pt"}
    if isinstance(pipe, SDPipeline):
        noise = torch.randn(len(prompts), LATENT, LATENT_SIDE, LATENT_SIDE, generator=draw)
        noise = noise.to(pipe.unet.device, pipe.unet.dtype)
        images: torch.Tensor = pipe(**common, guidance_scale=guidance, latents=noise).images
    else:
        noise = torch.randn(len(prompts), IMAGE_TOKENS, 4 * LATENT, generator=draw)
        noise = noise.to(pipe.transformer.device, pipe.transformer.dtype)
        length = world.TOKENS
        images = pipe(**common, true_cfg_scale=guidance, max_sequence_length=length, latents=noise).images
    return images.float().cpu()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", default="transformer", choices=("transformer", "turbo", "unet", "unet_turbo"))
    parser.add_argument("--steps", type=int, help="default 20, of few-step models 4")
    parser.add_argument("--guidance", type=float, help="default 3, of few-step models 1")
    a = parser.parse_args()
    few = a.weights in BASES
    steps = a.steps or (4 if few else STEPS)
    guidance = a.guidance or (1.0 if few else GUIDANCE)
    pipe = build(a.folder, a.weights).to(torch.float16)
    pipe.save_pretrained(a.out, max_shard_size="14MB")
    if few:
        for part in a.out.iterdir():
            if part.is_dir() and part.name not in OWN:
                shutil.rmtree(part)
    (a.out / "fairlead.json").write_text(json.dumps(defaults(a.weights, steps, guidance), indent=1) + "\n")
    again = opened(a.out)
    images = pictures(again, PROMPTS, 0, steps, guidance)
    with torch.no_grad():
        if isinstance(again, SDPipeline):
            latents = unet.sample((again.unet, again.text_encoder), PROMPTS, steps, guidance, fast=False)
        else:
            nets = (again.transformer, again.text_encoder_2, again.text_encoder)
            latents = unpack(generate(nets, PROMPTS, steps, guidance, fast=False, shift=again.scheduler.config.shift))
        latents = latents / again.vae.config.scaling_factor + (again.vae.config.shift_factor or 0.0)
        own = again.vae.decode(latents).sample.clamp(-1, 1).cpu() / 2 + 0.5
    print(f"largest difference between the pipeline and the own sampler: {(images - own).abs().max():.2g}")
    world.grid(to_pixels(images * 2 - 1), 8, 2).save(a.folder / f"grid_pipeline_{a.weights}.png")
    total = sum(path.stat().st_size for path in a.out.rglob("*.safetensors"))
    print(f"weights {total / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
