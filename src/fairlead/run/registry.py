"""name -> "module:attribute", resolved when used. Built-in and third-party items are in the same table.

A package joins by an entry point in the group `fairlead.<kind>`, for example `fairlead.rewards`; its name is the word
people type. Nothing here imports an axis folder until somebody asks for one of its items.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Collection, Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from fairlead.core.errors import FairleadError, unknown

if TYPE_CHECKING:
    from fairlead.run.part import Part

BUILTIN: dict[str, dict[str, str]] = {
    "models": {
        "pocket": "fairlead.pocket.load:folder",
        "pocket-turbo": "fairlead.pocket.load:turbo_folder",
        "pocket-unet": "fairlead.pocket.load:unet_folder",
        "mixture": "fairlead.models.mixture:Mixture",
    },
    "adapters": {
        "AuraFlowPipeline": "fairlead.models.aura_flow:AuraFlow",
        "ChromaPipeline": "fairlead.models.chroma:Chroma",
        "Flux2KleinPipeline": "fairlead.models.flux2:Flux2Klein",
        "Flux2Pipeline": "fairlead.models.flux2:Flux2",
        "FluxPipeline": "fairlead.models.flux:Flux",
        "Krea2Pipeline": "fairlead.models.krea2:Krea2",
        "LatentConsistencyModelPipeline": "fairlead.models.sd:LatentConsistency",
        "Lumina2Pipeline": "fairlead.models.lumina2:Lumina2",
        "PixArtSigmaPipeline": "fairlead.models.pixart:PixArtSigma",
        "QwenImagePipeline": "fairlead.models.qwen_image:QwenImage",
        "SanaPipeline": "fairlead.models.sana:Sana",
        "SanaSprintPipeline": "fairlead.models.sana_sprint:SanaSprint",
        "StableDiffusion3Pipeline": "fairlead.models.sd3:StableDiffusion3",
        "StableDiffusionPipeline": "fairlead.models.sd:StableDiffusion",
        "StableDiffusionXLPipeline": "fairlead.models.sdxl:StableDiffusionXL",
        "ZImagePipeline": "fairlead.models.z_image:ZImage",
    },
    "rewards": {
        "aesthetic": "fairlead.rewards.aesthetic:Aesthetic",
        "brightness": "fairlead.rewards.brightness:Brightness",
        "clip_score": "fairlead.rewards.clip_score:ClipScore",
        "detector": "fairlead.rewards.detector:DetectorScore",
        "edit_direction": "fairlead.rewards.edit_direction:EditDirection",
        "file": "fairlead.rewards.file:FileReward",
        "hps": "fairlead.rewards.hps:Hps",
        "http": "fairlead.rewards.http:HttpReward",
        "human": "fairlead.rewards.human:Human",
        "image_reward": "fairlead.rewards.image_reward:ImageReward",
        "image_similarity": "fairlead.rewards.image_similarity:ImageSimilarity",
        "jpeg_size": "fairlead.rewards.jpeg_size:JpegSize",
        "judge": "fairlead.rewards.judge:Judge",
        "pairwise_judge": "fairlead.rewards.pairwise_judge:PairwiseJudge",
        "pick_score": "fairlead.rewards.pick_score:PickScore",
        "self_verifier": "fairlead.rewards.self_verifier:SelfVerifier",
        "vqa_score": "fairlead.rewards.vqa_score:VqaScore",
    },
    "spaces": {
        "embedding": "fairlead.spaces.embedding:Embedding",
        "noise": "fairlead.spaces.noise:Noise",
        "product": "fairlead.spaces.product:Product",
    },
    "searches": {
        "adam": "fairlead.searches.adam:Adam",
        "bayes_opt": "fairlead.searches.bayes_opt:BayesOpt",
        "best_of": "fairlead.searches.best_of:BestOf",
        "evolution": "fairlead.searches.evolution:Evolution",
        "first_order": "fairlead.searches.first_order:FirstOrder",
        "reno": "fairlead.searches.reno:Reno",
        "sep_cma": "fairlead.searches.sep_cma:SepCma",
        "snes": "fairlead.searches.snes:Snes",
        "trust_region": "fairlead.searches.trust_region:TrustRegion",
        "zero_order": "fairlead.searches.zero_order:ZeroOrder",
    },
    "steerings": {
        "date": "fairlead.steering.date:AdaptiveEmbedding",
        "demon": "fairlead.steering.demon:Demon",
        "dfs": "fairlead.steering.dfs:DepthFirst",
        "feynman_kac": "fairlead.steering.feynman_kac:FeynmanKac",
        "lidar": "fairlead.steering.lidar:Lidar",
        "particle_guidance": "fairlead.steering.particle_guidance:ParticleGuidance",
        "paths": "fairlead.steering.paths:Paths",
        "reward_gradient": "fairlead.steering.reward_gradient:RewardGradient",
        "svdd": "fairlead.steering.svdd:ValueDecoding",
    },
    "interventions": {
        "cads": "fairlead.interventions.cads:Cads",
        "repulsion": "fairlead.interventions.repulsion:Repulsion",
        "token_mean_damping": "fairlead.interventions.token_mean_damping:TokenMeanDamping",
    },
    "features": {
        "clip": "fairlead.metrics.features:Encoder",
        "pixels": "fairlead.metrics.features:Pixels",
    },
    "metrics": {
        "vendi": "fairlead.metrics.vendi:VendiScore",
        "mean_cosine": "fairlead.metrics.vendi:MeanCosine",
        "ssim": "fairlead.metrics.pairs:MeanSsim",
        "lpips": "fairlead.metrics.pairs:MeanLpips",
        "dreamsim": "fairlead.metrics.pairs:MeanDreamSim",
    },
    "samplers": {
        "euler": "fairlead.core.samplers:euler",
        "heun": "fairlead.core.samplers:heun",
        "dpmpp_2m": "fairlead.core.samplers:dpmpp_2m",
        "ancestral": "fairlead.core.samplers:ancestral",
        "consistency": "fairlead.core.samplers:consistency",
        "scheduler": "fairlead.core.samplers:scheduler",
    },
}
"""What a pipeline class needs is an adapter: `adapters` maps the class name in model_index.json to it."""
BASES = {
    "interventions": "fairlead.core.intervention:Intervention",
    "steerings": "fairlead.core.steering:Steering",
}
"""The base class that declares what an item of a kind can do."""

LISTED = ("models", "rewards", "spaces", "searches", "steerings", "interventions", "samplers")
"""The kinds that `fairlead list` shows."""


@cache
def table(kind: str) -> dict[str, str]:
    """Everything of one kind, by name. A third party may not take a built-in's name."""
    if kind not in BUILTIN:
        raise unknown("kind", kind, BUILTIN)
    found = dict(BUILTIN[kind])
    for point in entry_points(group=f"fairlead.{kind}"):
        if found.setdefault(point.name, point.value) != point.value:
            raise FairleadError(
                f"Two {kind} are named {point.name!r} ({found[point.name]} and {point.value}): uninstall one of them."
            )
    return found


