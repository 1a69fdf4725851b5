"""Check that behaviour has not changed: rewards, keys and pixels of small runs over all axes, bit for bit.

    python -m tools.golden record FILE --weights FOLDER    run every case and write what came out
    python -m tools.golden compare FILE [--only TEXT]      run the cases again and compare

`record` also keeps the run directories beside FILE, in a folder with FILE's name and the ending
`.runs`. `compare` opens them, which shows that old records can still be read and continued.

Record before a change and compare after it, on the same machine. `--weights` names a copy of the
embedded models' folder (`src/fairlead/pocket/assets`). Both commands read the weights from there,
so a comparison is not disturbed when the models are trained again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import fairlead
from fairlead.pocket import load

TWO_OBJECTS = "a photo of a red apple left of a dog"
ONE_OBJECT = "a photo of a dog"

CASES: dict[str, dict[str, Any]] = {
    # models
    "pocket, best_of, clip_score": {"prompt": TWO_OBJECTS, "budget": {"nfe": 16}, "steps": 4, "batch": 4},
    "pocket-turbo, best_of": {"model": "pocket-turbo", "prompt": TWO_OBJECTS, "budget": {"nfe": 16}, "steps": 2},
    "pocket-unet, best_of": {"model": "pocket-unet", "prompt": TWO_OBJECTS, "budget": {"nfe": 12}, "steps": 4},
    "pocket, guidance and negative prompt": {
        "settings": {"model": {"guidance_scale": 2.0, "negative_prompt": "a photo of a cat"}},
        "budget": {"nfe": 8},
        "steps": 4,
    },
    "mixture, best_of": {"model": "mixture", "reward": "brightness", "budget": {"nfe": 60}, "steps": 6},
    # searches
    "zero_order": {"model": "pocket-turbo", "search": "zero_order(neighbours=2)", "budget": {"nfe": 12}, "steps": 2},
    "evolution": {"model": "mixture", "search": "evolution(population=6)", "budget": {"nfe": 80}, "steps": 4},
    "trust_region": {
        "model": "mixture",
        "search": "trust_region(warmup=4, batch=4, regions=2)",
        "budget": {"nfe": 80},
        "steps": 4,
    },
    "sep_cma in the embedding": {
        "model": "pocket-turbo",
        "search": "sep_cma(population=4)",
        "space": "embedding",
        "budget": {"nfe": 24},
        "steps": 2,
    },
    "snes in the product space": {
        "model": "pocket-turbo",
        "search": "snes(population=4)",
        "space": "product",
        "budget": {"nfe": 16},
        "steps": 2,
    },
    "adam in the embedding": {
        "model": "pocket-turbo",
        "search": "adam(iterations=3)",
        "space": "embedding",
        "budget": {"nfe": 8},
        "steps": 2,
        "batch": 1,
    },
    "reno": {"model": "pocket-turbo", "search": "reno(iterations=3)", "budget": {"nfe": 4}, "steps": 1, "batch": 1},
    "first_order": {"model": "mixture", "search": "first_order", "budget": {"nfe": 40}, "steps": 4},
    "bayes_opt": {"model": "mixture", "search": "bayes_opt(seeds=4, batch=2)", "budget": {"nfe": 40}, "steps": 4},
    # steerings
    "demon, ode estimate": {"steer": "demon(k=3)", "reward": "brightness", "budget": {"nfe": 240}, "steps": 4},
    "demon with a sibling": {
        "steer": "demon(k=2, estimate='sibling', sibling='pocket-turbo')",
        "budget": {"nfe": 120},
        "steps": 4,
    },
    "lidar": {"steer": "lidar(n=4, steps=2)", "budget": {"nfe": 24}, "steps": 4},
    "lidar on the unet": {"model": "pocket-unet", "steer": "lidar(n=4, steps=2)", "budget": {"nfe": 24}, "steps": 4},
    "feynman_kac": {"steer": "feynman_kac", "group": 4, "sampler": "ancestral", "budget": {"nfe": 40}, "steps": 5},
    "svdd": {
        "model": "pocket-turbo",
        "steer": "svdd(children=2)",
        "sampler": "ancestral",
        "budget": {"nfe": 24},
        "steps": 4,
    },
    "paths": {"model": "pocket-turbo", "steer": "paths(children=2)", "group": 2, "budget": {"nfe": 64}, "steps": 4},
    "dfs": {"model": "pocket-turbo", "steer": "dfs(retries=2)", "budget": {"nfe": 40}, "steps": 4},
    "reward_gradient": {"steer": "reward_gradient(scale=0.2)", "budget": {"nfe": 8}, "steps": 4, "batch": 2},
    "date": {"steer": "date", "budget": {"nfe": 16}, "steps": 4, "batch": 2},
    "particle_guidance": {"steer": "particle_guidance", "group": 3, "budget": {"nfe": 16}, "steps": 4},
    # interventions
    "repulsion": {"intervene": "repulsion(inner=2)", "group": 3, "budget": {"nfe": 16}, "steps": 4},
    "cads": {"intervene": "cads", "budget": {"nfe": 8}, "steps": 4},
    "token_mean_damping": {"intervene": "token_mean_damping", "group": 2, "budget": {"nfe": 12}, "steps": 4},
    "steering and intervention in one run": {
        "steer": ["lidar(n=4, steps=2)", "particle_guidance"],
        "intervene": "token_mean_damping",
        "group": 2,
        "budget": {"nfe": 24},
        "steps": 4,
    },
    # rewards
    "a formula, two watched rewards": {
        "prompt": TWO_OBJECTS,
        "reward": "clip_score + 0.5*aesthetic - jpeg_size",
        "watch": ["detector", "brightness"],
        "budget": {"nfe": 16},
        "steps": 4,
    },
    "ranks and detector": {"reward": "rank_mean(clip_score, detector)", "budget": {"nfe": 16}, "steps": 4},
    "self_verifier": {"reward": "self_verifier", "budget": {"nfe": 16}, "steps": 4},
    # samplers, drafts
    "heun": {"model": "mixture", "reward": "brightness", "sampler": "heun", "budget": {"nfe": 40}, "steps": 4},
    "dpmpp_2m": {"model": "pocket-unet", "sampler": "dpmpp_2m", "budget": {"nfe": 8}, "steps": 4},
    "consistency": {"model": "pocket-turbo", "sampler": "consistency", "budget": {"nfe": 8}, "steps": 4},
    "drafts and finals": {"draft": 2, "finals": 2, "budget": {"nfe": 28}, "steps": 6},
    "drafts of zero_order": {
        "model": "pocket-turbo",
        "search": "zero_order(neighbours=2)",
        "draft": 1,
        "finals": 1,
        "budget": {"nfe": 14},
        "steps": 4,
    },
    "jpeg_size": {"model": "pocket-turbo", "reward": "-jpeg_size(quality=80)", "budget": {"nfe": 8}, "steps": 2},
}
"""What is passed to `fairlead.run`; see `DEFAULTS`."""

DEFAULTS: dict[str, Any] = {"prompt": ONE_OBJECT, "seed": 5}


def outcome(folder: Path) -> dict[str, Any]:
    """All that must not change in a run's record. Reads the database itself, so that readers may be rewritten."""
    database = sqlite3.connect(f"{(folder / 'run.sqlite').as_uri()}?mode=ro", uri=True)
    try:
        run = database.execute("select id, status, stopped from run").fetchone()
        asked = "select idx, question, key, reward, terms, cost, image, steps, refines from outcome order by idx"
        rows = database.execute(asked).fetchall()
        prepared = database.execute("select data from prepared order by name").fetchall()
    finally:
        database.close()
    candidates = [
        {
            "index": index,
            "question": question,
            "key": key,
            "reward": None if reward is None else float(reward).hex(),
            "terms": {name: _hex(value) for name, value in json.loads(terms).items()},
            "cost": {name: value for name, value in json.loads(cost).items() if name != "seconds"},
            "pixels": pixels(folder / "images" / f"{image}.png"),
            "steps": steps,
            "refines": refines,
        }
        for index, question, key, reward, terms, cost, image, steps, refines in rows
    ]
    return {
        "id": run[0],
        "status": run[1],
        "stopped": run[2],
        "prepared": [tensors(data) for (data,) in prepared],
        "candidates": candidates,
    }


