"""LiDAR: golden vectors, the identities and distributions of its specification (section 7), cost, bad input (section
8).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fairlead.core.cost import INFINITE, Meter
from fairlead.core.errors import FairleadError
from fairlead.core.key import Key, normals
from fairlead.core.model import Level
from fairlead.core.samplers import Sampler, ancestral, consistency, dpmpp_2m, euler, heun
from fairlead.core.sampling import sample
from fairlead.core.steering import Chain, Scene, Steering, Step
from fairlead.models.mixture import Gaussians, Mixture
from fairlead.models.schedule import Discrete, flow_levels
from fairlead.rewards.brightness import Brightness
from fairlead.run import engine
from fairlead.run.executor import Local
from fairlead.run.png import read
from fairlead.run.prepared import recorded
from fairlead.run.records import BANK
from fairlead.run.view import View
from fairlead.steering._displacement import DOSE, HIGHEST_DOSE, displacement, doses
from fairlead.steering._presets import PRESETS, SD_UNTIL, USUAL
from fairlead.steering.lidar import Lidar, scale_at
from fairlead.testing import resume_laws
from fairlead.testing.runs import small_spec

ROOT = Key.root(7)
GOLD = torch.tensor([[1.0, 0], [0, 2], [-1, -1]], dtype=torch.float64)
WORTH = torch.tensor([0.2, 1, -0.5], dtype=torch.float64)
PLACE = torch.tensor([[0.3, -0.4]], dtype=torch.float64)
VP = Level(0.8, 0.6)
CURVES = {"preserving": VP, "flow": Level(0.4, 0.6), "exploding": Level(1.0, 3.0), "start of flow": Level(0.0, 1.0)}


def shift(x: Tensor, at: Level, bank: Tensor, rewards: Tensor, tilt: float = 1.0) -> Tensor:
    return displacement(x, at, bank, 0.5 * bank.square().sum(1), tilt * (rewards - rewards.max()))


def log_ratio(x: Tensor, at: Level, bank: Tensor, rewards: Tensor, tilt: float) -> Tensor:
    """The estimate of the expected future reward, x [R, D] -> [R], from squared distances."""
    logits = -(x[:, None] - at.alpha * bank).square().sum(-1) / (2 * at.sigma**2)
    return (logits + tilt * rewards).logsumexp(1) - logits.logsumexp(1)


def some(n: int = 6, size: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Two places, a bank and its rewards, float64."""
    key = ROOT.fold(seed)
    return (
        key.fold("x").normal(2, size).double(),
        key.fold("b").normal(n, size).double(),
        key.fold("r").normal(n).double(),
    )


@pytest.mark.parametrize(
    ("tilt", "expected", "value"),
    [
        (0.5, (0.101505669, 0.057701972), 0.039212961),
        (1.0, (0.179478277, 0.107182596), 0.096085260),
        (2.0, (0.273968407, 0.193302196), 0.251909175),
        (50.0, (-0.580015344, 2.198119978), 44.650166112),
    ],
)
def test_golden_vectors(tilt: float, expected: tuple[float, float], value: float) -> None:
    assert shift(PLACE, VP, GOLD, WORTH, tilt)[0].tolist() == pytest.approx(expected, abs=1e-8)
    assert float(log_ratio(PLACE, VP, GOLD, WORTH, tilt)) == pytest.approx(value, abs=1e-8)


def test_golden_predictions_of_every_parameterisation() -> None:
    """eps, v and the flow's v all say D + scale*G."""
    g = shift(PLACE, VP, GOLD, WORTH, 2.0)
    eps = torch.tensor([[0.1, -0.7]], dtype=torch.float64)
    guided = (PLACE - VP.sigma * eps) / VP.alpha + 3 * g
    assert guided[0].tolist() == pytest.approx([1.121905220, 0.604906589], abs=1e-8)
    assert ((PLACE - VP.alpha * guided) / VP.sigma)[0].tolist() == pytest.approx([-0.995873626, -1.473208785], abs=1e-8)
    v = VP.alpha * (PLACE - VP.alpha * guided) / VP.sigma - VP.sigma * guided
    assert v[0].tolist() == pytest.approx([-1.469842033, -1.541510981], abs=1e-8)
    at = Level(0.4, 0.6)
    g = shift(PLACE, at, GOLD, WORTH, 2.0)
    assert g[0].tolist() == pytest.approx([0.241236372, 0.891601147], abs=1e-8)
    guided = PLACE - at.sigma * torch.tensor([[0.5, 0.2]], dtype=torch.float64) + 3 * g
    assert ((PLACE - guided) / at.sigma)[0].tolist() == pytest.approx([-0.706181859, -4.258005736], abs=1e-8)


