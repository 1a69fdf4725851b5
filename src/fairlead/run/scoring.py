"""Score and rank existing pictures: files, folders, or the candidates of a run. Nothing is generated."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairlead.core.errors import FairleadError
from fairlead.run.files import is_file, is_folder
from fairlead.run.judged import JUDGED, Judged
from fairlead.run.store import DATABASE, Store

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from fairlead.core.reward import Reward

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
BATCH = 16


@dataclass(frozen=True)
class Picture:
    """One picture to score."""

    path: Path
    prompt: str
    label: str
    """Its name in tables: the path as given, or `RUN#12`."""
    judged: float = math.nan
    """What people said about it, where it is a candidate that they judged."""


@dataclass(frozen=True)
class Score:
    """What became of one picture."""

    picture: Picture
    reward: float
    """NaN if it has none"""
    terms: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    """Why there is no number, where that is known; or what was done to the picture before scoring."""


def collect(paths: Sequence[Path], prompt: str | None = None, prompts: Path | None = None) -> list[Picture]:
    """Pictures below the given files, folders and runs, each with its prompt.

    A prompt comes from `prompt` for all, from the file `prompts` (one a line in the order of the pictures, or CSV or
    JSON lines with `file` and `prompt`), from a run's record, or from what is written in the picture itself.
    """
    found = [each for path in paths for each in _below(Path(path))]
    if not found:
        raise FairleadError(
            f"There is no picture in {', '.join(map(str, paths))}. Pass files that end in {', '.join(SUFFIXES[:4])}."
        )
    if prompt is not None:
        return [replace(p, prompt=prompt) for p in found]
    if prompts is not None:
        return _named(found, Path(prompts))
    return [p if p.prompt else replace(p, prompt=written(p.path)) for p in found]


def _below(path: Path) -> Iterator[Picture]:
    if is_file(path / DATABASE):
        store = Store.open(path)
        try:
            asked = store.spec.prompt
            judged = {place.candidate: place.strength for place in Judged.of(path).ranking}
            for c in store.candidates():
                said = judged.get(c.index, math.nan)
                yield Picture(store.folder / c.image, asked, f"{path}#{c.index}", said)
        finally:
            store.close()
    elif is_folder(path):
        for inner in sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()):
            yield Picture(inner, "", str(inner))
    elif is_file(path):
        yield Picture(path, "", str(path))
    else:
        raise FairleadError(f"{path} does not exist. Pass a picture, a folder of pictures, or a run.")


def _named(found: list[Picture], file: Path) -> list[Picture]:
    try:
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise FairleadError(f"{file} cannot be read ({error}). Pass a text file of prompts.") from error
    rows: list[dict[str, Any]] | None = None
    try:
        if file.suffix in (".jsonl", ".json"):
            data = (
                json.loads(file.read_text(encoding="utf-8"))
                if file.suffix == ".json"
                else [json.loads(x) for x in lines]
            )
            rows = [{"file": k, "prompt": v} for k, v in data.items()] if isinstance(data, dict) else data
        elif file.suffix == ".csv":
            rows = list(csv.DictReader(lines))
        if rows is not None:
            table = {Path(str(r["file"])).name: str(r["prompt"]) for r in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise FairleadError(f"{file} must have 'file' and 'prompt' in every row ({error}). Fix the row.") from error
    if rows is None:
        if len(lines) not in (1, len(found)):
            raise FairleadError(
                f"{file} has {len(lines)} prompts for {len(found)} pictures: must be one per line, in their order."
            )
        return [replace(p, prompt=lines[i % len(lines)].strip()) for i, p in enumerate(found)]
    if lost := [p.path.name for p in found if p.path.name not in table]:
        raise FairleadError(f"{file} has no prompt for {lost[0]!r}. Add a row for it.")
    return [replace(p, prompt=table[p.path.name]) for p in found]


def written(path: Path) -> str:
    """The prompt in a picture's metadata: fairlead's recipe, or the `parameters` text of other tools; else empty."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            info = dict(image.info)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""
    try:
        if "fairlead" in info:
            return str(json.loads(info["fairlead"])["spec"]["prompt"])
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    text = str(info.get("parameters", ""))
    return re.split(r"\n(?:Negative prompt: |Steps: \d)", text, maxsplit=1)[0].strip()


def load(path: Path) -> tuple[Tensor, str]:
    """A file -> [3, H, W] in [0, 1] and what had to be done to it; see `as_tensor`."""
    from PIL import Image

    with Image.open(path) as opened:
        return as_tensor(opened)


def as_tensor(opened: Image.Image) -> tuple[Tensor, str]:
    """A picture -> [3, H, W] in [0, 1] and what had to be done to it: grey repeated, transparency put over white."""
    import numpy as np
    import torch
    from PIL import Image, ImageOps

    image: Image.Image = ImageOps.exif_transpose(opened) or opened
    done = ""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        done = "transparency put over white"
    elif image.mode.startswith(("L", "1", "I", "F")):
        done = "grey repeated three times"
        if image.mode.startswith("I"):
            image = Image.fromarray((np.asarray(image, dtype=np.float64) / 257).round().clip(0, 255).astype(np.uint8))
    array = np.asarray(image.convert("RGB"))
    return torch.from_numpy(array.copy()).permute(2, 0, 1).float() / 255, done


