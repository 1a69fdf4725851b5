"""The options of a run, each written once. Imports no torch.

The command line, plan files, `make_spec` and `fairlead.run` all take names, types, defaults and help from `RunOptions`:
to add an option, add a field here and read it in `run/spec.py`.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from functools import wraps
from inspect import cleandoc
from typing import Any, ParamSpec, TypeVar

from fairlead.core.cost import UNITS
from fairlead.core.errors import nearest
from fairlead.run.part import Part

Words = str | Part | Sequence[str | Part]
"""One name, or several that are applied in order."""
P = ParamSpec("P")
T = TypeVar("T", bound="RunOptions")
R = TypeVar("R")


@dataclass(frozen=True)
class Option:
    """What a field of `RunOptions` says about itself besides its name and default."""

    help: str
    read_as: Any
    """The type that the command line parses: str, int, float, bool or list[str]."""
    metavar: str | None = None
    flag: str | None = None
    """The name on the command line where it is not the field's."""
    short: str | None = None
    shown_default: str | None = None
    """What help shows where the default is decided later."""
    kind: str | None = None
    """The registered items that it names, for completion in a shell."""
    section: str = "run"
    """`run`; `model` for settings of the model; `plan` for what a comparison fixes for all of its methods."""

    @property
    def sentence(self) -> str:
        """The help text with the default, as the command line shows it."""
        return self.help if self.shown_default is None else f"{self.help}  [default: {self.shown_default}]"


def _option(read_as: Any, help: str, metavar: str | None = None, **more: Any) -> dict[str, Option]:
    return {"option": Option(help, read_as, metavar, **more)}


OWN = "the model's own"


