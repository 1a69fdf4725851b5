"""What a request may say: every field's limits, the allowlist, and that nothing outside the process is named."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("starlette", reason="needs fairlead[serve]")

from fairlead.app.serve import asked, fields
from fairlead.app.serve.allowed import Allowed
from fairlead.app.serve.errors import Refused, without_places
from fairlead.app.serve.models import Served
from fairlead.core.errors import FairleadError
from fairlead.run.spec import parse_reward

SERVED = {"tiny": Served("tiny", "mixture"), "fixed": Served("fixed", "pocket", "64x64")}
ALLOWED = Allowed({"nice": "judge(model='m', base_url='http://10.0.0.7/v1')"}, models=("mixture",))
BODY = {"prompt": "a dog"}


def read(**words: Any) -> asked.Asked:
    return asked.read({**BODY, **words}, SERVED, ALLOWED)


def code(**words: Any) -> str:
    try:
        read(**words)
    except Refused as refused:
        return refused.code if refused.status in (400, 404) else str(refused.status)
    return ""


@pytest.mark.parametrize(("field", "most"), [("n", 10), ("partial_images", 3), ("output_compression", 100)])
def test_whole_numbers(field: str, most: int) -> None:
    more: dict[str, Any] = {"stream": True, "output_format": "webp"}
    least = 1 if field == "n" else 0
    assert code(**more, **{field: None}) == ""
    assert code(**more, **{field: least}) == ""
    assert code(**more, **{field: most}) == ""
    for value in (least - 1, most + 1, 2.0, "2", True, [1], {}):
        assert code(**more, **{field: value}) == "invalid_value", value


@pytest.mark.parametrize(
    "size",
    ["1024X1024", "1024x", "x", " 64x64", "064x64", "１６x16", "99999x99999", "64x64x64", "64x64\n", "", 64, True],
)
def test_sizes_that_are_none(size: Any) -> None:
    assert code(size=size) == "invalid_value"
    assert code(size=size, model="fixed") == "invalid_value"


def test_sizes() -> None:
    assert "width" not in read(size="auto").words
    assert "width" not in read(size=None).words
    assert read(size="128x64").words["width"] == 128
    assert "width" not in read(size="64x64", model="fixed").words, "the own size is the same run as auto"
    assert code(size="128x128", model="fixed") == "invalid_value"


@pytest.mark.parametrize("prompt", ["", "   ", "a\0b", "a\x1bb", "half \ud800", None, 7, ["a"], {}])
def test_prompts_that_are_none(prompt: Any) -> None:
    assert code(prompt=prompt) == "invalid_value"


def test_a_prompt_has_two_thousand_characters() -> None:
    assert code(prompt="a" * 2000) == ""
    assert code(prompt="a" * 2001) == "prompt_too_long"
    assert code(prompt="tab\tand\nline") == ""


def test_unknown_words() -> None:
    with pytest.raises(Refused, match="Did you mean 'reward'") as caught:
        read(fairlead={"rewrad": "clip_score"})
    assert (caught.value.code, caught.value.param) == ("unknown_setting", "fairlead.rewrad")
    assert read(whatever=3, style="vivid").warnings == ("'whatever' is ignored.", "'style' is ignored.")
    assert code(model="other") == "model_not_found"


def test_qualities_and_formats() -> None:
    assert read().quality == read(quality="standard").quality == read(quality="auto").quality == "medium"
    assert read(quality="hd").quality == "high"
    assert code(quality="ultra") == "invalid_value"
    assert code(output_format="gif") == "invalid_value"
    assert code(background="transparent") == "invalid_value"
    assert code(response_format="url") == "invalid_value"
    assert code(output_compression=50) == "invalid_value", "png has no quality"
    assert code(frame_count=4) == "invalid_value"
    assert code(partial_images=2) == "invalid_value", "without a stream nothing is partial"


OUTSIDE = [
    "x.py:f",
    "clip_score + x.py:f",
    "http://169.254.169.254",
    "clip_score + http://169.254.169.254/latest",
    "file(source='x.py:f')",
    "http(url='http://10.0.0.1')",
    "judge(model='m', base_url='http://10.0.0.1')",
    "judge(model='m')",
    "pairwise_judge(model='m')",
    "zscore(clip_score, stats='some.json')",
    "clip_score(checkpoint='a/b')",
    "clip_score(scale='../../etc/passwd')",
    "clip_score(device='cuda')",
    "aesthetic(head='/etc/passwd')",
    "human",
    "pick_score",
    "nice + judge(model='m')",
]


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Files that are opened and connections that are made."""
    found: list[str] = []
    active = [True]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        is_ours = event == "open" and not str(arguments[0]).endswith((".py", ".pyc", ".txt", ".toml"))
        if active[0] and (is_ours or event.startswith("socket.")):
            found.append(f"{event} {arguments[0]!r}")

    sys.addaudithook(hook)
    yield found
    active[0] = False