def check(kind: str, name: str) -> str:
    """The name, or an error with the nearest known one."""
    if name not in table(kind):
        listed = f"fairlead list {kind}" if kind in LISTED else ""
        raise unknown(singular(kind), name, table(kind), see=listed)
    return name


def singular(kind: str) -> str:
    """The word for one of a kind."""
    return kind[:-2] if kind.endswith("ches") else kind[:-1]


def resolve(kind: str, name: str) -> Any:
    """The registered object itself."""
    path = table(kind)[check(kind, name)]
    module, _, attribute = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise FairleadError(f"{singular(kind)} {name!r} could not be imported from {path}: {error}.") from error
    if kind in BASES:
        _check_base(kind, name, found)
    return found


def _check_base(kind: str, name: str, found: Any) -> None:
    """What an item can do is declared on a base class: one that does not extend it has declared nothing."""
    module, _, attribute = BASES[kind].partition(":")
    base = getattr(importlib.import_module(module), attribute)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise FairleadError(f"{singular(kind)} {name!r} must be a subclass of {module}.{attribute}, but is {found!r}.")


def parameters(make: Callable[..., Any], given: int = 0) -> list[inspect.Parameter]:
    """What `make` takes after the first `given`."""
    return list(inspect.signature(make).parameters.values())[given:]


def known_settings(name: str, settings: Mapping[str, Any], accepted: Collection[str]) -> None:
    """Refuse a setting that is not accepted, by its nearest known name."""
    for setting in settings:
        if setting not in accepted:
            raise unknown("setting", setting, accepted, of=name)


def call(make: Callable[..., Any], name: str, settings: Mapping[str, Any], *given: Any) -> Any:
    """make(*given, **settings), with an unknown setting refused by its nearest known name."""
    expected = parameters(make, len(given))
    known_settings(name, settings, [p.name for p in expected])
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    lacking = [p.name for p in expected if p.default is p.empty and p.kind not in free and p.name not in settings]
    if lacking:
        missing = " and ".join(f"`{one}`" for one in lacking)
        written = ", ".join(f"{one}=..." for one in lacking)
        raise FairleadError(f"{name} needs {missing}. Write {name}({written}).")
    try:
        return make(*given, **settings)
    except (TypeError, ValueError, OverflowError, AttributeError, LookupError) as error:
        raise FairleadError(f"{name} cannot be built from {dict(settings)!r:.200}: {error!s:.200}.") from error


def build(kind: str, part: Part, *given: Any) -> Any:
    """A registered item from its Part."""
    return call(resolve(kind, part.name), part.name, part.settings, *given)