@pytest.mark.parametrize("name", ["preserving", "flow", "exploding"])
def test_the_shift_is_the_gradient_of_the_log_sum_exp(name: str) -> None:
    """alpha/sigma^2 * G by autodiff (identity 1); the expanded logits are those of the distances (2)."""
    at = CURVES[name]
    x, bank, rewards = some()
    x.requires_grad_(True)
    (slope,) = torch.autograd.grad(log_ratio(x, at, bank, rewards, 1.7).sum(), x)
    assert torch.allclose(at.alpha / at.sigma**2 * shift(x.detach(), at, bank, rewards, 1.7), slope, atol=1e-12)


@pytest.mark.parametrize("name", CURVES)
def test_identities(name: str) -> None:
    """Numbers are those of section 7.2."""
    at = CURVES[name]
    x, bank, r = some()
    g = shift(x, at, bank, r, 1.3)
    w = torch.softmax(-(x[:, None] - at.alpha * bank).square().sum(-1) / (2 * at.sigma**2), 1)
    wr = torch.softmax(w.log() + 1.3 * r, 1)

    def same(a: Tensor, b: Tensor) -> None:
        assert torch.allclose(a, b, atol=1e-12)

    assert not shift(x, at, bank, r, 0.0).any(), "3"
    assert not shift(x, at, bank[:1], r[:1], 1.3).any(), "4: one sample guides nowhere"
    assert not shift(x, at, bank, torch.full_like(r, 0.7), 1.3).any(), "5"
    same(shift(x, at, bank, r + 5, 1.3), g)  # 6
    same(shift(x, at, bank, 2 * r, 0.65), g)  # 6
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    same(shift(x, at, bank[order], r[order], 1.3), g)  # 7
    same(shift(x, at, torch.cat([bank, bank]), torch.cat([r, r]), 1.3), g)  # 8
    more = torch.zeros(6, dtype=torch.float64)
    more[2] = math.log(2)
    twice = (torch.softmax(wr.log() + more, 1) - torch.softmax(w.log() + more, 1)) @ bank
    same(shift(x, at, torch.cat([bank, bank[2:3]]), torch.cat([r, r[2:3]]), 1.3), twice)  # 8
    b = torch.arange(5.0, dtype=torch.float64)
    same(shift(x + at.alpha * b, at, bank + b, r, 1.3), g)  # 9
    q = torch.linalg.qr(ROOT.normal(5, 5).double())[0]
    same(shift(x @ q, at, bank @ q, r, 1.3), g @ q)  # 9
    best = bank[r.argmax()]
    same(shift(x, at, bank, r, 1e6), best - w @ bank)  # 10
    mean = (w * r).sum(1, keepdim=True)
    covariance = (w * (r - mean)) @ bank
    assert torch.allclose(shift(x, at, bank, r, 1e-6) / 1e-6, covariance, atol=1e-4)  # 12
    diameter = torch.cdist(bank, bank).max()
    assert bool((g.norm(dim=1) <= diameter).all()), "13"
    spread = float(r.max() - r.min())
    assert float((wr / w).log().abs().max()) <= 1.3 * spread + 1e-9, "14"
    gains = [float(((torch.softmax(w.log() + t * r, 1) - w) * r).sum()) for t in (0.0, 0.5, 1.0, 2.0, 8.0)]
    assert gains == sorted(gains), "14: grows with the tilt"
    value = log_ratio(x, at, bank, r, 1.3)
    assert bool((value >= 1.3 * mean[:, 0] - 1e-9).all()), "15"
    assert bool((value <= 1.3 * r.max() + 1e-9).all()), "15"
    singles = torch.cat([shift(row[None], at, bank, r, 1.3) for row in x])
    same(singles, g)  # 17


def test_ties_share_and_noise_forgets_the_place() -> None:
    x, bank, r = some()
    r[1] = r[4] = 9.0
    w = torch.softmax(-(x[:, None] - 0.8 * bank).square().sum(-1) / (2 * 0.36), 1)
    tied = w[:, [1, 4]] / w[:, [1, 4]].sum(1, keepdim=True)
    assert torch.allclose(shift(x, VP, bank, r, 1e6), tied @ bank[[1, 4]] - w @ bank, atol=1e-12), "10"
    far = shift(x, Level(1e-6, 1.0), bank, r)
    assert torch.allclose(far[0], torch.softmax(r, 0) @ bank - bank.mean(0), atol=1e-4), "11"


def test_guidance_ends_by_itself_where_the_best_is_nearest() -> None:
    _, bank, r = some()
    best = bank[r.argmax()]
    assert float(shift(0.99 * best[None], Level(0.99, 0.1), bank, r, 5000).abs().max()) < 1e-9, "18"
    assert float(shift(0.99 * bank[r.argmin()][None], Level(0.99, 0.1), bank, r, 5000).norm()) > 1


