"""Conditioning, and interventions installed and removed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from fairlead.core.errors import FairleadError
from fairlead.core.intervention import PROMPT, Editing, Intervention, installed, one_prompt_a_group, sites_at
from fairlead.core.model import Conditioning, Level, Rows, Site, Tokens, level_at, moves, renoise, stretch, whole
from fairlead.models.mixture import Mixture

COND = Conditioning(torch.arange(6.0).view(3, 1, 2), ("a", "b", "c"), {"pooled": torch.arange(3.0)})


def test_take_is_indexing() -> None:
    rows = torch.tensor([2, 0, 2])
    got = COND.take(rows)
    assert torch.equal(got.tokens, COND.tokens[rows])
    assert got.prompts == ("c", "a", "c")
    assert got.extra["pooled"].tolist() == [2, 0, 2]


def test_with_tokens_keeps_the_shape() -> None:
    assert torch.equal(COND.with_tokens(COND.tokens + 1).tokens, COND.tokens + 1)
    with pytest.raises(ValueError, match="shape"):
        COND.with_tokens(torch.zeros(3, 2, 2))


class Blocks:
    """Two sites and a record of what is installed."""

    sites = (Site("joint_0", "joint", 0), Site("single_0", "single", 0))

    def __init__(self) -> None:
        self.edits: dict[str, list[Any]] = {site.name: [] for site in self.sites}

    def edit(self, site: Site, edit: Any) -> Any:
        self.edits[site.name].append(edit)
        return lambda: self.edits[site.name].remove(edit)

    def call(self, tokens: Tokens) -> Tokens:
        for edits in self.edits.values():
            for edit in edits:
                tokens = edit(whole(2, Level(0.5, 0.5)), tokens)
        return tokens


class Add(Intervention):
    def __init__(self, kind: str, text: float) -> None:
        self._kind, self._text = kind, text

    def wants(self, site: Site, rows: Rows) -> bool:
        return site.kind == self._kind

    def __call__(self, site: Site, rows: Rows, tokens: Tokens) -> Tokens:
        return replace(tokens, text=2 * tokens.text + self._text)


TOKENS = Tokens(torch.zeros(2, 3, 1), torch.ones(2, 1, 1))


def test_installed_in_order_where_wanted() -> None:
    model: Any = Blocks()
    with installed(model, [Add("joint", 1), Add("joint", 10), Add("single", 100)]):
        assert model.call(TOKENS).text.flatten().tolist() == [132.0, 132.0]  # ((1*2+1)*2+10)*2+100
    assert model.call(TOKENS) is TOKENS
    assert not any(model.edits.values())


def test_removed_after_an_exception() -> None:
    model: Any = Blocks()
    with pytest.raises(ValueError, match="x"), installed(model, [Add("joint", 1)]):
        raise ValueError("x")
    assert not any(model.edits.values())


def test_removed_when_the_second_site_refuses() -> None:
    class Picky(Blocks):
        def edit(self, site: Site, edit: Any) -> Any:
            if site.kind == "single":
                raise ValueError("no")
            return super().edit(site, edit)

    model: Any = Picky()
    with pytest.raises(ValueError, match="no"), installed(model, [Add("joint", 1)]):
        pass
    assert not any(model.edits.values())


@pytest.mark.parametrize("text", [torch.ones(2, 2, 1), torch.ones(2, 1, 1, dtype=torch.float64)])
def test_shapes_and_dtypes_are_checked(text: torch.Tensor) -> None:
    class Wrong(Add):
        def __call__(self, site: Site, rows: Rows, tokens: Tokens) -> Tokens:
            return replace(tokens, text=text)

    model: Any = Blocks()
    with (
        installed(model, [Wrong("joint", 0)]),
        pytest.raises(TypeError, match=r"Wrong returned text tokens .* joint_0"),
    ):
        model.call(TOKENS)


def test_a_model_without_sites_refuses() -> None:
    with (
        pytest.raises(FairleadError, match="Mixture has no joint-attention site"),
        installed(Mixture(), [Add("joint", 1)]),
    ):
        pass
    with installed(Mixture(), []):
        pass


def test_sites() -> None:
    """The prompt is edited before the network, and a site is in its middle unless it says otherwise."""
    assert (PROMPT.name, PROMPT.kind, PROMPT.index, PROMPT.place, PROMPT.depth) == ("prompt", "joint", 0, "prompt", 0.0)
    assert Site("a", "joint", 0).depth == 0.5
    model: Any = Blocks()
    assert sites_at(model, "prompt") == [PROMPT]
    assert [(site.name, site.place) for site in sites_at(model, "attention")] == [
        ("joint_0", "attention"),
        ("single_0", "attention"),
    ]
    rows = whole(2, Level(0.5, 0.5))
    assert Editing(model.sites[0], (Add("single", 1), Add("joint", 1))).wants(rows)
    assert not Editing(model.sites[0], (Add("single", 1),)).wants(rows)


def test_a_group_has_one_prompt() -> None:
    rows = whole(3, Level(0.5, 0.5), groups=torch.tensor([0, 1, 0]))
    one_prompt_a_group(["a", "b", "a"], rows)
    with pytest.raises(FairleadError, match="A group holds 'a' and 'c'"):
        one_prompt_a_group(["a", "b", "c"], rows)


def test_rows() -> None:
    rows = whole(2, Level(0.5, 0.5), groups=torch.tensor([4, 4]), step=3, steps=8)
    assert (rows.base.tolist(), rows.group.tolist(), rows.replica.tolist()) == ([0, 1], [4, 4], [0, 0])
    assert (rows.conditional.tolist(), rows.step, rows.steps) == ([True, True], 3, 8)
    assert whole(2, rows.level).group.tolist() == [0, 1]
    assert (whole(2, rows.level).step, whole(2, rows.level).steps) == (0, 1)
    both = rows.doubled()
    assert (both.base.tolist(), both.group.tolist()) == ([0, 1, 0, 1], [4, 4, 4, 4])
    assert both.conditional.tolist() == [False, False, True, True]


TIMES = (1.0, 0.9, 0.7, 0.4, 0.1, 0.0)
CURVES = {
    "flow": lambda t: Level(1 - t, t),
    "preserving": lambda t: Level((1 - t) / math.hypot(1 - t, t), t / math.hypot(1 - t, t)),
    "exploding": lambda t: Level(1.0, t / (1 - t) if t < 1 else 100.0),
}


@pytest.mark.parametrize("kind", CURVES)
def test_levels_of_a_time_lie_on_the_curve(kind: str) -> None:
    curve = [CURVES[kind](t) for t in TIMES]
    for time in (0.05, 0.3, 0.8):
        at = level_at(curve, time)
        assert at.time == pytest.approx(time)
        assert (at.alpha, at.sigma) == pytest.approx((CURVES[kind](time).alpha, CURVES[kind](time).sigma))
    assert level_at([Level(1.02, 0.0), *curve[1:-1], Level(0.9, 0.0)], 0.3).time == pytest.approx(0.3), (
        "the ends may differ"
    )


def test_a_curve_of_no_kind_is_refused() -> None:
    with pytest.raises(FairleadError, match="lies on none of the curves"):
        level_at([Level(0.1, 1.0), Level(0.5, 0.8), Level(0.9, 0.0)], 0.5)


def test_a_stretch_has_the_spacing_of_the_curve() -> None:
    curve = [CURVES["flow"](t) for t in TIMES]
    times = [at.time for at in stretch(curve, 0.9, 0.1, 3)]
    assert times == pytest.approx([0.9, 0.7, 0.4, 0.1])
    assert [at.time for at in stretch(curve, 0.9, 0.1, 6)] == pytest.approx([0.9, 0.8, 0.7, 0.55, 0.4, 0.25, 0.1])
    assert [at.time for at in stretch(curve, 0.8, 0.3, 1)] == pytest.approx([0.8, 0.3])
    assert [at.time for at in stretch(curve, 0.8, 0.25, 2)] == pytest.approx([0.8, 0.55, 0.25])


@pytest.mark.parametrize(
    ("high", "low", "count"),
    [(1.0, 0.0, 5), (0.9, 0.1, 3), (0.8, 0.3, 2), (0.9, 0.4, 2), (0.5, 0.49, 1), (0.8, 0.25, 2)],
)
def test_moves_of_a_curve(high: float, low: float, count: int) -> None:
    assert moves([CURVES["flow"](t) for t in TIMES], high, low) == count


@pytest.mark.parametrize("kind", CURVES)
def test_renoising_keeps_the_marginal(kind: str) -> None:
    """Signal alpha' and variance sigma'^2, of independent noises."""
    at, to = CURVES[kind](0.3), CURVES[kind](0.8)
    one, zero = torch.ones(1), torch.zeros(1)
    assert float(renoise(at.alpha * one, at, to, zero)) == pytest.approx(to.alpha)
    old = float(renoise(at.sigma * one, at, to, zero))
    new = float(renoise(zero, at, to, one))
    assert old**2 + new**2 == pytest.approx(to.sigma**2)
    torch.testing.assert_close(renoise(one, at, at, one), one)


def test_texts_of_a_conditioning() -> None:
    assert set(COND.text) == {"tokens", "pooled"}
    other = COND.with_text({"pooled": torch.ones(3)})
    assert other.extra["pooled"].tolist() == [1, 1, 1]
    assert torch.equal(other.tokens, COND.tokens)
    assert torch.equal(COND.with_text({"tokens": COND.tokens + 1}).tokens, COND.tokens + 1)
    with pytest.raises(ValueError, match="pooled has shape"):
        COND.with_text({"pooled": torch.ones(2)})
    assert not COND.requires_grad
    assert COND.with_text({"pooled": torch.ones(3, requires_grad=True)}).requires_grad
