"""Every registered item keeps the laws of its kind."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import items
from fairlead.core.cost import Cost
from fairlead.core.errors import FairleadError
from fairlead.core.steering import Chain
from fairlead.models.mixture import Mixture
from fairlead.run import engine, registry
from fairlead.run.executor import Local
from fairlead.run.records import Outcome, Task
from fairlead.run.spec import Part, Spec, make_spec
from fairlead.run.store import Store
from fairlead.testing import (
    executor_laws,
    lacking_settings,
    model_laws,
    registered_laws,
    resume_laws,
    reward_laws,
    search_laws,
    steering_laws,
    store_laws,
)
from fairlead.testing.runs import small_spec
from items import pocket_ready

NEEDS_POCKET = {"aesthetic", "clip_score", "detector"}
NEEDS_DOWNLOAD = {"hps", "human", "image_reward", "pick_score", "self_verifier", "vqa_score"}
"""Rewards whose default is not in the package, or is given by people; tests/rewards applies the laws to tiny ones."""
NEEDS_PACKAGE = {"bayes_opt": "botorch"}


def needs_pocket() -> None:
    if not pocket_ready():
        pytest.skip("the embedded model is not in the package")


@pytest.mark.parametrize("name", registry.table("searches"))
def test_search(name: str) -> None:
    if name in NEEDS_PACKAGE:
        pytest.importorskip(NEEDS_PACKAGE[name])
    registered_laws("searches", name)


@pytest.mark.parametrize("make", [items.Climb, items.Walk, items.Efforts])
def test_searches_of_the_tests(make: Any) -> None:
    search_laws(make)


@pytest.mark.parametrize("name", registry.table("searches"))
def test_a_search_sees_only_ranks(name: str, tmp_path: Path) -> None:
    """rank_mean(v, v) is v for every search, though the share of a picture changes with every other one."""
    if name in NEEDS_PACKAGE:
        pytest.importorskip(NEEDS_PACKAGE[name])
    small = {
        "bayes_opt": "bayes_opt(seeds=3)",
        "evolution": "evolution(population=5)",
        "sep_cma": "sep_cma(population=7)",
        "snes": "snes(population=7)",
        "trust_region": "trust_region(warmup=7, batch=7)",
        "zero_order": "zero_order(cosine=0.8)",
    }
    words = {"search": small.get(name, name), "settings": {"mixture": {"size": 8}}, "budget": {"nfe": 400.0}}
    if getattr(registry.resolve("searches", name), "wants_gradient", False):
        with pytest.raises(FairleadError, match="rank_mean"):
            Local(small_spec(**words, reward="rank_mean(brightness, brightness)"))
        return
    terms, best = [], []
    for reward in ("brightness", "rank_mean(brightness, brightness)"):
        store = engine.start(small_spec(**words, reward=reward), tmp_path / reward[:4])
        terms.append([c.terms["brightness"] for c in store.candidates()])
        best.append(store.best())
    assert len(terms[0]) > 60
    assert terms[0] == terms[1]
    assert best[0] is not None
    assert best[1] is not None
    assert best[0].index == best[1].index


@pytest.mark.parametrize("name", registry.table("spaces"))
@pytest.mark.parametrize("model", ["mixture", "flux"])
def test_space(name: str, model: str, tiny_flux: Callable[..., Any]) -> None:
    registered_laws("spaces", name, Mixture() if model == "mixture" else tiny_flux())


@pytest.mark.parametrize("name", registry.table("samplers"))
def test_sampler(name: str) -> None:
    registered_laws("samplers", name)


@pytest.mark.parametrize("name", registry.table("rewards"))
def test_reward(name: str) -> None:
    if name in NEEDS_POCKET:
        needs_pocket()
    if name in NEEDS_DOWNLOAD or lacking_settings("rewards", name):
        pytest.skip("needs a checkpoint, a file or a server: see tests/rewards")
    registered_laws("rewards", name)


def test_every_other_built_in_reward_is_tested_in_its_own_file() -> None:
    written = "".join(path.read_text() for path in (Path(__file__).parent / "rewards").glob("test_*.py"))
    for name, where in registry.BUILTIN["rewards"].items():
        if name in NEEDS_DOWNLOAD or lacking_settings("rewards", name):
            assert f"import {where.partition(':')[2]}" in written or f"{name}" in written, f"{name} has no tests"


def test_reward_formula() -> None:
    a, b = registry.build("rewards", Part("brightness")), registry.build("rewards", Part("brightness"))
    reward_laws(2 * a + b * a + 1 - b)


@pytest.mark.parametrize("name", registry.table("interventions"))
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_intervention(name: str, cfg: float, tiny_flux: Callable[..., Any]) -> None:
    registered_laws("interventions", name, tiny_flux(true_cfg_scale=cfg))


@pytest.mark.parametrize("name", registry.table("steerings"))
def test_steering(name: str) -> None:
    registered_laws("steerings", name)


@pytest.mark.parametrize(
    ("kind", "name"), [(k, n) for k in ("steerings", "interventions") for n in registry.BUILTIN[k]]
)
def test_every_built_in_item_can_be_switched_off(kind: str, name: str) -> None:
    assert registry.resolve(kind, name).switched_off, f"{name} must name the settings with which it changes nothing"


@pytest.mark.parametrize(
    ("make", "off"),
    [
        (items.Toward, lambda: items.Toward(scale=0)),
        (items.Tries, lambda: items.Tries(k=1)),
        (items.Pull, lambda: items.Pull(strength=0)),
    ],
)
def test_steerings_of_the_tests(make: Any, off: Any) -> None:
    steering_laws(make, off)


def test_mixture() -> None:
    model_laws(Mixture())


@pytest.mark.parametrize("settings", [{}, {"true_cfg_scale": 3.0}, {"guidance_embeds": True}, {"width": 24}])
def test_flux(settings: dict[str, Any], tiny_flux: Callable[..., Any]) -> None:
    model_laws(tiny_flux(**settings))


@pytest.mark.parametrize(("name", "branches"), [("pocket", 2), ("pocket-turbo", 1), ("pocket-unet", 2)])
def test_pocket(name: str, branches: int) -> None:
    needs_pocket()
    from fairlead.run import models

    model = models.build(make_spec("a photo of a dog", model=name, reward="brightness"), device="cpu", dtype="float32")
    size = models.defaults(name)["settings"]
    assert (size["height"], size["width"]) == (64, 64)
    assert model.branches == branches
    assert model.latent[1:] == (16, 16)
    model_laws(model)


def test_every_model_is_tested() -> None:
    """A new name in the table needs a line here."""
    assert set(registry.table("models")) == {"mixture", "pocket", "pocket-turbo", "pocket-unet"}
    families = {path.stem.removeprefix("test_") for path in (Path(__file__).parent / "models").glob("test_*.py")}
    for name, where in registry.table("adapters").items():
        module = where.partition(":")[0].rpartition(".")[2]
        assert module in families or module == "flux", f"{name} has no tests/models/test_{module}.py"


@pytest.mark.parametrize("words", [{}, {"sampler": "ancestral", "batch": 4, "group": 2, "budget": {"nfe": 60}}])
def test_executor(words: dict[str, Any]) -> None:
    executor_laws(Local, small_spec(**words))


class TwoWorkers(Local):
    """Two workers that take turns and hand back the last task first, as machines beside each other do."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self._other = Local(spec)

    def map(self, tasks: Sequence[Task], steering: Chain) -> Iterator[tuple[Task, list[Outcome], Cost]]:
        for i, task in reversed(list(enumerate(tasks))):
            worker = self if i % 2 else self._other
            yield from Local.map(worker, [task], steering)


