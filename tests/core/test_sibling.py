"""A second model beside the run's own: the same coordinates, the same meter, refused where latents differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fairlead
from fairlead.core.cost import INFINITE, Cost
from fairlead.core.errors import FairleadError
from fairlead.core.key import Key
from fairlead.core.model import Level, whole
from fairlead.core.samplers import dpmpp_2m, euler, heun
from fairlead.core.sibling import ModelRef, Sibling, check_related, model_key
from fairlead.core.steering import Scene, Steering, Step
from fairlead.models.mixture import Gaussians, Mixture
from fairlead.run import engine
from fairlead.run.executor import Local
from fairlead.run.setup import resolve
from fairlead.run.worker import Worker
from fairlead.testing import resume_laws
from fairlead.testing.runs import small_spec

OTHER = {"name": "mixture", "seed": 5, "modes": 3}
PREVIEW: list[Tensor] = []


@dataclass(frozen=True)
class Asks(Steering):
    """Renders two pictures with a sibling, then asks it for a clean prediction at every step and moves towards it."""

    model: ModelRef = "mixture"
    moves: int = 1
    bank: Tensor | None = None

    @property
    def siblings(self) -> tuple[ModelRef, ...]:
        return (self.model,)

    def prepare(self, scene: Scene) -> Asks:
        return replace(self, bank=scene.render((scene.key.fold(0), scene.key.fold(1)), 3, model=self.model))

    def __call__(self, step: Step) -> Step:
        seen = step.by(self.model).peek(step.x, step.at, step.rows, self.moves)
        PREVIEW.append(seen)
        assert self.bank is not None
        return step.guide(lambda x, at, rows: 0.1 * (seen[rows] - x) + 0.01 * self.bank.mean(0))


@pytest.fixture
def asking(register: Any) -> None:
    register("steerings", "test_asks", "test_sibling:Asks")


def spec(model: Any = OTHER, **words: Any) -> Any:
    settings = {"test_asks": {"model": model}, **words.pop("settings", {})}
    return small_spec(steer="test_asks", settings=settings, **{"budget": {"nfe": 90}, **words})


def test_its_work_is_in_the_same_bill(asking: None) -> None:
    """Preparation 2 x 3 rows of the sibling; a candidate 4 steps, each one of either model; the price says the same."""
    PREVIEW.clear()
    executor = Local(spec())
    once, unit = executor.price()
    assert (once.nfe, once.forwards) == (6, 6)
    assert (unit.nfe, unit.forwards) == (8, 8)
    _, cost = executor.prepare(INFINITE)
    assert replace(cost, seconds=0.0) == once
    with pytest.raises(Exception, match="grant"):
        executor.prepare(Cost(nfe=5, forwards=9, seconds=9, decodes=9, scores=9))


def test_it_is_the_sibling_that_answers(asking: None, tmp_path: Path) -> None:
    PREVIEW.clear()
    engine.start(spec(), tmp_path / "a").close()
    sibling = Mixture(seed=5, modes=3)
    x = Key.root(0).fold("search").fold("candidate", 0).fold("init").normal(8)
    expected = sibling.gaussians.denoise(x[None], Level(0.0, 1.0)).float()
    first = next(p for p in PREVIEW if bool(p.abs().sum() > 0))
    assert torch.allclose(first[0].flatten(), expected[0], atol=1e-6)


class FromPicture(Mixture):
    """A mixture that starts from a picture, for which two steps are too few."""

    def start(self, noise: Tensor, at: Level) -> Tensor:
        return noise

    def check_steps(self, steps: int) -> None:
        if steps < 3:
            raise FairleadError(f"{steps} steps are too few.")


def test_a_sibling_that_starts_from_a_picture_says_how_few_steps_are_too_few() -> None:
    cond = FromPicture().encode(["a photo"])
    for model, fails in ((FromPicture(), True), (Mixture(), False)):
        sibling = Sibling(model, cond, euler, model.levels(10))
        sibling.check_steps(3)
        refused = pytest.raises(FairleadError, match="2 steps are too few") if fails else nullcontext()
        with refused:
            sibling.check_steps(2)


def test_runs_with_a_sibling_resume_bit_for_bit(asking: None, tmp_path: Path) -> None:
    resume_laws(spec(), tmp_path)


def test_a_model_that_is_loaded_is_not_loaded_again(asking: None) -> None:
    other = Mixture(seed=5, modes=3)
    worker = Worker(resolve(spec(model="mine"), siblings={"mine": other}))
    assert worker.siblings["mine"].model is other
    same = Worker(resolve(spec(model="mixture")))
    assert same.siblings["mixture"].model is same.model


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"name": "mixture", "size": 5}, "shape"),
        ("mixtur", "mixture"),
        ("mine", "siblings="),
        ({"seed": 4}, "no name"),
        ({"name": "mixture", "seeds": 4}, "seeds"),
    ],
)
def test_what_cannot_be_a_sibling_is_one_sentence(asking: None, model: Any, said: str) -> None:
    with pytest.raises(FairleadError) as error:
        Worker(resolve(spec(model=model)))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_levels_of_a_sibling() -> None:
    """Its own, untouched, where both models lie on one curve; else those of equal signal-to-noise ratio."""
    model = Mixture(seed=5)
    own = model.levels(6)
    same = Sibling(model, model.encode(["x"]), euler, own)
    assert list(same.levels(6)) == list(own)
    preserving = [
        Level(at.alpha / math.hypot(at.alpha, at.sigma), at.sigma / math.hypot(at.alpha, at.sigma)) for at in own
    ]
    other = Sibling(model, model.encode(["x"]), euler, preserving)
    got = other.levels(6)
    assert [at.time for at in got] == pytest.approx([at.time for at in own])
    assert [math.hypot(at.alpha, at.sigma) for at in got] == pytest.approx([1.0] * 7)
    assert len(same.conditioning(3).prompts) == 3


def test_a_sibling_that_is_alike_is_called_as_it_is() -> None:
    seen: list[tuple[Tensor, Level]] = []

    class Heard(Mixture):
        def predict(self, x: Tensor, at: Level, cond: Any, rows: Any) -> Tensor:
            seen.append((x, at))
            return super().predict(x, at, cond, rows)

    model = Heard(seed=5)
    x, at = Key.root(0).normal(1, *model.latent), Level(0.3, 0.7)
    cond = model.encode(["x"])
    Sibling(model, cond, euler, model.levels(6)).predict(x, at, cond, whole(1, at))
    assert seen[-1][0] is x
    assert seen[-1][1] is at


def test_latents_that_mean_something_else_are_refused() -> None:
    class Scaled(Mixture):
        @property
        def autoencoder(self) -> dict[str, Any]:
            return {"class": "affine", "scaling_factor": 0.18}

    class Other(Mixture):
        @property
        def autoencoder(self) -> dict[str, Any]:
            return {"class": "another", "shift_factor": 0.1}

    with pytest.raises(
        FairleadError, match=r"scaling_factor 0\.18.*scaled differently.*--draft with a number, or a steering without"
    ) as error:
        check_related(Mixture(), Scaled(), "scaled")
    assert "shares the autoencoder" not in str(error.value)
    with pytest.raises(FairleadError, match=r"class 'another'.*Choose a sibling that shares the autoencoder"):
        check_related(Mixture(), Other(), "other")


def test_labels_tell_settings_apart() -> None:
    assert model_key("a") == model_key({"name": "a"})
    assert len({model_key(m) for m in ("a", {"name": "a", "b": 1}, {"name": "a", "b": 2})}) == 3
    assert model_key({"name": "a", "b": 1, "c": 2}) == model_key({"c": 2, "b": 1, "name": "a"})


class Preserving(Mixture):
    """The same mixture where alpha^2 + sigma^2 = 1, and nowhere else."""

    def levels(self, steps: int) -> Sequence[Level]:
        angles = torch.linspace(torch.pi / 2, 0, steps + 1, dtype=torch.float64).tolist()
        return [Level(0.0 if i == 0 else math.cos(a), math.sin(a)) for i, a in enumerate(angles)]

    def predict(self, x: Tensor, at: Level, *rest: Any) -> Tensor:
        assert math.hypot(at.alpha, at.sigma) == pytest.approx(1), "a network knows its own levels only"
        return super().predict(x, at, *rest)


@pytest.mark.parametrize("sampler", [euler, heun, dpmpp_2m])
def test_a_sibling_of_another_family_is_asked_at_equal_noise(sampler: Any) -> None:
    """Variance preserving beside flow: the clean prediction of the same place is the same, whoever is asked."""
    run = Mixture(gaussians=Gaussians(torch.tensor([[1.0, 0.3], [-0.6, 0.8]]), torch.ones(2), 0.5))
    sibling = Sibling(Preserving(gaussians=run.gaussians), run.encode(["x"]), sampler, run.levels(10))
    x = Key.root(3).normal(5, 1, 1, 2)
    for at in run.levels(7)[:-1]:
        other = sibling.predict(x, at, sibling.conditioning(5), whole(5, at))
        assert torch.allclose(other, run.predict(x, at, run.encode(["x"] * 5), whole(5, at)), atol=1e-5)
    for at in sibling.levels(6):
        assert at.alpha + at.sigma == pytest.approx(1)


def test_live_pipelines_are_siblings(flux_folder: Callable[..., Any], tmp_path: Path, asking: None) -> None:
    """Two random FLUX of one autoencoder: a folder beside a live pipeline, through the Python door; both are
    charged.
    """
    import diffusers

    folder = str(flux_folder())
    size = {"height": 16, "width": 16, "max_sequence_length": 12}
    pipe = diffusers.FluxPipeline.from_pretrained(folder)
    result = fairlead.run(
        "a dog",
        model=folder,
        reward="brightness",
        steer="test_asks",
        steps=2,
        batch=1,
        out=tmp_path / "run",
        settings={"test_asks": {"model": "live"}, "model": size},
        siblings={"live": (pipe, size)},
        budget={"nfe": 6 + 2 + 2 * 4},
    )
    assert len(result.candidates) == 2
    assert next(pipe.transformer.parameters()).requires_grad, "given back as it was found"
