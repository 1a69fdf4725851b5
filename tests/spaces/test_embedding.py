"""The prompt embedding as a vector: sizes, order, identity at zero, trust region, gradients; on every family that has
one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from PIL import Image
from torch import Tensor

import tiny_pipelines as tiny
from fairlead.core.cost import INFINITE, Meter
from fairlead.core.errors import FairleadError
from fairlead.core.key import Key, normals
from fairlead.core.model import Conditioning, Shape
from fairlead.core.samplers import ancestral, euler
from fairlead.core.sampling import sample
from fairlead.models.mixture import Mixture
from fairlead.models.sd import StableDiffusion
from fairlead.models.sd3 import StableDiffusion3
from fairlead.models.sdxl import StableDiffusionXL
from fairlead.run import engine, registry
from fairlead.run.executor import Local
from fairlead.run.spec import Part
from fairlead.spaces.embedding import Embedding, spread
from fairlead.spaces.product import Product
from fairlead.testing.runs import answers, small_spec

KEYS = tuple(Key.root(3).fold("candidate", i) for i in range(2))
DISCRETE = {**tiny.SCALED, "timestep_spacing": "trailing"}


def told(tokens: tuple[int, int] = (5, 4), pooled: int = 3, **extra: Tensor) -> Conditioning:
    more = {"pooled": 9 * Key.root(2).normal(1, pooled)} if pooled else {}
    return Conditioning(Key.root(1).normal(1, *tokens), ("a dog",), {**more, **extra})


def shape(cond: Conditioning) -> Shape:
    return Shape((1, 1, 8), (cond.tokens.shape[1], cond.tokens.shape[2]), cond)


def test_sdxl_has_158976_numbers() -> None:
    cond = Conditioning(
        torch.zeros(1, 77, 2048), ("",), {"pooled": torch.zeros(1, 1280), "time_ids": torch.zeros(1, 6)}
    )
    assert Embedding(shape(cond)).dim == 158_976


def test_tokens_come_first_row_by_row_then_the_pooled_vector() -> None:
    cond = told(time_ids=torch.ones(1, 6))
    space = Embedding(shape(cond), unit="one", tokens=2.0, pooled=0.5)
    x = torch.arange(23.0)[None]
    moved = space.move(x, cond)
    assert torch.equal(moved.tokens, cond.tokens + 2 * torch.arange(20.0).view(1, 5, 4))
    assert torch.equal(moved.extra["pooled"], cond.extra["pooled"] + 0.5 * torch.tensor([20.0, 21.0, 22.0]))
    assert torch.equal(moved.extra["time_ids"], cond.extra["time_ids"])


def test_absolute_is_the_embedding_itself() -> None:
    cond = told()
    space = Embedding(shape(cond), unit="one", form="absolute")
    x = space.draw(KEYS[0])
    assert torch.equal(x, torch.cat([cond.tokens.flatten(), cond.extra["pooled"].flatten()]))
    other = torch.randn(1, 23, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(space.move(other, cond).tokens.flatten(), other[0, :20], atol=1e-6)
    before = x.clone()
    x.add_(1)
    assert torch.equal(space.draw(KEYS[0]), before), "a draw is a copy"


def test_units_are_the_spread_of_each_tensor() -> None:
    cond = told((40, 50), 2000)
    moved = Embedding(shape(cond)).move(torch.ones(1, 4000), cond)
    assert float((moved.tokens - cond.tokens).mean()) == pytest.approx(1, rel=0.1)
    assert float((moved.extra["pooled"] - cond.extra["pooled"]).mean()) == pytest.approx(9, rel=0.1)
    assert spread(torch.zeros(3)) == 1.0
    wild = Key.root(1).normal(10_000)
    wild[:3] = 850
    assert float(wild.std()) > 10 > 2 > spread(wild), "a few huge entries do not set the scale"


def test_what_is_left_out_does_not_move() -> None:
    cond = told(mask=torch.tensor([[1, 1, 1, 0, 0]]))
    for settings, rows, dim in (
        ({}, [0, 1, 2], 15),
        ({"first": 1, "last": 3}, [1, 2], 11),
        ({"pooled": 0}, [0, 1, 2], 12),
        ({"tokens": 0}, [], 3),
    ):
        space = Embedding(shape(cond), **settings)  # type: ignore[arg-type]
        assert space.dim == dim
        moved = space.move(torch.ones(1, dim), cond)
        changed = (moved.tokens != cond.tokens).all(2)[0].nonzero().flatten().tolist()
        assert changed == rows
        assert torch.equal(moved.extra["pooled"], cond.extra["pooled"]) == (settings.get("pooled") == 0)


def test_the_trust_region_holds_and_leaves_what_is_inside() -> None:
    cond = told()
    free, bound = (Embedding(shape(cond), unit="one", radius=r) for r in (None, 0.5))
    near, far = 0.4 * torch.ones(1, 23), torch.linspace(-3, 3, 23)[None]
    assert torch.equal(bound.move(near, cond).tokens, free.move(near, cond).tokens)
    step = torch.cat([(bound.move(far, cond).text[k] - cond.text[k]).flatten() for k in cond.text])
    assert float(step.square().mean().sqrt()) == pytest.approx(0.5, rel=1e-5)
    assert torch.allclose(step / step.norm(), far[0] / far.norm(), atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"unit": "sprad"}, "spread"),
        ({"form": "delta"}, "embedding.form"),
        ({"tokens": -1}, "embedding.tokens is -1"),
        ({"pooled": float("nan")}, "embedding.pooled is nan"),
        ({"radius": 0}, "embedding.radius is 0"),
        ({"tokens": 0, "pooled": 0}, "Nothing moves"),
        ({"first": 5}, "must be 0 <= first < last <= 5"),
        ({"first": 0.5}, "embedding.first is 0.5"),
        ({"last": True}, "embedding.last is True"),
        ({"form": "absolute"}, "unit='one'"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(FairleadError, match=said):
        Embedding(shape(told()), **settings)


def test_a_space_that_was_told_no_prompt_says_so() -> None:
    with pytest.raises(FairleadError, match="encoded prompt"):
        Embedding(Shape((1, 1, 8), (5, 4)))


def families(tiny_flux: Callable[..., Any]) -> dict[str, Callable[[], Any]]:
    euler_ = diffusers.EulerDiscreteScheduler(**DISCRETE)
    return {
        "sd": lambda: StableDiffusion(tiny.sd(euler_), guidance_scale=3.0),
        "sdxl": lambda: StableDiffusionXL(tiny.sdxl(euler_), guidance_scale=0),
        "sd3": lambda: StableDiffusion3(tiny.sd3(diffusers.FlowMatchEulerDiscreteScheduler()), guidance_scale=3.0),
        "flux": lambda: tiny_flux(true_cfg_scale=2.0),
        "mixture": Mixture,
    }


@pytest.mark.parametrize("form", ["shift", "absolute"])
@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux", "mixture"])
def test_zero_is_the_plain_picture_and_every_tensor_has_a_gradient(
    family: str, form: str, tiny_flux: Callable[..., Any]
) -> None:
    model = families(tiny_flux)[family]()
    one = model.encode(["a red apple"])
    cond = one.take(torch.zeros(2, dtype=torch.int64))
    on = Shape(model.latent, (one.tokens.shape[1], one.tokens.shape[2]), one)
    space = Embedding(on, unit="one", form=form)
    assert space.dim == sum(t[0].numel() for t in one.text.values())
    assert ("pooled" in one.text) == (family in ("sdxl", "sd3", "flux"))
    meter, levels = Meter(), model.levels(2)
    model.meter(meter)
    x = normals(tuple(k.fold("init") for k in KEYS), *model.latent)
    points = torch.stack([space.draw(k) for k in KEYS]).requires_grad_()
    with meter.grant(INFINITE):
        with torch.no_grad():
            plain = sample(model, euler, x, cond, levels, KEYS, meter)
        latents, moved = space.place(points, model, cond, KEYS)
        assert torch.equal(latents, x)
        out = sample(model, euler, latents, moved, levels, KEYS, meter)
        assert torch.equal(out, plain)
        (slope,) = torch.autograd.grad(out.square().sum(), points)
    for part in slope.split([t[0].numel() for t in one.text.values()], 1):
        assert (part.abs().amax(1) > 0).all()
    assert all(p.grad is None and not p.requires_grad for p in getattr(model, "networks", list)())


@pytest.mark.parametrize("sampler", [euler, ancestral])
def test_gradients_through_the_sampler_are_finite_differences(sampler: Any) -> None:
    """Through recomputed steps as well: the embedding is told to every step, the noise to the first alone."""
    model = Mixture()
    cond = model.encode(["a dog"])
    space = Product(Shape(model.latent, (1, 8), cond), sphere=True)
    meter, way = Meter(), Key.root(4).normal(1, 16)
    model.meter(meter)
    start = space.draw(KEYS[0])[None] + 0.1 * Key.root(5).normal(1, 16)

    def value(x: Tensor) -> Tensor:
        latents, moved = space.place(x, model, cond, KEYS[:1])
        return sample(model, sampler, latents, moved, model.levels(4), KEYS[:1], meter).double().square().sum()

    with meter.grant(INFINITE):
        x = start.clone().requires_grad_()
        (slope,) = torch.autograd.grad(value(x), x)
        with torch.no_grad():
            numeric = (value(start + 5e-3 * way) - value(start - 5e-3 * way)) / 1e-2
    assert float((slope * way).sum()) == pytest.approx(float(numeric), rel=2e-3)


def test_product_is_the_plain_sample_at_its_draw_and_stays_on_the_shell() -> None:
    model = Mixture()
    cond = model.encode(["a dog", "a dog"])
    on = Shape(model.latent, (1, 8), model.encode(["a dog"]))
    space, noise = Product(on), registry.build("spaces", Part("noise"), on)
    points = torch.stack([space.draw(k) for k in KEYS])
    plain = torch.stack([noise.draw(k) for k in KEYS])
    latents, moved = space.place(points, model, cond, KEYS)
    assert torch.equal(latents, noise.place(plain, model, cond, KEYS)[0])
    assert torch.equal(moved.tokens, cond.tokens)
    far, _ = space.place(3 * points + 1, model, cond, KEYS)
    assert torch.allclose(far.flatten(1).norm(dim=1), plain.norm(dim=1))
    free, _ = Product(on, sphere=False).place(3 * points, model, cond, KEYS)
    assert torch.allclose(free, 3 * latents)


@pytest.mark.parametrize("space", ["embedding", "product"])
@pytest.mark.parametrize("search", ["adam", "sep_cma", "best_of"])
def test_candidate_zero_is_the_baseline_and_the_price_is_the_bill(space: str, search: str, tmp_path: Path) -> None:
    spec = small_spec(space=space, search=search, budget={"nfe": 24.0})
    store = engine.start(spec, tmp_path / "run")
    local = Local(spec)
    _, unit = local.price()
    n = len(store.candidates())
    assert (n, unit.forwards) == (6, 8 if search == "adam" else 4), "with a gradient every step is computed twice"
    spent = store.spent()
    assert (spent.nfe, spent.forwards, spent.backwards) == (unit.nfe * n, unit.forwards * n, unit.backwards * n)
    plain = engine.start(small_spec(budget={"nfe": 4.0}), tmp_path / "plain")
    assert answers(store)[0][1:2] == answers(plain)[0][1:2]
    first, bare = store.candidates()[0], plain.candidates()[0]
    with Image.open(store.folder / first.image) as a, Image.open(plain.folder / bare.image) as b:
        assert a.tobytes() == b.tobytes()