def tensors(data: bytes) -> str:
    """A digest of what a steering prepared: the tensors, not the settings that are written beside them."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    return blake2b(json.dumps(header, sort_keys=True).encode() + data[8 + length :], digest_size=8).hexdigest()


def pixels(path: Path) -> str:
    """A digest of the decoded picture; the text inside the file may change."""
    with Image.open(path) as image:
        return blake2b(np.asarray(image.convert("RGB")).tobytes(), digest_size=8).hexdigest()


def _hex(value: Any) -> Any:
    return value.hex() if isinstance(value, float) else value


def run_case(words: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One case through the public call."""
    arguments = {**DEFAULTS, **words}
    fairlead.run(arguments.pop("prompt"), out=folder, **arguments)
    return outcome(folder)


def resumed(folder: Path) -> dict[str, Any]:
    """A run that is continued with a larger budget."""
    run_case({"model": "pocket-turbo", "budget": {"nfe": 8}, "steps": 2}, folder)
    fairlead.resume(folder, budget={"nfe": 16})
    return outcome(folder)


def callable_reward(folder: Path) -> dict[str, Any]:
    """A function of images and prompts as the reward."""
    words = {"model": "pocket-turbo", "budget": {"nfe": 8}, "steps": 2}
    return run_case({**words, "reward": lambda images, prompts: images.mean(dim=(1, 2, 3))}, folder)


