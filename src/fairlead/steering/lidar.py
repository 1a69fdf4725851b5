"""LiDAR: lookahead reward guidance (Kim et al. 2026, arXiv 2602.03211). A bank of few-step samples, no
backpropagation.

With the bank x_i, rewards r_i and the kernel's logits l_i(x) = -|x - alpha x_i|^2 / (2 sigma^2), every clean prediction
moves by scale * G(x), G = sum_i (softmax(l + tilt r)_i - softmax(l)_i) x_i (Theorem 3.3): the gradient of the expected
future reward in the coordinate all model families share. Two small matrix products a step; the network is not called.

Ours: the dose, and a scale for every step that keeps it constant unless one is set; rewards standardised unless a
published preset is set; the bank walks the model's own levels (published for SDXL: Karras's). Inferred, for its
code is not released: FLUX's published 40 is a factor of the gradient in the velocity, which is scale*alpha/sigma here.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from fairlead.core.check import must_be, number_in_range, one_of, whole_number
from fairlead.core.errors import FairleadError
from fairlead.core.model import Level
from fairlead.core.samplers import Sampler, ancestral, consistency, dpmpp_2m, euler, heun
from fairlead.core.sibling import ModelRef
from fairlead.core.steering import Scene, Steering, Step
from fairlead.steering._displacement import DOSE, HIGHEST_DOSE, displacement, doses
from fairlead.steering._presets import PRESETS, USUAL

SAMPLERS: dict[str, Sampler] = {
    "euler": euler,
    "heun": heun,
    "dpmpp_2m": dpmpp_2m,
    "ancestral": ancestral,
    "consistency": consistency,
}


@dataclass(frozen=True)
class Lidar(Steering):
    """Draws and scores a bank of samples once per prompt, and guides all pictures by it.

    A bank costs n * steps evaluations, n decodes and n scores per prompt; guidance costs no evaluation per picture.
    `n=1` and `tilt=0` are the plain sampler.

    Settings:
        n (whole number >= 1 or None, default None): samples in the bank; None is 16.
        steps (whole number >= 1 or None, default None): steps of a bank sample; None is 4.
        scale (number >= 0 or None, default None): strength of the guidance; 1 is the exact tilt, larger values
            extrapolate, 0 switches the method off; None gives every guided step the dose 1.2. Ours: None.
        tilt (number >= 0 or None, default None): inverse temperature of the reward; None is 5000. Kim et al. 2026.
        until (number in (0, 1] or None, default None): steps that start above this flow time are guided; None is
            0.364, the range of the paper.
        standardise (true, false or None, default None): `tilt` is per standard deviation of the bank's rewards;
            None is true. Ours.
        model (name of a model or None, default None): distilled sibling that draws the bank with its own schedule
            and sampler; None is the run's model.
        sampler (euler, heun, dpmpp_2m, ancestral, consistency or None, default None): sampler of the bank; None is
            dpmpp_2m, or the sibling's own.
        preset (sd15, sdxl, flux or None, default None): published values for what is not set. Kim et al. 2026.
        run (folder or None, default None): an earlier run of the same prompt and model, whose bank is scored again
            and not drawn.
        bank (also, drafts or None, default None): `also` writes the best picture of the bank and its reward beside
            the run's pictures, as bank.png; it costs one more decode. `drafts` draws no bank: the drafts of the run
            are it, the first n where n is set, and guide its finished pictures. Ours.
    """

    n: int | None = None
    steps: int | None = None
    scale: float | None = None
    tilt: float | None = None
    until: float | None = None
    standardise: bool | None = None
    model: ModelRef | None = None
    sampler: str | None = None
    preset: str | None = None
    run: str | None = None
    bank: str | Tensor | None = None
    """A setting, until `prepare` puts the bank here, [n, C, h, w]"""
    rewards: Tensor | None = None
    """[n], as the reward gave them"""
    picture: Tensor | None = None
    """[3, H, W], the best of the bank where it is wanted"""

    switched_off = {"scale": 0.0}

    def __post_init__(self) -> None:
        """Reject settings outside their range."""
        one_of("lidar.preset", self.preset, PRESETS, optional=True)
        one_of("lidar.sampler", self.sampler, SAMPLERS, optional=True)
        whole_number("lidar.n", self._usual("n"), least=1)
        whole_number("lidar.steps", self._usual("steps"), least=1)
        number_in_range("lidar.scale", self._usual("scale"), "[0, inf)", optional=True)
        number_in_range("lidar.tilt", self._usual("tilt"), "[0, inf)")
        number_in_range("lidar.until", self._usual("until"), "(0, 1]")
        if not isinstance(self.run, str | PathLike | None):
            raise FairleadError(must_be("lidar.run", self.run, "the folder of a run", optional=True))
        if not isinstance(self.bank, Tensor):
            one_of("lidar.bank", self.bank, ("also", "drafts"), optional=True)
            if self.bank == "drafts" and (self.run or self.model):
                other = "run" if self.run else "model"
                raise FairleadError(f"lidar.bank is 'drafts', so lidar.{other} would not be used. Leave one out.")

    def _usual(self, name: str) -> Any:
        """The setting as given, or the preset's value, or the usual one."""
        given = vars(self).get(name)
        if given is not None:
            return given
        return (PRESETS[self.preset] if self.preset else USUAL)[name]

    @property
    def siblings(self) -> tuple[ModelRef, ...]:
        """The lookahead model, if it is another."""
        return () if self.model is None else (self.model,)

    @property
    def learns_from_drafts(self) -> bool:
        """True where the run's drafts are the bank."""
        return isinstance(self.bank, str) and self.bank == "drafts"

    @property
    def _off(self) -> bool:
        return bool(self._usual("n") < 2 or self._usual("scale") == 0 or self._usual("tilt") == 0)

    def prepare(self, scene: Scene) -> Lidar:
        """The bank and its rewards; drawn, decoded and scored in pieces, of which only latents and rewards are kept."""
        n: int = self._usual("n")
        if self.learns_from_drafts:
            return self
        if self._off:
            if n < 2:
                warnings.warn(
                    "lidar.n is 1: there is nothing to compare, so lidar changes nothing. Use n >= 2.", stacklevel=2
                )
            return self
        keys = tuple(scene.key.fold("lidar", i) for i in range(n))
        sampler = SAMPLERS[self.sampler] if self.sampler else None
        if sampler is None and self.model is None:
            sampler = dpmpp_2m
        kept = self._kept(scene, n) if self.run else None
        parts, values = [], []
        for first in range(0, n, scene.batch):
            piece = slice(first, first + scene.batch)
            if kept is None:
                z = scene.render(keys[piece], self._usual("steps"), model=self.model, sampler=sampler)
            else:
                z = kept[piece]
            parts.append(z)
            values.append(scene.score(z))
        ready = self.with_bank(torch.cat(parts), torch.cat(values))
        if self.bank != "also" or scene.decode is None:
            return ready
        assert isinstance(ready.bank, Tensor)
        assert ready.rewards is not None
        best = int(ready.rewards.argmax())
        return replace(ready, picture=scene.decode(ready.bank[best : best + 1])[0].float())

    @property
    def beside(self) -> tuple[Tensor, float] | None:
        """The best picture of the bank, where it is wanted."""
        return None if self.picture is None or self.rewards is None else (self.picture, float(self.rewards.max()))

    def with_bank(self, bank: Tensor, rewards: Tensor) -> Lidar:
        """Ready to guide by bank [n, C, h, w] with rewards [n]. What got no finite number is left out."""
        if self.learns_from_drafts and self.n is not None:
            bank = bank[: self.n]
            rewards = rewards[: self.n]
        good = rewards.isfinite() & bank.flatten(1).isfinite().all(1)
        if int(good.sum()) < 2:
            raise FairleadError(
                f"The reward gave a number to {int(good.sum())} of {len(good)} lookahead pictures, but lidar compares "
                "at least 2. Increase lidar.n, or choose another reward."
            )
        return replace(self, bank=bank[good].float(), rewards=rewards[good].float())

    def _kept(self, scene: Scene, n: int) -> Tensor:
        assert scene.recorded is not None
        assert self.run is not None
        found = [t for name, t in scene.recorded(self.run).items() if name.endswith(".bank")]
        if not found or len(found[0]) < n:
            have = f"a bank of {len(found[0])}" if found else "no bank"
            raise FairleadError(
                f"The run in {self.run} kept {have}, but lidar.n is {n}. Choose a smaller n, or another run."
            )
        return found[0][:n]

    def __call__(self, step: Step) -> Step:
        """The same step with every clean prediction moved."""
        if self._off or self.learns_from_drafts:
            return step
        assert isinstance(self.bank, Tensor)
        own = f"lidar {id(self)}"
        if own not in step.memory:
            flat = self.bank.flatten(1)
            step.memory[own] = self._scales(step), flat, 0.5 * flat.square().sum(1), self.tilting()
        # The bank and its squares are read at every level, so they are prepared once per trajectory.
        scales, bank, half, tilted = step.memory[own]
        if step.at.time <= self._usual("until"):
            return step

        def shift(x: Tensor, at: Level, rows: Tensor) -> Tensor:
            # Below the window a prediction is left alone.
            inside = step.to.time <= at.time <= step.at.time  # Heun's second evaluation belongs to its step
            if not inside and at.time <= self._usual("until"):
                return torch.zeros_like(x)
            # The posterior mean of the tilted bank minus that of the bank, times the scale of the step.
            scale = scale_at(scales, step.at if inside else at) * self._per(at)
            return displacement(x.float().flatten(1), at, bank, half, tilted).view_as(x) * scale

        return step.guide(shift)

    def tilting(self) -> Tensor:
        """tilt * rewards [n] with the best at 0, in standard deviations where wanted; equal ones stay 0."""
        assert self.rewards is not None
        r = self.rewards - self.rewards.max()
        spread = r.std()
        if self._usual("standardise"):
            noise = 1e-6 * self.rewards.abs().max()  # what rounding tells apart is not a preference
            r = torch.where(spread > noise, r / spread.clamp(min=1e-30), 0 * r)
        return float(self._usual("tilt")) * r

    def _per(self, at: Level) -> float:
        """What the scale is multiplied by at a level: published for FLUX as a factor in the velocity."""
        return at.alpha / at.sigma if self._usual("per") == "velocity" else 1.0

    def _scales(self, step: Step) -> list[tuple[float, float]]:
        """(flow time, scale) of every guided step: the one that is set, or the one that gives the step its dose."""
        until, scale = self._usual("until"), self._usual("scale")
        out: list[tuple[float, float]] = []
        most, before, last = 0.0, None, 0.0
        for at, to in pairwise(step.levels or (step.at, step.to)):
            if at.time <= until:
                continue
            # How far a unit shift moves this step, and what the previous shift still moves through the history.
            own, earlier = doses(at, to, step.sampler, before)
            own, earlier = own * self._per(at), earlier * (0.0 if before is None else self._per(before))
            # Without a scale, every step gets the same dose in all.
            if scale is None:
                last = (DOSE - earlier * last) / own if own > 0 else 0.0
            most, before = max(most, own + earlier), at
            out.append((at.time, last if scale is None else float(scale)))
        self._warn(step, most)
        return out

    def _warn(self, step: Step, most: float) -> None:
        """Of a window without a step, and of a scale that overshoots the best of the bank."""
        scale = self._usual("scale")
        if most == 0:
            warnings.warn(
                f"lidar guides none of {step.steps} steps: no step with a signal to guide lies above lidar.until "
                f"{self._usual('until'):g}. Choose a lower lidar.until, or more steps.",
                stacklevel=2,
            )
        elif scale is not None and scale * most > HIGHEST_DOSE:
            warnings.warn(
                f"lidar.scale is {scale:g}, which moves the strongest of {step.steps} steps by a dose of "
                f"{scale * most:.2g}. Pictures break near {HIGHEST_DOSE}. Choose a scale of at most "
                f"{HIGHEST_DOSE / most:.2g}.",
                stacklevel=2,
            )


def scale_at(scales: Sequence[tuple[float, float]], at: Level) -> float:
    """The scale of the step that passes this level; below the last and above the first step, theirs."""
    above = [scale for time, scale in scales if time >= at.time or math.isclose(time, at.time)]
    if above:
        return above[-1]
    return scales[0][1] if scales else 0.0
