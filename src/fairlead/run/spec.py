"""A run as data: names and numbers only. Canonical JSON; its hash names the run. Imports no torch."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from hashlib import blake2b
from typing import Any

from fairlead.core.cost import Cost
from fairlead.core.errors import FairleadError, unknown
from fairlead.run import registry
from fairlead.run.formula import from_data, parse_part
from fairlead.run.formula import parse_reward as parse_reward
from fairlead.run.formula import reward_parts as reward_parts
from fairlead.run.formula import reward_text as reward_text
from fairlead.run.part import Part as Part

MAX_PROMPT = 2000


@dataclass(frozen=True)
class Spec:
    """A run as data. Everything that can change a pixel or a number is in here, except the budget, which is beside it."""

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
    """Rows rendered at once; 0 until it is chosen by the free memory. Part of the run because matrix kernels round
    differently for other sizes."""
    seed: int = 0
    draft: int | None = None
    """Steps while searching, fewer than `steps`; the best drafts are rendered again at full effort. None: no drafts."""
    finals: int = 1
    """How many of the best drafts are rendered again, counted in groups."""
    baseline: bool = True
    """Render the plain sample of the seed too where it is no candidate. Off where many runs share one: a comparison."""
    budget: Mapping[str, float] = field(default_factory=lambda: {"nfe": 640})
    """Finite limits by name, as in `Cost`."""

    def json(self) -> str:
        """Canonical JSON: sorted keys, no spaces."""
        return _canonical(self._data())

    def _data(self) -> dict[str, Any]:
        """Fields that were added later are left out at their default, so that older runs keep their names."""
        return {k: v for k, v in asdict(self).items() if (k, v) not in (("watch", ()), ("baseline", True))}

    def id(self) -> str:
        """32 hex digits naming the run's question; the budget is left out, so that a run can be extended."""
        question = {k: v for k, v in self._data().items() if k != "budget"}
        return blake2b(_canonical(question).encode(), digest_size=16).hexdigest()

    @property
    def limit(self) -> Cost:
        """The budget, infinite where nothing was said."""
        return Cost.budget(self.budget)

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
        raw = json.loads(text)
        known = {f.name for f in fields(Spec)}
        if extra := set(raw) - known:
            raise FairleadError(
                f"The run's settings have an unknown field {sorted(extra)[0]!r}: a newer fairlead wrote it."
            )
        for name in ("model", "space", "search"):
            raw[name] = Part(**raw[name])
        for name in ("steering", "interventions"):
            raw[name] = tuple(Part(**part) for part in raw[name])
        raw["reward"] = from_data(raw["reward"])
        raw["watch"] = tuple(from_data(tree) for tree in raw.get("watch", ()))
        return Spec(**raw)


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
            raise FairleadError(f"Budget {item!r} is not name=number: write for example nfe=640,seconds=60.") from None
    if not out:
        raise FairleadError(f"Budget {text!r} is empty: write for example nfe=640.")
    Cost.budget(out)
    return out


