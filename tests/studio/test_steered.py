"""A person steers a run in a real Chromium: Demon asks about previews in the middle of a picture."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from fairlead.run import engine
from fairlead.run.question_store import QuestionStore
from fairlead.run.view import View

pytestmark = pytest.mark.browser

SHOTS = os.environ.get("FAIRLEAD_SHOTS")
SLOW = 90_000
DECODED = "every => Promise.all(every.map(i => i.decode()))"
"""Waits until every picture is there, and fails where one is none."""
OPTIONS = {
    "prompt": "a photo of a red apple left of a dog",
    "model": "pocket-turbo",
    "reward": "human",
    "steer": ["demon"],
    "settings": ["demon.k=4", "demon.estimate=clean", "demon.every=5"],
    "steps": 16,
    "batch": 1,
    "budget": "nfe=63",  # the baseline and one candidate
    "seed": 3,
}


def shoot(page: Any, name: str) -> None:
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/{name}.png", full_page=True)


def next_question(page: Any, before: str = "") -> str:
    """The question on the screen, once it is another one and its pictures are there."""
    page.wait_for_selector(f"[data-question]:not([data-question='{before}'])", timeout=SLOW)
    page.locator(".judge-grid img").evaluate_all(DECODED)
    found: str = page.locator("[data-question]").get_attribute("data-question")
    return found


def test_a_picture_is_steered_by_keys(studio: Any, page: Any, tmp_path: Path) -> None:
    """Previews while it waits, likes, a reload, a run that is put aside and continued by its answer, the end."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    studio.ask("/api/previews", {"every": 2})
    id = studio.start(**OPTIONS)
    page.goto(f"{studio.base}/#/run/{id}")
    page.wait_for_selector(".asks", timeout=SLOW)
    page.get_by_role("link", name="Answer").click()
    baseline = next_question(page)
    page.keyboard.press("Enter")
    first = next_question(page, baseline)
    assert page.locator(".judge-grid .card").count() == 4
    found = axe.run(page).response["violations"]
    assert not [one["id"] for one in found if one["impact"] in ("serious", "critical")]
    for key in ("1", "3", "3"):
        page.keyboard.press(key)
    page.wait_for_selector(".judge-grid .liked + .card + .disliked")
    shoot(page, "steered")
    page.keyboard.press("Enter")
    second = next_question(page, first)
    folder = studio.runs / studio.run(id)["name"]
    assert typed(folder) == {baseline: "none", first: "1,-3", second: None}
    page.goto(f"{studio.base}/#/run/{id}")
    page.wait_for_selector(".asks", timeout=SLOW)
    page.wait_for_selector("[data-forming]", timeout=SLOW)
    page.locator("[data-forming]").evaluate_all(DECODED)
    shoot(page, "steered-run")
    page.get_by_role("button", name="Stop").click()
    page.wait_for_selector(".state.waiting", timeout=SLOW)
    page.get_by_role("link", name="Answer").click()
    assert next_question(page) == second, "the same question after the run was put aside"
    page.reload()
    assert next_question(page) == second
    page.keyboard.press("f")
    last = next_question(page, second)
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-question]", state="detached", timeout=SLOW)
    run = studio.wait(id)
    studio.ask("/api/previews", {"every": 0})
    assert typed(folder) == {baseline: "none", first: "1,-3", second: "finish", last: "1"}
    assert [c["reward"] for c in run["candidates"]][-1] == 1.0
    same_answers_give_the_same_pictures(folder, tmp_path / "again")


def typed(folder: Path) -> dict[str, str | None]:
    return {posted.question.name: posted.answer for posted in QuestionStore(folder).questions()}


def same_answers_give_the_same_pictures(folder: Path, again: Path) -> None:
    """Neither the browser, nor previews, nor the pause changes a bit."""
    answers = typed(folder)
    engine.start(View.read(folder).spec, again).close()
    store = engine.resume(again, person=lambda question: str(answers[question.name]))
    assert [(c.image, c.reward) for c in store.candidates()] == [
        (c.image, c.reward) for c in View.read(folder).candidates
    ]
    store.close()
