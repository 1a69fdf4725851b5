"""A run as data: names and numbers only. Canonical JSON; its hash names the run. Imports no torch."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from hashlib import blake2b
from typing import Any

from fairlead.core.cost import Cost
from fairlead.core.errors import FairleadError, unknown
from fairlead.run import registry

MAX_PROMPT = 2000


@dataclass(frozen=True)
class Part:
    """A registered item by name. Replaced, not mutated."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def with_settings(self, settings: Mapping[str, Any]) -> Part:
        """The same item with more settings."""
        return replace(self, settings={**self.settings, **settings})


@dataclass(frozen=True)
class Spec:
    """A run as data. Everything that can change a pixel or a number is in here, except the budget, which is beside it."""

    prompt: str
    model: Part = Part("pocket")
    reward: Any = field(default_factory=lambda: Part("clip_score"))
    """A Part, a number, or a tree of {"+": [...]} and {"*": [...]}"""
    space: Part = Part("noise")
    search: Part = Part("best_of")
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
    budget: Mapping[str, float] = field(default_factory=lambda: {"nfe": 640})
    """Finite limits by name, as in `Cost`."""

    def json(self) -> str:
        """Canonical JSON: sorted keys, no spaces."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def id(self) -> str:
        """32 hex digits naming the run's question; the budget is left out, so that a run can be extended."""
        question = {k: v for k, v in asdict(self).items() if k != "budget"}
        text = json.dumps(question, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return blake2b(text.encode(), digest_size=16).hexdigest()

    @property
    def limit(self) -> Cost:
        """The budget, infinite where nothing was said."""
        return Cost.budget(self.budget)

    @property
    def controlled(self) -> bool:
        """True if a candidate is sampled in another way than the plain baseline."""
        return bool(self.steering or self.interventions)

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
        raw["reward"] = _reward_from_data(raw["reward"])
        return Spec(**raw)


def _reward_from_data(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        if "name" in tree:
            return Part(tree["name"], dict(tree["settings"]))
        return {op: [_reward_from_data(part) for part in parts] for op, parts in tree.items()}
    return tree


def parse_part(text: str, kind: str) -> Part:
    """`name` or `name(setting=value, ...)` -> Part, its name checked against the registry."""
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        raise FairleadError(f"{text!r} is not a name or name(setting=value): check its spelling.") from None
    return _part(node, text, kind)


def _part(node: ast.expr, text: str, kind: str) -> Part:
    if isinstance(node, ast.Name):
        return Part(registry.check(kind, node.id))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
        settings = {}
        for keyword in node.keywords:
            try:
                settings[keyword.arg or ""] = ast.literal_eval(keyword.value)
            except ValueError:
                raise FairleadError(
                    f"{keyword.arg} in {text!r} is not a plain value: use a number or a 'string'."
                ) from None
        return Part(registry.check(kind, node.func.id), settings)
    raise FairleadError(f"{text!r} is not a name or name(setting=value): settings need their names.")


def parse_reward(text: str) -> Any:
    """`clip_score + 0.5*aesthetic` -> {"+": [Part, {"*": [0.5, Part]}]}. Names, numbers, + - * and brackets."""
    if text.strip().startswith(("http://", "https://")) or ".py:" in text:
        raise FairleadError(f"Reward {text!r} is a file or an address, and only registered names are read here so far: "
                            "pass a function to fairlead.run, or register it through an entry point.")  # fmt: skip
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        raise FairleadError(
            f"Reward {text!r} is not a formula: write for example 'clip_score + 0.5*aesthetic'."
        ) from None
    tree = _reward(node, text)
    if isinstance(tree, float):
        raise FairleadError(f"Reward {text!r} is only a number: name at least one reward.")
    return tree


def _reward(node: ast.expr, text: str) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return float(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return _times(-1.0, _reward(node.operand, text))
    if isinstance(node, ast.BinOp):
        left, right = _reward(node.left, text), _reward(node.right, text)
        if isinstance(node.op, ast.Add):
            return left + right if isinstance(left, float) and isinstance(right, float) else {"+": [left, right]}
        if isinstance(node.op, ast.Sub):
            right = _times(-1.0, right)
            return left + right if isinstance(left, float) and isinstance(right, float) else {"+": [left, right]}
        if isinstance(node.op, ast.Mult):
            return _times(left, right) if isinstance(left, float) else {"*": [left, right]}
        raise FairleadError(f"Reward {text!r} uses {type(node.op).__name__}: only +, - and * make rewards.")
    return _part(node, text, "rewards")


def _times(factor: float, tree: Any) -> Any:
    """factor * tree with numbers in front folded into one."""
    if isinstance(tree, float):
        return factor * tree
    if isinstance(tree, Mapping) and "*" in tree and isinstance(tree["*"][0], float):
        first, *rest = tree["*"]
        return {"*": [factor * first, *rest]}
    return {"*": [factor, tree]}


def reward_text(tree: Any) -> str:
    """The formula a person would write for the tree; reading it again gives the tree."""
    if isinstance(tree, Part):
        inside = ", ".join(f"{k}={v!r}" for k, v in tree.settings.items())
        return f"{tree.name}({inside})" if inside else tree.name
    if isinstance(tree, Mapping):
        (op, parts), *_ = tree.items()
        if op == "*":
            return "*".join(f"({reward_text(p)})" if isinstance(p, Mapping) else reward_text(p) for p in parts)
        out = reward_text(parts[0])
        for part in parts[1:]:
            word = reward_text(part)
            if isinstance(part, Mapping) and "+" in part:
                out += f" + ({word})"
            else:
                out += f" - {word[1:]}" if word.startswith("-") else f" + {word}"
        return out
    return repr(tree).removesuffix(".0")


def reward_parts(tree: Any) -> list[Part]:
    """Every Part of the tree, in order."""
    if isinstance(tree, Part):
        return [tree]
    if isinstance(tree, Mapping):
        return [part for parts in tree.values() for inner in parts for part in reward_parts(inner)]
    return []


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


def make_spec(
    prompt: str,
    *,
    model: str | Part = "pocket",
    reward: Any = "clip_score",
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
    defaults: Mapping[str, Any] | None = None,
) -> Spec:
    """The words of the command line, the TOML plan and the Python call -> a checked Spec.

    `defaults` are the model's own (`steps`, `batch`, `sampler`, and settings of the adapter); what is said here wins.
    In `settings` the word `model` stands for whatever the model is called.
    """
    settings, defaults = dict(settings or {}), dict(defaults or {})
    if not isinstance(prompt, str) or not prompt.strip():
        raise FairleadError(f"The prompt {prompt!r} is empty: say what the picture should show.")
    if len(prompt) > MAX_PROMPT:
        raise FairleadError(f"The prompt has {len(prompt)} characters, at most {MAX_PROMPT} are read: shorten it.")
    steps = int(defaults.get("steps", 20)) if steps is None else steps
    batch = int(defaults.get("batch", 4)) if batch is None else batch
    open_batch = batch == 0 and defaults.get("batch") == 0
    for name, value in (("steps", steps), ("group", group), ("batch", batch)):
        if not isinstance(value, int) or (value < 1 and not (name == "batch" and open_batch)):
            raise FairleadError(f"{name} is {value!r}: give a whole number of at least 1.")
    if not isinstance(seed, int) or not -(2**63) <= seed < 2**63:
        raise FairleadError(f"seed is {seed!r}: give a whole number of at most 63 bits.")
    sampler = str(defaults.get("sampler", "euler")) if sampler is None else sampler
    registry.check("samplers", sampler)
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
        listed = [words] if isinstance(words, str | Part) else list(words)
        return tuple(one(word, kind) for word in listed)

    def tree(node: Any) -> Any:
        if isinstance(node, Part):
            return dress(node)
        if isinstance(node, Mapping):
            return {op: [tree(part) for part in parts] for op, parts in node.items()}
        return node

    limits = {"nfe": 640.0} if budget is None else parse_budget(budget) if isinstance(budget, str) else dict(budget)
    limits = {k: float(v) for k, v in limits.items()}
    if any(math.isnan(v) or math.isinf(v) for v in limits.values()):
        raise FairleadError(f"Budget {limits} is not finite: leave out what has no limit.")
    Cost.budget(limits)
    spec = Spec(
        prompt=prompt.strip(),
        model=model_part(),
        reward=tree(parse_reward(reward) if isinstance(reward, str) else reward),
        space=one(space, "spaces"),
        search=one(search, "searches"),
        steering=many(steer, "steerings"),
        interventions=many(intervene, "interventions"),
        sampler=sampler,
        steps=steps,
        group=group,
        batch=0 if open_batch else max(group, batch - batch % group),
        seed=seed,
        budget=limits,
    )
    if lost := set(settings) - used:
        raise unknown("part in this run to set", sorted(lost)[0], used)
    return spec
