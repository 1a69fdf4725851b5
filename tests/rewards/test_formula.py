"""Formulas read, written and computed."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fairlead.core.algebra import Constant, RankMean, make, ranks
from fairlead.core.errors import FairleadError, RewardError
from fairlead.core.function import Function
from fairlead.core.reward import Reward
from fairlead.run import registry
from fairlead.run.formula import Part, parse_reward, reward_text
from fairlead.run.rewards import build_reward
from fairlead.run.spec import Spec, make_spec

LEAVES = ("brightness", "jpeg_size", "aesthetic")


class Column(Reward):
    """Pixel [0, 0, 0, column] of a picture as its score, counted."""

    needs_prompt = False
    differentiable = True

    def __init__(self, column: int) -> None:
        self.column, self.name, self.seen = column, f"c{column}", 0

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        self.seen += len(images)
        return images[:, 0, 0, self.column]


def table(*rows: Sequence[float]) -> tuple[Tensor, list[str]]:
    values = torch.tensor(rows, dtype=torch.float32)
    return values[:, None, None, :].expand(-1, 3, 1, -1).contiguous(), [""] * len(rows)


def value(text: str, *rows: Sequence[float]) -> list[float]:
    named = {name: Column(i) for i, name in enumerate(LEAVES)}
    reward = build_reward(parse_reward(text), lambda part: named[part.name])
    return [round(v, 6) for v in reward(*table(*rows))[0].tolist()]


trees = st.recursive(
    st.sampled_from([Part(name) for name in LEAVES] + [Part("jpeg_size", {"quality": 80})]),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["+", "*"]), inner, inner).map(lambda t: {t[0]: [t[1], t[2]]}),
        st.tuples(inner, st.floats(-9, 9)).map(lambda t: {"+": [t[0], t[1]]}),
        st.tuples(inner, st.floats(0.1, 9)).map(lambda t: {"/": [t[0], t[1]]}),
        st.tuples(inner, st.floats(-9, 9), st.sampled_from([">", "<="])).map(lambda t: {t[2]: [t[0], t[1]]}),
        st.lists(inner, min_size=2, max_size=3).map(lambda t: {"rank_mean": t}),
        st.tuples(inner, st.floats(-1, 1), st.floats(0.1, 2)).map(lambda t: {"zscore": list(t)}),
        st.tuples(inner, inner, st.floats(-1, 1)).map(lambda t: {"veto": [t[0], {">": [t[1], t[2]]}]}),
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(trees)
def test_a_formula_reads_back_as_it_was_written(tree: Any) -> None:
    once = parse_reward(reward_text(tree))
    assert parse_reward(reward_text(once)) == once
    assert Spec.from_json(make_spec("a dog", reward=once).json()).reward == once


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("brightness-jpeg_size", "brightness - jpeg_size"),
        ("brightness + -0.25*jpeg_size(quality=80)", "brightness - 0.25*jpeg_size(quality=80)"),
        ("-(brightness+jpeg_size)*0.5", "-1*(brightness + jpeg_size)*0.5"),
        ("min( brightness, jpeg_size / 10 )", "min(brightness, jpeg_size/10)"),
        ("veto(brightness, jpeg_size<=2, otherwise=-1)", "veto(brightness, jpeg_size <= 2, otherwise=-1)"),
        ("0.123456789012*brightness", "0.123456789012*brightness"),
    ],
)
def test_text(text: str, written: str) -> None:
    assert reward_text(parse_reward(text)) == written


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("brightness/0", "other than zero"),
        ("brightness/jpeg_size", "other than zero"),
        ("3 + 4", "only a number"),
        ("brightness**2", "Pow"),
        ("brightnes", "brightness"),
        ("min(brightness)", "at least two"),
        ("veto(brightness, 3)", "veto(a, b > 0.5)"),
        ("zscore(brightness)", "mean and std"),
        ("brightness +", "not a formula"),
        ("1e999*brightness", "too large"),
        ("0 < brightness < 1", "reward > number"),
        ("nowhere.py:score", "cannot be read"),
        ("zscore(brightness, stats='nothing.json')", "--stats"),
    ],
)
def test_what_cannot_be_read_says_what_to_write(text: str, said: str) -> None:
    with pytest.raises(FairleadError) as error:
        parse_reward(text)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_values() -> None:
    rows = [(0.25, 0.5, 0.0), (0.75, 0.5, 1.0)]
    assert value("brightness/10 + 2*jpeg_size", *rows) == [1.025, 1.075]
    assert value("min(brightness, jpeg_size)", *rows) == [0.25, 0.5]
    assert value("zscore(brightness, mean=0.5, std=0.25)", *rows) == [-1.0, 1.0]
    assert value("veto(brightness, aesthetic > 0.5, otherwise=-10)", *rows) == [-10.0, 0.75]
    assert math.isnan(value("veto(brightness, aesthetic > 0.5)", *rows)[0])
    assert value("brightness - (aesthetic > 0.5)", *rows) == [0.25, -0.25]


def test_a_leaf_is_scored_once_whatever_the_formula_does_with_it() -> None:
    leaf = Column(0)
    reward = build_reward(
        parse_reward("min(brightness, brightness/2) + veto(brightness, brightness > 0)"), lambda p: leaf
    )
    _, terms = reward(*table((0.5,), (0.25,)))
    assert leaf.seen == 2
    assert {k: v.tolist() for k, v in terms.items()} == {"c0": [0.5, 0.25]}


def test_the_minimum_and_the_normaliser_have_gradients() -> None:
    images, prompts = table((0.25, 0.75))
    images.requires_grad_()
    tree = parse_reward("min(zscore(brightness, mean=0, std=0.5), jpeg_size/2)")
    reward = build_reward(tree, lambda p: {"brightness": Column(0), "jpeg_size": Column(1)}[p.name])
    assert reward.differentiable
    (slope,) = torch.autograd.grad(reward(images, prompts)[0].sum(), images)
    assert slope[0, 0, 0].tolist() == [0.0, 0.5]
    assert not make("veto", (Column(0), make(">", (Column(1), Constant(0.5))))).parts[1].differentiable  # type: ignore[attr-defined]


def test_rank_mean_is_the_papers_order() -> None:
    """evaluation.md E.12: A=[3,2,1], B=[1,3,2] have mean ranks 2, 1.5, 2.5."""
    a, b = torch.tensor([3.0, 2, 1]), torch.tensor([1.0, 3, 2])
    assert ((ranks(a) + ranks(b)) / 2).tolist() == [2.0, 1.5, 2.5]
    assert ranks(torch.tensor([1.0, 1, 5])).tolist() == [2.5, 2.5, 1.0]
    assert value("rank_mean(brightness, jpeg_size)", (0.3, 0.1), (0.2, 0.3), (0.1, 0.2)) == [0.5, 0.75, 0.25]


def test_rank_mean_leaves_out_what_has_no_number_and_gives_a_lone_picture_a_half() -> None:
    reward = RankMean((Function(lambda i, p: [1.0, math.nan, 3.0]), Function(lambda i, p: [1.0, 9.0, 3.0])))
    total = reward(*table((0,), (0,), (0,)))[0].tolist()
    assert total[0] == 0
    assert math.isnan(total[1])
    assert total[2] == 1
    assert value("rank_mean(brightness, jpeg_size)", (0.1, 0.9)) == [0.5]


def test_totals_from_recorded_terms_are_the_totals() -> None:
    named = {name: Column(i) for i, name in enumerate(LEAVES)}
    reward = build_reward(
        parse_reward("rank_mean(brightness, jpeg_size) + min(aesthetic, 0.2)"), lambda p: named[p.name]
    )
    total, terms = reward(*table((0.3, 0.1, 0.5), (0.2, 0.3, 0.1), (0.1, 0.2, 0)))
    rows = [{k: v.tolist()[i] for k, v in terms.items()} for i in range(3)]
    assert torch.equal(reward.from_terms(rows), total)


def test_statistics_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "stats.json"
    path.write_text(json.dumps({"brightness": {"mean": 0.5, "std": 0.25, "n": 9}}))
    tree = parse_reward(f"zscore(brightness, stats={str(path)!r})")
    assert tree == {"zscore": [Part("brightness"), 0.5, 0.25]}
    with pytest.raises(FairleadError, match="no statistics of 'jpeg_size'"):
        parse_reward(f"zscore(jpeg_size, stats={str(path)!r})")


BAD: list[tuple[Tensor, int, str]] = [
    (torch.zeros(2, 1, 8, 8), 2, "grey"),
    (torch.zeros(2, 4, 8, 8), 2, "transparency"),
    (torch.zeros(3, 8, 8), 3, "B, 3, H, W"),
    (torch.full((1, 3, 8, 8), -0.5), 1, "x/2 + 0.5"),
    (torch.full((1, 3, 8, 8), 200.0), 1, "255"),
    (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), 1, "255"),
    (torch.zeros(2, 3, 8, 8), 1, "must be as many"),
]


@pytest.mark.parametrize(("images", "prompts", "said"), BAD)
def test_wrong_images_are_refused(images: Tensor, prompts: int, said: str) -> None:
    with pytest.raises(RewardError) as error:
        Function(lambda i, p: [0.0] * len(i))(images, [""] * prompts)
    assert said in str(error.value)


def test_an_empty_batch_has_no_scores() -> None:
    total, terms = (Column(0) + Column(1))(torch.zeros(0, 3, 8, 8), [])
    assert total.shape == (0,)
    assert all(v.shape == (0,) for v in terms.values())


def test_a_function_may_return_a_list_and_nothing_else() -> None:
    images, prompts = table((0.5,), (0.25,))
    assert Function(lambda i, p: [1, 2])(images, prompts)[0].tolist() == [1.0, 2.0]
    for wrong in ("good", None, [1, 2, 3], [[1], [2]], {"a": 1}):
        with pytest.raises(RewardError):
            Function(lambda i, p, wrong=wrong: wrong)(images, prompts)  # type: ignore[misc]


def test_python_writes_the_same_formulas() -> None:
    import fairlead

    a, b = Column(0), Column(1)
    images, prompts = table((0.25, 0.5), (0.75, 0.5))
    for mine, text in (
        (fairlead.minimum(a, b / 2), "min(brightness, jpeg_size/2)"),
        (fairlead.zscore(a, 0.5, 0.25) - 1, "zscore(brightness, mean=0.5, std=0.25) - 1"),
        (fairlead.veto(b, a > 0.5, -10), "veto(jpeg_size, brightness > 0.5, otherwise=-10)"),
        (fairlead.rank_mean(a, -1 * b), "rank_mean(brightness, -1*jpeg_size)"),
        ((a <= 0.5) * b, "(brightness <= 0.5)*jpeg_size"),
    ):
        read = build_reward(parse_reward(text), lambda p: {"brightness": a, "jpeg_size": b}[p.name])
        assert torch.equal(mine(images, prompts)[0], read(images, prompts)[0]), text
    with pytest.raises(FairleadError, match="compare a reward with a number"):
        a > b  # type: ignore[operator]  # noqa: B015


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_pictures_of_other_precisions_reach_leaves_as_float32(dtype: torch.dtype) -> None:
    seen: list[torch.dtype] = []

    def look(images: Tensor, prompts: Sequence[str]) -> Tensor:
        seen.append(images.dtype)
        return images.mean((1, 2, 3))

    total, _ = (Function(look) + 2 * Column(0))(torch.full((2, 3, 4, 4), 0.5, dtype=dtype), ["", ""])
    assert set(seen) == {torch.float32}
    assert total.dtype == torch.float32
    assert total.tolist() == [1.5, 1.5]


@pytest.mark.parametrize(
    ("text", "stands_for"),
    [
        ("aesthetic_clip", "0.5*(aesthetic/10) + 0.5*(clip_score(scale='cosine')/0.5)"),
        ("aesthetic_clip(w=0.3)", "0.3*(aesthetic/10) + 0.7*(clip_score(scale='cosine')/0.5)"),
        ("2*aesthetic_clip(w=1) + brightness", "2*(aesthetic/10) + brightness"),
        ("aesthetic_clip(w=0)", "clip_score(scale='cosine')/0.5"),
    ],
)
def test_a_named_formula_is_what_it_stands_for(text: str, stands_for: str) -> None:
    """A term of weight zero is not scored."""
    assert parse_reward(text) == parse_reward(stands_for)
    assert parse_reward(reward_text(parse_reward(text))) == parse_reward(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("aesthetic_clip(w=1.5)", r"w is 1\.5: must be a number in \[0, 1\]"),
        ("aesthetic_clip(w='a')", "w is 'a': must be a number"),
        ("aesthetic_clip(0.5)", "without its name"),
        ("aesthetic_clip(weight=0.5)", "weight"),
    ],
)
def test_a_named_formula_refuses_wrong_settings(text: str, said: str) -> None:
    with pytest.raises(FairleadError, match=said):
        parse_reward(text)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("pairwise_judge", "pairwise_judge needs `model`. Write pairwise_judge(model=...)."),
        ("judge", "judge needs `model`. Write judge(model=...)."),
        ("http", "http needs `url`. Write http(url=...)."),
    ],
)
def test_a_setting_that_has_to_be_given_is_named(name: str, told: str) -> None:
    with pytest.raises(FairleadError) as error:
        registry.build("rewards", Part(name))
    assert str(error.value) == told


def test_all_settings_that_lack_are_named() -> None:
    def make(given: int, a: int, b: int, c: int = 1, *rest: int, **more: int) -> int:
        return given + a + b + c

    with pytest.raises(FairleadError, match=r"it needs `a` and `b`\. Write it\(a=\.\.\., b=\.\.\.\)\."):
        registry.call(make, "it", {}, 1)
    assert registry.call(make, "it", {"a": 1, "b": 2}, 1) == 5
