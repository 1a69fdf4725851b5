"""What a model can do, from the small JSON files beside its weights: nothing is loaded, and no torch is imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fairlead.core.twins import nearest_to, sampler_of

JOINT_ONLY = "its text is only read by the picture (cross-attention) and never changed by it"
INPUT_IMAGE = "it needs a picture at every call; save the text-to-image pipeline of its family and use --image"
VIDEO = "it makes videos, and fairlead scores single pictures"
STAGES = "it is several networks in a row, and fairlead owns one denoising loop"
ACCELERATED = ("turbo", "lightning", "schnell", "lcm", "hyper", "dmd2", "distill", "flash")
"""Words in a name that promise pictures in a few steps."""


@dataclass(frozen=True)
class Family:
    """What is known of a pipeline class."""

    denoiser: str
    """Its folder: unet or transformer."""
    sites: Callable[[Mapping[str, Any]], int]
    """Blocks that hand on text changed by the picture, from the denoiser's configuration."""
    guidance: str = "guidance_scale"
    """The setting of classifier-free guidance."""
    off: float = 1.0
    """Its value that runs no second row."""
    few: int = 4
    """Steps of its distilled members."""


def _none(config: Mapping[str, Any]) -> int:
    return 0


FAMILIES = {
    "Flux2KleinPipeline": Family(
        "transformer", lambda c: int(c.get("num_layers", 8)) + int(c.get("num_single_layers", 48))
    ),
    "Flux2Pipeline": Family(
        "transformer", lambda c: int(c.get("num_layers", 8)) + int(c.get("num_single_layers", 48)), "guidance_scale"
    ),
    "AuraFlowPipeline": Family(
        "transformer", lambda c: int(c.get("num_mmdit_layers", 4)) + int(c.get("num_single_dit_layers", 32))
    ),
    "ChromaPipeline": Family(
        "transformer", lambda c: int(c.get("num_layers", 19)) + int(c.get("num_single_layers", 38))
    ),
    "FluxPipeline": Family(
        "transformer", lambda c: int(c.get("num_layers", 19)) + int(c.get("num_single_layers", 38)), "true_cfg_scale"
    ),
    "Krea2Pipeline": Family("transformer", lambda c: int(c.get("num_layers", 28)), off=0.0, few=8),
    "LatentConsistencyModelPipeline": Family("unet", _none),
    "Lumina2Pipeline": Family("transformer", _none),
    "PixArtSigmaPipeline": Family("transformer", _none),
    "QwenImagePipeline": Family("transformer", lambda c: int(c.get("num_layers", 60)), "true_cfg_scale"),
    "SanaPipeline": Family("transformer", _none),
    "SanaSprintPipeline": Family("transformer", _none, few=2),
    "StableDiffusion3Pipeline": Family("transformer", lambda c: int(c.get("num_layers", 18)) - 1),
    "StableDiffusionPipeline": Family("unet", _none),
    "StableDiffusionXLPipeline": Family("unet", _none),
    "ZImagePipeline": Family("transformer", lambda c: int(c.get("n_layers", 30)), off=0.0, few=8),
}

REFUSED = {
    "Img2Img": INPUT_IMAGE,
    "Inpaint": INPUT_IMAGE,
    "Kontext": INPUT_IMAGE,
    "Fill": INPUT_IMAGE,
    "Edit": INPUT_IMAGE,
    "ControlNet": INPUT_IMAGE,
    "Upscale": INPUT_IMAGE,
    "InstructPix2Pix": INPUT_IMAGE,
    "Redux": INPUT_IMAGE,
    "Control": INPUT_IMAGE,
    "Video": VIDEO,
    "Wan": VIDEO,
    "LTX": VIDEO,
    "Mochi": VIDEO,
    "Allegro": VIDEO,
    "Latte": VIDEO,
    "CogVideo": VIDEO,
    "Cascade": STAGES,
    "Wuerstchen": STAGES,
    "Kandinsky": STAGES,
    "IFPipeline": "it works on pixels in several stages, and fairlead searches latents",
    "HiDream": "its blocks carry a language model's states along, which no adapter here reads yet",
}
"""Part of a pipeline's class name -> why it is refused."""


@dataclass(frozen=True)
class Capabilities:
    """What a loaded model would support."""

    pipeline: str
    adapter: bool
    """An adapter is registered for it."""
    sites: int | None
    """Joint-attention sites for interventions; None if not known before loading."""
    gradients: bool
    stochastic: bool
    """Samplers that add noise: every adapter has both coordinates, so always true of a known family."""
    few_step: bool
    """Distilled to give pictures in 1 to 8 steps."""
    embedding: bool
    """Its prompt embedding can be moved."""
    sampler: str
    """The one that steps as its scheduler does."""
    guidance: str
    """What guides it: classifier-free, embedded in the network, or none."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def words(self) -> str:
        """One line for a table."""
        said = ["gradients"] * self.gradients + ["embedding search"] * self.embedding
        if self.sites:
            said.append(f"{self.sites} joint sites")
        return ", ".join([*said, *(["few-step"] * self.few_step)])


def refusal(pipeline: str) -> str | None:
    """Why a pipeline class cannot be used, if it is known."""
    return next((reason for part, reason in REFUSED.items() if part in pipeline), None)


def _guidance(embedded: bool, few_step: bool) -> str:
    if embedded:
        return "embedded"
    return "none needed" if few_step else "classifier-free"


def of(
    pipeline: str, adapter: bool, name: str, denoiser: Mapping[str, Any], scheduler: Mapping[str, Any]
) -> Capabilities:
    """From the class of the pipeline and the configurations of its denoiser and scheduler."""
    family = FAMILIES.get(pipeline)
    stepper = str(scheduler.get("_class_name"))
    steps_like = nearest_to(stepper)
    hint = any(word in name.lower().replace("_", "-") for word in ACCELERATED)
    trailing = scheduler.get("timestep_spacing") == "trailing" and steps_like == "ancestral"
    jumps = steps_like == "consistency" or stepper == "TCDScheduler"
    few = hint or jumps or trailing or denoiser.get("time_cond_proj_dim") is not None
    embedded = bool(denoiser.get("guidance_embeds")) or denoiser.get("time_cond_proj_dim") is not None
    return Capabilities(
        pipeline=pipeline,
        adapter=adapter,
        sites=None if family is None else family.sites(denoiser),
        gradients=True,
        stochastic=True,
        few_step=few,
        embedding=True,
        sampler=sampler_of(stepper, scheduler),
        guidance=_guidance(embedded, few),
    )
