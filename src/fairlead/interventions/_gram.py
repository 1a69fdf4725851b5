"""Gradient ascent on the diversity of a few long vectors, taken on their Gram matrix.

Every gradient is a combination of the vectors themselves, so M steps are M products of B x B matrices: the identity
X_m = A_m X_0 is exact, and equal to the loop over the vectors up to rounding.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
FLOOR = 1e-12
"""Smallest eigenvalue whose logarithm is taken."""
CHUNK = 1 << 18
"""Columns widened to float64 at once."""


def repel(
    x: Tensor,
    eta: float | Array,
    inner: int = 10,
    kernel_reg: float = 1e-4,
    objective: str = "vendi",
    rounding: str = "once",
    known: Array | None = None,
) -> Tensor:
    """x [g, B, P] -> x after `inner` steps of eta/inner times the gradient, eta one number or [g]; in x's number
    format.

    Every step is a combination of the rows, so it is taken on their Gram matrix (`known`, if it is) and applied once:
    the tokens are read twice and written once. A group with a zero or infinite row has no cosines and is left alone.
    """
    if x.shape[1] < 2 or not np.any(eta):
        return x
    scale = np.broadcast_to(np.asarray(eta, dtype=np.float64), (len(x),))
    if rounding == "per_step":
        for _ in range(inner):
            x = repel(x, scale / inner, 1, kernel_reg, objective)
        return x
    g = gram(x) if known is None else known
    alone = ~(np.isfinite(g).all((1, 2)) & (np.einsum("gii->gi", g) > np.finfo(np.float32).tiny).all(1))
    clean = np.where(alone[:, None, None], np.eye(g.shape[-1]), g)
    e = moves(clean, np.where(alone, 0.0, scale / inner), inner, kernel_reg, objective)
    work = x if x.dtype == torch.float64 else x.float()
    end = torch.finfo(x.dtype).max
    y = torch.baddbmm(work, torch.from_numpy(e).to(work), work).clamp(-end, end).to(x.dtype)
    return torch.where(torch.from_numpy(alone).to(x.device)[:, None, None], x, y) if alone.any() else y


def gram(x: Tensor) -> Array:
    """x [g, B, P] -> inner products [g, B, B], summed in float64 where the device has it."""
    exact = torch.float32 if x.device.type == "mps" else torch.float64
    out = torch.zeros(len(x), x.shape[1], x.shape[1], dtype=exact, device=x.device)
    for part in torch.split(x, CHUNK, dim=-1):
        wide = part.to(exact)
        out += wide @ wide.mT
    found: Array = out.cpu().double().numpy()
    return found


def moves(g: Array, step: Array, inner: int, kernel_reg: float, objective: str) -> Array:
    """Gram matrices [g, B, B], step lengths [g] -> E [g, B, B]: the rows move by E x."""
    b = g.shape[-1]
    eye = np.eye(b)
    h = step[:, None, None] * (2 / b)
    e = np.zeros_like(g)
    for _ in range(inner):
        # K_ij = <x_i, x_j> / (r_i r_j), paper eq. 3.
        r = np.sqrt(np.einsum("gii->gi", g))
        rr = r[:, :, None] * r[:, None, :]
        k = g / rr
        # Gradient of the entropy H (eq. 4) in x, as a combination C of the rows; its radial part is projected out.
        s = _slope(k, kernel_reg, objective)
        c = h * (s - eye * (s * k).sum(-1)[:, :, None]) / rr
        # x <- x + (eta / M) grad H, eq. 2: the rows and their Gram matrix after this step.
        e = e + c + c @ e
        a = eye + c
        g = a @ g @ a.swapaxes(1, 2)
        g = (g + g.swapaxes(1, 2)) / 2
    return e


def _slope(k: Array, kernel_reg: float, objective: str) -> Array:
    """Cosines [g, B, B] -> derivative of the objective with respect to K / B, [g, B, B] (its radial part is projected
    out).
    """
    b = k.shape[-1]
    eye = np.eye(b)
    if objective == "mean_cosine":
        return np.broadcast_to(np.full((b, b), -b / 2), k.shape)
    if objective == "dpp":
        found: Array = b * np.linalg.inv(k + kernel_reg * eye) - b * np.linalg.inv(k + eye)
        return found
    rho = (k + kernel_reg * eye) / (b * (1 + kernel_reg))
    if objective == "renyi2":
        out: Array = -2 * rho / np.square(rho).sum((1, 2))[:, None, None]
        return out
    values, vectors = np.linalg.eigh(rho)
    minus: Array = -(vectors * np.log(np.maximum(values, FLOOR))[:, None, :]) @ vectors.swapaxes(1, 2)
    return minus


def _cosines(g: Array) -> Array:
    r = np.sqrt(np.einsum("gii->gi", g))
    found: Array = g / np.where(r > 0, r, 1)[:, :, None] / np.where(r > 0, r, 1)[:, None, :]
    return found


def cosine(g: Array) -> list[float]:
    """Gram matrices [g, B, B] -> mean cosine over pairs."""
    b = g.shape[-1]
    found: list[float] = ((_cosines(g).sum((1, 2)) - b) / (b * (b - 1))).tolist()
    return found


def vendi(g: Array) -> list[float]:
    """Gram matrices [g, B, B] -> exponential of the entropy of the eigenvalues of their cosines over B."""
    values = np.linalg.eigvalsh(_cosines(g) / g.shape[-1]).clip(1e-300)
    found: list[float] = np.exp(-(values * np.log(values)).sum(-1)).tolist()
    return found
