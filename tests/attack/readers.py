"""Formulas, settings, stored settings and plans: texts and data that are read without computing anything."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tests.attack.target import Target
from tests.attack.words import broken, text

from fairlead.app.words import run_command
from fairlead.bench import plan
from fairlead.run import registry
from fairlead.run.executor import Local
from fairlead.run.formula import parse_reward, reward_text
from fairlead.run.setup import make_search
from fairlead.run.spec import Spec, make_spec, parse_budget, parse_settings
from fairlead.testing.runs import small_spec

NAMES = ["brightness", "jpeg_size", "clip_score", "detector", "aesthetic_clip", "human", "aesthetic", "x"]
OPERATIONS = ["{} + {}", "{} - {}", "{} * {}", "{} / {}", "-{}", "({})", "min({}, {})", "rank_mean({}, {})", "{} > {}"]
OPERATIONS += ["veto({}, {} > 0.5)", "veto({}, {} > 0.5, otherwise={})", "zscore({}, mean={}, std={})", "{}(a={})"]
OPERATIONS += [
    "zscore({}, stats={})",
    "{}[{}]",
    "{}.{}",
    "2*{}",
    "{}/10",
    "clip_score(scale={})",
    "aesthetic_clip(w={})",
]
REWARD_OPERATIONS = ["{} + {}", "{} - {}", "2*{}", "{}/10", "-{}", "min({}, {})", "rank_mean({}, {})", "({})"]
REWARD_OPERATIONS += ["veto({}, {} > 0.5)", "zscore({}, mean=1, std=2)", "veto({}, {} <= 1, otherwise=-1)"]


def good_formula(draw: random.Random, depth: int = 0) -> str:
    """A formula that can be read."""
    if depth > 3 or draw.random() < 0.35:
        return draw.choice(
            ["brightness", "jpeg_size", "clip_score", "aesthetic_clip(w=0.3)", "clip_score(scale='cosine')"]
        )
    shape = draw.choice(REWARD_OPERATIONS)
    return shape.format(*(good_formula(draw, depth + 1) for _ in range(shape.count("{}"))))


def odd_formula(draw: random.Random, depth: int = 0) -> str:
    """A formula, or nearly one."""
    if depth > 4 or draw.random() < 0.3:
        return draw.choice(NAMES) if draw.random() < 0.6 else text(draw)
    shape = draw.choice(OPERATIONS)
    return shape.format(*(odd_formula(draw, depth + 1) for _ in range(shape.count("{}"))))


def formula(draw: random.Random) -> str:
    """Half of them are sound but for one place."""
    if draw.random() < 0.4:
        return odd_formula(draw)
    sound = good_formula(draw)
    if draw.random() < 0.2:
        return sound
    if draw.random() < 0.5:
        name = draw.choice(["brightness", "jpeg_size", "clip_score", "0.5", "1", "10", "2"])
        return sound.replace(name, odd_formula(draw, 3), 1)
    at = draw.randrange(len(sound) + 1)
    return sound[:at] + draw.choice(["", " ", ")", "(", ",", "+", "1e309", "-" * 50, text(draw)]) + sound[at + 1 :]


def read_formula(words: str) -> None:
    """It is written as data and as text, and read again."""
    tree = parse_reward(words)
    json.loads(json.dumps(Spec("x", reward=tree)._data()))
    again = reward_text(tree)
    if reward_text(parse_reward(again)) != again:
        raise AssertionError(f"{again!r} is read as another formula")


def formulas(folder: Path) -> Target:
    """Rewards as text."""
    return Target(formula, read_formula, ("is not a formula",))


KINDS = {"searches": "search", "steerings": "steer", "interventions": "intervene", "spaces": "space"}


def setting(draw: random.Random) -> list[str]:
    """A kind, a part of it with a setting, the setting on its own, and a budget; one of them is odd."""
    kind = draw.choice(list(KINDS))
    name = draw.choice(sorted(registry.table(kind)))
    known = [p.name for p in registry.parameters(registry.resolve(kind, name)) if p.name != "self"]
    own = draw.choice(known or ["n"]) if draw.random() < 0.9 else draw.choice(["n", "k", text(draw)])
    chosen = draw.choice(["1", "2", "0.5", "'x'", "[1, 2]", "True", "{'a': 1}", "-1", "0", "1e9", "10**12", "1e-9"])
    if draw.random() < 0.3:
        chosen = text(draw)
    limit = draw.choice(["nfe=8", "seconds=1", "nfe=8,dollars=2", "forwards=1e9"])
    if draw.random() < 0.15:
        at = draw.randrange(len(limit))
        limit = limit[:at] + draw.choice([text(draw), "", "=", ",", "-", "e400"]) + limit[at + 1 :]
    if draw.random() < 0.1:
        name = text(draw)
    return [kind, f"{name}({own}={chosen})", f"{name}.{own}={chosen}", limit]


def read_setting(what: list[str]) -> None:
    """As a command does: read, checked, and built for a model that only counts."""
    kind, part, words, limit = what
    for given in ({"settings": parse_settings([words])}, {}):
        chosen = {KINDS[kind]: [part.partition("(")[0] if given else part], "budget": parse_budget(limit), **given}
        if kind in ("searches", "spaces"):
            chosen[KINDS[kind]] = chosen[KINDS[kind]][0]
        spec = make_spec("x", model="mixture", reward="brightness", steps=4, batch=2, **chosen)
        if Spec.from_json(spec.json()).json() != spec.json():
            raise AssertionError(f"{spec.json()} is read as another run")
        Local(spec).price()
        make_search(spec, Local(spec).space)


def settings(folder: Path) -> Target:
    """Settings of parts, and budgets."""
    return Target(setting, read_setting, ("is not part.setting=value", "must be a name or name(", " is unknown"))


GOOD: list[dict[str, Any]] = [
    {},
    {"draft": "few(2)", "group": 2},
    {"reward": "min(brightness, jpeg_size) + 1", "watch": ["0.5*jpeg_size"]},
    {"search": "sep_cma(popsize=4)", "steer": ["demon(k=2)"], "budget": {"nfe": 100.0, "seconds": 9.0}},
]


def specs(folder: Path) -> Target:
    """Stored settings of runs, with one thing wrong, seldom two."""
    good = [json.loads(small_spec(**words).json()) for words in GOOD]

    def make(draw: random.Random) -> str:
        data = broken(draw.choice(good), draw)
        if draw.random() < 0.2:
            data = broken(data, draw)
        words = json.dumps(data)
        return words[: draw.randrange(len(words) + 1)] if draw.random() < 0.05 else words

    def run(words: str) -> None:
        spec = Spec.from_json(words)
        if Spec.from_json(spec.json()) != spec:
            raise AssertionError("it is read as another run")
        spec.id()
        spec.limit.limits()
        run_command(spec, Path("run"))

    return Target(make, run, ("are not JSON", "not a JSON object"))


PLAN: dict[str, Any] = {
    "model": "mixture",
    "reward": "brightness",
    "watch": ["jpeg_size"],
    "budget": "nfe=40",
    "seeds": 2,
    "prompts": ["a", "b"],
    "steps": 4,
    "settings": {"model": {"height": 64}},
    "reference": "random",
    "diversity": [],
    "about": "x",
    "methods": {
        "random": {"search": "best_of"},
        "zero": {"search": "zero_order", "settings": {"zero_order": {"neighbours": 2}}},
        "paths": {"steer": ["paths(children=2)"], "group": 2, "draft": 2},
    },
}


def toml(data: Any) -> str:
    """A value as TOML, near enough: JSON's texts and lists are TOML's too."""
    if isinstance(data, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {toml(inner)}" for name, inner in data.items()) + "}"
    if isinstance(data, list):
        return "[" + ", ".join(map(toml, data)) + "]"
    return json.dumps(data).replace("Infinity", "inf").replace("NaN", "nan").replace("null", '"none"')


def plans(folder: Path) -> Target:
    """Plans of comparisons as data, as TOML, and as broken TOML."""

    def make(draw: random.Random) -> Any:
        data = broken(PLAN, draw)
        if draw.random() < 0.2:
            data = broken(data, draw)
        if not isinstance(data, dict) or draw.random() < 0.5:
            return data
        lines = "\n".join(f"{json.dumps(name)} = {toml(inner)}" for name, inner in data.items())
        return lines.replace(draw.choice(lines or " "), text(draw), 1) if draw.random() < 0.1 else lines

    def run(what: Any) -> None:
        if isinstance(what, str):
            found = plan.parse(what, "x", folder)
        elif isinstance(what, dict):
            found = plan.make(what, "x", folder)
        else:
            return
        found.only(prompts=1, seeds=1).id()

    return Target(make, run, ("is not valid TOML", "entry of a plan"))
