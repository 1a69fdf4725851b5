"""Write the FluxPipeline folder: ``python export.py --folder RUN --out ../../src/fairlead/pocket/assets/pocket``.

Half precision, averaged weights.  Checks that the folder, loaded again, gives the pictures of the training
code's own sampler from the same noise.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from common import autoencoder, clip_encoder, t5_encoder, to_pixels, transformer, unpack
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformer import PROMPTS, generate
from transformers import PreTrainedTokenizerFast

from fairlead.pocket import world


def defaults(steps: int, guidance: float) -> dict[str, Any]:
    """What `fairlead.json` says of the folder."""
    settings = {"true_cfg_scale": guidance, "height": world.SIZE, "width": world.SIZE}
    settings["max_sequence_length"] = world.TOKENS
    return {"steps": steps, "batch": 16, "settings": settings, "vocabulary": "words"}


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per word, ``<bos>`` words ``<eos>``, padded to 16."""
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


def build(folder: Path, weights: str = "transformer") -> FluxPipeline:
    """The pipeline of a run folder, single precision."""
    state = torch.load(folder / f"{weights}.pt")
    parts = (transformer(), t5_encoder(), clip_encoder())
    for part, weights in zip(parts, state["averaged"], strict=True):
        part.load_state_dict(weights)
    decoder = folder / "decoder.pt"
    vae = autoencoder()
    vae.load_state_dict(torch.load(decoder if decoder.exists() else folder / "autoencoder.pt")["model"])
    vae.register_to_config(scaling_factor=state["scale"], shift_factor=state["shift"])
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0),
        vae=vae,
        text_encoder=parts[2],
        tokenizer=tokenizer(),
        text_encoder_2=parts[1],
        tokenizer_2=tokenizer(),
        transformer=parts[0],
    )


def pictures(pipe: FluxPipeline, prompts: list[str], seed: int, steps: int = 20, guidance: float = 3.0) -> torch.Tensor:
    """Pictures ``[B, 3, 64, 64]`` in [0, 1] by the stock pipeline."""
    noise = torch.randn(len(prompts), 64, 32, generator=torch.Generator().manual_seed(seed))
    images: torch.Tensor = pipe(
        prompt=prompts,
        negative_prompt=[""] * len(prompts),
        true_cfg_scale=guidance,
        num_inference_steps=steps,
        height=world.SIZE,
        width=world.SIZE,
        max_sequence_length=world.TOKENS,
        latents=noise.to(pipe.transformer.dtype),
        output_type="pt",
    ).images
    return images.float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", default="transformer", help="transformer or turbo")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0)
    a = parser.parse_args()
    pipe = build(a.folder, a.weights).to(torch.float16)
    pipe.save_pretrained(a.out, max_shard_size="14MB")
    (a.out / "fairlead.json").write_text(json.dumps(defaults(a.steps, a.guidance), indent=1) + "\n")
    again = FluxPipeline.from_pretrained(a.out, dtype=torch.float32)
    again.set_progress_bar_config(disable=True)
    images = pictures(again, PROMPTS, 0, a.steps, a.guidance)
    nets = (again.transformer, again.text_encoder_2, again.text_encoder)
    latents = generate(nets, PROMPTS, steps=a.steps, guidance=a.guidance, autocast=False)
    with torch.no_grad():
        latents = unpack(latents) / again.vae.config.scaling_factor + again.vae.config.shift_factor
        own = again.vae.decode(latents).sample.clamp(-1, 1) / 2 + 0.5
    print(f"largest difference between the pipeline and the own sampler: {(images - own).abs().max():.2g}")
    world.grid(to_pixels(images * 2 - 1)).save(a.folder / f"grid_pipeline_{a.weights}.png")
    total = sum(path.stat().st_size for path in a.out.rglob("*.safetensors"))
    print(f"weights {total / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
