"""Pull the text tokens of a group towards or away from their mean: the smallest intervention that couples samples."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from fairlead.core.check import number_in_range
from fairlead.core.intervention import Intervention
from fairlead.core.model import Rows, Site, Tokens


@dataclass(frozen=True)
class TokenMeanDamping(Intervention):
    """text <- text + strength (text - mean over the group), at joint sites during the first steps.

    It is the linear part of contextual repulsion and the reference that method has to beat. A group of one is left
    alone.

    Settings:
        strength (number, default 0.1): positive values spread a group, negative values contract it, 0 switches the
            method off.
        until (number in [0, 1], default 0.5): share of the steps in which it acts.
    """

    strength: float = 0.1
    until: float = 0.5

    switched_off = {"strength": 0.0}
    couples = True

    def __post_init__(self) -> None:
        number_in_range("token_mean_damping.until", self.until, "[0, 1]")

    def wants(self, site: Site, rows: Rows) -> bool:
        """Joint sites of the early steps."""
        return self.strength != 0 and site.kind == "joint" and rows.step < self.until * rows.steps

    def __call__(self, site: Site, rows: Rows, tokens: Tokens) -> Tokens:
        """Image [R, N, D] unchanged, text [R, T, D] spread inside equal (group, replica, conditional)."""
        label = torch.stack([rows.group, rows.replica, rows.conditional.long()], 1)
        _, owner, count = torch.unique(label, dim=0, return_inverse=True, return_counts=True)
        if int(count.max()) == 1:
            return tokens
        owner = owner.to(tokens.text.device)
        count = count.to(tokens.text.device)
        text = tokens.text.float()
        mean = (
            torch.zeros(len(count), *text.shape[1:], device=text.device).index_add_(0, owner, text)
            / count[:, None, None]
        )
        spread = text + self.strength * (text - mean[owner])
        alone = (count[owner] == 1)[:, None, None]
        return replace(tokens, text=torch.where(alone, text, spread).to(tokens.text.dtype))
