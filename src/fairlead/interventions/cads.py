"""CADS: noise on the prompt while the picture is noisy (Sadat et al., ICLR 2024, arXiv 2310.17347), an
alternative to repulsion.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fairlead.core.check import number_in_range
from fairlead.core.intervention import Intervention
from fairlead.core.key import Key
from fairlead.core.model import Rows, Site, Tokens


@dataclass(frozen=True)
class Cads(Intervention):
    """text <- sqrt(gamma) text + scale sqrt(1 - gamma) noise, brought back to the text's own mean and deviation.

    gamma is 1 below a share of noise of `until`, 0 above `start`, and a straight line between them. The defaults
    are those of its comparison on large transformers (arXiv 2603.28762, where the scale was varied). With mix=1 the
    prompt is gone altogether above `start`, whatever the scale is, unless the scale is 0. Padding takes part like
    any token. A pooled vector beside the tokens is left unchanged (ours).

    Settings:
        scale (number >= 0, default 0.1): strength of the noise, s; 0 switches the method off. Sadat et al. 2024.
        until (number in [0, 1], default 0.3): share of noise below which the prompt is unchanged, tau_1.
        start (number >= 0, default 0.8): share of noise above which gamma is 0, tau_2; a value above 1 keeps some
            of the prompt.
        mix (number in [0, 1], default 1.0): share of the rescaled text, psi. Sadat et al. 2024.
        seed (whole number, default 0): seed of the noise.
    """

    scale: float = 0.1
    until: float = 0.3
    start: float = 0.8
    mix: float = 1.0
    seed: int = 0

    switched_off = {"scale": 0.0, "until": 1.0}
    place = "prompt"

    def __post_init__(self) -> None:
        number_in_range("cads.scale", self.scale, "[0, inf)")
        number_in_range("cads.until", self.until, "[0, 1]")
        number_in_range("cads.start", self.start, "[0, inf)")
        number_in_range("cads.mix", self.mix, "[0, 1]")

    def _kept(self, time: float) -> float:
        """gamma"""
        if time <= self.until:
            return 1.0
        return 0.0 if time >= self.start else (self.start - time) / (self.start - self.until)

    def wants(self, site: Site, rows: Rows) -> bool:
        """The levels above `until`."""
        return self.scale > 0 and self._kept(rows.level.time) < 1

    def __call__(self, site: Site, rows: Rows, tokens: Tokens) -> Tokens:
        """Text [R, T, D] of the conditional rows; row by row from its group, its place in it and the step."""
        text = tokens.text.float()
        kept = self._kept(rows.level.time)
        noise = self._noise(rows, text)
        # Noise on the condition: sqrt(gamma) y + s sqrt(1 - gamma) n.
        noisy = kept**0.5 * text + self.scale * (1 - kept) ** 0.5 * noise
        # Back to the mean and spread of the text, in the share `mix`.
        same = (noisy - _mean(noisy)) / _std(noisy).clamp(min=1e-12) * _std(text) + _mean(text)
        new = (self.mix * same + (1 - self.mix) * noisy).to(tokens.text.dtype)
        there = rows.conditional.to(text.device)[:, None, None]
        return replace(tokens, text=torch.where(there, new, tokens.text))

    def _noise(self, rows: Rows, text: Tensor) -> Tensor:
        root = Key.root(self.seed).fold("cads")
        members: dict[int, list[int]] = {}
        for base, group in sorted(set(zip(rows.base.tolist(), rows.group.tolist(), strict=True))):
            members.setdefault(group, []).append(base)
        drawn = [
            root.fold(group, members[group].index(base), rows.step).normal(*text.shape[1:])
            for base, group in zip(rows.base.tolist(), rows.group.tolist(), strict=True)
        ]
        return torch.stack(drawn).to(text)


def _mean(v: Tensor) -> Tensor:
    return v.mean((1, 2), keepdim=True)


def _std(v: Tensor) -> Tensor:
    return v.std((1, 2), keepdim=True)
