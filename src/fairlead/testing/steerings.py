"""Laws of a steering: what happens inside the loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fairlead.core.cost import INFINITE, Cost, Meter
from fairlead.core.key import Key, normals
from fairlead.core.model import Model
from fairlead.core.reward import Reward
from fairlead.core.samplers import Sampler, ancestral, euler
from fairlead.core.sampling import sample
from fairlead.core.steering import Chain, Scene, Steering
from fairlead.models.mixture import Mixture
from fairlead.rewards.brightness import Brightness
from fairlead.run import prepared
from fairlead.run.dry_run import CountingModel
from fairlead.testing._check import close, differs, equal, global_randomness_untouched, keys, latents, law

STEPS = 6
GROUPS = (0, 0, 1, 1)


def steering_laws(
    make: Callable[[], Steering], off: Callable[[], Steering] | None = None, model: Model | None = None
) -> None:
    """`off` builds the same steering at strength zero; `model` is the mixture if left out.

    Checks: strength zero is the identity bit for bit; what it spends is what a dry run says (at most that, where it is
    `adaptive`); the same twice; splitting a batch between groups changes nothing beyond rounding; without `couples`
    companions do not matter at all; what was prepared survives the store.
    """
    model = Mixture(size=6, seed=4) if model is None else model
    with global_randomness_untouched("The steering"), torch.no_grad():
        for sampler in (ancestral,) if make().stochastic else (euler, ancestral):
            plain, cost = _run(model, Chain(), sampler)
            steered, spent = _run(model, make(), sampler)
            again, _ = _run(model, make(), sampler)
            equal(again, steered, "The same steering twice differs")
            law(bool(steered.isfinite().all()), "Steered samples are not finite.")
            law(spent.nfe >= cost.nfe, f"A steered sample cost {spent.nfe:g} NFE, a plain one {cost.nfe:g}.")
            if off is not None:
                equal(_run(model, off(), sampler)[0], plain, "Strength zero is not the identity")
            _, dry = _run(CountingModel(model), make(), sampler)
            dry = replace(dry, seconds=0.0)
            spent = replace(spent, seconds=0.0)
            law(
                spent.fits(dry) if make().adaptive else dry == spent,
                f"A dry run says {dry.as_dict()}, the bill is {spent.as_dict()}.",
            )
            halves = [_run(model, make(), sampler, rows)[0] for rows in ([0, 1], [2, 3])]
            close(torch.cat(halves), steered, "Splitting the batch between groups changes samples")
            if not make().couples:
                singles = [_run(model, make(), sampler, [i])[0] for i in range(4)]
                close(torch.cat(singles), steered, "couples is False, and companions matter")
            kept = prepared.restore(
                Chain((make(),)), prepared.dump(Chain((_ready(model, make()),)), Chain((make(),))), model.device
            )
            equal(_run(model, kept, sampler, ready=True)[0], steered, "What was prepared does not survive the store")
        law(
            differs(_run(model, make(), ancestral)[0], _run(model, Chain(), ancestral)[0]),
            "The steering changes nothing.",
        )


def _score(model: Model, reward: Reward, z: Tensor, prompts: Sequence[str]) -> Tensor:
    return reward(model.decode(z), prompts)[0]


def _scene(model: Model, meter: Meter, reward: Reward) -> Scene:
    def render(keys: tuple[Key, ...], steps: int, *, model: Any = None, sampler: Sampler | None = None) -> Tensor:
        law(model is None, f"The steering asks for {model!r}, and these laws know no sibling.")
        x = normals(tuple(k.fold("init") for k in keys), *own.latent).to(own.device)
        return sample(own, sampler or euler, x, own.encode(["x"] * len(keys)), own.levels(steps), keys, meter)

    own = model
    return Scene(Key.root(1).fold("scene"), render, lambda z: _score(model, reward, z, ["x"] * len(z)))


def _opened(model: Model) -> tuple[Meter, Reward]:
    meter = Meter()
    reward = Brightness()
    model.meter(meter)
    reward.meter(meter)
    return meter, reward


def _ready(model: Model, steering: Steering) -> Steering:
    meter, reward = _opened(model)
    with meter.grant(INFINITE):
        return steering.prepare(_scene(model, meter, reward))


def _run(
    model: Model, steering: Steering, sampler: Sampler, rows: Sequence[int] = (0, 1, 2, 3), ready: bool = False
) -> tuple[Tensor, Cost]:
    """Those of four samples in two groups, and what they cost with preparation."""
    meter, reward = _opened(model)
    pick = list(rows)
    own = tuple(keys(4, "steer")[i] for i in pick)
    x = latents(model, 4)[pick]
    before = x.clone()

    def score(z: Tensor, prompts: Sequence[str]) -> Tensor:
        return _score(model, reward, z, prompts)

    with meter.grant(INFINITE):
        steering = steering if ready else steering.prepare(_scene(model, meter, reward))
        out = sample(
            model,
            sampler,
            x,
            model.encode(["x"] * len(pick)),
            model.levels(STEPS),
            own,
            meter,
            steering=steering,
            groups=torch.tensor([GROUPS[i] for i in pick]),
            score=score,
        )
    equal(x, before, "The steering wrote to the noise it was given")
    return out, meter.spent