def score(
    pictures: Sequence[Picture],
    reward: Reward,
    *,
    batch: int = BATCH,
    seen: Callable[[int], None] = lambda n: None,
    read: Callable[[Picture], tuple[Tensor, str]] = lambda picture: load(picture.path),
) -> list[Score]:
    """Every picture's reward, terms and, where there is none, the reason; in the given order.

    Pictures of one size are scored together. A reward that ranks compares the pictures of one prompt.
    """
    import torch
    from PIL import Image

    from fairlead.core.reward import HumanReward

    if any(isinstance(leaf, HumanReward) for leaf in reward.leaves()):
        raise FairleadError(f"{reward.name} asks a person, which only a run can do. Use it with 'fairlead run'.")
    if lost := [p for p in pictures if not p.prompt] if any(leaf.needs_prompt for leaf in reward.leaves()) else []:
        raise FairleadError(
            f"{lost[0].label} has no prompt, and {reward.name} needs one. Pass --prompt TEXT or --prompts FILE "
            f"({len(lost)} of {len(pictures)} pictures have none)."
        )
    done: dict[int, Score] = {}
    images: list[tuple[int, Any, str]] = []
    with torch.inference_mode(False), torch.no_grad():
        for i, picture in enumerate(pictures):
            try:
                images.append((i, *read(picture)))
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                done[i] = Score(picture, math.nan, {}, f"cannot be read: {str(error).splitlines()[0]}")
            if len(images) >= batch or i + 1 == len(pictures):
                _flush(images, pictures, reward, done)
                images = []
                seen(i + 1)
    scores = [done[i] for i in range(len(pictures))]
    return _ranked(scores, reward) if reward.relative else scores


def _flush(
    images: list[tuple[int, Any, str]], pictures: Sequence[Picture], reward: Reward, done: dict[int, Score]
) -> None:
    import torch

    from fairlead.core.reward import reasons

    for _, same in groupby(sorted(images, key=lambda x: (tuple(x[1].shape), x[0])), key=lambda x: tuple(x[1].shape)):
        rows = list(same)
        total, terms = reward(torch.stack([x for _, x, _ in rows]), [pictures[i].prompt for i, _, _ in rows])
        values = total.tolist()
        columns = {k: v.tolist() for k, v in terms.items()}
        for n, (i, _, note) in enumerate(rows):
            why = [found[n] for found in map(reasons, reward.leaves()) if n < len(found) and found[n]]
            done[i] = Score(
                pictures[i], values[n], {k: v[n] for k, v in columns.items()}, "; ".join([*why, note] if note else why)
            )


def _ranked(scores: list[Score], reward: Reward) -> list[Score]:
    out = dict(enumerate(scores))
    for prompt in {s.picture.prompt for s in scores}:
        group = [i for i, s in out.items() if s.picture.prompt == prompt and s.terms]
        if group:
            totals = reward.from_terms([scores[i].terms for i in group]).tolist()
            out |= {i: replace(scores[i], reward=v) for i, v in zip(group, totals, strict=True)}
    return [out[i] for i in range(len(scores))]


def ranks(scores: Sequence[Score]) -> list[int | None]:
    """1 for the highest; equals share the better rank, what has no number has no rank."""
    ordered = sorted((s.reward for s in scores if s.reward == s.reward), reverse=True)
    return [ordered.index(s.reward) + 1 if s.reward == s.reward else None for s in scores]


def rows(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """One flat record per picture, in the given order, for a table."""
    names = list(dict.fromkeys(k for s in scores for k in s.terms))
    if any(s.picture.judged == s.picture.judged for s in scores):
        scores = [replace(s, terms={**s.terms, JUDGED: s.picture.judged}) for s in scores]
        names.append(JUDGED)
    return [_row(s, rank, names) for s, rank in zip(scores, ranks(scores), strict=True)]


def _row(score: Score, rank: int | None, names: Sequence[str]) -> dict[str, Any]:
    return {
        "file": score.picture.label,
        "rank": rank,
        "reward": score.reward,
        **{name: score.terms.get(name, math.nan) for name in names},
        "prompt": score.picture.prompt,
        "reason": score.reason,
    }


def statistics(scores: Sequence[Score]) -> dict[str, float]:
    """Mean, spread (of the population) and number of the scores, as `zscore(..., stats=FILE)` reads them."""
    known = [s.reward for s in scores if math.isfinite(s.reward)]
    if len(known) < 2:
        raise FairleadError(f"{len(known)} pictures have a score: statistics need at least 2.")
    mean = sum(known) / len(known)
    return {"mean": mean, "std": math.sqrt(sum((v - mean) ** 2 for v in known) / len(known)), "n": len(known)}


def write(table: list[dict[str, Any]], path: Path) -> None:
    """The table as CSV, JSON or Parquet, by the file's ending."""
    from fairlead.run.store import as_json, write_atomically

    if path.suffix == ".json":
        write_atomically(path, (as_json(table) + "\n").encode())
    elif path.suffix == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
        writer.writeheader()
        for row in table:
            writer.writerow({k: "" if v is None or v != v else v for k, v in row.items()})
        write_atomically(path, text.getvalue().encode())
    elif path.suffix == ".parquet":
        try:
            import pandas

            data = io.BytesIO()
            pandas.DataFrame(table).to_parquet(data)
        except ImportError as error:
            raise FairleadError(
                f"{path} needs pandas and pyarrow: pip install pandas pyarrow, or write .csv."
            ) from error
        write_atomically(path, data.getvalue())
    else:
        raise FairleadError(f"{path} ends in {path.suffix or 'nothing'}: write .csv, .json or .parquet.")