@dataclass(frozen=True)
class RunOptions:
    """Everything that can be chosen for a run."""

    prompt: str = field(default="", metadata=_option(str, "What the picture should show.", "PROMPT", section="plan"))
    _: KW_ONLY
    like: str | None = field(
        default=None,
        metadata=_option(
            str, "Start from a picture of another run; a new PROMPT keeps its noise.", "RUN:CANDIDATE", section="plan"
        ),
    )
    unlike: str | None = field(
        default=None,
        metadata=_option(str, "Draw a group that repels a picture of another run.", "RUN:CANDIDATE", section="plan"),
    )
    model: Any = field(
        default="pocket",
        metadata=_option(
            str,
            "pocket, a hub name, a diffusers folder, or a .safetensors checkpoint.",
            "NAME",
            short="-m",
            kind="models",
        ),
    )
    reward: Any = field(
        default="clip_score",
        metadata=_option(
            str, "A formula over rewards, like 'clip_score + 0.5*aesthetic'.", "FORMULA", kind="rewards", section="plan"
        ),
    )
    watch: Any = field(
        default=(),
        metadata=_option(
            list[str],
            "A reward that is recorded and never optimised; repeat for several.",
            "FORMULA",
            kind="rewards",
            section="plan",
        ),
    )
    space: str | Part = field(default="noise", metadata=_option(str, "What the search moves.", "NAME", kind="spaces"))
    search: str | Part = field(
        default="best_of", metadata=_option(str, "The method that proposes candidates.", "NAME", kind="searches")
    )
    steer: Words = field(
        default=(),
        metadata=_option(
            list[str], "Control inside the denoising loop; repeat to chain several.", "NAME", kind="steerings"
        ),
    )
    intervene: Words = field(
        default=(),
        metadata=_option(list[str], "Edit inside the network; repeat for several.", "NAME", kind="interventions"),
    )
    settings: Mapping[str, Mapping[str, Any]] | Sequence[str] | None = field(
        default=None,
        metadata=_option(
            list[str],
            "A setting of one part, like best_of.n=16; repeat for several.",
            "PART.SETTING=VALUE",
            flag="--set",
        ),
    )
    budget: str | Mapping[str, float] | None = field(
        default=None,
        metadata=_option(
            str,
            f"Limits like nfe=2000,seconds=60 over {', '.join(UNITS)}.",
            "LIMITS",
            shown_default="nfe=640",
            section="plan",
        ),
    )
    sampler: str | None = field(
        default=None,
        metadata=_option(str, "The method that takes a denoising step.", "NAME", shown_default=OWN, kind="samplers"),
    )
    steps: int | None = field(
        default=None, metadata=_option(int, "Denoising steps of a picture.", "N", shown_default=OWN)
    )
    group: int = field(
        default=1, metadata=_option(int, "Candidates rendered together, for methods that couple them.", "N")
    )
    batch: int | None = field(default=None, metadata=_option(int, "Pictures rendered at once.", "N", shown_default=OWN))
    seed: int = field(default=0, metadata=_option(int, "Seed of all randomness of the run.", "N", section="plan"))
    draft: int | str | None = field(
        default=None,
        metadata=_option(
            str,
            "Judge candidates by drafts and finish the best: a number of evaluations, a few-step sibling, "
            "SIBLING@STEPS after that many own steps, or auto.",
            "DRAFT",
        ),
    )
    rungs: str | None = field(
        default=None,
        metadata=_option(
            str,
            "A chain of drafts like '4 > pocket-turbo@3'; a number after a colon, like '4:12', says how many advance.",
            "A > B",
        ),
    )
    finals: int | None = field(
        default=None,
        metadata=_option(
            int, "How many of the best drafts are finished.", "N", shown_default="as many as the budget makes best"
        ),
    )
    exact: bool = field(
        default=False,
        metadata=_option(
            bool, "Finish pictures from the noise, bit-equal to plain ones, and not from the state that a draft kept."
        ),
    )
    final_judge: str | Part | None = field(
        default=None,
        metadata=_option(
            str,
            "Let this judge choose the winner among the best finished pictures, two at a time: pairwise_judge(...) or "
            "human.",
            "JUDGE",
            kind="rewards",
        ),
    )
    entrants: int | None = field(
        default=None,
        metadata=_option(int, "How many of the best pictures the final judge compares.", "N", shown_default="8"),
    )
    looks: int | None = field(
        default=None,
        metadata=_option(
            int,
            "Looks at a pair: 1; 2 with the sides swapped, where both must agree to unseat the better reward; or 3.",
            "N",
            shown_default="the judge's own",
        ),
    )
    until: str | None = field(
        default=None,
        metadata=_option(
            str, "End the run when the best finished picture satisfies this, like 'clip_score >= 86'.", "CONDITION"
        ),
    )
    stop: str | None = field(
        default=None,
        metadata=_option(
            str,
            "End the run when the next picture promises less than its price: flat, or flat(price=0.05) in units of the "
            "reward.",
            "RULE",
        ),
    )

    image: Any = field(
        default=None,
        metadata=_option(
            str, "A picture to start from; in Python also a PIL picture, an array or a tensor.", "FILE", section="model"
        ),
    )
    strength: float | None = field(
        default=None,
        metadata=_option(
            float,
            "How far the picture may change: the share of the steps that is walked, above 0 and up to 1.",
            "X",
            shown_default="0.6, or 1 with --mask",
            section="model",
        ),
    )
    mask: Any = field(
        default=None,
        metadata=_option(
            str, "Which part of the picture is made anew: white is, black is kept.", "FILE", section="model"
        ),
    )
    height: int | None = field(
        default=None,
        metadata=_option(int, "Height of the picture in pixels.", "PX", shown_default=OWN, section="model"),
    )
    width: int | None = field(
        default=None, metadata=_option(int, "Width of the picture in pixels.", "PX", shown_default=OWN, section="model")
    )
    guidance_scale: float | None = field(
        default=None, metadata=_option(float, "Strength of guidance.", "X", shown_default=OWN, section="model")
    )
    negative_prompt: str | None = field(
        default=None, metadata=_option(str, "What guidance leads away from.", "TEXT", section="model")
    )
    prompt_2: str | None = field(
        default=None, metadata=_option(str, "Text for the second text encoder.", "TEXT", section="model")
    )
    clip_skip: int | None = field(
        default=None, metadata=_option(int, "Leave out the last N layers of the text encoder.", "N", section="model")
    )
    guidance_rescale: float | None = field(
        default=None,
        metadata=_option(float, "Correct overexposure under guidance, from 0 to 1.", "X", section="model"),
    )
    true_cfg_scale: float | None = field(
        default=None,
        metadata=_option(float, "Strength of true guidance, for FLUX and Qwen Image.", "X", section="model"),
    )
    dtype: str | None = field(
        default=None,
        metadata=_option(
            str,
            "float32, float16 or bfloat16.",
            "NAME",
            shown_default="the fastest that the device supports",
            section="model",
        ),
    )
    variant: str | None = field(
        default=None, metadata=_option(str, "Variant of the weights, like fp16.", "NAME", section="model")
    )
    revision: str | None = field(
        default=None, metadata=_option(str, "Branch, tag or commit of a hub model.", "NAME", section="model")
    )
    lora: str | Sequence[str] | None = field(
        default=None,
        metadata=_option(list[str], "LoRA file, or repository:file; repeat for several.", "FILE", section="model"),
    )
    cpu_offload: str | None = field(
        default=None, metadata=_option(str, "model, group, or text (only the text encoders).", "KIND", section="model")
    )
    vae_tiling: bool = field(
        default=False, metadata=_option(bool, "Decode in tiles, for large pictures.", section="model")
    )
    vae_slicing: bool = field(default=False, metadata=_option(bool, "Decode one picture at a time.", section="model"))
    compile: bool = field(
        default=False,
        metadata=_option(bool, "Compile the blocks of the network; the first step is slow.", section="model"),
    )
    attention_backend: str | None = field(
        default=None, metadata=_option(str, "diffusers' attention backend.", "NAME", section="model")
    )

    def __post_init__(self) -> None:
        """A model's folder may be a `Path`."""
        if isinstance(self.model, os.PathLike):
            object.__setattr__(self, "model", os.fspath(self.model))

    @property
    def model_settings(self) -> dict[str, Any]:
        """The options that are settings of the model, as far as they were chosen."""
        words = {name: getattr(self, name) for name in MODEL_OPTIONS}
        return {name: value for name, value in words.items() if not _is_left_out(value)}


