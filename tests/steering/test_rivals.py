"""Competitors of LiDAR on the mixture: reward gradients, adaptive embeddings, Feynman-Kac particles, value decoding."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fairlead.core.cost import INFINITE, Cost, Meter
from fairlead.core.errors import FairleadError
from fairlead.core.key import Key
from fairlead.core.model import Level
from fairlead.core.samplers import Sampler, ancestral, dpmpp_2m, euler
from fairlead.core.sampling import sample
from fairlead.core.steering import Steering, Step
from fairlead.models.mixture import Gaussians, Mixture
from fairlead.run import dry_run, engine, memory
from fairlead.run.dry_run import CountingModel
from fairlead.run.executor import Local
from fairlead.run.setup import resolve
from fairlead.steering.date import AdaptiveEmbedding
from fairlead.steering.feynman_kac import POTENTIALS, FeynmanKac
from fairlead.steering.lidar import Lidar
from fairlead.steering.paths import Paths
from fairlead.steering.reward_gradient import RewardGradient
from fairlead.steering.svdd import ValueDecoding
from fairlead.testing import resume_laws
from fairlead.testing.runs import small_spec
from steered import steered

THREE = Gaussians(torch.tensor([[-3.0, 0.0], [2.0, 2.0], [2.0, -2.0]]), torch.tensor([0.5, 0.3, 0.2]), 0.55)
SLOPE = torch.tensor([0.25, 0.5])
ONE = Gaussians(torch.tensor([[0.5, -1.0]]), torch.ones(1), 0.8)


def linear(z: Tensor) -> Tensor:
    return z.flatten(1) @ SLOPE


@dataclass(frozen=True)
class Looking(Steering):
    """A steering that is a function."""

    look: Callable[[Any], Any]

    def __call__(self, step: Any) -> Any:
        return self.look(step)


def run(
    *parts: Any,
    gaussians: Gaussians = THREE,
    n: int = 64,
    steps: int = 20,
    sampler: Sampler = ancestral,
    score: Callable[[Tensor], Tensor] = linear,
    dry: bool = False,
    **more: Any,
) -> tuple[Tensor, Cost]:
    """n samples [n, d] in groups, with what they cost."""
    model: Any = Mixture(gaussians=gaussians)
    model = CountingModel(model) if dry else model
    out, cost = steered(*parts, model=model, n=n, steps=steps, sampler=sampler, score=score, **more)
    return out.flatten(1), cost


@pytest.mark.parametrize(
    "parts",
    [
        (RewardGradient(scale=0.0),),
        (AdaptiveEmbedding(rho=0.0),),
        (FeynmanKac(tilt=0.0),),
        (ValueDecoding(children=1),),
    ],
)
def test_off_costs_nothing(parts: Any) -> None:
    plain, cost = run()
    out, same = run(*parts)
    assert torch.equal(out, plain)
    assert same == cost


def test_gradient_through_the_network_is_that_of_finite_differences() -> None:
    """One Gaussian, unnormalised: the shift is sigma^2/alpha * (dD/dx)^T a, dD/dx = alpha s^2/(alpha^2 s^2 +
    sigma^2).
    """
    seen: list[tuple[float, Tensor]] = []

    class Watch(RewardGradient):
        def __call__(self, step: Any) -> Any:
            out = super().__call__(step)
            plain = step.denoise(step.x, step.at, step.rows)
            if step.at.alpha == 0:
                assert torch.equal(out.solved().x0, plain), "not at alpha 0"
            else:
                at, s2 = step.at, 0.64
                own = at.alpha * s2 / (at.alpha**2 * s2 + at.sigma**2)
                seen.append((at.sigma**2 / at.alpha * own, out.solved().x0 - plain))
            return out

    run(Watch(scale=2.0, normalise=False), gaussians=ONE, n=3, steps=8)
    assert len(seen) == 7
    for factor, shift in seen:
        assert torch.allclose(shift.flatten(1), 2 * factor * SLOPE.expand(3, 2), atol=1e-4)


def test_for_a_gaussian_and_a_linear_reward_the_gradient_is_the_exact_tilt() -> None:
    """The one case without bias: the mean moves by tilt * s^2 * a."""
    out, _ = run(RewardGradient(scale=1.5, normalise=False), gaussians=ONE, n=800, steps=60, sampler=euler)
    plain, _ = run(gaussians=ONE, n=800, steps=60, sampler=euler)
    assert (out.mean(0) - plain.mean(0)).tolist() == pytest.approx((1.5 * 0.64 * SLOPE).tolist(), abs=0.03)


@pytest.mark.parametrize("sampler", [euler, ancestral, dpmpp_2m])
@pytest.mark.parametrize("steering", [RewardGradient(), RewardGradient(jacobian=False), AdaptiveEmbedding(rho=0.3)])
def test_gradients_raise_the_reward(steering: Any, sampler: Sampler) -> None:
    plain, _ = run(sampler=sampler)
    out, _ = run(steering, sampler=sampler)
    assert float(linear(out).mean()) > float(linear(plain).mean()) + 0.05


def test_normalised_gradients_do_not_know_the_scale_of_the_reward() -> None:
    small, _ = run(RewardGradient(), score=lambda z: 0.001 * linear(z))
    large, _ = run(RewardGradient(), score=lambda z: 1000 * linear(z))
    assert torch.allclose(small, large, atol=1e-3)


@pytest.mark.parametrize(
    ("steering", "expected"),
    [
        (RewardGradient(), {"nfe": 10, "forwards": 10 + 9, "backwards": 9, "scores": 9}),
        (RewardGradient(every=3), {"nfe": 10, "forwards": 10 + 3, "backwards": 3, "scores": 3}),
        (RewardGradient(start=0.75, stop=0.25), {"nfe": 10, "forwards": 10 + 5, "backwards": 5, "scores": 5}),
        (RewardGradient(jacobian=False), {"nfe": 10, "forwards": 10, "backwards": 0, "scores": 9}),
        (AdaptiveEmbedding(), {"nfe": 10 + 5, "forwards": 10 + 10, "backwards": 5, "scores": 5}),
        (FeynmanKac(), {"nfe": 10, "forwards": 10, "backwards": 0, "scores": 5}),
        (ValueDecoding(children=3), {"nfe": 1 + 9 * 3, "forwards": 28, "backwards": 0, "scores": 9 * 3}),
        (ValueDecoding(children=3, block=4), {"nfe": 1 + 9 * 3, "forwards": 28, "backwards": 0, "scores": 3 * 3}),
    ],
)
def test_cost_per_sample_is_the_formula_and_the_price(steering: Any, expected: dict[str, float]) -> None:
    """Ten steps. A backward pass repeats its forward pass; a child's prediction is not bought twice."""
    _, cost = run(steering, n=2, steps=10)
    assert {k: getattr(cost, k) / 2 for k in expected} == expected
    _, dry = run(steering, n=2, steps=10, dry=True)
    assert replace(dry, decodes=0) == replace(cost, decodes=0)


