"""Pools of candidates: the same noise as a plain picture and as every kind of draft, with all rewards and all costs.

A pool is recorded once. Policies are resampled from it (policies.py), so that a policy costs nothing to try. Candidate
i of a prompt has the noise of candidate i of `fairlead run PROMPT --seed SEED`, so a real run can be compared with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments import common
from fairlead.core.cost import INFINITE
from fairlead.core.key import Key
from fairlead.core.model import Model
from fairlead.core.sampling import sample
from fairlead.core.search import Proposal
from fairlead.run.dry_run import with_batch
from fairlead.run.records import Task
from fairlead.run.setup import resolve
from fairlead.run.spec import Spec, make_spec
from fairlead.run.worker import Worker

PICTURE = "picture"
FLASH_DRAFT = "flash draft"
FLASH_FINAL = "flash final"


@dataclass(frozen=True)
class Flash:
    """Flash-BoN's schedule (specification 2.2), in steps of a picture of `full` steps.

    Its warm-up and its resumption are the same share of the picture as in the paper's Wan2.1-1.3B, its interval is the
    same number of steps. Repeating an output is the same as a coarser grid, so no cache is needed.
    """

    full: int
    interval: int = 5

    @property
    def warm_up(self) -> int:
        """Computed steps before the first repeated one: 3 of 50."""
        return max(1, round(self.full * 3 / 50))

    @property
    def resumed(self) -> int:
        """The step from which the final is computed in full: 35 of 50."""
        return round(self.full * 35 / 50)

    @property
    def draft(self) -> list[int]:
        """The levels that a draft visits; the last step repeats."""
        w = self.warm_up
        computed = [s for s in range(self.full - 1) if s < w or (s - w - 1) % self.interval == 0]
        return [*computed, self.full]

    @property
    def final(self) -> list[int]:
        """The levels that a finished picture visits: the draft's, then every level."""
        return [s for s in self.draft if s < self.resumed] + list(range(self.resumed, self.full + 1))

    @property
    def more(self) -> int:
        """Evaluations of a final beyond those that its draft has paid."""
        return self.full - self.resumed


class Stopwatch:
    """Processor seconds spent inside the decoder and inside every reward, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def on(self, owner: Any, method: str, part: str) -> None:
        """From now on calls of the method are timed as this part."""
        inner = getattr(owner, method)

        def timed(*values: Any, **named: Any) -> Any:
            with self.part(part):
                return inner(*values, **named)

        setattr(owner, method, timed)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time what is done inside."""
        since = time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - since


