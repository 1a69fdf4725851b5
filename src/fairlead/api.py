"""Running, resuming and scoring from Python, with the options of the command line as arguments."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairlead.core.errors import FairleadError
from fairlead.run import config, inputs, models
from fairlead.run.child import spec_of_child
from fairlead.run.options import RunOptions, called_with
from fairlead.run.spec import Part, Spec, checked_settings, spec_of

if TYPE_CHECKING:
    from torch import Tensor

    from fairlead.app.events import Event
    from fairlead.app.result import Result
    from fairlead.app.results import Results
    from fairlead.core.reward import Reward
    from fairlead.run.prompt_rows import Row


TENSORS = (
    "prompt_embeds",
    "negative_prompt_embeds",
    "pooled_prompt_embeds",
    "negative_pooled_prompt_embeds",
    "prompt_attention_mask",
    "negative_prompt_attention_mask",
    "prompt_embeds_mask",
    "negative_prompt_embeds_mask",
    "latents",
)
"""Arguments of a pipeline's call that are tensors."""
Live = Mapping[str, Any] | None
"""Live pipelines, or pairs of one and its adapter's settings, by the names that a steering uses for them."""


@dataclass(frozen=True, kw_only=True)
class _Call(RunOptions):
    """The options of a run and what only Python can pass."""

    siblings: Live = None
    prompt_embeds: Tensor | None = None
    negative_prompt_embeds: Tensor | None = None
    pooled_prompt_embeds: Tensor | None = None
    negative_pooled_prompt_embeds: Tensor | None = None
    prompt_attention_mask: Tensor | None = None
    negative_prompt_attention_mask: Tensor | None = None
    prompt_embeds_mask: Tensor | None = None
    negative_prompt_embeds_mask: Tensor | None = None
    latents: Tensor | None = None
    seeds: Any = None
    out: str | Path | None = None
    on_progress: Callable[[Any], None] | None = None
    on_event: Callable[[Event], None] | None = None
    log: str | Sequence[str] = ()
    on_step: Callable[[Any], None] | None = None
    previews: int | Callable[[], int] = 0
    trust: bool = False


@called_with(_Call, defaults=config.of_a_run)
def run(options: _Call) -> Any:
    """Search for a better picture and return what was found, the plain sample beside it: a `Result`.

    `prompt` may also be a list of texts, or of mappings like `{"prompt": "a dog", "seed": 3}` with options of one run
    each; `seeds`, like `range(8)` or `"0-7"`, runs every prompt with each. The answer is then a list-like `Results`.
    The model is loaded once, and batches are filled across prompts; `exact=True` keeps them apart, so that every run
    is equal, bit for bit, to the same run alone.

    `model` may also be a live diffusers pipeline: it is used where it is and left exactly as it was found.
    `reward` may also be a `Reward`, or a function of images [B, 3, H, W] in [0, 1] and prompts that returns B numbers.
    `settings` is a mapping: `settings={"best_of": {"n": 16}}`; the key "model" stands for the model.
    `budget` may also be a mapping: `budget={"nfe": 640}`.
    `prompt_embeds`, `negative_prompt_embeds`, `pooled_prompt_embeds` and `negative_pooled_prompt_embeds` are tensors
    [1, ...] that a live pipeline uses in place of encoded text; rewards still read the prompt. A family that masks
    its text takes the masks under the names of its pipeline: `prompt_attention_mask` or `prompt_embeds_mask`, and
    both with `negative_`. `latents` [1, C, h, w] is the noise of the first candidate. The record keeps their digests:
    `resume` needs them in `settings["model"]`.
    `siblings` are live pipelines, or pairs of one and its adapter's settings, by the names a steering uses for them.
    `on_progress` is called after every batch with a `Progress`, `on_step` after every denoising step with a
    `BatchStep`, which holds the pictures as they form every `previews` steps.
    `on_event` is called with an `Event` for every candidate, for every preview, and for the end of a run.
    `log` is "tensorboard" or "wandb", or a list of both: the events are written by these packages.
    Without `out`, the run is kept in a temporary folder until the process ends; `result.save(folder)` keeps it longer.
    """
    if options.seeds is None and not isinstance(options.prompt, list | tuple):
        return _run_one(options)
    return _run_set(options)


