"""The FLUX adapter against diffusers' own pipeline, on a tiny random folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fairlead.core.cost import INFINITE, Meter
from fairlead.core.errors import FairleadError
from fairlead.core.intervention import installed
from fairlead.core.key import Key, normals
from fairlead.core.model import Tokens
from fairlead.core.samplers import euler, heun
from fairlead.core.sampling import sample
from fairlead.interventions.token_mean_damping import TokenMeanDamping
from fairlead.rewards.brightness import Brightness
from fairlead.testing._check import counting, latents
from fairlead.testing.models import predict

PROMPTS = ["a photo of a red apple", "two cats", "a blue car and a green dog"]
KEYS = tuple(Key.root(1).fold(i) for i in range(len(PROMPTS)))
STEPS = 4
DYNAMIC = {"use_dynamic_shifting": True, "base_image_seq_len": 4, "max_image_seq_len": 64, "base_shift": 0.3}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "true_cfg": {"true_cfg_scale": 3.0, "negative_prompt": "a dog"},
    "guidance_embedded": {"guidance_embeds": True, "guidance_scale": 5.0},
    "both": {"guidance_embeds": True, "guidance_scale": 2.0, "true_cfg_scale": 1.5},
    "wide": {"width": 24},
    "tall_true_cfg": {"height": 28, "true_cfg_scale": 2.0},
    "dynamic_shift": {"scheduler": DYNAMIC, "width": 32},
    "shift": {"scheduler": {"shift": 3.0}},
}


def ours(model: Any, steps: int = STEPS, sampler: Any = euler) -> torch.Tensor:
    meter, x = Meter(), normals(KEYS, *model.latent)
    model.meter(meter)
    with torch.no_grad(), meter.grant(INFINITE):
        z = sample(model, sampler, x, model.encode(PROMPTS), model.levels(steps), KEYS, meter)
    assert meter.spent.forwards == meter.spent.nfe * model.branches
    return z


def theirs(folder: Any, model: Any, settings: dict[str, Any], output: str) -> torch.Tensor:
    """`FluxPipeline.__call__` on the same initial noise."""
    from diffusers import FluxPipeline

    pipe = FluxPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    c, h, w = model.latent
    noise = pipe._pack_latents(normals(KEYS, c, h, w), len(KEYS), c, h, w)
    words = {k: v for k, v in settings.items() if k in ("true_cfg_scale", "guidance_scale")}
    if settings.get("true_cfg_scale", 1) > 1:
        words["negative_prompt"] = [settings.get("negative_prompt", "")] * len(KEYS)
    found: torch.Tensor = pipe(
        prompt=PROMPTS,
        num_inference_steps=STEPS,
        latents=noise,
        height=settings.get("height", 16),
        width=settings.get("width", 16),
        max_sequence_length=12,
        output_type=output,
        **words,
    ).images
    return found


@pytest.mark.parametrize("name", VARIANTS)
def test_euler_is_the_pipeline(name: str, tiny_flux: Callable[..., Any], flux_folder: Callable[..., Any]) -> None:
    settings = VARIANTS[name]
    model = tiny_flux(**settings)
    folder = flux_folder(settings.get("guidance_embeds", False), **settings.get("scheduler", {}))
    z = ours(model)
    c, h, w = model.latent
    packed = model.pipe._pack_latents(z, len(KEYS), c, h, w)
    expected = theirs(folder, model, settings, "latent")
    assert packed.shape == expected.shape
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(packed, expected, rtol=1e-4, atol=2e-4)
    with counting(model), torch.no_grad():
        images = model.decode(z)
    assert images.shape[-2:] == (settings.get("height", 16), settings.get("width", 16))
    torch.testing.assert_close(images, theirs(folder, model, settings, "pt"), rtol=0, atol=1e-3)


def test_variants_differ(tiny_flux: Callable[..., Any]) -> None:
    """So that agreeing with the pipeline means something: each setting changes the picture."""
    plain = ours(tiny_flux())
    for settings in ({"true_cfg_scale": 3.0}, {"scheduler": {"shift": 3.0}}):
        assert not torch.allclose(ours(tiny_flux(**settings)), plain, atol=1e-2)
    low, high = (tiny_flux(guidance_embeds=True, guidance_scale=s) for s in (1.0, 5.0))
    assert not torch.allclose(ours(low), ours(high), atol=1e-3)
    negative = ours(tiny_flux(true_cfg_scale=3.0, negative_prompt="a dog"))
    assert not torch.allclose(negative, ours(tiny_flux(true_cfg_scale=3.0)), atol=1e-3)


def test_levels_are_the_schedulers(tiny_flux: Callable[..., Any]) -> None:
    plain = tiny_flux()
    assert [at.sigma for at in plain.levels(4)] == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])
    assert all(at.alpha == 1 - at.sigma for at in plain.levels(7))
    shifted = tiny_flux(scheduler=DYNAMIC)
    mu = 0.3 + (1.15 - 0.3) / (64 - 4) * (16 - 4)  # 16 image tokens
    expected = [np.exp(mu) / (np.exp(mu) + (1 / s - 1)) for s in (1.0, 0.75, 0.5, 0.25)]
    assert [at.sigma for at in shifted.levels(4)][:-1] == pytest.approx(expected)


def test_heun_runs_and_converges_with_euler(tiny_flux: Callable[..., Any]) -> None:
    model = tiny_flux()
    fine = ours(model, 16, heun)
    gaps = [float((ours(model, n, euler) - fine).abs().mean()) for n in (4, 16)]
    assert gaps[1] < 0.5 * gaps[0]


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_edits_see_the_rows_of_both_branches(cfg: float, tiny_flux: Callable[..., Any]) -> None:
    model = tiny_flux(true_cfg_scale=cfg)
    assert [(s.name, s.kind) for s in model.sites] == [
        ("joint_0", "joint"),
        ("single_0", "single"),
        ("single_1", "single"),
    ]
    x, at, seen = latents(model, 2), model.levels(4)[1], []
    cond = model.encode(PROMPTS[:2])
    with counting(model), torch.no_grad():
        plain = predict(model, x, at, cond)

        def only(which: bool) -> torch.Tensor:
            def edit(rows: Any, tokens: Tokens) -> Tokens:
                seen.append(rows)
                keep = (rows.conditional == which)[:, None, None]
                return Tokens(tokens.image, torch.where(keep, 2 * tokens.text, tokens.text))

            remove = model.edit(model.sites[0], edit)
            out = predict(model, x, at, cond)
            remove()
            return out

        positive, negative = only(True), only(False)
    assert not torch.equal(positive, plain)
    assert torch.equal(negative, plain) == (cfg == 1)
    if cfg > 1:
        # v = negative + cfg (positive - negative): the prompt's half alone moves x0 by cfg times its own change
        assert seen[0].conditional.tolist() == [False, False, True, True]
        assert seen[0].base.tolist() == [0, 1, 0, 1]
        assert not torch.allclose(positive, negative)


def test_intervention_couples_only_its_group(tiny_flux: Callable[..., Any]) -> None:
    model = tiny_flux(true_cfg_scale=2.0)
    x, meter, cond = latents(model, 3), Meter(), model.encode([PROMPTS[0], PROMPTS[0], PROMPTS[2]])
    model.meter(meter)

    def go(groups: list[int], strength: float) -> torch.Tensor:
        with torch.no_grad(), meter.grant(INFINITE), installed(model, [TokenMeanDamping(strength)]):
            return sample(model, euler, x, cond, model.levels(3), KEYS, meter, groups=torch.tensor(groups))

    plain = go([0, 1, 2], 0.0)
    assert torch.equal(go([0, 1, 2], 0.5), plain), "groups of one are left alone"
    together = go([0, 0, 2], 0.5)
    assert not torch.allclose(together[:2], plain[:2], atol=1e-4)
    torch.testing.assert_close(together[2], plain[2])


def test_gradient_of_a_reward_with_respect_to_the_noise(tiny_flux: Callable[..., Any]) -> None:
    """Through four steps, the decoder and the reward, along the steepest direction, against central differences."""
    model, meter, reward = tiny_flux(true_cfg_scale=2.0), Meter(), Brightness()
    model.meter(meter)
    cond, keys = model.encode(PROMPTS[:1]), KEYS[:1]

    def value(x: torch.Tensor) -> torch.Tensor:
        z = sample(model, euler, x, cond, model.levels(STEPS), keys, meter)
        return reward(model.decode(z), PROMPTS[:1])[0].sum()

    x = normals(keys, *model.latent).requires_grad_()
    with meter.grant(INFINITE):
        (slope,) = torch.autograd.grad(value(x), x)
        size = float(slope.norm())
        assert size > 1e-4
        with torch.no_grad():
            gaps = [
                abs(float(value(x + h * slope / size) - value(x - h * slope / size)) / (2 * h) - size) / size
                for h in (0.1, 0.03, 0.01)
            ]
    assert min(gaps) < 0.02


def test_half_precision_stays_float32_outside(tiny_flux: Callable[..., Any]) -> None:
    model, full = tiny_flux(dtype="bfloat16", true_cfg_scale=2.0), tiny_flux(true_cfg_scale=2.0)
    x, at = latents(model, 2), model.levels(4)[2]  # 750 is not a bfloat16 number, and the network rounds its timestep
    with counting(model), counting(full), torch.no_grad():
        got, image = predict(model, x, at, model.encode(PROMPTS[:2])), model.decode(x)
        expected = predict(full, x, at, full.encode(PROMPTS[:2]))
    assert got.dtype == image.dtype == torch.float32
    assert float((got - expected).abs().mean()) < 0.05
    assert not torch.equal(got, expected)


def test_a_loaded_model_takes_another_meter(tiny_flux: Callable[..., Any]) -> None:
    model = tiny_flux()
    with counting(model) as first:
        predict(model, latents(model, 2), model.levels(2)[0], model.encode(PROMPTS[:2]))
    with counting(model) as second:
        predict(model, latents(model, 1), model.levels(2)[0], model.encode(PROMPTS[:1]))
    assert (first.spent.forwards, second.spent.forwards) == (2, 1)


def test_long_prompts_are_refused(tiny_flux: Callable[..., Any]) -> None:
    model = tiny_flux()
    model.encode([" ".join(["dog"] * 10)])
    with pytest.raises(FairleadError, match="13 tokens and this model reads 12"):
        model.encode([" ".join(["dog"] * 11)])


@pytest.mark.parametrize("settings", [{"height": 18}, {"width": 0}, {"height": -16}])
def test_sizes_are_checked(settings: dict[str, Any], tiny_flux: Callable[..., Any]) -> None:
    with pytest.raises(FairleadError, match="multiple of 4 pixels"):
        tiny_flux(**settings)
