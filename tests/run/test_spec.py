"""A run as data: formulas, names, settings, and the sentences for what is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fairlead.core.errors import FairleadError
from fairlead.run import registry
from fairlead.run.formula import parse_part
from fairlead.run.parent import Parent
from fairlead.run.rewards import build_reward
from fairlead.run.spec import (
    Part,
    Spec,
    make_spec,
    parse_budget,
    parse_reward,
    parse_settings,
    reward_parts,
    reward_text,
)
from fairlead.testing.runs import small_spec

A, B = Part("brightness"), Part("jpeg_size", {"quality": 50})


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("brightness", A),
        ("jpeg_size(quality=50)", B),
        ("brightness + 0.5*jpeg_size(quality=50)", {"+": [A, {"*": [0.5, B]}]}),
        ("brightness - jpeg_size(quality=50)", {"+": [A, {"*": [-1.0, B]}]}),
        ("-brightness", {"*": [-1.0, A]}),
        ("2*(brightness + 1)", {"*": [2.0, {"+": [A, 1.0]}]}),
        ("1 - brightness", {"+": [1.0, {"*": [-1.0, A]}]}),
        ("2*3*brightness", {"*": [6.0, A]}),
    ],
)
def test_formulas(text: str, tree: Any) -> None:
    assert parse_reward(text) == tree
    assert parse_reward(reward_text(tree)) == tree


leaf = st.sampled_from(["brightness", "jpeg_size", "jpeg_size(quality=50)"])
number = st.floats(0.001, 1000).map(lambda v: repr(round(v, 3)))
words = st.recursive(
    st.one_of(leaf, number),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from([" + ", " - ", "*"]), inner).map(lambda t: f"({t[0]}){t[1]}({t[2]})"),
        inner.map(lambda t: f"-({t})"),
    ),
    max_leaves=6,
)


@settings(max_examples=150)
@given(words)
def test_what_is_written_is_read_back_and_means_the_same(text: str) -> None:
    """Against Python's own arithmetic on rewards, and text -> tree -> text -> tree is stable."""
    import torch

    from fairlead.rewards.brightness import Brightness
    from fairlead.rewards.jpeg_size import JpegSize
    from fairlead.testing.rewards import pictures

    assume("brightness" in text or "jpeg" in text)
    tree = parse_reward(text)
    assert parse_reward(reward_text(tree)) == tree
    images = pictures(2, 16)
    made = {"brightness": Brightness(), "jpeg_size": JpegSize()}
    own = eval(text, {"brightness": made["brightness"], "jpeg_size": Jpeg(made["jpeg_size"])})
    expected, _ = own(images, ["x"] * 2)
    built = build_reward(tree, lambda part: registry.build("rewards", part))
    got, terms = built(images, ["x"] * 2)
    torch.testing.assert_close(got.expand(2), expected.expand(2), rtol=1e-4, atol=1e-4)
    assert len(terms) == len({repr(p) for p in reward_parts(tree)}), "equal parts are one leaf"


