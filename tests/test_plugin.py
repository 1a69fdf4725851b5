"""An installed package adds items by entry points alone: the run, the list and the laws find them by their names."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import fairlead
from fairlead.core.errors import FairleadError
from fairlead.run import registry
from fairlead.testing import registered_laws

SOURCE = '''
from dataclasses import dataclass, replace

import torch

from fairlead.core.intervention import Intervention
from fairlead.core.reward import Reward
from fairlead.core.search import Proposal
from fairlead.core.steering import Steering


@dataclass(frozen=True)
class Brighter(Steering):
    """Adds a constant to every clean prediction.

    Settings:
        by (number, default 0.1): what is added.
    """

    by: float = 0.1

    switched_off = {"by": 0.0}

    def __call__(self, step):
        if self.by == 0:
            return step
        return step.guide(lambda x, at, rows: self.by * torch.ones_like(x))


@dataclass(frozen=True)
class Louder(Intervention):
    """Scales the text tokens of the first steps.

    Settings:
        factor (number, default 1.5): what tokens are multiplied by.
    """

    factor: float = 1.5

    switched_off = {"factor": 1.0}

    def wants(self, site, rows):
        return self.factor != 1 and rows.step == 0

    def __call__(self, site, rows, tokens):
        return replace(tokens, text=self.factor * tokens.text)


class Redness(Reward):
    """Mean of the red channel."""

    name = "redness"
    needs_prompt = False
    differentiable = True

    def score(self, images, prompts):
        return images[:, 0].mean((1, 2))


class Draws:
    """One point after another from the prior."""

    wants_gradient = False

    def __init__(self, space, key):
        self.space, self.key, self.asked = space, key, 0

    def ask(self, n):
        keys = [self.key.fold("draws", self.asked + i) for i in range(n)]
        self.asked += n
        return [Proposal(self.space.draw(key), key) for key in keys]

    def tell(self, feedback):
        pass


class Forgotten:
    """A steering that declares nothing."""

    def __call__(self, step):
        return step
'''

ENTRY_POINTS = """
[fairlead.steerings]
brighter = fairlead_plugin_of_the_tests:Brighter
forgotten = fairlead_plugin_of_the_tests:Forgotten

[fairlead.interventions]
louder = fairlead_plugin_of_the_tests:Louder

[fairlead.rewards]
redness = fairlead_plugin_of_the_tests:Redness

[fairlead.searches]
draws = fairlead_plugin_of_the_tests:Draws
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package as an installer leaves it: a module beside the folder with its metadata."""
    (tmp_path / "fairlead_plugin_of_the_tests.py").write_text(SOURCE)
    about = tmp_path / "fairlead_plugin_of_the_tests-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: fairlead-plugin-of-the-tests\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    registry.table.cache_clear()
    yield
    monkeypatch.undo()
    registry.table.cache_clear()


def test_its_items_are_listed(installed: None) -> None:
    assert "brighter" in registry.table("steerings")
    assert "louder" in registry.table("interventions")
    assert {"redness", "draws"} <= {*registry.table("rewards"), *registry.table("searches")}


def test_its_items_keep_the_laws(installed: None, tiny_flux: object) -> None:
    registered_laws("steerings", "brighter")
    registered_laws("interventions", "louder", tiny_flux())  # type: ignore[operator]
    registered_laws("rewards", "redness")
    registered_laws("searches", "draws")


def test_its_items_run(installed: None, tmp_path: Path) -> None:
    words = {"model": "mixture", "reward": "redness", "search": "draws", "budget": {"nfe": 12}, "steps": 3}
    plain = fairlead.run("a dog", out=tmp_path / "plain", **words)  # type: ignore[arg-type]
    steered = fairlead.run("a dog", steer="brighter", settings={"brighter": {"by": 0.5}}, out=tmp_path / "on", **words)  # type: ignore[arg-type]
    assert steered.best.reward > plain.best.reward


def test_what_declares_nothing_is_an_error(installed: None) -> None:
    with pytest.raises(FairleadError, match="must be a subclass of"):
        registry.resolve("steerings", "forgotten")
