"""Repulsion in the contextual space (Dahary et al., SIGGRAPH 2026, arXiv 2603.28762): a group's text tokens pushed
apart.

In early steps, inside every block. Dahary, Koren, Garibi, Cohen-Or, "On-the-fly Repulsion in the Contextual Space for
Rich Diversity in Diffusion Transformers". No official code was available: what the paper leaves open is marked
"inferred".
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from fairlead.core.check import number_in_range, one_of, whole_number
from fairlead.core.intervention import Intervention
from fairlead.core.model import Place, Rows, Site, Tokens
from fairlead.interventions._gram import cosine, gram, repel, vendi

STRONGEST = 1.0
"""From here on a group is orthogonal whatever it was, and more only makes tokens longer."""
WORDS: dict[str, tuple[str, ...]] = {
    "place": ("attention", "block"),
    "joint": ("text", "image", "both", "off"),
    "single": ("all", "text", "off"),
    "objective": ("vendi", "renyi2", "dpp", "mean_cosine"),
    "cfg": ("per_branch", "joint", "cond_only"),
    "rounding": ("once", "per_step"),
    "blocks": ("all", "first_third", "middle_third", "last_third"),
}


@dataclass(frozen=True)
class Contact:
    """What one call did to one group at one site; for calibration and for tests."""

    site: str
    step: int
    conditional: bool
    cosine: tuple[float, float]
    """Mean over pairs before and after"""
    vendi: tuple[float, float]
    moved: float
    """Root mean square of |change| / |vector|"""
    q: float
    norm: float
    """Root mean square length of the vectors before"""


@dataclass(frozen=True)
class Repulsion(Intervention):
    """Gradient ascent on the von Neumann entropy of the cosines between a group's token vectors (paper eq. 2 to 4).

    Gradient steps are exact on the Gram matrix, in float64. Each branch of guidance has its own kernel. A group of
    one is left alone.

    Settings:
        strength (number in [0, 1], default 0.05): dimensionless step, eta / (B r^2) with B pictures whose vectors
            have root mean square length r; 0 switches the method off, larger values than 1 are clipped; 0.01 to 0.3
            is useful. Inferred.
        eta (number >= 0 or None, default None): the paper's absolute step size instead of `strength`, for one
            number format and `place`.
        inner (whole number >= 1, default 10): gradient steps, M of the paper; above 10 their number hardly matters.
        first (whole number >= 0 or None, default None): steps of the run in which it acts; None is a seventh of
            them, rounded, at least one.
        sigma_min (number in [0, 1], default 0.0): share of noise below which it does not act.
        place (attention or block, default 'attention'): what is edited: what attention returns (paper eq. 1, as
            read here) or what a block returns.
        joint (text, image, both or off, default 'text'): what is repelled in joint blocks.
        single (all, text or off, default 'all'): what is repelled in single blocks.
        blocks (all, first_third, middle_third, last_third or names of sites, default 'all'): which blocks are
            edited.
        objective (vendi, renyi2, dpp or mean_cosine, default 'vendi'): what is maximised; `vendi` is the paper's
            entropy.
        cfg (per_branch, joint or cond_only, default 'per_branch'): which branches of guidance form a kernel.
        kernel_reg (number >= 0, default 0.0001): added to the diagonal of the kernel.
        rounding (once or per_step, default 'once'): whether the moved tokens are rounded after all gradient steps
            or after each.
    """

    strength: float = 0.05
    eta: float | None = None
    inner: int = 10
    first: int | None = None
    sigma_min: float = 0.0
    place: Place = "attention"
    joint: str = "text"
    single: str = "all"
    blocks: str | tuple[str, ...] = "all"
    objective: str = "vendi"
    cfg: str = "per_branch"
    kernel_reg: float = 1e-4
    rounding: str = "once"

    switched_off = {"strength": 0.0}
    couples = True
    seen: list[Contact] | None = field(default=None, compare=False, repr=False)
    """Where to note what is done; costs as much again as doing it."""

    def __post_init__(self) -> None:
        for name, words in WORDS.items():
            value = getattr(self, name)
            if not (name == "blocks" and isinstance(value, list | tuple)):
                one_of(f"repulsion.{name}", value, words)
        number_in_range("repulsion.strength", self.strength, "[0, inf)")
        number_in_range("repulsion.eta", self.eta, "[0, inf)", optional=True)
        number_in_range("repulsion.kernel_reg", self.kernel_reg, "[0, inf)")
        whole_number("repulsion.inner", self.inner, least=1)
        whole_number("repulsion.first", self.first, least=0, optional=True)
        number_in_range("repulsion.sigma_min", self.sigma_min, "[0, 1]")
        if self.strength > STRONGEST:
            warnings.warn(
                f"repulsion.strength is {self.strength:g} and is clipped to {STRONGEST:g}, which already makes every "
                "group orthogonal.",
                stacklevel=3,
            )
            object.__setattr__(self, "strength", STRONGEST)

    def wants(self, site: Site, rows: Rows) -> bool:
        """Chosen blocks of the early steps."""
        if (self.strength if self.eta is None else self.eta) == 0 or not self._part(site) or not self._chosen(site):
            return False
        first = max(1, round(rows.steps / 7)) if self.first is None else self.first
        if self.first is not None and first >= rows.steps > 1:
            warnings.warn(
                f"repulsion.first {first} is the whole trajectory of {rows.steps} steps: quality falls.", stacklevel=2
            )
        if rows.step == 0 < first and rows.level.time < self.sigma_min:
            warnings.warn(
                f"repulsion.sigma_min {self.sigma_min:g} is above the noisiest level, {rows.level.time:.3g}: it "
                "changes nothing.",
                stacklevel=2,
            )
        return rows.step < first and rows.level.time >= self.sigma_min

    def _part(self, site: Site) -> tuple[str, ...]:
        word = self.joint if site.kind == "joint" else self.single
        return {"text": ("text",), "image": ("image",), "off": ()}.get(word, ("text", "image"))

    def _chosen(self, site: Site) -> bool:
        if isinstance(self.blocks, str):
            third = {"all": None, "first_third": 0, "middle_third": 1, "last_third": 2}[self.blocks]
            return third is None or int(3 * site.depth) == third
        return site.name in self.blocks

    def __call__(self, site: Site, rows: Rows, tokens: Tokens) -> Tokens:
        """Image [R, N, D] and text [R, T, D], each moved where it is repelled."""
        members = self._groups(rows)
        if not members:
            return tokens
        streams = [getattr(tokens, name) for name in self._part(site)]
        if tokens.mask is not None and "text" in self._part(site):
            streams[0] = streams[0] * tokens.mask[..., None].to(streams[0])
        x = torch.cat([stream.flatten(1) for stream in streams], 1)
        y = self._moved(x, members, site, rows)
        out = {}
        start = 0
        for name, stream in zip(self._part(site), streams, strict=True):
            width = stream[0].numel()
            new = y[:, start : start + width].reshape(stream.shape)
            start += width
            if name == "text" and tokens.mask is not None:
                new = torch.where(tokens.mask[..., None], new, tokens.text)
            out[name] = new
        return replace(tokens, **out)

    def _moved(self, x: Tensor, members: list[list[int]], site: Site, rows: Rows) -> Tensor:
        """x [R, P] with the members of every group repelled; groups of one size at once."""
        sizes = sorted({len(own) for own in members})
        if len(sizes) == 1 and [i for own in members for i in own] == list(range(len(x))):
            return self._repelled(x.view(len(members), sizes[0], -1), members, site, rows).view_as(x)
        y = x.clone()
        for size in sizes:
            some = [own for own in members if len(own) == size]
            at = torch.tensor(some, device=x.device)
            y[at] = self._repelled(x[at], some, site, rows)
        return y

    def _groups(self, rows: Rows) -> list[list[int]]:
        """Rows that may see each other, where there are two or more."""
        branch = torch.zeros_like(rows.conditional) if self.cfg == "joint" else rows.conditional
        found: dict[tuple[int, ...], list[int]] = {}
        for i, label in enumerate(torch.stack([rows.group, rows.replica, branch.long()], 1).tolist()):
            if label[2] or self.cfg != "cond_only":
                found.setdefault(tuple(label), []).append(i)
        return [own for own in found.values() if len(own) > 1]

    def _repelled(self, x: Tensor, members: list[list[int]], site: Site, rows: Rows) -> Tensor:
        """x [g, B, P] -> the same, repelled inside each of g groups."""
        g = gram(x)
        length = np.einsum("gii->g", g) / g.shape[-1]
        eta = self.strength * g.shape[-1] * length if self.eta is None else np.full(len(g), self.eta)
        if self.eta is not None and np.any(eta > STRONGEST * g.shape[-1] * length):
            warnings.warn(
                f"repulsion.eta is {self.eta:g}, which makes groups orthogonal at {site.name}. Use a smaller value, "
                "or set repulsion.strength instead.",
                stacklevel=2,
            )
        y = repel(x, eta, self.inner, self.kernel_reg, self.objective, self.rounding, g)
        if self.seen is not None:
            after = gram(y)
            total = g.shape[-1] * np.where(length > 0, length, 1)
            moved = np.sqrt((y.double() - x.double()).square().sum((1, 2)).cpu().numpy() / total)
            cosines, vendis = (list(zip(f(g), f(after), strict=True)) for f in (cosine, vendi))
            for i, own in enumerate(members):
                branch = bool(rows.conditional[own[0]])
                q = float(eta[i] / total[i])
                norm = float(length[i]) ** 0.5
                self.seen.append(Contact(site.name, rows.step, branch, cosines[i], vendis[i], float(moved[i]), q, norm))
        return y