def parse_settings(items: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`lidar.scale=8` -> {"lidar": {"scale": 8}}; values are Python literals, else text."""
    out: dict[str, dict[str, Any]] = {}
    for item in items:
        path, equals, value = item.partition("=")
        owner, dot, setting = path.strip().rpartition(".")
        if not (equals and dot and owner and setting):
            raise FairleadError(f"Setting {item!r} is not part.setting=value: write for example best_of.n=16.")
        try:
            parsed = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            parsed = value.strip()
        out.setdefault(owner, {})[setting] = parsed
    return out


def _at_least_one(**counts: Any) -> None:
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise FairleadError(f"{name} is {value!r}: give a whole number of at least 1.")


def _readable(prompt: Any) -> None:
    if not isinstance(prompt, str) or not prompt.strip():
        raise FairleadError(f"The prompt {prompt!r} is empty: say what the picture should show.")
    if len(prompt) > MAX_PROMPT:
        raise FairleadError(f"The prompt has {len(prompt)} characters, at most {MAX_PROMPT} are read: shorten it.")


def _limits(budget: str | Mapping[str, float] | None) -> dict[str, float]:
    """The finite limits of a budget, 640 denoiser evaluations if none was given."""
    said = {"nfe": 640.0} if budget is None else parse_budget(budget) if isinstance(budget, str) else budget
    limits = {k: float(v) for k, v in said.items()}
    if not all(map(math.isfinite, limits.values())):
        raise FairleadError(f"Budget {limits} is not finite: leave out what has no limit.")
    Cost.budget(limits)
    return limits


def _check_numbers(steps: int, group: int, batch: int, seed: int, draft: int | None, finals: int | None) -> None:
    if not isinstance(seed, int) or not -(2**63) <= seed < 2**63:
        raise FairleadError(f"seed is {seed!r}: give a whole number of at most 63 bits.")
    _at_least_one(steps=steps, group=group, batch=batch, finals=1 if finals is None else finals)
    if draft is not None and (not isinstance(draft, int) or not 1 <= draft < steps):
        raise FairleadError(
            f"draft is {draft!r}: give a whole number of steps from 1 to {steps - 1}, fewer than {steps}."
        )
    if finals is not None and draft is None:
        raise FairleadError(f"finals is {finals!r} and there are no drafts to render again: give draft too.")


def _with_defaults(words: str | Part | Sequence[str | Part], kind: str, own: Mapping[str, Any]) -> list[Part]:
    """The named parts, with the model's own settings of them where nothing else is said."""
    listed = [words] if isinstance(words, str | Part) else list(words)
    parts = [word if isinstance(word, Part) else parse_part(word, kind) for word in listed]
    return [Part(p.name, {**own.get(p.name, {}), **p.settings}) for p in parts]


def make_spec(
    prompt: str,
    *,
    model: str | Part = "pocket",
    reward: Any = "clip_score",
    watch: Any = (),
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
    defaults: Mapping[str, Any] | None = None,
) -> Spec:
    """The words of the command line, the TOML plan and the Python call -> a checked Spec.

    `defaults` are the model's own (`steps`, `batch`, `sampler`, settings of the adapter, and under `interventions` and
    `steerings` those of parts by name); what is said here wins.
    In `settings` the word `model` stands for whatever the model is called.
    """
    settings, defaults = dict(settings or {}), dict(defaults or {})
    _readable(prompt)
    steps = int(defaults.get("steps", 20)) if steps is None else steps
    batch = int(defaults.get("batch", 4)) if batch is None else batch
    open_batch = batch == 0 and defaults.get("batch") == 0
    _check_numbers(steps, group, 1 if open_batch else batch, seed, draft, finals)
    sampler = str(defaults.get("sampler", "euler")) if sampler is None else sampler
    used: set[str] = set()

    def model_part() -> Part:
        part = dress(model if isinstance(model, Part) else Part(model))
        used.add("model")
        return part.with_settings(settings.get("model", {}))

    def dress(part: Part) -> Part:
        used.add(part.name)
        return part.with_settings(settings.get(part.name, {}))

    def one(word: str | Part, kind: str) -> Part:
        return dress(word if isinstance(word, Part) else parse_part(word, kind))

    def many(words: str | Part | Sequence[str | Part], kind: str) -> tuple[Part, ...]:
        return tuple(dress(part) for part in _with_defaults(words, kind, defaults.get(kind, {})))

    def tree(node: Any) -> Any:
        if isinstance(node, str):
            return tree(parse_reward(node))
        if isinstance(node, Part):
            return dress(node)
        if isinstance(node, Mapping):
            return {op: [tree(part) for part in parts] for op, parts in node.items()}
        return node

    spec = Spec(
        prompt=prompt.strip(),
        model=model_part(),
        reward=tree(reward),
        watch=tuple(map(tree, [watch] if isinstance(watch, str | Part | Mapping) else watch)),
        space=one(space, "spaces"),
        search=one(search, "searches"),
        steering=many(steer, "steerings"),
        interventions=many(intervene, "interventions"),
        sampler=registry.check("samplers", sampler),
        steps=steps,
        group=group,
        batch=0 if open_batch else max(group, batch - batch % group),
        seed=seed,
        draft=draft,
        finals=finals or 1,
        budget=_limits(budget),
    )
    if lost := set(settings) - used:
        raise unknown("part", sorted(lost)[0], used, of="this run")
    return spec
