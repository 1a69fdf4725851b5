"""The form with its fields, and several runs side by side, in a real Chromium."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from fairlead.run.judged_across import JudgedAcross
from fairlead.run.view import View

pytestmark = pytest.mark.browser

SHOTS = os.environ.get("FAIRLEAD_SHOTS")
FAST = {"prompt": "a photo of a dog", "model": "mixture", "reward": "brightness", "steps": 4, "budget": "nfe=80"}


def test_a_form_of_fields_refuses_beside_the_field(studio: Any, page: Any, tmp_path: Path) -> None:
    page.goto(f"{studio.base}/#/new")
    for name in ("model", "reward", "budget"):
        page.get_by_label(name, exact=True).fill(FAST[name])
    page.get_by_text("Search and sampling").click()
    page.get_by_label("search", exact=True).select_option("sep_cma")
    page.get_by_text("7 settings of sep_cma").click()
    assert page.locator("#s-sep_cma-step option").all_inner_texts() == ["auto", "tpa", "csa"]
    assert page.locator("#s-sep_cma-active").is_checked()
    assert "Initial step size" in page.locator("#s-sep_cma-sigma-what").inner_text()
    page.get_by_label("sigma", exact=True).fill("-1")
    page.locator("textarea").fill(FAST["prompt"])
    page.wait_for_selector(".setting .problem", timeout=90_000)
    assert "must be a finite number > 0" in page.locator(".setting .problem").inner_text()
    assert page.get_by_label("sigma", exact=True).get_attribute("aria-invalid") == "true"
    page.get_by_label("sigma", exact=True).fill("0.25")
    page.locator("#s-sep_cma-active").uncheck()
    page.get_by_label("watch", exact=True).fill("jpeg_size")
    page.get_by_label("watch, entry 2").fill("2*jpeg_size")
    page.get_by_label("watch, entry 3").wait_for()
    page.wait_for_selector("code:has-text('--watch jpeg_size --watch')", state="attached", timeout=60_000)
    page.wait_for_selector(".price", timeout=60_000)
    command = page.locator(".facts code").first.text_content()
    assert "--set sep_cma.sigma=0.25 --set sep_cma.active=False" in command
    (tmp_path / "my.py").write_text("def flat(images, prompts):\n    return [0.0 for _ in images]\n")
    page.get_by_label("reward", exact=True).fill(f"{tmp_path}/my.py:flat")
    page.get_by_role("button", name="I have read it").click(timeout=60_000)
    page.wait_for_selector(".price", timeout=60_000)
    page.get_by_label("reward", exact=True).fill(f"{tmp_path}/my.py:other")
    page.wait_for_selector("button:has-text('I have read it')", timeout=60_000)


@pytest.fixture(scope="module")
def methods(studio: Any) -> list[str]:
    """One prompt and seed by three methods."""
    ids = [studio.start(**FAST, search=search) for search in ("best_of", "zero_order", "evolution")]
    for id in ids:
        studio.wait(id)
    return ids


def test_runs_are_compared_side_by_side(studio: Any, page: Any, methods: list[str]) -> None:
    page.goto(f"{studio.base}/#/")
    for id in methods[:2]:
        page.locator(f".run:has(a[href='#/run/{id}']) .pick input").check()
    page.get_by_role("link", name="Compare", exact=True).click()
    page.wait_for_selector(".several .column")
    assert page.url.endswith(f"#/compare/{methods[0]}/{methods[1]}")
    page.goto(f"{studio.base}/#/compare/{'/'.join(methods)}/{methods[0]}")
    page.wait_for_selector(".several .column:nth-child(4)")
    assert page.locator(".column h3").all_inner_texts() == ["baseline", "best_of", "zero_order", "evolution"]
    assert page.locator(".note-box").count() == 0, "one prompt, one seed, one reward"
    views = [View.read(studio.runs / studio.run(id)["name"]) for id in methods]
    digests = page.eval_on_selector_all(".column img[data-digest]", "all => all.map(i => i.dataset.digest)")
    assert digests == [Path(view.best.image).stem for view in views if view.best]
    assert page.locator(".several-chart path.best").count() == 3
    page.get_by_role("button", name="Enlarge all").click()
    moved = page.eval_on_selector_all(".column .pane img", "all => all.map(i => i.style.transform)")
    assert set(moved) == {"translate(0px, 0px) scale(1.5)"}
    page.get_by_role("button", name="against seconds").click()
    page.wait_for_selector(".chart[aria-label$='against seconds']")


def test_winners_of_several_runs_are_judged_blind(studio: Any, page: Any, methods: list[str]) -> None:
    page.goto(f"{studio.base}/#/compare/{'/'.join(methods)}")
    page.get_by_role("link", name="Judge blind").click(timeout=60_000)
    page.wait_for_selector(".judge-pair", timeout=60_000)
    assert "best_of" not in page.locator("main").inner_text(), "a judge does not see whose a picture is"
    page.get_by_label("Your name").fill("Ada")
    page.keyboard.press("Enter")
    page.get_by_label("Of each run").select_option("4")
    page.get_by_text("0 judged by Ada").wait_for(timeout=60_000)
    for key, judged in (("1", 1), ("2", 2), ("=", 3), ("u", 2)):
        page.locator(".judge-pair .card").first.focus()
        page.keyboard.press(key)
        page.get_by_text(f"{judged} judged by Ada").wait_for(timeout=20_000)
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/across.png", full_page=True)
    page.get_by_text("Show the ranking").click()
    page.wait_for_selector(".ranking li", timeout=60_000)
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/across-ranking.png", full_page=True)
    folders = [studio.runs / studio.run(id)["name"] for id in methods]
    assert len(JudgedAcross(folders).judged().judgements) == 2
    with page.expect_download() as download:
        page.get_by_role("link", name="Preferences as JSONL").click()
    rows = [json.loads(line) for line in download.value.path().read_text().splitlines()]
    assert [(row["prompt"], row["judge"]) for row in rows] == [(FAST["prompt"], "Ada")] * 2
    assert all(row["chosen_run"] != row["rejected_run"] for row in rows)
    assert all((studio.runs / row[word]).is_file() for row in rows for word in ("chosen", "rejected"))
    table = studio.ask(f"/api/across/ranking.csv?{'&'.join(f'run={id}' for id in methods)}").data.decode()
    assert len(table.splitlines()) == 1 + page.locator(".ranking li").count()
    sent = {"runs": methods, "who": "Ada", "turn": 1, "images": ["x", "y"], "answer": "1"}
    assert studio.ask("/api/across", sent).status == 409
    assert studio.ask("/api/across", {**sent, "runs": "all"}).status == 422
    assert studio.ask(f"/api/across?run={methods[0]}").status == 422
    assert studio.ask(f"/api/across?run={methods[0]}&run={'0' * 32}").status == 404


def test_runs_that_do_not_compare_are_said(studio: Any, chromium: Any, methods: list[str]) -> None:
    """Another prompt is a warning, and a run that is not here a sentence in its column."""
    other = studio.start(**{**FAST, "prompt": "שלום <b>כלב</b>"}, seed=5)
    studio.wait(other)
    page = chromium.new_page()
    page.goto(studio.link)
    page.wait_for_selector(".run")
    page.goto(f"{studio.base}/#/compare/{methods[0]}/{other}/{'0' * 32}")
    page.wait_for_selector(".column .problem")
    assert "was moved or deleted" in page.locator(".column .problem").inner_text()
    assert "differ in prompt and seed" in page.locator(".note-box").inner_text()
    assert page.get_by_text("שלום <b>כלב</b>").count() == 1
    assert page.locator(".column").count() == 3, "no common baseline"
    page.close()


def test_the_slider_of_the_report(studio: Any, chromium: Any, methods: list[str]) -> None:
    """It works in the file itself, without a server; both pictures are the winner's and the baseline's."""
    page = chromium.new_page()
    page.goto((studio.runs / studio.run(methods[1])["name"] / "report.html").as_uri())
    page.locator(".slide input").fill("25")
    over = page.locator(".under .over")
    assert over.evaluate("o => o.style.clipPath").endswith("25%)")
    assert over.get_attribute("src") == page.locator(".shot.base img").get_attribute("src")
    page.close()