def test_embeddings_stay_in_their_ball_and_samples_apart() -> None:
    moved: list[Tensor] = []

    class Watch(AdaptiveEmbedding):
        def __call__(self, step: Any) -> Any:
            out = super().__call__(step)
            moved.append((out.conditioning.tokens - step.prompt_conditioning.tokens).flatten(1).norm(dim=1))
            return out

    out, _ = run(Watch(rho=0.3, every=4), n=6, steps=8)
    assert torch.allclose(torch.stack(moved), torch.tensor(0.3), atol=1e-5), "kept between updates"
    alone, _ = run(AdaptiveEmbedding(rho=0.3, every=4), n=2, steps=8)
    assert torch.allclose(out[:2], alone, atol=1e-5)


def test_an_embedding_moves_by_a_fiftieth_of_its_length() -> None:
    moved: list[Tensor] = []

    def look(step: Step) -> Step:
        assert step.prompt_conditioning is not None
        original = step.prompt_conditioning.tokens.flatten(1)
        moved.append((step.conditioning.tokens.flatten(1) - original).norm(dim=1) / original.norm(dim=1))
        return step

    def longer(step: Step) -> Step:
        assert step.prompt_conditioning is not None
        tokens = 3 + 10 * step.prompt_conditioning.tokens
        return replace(step, prompt_conditioning=step.prompt_conditioning.with_tokens(tokens))

    run(Looking(longer), AdaptiveEmbedding(every=1), Looking(look), n=3, steps=4)
    assert torch.stack(moved).flatten().tolist() == pytest.approx([0.02] * 12, rel=1e-4)


