"""Models that are no folder: names on the hub and checkpoint files, and why one cannot be loaded. Imports no torch."""

from __future__ import annotations

import json
import os
import struct
from functools import cache
from pathlib import Path
from typing import Any

from fairlead.core.errors import FairleadError
from fairlead.run.files import is_file

SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
MARKS = {
    "conditioner.embedders.1.": "StableDiffusionXLPipeline",
    "cond_stage_model.": "StableDiffusionPipeline",
    "joint_blocks.0.": "StableDiffusion3Pipeline",
    "double_blocks.0.": "FluxPipeline",
}
"""Part of a tensor's name in a checkpoint file -> its pipeline; the first that occurs decides."""


def checkpoint(name: str) -> Path | None:
    """The file a model's name means, if it means one. Only safetensors are read: other formats can run code."""
    path = Path(os.path.expanduser(name))
    if path.suffix.lower() not in SUFFIXES:
        return None
    if not is_file(path):
        raise FairleadError(f"There is no file {path}. Check its name.")
    if path.suffix.lower() != ".safetensors":
        raise FairleadError(
            f"{path} is a {path.suffix} file, which can run code when it is read: convert it to safetensors."
        )
    return path


def detect(path: Path) -> str:
    """The pipeline class of a checkpoint file, from the names of its tensors. One without a text encoder is refused."""
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            names = list(json.loads(file.read(min(size, 100_000_000))))
    except (OSError, ValueError, struct.error) as error:
        raise FairleadError(f"{path} is not a safetensors file ({type(error).__name__}): download it again.") from error
    for mark, pipeline in MARKS.items():
        if any(mark in name for name in names):
            return pipeline
    raise FairleadError(
        f"{path} is not a checkpoint of SD, SDXL, SD3 or FLUX. Pass a whole checkpoint as --model; a LoRA goes with "
        "--lora, a denoiser alone with --set model.swap=FILE."
    )


CANNOT_CONNECT = ("ConnectError", "ConnectTimeout", "ConnectionError")
"""Errors of the clients that huggingface_hub has used, by name."""


@cache
def fail_fast() -> None:
    """If the first request of this process cannot connect, the hub counts as offline: the cache is read at once.

    huggingface_hub would wait for about 20 seconds and try five times more, for every file. Once a request has
    connected, later ones are tried again as usual.
    """
    from huggingface_hub import get_session
    from huggingface_hub.errors import OfflineModeIsEnabled

    session = get_session()
    send = session.send
    connected = False

    def first_send(*request: Any, **words: Any) -> Any:
        nonlocal connected
        try:
            answer = send(*request, **words)
        except Exception as error:
            if not connected and type(error).__name__ in CANNOT_CONNECT:
                raise OfflineModeIsEnabled(f"The hub cannot be reached ({error}).") from error
            raise
        connected = True
        return answer

    session.send = first_send  # type: ignore[method-assign]


def fetch(name: str, file: str, revision: str | None = None) -> Path | None:
    """A small file of a hub repository, None if the repository has none of that name."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    fail_fast()
    try:
        return Path(hf_hub_download(name, file, revision=revision))
    except EntryNotFoundError as error:
        if type(error).__name__ == "LocalEntryNotFoundError":
            raise explained(error, name) from error
        return None
    except Exception as error:
        raise explained(error, name) from error


def explained(error: BaseException, name: str) -> FairleadError:
    """One sentence for what a loader raised: value, cause, what to do."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    kinds = [type(e).__name__ for e in chain]
    if "GatedRepoError" in kinds:
        return FairleadError(
            f"Model {name!r} is gated. Accept its licence on https://huggingface.co/{name}, then run 'hf auth login' "
            "or pass --token."
        )
    if "RevisionNotFoundError" in kinds:
        return FairleadError(f"Model {name!r} has no such revision: check --revision.")
    if "RepositoryNotFoundError" in kinds:
        return FairleadError(
            f"There is no model {name!r} on the hub, or it is private. Check the name, or pass --token if it is yours."
        )
    absent = "OfflineModeIsEnabled" in kinds or "LocalEntryNotFoundError" in kinds
    if absent and Path(name).suffix.lower() in SUFFIXES:
        return FairleadError(
            f"{name} holds weights only, and the configurations they need are not in the local cache: go online (unset "
            "HF_HUB_OFFLINE), or pass a folder of the same family with --set model.config=FOLDER."
        )
    if absent:
        return FairleadError(
            f"Model {name!r} is not in the local cache and the hub cannot be reached. Go online (unset "
            "HF_HUB_OFFLINE) or pass a local folder; 'pocket' needs neither."
        )
    if any("OutOfMemory" in kind for kind in kinds):
        return FairleadError(
            f"Model {name!r} does not fit into memory: use --dtype bfloat16, --cpu-offload model, or a smaller model."
        )
    cause = " ".join(str(error).split())[:300]
    return FairleadError(
        f"Model {name!r} could not be loaded ({kinds[0]}: {cause}). Check the name, --variant, --revision and the "
        "network."
    )