def test_logits_are_exact_enough_at_the_size_of_sdxl() -> None:
    """Float32 at 65536 numbers, tilt 5000, near the end of the guided range: the displacement of float64."""
    key = ROOT.fold("large")
    bank, r = key.fold("b").normal(8, 65536), key.fold("r").normal(8)
    at = Level(0.867, 0.498)
    x = at.alpha * (0.5 * bank[:1] + 0.5 * bank[1:2]) + at.sigma * key.fold("x").normal(1, 65536)
    exact = shift(x.double(), at, bank.double(), r.double(), 1.0)
    assert float((shift(x, at, bank, r, 1.0).double() - exact).norm() / (1 + exact.norm())) < 0.05


class Atoms(Mixture):
    """Bank members as the whole distribution: the empirical denoiser, variance exploding."""

    def levels(self, steps: int) -> list[Level]:
        ends = [80.0 ** (1 / 7), 0.002 ** (1 / 7)]
        sigmas = [(ends[0] + i / (steps - 1) * (ends[1] - ends[0])) ** 7 for i in range(steps)]
        return [*(Level(1.0, s) for s in sigmas), Level(1.0, 0.0)]


@dataclass(frozen=True)
class Watching(Steering):
    """A steering that is a function."""

    look: Callable[[Step], Step]

    def __call__(self, step: Step) -> Step:
        return self.look(step)


def guided(
    steering: Any, model: Any, *, n: int, steps: int, sampler: Sampler = euler, seed: int = 0, scale: float = 1.0
) -> Tensor:
    """n samples -> [n, d]."""
    meter = Meter()
    model.meter(meter)
    own = tuple(Key.root(seed).fold(i) for i in range(n))
    x = scale * Key.root(seed).fold("many").normal(n, *model.latent)
    with torch.no_grad(), meter.grant(INFINITE):
        out = sample(model, sampler, x, model.encode(["x"] * n), model.levels(steps), own, meter, steering=steering)
    return out.flatten(1)


@pytest.mark.parametrize("sampler", [euler, heun, dpmpp_2m])
def test_with_the_empirical_denoiser_samples_are_the_tilted_atoms(sampler: Sampler) -> None:
    """Each atom with probability softmax(tilt * r), and nothing between them."""
    atoms, r = torch.tensor([[-2.0], [-0.5], [0.3], [1.0], [2.4]]), torch.tensor([0.1, 0.9, -0.4, 0.5, 1.2])
    model = Atoms(gaussians=Gaussians(atoms, torch.ones(5), 1e-4))
    lidar = Lidar(scale=1.0, tilt=1.5, until=1e-4, standardise=False).with_bank(atoms.view(5, 1, 1, 1), r)
    out = guided(lidar, model, n=1500, steps=60, sampler=sampler, scale=80.0)
    nearest = (out - atoms.T).abs().argmin(1)
    assert float((out[:, 0] - atoms[nearest, 0]).abs().max()) < 0.02
    share = nearest.bincount(minlength=5) / len(out)
    assert share.tolist() == pytest.approx(torch.softmax(1.5 * r, 0).tolist(), abs=0.04)
    plain = guided(Chain(), model, n=500, steps=60, sampler=sampler, scale=80.0)
    assert float((plain > 2).float().mean()) < 0.3, "the untilted atoms are even"


THREE = Gaussians(torch.tensor([[-3.0, 0.0], [2.0, 2.0], [2.0, -2.0]]), torch.tensor([0.5, 0.3, 0.2]), 0.55)
SLOPE = torch.tensor([0.25, 0.5])


def draw(gaussians: Gaussians, n: int, seed: int = 0) -> Tensor:
    """n exact samples [n, d]."""
    key = Key.root(seed).fold("draw")
    which = torch.searchsorted(gaussians.weights.cumsum(0), key.fold("k").uniform(n)).clamp(
        max=len(gaussians.means) - 1
    )
    return (gaussians.means[which] + gaussians.spread * key.fold("z").normal(n, gaussians.means.shape[1])).float()


def test_the_bank_estimates_the_exact_tilt_at_the_rate_of_monte_carlo() -> None:
    """G against the difference of two exact denoisers; the error falls as n^(-1/2)."""
    at, tilted = Level(0.52, 0.85), THREE.tilted(2 * SLOPE)
    x = (at.alpha * draw(THREE, 64, 5) + at.sigma * ROOT.normal(64, 2)).double()
    exact = tilted.denoise(x, at) - THREE.denoise(x, at)
    errors = []
    for n in (100, 1600, 25600):
        gaps = []
        for seed in range(4):
            bank = draw(THREE, n, seed).double()
            gaps.append((shift(x, at, bank, bank @ SLOPE.double(), 2.0) - exact).square().mean())
        errors.append(float(torch.stack(gaps).mean().sqrt()))
    slope = math.log(errors[-1] / errors[0]) / math.log(256)
    assert slope == pytest.approx(-0.5, abs=0.12), errors