def test_a_prediction_that_is_there_is_not_paid_again() -> None:
    """Without the network in the gradient, the clean prediction is all that is needed."""
    solved = Looking(lambda step: step.solved())
    out, cost = run(solved, RewardGradient(jacobian=False), n=4, steps=6)
    plain, same = run(RewardGradient(jacobian=False), n=4, steps=6)
    assert (cost.nfe, cost.backwards, same.nfe) == (24, 0, 24)
    assert torch.equal(out, plain)


@pytest.mark.parametrize("potential", POTENTIALS)
def test_particles_reach_the_tilted_distribution(potential: str) -> None:
    """Weighed at the finished picture too, every potential aims at exp(tilt*r): the exact tilt of the mixture, by
    modes.
    """
    tilted = THREE.tilted(2 * SLOPE)
    at = tuple((i + 1) / 25 for i in range(25)) if potential == "difference" else (0.4, 0.7, 1.0)
    n = 3000 if potential == "difference" else 1000
    out, _ = run(FeynmanKac(2.0, potential, at, threshold=0.5), n=n, group=n, steps=25)
    near = torch.cdist(out.double(), THREE.means).argmin(1)
    share = near.bincount(minlength=3) / len(out)
    assert share.tolist() == pytest.approx(tilted.weights.tolist(), abs=0.07), potential
    assert float(linear(out).mean()) == pytest.approx(float(tilted.mean().float() @ SLOPE), abs=0.15)


@pytest.mark.parametrize("potential", POTENTIALS)
def test_the_usual_steps_reach_the_tilted_distribution_too(potential: str) -> None:
    out, _ = run(FeynmanKac(2.0, potential), n=1000, group=1000, steps=25, seed=1)
    near = torch.cdist(out.double(), THREE.means).argmin(1)
    share = float((near == 1).float().mean())
    assert share == pytest.approx(float(THREE.tilted(2 * SLOPE).weights[1]), abs=0.06), potential


def test_effective_sample_size_is_reported_and_decides() -> None:
    notes: dict[str, Tensor] = {}
    run(FeynmanKac(tilt=2.0), n=16, group=8, notes=notes)
    ess = notes["feynman_kac ess"]
    assert ess.shape == (16,)
    assert len(set(ess[:8].tolist())) == 1, "one number a group"
    assert bool(((ess >= 1) & (ess <= 8)).all())
    mild, _ = run(FeynmanKac(tilt=1e-6), n=16, group=8)
    plain, _ = run(n=16)
    assert torch.equal(mild, plain), "nobody is resampled while all count"
    always, _ = run(FeynmanKac(tilt=1e-6, threshold=1.0), n=16, group=8)
    assert torch.equal(always, plain), "systematic resampling of equal weights keeps everybody"
    hard, _ = run(FeynmanKac(tilt=1e6, at=(1.0,)), n=16, group=8)
    assert len(hard[:8].unique(dim=0)) == 1, "at an infinite tilt the best of the group"
    assert float(linear(hard[:1])) == float(linear(plain[:8]).max())


def test_copies_part_again() -> None:
    """Resampled in the middle, all from one parent: noise of their own makes different pictures."""
    out, _ = run(FeynmanKac(tilt=1e6, at=(0.5,)), n=8, group=8)
    assert len(out.unique(dim=0)) == 8


