"""`fairlead doctor --rewards`: which rewards can run here, and whether real checkpoints give the published scores.

No weights are downloaded. A published number belongs to a picture; those pictures are read from a folder of the user's
(`--pictures`), under the file names of the places they come from.
"""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairlead.core.errors import FairleadError
from fairlead.run import registry
from fairlead.run.doctor import Check
from fairlead.run.formula import parse_reward, reward_parts


@dataclass(frozen=True)
class Reference:
    """One published score."""

    reward: str
    """Formula"""
    picture: str
    """File name in the folder of pictures"""
    prompt: str
    published: float
    tolerance: float
    source: str


OCEAN = "a painting of an ocean with clouds and birds, day time, low depth field effect"
PUBLISHED = "image_reward(checkpoint='THUDM/ImageReward')"
COCO_CLIP = "clip_score(checkpoint='openai/clip-vit-base-patch32', scale='logit')"
REFERENCES = (
    *(
        Reference(PUBLISHED, f"{i}.webp", OCEAN, score, 0.02, "README of THUDM/ImageReward, assets/images")
        for i, score in enumerate((0.58116, 0.27453, -1.41318, -2.02957), 1)
    ),
    Reference(
        COCO_CLIP, "000000039769.jpg", "a photo of a cat", 24.5701, 0.1, "integration test of transformers' CLIP"
    ),
    Reference(
        COCO_CLIP, "000000039769.jpg", "a photo of a dog", 19.3049, 0.1, "integration test of transformers' CLIP"
    ),
)
HEADS: dict[str, tuple[float, ...]] = {
    "aesthetic_v2/sac+logos+ava1-l14-linearMSE.pth": (
        1.6555,
        2.3593,
        3.0698,
        3.6725,
        4.2380,
        4.7010,
        5.0731,
        5.3654,
        5.5767,
        5.7468,
    ),
    "aesthetic_v2/ava+logos-l14-linearMSE.pth": (
        4.5126,
        4.4763,
        4.4919,
        4.5959,
        4.7054,
        4.8433,
        5.0039,
        5.1479,
        5.2309,
        5.2664,
    ),
    "aesthetic_v1/sa_0_4_vit_l_14_linear.pth": (
        -2.4579,
        -0.1379,
        1.8951,
        3.5849,
        5.0997,
        6.4701,
        7.7870,
        9.0480,
        10.2264,
        11.3044,
    ),
}
"""Published heads by their place in a data folder, with their values on the ten rating embeddings published with V1."""
CHECKPOINTS = {
    "clip_score": ("openai/clip-vit-large-patch14", "model.safetensors"),
    "hps": ("xswu/HPSv2", "HPS_v2.1_compressed.pt"),
    "image_reward": ("THUDM/ImageReward", "ImageReward.pt"),
    "pick_score": ("yuvalkirstain/PickScore_v1", "model.safetensors"),
    "vqa_score": ("Qwen/Qwen2-VL-2B-Instruct", "config.json"),
}
"""Where the real weights of a reward are, by the hub's name and one of their files."""


def checks(pictures: Path | None = None, references: Path | None = None) -> list[Check]:
    """One line a reward, then one line a published number that can be tried here."""
    out: list[Check] = []
    for name in registry.table("rewards"):
        try:
            out.append(_present(name))
        except Exception as error:
            out.append(
                Check(
                    f"reward {name}", False, str(error).splitlines()[0], "update or uninstall the package it comes from"
                )
            )
    found = list(REFERENCES) if references is None else [*REFERENCES, *_read(references)]
    out.extend(_heads())
    for reference in found:
        out.append(_try(reference, pictures))
    return out


def _present(name: str) -> Check:
    kind = registry.resolve("rewards", name)
    facts = f"{kind.unit}; {'differentiable' if kind.differentiable else 'no gradient'}; {kind.licence}"
    if name not in CHECKPOINTS:
        return Check(f"reward {name}", True, facts)
    repository, _ = CHECKPOINTS[name]
    here = "here" if _cached(*CHECKPOINTS[name]) else f"not here ('hf download {repository}')"
    return Check(f"reward {name}", True, f"{facts}; weights {repository} {here}")


def _cached(repository: str, filename: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repository, filename), str)


def _heads() -> Iterator[Check]:
    root = os.environ.get("FAIRLEAD_SHARED")
    if not root or not (Path(root) / "data" / "aesthetic_v1").is_dir():
        yield Check("published heads", True, "not tried: FAIRLEAD_SHARED names no folder with data/aesthetic_v1")
        return
    import numpy as np
    import torch

    data = Path(root) / "data"
    load = importlib.import_module(registry.table("rewards")["aesthetic"].partition(":")[0]).load_head
    vectors = sorted(
        (data / "aesthetic_v1").rglob("*.npy"), key=lambda p: int("".join(filter(str.isdigit, p.stem)) or 0)
    )
    e = torch.tensor(np.stack([np.load(p).reshape(-1) for p in vectors])).float()
    for file, published in HEADS.items():
        w, b = load(data / file)
        gap = float((e @ w + b - torch.tensor(published)).abs().max())
        ok = gap < 2e-4
        detail = f"largest gap to the published values {gap:.1e}"
        yield Check(f"aesthetic {Path(file).name}", ok, detail, "" if ok else "report this")


def _try(reference: Reference, pictures: Path | None) -> Check:
    name = f"{reference.reward.partition('(')[0]} on {reference.picture}, {reference.prompt[:24]!r}"
    published = f"published {reference.published:.4f} ({reference.source})"
    path = None if pictures is None else pictures / reference.picture
    if path is None or not path.is_file():
        return Check(
            name, True, f"not tried, {published}: put {reference.picture} into a folder and name it with --pictures"
        )
    from fairlead.run import scoring
    from fairlead.run.rewards import build_reward, reward_leaf

    tree = parse_reward(reference.reward)
    for part in reward_parts(tree):
        wanted = str(part.settings.get("checkpoint") or CHECKPOINTS.get(part.name, ("", ""))[0])
        file = "ImageReward.pt" if part.name == "image_reward" else "config.json"
        if re.fullmatch(r"[\w.-]+/[\w.-]+", wanted) and not Path(wanted).exists() and not _cached(wanted, file):
            return Check(name, True, f"not tried, {published}: the weights are not here ('hf download {wanted}')")
    try:
        reward = build_reward(tree, reward_leaf)
        (score,) = scoring.score([scoring.Picture(path, reference.prompt, str(path))], reward)
    except FairleadError as error:
        return Check(name, True, f"not tried, {published}: {error}")
    ok = abs(score.reward - reference.published) <= reference.tolerance
    fix = "" if ok else "the checkpoint or the picture is another one, or report this"
    return Check(name, ok, f"ours {score.reward:.4f}, {published}", fix)


def _read(path: Path) -> list[Reference]:
    """Numbers of the user's own: JSON list of {reward, picture, prompt, published, tolerance, source}."""
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text())
        return [
            Reference(
                str(r["reward"]),
                str(r["picture"]),
                str(r["prompt"]),
                float(r["published"]),
                float(r.get("tolerance", 0.01)),
                str(r.get("source", path.name)),
            )
            for r in rows
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FairleadError(
            f"{path} is not a JSON list of objects with reward, picture, prompt and published ({error}). Fix the file."
        ) from error