def _run_one(options: _Call) -> Result:
    from fairlead.app.loggers import followed
    from fairlead.app.result import Result
    from fairlead.run import engine

    lent_settings = _adapter_settings(options)
    spec = _maker(options, lent_settings)(options)
    out = new_folder() if options.out is None else Path(options.out)
    with (
        _lent(options.model, lent_settings) as lent,
        _all_lent(options.siblings) as others,
        followed(options.on_event, options.log) as events,
    ):
        engine.start(
            spec,
            out,
            reward=None if isinstance(options.reward, str) else as_live(options.reward),
            model=lent,
            siblings=others,
            on_progress=events.of(out, options.on_progress or (lambda progress: None)),
            on_step=events.steps_of(out, options.on_step, options.previews),
            previews=options.previews,
            trust=options.trust,
        ).close()
    return Result(out)


def _run_set(options: _Call) -> Results:
    from fairlead.app.loggers import followed
    from fairlead.app.results import Results
    from fairlead.run import prompt_rows, run_set, several

    if options.on_step is not None:
        raise FairleadError("on_step shows the steps of one run. Use on_progress for several prompts or seeds.")
    model = options.model
    lent_settings = _adapter_settings(options)
    live = None if isinstance(options.reward, str) else as_live(options.reward)
    prompts = options.prompt if isinstance(options.prompt, list | tuple) else [options.prompt]
    rows = prompt_rows.of(prompts)
    _check_rows(rows, live=live is not None, lent=not isinstance(model, str | Part))
    specs = several.specs_of(prompt_rows.expanded(options, rows, options.seeds), _maker(options, lent_settings))
    out = new_folder() if options.out is None else Path(options.out)
    places = several.listed(out, specs, options.exact)
    with (
        _lent(model, lent_settings) as lent,
        _all_lent(options.siblings) as others,
        followed(options.on_event, options.log) as events,
    ):
        lent_objects = run_set.Lent(live, lent, others)
        run_set.run_set(out, lent=lent_objects, on_progress=options.on_progress, on_run=events.progressed)
    return Results(out, places)


def new_folder() -> Path:
    """A folder that is kept until the process ends."""
    scratch = tempfile.mkdtemp(prefix="fairlead-")
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    return Path(scratch) / "run"


def _maker(options: _Call, lent_settings: Mapping[str, Any]) -> Callable[[RunOptions], Spec]:
    """Options of a run -> its Spec, with names for what the caller passed as objects."""
    settings = _recorded(options, lent_settings)
    lent = None if isinstance(options.model, str | Part) else models.live(options.model)

    def make(own: RunOptions) -> Spec:
        if own.settings == options.settings:
            own = replace(own, settings=settings)
        if not isinstance(own.reward, str):
            own = replace(own, reward=_named(own.reward))
        if lent is not None:
            own = replace(own, model=lent[0])
            if own.like or own.unlike:
                child: Spec = spec_of_child(own, lambda plain: spec_of(plain, lent[1]), models.abilities)
                return child
            return spec_of(own, lent[1])
        return models.spec_of(own)

    return make


def _check_rows(rows: Sequence[Row], *, live: bool, lent: bool) -> None:
    """A row cannot replace what was passed as an object: the object would be used all the same."""
    for row in rows:
        for name, is_object in (("reward", live), ("model", lent)):
            if name in row.options and is_object:
                raise FairleadError(
                    f"{row.place} sets {name!r}, but {name} was passed as an object, which is used for every row. "
                    "Name it in text, or leave it out of the row."
                )


def _adapter_settings(options: RunOptions) -> dict[str, Any]:
    """What `options` say about the model, for the adapter of a live pipeline."""
    chosen = options.settings or {}
    settings = checked_settings(chosen)
    tensors = {name: getattr(options, name) for name in TENSORS if getattr(options, name) is not None}
    tensors = {name: _alone(value) for name, value in tensors.items()}
    chosen_part = Part(models.LIVE, {**options.model_settings, **settings.get("model", {})})
    return {**inputs.pictures(inputs.recorded(chosen_part).settings), **tensors}


def _alone(value: Any) -> Any:
    """A list of one tensor [T, D], as Z-Image's call takes it, as a tensor [1, T, D]."""
    return value[0][None] if isinstance(value, list) and len(value) == 1 else value


def _recorded(options: _Call, lent: Mapping[str, Any]) -> Any:
    """The settings with digests in place of tensors, which only a live pipeline can receive."""
    tensors = {name: value for name, value in lent.items() if hasattr(value, "detach")}
    if not tensors:
        return options.settings
    if isinstance(options.model, str | Part):
        raise FairleadError(
            f"{sorted(tensors)[0]} needs a live pipeline, but model is {str(options.model)!r}. "
            "Load it with diffusers and pass the object as model."
        )
    chosen = options.settings or {}
    settings = checked_settings(chosen)
    digests = {name: blake2b(_bytes(value), digest_size=8).hexdigest() for name, value in tensors.items()}
    return {**settings, "model": {**settings.get("model", {}), **digests}}


