"""Metrics of groups: closed forms first, then real encoders."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fairlead.core.diverse import pick, standard
from fairlead.core.errors import FairleadError
from fairlead.core.key import Key
from fairlead.metrics import features
from fairlead.metrics.features import Encoder, Pixels
from fairlead.metrics.pairs import MeanDreamSim, MeanLpips, MeanSsim, ssim
from fairlead.metrics.vendi import MeanCosine, VendiScore, kernel, mean_cosine, pairwise_vendi, vendi
from items import pocket_ready


def equal(c: float, n: int) -> torch.Tensor:
    return torch.full((n, n), c, dtype=torch.float64) + (1 - c) * torch.eye(n, dtype=torch.float64)


@pytest.mark.parametrize(
    ("c", "n", "known"), [(0.99, 2, 1.0320), (0.9, 4, 1.4173), (0.5, 8, 4.6490), (0.999, 8, 1.0088)]
)
def test_vendi_of_equal_cosines(c: float, n: int, known: float) -> None:
    assert float(vendi(equal(c, n))) == pytest.approx(known, abs=1e-4)
    high, low = (1 + (n - 1) * c) / n, (1 - c) / n
    assert float(vendi(equal(c, n), 2)) == pytest.approx(1 / (high**2 + (n - 1) * low**2))
    assert float(vendi(equal(c, n), math.inf)) == pytest.approx(1 / high)
    assert float(vendi(equal(c, n), 1.0001)) == pytest.approx(known, abs=1e-3)
    assert float(pairwise_vendi(equal(c, n))) == pytest.approx(float(vendi(equal(c, 2))))
    assert float(mean_cosine(equal(c, n))) == pytest.approx(c)


@pytest.mark.parametrize("q", [0.5, 1.0, 2.0, math.inf])
def test_vendi_counts(q: float) -> None:
    """Pictures alike count once; m clusters of one size count m; opposite directions are alike."""
    assert float(vendi(equal(1.0, 5), q)) == pytest.approx(1)
    assert float(vendi(equal(0.0, 5), q)) == pytest.approx(5)
    assert float(vendi(torch.block_diag(*[torch.ones(3, 3)] * 4), q)) == pytest.approx(4)
    assert float(vendi(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), q)) == pytest.approx(1)
    x = Key.root(1).normal(3, 6, 10)
    one = vendi(kernel(x), q)
    assert one.shape == (3,)
    assert bool(((one >= 1) & (one <= 6)).all())
    torch.testing.assert_close(vendi(kernel(x[0]), q), one[0])
    torch.testing.assert_close(
        vendi(kernel(7 * x[:, torch.randperm(6, generator=torch.Generator().manual_seed(0))]), q), one
    )
    with pytest.raises(FairleadError, match="must be a number >= 0"):
        vendi(equal(0.0, 2), -1)


def test_a_zero_vector_has_no_likeness() -> None:
    assert torch.equal(kernel(torch.tensor([[0.0, 0.0], [1.0, 0.0]])), torch.eye(2, dtype=torch.float64))


def test_ssim() -> None:
    x = Key.root(2).uniform(3, 3, 24, 20).float()
    torch.testing.assert_close(ssim(x, x), torch.ones(3, dtype=torch.float64))
    grey, light = torch.full((1, 3, 16, 16), 0.25), torch.full((1, 3, 16, 16), 0.75)
    assert float(ssim(grey, light)) == pytest.approx((2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4))
    noisy = (x + 0.1 * Key.root(3).normal(3, 3, 24, 20)).clamp(0, 1)
    assert bool((ssim(x, noisy) < 0.99).all() and (ssim(x, 1 - x) < 0).all())
    torch.testing.assert_close(ssim(x, noisy), ssim(noisy, x))
    assert MeanSsim()(x[[0, 0]], ["a"] * 2) == pytest.approx(1)
    with pytest.raises(FairleadError, match="at least 2"):
        MeanSsim()(x[:1], ["a"])
    with pytest.raises(FairleadError, match="window"):
        ssim(x[..., :8], x[..., :8])


def test_ssim_by_the_formula_in_one_window() -> None:
    """Equation 13 written out for a picture of 11 pixels, where the window fits once."""
    x, y = Key.root(7).uniform(2, 3, 11, 11).double()
    place = torch.arange(-5.0, 6.0, dtype=torch.float64)
    weight = (-(place[:, None] ** 2 + place**2) / 4.5).exp()
    weight = weight / weight.sum()
    a, b = (0.299 * v[0] + 0.587 * v[1] + 0.114 * v[2] for v in (x, y))
    mean_a, mean_b = float((weight * a).sum()), float((weight * b).sum())
    var_a = float((weight * (a - mean_a) ** 2).sum())
    var_b = float((weight * (b - mean_b) ** 2).sum())
    shared = float((weight * (a - mean_a) * (b - mean_b)).sum())
    top = (2 * mean_a * mean_b + 1e-4) * (2 * shared + 9e-4)
    expected = top / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4))
    assert float(ssim(x[None], y[None])) == pytest.approx(expected, rel=1e-6)


def test_pairs_are_every_two_pictures_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """LPIPS sees pictures in [-1, 1], DreamSim in [0, 1] at 224 pixels."""
    x = torch.stack([torch.full((3, 16, 16), v) for v in (0.0, 0.25, 1.0)])
    seen: list[torch.Tensor] = []

    def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        seen.extend([a, b])
        return (a - b).abs().mean((1, 2, 3))

    lpips = MeanLpips.__new__(MeanLpips)
    lpips._net = distance
    assert lpips(x, ["a"] * 3) == pytest.approx(2 * (0.25 + 1.0 + 0.75) / 3)
    assert (float(seen[0].min()), float(seen[1].max())) == (-1.0, 1.0)
    seen.clear()
    dreamsim = MeanDreamSim.__new__(MeanDreamSim)
    dreamsim._net = distance
    assert dreamsim(x, ["a"] * 3) == pytest.approx((0.25 + 1.0 + 0.75) / 3, abs=1e-5)
    assert seen[0].shape == (3, 3, 224, 224)
    with pytest.raises(FairleadError, match="at least 2"):
        lpips(x[:1], ["a"])


def test_pairwise_scores_of_unlike_pairs() -> None:
    """Cosines 0, 1 and -1: the effective numbers of two pictures are 2, 1 and 1."""
    k = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, -1.0], [1.0, -1.0, 1.0]])
    assert float(pairwise_vendi(k)) == pytest.approx(4 / 3)
    half = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
    expected = math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert float(pairwise_vendi(half)) == pytest.approx(expected)
    assert pairwise_vendi(torch.stack([half, torch.eye(2)])).tolist() == pytest.approx([expected, 2.0])
    assert float(pairwise_vendi(torch.tensor([[1.0, 1.3], [1.3, 1.0]]))) == pytest.approx(1), "rounding is clamped"
    assert float(mean_cosine(k)) == 0


def test_metrics_are_their_functions_of_the_features() -> None:
    x = Key.root(8).normal(5, 12)
    k = kernel(x)
    pictures, prompts = torch.zeros(5, 3, 8, 8), ["a"] * 5
    assert VendiScore(lambda images: x)(pictures, prompts) == pytest.approx(float(vendi(k)))
    assert VendiScore(lambda images: x, q=2)(pictures, prompts) == pytest.approx(float(vendi(k, 2)))
    assert VendiScore(lambda images: x, pairwise=True)(pictures, prompts) == pytest.approx(float(pairwise_vendi(k)))
    assert MeanCosine(lambda images: x)(pictures, prompts) == pytest.approx(float(mean_cosine(k)))


def test_pixels_are_small_and_without_their_mean() -> None:
    x = Key.root(9).uniform(2, 3, 8, 12).float()
    small = x.view(2, 3, 4, 2, 4, 3).mean((3, 5)).flatten(1)
    torch.testing.assert_close(Pixels(4)(x), small - small.mean(1, keepdim=True))
    assert Pixels()(x).shape == (2, 3 * 16**2)


@pytest.mark.parametrize("make", [MeanLpips, MeanDreamSim])
def test_extras_say_what_they_need(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairlead.metrics.pairs.find_spec", lambda name: None)
    with pytest.raises(FairleadError, match="torchvision: pip install"):
        make()


def test_features_that_are_no_numbers_are_a_sentence() -> None:
    x = torch.eye(4)
    x[2, 1], x[3, 0] = math.nan, math.inf
    for metric in (VendiScore(lambda images: x), VendiScore(lambda images: x, q=2), MeanCosine(lambda images: x)):
        with pytest.raises(FairleadError, match="2 of 4 pictures are not finite"):
            metric(torch.zeros(4, 3, 8, 8), ["a"] * 4)


def test_features() -> None:
    x = Key.root(4).uniform(4, 3, 40, 32).float()
    assert Pixels(4)(x).shape == (4, 48)
    assert VendiScore(Pixels())(x[[0, 0, 0]], ["a"] * 3) == pytest.approx(1)
    assert 1.5 < VendiScore(Pixels())(x, ["a"] * 4) <= 4
    assert VendiScore(Pixels(), pairwise=True)(x, ["a"] * 4) <= 2
    assert MeanCosine(Pixels())(x, ["a"] * 4) < 0.5
    with pytest.raises(
        FairleadError, match=r"No image encoder could be loaded from '/nowhere/at/all' \([^\n]+\)\. Use"
    ):
        Encoder("/nowhere/at/all")


def test_the_default_encoder_is_the_packages_clip() -> None:
    if not pocket_ready():
        pytest.skip("the embedded model is not in the package")
    from fairlead.pocket import load
    from fairlead.rewards._clip import clip

    x = Key.root(5).uniform(2, 3, 64, 64).float()
    ours = torch.nn.functional.normalize(Encoder()(x), dim=-1)
    torch.testing.assert_close(ours, clip(str(load.clip_folder()), "cpu", None, None).images(x), rtol=1e-4, atol=1e-5)


def test_other_encoders(tmp_path: Any) -> None:
    """A DINOv2 by its first token or pooled output, from a folder."""
    from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Dinov2Model(
            Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
        )
    net.save_pretrained(tmp_path)
    BitImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(tmp_path)
    assert Encoder(str(tmp_path))(torch.rand(2, 3, 40, 50, generator=torch.Generator().manual_seed(0))).shape == (2, 16)


@pytest.mark.parametrize(
    ("processor", "settings"),
    [
        ("BitImageProcessorPil", {"size": {"shortest_edge": 32}, "crop_size": {"height": 28, "width": 28}}),
        ("ViTImageProcessorPil", {"size": {"height": 28, "width": 42}}),
    ],
)
def test_an_encoder_sees_what_its_own_processor_makes(processor: str, settings: dict[str, Any], tmp_path: Any) -> None:
    """Sizes of the processor, not of the network's configuration."""
    import transformers

    net = transformers.Dinov2Model(
        transformers.Dinov2Config(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=70, patch_size=14
        )
    )
    net.save_pretrained(tmp_path)
    own = getattr(transformers, processor)(**settings)
    own.save_pretrained(tmp_path)
    encoder, seen = Encoder(str(tmp_path)), []
    encoder._net.register_forward_pre_hook(lambda m, a, words: seen.append(words["pixel_values"]), with_kwargs=True)
    picture = F.interpolate(Key.root(6).uniform(1, 3, 6, 8).float(), (60, 80), mode="bicubic").clamp(0, 1)
    picture = (picture * 255).round() / 255
    encoder(picture)
    expected = own((picture[0] * 255).byte().permute(1, 2, 0).numpy(), return_tensors="pt")["pixel_values"]
    assert seen[0].shape == expected.shape
    assert float((seen[0] - expected).abs().max()) < 0.05