def test_the_tilted_posterior_of_a_mixture_is_reached() -> None:
    """Tilt 2 along (0.25, 0.5): weights .019 .968 .013, which a plain sample does not have."""
    model = Mixture(gaussians=THREE)
    bank = draw(THREE, 1000)
    lidar = Lidar(scale=1.0, tilt=2.0, until=1e-3, standardise=False).with_bank(bank.view(-1, 1, 1, 2), bank @ SLOPE)
    out = guided(lidar, model, n=800, steps=40)
    tilted = THREE.tilted(2 * SLOPE)
    near = torch.cdist(out.double(), tilted.means).argmin(1)
    assert (near.bincount(minlength=3) / len(out)).tolist() == pytest.approx(tilted.weights.tolist(), abs=0.04)
    assert out.mean(0).tolist() == pytest.approx(tilted.mean().tolist(), abs=0.15)


def test_a_gaussian_with_a_linear_reward_has_a_constant_shift() -> None:
    """sigma^2 s^2 a / (alpha^2 s^2 + sigma^2), closed form, against a large bank."""
    one, at, a = Gaussians(torch.tensor([[0.5, -1.0]]), torch.ones(1), 0.8), Level(0.6, 0.7), torch.tensor([0.7, -0.4])
    bank = draw(one, 200_000)
    x = (at.alpha * bank[:20] + at.sigma * ROOT.normal(20, 2)).double()
    exact = at.sigma**2 * 0.64 * a / (at.alpha**2 * 0.64 + at.sigma**2)
    assert torch.allclose(shift(x, at, bank.double(), (bank @ a).double()), exact.double().expand(20, 2), atol=0.05)


@pytest.mark.parametrize(("tilt", "expected"), [(0.0, 0.0), (1.0, 0.434)])
def test_the_variance_of_the_estimate_is_the_corrected_one(tilt: float, expected: float) -> None:
    """n Var -> Var(A/E[A] - B/E[B]); the printed theorem says 0.576 and 1.18 here."""
    at, n, repeats = Level(0.8, 0.6), 400, 3000
    bank = ROOT.fold("v").normal(repeats * n, 1).double()
    logits = -(0.7 - 0.8 * bank[:, 0]).square() / (2 * 0.36)
    values = (logits + tilt * bank[:, 0]).view(repeats, n).logsumexp(1) - logits.view(repeats, n).logsumexp(1)
    one = log_ratio(torch.tensor([[0.7]], dtype=torch.float64), at, bank[:n], bank[:n, 0], tilt)
    assert float(one) == pytest.approx(float(values[0]), abs=1e-9), "the estimate is the one of the method"
    a, b = (logits + tilt * bank[:, 0]).exp(), logits.exp()
    corrected = float((a / a.mean() - b / b.mean()).var())
    assert corrected == pytest.approx(expected, abs=0.01)
    assert n * float(values.var()) == pytest.approx(corrected, rel=0.1, abs=1e-12)


def test_a_weak_lookahead_lends_its_ratio_and_not_itself() -> None:
    """Gaussian target and another Gaussian bank: the shift is the difference of the bank's denoisers."""
    weak, at, a = Gaussians(torch.tensor([[0.3]]), torch.ones(1), 0.5), Level(0.5, 0.5), 1.2
    bank = draw(weak, 100_000)
    x = torch.tensor([[0.1], [0.6]], dtype=torch.float64)
    ratio = weak.tilted(torch.tensor([a])).denoise(x, at) - weak.denoise(x, at)
    assert torch.allclose(shift(x, at, bank.double(), bank[:, 0].double(), a), ratio, atol=0.02)


@pytest.mark.parametrize("sampler", [euler, ancestral, dpmpp_2m])
def test_reward_rises_with_scale(sampler: Sampler) -> None:
    model = Mixture(gaussians=THREE)
    bank = draw(THREE, 200)
    means = []
    for scale in (0.0, 0.3, 1.0):
        lidar = Lidar(scale=scale, tilt=2.0, standardise=False).with_bank(bank.view(-1, 1, 1, 2), bank @ SLOPE)
        means.append(float((guided(lidar, model, n=300, steps=25, sampler=sampler) @ SLOPE).mean()))
    assert means[0] + 0.2 < means[1] < means[2] - 0.1


@pytest.mark.parametrize("settings", [{"scale": 0.0}, {"tilt": 0.0}, {"n": 1}], ids=["scale", "tilt", "n"])
@pytest.mark.parametrize("sampler", [euler, ancestral, dpmpp_2m])
def test_off_is_the_plain_sampler_bit_for_bit_and_costs_nothing(settings: dict[str, Any], sampler: Sampler) -> None:
    model, scene = Mixture(size=6), Scene(ROOT, None, None)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ready = Lidar(**settings).prepare(scene)
    plain = guided(Chain(), model, n=5, steps=9, sampler=sampler)
    assert torch.equal(guided(ready, model, n=5, steps=9, sampler=sampler), plain)
    even = Lidar().with_bank(ROOT.normal(4, 1, 1, 6), torch.full((4,), 0.3))
    assert torch.equal(guided(even, model, n=5, steps=9, sampler=sampler), plain), "equal rewards"