class Jpeg:
    """`jpeg_size` as a name and as a call, for eval."""

    def __new__(cls, bare: Any) -> Any:
        from fairlead.rewards.jpeg_size import JpegSize

        class Both(JpegSize):
            def __call__(self, *args: Any, **settings: Any) -> Any:
                return JpegSize(**settings) if settings else super().__call__(*args)

        return Both()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("brightnes", "Reward 'brightnes' is unknown. Did you mean 'brightness'"),
        ("brightness +", "is not a formula"),
        ("brightness / jpeg_size", "divide by a number other than zero"),
        ("brightness ** 2", "uses Pow: only"),
        ("3", "only a number"),
        ("", "is not a formula"),
        ("jpeg_size(50)", "settings need their names"),
        ("jpeg_size(quality=brightness)", "is not a plain value"),
        ("__import__('os')", "settings need their names"),
        ("a.b", "settings need their names"),
        ("'brightness'", "settings need their names"),
        ("True", "settings need their names"),
        ("mine.py:score", "mine.py cannot be read"),
        ("file(source='mine')", "does not name a function in a file"),
    ],
)
def test_formulas_that_are_none(text: str, sentence: str) -> None:
    with pytest.raises(FairleadError) as told:
        parse_reward(text)
    assert sentence in str(told.value)
    assert "\n" not in str(told.value)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"prompt": ""}, "is empty"),
    ({"prompt": "  "}, "is empty"),
    ({"prompt": "a" * 2001}, "2001 characters: must be at most 2000"),
    ({"prompt": 3}, "must be one text"),
    ({"search": "best_off"}, "Did you mean 'best_of'"),
    ({"space": "noize"}, "Did you mean 'noise'"),
    ({"sampler": "eular"}, "Did you mean 'euler'"),
    ({"steer": "nothing_like_it"}, "Steering 'nothing_like_it' is unknown"),
    ({"intervene": "token_mean_dampin"}, "Did you mean 'token_mean_damping'"),
    ({"steps": 0}, "steps is 0: must be a whole number in [1, 10000]"),
    ({"steps": 2.5}, "steps is 2.5"),
    ({"group": -1}, "group is -1"),
    ({"batch": 0}, "batch is 0"),
    ({"seed": 2**63}, "seed is"),
    ({"seed": "one"}, "seed is 'one'"),
    ({"budget": "nfe"}, "is not name=number"),
    ({"budget": ""}, "is empty"),
    ({"budget": "nef=3"}, "Did you mean 'nfe'"),
    ({"budget": {"nfe": 0}}, "must be > 0"),
    ({"budget": {"nfe": -5}}, "must be > 0"),
    ({"budget": {"nfe": float("inf")}}, "not finite"),
    ({"budget": {"nfe": float("nan")}}, "not finite"),
    ({"settings": {"best_off": {"n": 3}}}, "Did you mean 'best_of'"),
]


@pytest.mark.parametrize(("words", "sentence"), WRONG, ids=lambda v: str(v)[:30])
def test_bad_words_are_one_sentence(words: dict[str, Any], sentence: str) -> None:
    with pytest.raises(FairleadError) as told:
        make_spec(**{"prompt": "a dog", "model": "mixture", "reward": "brightness", **words})
    assert sentence in str(told.value)
    assert "\n" not in str(told.value)


def test_unknown_models_and_settings(tmp_path: Any) -> None:
    from fairlead.run import models

    for name, sentence in (
        ("pockett", "Model 'pockett' is unknown. Did you mean 'pocket'"),
        (str(tmp_path), "has no model_index.json"),
        ("../nowhere", "Model '../nowhere' is unknown"),
    ):
        with pytest.raises(FairleadError, match=sentence):
            models.folder(name)
    with pytest.raises(FairleadError, match=r"Setting 'sise' of mixture is unknown\. Did you mean 'size'"):
        registry.build("models", Part("mixture", {"sise": 3}))
    with pytest.raises(FairleadError, match=r"best_of\.n is -1: must be a whole number"):
        registry.build("searches", Part("best_of", {"n": -1}), None, None)


def test_batches_are_whole_groups() -> None:
    assert small_spec(group=3, batch=8).batch == 6
    assert small_spec(group=3, batch=2).batch == 3


def test_settings_reach_their_part() -> None:
    settings = parse_settings(
        ["best_of.n=3", "mixture.size=5", "jpeg_size.quality=40", "mixture.name='x'", "mixture.word=plain"]
    )
    assert settings == {
        "best_of": {"n": 3},
        "mixture": {"size": 5, "name": "x", "word": "plain"},
        "jpeg_size": {"quality": 40},
    }
    spec = small_spec(reward="brightness + jpeg_size", settings={"best_of": {"n": 3}, "jpeg_size": {"quality": 40}})
    assert spec.search == Part("best_of", {"n": 3})
    assert spec.reward == {"+": [A, Part("jpeg_size", {"quality": 40})]}
    for bad in ("best_of.n", "n=3", ".n=3", "best_of.=3"):
        with pytest.raises(FairleadError, match=r"is not part\.setting=value"):
            parse_settings([bad])