# k of n


def test_pick_is_the_greedy_determinant() -> None:
    x = Key.root(6).normal(7, 4)
    k, quality = kernel(x) * 0.9 + 0.1 * torch.eye(7), Key.root(6).fold("q").normal(7) * 0.5
    weighted = quality.double().exp()[:, None] * k * quality.double().exp()
    chosen: list[int] = []
    while len(chosen) < 4:
        rest = [i for i in range(7) if i not in chosen]
        chosen.append(max(rest, key=lambda i: float(torch.det(weighted[[*chosen, i]][:, [*chosen, i]]))))
    assert pick(k, quality, 4) == chosen


def test_pick_between_the_best_and_the_most_different() -> None:
    clusters = torch.block_diag(*[0.95 * torch.ones(3, 3) + 0.05 * torch.eye(3)] * 3)
    quality = torch.tensor([3.0, 2.9, 2.8, 1.0, 0.9, 0.8, 0.5, 0.4, 0.3])
    assert {i // 3 for i in pick(clusters, 0 * quality, 3)} == {0, 1, 2}
    assert pick(clusters, 0.3 * quality, 3) == [0, 3, 6]
    assert sorted(pick(clusters, 100 * quality, 3)) == [0, 1, 2]
    best = max(itertools.combinations(range(9), 3), key=lambda s: float(torch.det(clusters[list(s)][:, list(s)])))
    assert {i // 3 for i in best} == {0, 1, 2}


def test_pick_with_failures_and_twins() -> None:
    quality = torch.tensor([math.nan, 1.0, 1.0, 1.0])
    assert pick(torch.ones(4, 4), quality, 3) == [1, 2, 3], "copies are chosen last, not refused"
    for n in (0, 4):
        with pytest.raises(FairleadError, match="keep from 1 to 3"):
            pick(torch.ones(4, 4), quality, n)
    assert standard(torch.tensor([2.0, 4.0, math.nan])).tolist()[:2] == [-1.0, 1.0]
    assert standard(torch.tensor([2.0, 2.0])).tolist() == [0.0, 0.0]


def test_an_encoder_without_its_own_normalisation_has_that_of_imagenet() -> None:
    from transformers import image_utils as published

    assert list(features.MEAN) == published.IMAGENET_DEFAULT_MEAN
    assert list(features.STD) == published.IMAGENET_DEFAULT_STD
