"""Which device and number format a run uses. The only place that chooses."""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import cache, wraps
from importlib.metadata import PackageNotFoundError, version
from typing import ParamSpec, TypeVar

import torch

from fairlead.core.errors import FairleadError
from fairlead.run import config

P = ParamSpec("P")
R = TypeVar("R")


_own: list[str] = []
"""The device that this process was started for."""


def use(name: str) -> None:
    """From now on this process computes on the device of this name."""
    _own[:] = [name]


def device() -> str:
    """The one of this process, else that of `fairlead.toml`; else the accelerator if there is one, else the CPU."""
    if _own:
        return _available(_own[0], "The studio")
    if (named := config.value("device")) is not None:
        return _available(named, str(config.in_force()["device"].source))
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _available(name: str, source: str) -> str:
    """The device that a file or the studio names, if it is here."""
    try:
        torch.zeros(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise FairleadError(
            f"{source} sets device to {name!r}, which is not available here. Use 'cpu', or leave it out."
        ) from error
    return name


def dtype(on: str) -> str:
    """bfloat16 where the hardware multiplies it, float32 elsewhere: emulated bfloat16 is many times slower."""
    if on.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    if on == "cpu" and _has_bf16_instructions():
        return "bfloat16"
    return "float32"


def _has_bf16_instructions() -> bool:
    check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(check and check())


def synchronise(on: str) -> None:
    """Wait for the device, so that a clock read next to it means something."""
    if on.startswith("cuda"):
        torch.cuda.synchronize(on)


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
