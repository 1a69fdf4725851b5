"""A comparison as data: methods x prompts x seeds at one budget, read from TOML. Imports no torch.

    model = "pocket"
    reward = "clip_score"               # what every method optimises
    watch = ["detector"]                # what no method sees
    budget = "nfe=320"                  # the one resource held equal: nfe, forwards, seconds, dollars, ...
    reference = "random"                # what differences and wins are counted against
    seeds = 2                           # a number, or a list
    prompts = {generate = 12}           # a list, {file = "prompts.txt", count = 40}, or the pocket world's grammar

    [methods.random]
    search = "best_of"

    [methods.paths]
    steer = ["paths"]
    group = 2

A method takes the options of `fairlead run`: `model`, `search`, `steer`, `guidance_scale` and so on, and `settings`.
An option of the model or the sampler that stands above the methods holds for all of them.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b, sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from fairlead.core.check import is_text, whole_number
from fairlead.core.errors import FairleadError, unknown
from fairlead.core.key import Key
from fairlead.run import models
from fairlead.run.files import is_file
from fairlead.run.folders import slug
from fairlead.run.formula import parse_part
from fairlead.run.options import METHOD_OPTIONS, MODEL_OPTIONS, RunOptions, described
from fairlead.run.records import BASELINE_ROW
from fairlead.run.spec import Part, Spec, parse_budget, reward_text

COMMON = ("model", "sampler", "steps", "batch", "settings", *MODEL_OPTIONS)
"""Options that a plan may set above its methods, for all of them."""
PLAN = (*COMMON, "reward", "watch", "budget", "reference", "seeds", "prompts", "methods", "diversity", "about")


@dataclass(frozen=True)
class Cell:
    """One run of a comparison."""

    method: str
    prompt: str
    tag: str
    """The prompt's category, empty if it has none."""
    seed: int
    """The plan's; `spec.seed` is folded with the prompt, so that prompts have noise of their own."""
    spec: Spec

    @property
    def folder(self) -> str:
        """Below the comparison's folder. Another question has another name; a larger budget keeps it."""
        rules = f"{self.spec.until}\n{self.spec.stop}".strip()
        ending = f"-{blake2b(rules.encode(), digest_size=3).hexdigest()}" if rules else ""
        return f"runs/{self.method}/{slug(self.prompt, 28)}-s{self.seed}-{self.spec.id()[:8]}{ending}"


@dataclass(frozen=True)
class Plan:
    """Everything a comparison needs."""

    name: str
    reward: str
    watch: tuple[str, ...]
    resource: str
    """The entry of a cost that is held equal."""
    limit: float
    reference: str
    seeds: tuple[int, ...]
    prompts: tuple[tuple[str, str], ...]
    """(text, category)"""
    methods: Mapping[str, Mapping[str, Any]]
    common: Mapping[str, Any]
    diversity: tuple[str, ...] = ()
    """Metrics of the set of pictures that one method gives for one prompt over the seeds."""
    about: str = ""

    @property
    def digest(self) -> str:
        """Of the prompts, 12 hex digits."""
        return sha256("\n".join(text for text, _ in self.prompts).encode()).hexdigest()[:12]

    def spec(self, method: str, prompt: str, seed: int) -> Spec:
        """One method on one prompt: the same noise for every method, its own for every prompt and seed."""
        options = RunOptions(
            prompt,
            reward=self.reward,
            watch=self.watch,
            budget={self.resource: self.limit},
            seed=Key.root(seed).fold("compare", prompt).integer() % 2**31,
            **{**self.common, **self.methods[method]},
        )
        return replace(models.spec_of(options), baseline=False)

    def cells(self) -> list[Cell]:
        """Every run, so ordered that methods advance side by side and none always comes first."""
        out = []
        names = list(self.methods)
        for seed in self.seeds:
            for at, (prompt, tag) in enumerate(self.prompts):
                turn = at % len(names)
                out += [Cell(m, prompt, tag, seed, self.spec(m, prompt, seed)) for m in names[turn:] + names[:turn]]
        return out

    def only(
        self,
        methods: Sequence[str] = (),
        prompts: int | None = None,
        seeds: int | None = None,
        budget: str | None = None,
    ) -> Plan:
        """A smaller plan, or one with another budget; its runs are those of the whole plan."""
        for name in methods:
            if name not in self.methods:
                raise unknown("method", name, self.methods, of="this plan")
        for word, number in (("prompts", prompts), ("seeds", seeds)):
            if number is not None:
                _whole(number, word)
        resource, limit = (self.resource, self.limit) if budget is None else _one(budget)
        kept = {m: w for m, w in self.methods.items() if not methods or m in (*methods, self.reference)}
        return replace(
            self, methods=kept, prompts=self.prompts[:prompts], seeds=self.seeds[:seeds], resource=resource, limit=limit
        )

    def id(self) -> str:
        """8 hex digits of everything that is asked."""
        asked = json.dumps([c.spec.json() for c in self.cells()], sort_keys=True)
        return blake2b(asked.encode(), digest_size=4).hexdigest()


