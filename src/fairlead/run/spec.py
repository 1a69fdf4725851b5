"""A run as data: names and numbers only. Canonical JSON; its hash names the run. Imports no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from hashlib import blake2b
from typing import Any

from fairlead.core.check import is_text, number_in_range, whole_number
from fairlead.core.cost import Cost
from fairlead.core.errors import FairleadError
from fairlead.run import inputs, registry, rungs, stop_rules
from fairlead.run.formula import Outside as Outside
from fairlead.run.formula import from_data
from fairlead.run.formula import parse_reward as parse_reward
from fairlead.run.formula import reward_parts as reward_parts
from fairlead.run.formula import reward_text as reward_text
from fairlead.run.knockout import MOST_LOOKS
from fairlead.run.options import RunOptions, called_with
from fairlead.run.parent import Parent
from fairlead.run.part import Part as Part
from fairlead.run.part_settings import PartSettings
from fairlead.run.part_settings import checked_settings as checked_settings
from fairlead.run.part_settings import parse_settings as parse_settings
from fairlead.run.rungs import Effort

MAX_PROMPT = 2000
MOST = {
    "steps": 10_000,
    "group": 4096,
    "batch": 4096,
    "finals": 4096,
    "entrants": 64,
    "height": 16_384,
    "width": 16_384,
}
"""What is larger is a slip of the finger: it would run for days or not fit anywhere."""


ADDED_LATER: dict[str, Any] = {
    "watch": (),
    "baseline": True,
    "exact": False,
    "final_judge": None,
    "entrants": 8,
    "looks": 0,
    "until": "",
    "stop": "",
    "parent": None,
}
"""Fields that older records lack, with their defaults."""


@dataclass(frozen=True)
class Spec:
    """A run as data: everything that can change a pixel or a number, and the budget, which `id` leaves out."""

    prompt: str
    model: Part = field(default_factory=lambda: Part("pocket"))
    reward: Any = field(default_factory=lambda: Part("clip_score"))
    """A Part, a number, or a tree of {"+": [...]}, {"*": [...]} and the other operations of `formula`"""
    watch: tuple[Any, ...] = ()
    """Formulas that are computed and stored for every picture and never optimised."""
    space: Part = field(default_factory=lambda: Part("noise"))
    search: Part = field(default_factory=lambda: Part("best_of"))
    steering: tuple[Part, ...] = ()
    interventions: tuple[Part, ...] = ()
    sampler: str = "euler"
    steps: int = 20
    group: int = 1
    """Candidates rendered together as one group; methods that couple samples act inside it."""
    batch: int = 16
    """Rows rendered at once; 0 until the free memory decides. Matrix kernels round differently for other sizes."""
    seed: int = 0
    draft: int | str | None = None
    """How candidates are seen before they are finished: a chain as in `run/rungs.py`, of which the search sees the
    first rung. A number, as older runs recorded it, is that many even steps. None: no drafts."""
    finals: int = 1
    """How many of the best drafts are rendered again, counted in groups; 0: as many as `run/planner.py` advises."""
    exact: bool = False
    """Render finished pictures from the noise, bit-equal to plain ones, even where a draft has left a state."""
    final_judge: Part | None = None
    """Who chooses among the best finished pictures, two at a time; None: the one with the best reward wins."""
    entrants: int = 8
    """How many of the best finished pictures the final judge compares."""
    looks: int = 0
    """Looks of the final judge at a pair; 0: the judge's own number."""
    until: str = ""
    """The run ends when its best finished picture satisfies this condition; see `run/stop_rules.py`."""
    stop: str = ""
    """`flat` or `flat(price=P)`: the run ends when the next picture promises less than its price."""
    baseline: bool = True
    """Render the plain sample of the seed too where it is no candidate. Off where many runs share one: a comparison."""
    parent: Parent | None = None
    """The picture of another run that this one starts from."""
    budget: Mapping[str, float] = field(default_factory=lambda: {"nfe": 640})
    """Finite limits by name, as in `Cost`."""

    def json(self) -> str:
        """Canonical JSON: sorted keys, no spaces."""
        return _canonical(self._data())

    def _data(self) -> dict[str, Any]:
        """Fields that were added later are left out at their default, so that older runs keep their names."""
        every = asdict(self)
        if self.parent is not None:
            every["parent"] = self.parent.as_dict()
        return {k: v for k, v in every.items() if k not in ADDED_LATER or v != ADDED_LATER[k]}

    def id(self) -> str:
        """32 hex digits naming the run's question; the budget and stop rules, which may be changed, are left out."""
        question = {k: v for k, v in self._data().items() if k not in ("budget", "until", "stop")}
        return blake2b(_canonical(question).encode(), digest_size=16).hexdigest()

    @property
    def alike(self) -> str:
        """What two runs must have in common to cost the same for each picture, and to share batches."""
        return replace(self, prompt="", seed=0, search=Part("any"), budget={}, until="", stop="").json()

    @property
    def limit(self) -> Cost:
        """The budget, infinite where there is no limit."""
        return Cost.budget(self.budget)

    @property
    def rungs(self) -> tuple[int | str, ...]:
        """How candidates are seen before they are finished, the cheapest first; empty without drafts."""
        return tuple(effort for effort, _ in rungs.chain(self.draft))

    @property
    def efforts(self) -> tuple[Effort, ...]:
        """How a candidate is rendered at every rung, the finished picture last."""
        return tuple(rungs.efforts(self.draft, self.steps, self.exact))

    @property
    def advancing(self) -> tuple[int | None, ...]:
        """How many groups advance from every rung; None: as many as the planner advises."""
        return tuple(rungs.advancing(self.draft, self.finals))

    @property
    def controlled(self) -> bool:
        """True if a candidate is sampled in another way than the plain baseline."""
        return bool(self.steering or self.interventions or self.draft)

    @property
    def own_baseline(self) -> bool:
        """True if the plain sample is rendered beside the candidates."""
        return self.controlled and self.baseline

    @staticmethod
    def from_json(text: str) -> Spec:
        """Inverse of `json`."""
        try:
            raw = json.loads(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise FairleadError(f"The run's settings are not JSON ({error!s:.80}): restore the record.") from None
        if not isinstance(raw, dict):
            raise FairleadError(f"The run's settings are {raw!r:.60}, not a JSON object: restore the record.")
        known = {f.name for f in fields(Spec)}
        if extra := set(raw) - known:
            raise FairleadError(
                f"The run's settings have an unknown field {sorted(extra)[0]!r:.60}: a newer fairlead wrote it."
            )
        try:
            _canonical(raw).encode()  # halves of characters cannot be written again
            for name in ("model", "space", "search"):
                raw[name] = _part_of(raw[name])
            for name in ("steering", "interventions"):
                raw[name] = tuple(_part_of(part) for part in _a(list, raw[name]))
            if raw.get("final_judge") is not None:
                raw["final_judge"] = _part_of(raw["final_judge"])
            raw["parent"] = Parent.read(raw.get("parent"))
            raw["reward"] = from_data(raw["reward"])
            raw["watch"] = tuple(from_data(tree) for tree in _a(list, raw.get("watch", [])))
            spec = Spec(**raw)
            _check_types(spec)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            told = f"{type(error).__name__}: {error}"
            raise FairleadError(f"The run's settings cannot be read ({told:.120}): restore the record.") from None
        return spec


def _a(kind: type, value: Any) -> Any:
    """The value, if it is of that kind; True and False are not numbers."""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"{value!r:.60} is no {kind.__name__}")
    return value