def test_defaults_of_the_model_give_way() -> None:
    defaults = {"steps": 9, "batch": 5}
    assert make_spec("x", model="mixture", reward="brightness", defaults=defaults).steps == 9
    assert make_spec("x", model="mixture", reward="brightness", defaults=defaults, steps=2).steps == 2
    assert make_spec("x", model="mixture", reward="brightness", defaults=defaults).batch == 5


def test_budgets_are_read() -> None:
    assert parse_budget("nfe=2000, seconds=60") == {"nfe": 2000, "seconds": 60}
    assert small_spec(budget=None).budget == {"nfe": 640}


def test_parts_are_read() -> None:
    assert parse_part("best_of(n=3)", "searches") == Part("best_of", {"n": 3})
    with pytest.raises(FairleadError, match="Check its spelling"):
        parse_part("best of", "searches")


def test_json_is_canonical_and_complete() -> None:
    spec = small_spec(reward="brightness + 0.5*jpeg_size(quality=50)", intervene="token_mean_damping(strength=0.2)")
    assert Spec.from_json(spec.json()) == spec
    assert Spec.from_json(spec.json()).json() == spec.json()
    assert json.loads(spec.json())["prompt"] == spec.prompt
    assert replace(spec, prompt="é").json().count("é") == 1


def test_the_name_of_a_run_is_its_question() -> None:
    """Everything is in it but the budget and the stop rules, which a run may be continued with."""
    spec = small_spec()
    for beside in ({"budget": {"nfe": 9.0}}, {"until": "reward >= 1"}, {"stop": "flat"}):
        assert spec.id() == replace(spec, **beside).id()
    changes: dict[str, Any] = {
        "prompt": "other",
        "model": Part("mixture", {"size": 3}),
        "reward": B,
        "space": Part("noise", {"x": 1}),
        "search": Part("best_of", {"n": 2}),
        "steering": (Part("x"),),
        "interventions": (Part("y"),),
        "sampler": "heun",
        "steps": 5,
        "group": 2,
        "batch": 9,
        "seed": 1,
        "watch": (B,),
        "draft": 2,
        "finals": 3,
        "baseline": False,
        "exact": True,
        "final_judge": Part("human"),
        "entrants": 5,
        "looks": 2,
        "parent": Parent("like", "dog", "0" * 32, 5, "1" * 32, "2" * 32),
    }
    assert set(changes) == set(Spec.__dataclass_fields__) - {"budget", "until", "stop"}
    names = [replace(spec, **{k: v}).id() for k, v in changes.items()]
    assert len({spec.id(), *names}) == len(changes) + 1


# the table


def test_two_packages_may_not_share_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    def points(group: str) -> list[EntryPoint]:
        return [EntryPoint("brightness", "other:Thing", group)] if group == "fairlead.rewards" else []

    monkeypatch.setattr(registry, "entry_points", points)
    registry.table.cache_clear()
    try:
        with pytest.raises(FairleadError, match=r"Two rewards are named 'brightness' .*: uninstall one of them"):
            registry.table("rewards")
    finally:
        monkeypatch.undo()
        registry.table.cache_clear()


def test_a_third_party_joins_through_an_entry_point(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    from importlib.metadata import EntryPoint

    from fairlead.run import engine

    def points(group: str) -> list[EntryPoint]:
        return [EntryPoint("stroll", "items:Walk", group)] if group == "fairlead.searches" else []

    monkeypatch.setattr(registry, "entry_points", points)
    registry.table.cache_clear()
    try:
        store = engine.start(small_spec(search="stroll(size=0.1)"), tmp_path / "run")
        assert store.spec.search == Part("stroll", {"size": 0.1})
        assert len(store.candidates()) == 8
    finally:
        monkeypatch.undo()
        registry.table.cache_clear()


def test_what_cannot_be_imported_is_named(register: Any) -> None:
    register("rewards", "gone", "no_such_module:Reward")
    with pytest.raises(FairleadError, match="reward 'gone' could not be imported from no_such_module:Reward"):
        registry.resolve("rewards", "gone")
    with pytest.raises(FairleadError, match="Kind 'reward' is unknown"):
        registry.table("reward")