def test_it_guides_while_the_time_is_above_until() -> None:
    """t > 200 of Stable Diffusion: 40 of 50 steps, 80 of 100."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    bar = (1 - betas).cumprod(0)
    for steps in (50, 100):
        times = [t for t in range(1 + 1000 - 1000 // steps, 0, -(1000 // steps))]
        levels = [Level(float(bar[t].sqrt()), float((1 - bar[t]).sqrt())) for t in times]
        assert sum(at.time > 0.364 for at in levels) == sum(t > 200 for t in times) == 0.8 * steps
    assert doses(levels[0], levels[1], ancestral)[0] * 12.5 == pytest.approx(1.41, abs=0.06)


def test_below_until_nothing_is_moved() -> None:
    """A whole step is guided or none of it: half of Heun's two evaluations would push the other way, 8 times as far."""
    model, lidar = Mixture(size=6), Lidar(until=0.5).with_bank(ROOT.normal(4, 1, 1, 6), torch.arange(4.0))
    seen: list[tuple[float, bool]] = []

    def watch(step: Step) -> Step:
        out, plain = lidar(step), step
        below = Level(0.7 * step.to.alpha + 0.3, 0.7 * step.to.sigma)
        for at, time in ((step.at, step.at.time), (step.to, step.at.time), (below, below.time)):
            if at.sigma > 0:
                moved = not torch.equal(out.denoise(step.x, at, step.rows), plain.denoise(step.x, at, step.rows))
                seen.append((time if step.at.time > 0.5 else step.at.time, moved))
        return out

    guided(Watching(watch), model, n=2, steps=8)
    assert all(moved == (time > 0.5) for time, moved in seen)
    assert {moved for _, moved in seen} == {True, False}


def test_rewards_far_from_zero_are_no_less_exact() -> None:
    """Equal up to float32's last digits at 1e6, and tilted 5000 times: still the plain sampler, bit for bit."""
    lidar = Lidar(standardise=False).with_bank(ROOT.normal(4, 1, 1, 6), torch.full((4,), 1234567.0))
    plain = guided(Chain(), Mixture(size=6), n=2, steps=8)
    assert torch.equal(guided(lidar, Mixture(size=6), n=2, steps=8), plain)


def test_cost_is_the_bank_and_nothing_else() -> None:
    spec = small_spec(steer="lidar", settings={"lidar": {"n": 5, "steps": 3}}, budget={"nfe": 60})
    executor = Local(spec)
    once, unit = executor.price()
    assert (once.nfe, once.forwards, once.decodes, once.scores) == (15, 15, 5, 5)
    assert unit.nfe == spec.steps
    _, cost = executor.prepare(INFINITE)
    assert replace(cost, seconds=0.0) == once


def test_a_run_resumes_and_its_bank_serves_another_reward(tmp_path: Path) -> None:
    """The second run decodes and scores the bank and evaluates nothing; the latents are the same."""
    words: dict[str, Any] = {"steer": "lidar", "budget": {"nfe": 60}}
    first = small_spec(**words, settings={"lidar": {"n": 5, "steps": 3}})
    resume_laws(first, tmp_path)
    engine.start(first, tmp_path / "a").close()
    own = {"lidar": {"n": 4, "run": str(tmp_path / "a")}}
    again = Local(small_spec(**words, settings=own, reward="-1*brightness"))
    assert (again.price()[0].nfe, again.price()[0].decodes, again.price()[0].scores) == (0, 4, 4)
    ready, cost = again.prepare(INFINITE)
    assert cost.nfe == 0
    kept = recorded(tmp_path / "a", first, "cpu")
    assert torch.equal(ready.parts[0].bank, kept["0.bank"][:4])  # type: ignore[attr-defined]
    assert torch.equal(ready.parts[0].rewards, -kept["0.rewards"][:4])  # type: ignore[attr-defined]
    for wrong, said in (({"n": 6}, "bank of 5"), ({"run": str(tmp_path)}, str(tmp_path))):
        with pytest.raises(FairleadError, match=said):
            Local(small_spec(**words, settings={"lidar": {**own["lidar"], **wrong}})).prepare(INFINITE)
    other = replace(small_spec(**words, settings=own), prompt="a photo of a cat")
    with pytest.raises(FairleadError, match="prompt"):
        Local(other).prepare(INFINITE)