def _part_of(data: Any) -> Part:
    if set(_a(dict, data)) - {"name", "settings"}:
        raise TypeError(f"{data!r:.60} is not a name with settings")
    return Part(_a(str, data["name"]), {_a(str, k): v for k, v in _a(dict, data.get("settings", {})).items()})


def _check_types(spec: Spec) -> None:
    """Raise where a stored value cannot be what `spec_of` makes."""
    _a(str, spec.prompt)
    inputs.check_stored(spec.model)
    _a(str, spec.sampler)
    _a(bool, spec.baseline)
    whole_number("seed", spec.seed, -(2**63), 2**63 - 1)
    for name in ("steps", "group"):
        whole_number(name, getattr(spec, name), 1, MOST[name])
    whole_number("finals", spec.finals, 0, MOST["finals"])
    whole_number("batch", spec.batch, 0, MOST["batch"])
    _a(bool, spec.exact)
    whole_number("entrants", spec.entrants, 2, MOST["entrants"])
    whole_number("looks", spec.looks, 0, MOST_LOOKS)
    stop_rules.read_until(_a(str, spec.until))
    stop_rules.read_price(_a(str, spec.stop))
    if isinstance(spec.draft, str):
        rungs.check_stored(spec.draft)
    else:
        whole_number("draft", spec.draft, 1, MOST["steps"], optional=True)
    for name, value in _a(dict, spec.budget).items():
        number_in_range(f"budget.{name}", value, "(0, inf)")
    Cost.budget(spec.budget)
    reward_text(spec.reward)
    if not reward_parts(spec.reward):
        raise TypeError(f"the reward is {spec.reward!r:.60}")


