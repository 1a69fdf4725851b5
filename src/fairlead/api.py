"""The Python door: the command line's words as arguments."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairlead.run import models
from fairlead.run.spec import Part, make_spec

if TYPE_CHECKING:
    from torch import Tensor

    from fairlead.app.result import Result
    from fairlead.core.reward import Reward


def run(
    prompt: str,
    *,
    model: str | Part = "pocket",
    reward: str | Reward | Callable[[Tensor, Sequence[str]], Any] = "clip_score",
    watch: str | Sequence[str] = (),
    space: str | Part = "noise",
    search: str | Part = "best_of",
    steer: str | Part | Sequence[str | Part] = (),
    intervene: str | Part | Sequence[str | Part] = (),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    budget: str | Mapping[str, float] | None = None,
    sampler: str = "euler",
    steps: int | None = None,
    group: int = 1,
    batch: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    on_progress: Callable[[Any], None] | None = None,
) -> Result:
    """Search for a better picture and return what was found, the plain sample beside it.

    `reward` is a formula over registered names ("clip_score + 0.5*aesthetic"), a `Reward`, or any function of images
    [B, 3, H, W] in [0, 1] and prompts that returns B numbers. `budget` maps nfe, forwards, decodes, scores or seconds
    to a limit; left out, 640 denoiser evaluations. Without `out` the run lives in a temporary directory until the
    process ends: keep it with `result.save(directory)`.
    """
    from fairlead.app.result import Result
    from fairlead.run import engine

    live = None if isinstance(reward, str) else _live(reward)
    spec = make_spec(
        prompt, model=model, reward=reward if isinstance(reward, str) else _named(reward), watch=watch, space=space, search=search,
        steer=steer, intervene=intervene, settings=settings, budget=budget, sampler=sampler, steps=steps, group=group,
        batch=batch, seed=seed, defaults=models.defaults(model if isinstance(model, str) else model.name),
    )  # fmt: skip
    if out is None:
        scratch = tempfile.mkdtemp(prefix="fairlead-")
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        out = Path(scratch) / "run"
    engine.start(spec, Path(out), reward=live, on_progress=on_progress or (lambda progress: None)).close()
    return Result(Path(out))


def resume(
    folder: str | Path, *, budget: str | Mapping[str, float] | None = None,
    reward: Reward | Callable[[Tensor, Sequence[str]], Any] | None = None,
) -> Result:  # fmt: skip
    """Continue a run where its record ends; `reward` again if it was a Python object."""
    from fairlead.app.result import Result
    from fairlead.run import engine
    from fairlead.run.spec import parse_budget

    limits = parse_budget(budget) if isinstance(budget, str) else budget
    engine.resume(Path(folder), budget=limits, reward=None if reward is None else _live(reward)).close()
    return Result(Path(folder))


def _named(reward: Any) -> Part:
    """A live object in the record: what it is called; enough to read, not enough to build."""
    name = (
        getattr(reward, "name", None)
        or f"{getattr(reward, '__module__', '')}.{getattr(reward, '__qualname__', reward)}"
    )
    return Part("python", {"callable": str(name)})


def _live(reward: Any) -> Reward:
    from fairlead.core.reward import Function, Reward

    return reward if isinstance(reward, Reward) else Function(reward)
