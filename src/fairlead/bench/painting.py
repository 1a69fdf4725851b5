"""The pictures of a benchmark, in the folder layout of GenEval's official scorer. What is there is not made again.

OUT/bench.json                  what was asked, and with which versions
OUT/00000/metadata.jsonl        the prompt, one line
OUT/00000/samples/00000.png     its pictures, each with its whole recipe inside
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fairlead.bench import comparison
from fairlead.bench.prompts import BenchmarkPrompt
from fairlead.bench.suites import Suite
from fairlead.core.cost import Cost
from fairlead.core.errors import StoreError
from fairlead.core.key import Key
from fairlead.run import engine, machine, models, png
from fairlead.run.final_judge import winner
from fairlead.run.records import BASELINE, RunStatus
from fairlead.run.render import Renderer
from fairlead.run.spec import Spec
from fairlead.run.store import DATABASE, write_atomically

MANIFEST = "bench.json"
Seen = Callable[[int, int], None]


@dataclass(frozen=True)
class Picture:
    """One picture that a benchmark wants."""

    index: int
    """Of the prompt in the suite."""
    number: int
    """Of the picture for that prompt."""
    asked: BenchmarkPrompt
    again: int
    """How often the same text came before in the suite."""

    @property
    def path(self) -> str:
        """Below the benchmark's folder."""
        return f"{self.index:05d}/samples/{self.number:05d}.png"


@dataclass(frozen=True)
class Job:
    """A benchmark of one model or method."""

    suite: Suite
    template: Spec
    """Everything but the prompt and the seed."""
    images: int
    seed: int
    plain: bool
    """No search, steering or intervention: many prompts at once."""

    def pictures(self) -> list[Picture]:
        """In the order they are made: every prompt once, then every prompt again."""
        seen: dict[str, int] = {}
        rows = []
        for index, asked in enumerate(self.suite.asked):
            rows.append((index, asked, seen.get(asked.text, 0)))
            seen[asked.text] = rows[-1][2] + 1
        return [Picture(i, n, asked, again) for n in range(self.images) for i, asked, again in rows]

    def spec(self, picture: Picture) -> Spec:
        """The run of one picture. Its noise follows from seed, text and number, so methods share it."""
        key = Key.root(self.seed).fold("bench", picture.asked.text, picture.again, picture.number)
        return replace(self.template, prompt=picture.asked.text, seed=key.integer() % 2**31, baseline=False)

    def question(self) -> dict[str, Any]:
        """What decides every pixel, as data."""
        spec = {k: v for k, v in json.loads(self.template.json()).items() if k not in ("prompt", "seed", "watch")}
        spec = {k: v for k, v in spec.items() if not self.plain or k in ("model", "sampler", "steps", "batch")}
        question = {"bench": self.suite.name, "prompts_sha256": self.suite.digest, "prompts": len(self.suite.asked)}
        return {**question, "images": self.images, "seed": self.seed, "plain": self.plain, "spec": spec}


def manifest(out: Path) -> dict[str, Any]:
    """What a folder was made with; empty if there is none."""
    try:
        return dict(json.loads((out / MANIFEST).read_text()))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise StoreError(f"{out / MANIFEST} cannot be read ({error}). Choose another --out.") from error


def prepare(job: Job, out: Path) -> None:
    """The folder with its manifest and prompts; a folder of another question is refused."""
    known = manifest(out)
    asked = job.question()
    if known:
        if differing := [k for k in asked if known.get(k) != asked[k]]:
            raise StoreError(f"{out} holds the same benchmark with another {differing[0]}. Choose another --out.")
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        for i, one in enumerate(job.suite.asked):
            (out / f"{i:05d}" / "samples").mkdir(parents=True, exist_ok=True)
            (out / f"{i:05d}" / "metadata.jsonl").write_text(json.dumps(one.record(), ensure_ascii=False) + "\n")
        about = {
            "source": job.suite.source,
            "versions": machine.versions(),
            "spent": Cost().as_dict(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_atomically(out / MANIFEST, json.dumps({**asked, **about}, indent=1).encode())
    except OSError as error:
        raise StoreError(f"{out} cannot be written ({error.strerror}). Choose another --out.") from error


def paint(job: Job, out: Path, seen: Seen = lambda done, total: None, stop: Callable[[], bool] = lambda: False) -> None:
    """Make every picture that is missing."""
    prepare(job, out)
    every = job.pictures()
    done = sum((out / p.path).is_file() for p in every)
    seen(done, len(every))
    if done < len(every):
        for made, cost in (_plain if job.plain else _searched)(job, out, every, stop):
            done += made
            _spend(out, cost)
            seen(done, len(every))


def _spend(out: Path, cost: Cost) -> None:
    known = manifest(out)
    before: Mapping[str, float] = known.get("spent", {})
    write_atomically(
        out / MANIFEST, json.dumps({**known, "spent": (Cost(**before) + cost).as_dict()}, indent=1).encode()
    )


def _plain(job: Job, out: Path, every: list[Picture], stop: Callable[[], bool]) -> Iterator[tuple[int, Cost]]:
    """Batches over prompts. A batch that was begun is made again whole, so that its kernels have the same shape."""
    renderer = Renderer(models.with_dtype(job.template))
    size = renderer.spec.batch
    version = machine.versions()["fairlead"]
    for first in range(0, len(every), size):
        some = every[first : first + size]
        missing = [p for p in some if not (out / p.path).is_file()]
        if not missing:
            continue
        if stop():
            return
        before = renderer.meter.spent
        specs = [job.spec(p) for p in some]
        keys = [Key.root(s.seed).fold("search").fold("candidate", 0) for s in specs]  # the plain sample of a run of it
        images = renderer.draw([p.asked.text for p in some], keys)
        for picture, spec, key, image in zip(some, specs, keys, images, strict=True):
            if picture in missing:
                shown = replace(spec, model=models.with_dtype(spec).model, batch=size)
                data = png.recipe(shown, version, BASELINE, key.hex(), float("nan"), {}, True)
                text = png.parameters(shown, (image.shape[-1], image.shape[-2]), version, BASELINE)
                write_atomically(out / picture.path, png.encode(png.pixels(image), data, text))
        yield len(missing), renderer.meter.spent - before


def _searched(job: Job, out: Path, every: list[Picture], stop: Callable[[], bool]) -> Iterator[tuple[int, Cost]]:
    """One run a picture; its winner is kept, the run is not."""
    bench = comparison.CellRunner(out, {})
    for picture in every:
        if (out / picture.path).is_file():
            continue
        if stop():
            return
        spec = job.spec(picture)
        folder = out / "runs" / f"{picture.index:05d}-{picture.number:05d}"
        model = bench.model(spec)
        if (folder / DATABASE).is_file():
            store = engine.resume(folder, model=model, stop=stop, trust=True)
        else:
            store = engine.start(spec, folder, model=model, stop=stop)
        best = winner(store)
        cost = store.spent()
        status = store.status
        store.close()
        if status != RunStatus.FINISHED or best is None:
            return
        write_atomically(out / picture.path, (folder / best.image).read_bytes())
        shutil.rmtree(folder)
        yield 1, cost
