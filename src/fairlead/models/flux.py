"""FLUX.1 and every folder of its classes: rectified flow, packed latents, joint attention throughout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairlead.core.cost import Cost, Meter
from fairlead.core.errors import FairleadError
from fairlead.core.model import Conditioning, Edit, Level, Rows, Site, Tokens


class Flux:
    """A `FluxPipeline` folder or hub name behind the `Model` protocol.

    `guidance_scale` is the embedded scale of guidance-distilled networks (FLUX.1-dev) and is ignored by the others;
    `true_cfg_scale` above 1 runs a second row per sample with `negative_prompt`. Sizes are pixels.
    """

    def __init__(
        self,
        source: str,
        *,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float = 3.5,
        true_cfg_scale: float = 1.0,
        negative_prompt: str = "",
        max_sequence_length: int = 512,
        dtype: str = "float32",
        device: str = "cpu",
        revision: str | None = None,
    ) -> None:
        from diffusers import FluxPipeline

        pipe: Any = FluxPipeline.from_pretrained(source, dtype=getattr(torch, dtype), revision=revision)
        self._pipe = pipe.to(device)
        self._net: Any = pipe.transformer.eval().requires_grad_(False)
        self._vae: Any = pipe.vae.eval().requires_grad_(False)
        for encoder in (pipe.text_encoder, pipe.text_encoder_2):
            encoder.eval().requires_grad_(False)
        self._cfg, self._guidance, self._negative = float(true_cfg_scale), float(guidance_scale), negative_prompt
        self._length, self._device, self._dtype = max_sequence_length, torch.device(device), getattr(torch, dtype)
        unit = pipe.vae_scale_factor * 2
        for name, size in (("height", height), ("width", width)):
            if size is not None and (size < unit or size % unit):
                raise FairleadError(f"{name} is {size}: give a multiple of {unit} pixels.")
        default = pipe.default_sample_size * pipe.vae_scale_factor
        self._size = (height or default, width or default)
        h, w = (2 * (size // unit) for size in self._size)
        self._latent = (int(self._net.config.in_channels) // 4, h, w)
        ids = pipe._prepare_latent_image_ids(1, h // 2, w // 2, self._device, self._dtype)
        self._image_ids: Tensor = ids
        self._meter: Meter | None = None
        self._net.register_forward_pre_hook(self._charge, with_kwargs=True)
        self._rows: Rows | None = None
        self._sites = [Site(f"joint_{i}", "joint", i) for i in range(len(self._net.transformer_blocks))] + [
            Site(f"single_{i}", "single", i) for i in range(len(self._net.single_transformer_blocks))
        ]

    @property
    def latent(self) -> tuple[int, int, int]:
        """(C, h, w)"""
        return self._latent

    @property
    def device(self) -> torch.device:
        """Where latents live."""
        return self._device

    @property
    def sites(self) -> Sequence[Site]:
        """Every block: text leaves all of them changed by the image."""
        return self._sites

    @property
    def branches(self) -> int:
        """2 with true classifier-free guidance, else 1."""
        return 2 if self._cfg > 1 else 1

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Prompts -> T5 tokens [B, T, D], CLIP's pooled vector, and the negative prompt's pair if it is used."""
        for prompt in prompts:
            count = len(self._pipe.tokenizer_2(prompt).input_ids)
            if count > self._length:
                raise FairleadError(
                    f"The prompt has {count} tokens and this model reads {self._length}: shorten {prompt!r}."
                )
        tokens, pooled = self._text(list(prompts))
        extra = {"pooled": pooled}
        if self.branches == 2:
            negative, negative_pooled = self._text([self._negative])
            extra["negative"] = negative.expand(len(prompts), -1, -1)
            extra["negative_pooled"] = negative_pooled.expand(len(prompts), -1)
        return Conditioning(tokens, tuple(prompts), extra)

    def _text(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        tokens, pooled, _ = self._pipe.encode_prompt(prompts, device=self._device, max_sequence_length=self._length)
        return tokens, pooled

    def levels(self, steps: int) -> Sequence[Level]:
        """The pipeline's own sigmas, shifted by picture size where the scheduler's configuration says so."""
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift

        scheduler, config = self._pipe.scheduler, self._pipe.scheduler.config
        mu = calculate_shift(
            len(self._image_ids),
            config.get("base_image_seq_len", 256),
            config.get("max_image_seq_len", 4096),
            config.get("base_shift", 0.5),
            config.get("max_shift", 1.15),
        )
        sigmas = None if config.get("use_flow_sigmas") else np.linspace(1.0, 1 / steps, steps)
        scheduler.set_timesteps(None if sigmas is not None else steps, sigmas=sigmas, mu=mu)
        return [Level(1.0 - s, s) for s in scheduler.sigmas.tolist()]

    def predict(self, x: Tensor, at: Level, cond: Conditioning, rows: Rows) -> Tensor:
        """x [R, C, h, w] -> x0 = x - sigma v [R, C, h, w], float32; guidance mixes velocities as the pipeline does."""
        tokens, pooled = cond.tokens, cond.extra["pooled"]
        doubled = x
        if self.branches == 2:
            doubled, rows = torch.cat([x, x]), rows.doubled()
            tokens = torch.cat([cond.extra["negative"].to(tokens.dtype), tokens])
            pooled = torch.cat([cond.extra["negative_pooled"], pooled])
        self._rows = rows
        r, c, h, w = doubled.shape
        packed = self._pipe._pack_latents(doubled.to(self._dtype), r, c, h, w)
        guided = self._net.config.guidance_embeds
        out: Tensor = self._net(
            hidden_states=packed,
            timestep=torch.full((r,), at.sigma, dtype=self._dtype, device=x.device),
            guidance=torch.full((r,), self._guidance, device=x.device) if guided else None,
            pooled_projections=pooled.to(self._dtype),
            encoder_hidden_states=tokens.to(self._dtype),
            txt_ids=torch.zeros(tokens.shape[1], 3, dtype=self._dtype, device=x.device),
            img_ids=self._image_ids,
            return_dict=False,
        )[0]
        v: Tensor = self._pipe._unpack_latents(out.float(), *self._size, self._pipe.vae_scale_factor)
        if self.branches == 2:
            negative, positive = v.chunk(2)
            v = negative + self._cfg * (positive - negative)
        return x - at.sigma * v

    def decode(self, x: Tensor) -> Tensor:
        """x0 [B, C, h, w] -> images [B, 3, H, W] in [0, 1], float32."""
        if self._meter is not None:
            self._meter.charge(Cost(decodes=len(x)))
        config = self._vae.config
        z = x / config.scaling_factor + (config.shift_factor or 0.0)
        image: Tensor = self._vae.decode(z.to(self._vae.dtype), return_dict=False)[0]
        return (image.float() / 2 + 0.5).clamp(0, 1)

    def meter(self, meter: Meter) -> None:
        """From now on every row of the network and every decoded latent is charged first."""
        self._meter = meter

    def _charge(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._meter is not None:
            rows = len(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0])
            self._meter.charge(Cost(forwards=rows))

    def edit(self, site: Site, edit: Edit) -> Callable[[], None]:
        """Edit both streams where block `site` hands them on; returns the removal."""
        blocks = self._net.transformer_blocks if site.kind == "joint" else self._net.single_transformer_blocks

        def hook(module: Any, args: Any, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            assert self._rows is not None
            text, image = output
            new = edit(self._rows, Tokens(image, text))
            return new.text, new.image

        handle = blocks[site.index].register_forward_hook(hook)
        return lambda: handle.remove()
