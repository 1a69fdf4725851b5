"""Laws of an intervention."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fairlead.core.intervention import Intervention, installed, sites_at
from fairlead.core.model import Level, Model, Rows, Site, Tokens, whole
from fairlead.testing._check import (
    close,
    counting,
    differs,
    equal,
    global_randomness_untouched,
    latents,
    law,
    prompts,
    raises,
)
from fairlead.testing.models import predict

GROUPS = (0, 0, 1, 1)
_PROMPTS = [prompts(2)[group] for group in GROUPS]
STEPS = 8


def intervention_laws(intervention: Intervention, model: Model, off: Intervention | None = None) -> None:
    """`off` is the same intervention at strength zero.

    Checks: nothing is left installed, also after an exception; strength zero is the identity bit for bit; shapes,
    dtypes and inputs kept; groups, replicas and branches never mix, and without `couples` no two rows do.
    """
    law(bool(model.sites), "The model has no site to test at.")
    with global_randomness_untouched("The intervention"), torch.no_grad(), counting(model):
        x = latents(model, len(GROUPS))
        cond = model.encode(_PROMPTS)
        rows = _first_wanted(intervention, model)
        plain = predict(model, x, rows.level, cond, rows)
        with installed(model, [intervention]):
            edited = predict(model, x, rows.level, cond, rows)
        equal(predict(model, x, rows.level, cond, rows), plain, "Something is left behind after removal")
        law(differs(edited, plain), "The intervention changes nothing where it wants to act.")
        law(bool(edited.isfinite().all()), "The prediction under the intervention is not finite.")

        def broken() -> None:
            with installed(model, [intervention, _Broken()]):
                predict(model, x, rows.level, cond, rows)

        raises(_Oops, broken, "An error inside an edit did not reach the caller.")
        equal(predict(model, x, rows.level, cond, rows), plain, "Something is left behind after an exception")
        if off is not None:
            for step in range(STEPS):
                at = replace(rows, step=step)
                bare = predict(model, x, rows.level, cond, at)
                with installed(model, [off]):
                    equal(predict(model, x, rows.level, cond, at), bare, "Strength zero is not the identity")
        _tokens(intervention, model, rows)


class _Oops(Exception):
    pass


class _Broken(Intervention):
    """Raises the first time, does nothing afterwards."""

    def __init__(self) -> None:
        self._armed = True

    def wants(self, site: Site, rows: Rows) -> bool:
        return True

    def __call__(self, site: Site, rows: Rows, tokens: Tokens) -> Tokens:
        if self._armed:
            self._armed = False
            raise _Oops
        return tokens


def _sites(intervention: Intervention, model: Model) -> list[Site]:
    return sites_at(model, intervention.place)


def _first_wanted(intervention: Intervention, model: Model) -> Rows:
    """Rows of the first step at which some site is wanted."""
    for step in range(STEPS):
        at = model.levels(STEPS)[step]
        rows = whole(len(GROUPS), at, groups=torch.tensor(GROUPS), step=step, steps=STEPS)
        if any(intervention.wants(site, rows) for site in _sites(intervention, model)):
            return rows
    raise AssertionError(f"The intervention wants no site of this model at any of {STEPS} steps.")


@dataclass(frozen=True)
class _Call:
    site: Site
    rows: Rows
    tokens: Tokens


def _calls(model: Model, rows: Rows, intervention: Intervention) -> list[_Call]:
    """What the wanted sites really see."""
    out: list[_Call] = []
    removals = []
    for site in _sites(intervention, model):

        def look(rows: Rows, tokens: Tokens, site: Site = site) -> Tokens:
            if intervention.wants(site, rows):
                out.append(_Call(site, rows, tokens))
            return tokens

        removals.append(model.edit(site, look))
    predict(model, latents(model, len(GROUPS)), rows.level, model.encode(_PROMPTS), rows)
    for remove in removals:
        remove()
    return out


def _tokens(intervention: Intervention, model: Model, rows: Rows) -> None:
    for call in _calls(model, rows, intervention):
        for dtype in (torch.float32, torch.bfloat16):
            old = Tokens(call.tokens.image.to(dtype), call.tokens.text.to(dtype))
            image = old.image.clone()
            text = old.text.clone()
            new = intervention(call.site, call.rows, old)
            equal(old.image, image, f"Image tokens were written to at {call.site.name}")
            equal(old.text, text, f"Text tokens were written to at {call.site.name}")
            for name in ("image", "text"):
                a = getattr(new, name)
                b = getattr(old, name)
                kept = a.shape == b.shape and a.dtype == b.dtype
                law(kept, f"{name} tokens at {call.site.name} became {tuple(a.shape)} {a.dtype}.")
            again = intervention(call.site, call.rows, old)
            equal(again.text, new.text, "The same edit twice differs")
            equal(again.image, new.image, "The same edit twice differs")
        _independent(intervention, call.site, call.rows, call.tokens, model.levels(STEPS)[0])


def _independent(who: Intervention, site: Site, rows: Rows, tokens: Tokens, at: Level) -> None:
    """Both branches and two replicas of every sample in one call; then disturb one part and look at the others."""
    one = replace(
        rows,
        base=torch.arange(4).repeat(4),
        group=torch.tensor(GROUPS).repeat(4),
        replica=torch.tensor([0] * 4 + [1] * 4).repeat(2),
        conditional=torch.tensor([False] * 8 + [True] * 8),
    )
    r = len(tokens.text)
    stack = torch.arange(16) % r
    scale = 1 + 0.1 * torch.arange(16, dtype=torch.float32)[:, None, None].to(tokens.text.device)
    image = tokens.image.float()[stack] * scale
    text = tokens.text.float()[stack] * scale
    base = who(site, one, Tokens(image, text))
    parts: dict[str, Tensor] = {
        "group": one.group == 1,
        "replica": one.replica == 1,
        "branch": one.conditional,
    }
    if not who.couples:
        parts["sample"] = one.base == 1
    for name, disturbed in parts.items():
        moved = disturbed.to(text.device)[:, None, None] * 3.0
        new = who(site, one, Tokens(image + moved, text + moved))
        keep = ~disturbed
        equal(new.text[keep], base.text[keep], f"Text of one {name} depends on another {name} at {site.name}")
        equal(new.image[keep], base.image[keep], f"Image of one {name} depends on another {name} at {site.name}")
    order = torch.arange(15, -1, -1)
    flipped = replace(one, **{k: getattr(one, k)[order] for k in ("base", "group", "replica", "conditional")})
    back = who(site, flipped, Tokens(image[order], text[order]))
    close(back.text[order], base.text, f"Text does not follow its rows when they are reordered at {site.name}")
    close(back.image[order], base.image, f"Image does not follow its rows when they are reordered at {site.name}")
