"""Which device and number format a run uses. The only place that chooses."""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import cache, wraps
from importlib.metadata import PackageNotFoundError, version
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def device() -> str:
    """The accelerator if there is one, else the CPU."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def dtype(on: str) -> str:
    """bfloat16 where the hardware multiplies it, float32 elsewhere: emulated bfloat16 is many times slower."""
    if on == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    if on == "cpu" and _has_bf16_instructions():
        return "bfloat16"
    return "float32"


def _has_bf16_instructions() -> bool:
    check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(check and check())


def synchronise(on: str) -> None:
    """Wait for the device, so that a clock read next to it means something."""
    if on == "cuda":
        torch.cuda.synchronize()


def outside_inference_mode(function: Callable[P, R]) -> Callable[P, R]:
    """The function, also for callers inside `torch.inference_mode()`, whose tensors allow no gradients."""

    @wraps(function)
    def call(*args: P.args, **words: P.kwargs) -> R:
        if not torch.is_inference_mode_enabled():
            return function(*args, **words)
        with torch.inference_mode(False):
            return function(*args, **words)

    return call


@cache
def _packages() -> dict[str, str]:
    out = {}
    for name in ("fairlead", "torch", "diffusers", "transformers", "numpy"):
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            out[name] = "not installed"
    return out


def versions() -> dict[str, str]:
    """What must be equal for a run to repeat bit for bit."""
    here = {"python": platform.python_version(), "machine": platform.machine(), "threads": str(torch.get_num_threads())}
    return {**here, **_packages()}
