"""CADS and the guidance interval: annealing, statistics kept, the published formula at its ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fairlead.core.errors import FairleadError
from fairlead.core.intervention import PROMPT
from fairlead.core.key import normals
from fairlead.core.model import Level, Rows, Tokens, whole
from fairlead.interventions.cads import Cads
from fairlead.testing._check import keys, latents


def rows(n: int, time: float, step: int = 0) -> Rows:
    return whole(n, Level(1 - time, time), groups=torch.zeros(n, dtype=torch.long), step=step, steps=8)


def test_annealing_and_statistics() -> None:
    text = 3 + 2 * normals(keys(4), 6, 8)
    tokens = Tokens(torch.zeros(4, 2, 2), text)
    assert not Cads().wants(PROMPT, rows(4, 0.3))
    assert [round(Cads()._kept(t), 6) for t in (0.3, 0.55, 0.8, 1.0)] == [1.0, 0.5, 0.0, 0.0]
    full, half = (Cads(scale=0.5)(PROMPT, rows(4, t), tokens).text for t in (1.0, 0.55))
    for out in (full, half):
        torch.testing.assert_close(out.mean((1, 2)), text.mean((1, 2)), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(out.std((1, 2)), text.std((1, 2)), rtol=1e-4, atol=1e-4)

    def alike(a: torch.Tensor) -> float:
        return float(torch.corrcoef(torch.stack([a.flatten(), text.flatten()]))[0, 1])

    assert abs(alike(full)) < 0.3, "nothing of the prompt is left"
    assert 0.8 < alike(half) < 0.999
    tiny = Cads(scale=1e-8)(PROMPT, rows(4, 1.0), tokens).text
    torch.testing.assert_close(tiny, full, rtol=1e-3, atol=1e-3), "with mix 1 the scale cancels"
    assert not torch.equal(full[0], full[1])
    later = Cads(scale=0.5)(PROMPT, rows(4, 1.0, step=1), tokens).text
    assert not torch.equal(later, full)


def test_noise_belongs_to_the_place_in_the_group() -> None:
    tokens = Tokens(torch.zeros(4, 2, 2), normals(keys(4), 6, 8))
    two = Rows(
        torch.arange(4),
        torch.tensor([5, 5, 9, 9]),
        torch.zeros(4, dtype=torch.long),
        torch.ones(4, dtype=torch.bool),
        0,
        8,
        Level(0.0, 1.0),
    )
    alone = Rows(
        torch.arange(2),
        torch.tensor([9, 9]),
        torch.zeros(2, dtype=torch.long),
        torch.ones(2, dtype=torch.bool),
        0,
        8,
        Level(0.0, 1.0),
    )
    together = Cads()(PROMPT, two, tokens).text
    apart = Cads()(PROMPT, alone, Tokens(tokens.image[2:], tokens.text[2:])).text
    assert torch.equal(together[2:], apart)


def test_wrong_settings() -> None:
    with pytest.raises(FairleadError, match=r"cads\.scale is -1: must be a finite number >= 0"):
        Cads(scale=-1)
    bad: list[dict[str, Any]] = [{"until": 1.1}, {"until": -0.1}, {"start": -1}, {"mix": 2}]
    for words in [*bad, *({name: float(b)} for name in ("scale", "start") for b in ("nan", "inf"))]:
        with pytest.raises(FairleadError, match=rf"cads\.{next(iter(words))} is "):
            Cads(**words)
    for own in ("couples", "place"):
        with pytest.raises(TypeError):
            Cads(**{own: True})  # type: ignore[arg-type]


def test_guidance_interval(tiny_flux: Callable[..., Any]) -> None:
    """Outside it the prediction is the unguided one, inside the guided one; the bill is the same."""
    guided, plain, inner = (
        tiny_flux(true_cfg_scale=3.0),
        tiny_flux(),
        tiny_flux(true_cfg_scale=3.0, guidance_interval=(0.2, 0.6)),
    )
    x, cond = latents(guided, 2), guided.encode(["a dog", "a car"])
    assert inner.branches == 2
    for time, same in ((0.9, plain), (0.4, guided), (0.1, plain)):
        at = Level(1 - time, time)
        with torch.no_grad():
            torch.testing.assert_close(
                inner.predict(x, at, cond, whole(2, at)), same.predict(x, at, cond, whole(2, at)), rtol=1e-4, atol=1e-5
            )
    with pytest.raises(FairleadError, match="two shares of noise"):
        tiny_flux(guidance_interval=(0.8, 0.2))