class Forgetful(Local):
    """Loses one task."""

    def map(self, tasks: Sequence[Task], steering: Chain) -> Iterator[tuple[Task, list[Outcome], Cost]]:
        yield from super().map(tasks[1:], steering)


class Shuffling(Local):
    """Hands candidates back in another order than it was asked."""

    def map(self, tasks: Sequence[Task], steering: Chain) -> Iterator[tuple[Task, list[Outcome], Cost]]:
        for task in tasks:
            [(_, outcomes, cost)] = super().map([task], steering)
            yield task, list(reversed(outcomes)), cost


def test_executors_may_differ_in_order_only() -> None:
    spec = small_spec(sampler="ancestral")
    executor_laws(TwoWorkers, spec)
    with pytest.raises(AssertionError, match="exactly once"):
        executor_laws(Forgetful, spec)
    with pytest.raises(AssertionError, match="in its order"):
        executor_laws(Shuffling, spec)


def test_store(tmp_path: Path) -> None:
    store_laws(lambda folder, spec: Store.create(folder, spec, {}, "now"), Store.open, tmp_path / "run")


@pytest.mark.parametrize("sampler", [name for name in registry.table("samplers") if name != "scheduler"])
def test_resume(sampler: str, tmp_path: Path) -> None:
    resume_laws(small_spec(sampler=sampler, reward="brightness + 0.1*jpeg_size"), tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        {"search": "test_climb", "batch": 2},
        {"search": "test_walk"},
        {"search": "test_efforts"},
        {"steer": "test_toward", "budget": {"nfe": 60}},
        {"steer": ["test_tries", "test_pull"], "sampler": "ancestral", "group": 2, "batch": 4, "budget": {"nfe": 200}},
    ],
)
def test_resume_with_the_items_of_the_tests(words: dict[str, Any], register: Any, tmp_path: Path) -> None:
    for kind, names in {"searches": ("Climb", "Walk", "Efforts"), "steerings": ("Toward", "Tries", "Pull")}.items():
        for name in names:
            register(kind, f"test_{name.lower()}", f"items:{name}")
    resume_laws(small_spec(**words), tmp_path)


def test_every_registered_name_resolves() -> None:
    for kind, table in registry.BUILTIN.items():
        for name in table:
            try:
                found = registry.resolve(kind, name)
            except FairleadError:
                assert not pocket_ready()
                assert name in {*NEEDS_POCKET, "pocket"}
                continue
            assert callable(found)
            assert inspect.getdoc(found), f"{kind} {name} has no docstring"
