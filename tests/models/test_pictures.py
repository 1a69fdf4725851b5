"""Picture inputs: the img2img and inpainting pipelines' own latents from the same noise, on tiny random networks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import tiny_flux
import tiny_pipelines as tiny
from fairlead.core.cost import INFINITE, Meter
from fairlead.core.errors import FairleadError
from fairlead.core.key import Key, normals
from fairlead.core.model import started, whole
from fairlead.core.samplers import Sampler, ancestral, dpmpp_2m, euler, sampler_for, scheduler
from fairlead.core.sampling import sample
from fairlead.models.chroma import Chroma
from fairlead.models.flux import Flux
from fairlead.models.sd import StableDiffusion
from fairlead.models.sd3 import StableDiffusion3
from fairlead.models.sdxl import StableDiffusionXL
from fairlead.models.z_image import ZImage
from fairlead.run import models
from fairlead.run.options import RunOptions

PROMPTS = ["a red apple", "two cats and a blue car"]
KEYS = tuple(Key.root(0).fold("candidate", i) for i in range(len(PROMPTS)))
DDIM = {**tiny.SCALED, "steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False}
ADAPTERS = {
    "sd": StableDiffusion,
    "sdxl": StableDiffusionXL,
    "sd3": StableDiffusion3,
    "flux": Flux,
    "chroma": Chroma,
    "z_image": ZImage,
}
PIPELINES = {
    "sd": ("StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"),
    "sdxl": ("StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"),
    "sd3": ("StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline"),
    "flux": ("FluxImg2ImgPipeline", "FluxInpaintPipeline"),
    "chroma": ("ChromaImg2ImgPipeline", ""),
    "z_image": ("ZImageImg2ImgPipeline", "ZImageInpaintPipeline"),
}
NATIVE: dict[str, tuple[str, dict[str, Any]]] = {
    "sd": ("DDIMScheduler", DDIM),
    "sdxl": ("EulerDiscreteScheduler", {**tiny.SCALED, "timestep_spacing": "leading", "steps_offset": 1}),
    "sd3": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    "chroma": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    "z_image": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    "flux": (
        "FlowMatchEulerDiscreteScheduler",
        {"use_dynamic_shifting": True, "base_image_seq_len": 4, "max_image_seq_len": 64, "base_shift": 0.3},
    ),
}


def picture(width: int = 24, height: int = 24) -> Image.Image:
    """Colour ramps with a dark square."""
    rows = np.linspace(0, 255, height)[:, None] * np.ones(width)
    columns = np.linspace(255, 0, width)[None] * np.ones((height, 1))
    square = np.where((rows > 80) & (columns > 120), 30, 200)
    return Image.fromarray(np.stack([rows, columns, square], -1).astype(np.uint8))


def half() -> Image.Image:
    """White on the right."""
    return Image.fromarray(np.where(np.arange(24) >= 10, 255, 0).astype(np.uint8)[None].repeat(24, 0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    made: dict[str, str] = {}

    def get(family: str, kind: str | None = None, settings: dict[str, Any] | None = None) -> str:
        name, own = NATIVE[family] if kind is None else (kind, settings or {})
        key = f"{family}{name}{own}"
        if key not in made:
            where = tmp_path_factory.mktemp(family)
            stepper = getattr(diffusers, name)(**own)
            if family == "flux":
                pipe = tiny_flux.pipeline(False, {})
                pipe.scheduler = stepper
                pipe.save_pretrained(where)
                made[key] = str(where)
            else:
                made[key] = tiny.saved(
                    where, getattr(tiny, family), stepper, **({"channels": 16} if family == "sd3" else {})
                )
        return made[key]

    return get


def ours(model: Any, sampler: Sampler, steps: int) -> tuple[Tensor, Tensor]:
    """(unit noise, final latents)"""
    meter = Meter()
    model.meter(meter)
    noise = normals(tuple(k.fold("init") for k in KEYS), *model.latent)
    levels = model.levels(steps)
    with torch.no_grad(), meter.grant(INFINITE):
        x = started(model, noise, levels[0])
        z = sample(model, sampler_for(sampler, model), x, model.encode(PROMPTS), levels, KEYS, meter)
    assert meter.spent.nfe == (len(levels) - 1) * len(PROMPTS) or sampler is scheduler
    return noise, model.with_known(z)


def theirs(
    pipeline: str, where: str, model: Any, noise: Tensor, steps: int, monkeypatch: pytest.MonkeyPatch, **call: Any
) -> Tensor:
    """The pipeline's own latents [B, C, h, w] from the same noise, the encoder's included."""
    from diffusers.models.autoencoders import vae

    pipe = getattr(diffusers, pipeline).from_pretrained(where)
    pipe.set_progress_bar_config(disable=True)
    own = Key.root(0).fold("input picture").normal(1, *model.latent)
    monkeypatch.setattr(vae, "randn_tensor", lambda shape, **words: own.expand(shape))
    monkeypatch.setattr(sys.modules[type(pipe).__module__], "randn_tensor", lambda shape, **words: noise.expand(shape))
    draws = iter(
        [normals(tuple(k.fold("step", i) for k in KEYS), *model.latent) for i in range(len(model.levels(steps)) - 1)]
    )
    monkeypatch.setattr(
        sys.modules[type(pipe.scheduler).__module__], "randn_tensor", lambda *a, **k: next(draws), False
    )
    height, width = model.size
    sized = "Img2Img" not in pipeline or not pipeline.startswith(("StableDiffusionImg", "StableDiffusionXL"))
    size = {"height": height, "width": width} if sized else {}
    found: Tensor = pipe(prompt=PROMPTS, num_inference_steps=steps, output_type="latent", **{**size, **call}).images
    if found.ndim == 3:
        found = pipe._unpack_latents(found, height, width, pipe.vae_scale_factor)
    return found


def same(
    family: str,
    where: str,
    sampler: Sampler,
    steps: int,
    monkeypatch: pytest.MonkeyPatch,
    tolerance: float = 3e-4,
    **settings: Any,
) -> None:
    """Equal latents up to rounding."""
    model = ADAPTERS[family](where, height=24, width=24, **settings)
    noise, mine = ours(model, sampler, steps)
    model.release()
    offset = 1.0 if family == "z_image" else 0.0  # its pipeline adds where the others mix
    guidance = {} if family == "flux" else {"guidance_scale": model.guidance_scale - offset}
    words = {**guidance, **settings}
    kind = PIPELINES[family]["mask" in settings]
    if "mask" in words:
        words["mask_image"] = words.pop("mask")
    if "image" in words:
        words["image"] = [words["image"]] * (1 if "mask" in settings else len(PROMPTS))
        words["image"] = words["image"][0] if len(words["image"]) == 1 else words["image"]
    expected = theirs(kind, where, model, noise, steps, monkeypatch, **words)
    assert expected.shape == mine.shape
    gap = float((mine - expected).abs().max())
    assert gap <= tolerance * max(1.0, float(expected.abs().max())), f"latents differ by {gap:.3g}"
    assert float(expected.std()) > 0.1


@pytest.mark.parametrize("strength", [0.3, 0.6, 1.0])
@pytest.mark.parametrize("family", ADAPTERS)
def test_a_picture_is_the_pipeline(
    family: str, strength: float, folder: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    same(family, folder(family), euler, 7, monkeypatch, image=picture(), strength=strength)


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("family", [f for f in ADAPTERS if PIPELINES[f][1]])
def test_a_mask_is_the_pipeline(
    family: str, strength: float, folder: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    same(family, folder(family), euler, 6, monkeypatch, image=picture(), strength=strength, mask=half())


@pytest.mark.parametrize(
    ("kind", "settings", "sampler"),
    [
        ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}, ancestral),
        ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, dpmpp_2m),
        ("EulerDiscreteScheduler", {"timestep_spacing": "linspace", "prediction_type": "v_prediction"}, euler),
        ("UniPCMultistepScheduler", {}, scheduler),
        ("HeunDiscreteScheduler", {}, scheduler),
        ("DEISMultistepScheduler", {}, scheduler),
        ("KDPM2DiscreteScheduler", {}, scheduler),
        ("DDIMScheduler", DDIM, scheduler),
    ],
)
def test_every_scheduler_starts_below_its_top(
    kind: str,
    settings: dict[str, Any],
    sampler: Sampler,
    folder: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    where = folder("sd", kind, {**tiny.SCALED, **settings})
    same("sd", where, sampler, 7, monkeypatch, image=picture(), strength=0.6, guidance_scale=3.0, tolerance=1e-3)


def test_what_a_mask_keeps_is_kept(folder: Callable[..., str]) -> None:
    """In every prediction and in what is decoded, wherever a steering has put the state."""
    model: Any = Flux(folder("flux"), height=24, width=24, image=picture(), strength=0.6, mask=half())
    meter = Meter()
    model.meter(meter)
    kept = (model._repaint == 0).expand(2, *model.latent)
    at = model.levels(5)[1]
    own = model._clean.expand(2, *model.latent)
    with torch.no_grad(), meter.grant(INFINITE):
        anywhere = normals(KEYS, *model.latent)
        x0 = model.predict(anywhere, at, model.encode(PROMPTS), whole(2, at, step=1))
        assert torch.equal(x0[kept], own[kept])
        assert not torch.equal(x0[~kept], own[~kept])
        torch.testing.assert_close(model.decode(anywhere), model.decode(torch.where(kept, own, anywhere)))


def test_a_shape_is_kept_where_no_side_was_chosen(folder: Callable[..., str]) -> None:
    model: Any = Flux(folder("flux"), image=picture(48, 12), strength=0.6)
    assert model.size == (128, 512)
    with pytest.raises(FairleadError, match="is 48x12, which does not have the shape of 16x16: crop it"):
        Flux(folder("flux"), height=16, width=16, image=picture(48, 12), strength=0.6)


def test_a_family_without_picture_inputs_says_so(tmp_path: Path) -> None:
    where = tiny.saved(tmp_path, tiny.lcm, diffusers.LCMScheduler(**tiny.SCALED, clip_sample=False))
    spec = models.spec_of(RunOptions("a dog", model=where, image=picture()))
    with pytest.raises(FairleadError, match="this family has no picture input here"):
        models.check(spec)
    pipe = diffusers.LatentConsistencyModelPipeline.from_pretrained(where)
    with pytest.raises(FairleadError, match="'image' of LatentConsistencyModelPipeline cannot be used"):
        models.lend(pipe, {"image": picture()})


def test_the_levels_of_a_picture_obey_the_laws_of_levels(folder: Callable[..., str]) -> None:
    """At every number of steps at least one move, and never more than without a picture."""
    for family in ("sd", "flux"):
        model: Any = ADAPTERS[family](folder(family), height=24, width=24, image=picture(), strength=0.34)
        plain: Any = ADAPTERS[family](folder(family), height=24, width=24)
        for steps in range(1, 12):
            levels = model.levels(steps)
            assert len(levels) >= 2
            assert list(levels) == list(plain.levels(steps)[-len(levels) :])
            assert steps in model.whole_steps(len(levels) - 1)


def test_it_says_where_the_scheduler_cannot_start(folder: Callable[..., str]) -> None:
    plms = {k: v for k, v in DDIM.items() if k != "clip_sample"}
    where = folder("sd", "PNDMScheduler", {**plms, "skip_prk_steps": True})
    model = StableDiffusion(where, height=24, width=24, image=picture(), strength=0.5)
    assert any("the sampler euler takes the steps" in said for said in model.warnings("a dog", "scheduler"))
    assert not any("takes the steps" in said for said in model.warnings("a dog", "heun"))
    plain = StableDiffusion(where, height=24, width=24)
    assert not any("takes the steps" in said for said in plain.warnings("a dog", "scheduler"))