def _is_left_out(value: Any) -> bool:
    return value is None or value is False or (isinstance(value, list | tuple) and not value)


def described(kind: type[RunOptions] = RunOptions) -> dict[str, Option]:
    """The options of `kind` by name, in the order of the command line's help."""
    return {f.name: f.metadata["option"] for f in fields(kind) if "option" in f.metadata}


MODEL_OPTIONS = tuple(name for name, option in described().items() if option.section == "model")
METHOD_OPTIONS = tuple(name for name, option in described().items() if option.section != "plan")
"""What may differ between the methods of a comparison."""


IN_A_PIPELINE = {
    "num_inference_steps": "use steps",
    "num_images_per_prompt": "the search decides how many pictures are made; set its n, or the budget",
    "generator": "use seed",
    "eta": "choose a sampler: ancestral is eta 1",
    "output_type": "pictures are files of the run and PIL images of the result",
    "return_dict": "a Result is returned",
    "sigmas": "levels come from the pipeline's scheduler; set them there",
    "image": "this family has no picture input here; docs/inputs.md lists those that have",
    "mask": "this family has no inpainting here; docs/inputs.md lists those that have",
    "strength": "this family has no picture input here; docs/inputs.md lists those that have",
    "mask_image": "use mask",
    "masked_image_latents": "use image and mask",
    "padding_mask_crop": "crop the picture and its mask before the run",
    "ip_adapter_image": "a run takes no IP-Adapter",
    "ip_adapter_image_embeds": "a run takes no IP-Adapter",
    "negative_ip_adapter_image": "a run takes no IP-Adapter",
    "negative_ip_adapter_image_embeds": "a run takes no IP-Adapter",
    "denoising_end": "a run denoises to the end",
    "timesteps": "levels come from the pipeline's scheduler; set them there",
    "original_inference_steps": "set it in the configuration of the pipeline's scheduler",
    "mu": "the shift follows from the pipeline's scheduler and the size of the picture",
    "cfg_trunc_ratio": "use guidance_interval",
    "cfg_truncation": "use guidance_interval",
    "cfg_normalization": "this family's guidance is not normalised here",
    "clean_caption": "text is read as it is; clean it before the run",
    "use_resolution_binning": "pictures have the size you ask for",
    "complex_human_instruction": "the pipeline's own is used; instruction=false leaves it out",
    "text_encoder_out_layers": "the pipeline's own layers are used",
    "caption_upsample_temperature": "write the longer prompt yourself",
    "attention_kwargs": "write an intervention; the scale of a LoRA is lora_scale",
    "callback": "write a steering",
    "callback_steps": "write a steering",
    "callback_on_step_end": "write a steering",
    "callback_on_step_end_tensor_inputs": "write a steering",
    "cross_attention_kwargs": "write an intervention; the scale of a LoRA is lora_scale",
    "joint_attention_kwargs": "write an intervention; the scale of a LoRA is lora_scale",
}
"""What a pipeline's call takes and a run does not, with what to do."""


def called_with(
    kind: Callable[P, T], defaults: Callable[[], Mapping[str, Any]] = dict
) -> Callable[[Callable[[T], R]], Callable[P, R]]:
    """Make a function of one options object callable with the options as arguments; its help lists them.

    `defaults` are those that hold where an argument is left out, read at every call.
    """

    def decorate(function: Callable[[T], R]) -> Callable[P, R]:
        signature = inspect.signature(kind)

        @wraps(function)
        def call(*args: P.args, **words: P.kwargs) -> R:
            for word in words:
                if word in IN_A_PIPELINE and word not in signature.parameters:
                    raise TypeError(f"{function.__name__}() has no argument {word!r}: {IN_A_PIPELINE[word]}.")
                if word not in signature.parameters:
                    near = nearest(word, signature.parameters)
                    hint = "" if near is None else f" Did you mean {near!r}?"
                    raise TypeError(f"{function.__name__}() has no argument {word!r}.{hint}")
            try:
                signature.bind(*args, **words)
            except TypeError as error:
                raise TypeError(f"{function.__name__}() needs other arguments: {error}.") from None
            configured = {name: value for name, value in defaults().items() if name not in words}
            return function(kind(*args, **{**words, **configured}))

        shown = signature.replace(return_annotation=function.__annotations__["return"])
        call.__signature__ = shown  # type: ignore[attr-defined]
        lines = [f"    {name}: {option.sentence}" for name, option in described(kind).items()]  # type: ignore[arg-type]
        call.__doc__ = "\n".join([cleandoc(function.__doc__ or ""), "", "Options, as on the command line:", "", *lines])
        return call

    return decorate
