"""Laws of a search space."""

from __future__ import annotations

import math

import torch

from fairlead.core.model import Model
from fairlead.core.search import Space
from fairlead.testing._check import counting, differs, encode, equal, global_randomness_untouched, keys, law


def space_laws(space: Space, model: Model, *, n: int = 4) -> None:
    """Checks: draws are a function of the key; latents are unit normal under the prior, of the model's shape and dtype;
    each row depends on its own point and key alone; placing is differentiable and writes to nothing.
    """
    with global_randomness_untouched("The space"), counting(model):
        own = keys(n, "space")
        x = torch.stack([space.draw(k) for k in own])
        law(x.shape == (n, space.dim), f"draw returned {tuple(x.shape[1:])}, dim says {space.dim}.")
        law(x.dtype == torch.float32 and x.device.type == "cpu", "draw is not float32 on the cpu.")
        law(bool(x.isfinite().all()), "draw is not finite.")
        equal(space.draw(own[0]), x[0], "Two draws from one key differ")
        cond = encode(model, n)
        before = x.clone()
        tokens = cond.tokens.clone()
        z, placed = space.place(x, model, cond, own)
        equal(x, before, "place() wrote to its points")
        equal(cond.tokens, tokens, "place() wrote to the conditioning")
        law(z.shape == (n, *model.latent), f"place returned latents {tuple(z.shape)}, expected {(n, *model.latent)}.")
        law(z.dtype == torch.float32 and z.device == model.device, "Latents are not float32 on the model's device.")
        law(placed.prompts == cond.prompts, "place() changed the prompts.")
        law(placed.tokens.shape == cond.tokens.shape, "place() changed the shape of the tokens.")
        for i in range(n):
            one = torch.tensor([i])
            zi, ci = space.place(x[one], model, cond.take(one), (own[i],))
            equal(zi[0], z[i], f"Latents of sample {i} depend on its companions")
            equal(ci.tokens[0], placed.tokens[i], f"Tokens of sample {i} depend on its companions")
        moved = (x + torch.linspace(0.5, 1.0, space.dim)).requires_grad_()
        zm, cm = space.place(moved, model, cond, own)
        law(differs(zm, z) or differs(cm.tokens, placed.tokens), "Moving the point moves neither latents nor tokens.")
        total = zm.double().square().sum() + cm.tokens.double().square().sum()
        law(total.requires_grad, "place() is not differentiable: the graph ends in it.")
        (slope,) = torch.autograd.grad(total, moved)
        law(
            bool(slope.isfinite().all()) and bool((slope != 0).any()),
            "The gradient through place() is zero or not finite.",
        )
        many = keys(64, "prior")
        zs, _ = space.place(torch.stack([space.draw(k) for k in many]), model, encode(model, 64), many)
        size = zs.numel()
        mean = float(zs.double().mean())
        var = float(zs.double().var())
        law(abs(mean) < 5 / math.sqrt(size), f"Latents under the prior have mean {mean:.3g}, expected 0.")
        law(abs(var - 1) < 5 * math.sqrt(2 / size), f"Latents under the prior have variance {var:.3g}, expected 1.")
