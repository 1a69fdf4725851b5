"""The recipe of a Gradio page: `search` of recipes/space/app.py, with Gradio where it is installed, else a stand-in."""

from __future__ import annotations

import importlib.util
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pandas", reason="needs pandas: pip install pandas")

ROOT = Path(__file__).parents[2]


class Error(Exception):
    """As `gradio.Error`."""


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Any:
    if importlib.util.find_spec("gradio") is None:
        gradio = types.ModuleType("gradio")
        vars(gradio).update(Error=Error, Blocks=object)
        monkeypatch.setitem(sys.modules, "gradio", gradio)
    spec = importlib.util.spec_from_file_location("space_app", ROOT / "recipes" / "space" / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_visitor_sees_progress_and_then_the_pictures(page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "STEPS", 2)
    shown = list(page.search("a red circle", "low", "clip_score"))
    assert all(not pictures for pictures, _, _ in shown[:-1])
    pictures, curve, words = shown[-1]
    assert [name.split(":")[0].split()[0] for _, name in pictures] == ["plain", *["candidate"] * 4]
    assert len({image.size for image, _ in pictures}) == 1
    assert list(curve["candidates"]) == sorted(set(curve["candidates"]))
    assert float(pictures[1][1].split(": ")[1]) == pytest.approx(curve["best reward"].iloc[-1], rel=1e-3)
    assert "4 candidates" in words


@pytest.mark.parametrize(
    "wrong", [("", "low", "clip_score"), ("x" * 301, "low", "clip_score"), ("x", "max", "clip_score")]
)
def test_what_a_visitor_may_not_ask(page: Any, wrong: tuple[str, str, str]) -> None:
    with pytest.raises(Exception, match=r"Write what|Choose a quality"):
        list(page.search(*wrong))
    with pytest.raises(Exception, match="of the lists"):
        list(page.search("a dog", "low", "http://127.0.0.1:9"))


def test_the_page_and_the_recipe_name_one_version() -> None:
    recipe = (ROOT / "recipes" / "space" / "README.md").read_text()
    version = re.search(r"sdk_version: (\S+)", recipe)
    assert version is not None
    assert f"gradio=={version[1]}" in (ROOT / "docs" / "space.md").read_text()
