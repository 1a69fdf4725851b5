"""Load a diffusers pipeline from a hub name, a folder or a checkpoint file, or borrow one that the caller made."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from fairlead.core.device import free
from fairlead.core.errors import FairleadError, unknown

DTYPES = {
    "float32": "float32",
    "fp32": "float32",
    "float16": "float16",
    "fp16": "float16",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
}
OFFLOADS = ("model", "group", "text")
ROOM = 0.75
"""Share of the free memory that weights may take; above it the text encoders are moved to the CPU."""


def dtype_of(name: str) -> torch.dtype:
    """The number format of a name, long or short."""
    if name not in DTYPES:
        raise unknown("number format", name, DTYPES)
    found: torch.dtype = getattr(torch, DTYPES[name])
    return found


def load(
    source: str,
    pipeline: str,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    revision: str | None = None,
    variant: str | None = None,
    config: str | None = None,
    swap: str | None = None,
    lora: str | Sequence[str] | None = None,
    lora_scale: float = 1.0,
    cpu_offload: str | None = None,
    vae_slicing: bool = False,
    vae_tiling: bool = False,
    attention_backend: str | None = None,
) -> Any:
    """The frozen pipeline on its device. The options are those of diffusers, and so are its environment variables.

    With `cpu_offload="text"` the text encoders stay on the CPU and move to the device only to encode a prompt. This
    is also done without the option where memory would be short.

    `swap` replaces the denoiser by one of the same class: a folder, a hub name or a file with its weights. Lightning,
    LCM and DMD2 are published in this form. `lora` is a file, `repository` or `repository:file`; it is merged into
    the weights with `lora_scale`. `config` is the folder or hub name with the configurations of a checkpoint file. A
    folder also provides the parts that the file does not contain: most FLUX and SD3 files have no text encoders.
    """
    import diffusers

    cls, number = getattr(diffusers, pipeline), dtype_of(dtype)
    if cpu_offload is not None and cpu_offload not in OFFLOADS:
        raise unknown("cpu_offload", cpu_offload, OFFLOADS)
    if Path(source).is_file():
        pipe = _from_file(cls, source, number, config)
    else:
        pipe = cls.from_pretrained(source, dtype=number, revision=revision, variant=variant)
    if swap is not None:
        _swap(pipe, swap, number)
    if lora is not None:
        _merge(pipe, [lora] if isinstance(lora, str) else list(lora), lora_scale)
    _place(pipe, device, cpu_offload)
    for wanted, name in ((vae_slicing, "enable_slicing"), (vae_tiling, "enable_tiling")):
        if wanted:
            getattr(pipe.vae, name)()
    if attention_backend is not None:
        denoiser(pipe).set_attention_backend(attention_backend)
    return pipe


def _from_file(cls: Any, source: str, number: torch.dtype, config: str | None) -> Any:
    """A whole pipeline from one file in its authors' layout. The loader reports one missing part at a time."""
    from diffusers.loaders.single_file_utils import SingleFileComponentError

    given: dict[str, Any] = {} if config is None else {"config": config}
    while True:
        try:
            return cls.from_single_file(source, dtype=number, **given)
        except SingleFileComponentError as error:
            found = re.search(r"^(\w+) = (\w+)\.from_pretrained", str(error), re.MULTILINE)
            part, kind = found.groups() if found else ("", "a part")
            if config is None or part in given or not any(Path(config, part).glob("*.safetensors")):
                raise FairleadError(
                    f"{source} does not contain the weights of {kind}. Name a folder of the same family that has "
                    "them: --set model.config=FOLDER."
                ) from error
        except KeyError as error:
            raise FairleadError(
                f"{source} is not a complete checkpoint: it has no {error}. Download it again."
            ) from error
        library, name = cls.load_config(config)[part]
        given[part] = getattr(import_module(library), name).from_pretrained(Path(config, part), dtype=number)


def denoiser(pipe: Any) -> Any:
    """The network that is called once a step."""
    return pipe.unet if getattr(pipe, "unet", None) is not None else pipe.transformer


def _swap(pipe: Any, source: str, number: torch.dtype) -> None:
    name, old = ("unet" if getattr(pipe, "unet", None) is not None else "transformer"), denoiser(pipe)
    if Path(source).is_file():
        from safetensors.torch import load_file

        try:
            old.load_state_dict(load_file(source))
        except RuntimeError as error:
            raise FairleadError(f"{source} does not contain the weights of this {name}: {str(error)[:200]}") from error
        return
    setattr(pipe, name, type(old).from_pretrained(source, dtype=number))


def _merge(pipe: Any, sources: Sequence[str], scale: float) -> None:
    if not hasattr(pipe, "load_lora_weights"):
        raise FairleadError(f"{type(pipe).__name__} does not support LoRA. Leave --lora out.")
    if find_spec("peft") is None:
        raise FairleadError("A LoRA needs the package peft, which is not installed. Install it with pip install peft.")
    for source in sources:
        where, _, weights = source.partition(":") if not Path(source).exists() else (source, "", "")
        path = Path(where)
        if path.is_file():
            pipe.load_lora_weights(str(path.parent), weight_name=path.name)
        else:
            pipe.load_lora_weights(where, **({"weight_name": weights} if weights else {}))
    pipe.fuse_lora(lora_scale=scale)
    pipe.unload_lora_weights()


def short(pipe: Any, device: torch.device) -> bool:
    """True if all networks together would leave too little memory for pictures. An unknown memory is not short."""
    room = free(device)
    parts = (part for part in pipe.components.values() if isinstance(part, torch.nn.Module))
    weights = sum(w.numel() * w.element_size() for part in parts for w in part.parameters())
    return room is not None and weights > ROOM * room


def _place(pipe: Any, device: str, offload: str | None) -> None:
    if offload is None and short(pipe, torch.device(device)):
        offload = "text"
    if offload in ("model", "group") and device == "cpu":
        offload = None
    if offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif offload == "group":
        pipe.enable_group_offload(
            onload_device=torch.device(device), offload_type="leaf_level", use_stream=device.startswith("cuda")
        )
    else:
        for name, part in pipe.components.items():
            if isinstance(part, torch.nn.Module):
                part.to("cpu" if offload == "text" and name.startswith("text_encoder") else device)


def borrow(pipe: Any) -> Callable[[], None]:
    """Freeze every network of a pipeline for inference; the returned call gives it back exactly as it was found."""
    networks = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    modes = [(module, module.training) for network in networks for module in network.modules()]
    grads = [(weight, weight.requires_grad) for network in networks for weight in network.parameters()]
    for network in networks:
        network.eval().requires_grad_(False)

    def give_back() -> None:
        for module, mode in modes:
            module.training = mode
        for weight, grad in grads:
            weight.requires_grad_(grad)

    return give_back


def guidance_interval(given: Any) -> tuple[float, float]:
    """The shares of noise between which guidance acts, checked."""
    try:
        low, high = map(float, given)
    except (TypeError, ValueError):
        low, high = 1.0, 0.0  # rejected below
    if not 0 <= low <= high <= 1:
        raise FairleadError(
            f"guidance_interval is {given!r}: must be two shares of noise 0 <= low <= high <= 1, such as [0.2, 0.8]."
        )
    return low, high
