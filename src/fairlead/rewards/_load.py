"""Find and read checkpoints without executing code from them, and explain what is wrong with a missing one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairlead.core.errors import FairleadError

FILES = (".safetensors", ".pt", ".pth", ".bin")
"""What counts as a file of tensors."""


def missing(reward: str, name: str, error: BaseException) -> FairleadError:
    """The error for a checkpoint that is not available: gated, absent or unreadable."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    kinds = {type(e).__name__ for e in chain}
    if "GatedRepoError" in kinds or any("gated" in str(e).lower() for e in chain):
        return FairleadError(
            f"{reward} needs {name!r}, which is gated. Accept its licence on the hub, then set HF_TOKEN or run 'hf "
            "auth login'."
        )
    if Path(name).exists():
        first_line = (str(error).splitlines() or [""])[0]
        without_colours = re.sub(r"\x1b\[\d*m", "", first_line)
        message = without_colours.partition(". ")[0] or type(error).__name__
        return FairleadError(f"{reward}: {name!r} could not be read ({message}). Use a checkpoint of this reward.")
    if Path(name).suffix in FILES or name.startswith((".", "/", "~")):
        return FairleadError(f"{reward}: {name!r} could not be read because it does not exist. Check the path.")
    return FairleadError(
        f"{reward} needs {name!r}, which is not on this machine and could not be downloaded ({type(error).__name__}). "
        f"Run 'hf download {name}' on a machine with a network, or use a local path."
    )


def fetch(reward: str, name: str, filename: str) -> Path:
    """A local file or folder as it is, else that file of a hub repository through the usual cache."""
    path = Path(name).expanduser()
    if path.exists():
        return path
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, filename))
    except Exception as error:
        raise missing(reward, name, error) from error


def tensors(reward: str, path: Path) -> dict[str, Tensor]:
    """A state dict from safetensors or from a pickle read with `weights_only`, wherever a trainer nested it."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise missing(reward, str(path), error) from error
    while isinstance(state, Mapping) and isinstance(state.get("state_dict", state.get("model")), Mapping):
        state = state.get("state_dict", state.get("model"))
    if not isinstance(state, Mapping) or not any(isinstance(v, Tensor) for v in state.values()):
        raise FairleadError(f"{reward} finds no tensors in {str(path)!r}. Use a file that holds a state dict.")
    return {k.removeprefix("module."): v for k, v in state.items() if isinstance(v, Tensor)}


def fill(reward: str, network: Any, state: Mapping[str, Tensor], ignore: Iterable[str] = ()) -> Any:
    """Load every tensor, frozen and in float32; a missing or an unknown tensor is an error."""
    found = network.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
    lost = [k for k in found.missing_keys if k not in set(ignore)]
    if lost or found.unexpected_keys:
        example = (lost + list(found.unexpected_keys))[0]
        raise FairleadError(
            f"{reward} was given the checkpoint of another model: {len(lost)} tensors are missing and "
            f"{len(found.unexpected_keys)} are unknown, for example {example!r}."
        )
    return network.float().eval().requires_grad_(False)


def layers(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered blocks follow a prefix."""
    return 1 + max((int(k[len(prefix) :].split(".")[0]) for k in state if k.startswith(prefix)), default=-1)