def test_particles_of_other_groups_do_not_matter_and_failed_ones_die() -> None:
    both, _ = run(FeynmanKac(tilt=5.0), n=16, group=8)
    one, _ = run(FeynmanKac(tilt=5.0), n=8, group=8)
    assert torch.equal(both[:8], one)
    out, _ = run(
        FeynmanKac(tilt=0.1, at=(1.0,), threshold=1.0),
        n=32,
        group=32,
        score=lambda z: torch.where(linear(z) > 0, math.nan, linear(z)),
    )
    assert float(linear(out).max()) <= 0
    for value in (math.nan, 0.0, math.inf):
        lost, _ = run(FeynmanKac(), n=8, group=8, score=lambda z, v=value: torch.full((len(z),), v))  # type: ignore[misc]
        assert bool(lost.isfinite().all())


@pytest.mark.parametrize("potential", POTENTIALS)
def test_what_belongs_to_a_particle_moves_with_it(potential: str) -> None:
    """Log-weights after three steps with a resampling before each, from the rewards of a particle's own ancestors."""
    at = (0.25, 0.5, 1.0)
    always = FeynmanKac(1.0, potential, at, threshold=1.0)
    never = FeynmanKac(1.0, potential, at, threshold=1e-9)
    memory: dict[str, Any] = {}

    def weighed(steering: FeynmanKac, index: int, rewards: Tensor) -> Tensor:
        """The ancestor of every particle."""
        x = torch.arange(4.0).view(4, 1, 1, 1)
        step = Step(
            x=x,
            at=Level(0.6, 0.8),
            to=Level(1.0, 0.0),
            index=index,
            steps=4,
            keys=tuple(Key.root(index).fold(i) for i in range(4)),
            groups=torch.zeros(4, dtype=torch.int64),
            noise=torch.zeros_like(x),
            memory=memory,
            denoise=lambda y, level, rows: y,
            schedule=lambda steps: [],
            score=lambda z, rows: rewards,
            sampler=euler,
        )
        return steering(step).run().flatten().long()

    first = torch.tensor([0.0, 0.3, 2.0, 1.8])
    second = torch.tensor([0.5, 2.2, 1.0, 1.2])
    last = torch.tensor([1.0, 0.0, 0.4, 0.7])
    one = weighed(always, 0, first)
    assert one.tolist() != [0, 1, 2, 3]
    assert len(one.unique()) > 1
    two = weighed(always, 1, second)
    assert two.tolist() != [0, 1, 2, 3]
    assert len(one[two].unique()) > 1
    assert weighed(never, 3, last).tolist() == [0, 1, 2, 3]
    early, late = first[one[two]], second[two]
    paid = {
        "difference": late,
        "max": early + torch.maximum(early, late),
        "add": early + (early + late),
        "current": early + late,
    }[potential]
    torch.testing.assert_close(memory["feynman_kac"]["log"], (last - paid).double())


@pytest.mark.parametrize("block", [1, 4, 20])
def test_children_raise_the_reward(block: int) -> None:
    plain, _ = run()
    out, _ = run(ValueDecoding(children=6, block=block))
    assert float(linear(out).mean()) > float(linear(plain).mean()) + 0.3


def test_a_block_of_all_steps_is_best_of() -> None:
    """Whichever child wins, no other would have scored better."""
    values: list[Tensor] = []

    def score(z: Tensor) -> Tensor:
        values.append(linear(z))
        return linear(z)

    out, _ = run(ValueDecoding(children=5, block=12), n=4, steps=12, score=score)
    assert torch.allclose(linear(out), values[-1].view(4, 5).max(1).values, atol=1e-6)


def test_temperature_draws_children_by_their_weights() -> None:
    cold, _ = run(ValueDecoding(children=4, temperature=1e-9))
    best, _ = run(ValueDecoding(children=4))
    hot, _ = run(ValueDecoding(children=4, temperature=1e9))
    assert torch.equal(cold, best)
    assert float(linear(best).mean()) > float(linear(hot).mean()) + 0.2