def _bytes(value: Tensor) -> bytes:
    return bytes(value.detach().float().cpu().numpy().tobytes())


def resume(
    folder: str | Path,
    *,
    budget: str | Mapping[str, float] | None = None,
    until: str | None = None,
    stop: str | None = None,
    reward: Reward | Callable[[Tensor, Sequence[str]], Any] | None = None,
    model: Any = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    siblings: Live = None,
    on_event: Callable[[Event], None] | None = None,
    log: str | Sequence[str] = (),
    trust: bool = False,
) -> Result:
    """Continue a run where its record ends. Pass `reward`, `model` and `siblings` again if they were live objects.

    `trust`: execute the reward file that the record names, and send your key to the server that it names.

    `until` and `stop` replace the run's rules, and an empty text removes one. A run that ended by a rule goes on if
    that rule is changed, or with a larger budget, which removes it.

    `settings` are needed only with `model`, and only their entry "model" is read.

    `on_event` and `log` are those of `run`; candidates that were recorded before are no events.
    """
    from fairlead.app.loggers import followed
    from fairlead.app.result import Result
    from fairlead.run import engine
    from fairlead.run.spec import parse_budget

    limits = parse_budget(budget) if isinstance(budget, str) else budget
    with (
        lent_to(Path(folder), model, settings) as lent,
        _all_lent(siblings) as others,
        followed(on_event, log) as events,
    ):
        own = None if reward is None else as_live(reward)
        engine.resume(
            Path(folder),
            budget=limits,
            until=until,
            stop_rule=stop,
            reward=own,
            model=lent,
            siblings=others,
            on_progress=events.of(Path(folder), lambda progress: None),
            trust=trust,
        ).close()
    return Result(Path(folder))


@contextmanager
def lent_to(folder: Path, model: Any, settings: Mapping[str, Mapping[str, Any]] | None = None) -> Iterator[Any]:
    """The adapter over a live pipeline for a stored run, with the picture inputs that the run keeps."""
    own_settings = {**_stored_pictures(model, folder), **(settings or {}).get("model", {})}
    with _lent(model, own_settings) as lent:
        yield lent


def _stored_pictures(model: Any, folder: Path) -> dict[str, Any]:
    """The picture inputs that a stored run keeps, for the adapter of a live pipeline."""
    if model is None or isinstance(model, str | Part):
        return {}
    from fairlead.run.store import Store

    part = Store.open(folder).spec.model
    inputs.restore(folder, part)
    found = inputs.pictures(part.settings)
    return {name: found[name] for name in inputs.SETTINGS if name in found}


@contextmanager
def _lent(model: Any, settings: Mapping[str, Any]) -> Iterator[Any]:
    """The adapter over a live pipeline for as long as a run needs it; None for a model that is named."""
    if model is None or isinstance(model, str | Part):
        yield None
        return
    lent = models.lend(model, settings)
    try:
        yield lent
    finally:
        lent.release()


@contextmanager
def _all_lent(siblings: Live) -> Iterator[dict[str, Any]]:
    with ExitStack() as stack:
        pairs = {name: given if isinstance(given, tuple) else (given, {}) for name, given in (siblings or {}).items()}
        yield {name: stack.enter_context(_lent(pipe, own)) for name, (pipe, own) in pairs.items()}


def score(
    pictures: str | Path | Sequence[str | Path],
    reward: str | Reward | Callable[[Tensor, Sequence[str]], Any] | None = None,
    *,
    prompt: str | None = None,
    prompts: str | Path | None = None,
    batch: int = 16,
) -> Any:
    """Existing pictures (files, folders, folders of runs) -> their scores, terms and ranks, in their order.

    Without `reward`, that of `fairlead.toml` is used, or `clip_score`.
    Prompts are taken from `prompt` for all, from a file (see `fairlead score --help`), from a run's record, or from the
    metadata of the pictures. Returns a pandas DataFrame where pandas is installed, else a list of dicts.
    """
    from fairlead.run import scoring
    from fairlead.run.formula import parse_reward
    from fairlead.run.rewards import build_reward, reward_leaf

    if reward is None:
        reward = str(config.in_force()["reward"].value)
    listed = [pictures] if isinstance(pictures, str | Path) else list(pictures)
    found = scoring.collect([Path(p) for p in listed], prompt, None if prompts is None else Path(prompts))
    live = build_reward(parse_reward(reward), reward_leaf) if isinstance(reward, str) else as_live(reward)
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


def as_live(reward: Any) -> Reward:
    """A reward as it is, and a function as a reward."""
    from fairlead.core.function import Function
    from fairlead.core.reward import Reward

    return reward if isinstance(reward, Reward) else Function(reward)