def _canonical(data: Any) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def parse_budget(text: str) -> dict[str, float]:
    """`nfe=2000,seconds=60` -> {"nfe": 2000.0, "seconds": 60.0}."""
    out: dict[str, float] = {}
    for item in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, value = item.partition("=")
        try:
            out[name.strip()] = float(value)
        except ValueError:
            raise FairleadError(f"Budget {item!r} is not name=number. Write for example nfe=640,seconds=60.") from None
    if not out:
        raise FairleadError(f"Budget {text!r} is empty. Write for example nfe=640.")
    Cost.budget(out)
    return out


def _checked_prompt(prompt: Any) -> str:
    if isinstance(prompt, list | tuple):
        raise FairleadError(
            f"prompt must be one text, but is a list of {len(prompt)}. Start a run for each: "
            "[fairlead.run(prompt) for prompt in prompts]."
        )
    if not isinstance(prompt, str):
        raise FairleadError(f"prompt must be one text, but is {prompt!r}. Write what the picture should show.")
    if not prompt.strip():
        raise FairleadError(f"The prompt {prompt!r} is empty: write what the picture should show.")
    if not is_text(prompt):
        raise FairleadError(f"The prompt {prompt!a:.80} is not valid text: type it again.")
    if len(prompt) > MAX_PROMPT:
        raise FairleadError(f"The prompt has {len(prompt)} characters: must be at most {MAX_PROMPT}. Shorten it.")
    return prompt.strip()


def _limits(budget: str | Mapping[str, float] | None) -> dict[str, float]:
    """The finite limits of a budget; 640 denoiser evaluations if none was chosen."""
    if budget is None:
        chosen: Mapping[str, float] = {"nfe": 640.0}
    else:
        chosen = parse_budget(budget) if isinstance(budget, str) else budget
    if not isinstance(chosen, Mapping):
        raise FairleadError(f'budget must be text or a mapping, but is {chosen!r}. Write for example {{"nfe": 640}}.')
    for name, value in chosen.items():
        if not isinstance(value, int | float):
            raise FairleadError(f"budget.{name} is {value!r}: must be a number.")
    limits = {k: float(v) for k, v in chosen.items()}
    if not all(map(math.isfinite, limits.values())):
        raise FairleadError(f"Budget {limits} is not finite. Leave out what has no limit.")
    Cost.budget(limits)
    return limits