@pytest.mark.parametrize(
    "rival", [FeynmanKac(tilt=2.0), ValueDecoding(children=3), RewardGradient(), AdaptiveEmbedding(rho=0.1)]
)
def test_lidar_composes(rival: Any) -> None:
    """As in the paper: guided proposals. No evaluation more than alone, and no worse than either."""
    bank = torch.cat([THREE.means.float(), 0.9 * THREE.means.float()]).view(-1, 1, 1, 2)
    lidar = Lidar(scale=1.0, tilt=2.0).with_bank(bank, linear(bank))
    alone, cost = run(rival, group=8)
    both, same = run(lidar, rival, group=8)
    assert replace(cost, scores=0) == replace(same, scores=0)
    assert not torch.allclose(both, alone, atol=1e-2), "guidance is felt"
    guided, _ = run(lidar)
    assert float(linear(both).mean()) > max(float(linear(out).mean()) for out in (guided, alone)) - 0.03


@pytest.mark.parametrize("steer", ["feynman_kac", "svdd", "reward_gradient", "date", "lidar"])
def test_runs_resume_and_record(steer: str, tmp_path: Path) -> None:
    own = {"lidar": {"n": 4}} if steer == "lidar" else {}
    spec = small_spec(steer=steer, sampler="ancestral", group=2, batch=4, budget={"nfe": 60}, settings=own)
    resume_laws(spec, tmp_path)
    if steer == "feynman_kac":
        store = engine.start(spec, tmp_path / "again")
        assert all(1 <= c.terms["feynman_kac ess"] <= 2 for c in store.candidates())
        assert "feynman_kac ess" not in store.baseline().terms  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"steer": "feynman_kac"}, "ancestral"),
        ({"steer": "svdd"}, "ancestral"),
        ({"steer": "reward_gradient", "reward": "jpeg_size"}, "lidar"),
        ({"steer": "date", "reward": "jpeg_size"}, "gradient"),
    ],
)
def test_what_cannot_work_is_refused_before_the_run(words: dict[str, Any], said: str) -> None:
    with pytest.raises(FairleadError, match=said):
        Local(small_spec(**words))


@pytest.mark.parametrize(
    ("make", "settings", "said"),
    [
        (RewardGradient, {"every": 0}, "every"),
        (RewardGradient, {"scale": -1}, "scale"),
        (RewardGradient, {"start": 0.2, "stop": 0.4}, "stop"),
        (AdaptiveEmbedding, {"every": 0}, "every"),
        (AdaptiveEmbedding, {"rho": -1}, "rho"),
        (FeynmanKac, {"potential": "mean"}, "max"),
        (FeynmanKac, {"at": ()}, "at"),
        (FeynmanKac, {"at": (20,)}, "(0, 1]"),
        (FeynmanKac, {"tilt": -1}, "tilt"),
        (FeynmanKac, {"threshold": 0}, "threshold"),
        (ValueDecoding, {"children": 0}, "children"),
        (ValueDecoding, {"block": 0}, "block"),
        (ValueDecoding, {"temperature": -1}, "temperature"),
    ],
)
def test_wrong_settings_are_one_sentence(make: Any, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(FairleadError) as error:
        make(**settings)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_particle_without_a_score_stays_without_weight() -> None:
    """One silence of a judge: no score later makes up for it, and where all are silent nobody is worse than another."""
    calls: list[int] = []

    def deaf_once(lost: Any) -> Callable[[Tensor], Tensor]:
        def score(z: Tensor) -> Tensor:
            calls.append(1)
            values = linear(z) - 50
            if len(calls) == 1:
                values[lost] = math.nan
            return values

        return score

    for potential in POTENTIALS:
        calls.clear()
        rival = FeynmanKac(1.0, potential, (0.2, 0.4, 0.6), threshold=0.5)
        out, _ = run(rival, n=8, group=8, score=deaf_once(0))
        calls.clear()
        plain, _ = run(rival, n=8, group=8, score=deaf_once([]))
        assert out.isfinite().all()
        gaps = [float(linear(a).mean()) for a in (out, plain)]
        assert gaps[0] > gaps[1] - 1.5, f"{potential}: the silent one took the group over"
    calls.clear()
    deaf, _ = run(FeynmanKac(1e-6, "current", (0.2, 0.4), threshold=0.5), n=8, group=8, score=deaf_once(slice(None)))
    assert torch.equal(deaf, run(n=8)[0])
    notes: dict[str, Tensor] = {}
    calls.clear()
    run(FeynmanKac(1e-6, "difference", (0.2, 0.4), threshold=0.5), n=8, group=8, score=deaf_once(0), notes=notes)
    assert notes["feynman_kac ess"].tolist() == pytest.approx([7.0] * 8, rel=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 0.5])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_children_without_a_score_lose(value: float, temperature: float) -> None:
    seen: list[Tensor] = []

    def score(z: Tensor) -> Tensor:
        seen.append(z.flatten(1))
        return torch.where(torch.arange(len(z)) % 3 == 1, value, linear(z))

    rival = ValueDecoding(children=3, block=20, temperature=temperature)
    out, _ = run(rival, n=4, score=score)
    lost = seen[-1].view(4, 3, 2)[:, 1]
    assert not bool((out == lost).all(1).any())
    none, _ = run(rival, n=4, score=lambda z: torch.full((len(z),), value))
    assert none.isfinite().all()


