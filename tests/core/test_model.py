"""Conditioning, and interventions installed and removed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from fairlead.core.errors import FairleadError
from fairlead.core.intervention import Intervention, installed
from fairlead.core.model import Conditioning, Level, Rows, Site, Tokens, whole
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