def ready_made() -> list[str]:
    """Names of the plans that come with the package."""
    return sorted(p.name.removesuffix(".toml") for p in files("fairlead.bench").joinpath("plans").iterdir())


def read(source: str) -> Plan:
    """A plan by its file, or a ready-made one by its name."""
    path = Path(source)
    if not is_file(path):
        if source not in ready_made():
            raise FairleadError(f"There is no plan {source!r}. Pass a TOML file, or one of {', '.join(ready_made())}.")
        return parse(
            files("fairlead.bench").joinpath("plans", f"{source}.toml").read_text(encoding="utf-8"), source, Path()
        )
    try:
        return parse(path.read_text(encoding="utf-8"), path.stem, path.parent)
    except (OSError, UnicodeDecodeError) as error:
        raise FairleadError(f"{path} cannot be read ({error}). Pass a TOML file.") from error


def parse(text: str, name: str, folder: Path) -> Plan:
    """A plan from TOML; relative paths in it start at `folder`. Every run is checked for its words."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise FairleadError(f"Plan {name} is not valid TOML ({error}). Fix it and run the command again.") from error
    return make(raw, name, folder)


def make(raw: Mapping[str, Any], name: str, folder: Path = Path()) -> Plan:
    """The same from its entries as data."""
    _known(raw, PLAN, "entry of a plan")
    methods = raw.get("methods")
    if not isinstance(methods, dict) or not methods:
        raise FairleadError(f"Plan {name} has no methods. Add a table like [methods.random].")
    for method, words in methods.items():
        if not isinstance(words, dict):
            raise FairleadError(f"Method {method} of plan {name} is {words!r}: must be a table, [methods.{method}].")
        if not re.fullmatch(r"\w[\w .+-]*", method) or method == BASELINE_ROW:
            raise FairleadError(
                f"A method of plan {name} is called {method!r}: must have only letters, digits, spaces and _-+., and "
                f"not be {BASELINE_ROW!r}."
            )
        _known(words, METHOD_OPTIONS, f"setting of method {method}")
        _typed(words, f"method {method}")
    _typed(raw, f"plan {name}")
    reference = str(raw.get("reference", "random" if "random" in methods else next(iter(methods))))
    if reference not in methods:
        raise unknown("method", reference, methods, of="this plan")
    resource, limit = _one(raw.get("budget", "nfe=640"))
    words = {k: raw[k] for k in COMMON if k in raw}
    plan = Plan(
        name=name,
        reward=str(raw.get("reward", "clip_score")),
        watch=tuple(_listed(raw.get("watch", ()))),
        resource=resource,
        limit=limit,
        reference=reference,
        seeds=_seeds(raw.get("seeds", 1)),
        prompts=tuple(_prompts(raw.get("prompts", {"generate": 12}), folder)),
        methods=methods,
        common=words,
        diversity=tuple(_listed(raw.get("diversity", ()))),
        about=str(raw.get("about", "")),
    )
    for metric in plan.diversity:
        parse_part(metric, "metrics")
    if not plan.prompts:
        raise FairleadError(f"Plan {name} has 0 prompts: must be at least 1.")
    checked = [plan.spec(method, plan.prompts[0][0], plan.seeds[0]) for method in methods]
    return replace(plan, watch=tuple(map(reward_text, checked[0].watch)))  # as the record spells it


def _known(raw: Mapping[str, Any], accepted: Sequence[str], what: str) -> None:
    for word in raw:
        if word not in accepted:
            raise unknown(what, word, accepted)


def _typed(words: Mapping[str, Any], whose: str) -> None:
    """Words where words belong; what is a number is checked where it is used."""
    kinds = {word: option.read_as for word, option in described().items() if word not in ("budget", "settings")}
    kinds |= {"reference": str, "about": str, "diversity": list[str]}
    for word in ("draft", "rungs"):  # a number or a text; `rungs.normal` checks it
        del kinds[word]
    for word, value in words.items():
        if kinds.get(word) is str and not isinstance(value, str):
            raise FairleadError(f"{word} of {whose} is {value!r}: must be text in quotes.")
        if kinds.get(word) == list[str]:
            _listed(value, f"{word} of {whose}")
    own = words.get("settings", {})
    if not isinstance(own, dict) or not all(isinstance(v, dict) for v in own.values()):
        raise FairleadError(
            f"settings of {whose} is {own!r}: must be a table per part, like {{zero_order = {{neighbours = 8}}}}."
        )


def _listed(value: Any, what: str = "The entry", wanted: str = "text in quotes, or a list of it") -> list[str]:
    many = [value] if isinstance(value, str) else value
    if not isinstance(many, list | tuple) or not all(isinstance(v, str) for v in many):
        raise FairleadError(f"{what} is {value!r}: must be {wanted}.")
    return list(many)


def _whole(value: Any, what: str, least: int = 1) -> int:
    number: int = whole_number(what, value, least)
    return number


def _seeds(value: Any) -> tuple[int, ...]:
    """The first so many, or those listed."""
    if not isinstance(value, list | tuple):
        return tuple(range(whole_number("seeds", value, 1, 100_000)))
    many = tuple(_whole(v, "A seed", 0) for v in value)
    if not many or len(set(many)) < len(many):
        raise FairleadError(f"seeds is {value!r}: must be at least one seed, each only once.")
    return many


def _one(budget: Any) -> tuple[str, float]:
    """The one resource that is held equal."""
    if isinstance(budget, dict):
        budget = ",".join(f"{k}={v}" for k, v in budget.items())
    if not isinstance(budget, str):
        raise FairleadError(f"budget is {budget!r}: must be text like 'nfe=640'.")
    limits = parse_budget(budget)
    if len(limits) != 1:
        raise FairleadError(
            f"The budget names {', '.join(limits)}, but a comparison holds only one resource equal. Name one of them."
        )
    ((name, value),) = limits.items()
    return name, value


def _prompts(given: Any, folder: Path) -> list[tuple[str, str]]:
    """Texts with their categories, each text once: the prompt is the unit of every interval."""
    if not isinstance(given, dict):
        texts = _listed(given, "prompts", "text in quotes, a list of it, or {generate = 12}")
        if lost := [text for text in texts if not is_text(text)]:
            raise FairleadError(f"The prompt {lost[0]!a:.80} is not valid text: type it again.")
        return list({text.strip(): (text.strip(), "") for text in texts}.values())
    _known(given, ("file", "count", "generate", "seed"), "entry of prompts")
    if "generate" in given:
        return generated(
            _whole(given["generate"], "prompts.generate"), _whole(given.get("seed", 44), "prompts.seed", 0)
        )
    from fairlead.bench import prompts

    count = None if "count" not in given else _whole(given["count"], "prompts.count")
    if not isinstance(given.get("file"), str):
        raise FairleadError(f"prompts is {given!r}: must be like {{file = 'prompts.txt'}} or {{generate = 12}}.")
    every: dict[str, str] = {}
    for p in prompts.read(folder / given["file"]):
        every.setdefault(p.text, p.category)
    return list(every.items())[:count]


def generated(count: int, seed: int = 44) -> list[tuple[str, str]]:
    """New prompts in GenEval's grammar over the pocket world, its six tasks in turn."""
    from fairlead.bench import geneval
    from fairlead.pocket import world

    every = geneval.generate(world.NAMES, seed=seed)
    by_tag: dict[str, list[tuple[str, str]]] = {tag: [] for tag in geneval.TAGS}
    for p in every:
        by_tag[p.tag].append((p.text, p.tag))
    found = [row for rows in zip(*by_tag.values(), strict=False) for row in rows]
    if count > len(found):
        raise FairleadError(
            f"prompts.generate is {count}: must be at most {len(found)}, which is all that this grammar has for one "
            "seed."
        )
    return found[:count]


def part(words: Mapping[str, Any]) -> str:
    """A method in one line."""
    parts = [f"{k} {', '.join(v) if isinstance(v, list) else v}" for k, v in words.items() if k != "settings"]
    parts += [f"{owner}.{k}={v}" for owner, own in words.get("settings", {}).items() for k, v in own.items()]
    return ", ".join(parts) or Part("best_of").name