def test_the_best_of_the_bank_stands_beside(tmp_path: Path) -> None:
    """Its picture and its reward; one decode more; the run's own pictures are what they are without."""
    own: dict[str, Any] = {"n": 5, "steps": 3}
    plain = small_spec(steer="lidar", settings={"lidar": own}, budget={"nfe": 60})
    also = small_spec(steer="lidar", settings={"lidar": {**own, "bank": "also"}}, budget={"nfe": 60})
    once, more = Local(plain).price()[0], Local(also).price()[0]
    assert replace(more, decodes=more.decodes - 1) == once
    stores = [engine.start(spec, tmp_path / name) for name, spec in (("a", plain), ("b", also))]
    rewards = [[c.reward for c in store.candidates()] for store in stores]
    assert rewards[0] == rewards[1]
    assert not (tmp_path / "a" / BANK).exists()
    pixels, data = read((tmp_path / "b" / BANK).read_bytes())
    shown = View.read(tmp_path / "b").bank
    assert shown == (data["reward"], tmp_path / "b" / BANK)
    assert data["reward"] == pytest.approx(float(recorded(tmp_path / "b", also, "cpu")["0.rewards"].max()))
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    assert float(Brightness()(image, ["x"])[0]) == pytest.approx(data["reward"], abs=5e-3)
    (tmp_path / "b" / BANK).unlink()
    engine.resume(tmp_path / "b", budget={"nfe": 80.0})
    assert (tmp_path / "b" / BANK).is_file(), "kept with the bank"
    with pytest.raises(FairleadError, match=r"lidar.bank is 'best': must be 'also' or 'drafts', or leave it out"):
        Lidar(bank="best")


def test_a_distilled_sibling_draws_the_bank() -> None:
    spec = small_spec(
        steer="lidar",
        budget={"nfe": 60},
        settings={"lidar": {"n": 4, "steps": 1, "model": {"name": "mixture", "seed": 5}}},
    )
    executor = Local(spec)
    ready, cost = executor.prepare(INFINITE)
    assert (cost.nfe, cost.forwards) == (4, 4)
    keys = tuple(Key.root(0).fold("scene").fold("lidar", i).fold("init") for i in range(4))
    x = normals(keys, 1, 1, 8)
    expected = Mixture(seed=5).gaussians.denoise(x.flatten(1), Level(0.0, 1.0))
    assert torch.allclose(ready.parts[0].bank.flatten(1), expected.float(), atol=1e-6)  # type: ignore[attr-defined]


def scene(values: Tensor) -> Scene:
    """A scene whose renderer gives normals and whose reward gives those values."""
    left = values.clone()

    def score(z: Tensor) -> Tensor:
        nonlocal left
        out, left = left[: len(z)], left[len(z) :]
        return out

    return Scene(ROOT, lambda keys, steps, **more: normals(keys, 1, 1, 3), score, batch=3)


def test_pictures_without_a_number_are_left_out() -> None:
    values = torch.tensor([0.1, math.nan, 0.5, math.inf, -math.inf, 0.2])
    ready = Lidar(n=6).prepare(scene(values))
    assert ready.rewards is not None
    assert isinstance(ready.bank, Tensor)
    assert ready.rewards.tolist() == pytest.approx([0.1, 0.5, 0.2])
    assert torch.equal(ready.bank, normals(tuple(ROOT.fold("lidar", i) for i in (0, 2, 5)), 1, 1, 3)), (
        "pieces keep their order"
    )
    with pytest.raises(FairleadError, match="1 of 3"):
        Lidar(n=3).prepare(scene(torch.tensor([math.nan, 0.3, math.nan])))


def test_one_sample_is_a_warning() -> None:
    with pytest.warns(UserWarning, match="lidar.n is 1"):
        assert Lidar(n=1).prepare(scene(torch.ones(1))).bank is None


def test_an_overdose_is_a_warning_and_the_usual_scale_is_none() -> None:
    bank, model = ROOT.normal(4, 1, 1, 6), Mixture(size=6)
    strong = Lidar(scale=2.5).with_bank(bank, torch.arange(4.0))
    with pytest.warns(UserWarning, match=f"at most {HIGHEST_DOSE:g}"):
        guided(strong, model, n=2, steps=8)
    for sampler in (euler, ancestral):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            guided(Lidar().with_bank(bank, torch.arange(4.0)), model, n=2, steps=8, sampler=sampler)


def test_rewards_of_another_scale_guide_alike() -> None:
    """Standardised: a reward in hundredths and its hundredfold give one sample."""
    bank, model, r = ROOT.normal(9, 1, 1, 6), Mixture(size=6), ROOT.fold("r").normal(9)
    outs = [guided(Lidar(tilt=2.0).with_bank(bank, c * r), model, n=3, steps=8) for c in (0.01, 1.0, 100.0)]
    assert torch.allclose(outs[0], outs[1], atol=1e-4)
    assert torch.allclose(outs[0], outs[2], atol=1e-4)
    raw = [guided(Lidar(tilt=2.0, standardise=False).with_bank(bank, c * r), model, n=3, steps=8) for c in (0.01, 1.0)]
    assert not torch.allclose(raw[0], raw[1], atol=1e-2)