@pytest.mark.parametrize(
    "steer",
    [
        ["svdd", "lidar"],
        ["svdd", "reward_gradient"],
        ["feynman_kac", "svdd"],
        ["svdd", "feynman_kac"],
        ["paths", "svdd"],
        ["dfs", "svdd"],
        ["demon(solver='sampler')", "svdd"],
    ],
)
def test_nothing_is_paid_to_be_overridden(steer: list[str]) -> None:
    """svdd sets the state itself: what acts after it, or makes noise or moves rows before it, would do nothing."""
    with pytest.raises(FairleadError, match=r"so the cost of \w+ would be wasted"):
        Local(small_spec(steer=steer, sampler="ancestral"))


def test_what_moves_predictions_may_stand_before_svdd() -> None:
    for steer in (["lidar", "svdd"], ["reward_gradient", "svdd"], ["particle_guidance", "svdd"]):
        Local(small_spec(steer=steer, sampler="ancestral"))


def test_an_embedding_that_follows_and_children_that_look_ahead_are_refused() -> None:
    with pytest.raises(FairleadError, match="every change would come late"):
        Local(small_spec(steer=["date", "svdd"], sampler="ancestral"))


def curved(z: Tensor) -> Tensor:
    return -(z.flatten(1) - SLOPE).square().sum(1)


@pytest.mark.parametrize("jacobian", [True, False])
@pytest.mark.parametrize("normalise", [True, False])
def test_the_gradient_is_taken_where_it_is_asked(jacobian: bool, normalise: bool) -> None:
    """Other points, other levels, other rows: the closed form of one Gaussian and a quadratic reward."""
    asked: list[int] = []

    def look(step: Any) -> Any:
        if step.index not in (2, 5):
            return step
        guide = RewardGradient(scale=0.7, normalise=normalise, jacobian=jacobian, stop=0.1)
        out, rows = guide(step), torch.tensor([2, 0, 0])
        for at in (step.at, step.to, Level(0.8, 0.2), Level(0.95, 0.05)):
            x = Key.root(step.index).normal(3, *step.x.shape[1:])
            x0 = step.denoise(x, at, rows)
            own = at.alpha * 0.64 / (at.alpha**2 * 0.64 + at.sigma**2) if jacobian else 1 / at.alpha
            slope = -2 * own * (x0 - SLOPE)
            size = slope.flatten(1).square().mean(1).sqrt().view(-1, 1, 1, 1)
            shift = 0.7 * at.sigma * slope / size if normalise else 0.7 * at.sigma**2 / at.alpha * slope
            shift = shift if at.time > 0.1 else 0 * shift
            torch.testing.assert_close(out.denoise(x, at, rows), x0 + shift, rtol=1e-3, atol=1e-4)
            asked.append(1)
        return step

    run(Looking(look), gaussians=ONE, n=3, steps=10, score=curved)
    assert len(asked) == 8


