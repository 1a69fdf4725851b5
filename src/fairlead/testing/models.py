"""Laws of a model adapter."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from fairlead.core.cost import INFINITE, BudgetExceeded, Cost, Meter, Unmetered
from fairlead.core.model import Conditioning, Level, Model, Rows, Tokens, whole
from fairlead.testing._check import (
    close,
    counting,
    differs,
    encode,
    equal,
    global_randomness_untouched,
    latents,
    law,
    raises,
    weights_in_graph,
)


def model_laws(model: Model, *, n: int = 3, tolerance: float = 2e-3) -> None:
    """Checks: levels fall to sigma 0 or nearly; encoding commutes with taking rows; rows are independent; pure signal
    comes back; decoding stays in [0, 1] and carries gradients; edits leave nothing behind; every row is charged
    before it runs. The model stays bound to the suite's meter: give it another one before using it again.
    """
    law(len(model.latent) == 3 and min(model.latent) >= 1, f"latent is {model.latent}: expected (C, h, w).")
    law(model.branches in (1, 2), f"branches is {model.branches}: 1, or 2 under guidance.")
    with global_randomness_untouched("The model"), counting(model):
        _levels(model)
        _encode(model, n, tolerance)
        _predict(model, n, tolerance)
        _signal(model, n)
        _decode(model, n, tolerance)
        _sites(model, n)
    _metered(model, n)


def _levels(model: Model) -> None:
    for steps in (1, 2, 7):
        levels = model.levels(steps)
        law(len(levels) == steps + 1, f"levels({steps}) returned {len(levels)} levels, expected {steps + 1}.")
        sigmas = [at.sigma for at in levels]
        alphas = [at.alpha for at in levels]
        law(all(a > b for a, b in pairwise(sigmas)), f"sigma does not fall along levels({steps}): {sigmas}.")
        law(
            all(a <= b for a, b in pairwise(alphas)) and min(alphas) >= 0,
            f"alpha falls along levels({steps}): {alphas}.",
        )
        law(sigmas[-1] <= 0.05, f"levels({steps}) end at sigma {sigmas[-1]:g}, expected 0 or the schedule's smallest.")
        law(list(model.levels(steps)) == list(levels), "levels() has a memory: two calls differ.")


def _same_rows(a: Conditioning, b: Conditioning, sentence: str, tolerance: float) -> None:
    law(a.prompts == b.prompts, f"{sentence}: prompts {a.prompts} and {b.prompts}.")
    law(set(a.extra) == set(b.extra), f"{sentence}: extra entries {sorted(a.extra)} and {sorted(b.extra)}.")
    close(a.tokens.float(), b.tokens.float(), sentence, tolerance)
    for name in a.extra:
        close(a.extra[name].float(), b.extra[name].float(), f"{sentence} in {name}", tolerance)


def _encode(model: Model, n: int, tolerance: float) -> None:
    cond = encode(model, n)
    for name, value in {"tokens": cond.tokens, **cond.extra}.items():
        law(len(value) == n, f"{name} has {len(value)} rows for {n} prompts.")
    rows = torch.tensor([n - 1, 0, 0])
    one_by_one = model.encode([cond.prompts[int(r)] for r in rows])
    _same_rows(cond.take(rows), one_by_one, "Encoding and taking rows do not commute", tolerance)
    _same_rows(
        cond.take(rows).take(torch.tensor([1])), cond.take(torch.tensor([0])), "Taking twice is not taking once", 0
    )


def predict(model: Model, x: Tensor, at: Level, cond: Conditioning, rows: Rows | None = None) -> Tensor:
    """One plain call."""
    return model.predict(x, at, cond, whole(len(x), at) if rows is None else rows)


def _predict(model: Model, n: int, tolerance: float) -> None:
    cond = encode(model, n)
    at = model.levels(4)[1]
    x = latents(model, n)
    before = x.clone()
    with torch.no_grad():
        out = predict(model, x, at, cond)
        again = predict(model, x, at, cond)
    law(out.shape == x.shape and out.dtype == torch.float32, f"predict returned {tuple(out.shape)} {out.dtype}.")
    law(bool(out.isfinite().all()), "predict is not finite.")
    equal(x, before, "predict wrote to its input")
    equal(out, again, "The same prediction twice differs")
    for i in range(n):
        one = torch.tensor([i])
        with torch.no_grad():
            alone = predict(model, x[one.to(x.device)], at, cond.take(one))
        close(alone[0], out[i], f"The prediction of sample {i} depends on its companions", tolerance)
    moved = x.clone().requires_grad_()
    y = predict(model, moved, at, cond)
    law(y.requires_grad, "No gradient passes through predict.")
    leaked = weights_in_graph(y, [moved])
    law(not leaked, f"Gradients flow into {len(leaked)} weights of the network: freeze them.")
    (slope,) = torch.autograd.grad(y.square().sum(), moved)
    law(
        bool(slope.isfinite().all()) and bool((slope != 0).any()), "The gradient through predict is zero or not finite."
    )


def _signal(model: Model, n: int) -> None:
    """At the model's smallest positive sigma nearly all of x is signal, so the prediction is nearly x / alpha."""
    at = next(at for at in reversed(model.levels(1000)) if at.sigma > 0)
    x = latents(model, n)
    with torch.no_grad():
        out = predict(model, x, at, encode(model, n))
    gap = float((out - x / at.alpha).abs().max())
    allowed = 40 * at.sigma * (1 + float(x.abs().max()))
    law(
        gap <= allowed,
        f"At sigma {at.sigma:.3g} the prediction is {gap:.3g} away from pure signal, allowed {allowed:.3g}.",
    )