def test_standardised_rewards_have_the_tilt_for_a_standard_deviation() -> None:
    r = ROOT.fold("skewed").normal(9).square()
    tilted = Lidar(tilt=3.0).with_bank(ROOT.normal(9, 1, 1, 6), r).tilting()
    assert float(tilted.std()) == pytest.approx(3.0)
    assert float(tilted.max()) == 0.0
    torch.testing.assert_close(tilted, 3.0 * (r - r.max()) / r.std())
    plain = Lidar(tilt=3.0, standardise=False).with_bank(ROOT.normal(9, 1, 1, 6), r).tilting()
    torch.testing.assert_close(plain, 3.0 * (r - r.max()))


@pytest.mark.filterwarnings("ignore:lidar.scale")
@pytest.mark.parametrize(("preset", "power"), [("sd15", 0), ("sdxl", 0), ("flux", 1)])
def test_a_preset_moves_predictions_by_its_scale(preset: str, power: int) -> None:
    """scale * G, and scale * alpha/sigma * G where the scale is a factor in the velocity: -sigma * 40 G / sigma^2."""
    model, r = Mixture(size=6), 1e-4 * torch.arange(4.0)
    lidar = Lidar(preset=preset, until=0.5).with_bank(ROOT.normal(4, 1, 1, 6), r)
    bank = lidar.bank
    assert isinstance(bank, Tensor)
    seen = []

    def watch(step: Step) -> Step:
        out, plain = lidar(step), step
        if step.at.time > 0.5 and step.at.alpha > 0:
            x = step.x.float().flatten(1)
            moved = out.denoise(step.x, step.at, step.rows) - plain.denoise(step.x, step.at, step.rows)
            g = shift(x, step.at, bank.flatten(1), r, PRESETS[preset]["tilt"])
            expected = PRESETS[preset]["scale"] * (step.at.alpha / step.at.sigma) ** power * g
            torch.testing.assert_close(moved.flatten(1), expected, rtol=1e-3, atol=1e-4)
            seen.append(float(g.norm()))
        return out

    guided(Watching(watch), model, n=2, steps=8)
    assert max(seen) > 0.1