class Recorder:
    """Renders blocks of candidates of one prompt by every kind."""

    def __init__(self, spec: Spec, kinds: Sequence[str], loaded: dict[str, Model]) -> None:
        self.spec = spec
        self.watch = Stopwatch()
        self.workers: dict[str, Worker] = {}
        for kind in (PICTURE, *kinds):
            asked = replace(spec, draft=None if kind == PICTURE else kind)
            siblings = {name: model for name, model in loaded.items() if name != spec.model.name}
            worker = Worker(with_batch(resolve(asked, model=loaded.get(spec.model.name), siblings=siblings)))
            loaded[spec.model.name] = worker.model
            loaded |= {name: sibling.model for name, sibling in worker.siblings.items()}
            for leaf in worker.reward.leaves():
                self.watch.on(leaf, "score", leaf.name)
            self.workers[kind] = worker
        self.flash = Flash(spec.steps)

    def block(self, kind: str, indices: Sequence[int]) -> tuple[list[dict[str, float]], dict[str, float]]:
        """Rewards by name of every candidate, and what the block cost: rows of the network and processor seconds."""
        self.watch.seconds = {}
        since = time.process_time()
        levels = {FLASH_DRAFT: self.flash.draft, FLASH_FINAL: self.flash.final}.get(kind)
        if levels is None:
            rewards, rows = self._rendered(kind, indices)
        else:
            rewards, rows = self._along(levels, indices)
        spent = time.process_time() - since
        parts = dict(self.watch.seconds)
        return rewards, {"rows": rows / len(indices), "rest": spent - sum(parts.values()), **parts}

    def _questions(self, indices: Sequence[int], worker: Worker, effort: str | None) -> tuple[Proposal, ...]:
        keys = [Key.root(self.spec.seed).fold("search").fold("candidate", i) for i in indices]
        return tuple(Proposal(worker.space.draw(key), key, effort) for key in keys)

    def _rendered(self, kind: str, indices: Sequence[int]) -> tuple[list[dict[str, float]], float]:
        worker = self.workers[kind]
        asked = self._questions(indices, worker, None if kind == PICTURE else kind)
        task = Task(tuple(indices), asked, tuple(indices), INFINITE, is_baseline=True)
        with self._decoding(worker):
            outcomes, cost = worker.evaluate(task, worker.steering)
        return [dict(o.terms) for o in outcomes], cost.forwards

    def _along(self, levels: Sequence[int], indices: Sequence[int]) -> tuple[list[dict[str, float]], float]:
        """Pictures along chosen levels of the full schedule."""
        worker = self.workers[PICTURE]
        asked = self._questions(indices, worker, None)
        keys = tuple(p.key for p in asked)
        own = worker.model.levels(self.spec.steps)
        before = worker.meter.spent
        worker.model.meter(worker.meter)
        with torch.no_grad(), worker.meter.grant(INFINITE), self._decoding(worker):
            conditioning = worker.setup.conditioning.take(torch.zeros(len(asked), dtype=torch.int64))
            latents, cond = worker.space.place(torch.stack([p.x for p in asked]), worker.model, conditioning, keys)
            chosen = [own[i] for i in levels]
            z = sample(worker.model, worker.setup.sampler, latents, cond, chosen, keys, worker.meter)
            images = (worker.model.decode(z) * 255).round() / 255
            _, terms = worker.reward(images, cond.prompts)
        rewards = [{name: float(values[i]) for name, values in terms.items()} for i in range(len(asked))]
        return rewards, (worker.meter.spent - before).forwards

    @contextmanager
    def _decoding(self, worker: Worker) -> Iterator[None]:
        """Time the decoder, which all workers share."""
        decode: Callable[[Tensor], Tensor] = worker.model.decode

        def timed(x: Tensor) -> Tensor:
            with self.watch.part("decode"):
                return decode(x)

        worker.model.decode = timed  # type: ignore[method-assign]
        try:
            yield
        finally:
            worker.model.decode = decode  # type: ignore[assignment,method-assign]


@dataclass(frozen=True)
class Asked:
    """What a pool is recorded with."""

    model: str
    steps: int | None
    seed: int
    batch: int
    rewards: tuple[str, ...]
    """The first is the one that a run would optimise."""
    drafts: tuple[str, ...]
    """As written on the command line."""
    prompts: tuple[str, ...]
    candidates: int

    def spec(self, prompt: str, draft: str | None = None) -> Spec:
        """The run of a prompt."""
        options: Mapping[str, Any] = {} if self.steps is None else {"steps": self.steps}
        first, *others = self.rewards
        return make_spec(
            prompt,
            model=self.model,
            reward=first,
            watch=others,
            seed=self.seed,
            batch=self.batch,
            draft=draft,
            **options,
        )

    @property
    def kinds(self) -> list[str]:
        """The drafts in the form that the record keeps."""
        return [str(self.spec(self.prompts[0], draft).draft) for draft in self.drafts]


def record(asked: Asked, out: Path, say: Callable[[str], None] = print) -> None:
    """Record what is missing, in blocks of a batch: every prompt's first block, then every prompt's second.

    So a recording that is stopped leaves pools of equal size, except for the last block.
    """
    kept = common.Rows(out / "pool.csv.gz")
    costs = common.Rows(out / "costs.csv")
    done = {(row["prompt"], int(row["first"])) for row in costs.read()}
    loaded: dict[str, Model] = {}
    every = (PICTURE, *asked.kinds, FLASH_DRAFT, FLASH_FINAL)
    for first in range(0, asked.candidates, asked.batch):
        for prompt in asked.prompts:
            if (prompt, first) in done:
                continue
            recorder = Recorder(asked.spec(prompt), asked.kinds, loaded)
            indices = range(first, min(first + asked.batch, asked.candidates))
            rows = []
            bills = []
            for kind in every:
                rewards, bill = recorder.block(kind, indices)
                for index, own in zip(indices, rewards, strict=True):
                    plain = {name.removesuffix(" (watched)"): f"{value:.6g}" for name, value in own.items()}
                    rows.append({"prompt": prompt, "candidate": index, "kind": kind, **plain})
                at = {"prompt": prompt, "first": first, "kind": kind, "candidates": len(indices)}
                bills.append({**at, **{name: f"{value:.5g}" for name, value in bill.items()}})
            kept.append(rows)
            costs.append(bills)
            say(f"{prompt}: candidates {first} to {indices[-1]}")