def diverse(folder: Path) -> dict[str, Any]:
    """The pictures that `keep` selects from a run."""
    words = {"model": "pocket-turbo", "budget": {"nfe": 24}, "steps": 2}
    arguments = {**DEFAULTS, **words}
    result = fairlead.run(arguments.pop("prompt"), out=folder, **arguments)
    return {"kept": [shot.index for shot in result.keep(3)], "gain": float(result.gain).hex()}


def scores(folder: Path) -> dict[str, Any]:
    """Pictures that exist already, scored."""
    words = {"model": "pocket-turbo", "budget": {"nfe": 8}, "steps": 2}
    run_case(words, folder)
    table = fairlead.score(sorted((folder / "images").glob("*.png")), "clip_score + aesthetic", prompt=ONE_OBJECT)
    rows = table if isinstance(table, list) else table.to_dict("records")
    return {"scores": sorted(float(row["reward"]).hex() for row in rows)}


OTHERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "resume with a larger budget": resumed,
    "a function as the reward": callable_reward,
    "keep": diverse,
    "score": scores,
}


OLD = "old records"


def run_all(scratch: Path, only: str = "") -> dict[str, Any]:
    """Every case, or those whose name contains `only`."""
    results: dict[str, Any] = {}
    for number, name in enumerate([*CASES, *OTHERS]):
        if only not in name:
            continue
        folder = scratch / f"{number:02d}"
        started = time.monotonic()
        results[name] = run_case(CASES[name], folder) if name in CASES else OTHERS[name](folder)
        print(f"{time.monotonic() - started:6.1f} s  {name}", file=sys.stderr)
    return results


def open_old(runs: Path) -> dict[str, Any]:
    """What an old record says when this version opens it, and what it says after `resume` of a finished run."""
    opened = {}
    with tempfile.TemporaryDirectory() as scratch:
        for run in sorted(runs.iterdir()):
            folder = Path(shutil.copytree(run, Path(scratch) / run.name))
            result = fairlead.Result(folder)
            opened[run.name] = {
                "best": [result.best.index, result.best.reward.hex()],
                "baseline": [result.baseline.index, result.baseline.reward.hex()],
                "candidates": len(result.candidates),
                "report": result.report().is_file(),
            }
        folder = Path(shutil.copytree(sorted(runs.iterdir())[0], Path(scratch) / "again"))
        fairlead.resume(folder, budget={"nfe": 24})
        opened["resumed"] = outcome(folder)
    return opened


def differences(before: Any, after: Any, where: str = "") -> list[str]:
    """Where two records differ, one line for each."""
    if isinstance(before, dict) and isinstance(after, dict):
        names = [*before, *(name for name in after if name not in before)]
        return [line for name in names for line in differences(before.get(name), after.get(name), f"{where}/{name}")]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [
            line
            for i, pair in enumerate(zip(before, after, strict=True))
            for line in differences(*pair, f"{where}/{i}")
        ]
    return [] if before == after else [f"{where}: {before} before, {after} after"]


def weights_digest(folder: Path) -> str:
    """Of every file below the folder."""
    digest = blake2b(digest_size=16)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.golden", description="Are rewards, keys and pixels the same?"
    )
    parser.add_argument("command", choices=["record", "compare"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--weights", type=Path, help="a copy of src/fairlead/pocket/assets (for record)")
    parser.add_argument("--only", default="", help="compare only the cases whose name contains this text")
    words = parser.parse_args()
    record = json.loads(words.file.read_text()) if words.command == "compare" else {}
    weights = Path(record["weights"]) if record else (words.weights or load.ASSETS)
    load.ASSETS = weights.resolve()
    runs = words.file.with_suffix(".runs")
    if words.command == "record":
        header = {"weights": str(load.ASSETS), "weights_digest": weights_digest(load.ASSETS)}
        runs.mkdir()
        cases = run_all(runs)
        words.file.write_text(json.dumps({**header, "cases": cases, OLD: open_old(runs)}, indent=1) + "\n")
        return 0
    if weights_digest(load.ASSETS) != record["weights_digest"]:
        print(f"The weights in {weights} changed since the record was made. Record again.", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        results = run_all(Path(scratch), words.only)
    expected = {name: case for name, case in record["cases"].items() if words.only in name}
    if words.only in OLD:
        expected[OLD] = record[OLD]
        results[OLD] = open_old(runs)
    found = differences(expected, results)
    print("\n".join(found[:40]) or f"{len(results)} cases are the same, bit for bit.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
