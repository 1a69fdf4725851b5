"""Noise levels from a diffusers scheduler's configuration, and the way back from a level to the network's timestep.

A scheduler of the same class and configuration is asked for its levels; the pipeline's own object is left alone.
eps and v networks were trained on a table of 1000 levels; between them sigma/alpha is interpolated as the scheduler
does, linearly, or in its logarithm for Karras and kindred spacings (Karras et al. 2022; Lin et al. 2024 for spacings).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal

import numpy as np
from torch import Tensor

from fairlead.core.errors import FairleadError
from fairlead.core.model import Level

EULER = (
    "EulerDiscrete",
    "EulerAncestralDiscrete",
    "HeunDiscrete",
    "KDPM2Discrete",
    "KDPM2AncestralDiscrete",
    "LMSDiscrete",
)
DPM = ("DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "DEISMultistep", "DPMSolverSDE")
DDIM = ("DDIM", "PNDM", "DDPM")
CONSISTENCY = ("LCM", "TCD")


@dataclass(frozen=True)
class Coordinates:
    """What a scheduler's `sample` and the network's output mean."""

    kind: Literal["preserving", "exploding", "flow"]
    """The curve of `sample`: alpha^2 + sigma^2 = 1, alpha = 1, or alpha + sigma = 1."""
    prediction: str
    """What the network predicts: epsilon, v_prediction, sample or flow_prediction."""

    def levels(self, scheduler: Any) -> list[Level]:
        """The level at every call of the network, in the order of `scheduler.timesteps`."""
        sigmas = getattr(scheduler, "sigmas", None)
        calls = range(len(scheduler.timesteps))
        if sigmas is None:
            abar = scheduler.alphas_cumprod.double()[scheduler.timesteps.long().cpu()].clamp(min=1e-12)
            return [_preserving(ratio) for ratio in ((1 - abar) / abar).sqrt().tolist()]
        seen = [float(sigmas[j]) for j in calls]
        if hasattr(scheduler, "sigmas_interpol"):  # every second call is between two steps
            shift = 1 if hasattr(scheduler, "sigmas_up") else 0
            seen[1::2] = [float(scheduler.sigmas_interpol[j - shift]) for j in calls[1::2]]
        return [Level(1.0 - s, s) if self.kind == "flow" else _preserving(s) for s in seen]

    def output(self, x: Tensor, x0: Tensor, at: Level) -> Tensor:
        """x and the clean prediction [R, C, h, w] -> what the network would have to say for it."""
        if self.prediction == "sample":
            return x0
        eps = (x - at.alpha * x0) / at.sigma
        if self.kind == "flow":
            return eps - x0
        if self.prediction == "v_prediction":
            return (at.alpha * eps - at.sigma * x0) / math.hypot(at.alpha, at.sigma)
        return eps


def network_calls(scheduler: Any) -> list[list[int]]:
    """The calls of the network in every step, as places in `scheduler.timesteps`: two where a step has two stages."""
    count = len(scheduler.timesteps)
    if hasattr(scheduler, "plms_timesteps"):
        return [[0, 1], *([j] for j in range(2, count))] if count > 1 else [[0]]
    return [list(range(count))[j : j + scheduler.order] for j in range(0, count, scheduler.order)]


class Discrete:
    """The levels of an eps or v network. `timesteps`, when given, are used for runs of exactly that many steps."""

    def __init__(self, scheduler: Any, timesteps: Sequence[int] = ()) -> None:
        name = type(scheduler).__name__.removesuffix("Scheduler")
        config = scheduler.config
        if name not in EULER + DPM + DDIM + CONSISTENCY or config.get("use_flow_sigmas"):
            raise FairleadError(
                f"The scheduler is {name}, whose noise levels fairlead cannot read: "
                "save the pipeline with EulerDiscreteScheduler or DDIMScheduler."
            )
        linear = {"skip_prk_steps": True} if name == "PNDM" else {}
        self._scheduler = type(scheduler).from_config(config, **linear)
        self.kind = name
        self.prediction = str(config.get("prediction_type", "epsilon"))
        abar = self._scheduler.alphas_cumprod.double().numpy()
        self._table = np.minimum(np.sqrt((1 - abar) / np.maximum(abar, 1e-12)), 1e6)
        curved = any(
            config.get(f"use_{k}") for k in ("karras_sigmas", "exponential_sigmas", "beta_sigmas", "lu_lambdas")
        )
        self._log = bool(curved)
        self._round = bool(curved and name in DPM)
        self._timesteps = [int(t) for t in timesteps]
        self.coordinates = Coordinates("exploding" if name in EULER else "preserving", self.prediction)
        self._times: dict[float, float] = {}
        """sigma/(alpha + sigma) of a level -> the scheduler's own timestep, where the scheduler takes the steps."""

    def prepared(self, steps: int) -> Any:
        """The scheduler with its timesteps set; from now on its own times are told to the network."""
        self._scheduler.set_timesteps(steps)
        for at, time in zip(self.coordinates.levels(self._scheduler), self._scheduler.timesteps, strict=True):
            self._times[round(at.time, 9)] = float(time)
        return copy.copy(self._scheduler)

    def levels(self, steps: int) -> list[Level]:
        """`steps` + 1 levels; unit noise at the first is the pipeline's initial latent, the last is where it stops.

        Two departures, where the scheduler's own answer is of no use: one step starts at the noisiest level (linspace
        and leading spacing would start next to none), and more steps than the scheduler can space apart, half the table
        or what a consistency model was distilled for, are spread evenly over the table.
        """
        size = len(self._table)
        config = self._scheduler.config
        if steps > size:
            raise FairleadError(f"steps is {steps}: must be at most {size}, the number of this model's noise levels.")
        own = self._timesteps if len(self._timesteps) == steps else []
        crowded = steps > (config.original_inference_steps if self.kind in CONSISTENCY else size // 2)
        if steps == 1 and self.kind not in CONSISTENCY and config.timestep_spacing != "trailing" and not own:
            own = [size - 1]
        elif crowded and not own:
            own = [round(i * (size - 1) / (steps - 1)) for i in reversed(range(steps))]
        if own:
            return [_preserving(self._table[t]) for t in own] + [Level(1.0, 0.0)]
        self._scheduler.set_timesteps(steps)
        if self.kind in EULER + DPM:
            sigmas = self._scheduler.sigmas
            ratios = [*(float(sigmas[call[0]]) for call in network_calls(self._scheduler)), float(sigmas[-1])]
            out = [_preserving(s) for s in ratios]
            if self.kind in EULER:
                start = float(self._scheduler.init_noise_sigma)
                out[0], out[-1] = Level(1 / start, ratios[0] / start), Level(1.0, ratios[-1])
            return out
        times = [self._scheduler.timesteps[call[0]] for call in network_calls(self._scheduler)]
        out = [_preserving(self._table[int(t)]) for t in times]
        clean = self.kind not in ("DDIM", "PNDM") or config.set_alpha_to_one
        return [*out, Level(1.0, 0.0) if clean else _preserving(self._table[0])]

    def timestep(self, at: Level) -> float:
        """The network's time of a level, fractional between two entries of the table; any common scale of the pair."""
        if (time := self._times.get(round(at.time, 9))) is not None:
            return time
        ratio = min(at.sigma / max(at.alpha, 1e-12), 1e6)
        index = np.arange(len(self._table))
        if self._log:
            t = float(np.interp(math.log(max(ratio, 1e-12)), np.log(self._table), index))
            return float(round(t)) if self._round else t
        return float(np.interp(ratio, self._table, index))


def _preserving(ratio: float) -> Level:
    """Sigma/alpha -> the pair with alpha^2 + sigma^2 = 1."""
    ratio = float(ratio)
    scale = math.hypot(1.0, ratio)
    return Level(1 / scale, ratio / scale)


def flow_scheduler(
    scheduler: Any,
    steps: int,
    *,
    tokens: int | None = None,
    sigmas: Iterable[float] | None = None,
    mu: float | None = None,
) -> Any:
    """A copy of a rectified-flow scheduler with its timesteps set; `tokens` is the picture's length in patches.

    The shift grows linearly with the length between the two lengths in the configuration (Esser et al. 2024, 5.3.2).
    """
    copied = type(scheduler).from_config(scheduler.config)
    if scheduler.config.get("use_flow_sigmas") and scheduler.config.get("prediction_type") == "flow_prediction":
        copied.set_timesteps(steps)
        return copied
    if not hasattr(scheduler.config, "shift"):
        name = type(scheduler).__name__
        raise FairleadError(
            f"The scheduler is {name}, and this family needs rectified-flow levels: save the pipeline with "
            "FlowMatchEulerDiscreteScheduler."
        )
    config = scheduler.config
    extra: dict[str, Any] = {}
    if config.get("use_dynamic_shifting") and mu is not None:
        extra["mu"] = mu
    elif config.get("use_dynamic_shifting") and tokens is not None:
        low = config.get("base_image_seq_len", 256)
        high = config.get("max_image_seq_len", 4096)
        base = config.get("base_shift", 0.5)
        top = config.get("max_shift", 1.15)
        extra["mu"] = base + (top - base) * (tokens - low) / (high - low)
    if sigmas is None:
        copied.set_timesteps(steps, **extra)
    elif "sigmas" not in signature(copied.set_timesteps).parameters:
        raise FairleadError(
            f"The scheduler is {type(scheduler).__name__}, but this family's pipeline sets levels, which it does not "
            "take: save the pipeline with FlowMatchEulerDiscreteScheduler."
        )
    else:
        copied.set_timesteps(sigmas=np.fromiter(sigmas, float), **extra)
    return copied


def flow_levels(scheduler: Any) -> list[Level]:
    """The levels (1 - s, s) of a rectified-flow scheduler whose timesteps are set."""
    sigmas = [*(scheduler.sigmas[call[0]] for call in network_calls(scheduler)), scheduler.sigmas[-1]]
    return [Level(1.0 - float(s), float(s)) for s in sigmas]