def _decode(model: Model, n: int, tolerance: float) -> None:
    z = (0.5 * latents(model, n)).requires_grad_()
    images = model.decode(z)
    law(
        images.ndim == 4 and images.shape[:2] == (n, 3),
        f"decode returned {tuple(images.shape)}, expected [B, 3, H, W].",
    )
    law(images.dtype == torch.float32, f"decode returned {images.dtype}, expected float32.")
    law(float(images.detach().min()) >= 0 and float(images.detach().max()) <= 1, "Decoded pixels leave [0, 1].")
    law(images.requires_grad, "No gradient passes through decode.")
    law(not weights_in_graph(images, [z]), "Gradients flow into weights of the decoder: freeze them.")
    (slope,) = torch.autograd.grad(images[0].sum(), z)
    law(bool((slope[0] != 0).any()), "The gradient through decode is zero.")
    law(bool((slope[1:] == 0).all()), "A decoded image has a gradient into another latent.")
    with torch.no_grad():
        close(model.decode(z[:1])[0], images.detach()[0], "A decoded image depends on its companions", tolerance)
        far = model.decode(100 * z)
    law(float(far.min()) >= 0 and float(far.max()) <= 1, "Decoded pixels of a wild latent leave [0, 1].")


def _tilted(tokens: Tensor) -> Tensor:
    """Features scaled unevenly: a layer norm undoes neither an even scale nor an even shift."""
    return tokens * torch.linspace(0.5, 1.5, tokens.shape[-1], dtype=tokens.dtype, device=tokens.device)


def _sites(model: Model, n: int) -> None:
    """Edits see their rows, change the output where they edit, and leave it bit for bit once removed."""
    x = latents(model, n)
    cond = encode(model, n)
    at = model.levels(4)[1]
    rows = whole(n, at)
    with torch.no_grad():
        plain = predict(model, x, at, cond, rows)
        for site in model.sites:
            seen: list[tuple[Rows, Tokens]] = []

            def look(rows: Rows, tokens: Tokens, seen: list[tuple[Rows, Tokens]] = seen) -> Tokens:
                seen.append((rows, tokens))
                return tokens

            remove = model.edit(site, look)
            same = predict(model, x, at, cond, rows)
            remove()
            equal(same, plain, f"An edit at {site.name} that changes nothing changed the prediction")
            law(len(seen) == 1, f"An edit at {site.name} was called {len(seen)} times in one prediction.")
            told, tokens = seen[0]
            r = n * model.branches
            law(
                len(tokens.image) == len(tokens.text) == r,
                f"Tokens at {site.name} have {len(tokens.text)} rows, expected {r}.",
            )
            for name in ("base", "group", "replica", "conditional"):
                law(len(getattr(told, name)) == r, f"rows.{name} has {len(getattr(told, name))} entries for {r} rows.")
            law(int(told.conditional.sum()) == n, f"{int(told.conditional.sum())} rows are conditional, expected {n}.")
            last = site == model.sites[-1]
            remove = model.edit(site, lambda rows, t: Tokens(_tilted(t.image), t.text))
            changed = predict(model, x, at, cond, rows)
            remove()
            law(
                differs(changed, plain),
                f"Tilting the image tokens at {site.name} changes nothing: edits are not used.",
            )
            if not last:
                remove = model.edit(site, lambda rows, t: Tokens(t.image, _tilted(t.text)))
                changed = predict(model, x, at, cond, rows)
                remove()
                law(
                    differs(changed, plain),
                    f"Tilting the text tokens at {site.name} changes nothing: edits are not used.",
                )
            equal(predict(model, x, at, cond, rows), plain, f"Something is left behind after the edit at {site.name}")


def _metered(model: Model, n: int) -> None:
    meter = Meter()
    model.meter(meter)
    x = latents(model, n)
    cond = encode(model, n)
    at = model.levels(4)[1]
    raises(Unmetered, lambda: predict(model, x, at, cond), "The network ran outside a grant.")
    raises(Unmetered, lambda: model.decode(x), "The decoder ran outside a grant.")
    law(meter.spent.forwards == 0 and meter.spent.decodes == 0, "A refused call was charged.")
    with torch.no_grad(), meter.grant(INFINITE):
        predict(model, x, at, cond)
        model.decode(x)
    rows = meter.spent.forwards
    decodes = meter.spent.decodes
    law(rows == n * model.branches, f"{rows:g} rows were charged for {n} samples and {model.branches} branches.")
    law(decodes == n, f"{decodes:g} decodes were charged for {n} latents.")
    with meter.grant(Cost(forwards=n * model.branches - 1, decodes=n - 1, seconds=60)):
        raises(BudgetExceeded, lambda: predict(model, x, at, cond), "The network ran past its grant.")
        raises(BudgetExceeded, lambda: model.decode(x), "The decoder ran past its grant.")
    law(meter.spent.forwards == rows and meter.spent.decodes == decodes, "A call past its grant was charged.")