def test_children_of_a_guided_step_are_guided_where_they_are() -> None:
    """What svdd knows of the next step is what that step would find out itself."""
    gaps: list[float] = []

    class Watch(ValueDecoding):
        def __call__(self, step: Any) -> Any:
            known = step.memory.get("svdd_x0")
            if known is not None:
                gaps.append(float((known - step.solved().x0).abs().max()))
            return super().__call__(step)

    run(RewardGradient(every=2), Watch(children=3, block=4), n=2, steps=8, score=curved)
    assert len(gaps) == 7
    assert max(gaps) < 1e-4


def test_survivors_keep_the_embedding_of_their_parents() -> None:
    """Row 0's children win everywhere: afterwards everybody has row 0's embedding."""
    left: list[Tensor] = []

    def adapt(step: Any) -> Any:
        original = step.prompt_conditioning
        own = torch.arange(float(len(step.x))).view(-1, 1, 1) + torch.zeros_like(original.tokens)
        out = step if "conditioning" in step.memory else step.with_conditioning(original.with_tokens(own))
        return out.then(lambda x: (left.append(out.conditioning.tokens.clone()), x)[1])

    def first(z: Tensor) -> Tensor:
        return torch.tensor([1.0] * 4 + [0.0] * (len(z) - 4))

    run(Paths(children=4), Looking(adapt), n=4, group=4, steps=8, sampler=euler, score=first)
    assert bool((left[0] == torch.arange(4.0).view(-1, 1, 1)).all())
    assert bool((left[-1] == 0).all())


def test_a_search_may_differentiate_a_steered_step() -> None:
    """The gradient of a search goes through the prediction that reward_gradient moves, its shift taken as given."""
    model, meter = Mixture(gaussians=ONE), Meter()
    model.meter(meter)

    start, slopes = Key.root(3).normal(1, *model.latent).requires_grad_(True), []
    for scale in (0.0, 0.1):
        with meter.grant(INFINITE):
            out = sample(
                model,
                euler,
                start,
                model.encode(["x"]),
                model.levels(6),
                (Key.root(0),),
                meter,
                steering=RewardGradient(scale=scale),
                score=lambda z, c: linear(z),
            )
            slopes.append(torch.autograd.grad(linear(out).sum(), start)[0])
    assert torch.allclose(slopes[0], slopes[1], atol=1e-5), "the shift of a linear reward does not depend on x"


@pytest.mark.parametrize(("steer", "gradient"), [("reward_gradient", True), ("date", True), ("lidar", False)])
def test_memory_is_asked_for_with_the_gradients_of_a_steering(
    steer: str, gradient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    real = memory.footprint

    def footprint(model: Any, rows: float, decodes: float, gradient: bool) -> Any:
        asked.append(gradient)
        return real(model, rows, decodes, gradient)

    monkeypatch.setattr(memory, "footprint", footprint)
    dry_run.footprint(resolve(small_spec(steer=steer)))
    assert asked == [gradient]


@pytest.mark.parametrize("slope", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("jacobian", [True, False])
def test_a_gradient_that_is_no_number_moves_nothing(slope: float, jacobian: bool) -> None:
    plain, _ = run(n=3, steps=4)
    for steering in (RewardGradient(jacobian=jacobian, normalise=False), AdaptiveEmbedding(rho=0.3)):
        out, _ = run(steering, n=3, steps=4, score=lambda z: z.flatten(1) @ (SLOPE * slope))
        assert torch.equal(out, plain)


def test_an_embedding_without_a_slope_stays_where_it_is() -> None:
    seen: list[Tensor] = []

    def look(step: Step) -> Step:
        seen.append(step.conditioning.tokens.clone())
        return step

    run(
        AdaptiveEmbedding(rho=0.3, every=1),
        Looking(look),
        n=2,
        steps=3,
        score=lambda z: z.flatten(1) @ (SLOPE * math.nan),
    )
    assert all(not bool(tokens.any()) for tokens in seen), "the text of a mixture is zero"
