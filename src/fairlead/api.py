"""The Python door: the command line's words as arguments."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
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
    model: str | Part | Any = "pocket",
    reward: str | Reward | Callable[[Tensor, Sequence[str]], Any] = "clip_score",
    watch: str | Sequence[str] = (),
    space: str | Part = "noise",
    search: str | Part = "best_of",
    steer: str | Part | Sequence[str | Part] = (),
    intervene: str | Part | Sequence[str | Part] = (),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    budget: str | Mapping[str, float] | None = None,
    sampler: str | None = None,
    steps: int | None = None,
    group: int = 1,
    batch: int | None = None,
    seed: int = 0,
    draft: int | None = None,
    finals: int | None = None,
    siblings: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    on_progress: Callable[[Any], None] | None = None,
) -> Result:
    """Search for a better picture and return what was found, the plain sample beside it.

    `model` is "pocket", a hub name, a diffusers folder, a .safetensors checkpoint, or a live diffusers pipeline, which is
    used where it is and left exactly as it was found; `settings={"model": {"guidance_scale": 4}}` speaks to its adapter.
    `reward` is a formula over registered names ("clip_score + 0.5*aesthetic"), a `Reward`, or any function of images
    [B, 3, H, W] in [0, 1] and prompts that returns B numbers. `watch` names rewards that are recorded for every picture
    and never optimised. `budget` maps nfe, forwards, decodes, scores, seconds or dollars to a limit; left out, 640
    denoiser evaluations. `draft` searches with fewer steps and renders the best `finals` (1) again at full effort.
    `siblings` are live pipelines, or pairs of one and its adapter's settings, by the names a steering uses for them.
    Without `out` the run lives in a temporary directory until the process ends: keep it with `result.save(directory)`.
    """
    from fairlead.app.result import Result
    from fairlead.run import engine

    live = None if isinstance(reward, str) else _live(reward)
    named, defaults = _model(model, settings)
    spec = make_spec(
        prompt,
        model=named,
        reward=reward if isinstance(reward, str) else _named(reward),
        watch=watch,
        space=space,
        search=search,
        steer=steer,
        intervene=intervene,
        settings=settings,
        budget=budget,
        sampler=sampler,
        steps=steps,
        group=group,
        batch=batch,
        seed=seed,
        draft=draft,
        finals=finals,
        defaults=defaults,
    )
    if out is None:
        scratch = tempfile.mkdtemp(prefix="fairlead-")
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        out = Path(scratch) / "run"
    with _lent(model, settings) as lent, _all_lent(siblings) as others:
        watch_it = on_progress or (lambda p: None)
        engine.start(spec, Path(out), reward=live, model=lent, siblings=others, on_progress=watch_it).close()
    return Result(Path(out))


def resume(
    folder: str | Path,
    *,
    budget: str | Mapping[str, float] | None = None,
    reward: Reward | Callable[[Tensor, Sequence[str]], Any] | None = None,
    model: Any = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    siblings: Mapping[str, Any] | None = None,
) -> Result:
    """Continue a run where its record ends; what was a live object is given again: `reward`, `model`, `siblings`.

    `settings` are needed only with `model`, and only their entry "model" is read.
    """
    from fairlead.app.result import Result
    from fairlead.run import engine
    from fairlead.run.spec import parse_budget

    limits = parse_budget(budget) if isinstance(budget, str) else budget
    with _lent(model, settings) as lent, _all_lent(siblings) as others:
        own = None if reward is None else _live(reward)
        engine.resume(Path(folder), budget=limits, reward=own, model=lent, siblings=others).close()
    return Result(Path(folder))


def _model(model: Any, settings: Mapping[str, Mapping[str, Any]] | None) -> tuple[str | Part, dict[str, Any]]:
    """What the record calls the model, and its own defaults."""
    if isinstance(model, str | Part):
        name, said = (model, {}) if isinstance(model, str) else (model.name, dict(model.settings))
        said |= (settings or {}).get("model", {})
        return model, models.defaults(name, said.get("revision"))
    return models.live(model)


@contextmanager
def _lent(model: Any, settings: Mapping[str, Mapping[str, Any]] | None) -> Iterator[Any]:
    """The adapter over a live pipeline for as long as a run needs it; None for a model that is named."""
    if model is None or isinstance(model, str | Part):
        yield None
        return
    lent = models.lend(model, (settings or {}).get("model", {}))
    try:
        yield lent
    finally:
        lent.release()


@contextmanager
def _all_lent(siblings: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    with ExitStack() as stack:
        pairs = {name: given if isinstance(given, tuple) else (given, {}) for name, given in (siblings or {}).items()}
        yield {name: stack.enter_context(_lent(pipe, {"model": own})) for name, (pipe, own) in pairs.items()}


def score(
    pictures: str | Path | Sequence[str | Path],
    reward: str | Reward | Callable[[Tensor, Sequence[str]], Any] = "clip_score",
    *,
    prompt: str | None = None,
    prompts: str | Path | None = None,
    batch: int = 16,
) -> Any:
    """Existing pictures (files, folders, folders of runs) -> their scores, terms and ranks, in their order.

    Prompts are taken from `prompt` for all, from a file (see `fairlead score --help`), from a run's record or from what is
    written in the pictures. A pandas DataFrame where pandas is installed, else a list of dicts.
    """
    from fairlead.run import scoring
    from fairlead.run.formula import parse_reward
    from fairlead.run.worker import build_reward, reward_leaf

    listed = [pictures] if isinstance(pictures, str | Path) else list(pictures)
    found = scoring.collect([Path(p) for p in listed], prompt, None if prompts is None else Path(prompts))
    live = build_reward(parse_reward(reward), reward_leaf) if isinstance(reward, str) else _live(reward)
    table = scoring.rows(scoring.score(found, live, batch=batch))
    try:
        import pandas
    except ImportError:
        return table
    return pandas.DataFrame(table)


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