def test_presets_are_the_published_values() -> None:
    assert [p["steps"] for p in PRESETS.values()] == [5, 8, 8]
    assert [p["per"] for p in PRESETS.values()] == ["clean", "clean", "velocity"]
    assert not any(p["standardise"] for p in PRESETS.values())
    assert [p["until"] for p in PRESETS.values()] == [0.364, 0.364, 0.95]
    usual = {"n": 16, "steps": 4, "scale": None, "tilt": 5000.0, "until": 0.364, "standardise": True, "per": "clean"}
    assert usual == USUAL
    assert PRESETS["sd15"]["until"] == PRESETS["sdxl"]["until"] == SD_UNTIL == 0.364
    assert [(p["scale"], p["tilt"], p["n"]) for p in PRESETS.values()] == [
        (12.5, 5000, 50),
        (8.0, 5000, 50),
        (40.0, 5000, 50),
    ]
    assert PRESETS["flux"]["until"] == 0.95
    sigmas = [3.158 * s / (1 + 2.158 * s) for s in (1 - i / 28 for i in range(28))]
    assert sum(s > 0.95 for s in sigmas) == 4, "4 of 28 steps under the 1024 pixel shift"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"n": 0}, "lidar.n"),
        ({"n": 2.5}, "lidar.n"),
        ({"steps": 0}, "lidar.steps"),
        ({"scale": -1}, "lidar.scale"),
        ({"tilt": math.nan}, "lidar.tilt"),
        ({"tilt": "high"}, "lidar.tilt"),
        ({"until": 0.0}, "(0, 1]"),
        ({"until": 200}, "until"),
        ({"preset": "sd3"}, "sdxl"),
        ({"sampler": "dpm"}, "dpmpp_2m"),
    ],
)
def test_wrong_settings_are_one_sentence(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(FairleadError) as error:
        Lidar(**settings)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_reward_that_ranks_is_refused() -> None:
    with pytest.raises(FairleadError, match="zscore"):
        Local(small_spec(steer="lidar", reward="rank_mean(brightness, jpeg_size)"))


def test_what_rounding_tells_apart_is_no_preference() -> None:
    """Standardised rewards that differ in their last digits only: the plain sampler, bit for bit."""
    model, r = Mixture(size=6), 78.7 + torch.tensor([0.0, 8e-6, -8e-6, 0.0])
    assert float(r.std()) > 0
    plain = guided(Chain(), model, n=2, steps=8)
    assert torch.equal(guided(Lidar().with_bank(ROOT.normal(4, 1, 1, 6), r), model, n=2, steps=8), plain)


def test_two_banks_of_a_chain_keep_their_own_strength() -> None:
    model, r = Mixture(size=6), torch.arange(4.0)
    weak, strong = (
        Lidar(scale=s, tilt=0.5).with_bank(ROOT.fold(i).normal(4, 1, 1, 6), r) for i, s in enumerate((0.1, 1.0))
    )
    a = guided(Chain((weak, strong)), model, n=2, steps=8)
    b = guided(Chain((strong, weak)), model, n=2, steps=8)
    assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("settings", [{"until": 1.0}, {"preset": "flux", "until": 0.95}])
def test_a_window_without_a_step_is_a_warning(settings: dict[str, Any]) -> None:
    lidar = Lidar(**settings).with_bank(ROOT.normal(4, 1, 1, 6), torch.arange(4.0))
    with pytest.warns(UserWarning, match="guides none of 8 steps"):
        out = guided(lidar, Mixture(size=6), n=2, steps=8)
    assert torch.equal(out, guided(Chain(), Mixture(size=6), n=2, steps=8))


def ladders() -> dict[str, list[Level]]:
    """The noise levels of every family at few and many steps."""
    import diffusers

    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    out: dict[str, list[Level]] = {}
    for steps in (4, 20, 50):
        out[f"SD {steps}"] = Discrete(diffusers.DDIMScheduler(**betas, steps_offset=1)).levels(steps)
        out[f"SDXL {steps}"] = Discrete(diffusers.EulerDiscreteScheduler(**betas)).levels(steps)
        karras = diffusers.DPMSolverMultistepScheduler(**betas, use_karras_sigmas=True)
        out[f"Karras {steps}"] = Discrete(karras).levels(steps)
        for shift in (1.0, 3.158):
            scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
            scheduler.set_timesteps(steps)
            out[f"flow, shift {shift}, {steps}"] = flow_levels(scheduler)
    return out


@pytest.mark.parametrize("sampler", [euler, ancestral, dpmpp_2m, heun, consistency], ids=lambda s: s.__name__)
def test_the_dose_of_every_step_is_bounded_for_every_family(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured: how far a step moves x/alpha where the displacement is 1 and the model predicts 0."""
    monkeypatch.setattr("fairlead.steering.lidar.displacement", lambda x, *rest: torch.ones_like(x))
    lidar = Lidar().with_bank(ROOT.normal(4, 1, 1, 6), torch.arange(4.0))
    for name, levels in ladders().items():
        model, measured = Mixture(size=6), list[float]()
        monkeypatch.setattr(model, "predict", lambda x, *rest: torch.zeros_like(x))
        monkeypatch.setattr(model, "levels", lambda steps, own=levels: own)

        def watch(step: Step, measured: list[float] = measured) -> Step:
            out = lidar(step).solved()
            if step.at.time > SD_UNTIL:
                none = torch.zeros_like(step.x)
                plain = sampler(lambda y, at: 0 * y, step.x, none, step.at, step.to, none, None)
                measured.append(float((out.advance(none, step.rows) - plain).mean()) / step.to.alpha)
            return out

        guided(Watching(watch), model, n=1, steps=len(levels) - 1, sampler=sampler)
        assert len(measured) > 1, name
        assert measured == pytest.approx([DOSE] * len(measured), abs=1e-3), name


def test_the_scale_of_a_level_between_two_steps_is_that_of_the_step_that_passes_it() -> None:
    scales = [(1.0, 1.2), (0.8, 2.0), (0.5, 3.0)]
    found = [scale_at(scales, Level(1 - t, t)) for t in (1.0, 0.9, 0.8, 0.6, 0.5, 0.1)]
    assert found == [1.2, 1.2, 2.0, 2.0, 3.0, 3.0]
    assert scale_at(scales[1:], Level(0.1, 0.9)) == 2.0
    assert scale_at([], Level(0.5, 0.5)) == 0.0


def test_two_samples_are_enough_for_a_comparison_and_none_warns_when_it_is_off() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Lidar(n=2, scale=0.0).prepare(scene(torch.ones(2))).bank is None


def test_a_displacement_is_computed_in_whole_float32_and_leaves_the_switch_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    matmul = torch.backends.cuda.matmul
    during: list[bool] = []
    softmax = torch.softmax
    monkeypatch.setattr(torch, "softmax", lambda *words: (during.append(matmul.allow_tf32), softmax(*words))[1])
    before = matmul.allow_tf32
    try:
        for chosen in (True, False):
            matmul.allow_tf32 = chosen
            bank = ROOT.normal(4, 6)
            displacement(ROOT.normal(2, 6), Level(0.5, 0.5), bank, bank.square().sum(1) / 2, torch.zeros(4))
            assert matmul.allow_tf32 is chosen
    finally:
        matmul.allow_tf32 = before
    assert during == [False] * 4


def test_the_usual_dose_lies_among_the_published_ones() -> None:
    assert 0.9 <= DOSE <= 1.4 < HIGHEST_DOSE < 1.9