def _check_numbers(steps: int, options: RunOptions) -> None:
    whole_number("seed", options.seed, -(2**63), 2**63 - 1)
    whole_number("steps", steps, 1, MOST["steps"])
    whole_number("group", options.group, 1, MOST["group"])
    whole_number("finals", options.finals, 1, MOST["finals"], optional=True)
    whole_number("entrants", options.entrants, 2, MOST["entrants"], optional=True)
    whole_number("looks", options.looks, 1, MOST_LOOKS, optional=True)
    for name in ("entrants", "looks"):
        if getattr(options, name) is not None and options.final_judge is None:
            raise FairleadError(
                f"{name} is {getattr(options, name)} but final_judge is not set: no judge compares the pictures. "
                "Add --final-judge human, or a pairwise_judge."
            )


def _chosen_batch(options: RunOptions, defaults: Mapping[str, Any]) -> int:
    """Whole groups at once; 0 where the model leaves the choice to the free memory."""
    usual = int(defaults.get("batch", 4))
    if usual == 0 and options.batch in (None, 0):
        return 0
    batch: int = whole_number("batch", usual if options.batch is None else options.batch, 1, MOST["batch"])
    return max(options.group, batch - batch % options.group)


def spec_of(options: RunOptions, defaults: Mapping[str, Any] | None = None) -> Spec:
    """The options of a run -> a checked Spec.

    `defaults` are the model's own: `steps`, `batch`, `sampler`, settings of the adapter, and under `interventions` and
    `steerings` the settings of parts by name. An option that was chosen wins over them.
    In `settings`, the word `model` stands for whatever the model is called.
    """
    defaults = dict(defaults or {})
    prompt = _checked_prompt(options.prompt)
    steps = int(defaults.get("steps", 20)) if options.steps is None else options.steps
    _check_numbers(steps, options)
    settings = PartSettings(checked_settings(options.settings or {}), defaults)
    model = inputs.recorded(settings.model(options.model, options.model_settings))
    walked = max(1, int(steps * float(model.settings.get("strength", 1.0))))
    written = rungs.written(options.draft, options.rungs, options.search, options.finals)
    draft = rungs.normal(written, walked, defaults.get("draft"), defaults.get("draft_steps"))
    sampler = str(defaults.get("sampler", "euler")) if options.sampler is None else options.sampler
    watch = options.watch if isinstance(options.watch, list | tuple) else [options.watch]
    spec = Spec(
        prompt=prompt,
        model=model,
        reward=settings.formula(options.reward),
        watch=tuple(settings.formula(node) for node in watch),
        space=settings.one(options.space, "spaces"),
        search=settings.one("best_of" if options.search == rungs.DRAFT_SEARCH else options.search, "searches"),
        steering=settings.many(options.steer, "steerings"),
        interventions=settings.many(options.intervene, "interventions"),
        sampler=registry.check("samplers", sampler),
        steps=steps,
        group=options.group,
        batch=_chosen_batch(options, defaults),
        seed=options.seed,
        draft=draft,
        finals=options.finals or (1 if draft is None else 0),
        exact=options.exact,
        final_judge=None if options.final_judge is None else settings.one(options.final_judge, "rewards"),
        entrants=8 if options.entrants is None else options.entrants,
        looks=options.looks or 0,
        until=stop_rules.until_text(options.until),
        stop=stop_rules.stop_text(options.stop),
        budget=_limits(options.budget),
    )
    settings.check_all_used()
    for name in ("height", "width"):
        whole_number(name, spec.model.settings.get(name), 1, MOST[name], optional=True)
    return spec


@dataclass(frozen=True, kw_only=True)
class _SpecOptions(RunOptions):
    defaults: Mapping[str, Any] | None = None


@called_with(_SpecOptions)
def make_spec(options: _SpecOptions) -> Spec:
    """The options of a run as arguments -> a checked Spec; `defaults` are the model's own, see `spec_of`."""
    return spec_of(options, options.defaults)
