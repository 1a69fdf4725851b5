"""The law of an adapter: fairlead's plain sampler is the pipeline's own `__call__`, and gradients are right."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fairlead.core.cost import INFINITE, Meter
from fairlead.core.key import Key, normals
from fairlead.core.model import Model
from fairlead.core.samplers import Sampler
from fairlead.core.sampling import sample

PROMPTS = ["a red apple", "two cats and a blue car"]


def rendered(
    model: Model, sampler: Sampler, steps: int, prompts: list[str], seed: int = 0, meter: Meter | None = None
) -> tuple[Tensor, Tensor]:
    """(initial noise, final latents)"""
    meter = meter or Meter()
    model.meter(meter)
    keys = tuple(Key.root(seed).fold("candidate", i) for i in range(len(prompts)))
    x = normals(tuple(k.fold("init") for k in keys), *model.latent)
    with torch.no_grad(), meter.grant(INFINITE):
        return x, sample(model, sampler, x, model.encode(prompts), model.levels(steps), keys, meter)


def same_as_pipeline(
    model: Any,
    pipe: Any,
    sampler: Sampler,
    steps: int,
    prompts: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tolerance: float = 2e-4,
    pack: Callable[[Tensor], Tensor] = lambda x: x,
    out: Callable[[Tensor], Tensor] | None = None,
    thrice: int = 0,
    **call: Any,
) -> None:
    """Equal latents up to rounding for the same initial noise, and as many rows through the network as were charged.

    `thrice` steps take a row more.
    """
    rows: list[int] = []
    net = pipe.unet if getattr(pipe, "unet", None) is not None else pipe.transformer
    own = model.net.register_forward_pre_hook(
        lambda m, args, kwargs: rows.append(len(kwargs.get("hidden_states", args[0] if args else None))),
        with_kwargs=True,
    )
    meter = Meter()
    x, mine = rendered(model, sampler, steps, prompts, meter=meter)
    own.remove()
    model.release()
    assert meter.spent.forwards == sum(rows) == (steps * model.branches + thrice) * len(prompts)
    assert meter.spent.nfe == steps * len(prompts)
    drawn = iter(
        [
            pack(
                normals(
                    tuple(Key.root(0).fold("candidate", b).fold("step", i) for b in range(len(prompts))), *model.latent
                )
            )
            for i in range(steps)
        ]
    )
    where = sys.modules[type(pipe.scheduler).__module__]
    if sampler.stochastic:
        monkeypatch.setattr(where, "randn_tensor", lambda *a, **k: next(drawn))
    seen: list[int] = []
    theirs_hook = net.register_forward_pre_hook(
        lambda m, args, kwargs: seen.append(len(kwargs.get("hidden_states", args[0] if args else None))),
        with_kwargs=True,
    )
    _, h, w = model.latent
    pipe.set_progress_bar_config(disable=True)
    size = {"height": h * pipe.vae_scale_factor, "width": w * pipe.vae_scale_factor}
    theirs = pipe(
        prompt=prompts, latents=pack(x.clone()), num_inference_steps=steps, output_type="latent", **{**size, **call}
    ).images
    theirs_hook.remove()
    assert sum(seen) == sum(rows)
    gap = float(((out or pack)(mine) - theirs).abs().max())
    assert gap <= tolerance * max(1.0, float(theirs.abs().max())), f"latents differ by {gap:.3g}"
    assert float(theirs.std()) > 0.1


def slopes(model: Any, sampler: Sampler, steps: int = 2, prompt: str = "a red apple") -> None:
    """The gradient of a reward of the picture with respect to noise and tokens equals central differences."""
    meter = Meter()
    model.meter(meter)
    keys = (Key.root(5),)
    noise = keys[0].fold("init").normal(1, *model.latent)
    with meter.grant(INFINITE):
        cond = model.encode([prompt])
        target = None

        def reward(x: Tensor, tokens: Tensor) -> Tensor:
            nonlocal target
            z = sample(model, sampler, x, cond.with_tokens(tokens), model.levels(steps), keys, meter)
            target = Key.root(6).normal(*z.shape) if target is None else target
            return (z * target).sum() + (z**2).sum()

        x, tokens = noise.clone().requires_grad_(), cond.tokens.clone().requires_grad_()
        pieces = torch.autograd.grad(reward(x, tokens), [x, tokens])
        assert all(not p.requires_grad and p.grad is None for p in model.net.parameters())
        for i, (slope, h) in enumerate(zip(pieces, (1e-2, 1e-2), strict=True)):
            assert float(slope.abs().max()) > 0
            d = slope * ((noise, cond.tokens)[i] != 0)  # zeroed padding is where normalisations bend
            d = d / d.norm()
            with torch.no_grad():
                ahead, behind = (
                    (noise + s * d, cond.tokens) if i == 0 else (noise, cond.tokens + s * d) for s in (h, -h)
                )
                numeric = float((reward(*ahead) - reward(*behind)) / (2 * h))
            assert numeric == pytest.approx(float((slope * d).sum()), rel=0.03), ("noise", "tokens")[i]