def test_a_formula_names_nothing_outside(opened: list[str]) -> None:
    parse_reward("clip_score")  # imports what it needs
    opened.clear()
    for formula in OUTSIDE:
        assert code(fairlead={"reward": formula}) == "not_allowed", formula
        assert code(fairlead={"watch": [formula]}) == "not_allowed", formula
    assert opened == []


@pytest.mark.parametrize("formula", OUTSIDE)
def test_what_is_outside_is_not_allowed(formula: str) -> None:
    assert code(fairlead={"reward": formula}) == "not_allowed"


@pytest.mark.parametrize("formula", OUTSIDE[:10])
def test_the_closed_parser_refuses_before_it_opens(formula: str) -> None:
    with pytest.raises(FairleadError, match=r"may not be (named|set) here"):
        parse_reward(formula, closed=True)


@pytest.mark.parametrize("formula", ["+".join(["clip_score"] * 3000), "-" * 5000 + "clip_score", "", 7, "clip_score +"])
def test_formulas_that_are_none(formula: Any) -> None:
    assert code(fairlead={"reward": formula}) == "invalid_value"


def test_an_alias_stands_for_its_formula() -> None:
    found = read(fairlead={"reward": "nice"})
    assert found.reward == "nice"
    assert found.words["reward"] == ALLOWED.aliases["nice"]
    assert read(fairlead={"reward": "clip_score + 2*nice"}).words["reward"].endswith(f"2*({ALLOWED.aliases['nice']})")
    assert read(fairlead={"reward": "0.5*brightness"}).words["reward"] == "0.5*brightness"


@pytest.mark.parametrize("name", ["config", "swap", "lora", "device", "revision", "dtype", "checkpoint", "url"])
def test_settings_that_name_something_outside(name: str) -> None:
    for owner in ("model", "mixture", "clip_score"):
        assert code(fairlead={"settings": {owner: {name: "x"}}}) == "not_allowed", owner


def test_settings_of_a_run() -> None:
    found = read(fairlead={"settings": {"best_of": {"n": 8}, "model": {"guidance_scale": 3}}})
    assert found.words["settings"] == ["best_of.n=8", "model.guidance_scale=3"]
    assert code(fairlead={"settings": {"demon": {"weights": "/etc/passwd"}}}) == "not_allowed"
    assert code(fairlead={"settings": ["best_of.n=8"]}) == "invalid_value"


@pytest.mark.parametrize("draft", ["/etc/model@3", "someone/model", "runs", "../x", "model.safetensors@2"])
def test_a_draft_names_served_models_only(draft: str) -> None:
    assert code(fairlead={"draft": draft}) == "not_allowed"


def test_drafts() -> None:
    for draft in (4, "auto", "peek(8)", "pocket-turbo@3", "even(4)"):
        assert code(fairlead={"draft": draft}) == "", draft


def test_the_seed_of_a_request() -> None:
    assert asked.numbered_seed(read(seed=7), "a", None, None) == 7
    assert asked.numbered_seed(read(), "a", None, None) == 0
    keyed = [asked.numbered_seed(read(), tenant, "k", None) for tenant in ("a", "a", "b")]
    assert keyed[0] == keyed[1] != keyed[2]
    assert 0 <= keyed[0] < 2**63
    assert code(seed=2**63) == "invalid_value"
    assert code(seed=1.5) == "invalid_value"


def test_sentences_lose_their_places() -> None:
    text = "/home/me/runs/x.png cannot be read; see http://10.0.0.7:80/v1?key=3, or ~/secret/a.txt and ../up/b."
    assert without_places(text) == "x.png cannot be read; see an address, or a.txt and b."
    assert without_places("a/10 is image/png at 3/4") == "a/10 is image/png at 3/4"


def test_a_size_is_read_in_full() -> None:
    assert fields.size("16x32", "") == (16, 32)
    for text in ("16x32 ", "a16x32", "16x32x", "0x16"):
        with pytest.raises(Refused):
            fields.size(text, "")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
NAMES = sorted(asked.TOP)
OWN = sorted(asked.OWN)


@settings(max_examples=80, deadline=None)
@given(
    st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=8),
    st.dictionaries(st.sampled_from(OWN), VALUES, max_size=6),
)
def test_any_body_is_read_or_refused(top: dict[str, Any], own: dict[str, Any]) -> None:
    for body in (top, {**BODY, **top, "fairlead": own}, {**BODY, "fairlead": own}):
        with contextlib.suppress(Refused):
            asked.read(body, SERVED, ALLOWED)
