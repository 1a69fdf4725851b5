"""One story in a real browser: watch pictures form, draw more like one, see where it came from and how it formed."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any

import pytest

from fairlead.run.store import Store

pytestmark = pytest.mark.browser

OPTIONS = {"prompt": "a photo of a red apple left of a dog", "model": "pocket", "steps": 6, "batch": 4}
SHOTS = os.environ.get("FAIRLEAD_SHOTS")
SLOW = 90_000


def shoot(page: Any, name: str) -> None:
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/{name}.png", full_page=True)


def digests(folder: Path) -> list[str]:
    return [c.image for c in Store.open(folder).candidates()]


def test_watch_draw_more_and_look_back(studio: Any, page: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()

    def check() -> None:
        found = axe.run(page).response["violations"]
        assert not [one["id"] for one in found if one["impact"] in ("serious", "critical")]

    # without previews
    words = {**OPTIONS, "reward": "brightness + 0.1*jpeg_size"}
    plain = studio.start(**words, budget="nfe=48")
    first = studio.wait(plain)
    # with previews, switched on by hand while the run goes on
    watched = studio.start(**words, budget="nfe=240")
    page.goto(f"{studio.base}/#/run/{watched}")
    switch = page.get_by_role("button", name="Show pictures while they form")
    switch.click(timeout=SLOW)
    page.wait_for_selector("[data-forming]", timeout=SLOW)
    shown = "all => all.some(i => i.naturalWidth > 0)"
    until = time.monotonic() + SLOW / 1000
    while not page.eval_on_selector_all("[data-forming]", shown):  # a waiting function is refused by the page's policy
        assert time.monotonic() < until
        page.wait_for_timeout(50)
    assert "not part of the budget" in page.locator(".forming").inner_text()
    assert "step" in page.locator(".forming").inner_text()
    shoot(page, "forming")
    found = studio.wait(watched)
    studio.ask("/api/previews", {"every": 0})
    assert found["spent"]["decodes"] == len(found["candidates"]), "previews are not counted"
    folder = studio.runs / found["name"]
    assert digests(folder)[:8] == digests(studio.runs / first["name"]), "the same pictures to the bit"

    # more like candidate 5
    page.wait_for_selector("[data-dot='5']", timeout=SLOW)
    page.locator("[data-dot='5']").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog.viewer[open]")
    page.keyboard.press("m")
    page.wait_for_selector(".from", timeout=SLOW)
    assert f"candidate 5 of {found['name']}" in page.locator(".from").inner_text()
    child = page.url.rpartition("/")[2]
    made = studio.wait(child)
    parent = next(c for c in found["candidates"] if c["index"] == 5)
    own = next(c for c in made["candidates"] if c["index"] == 0)
    assert own["image"] == parent["image"], "bit for bit"
    picture = studio.ask(f"/api/runs/{child}/images/{own['image']}").data
    assert hashlib.blake2b(picture, digest_size=16).hexdigest() == parent["image"]
    assert made["parent"]["candidate"] == 5
    assert made["parent"]["run"] == watched

    # the lineage of the child, by mouse and by keyboard
    page.wait_for_selector("[data-kin='4']", timeout=SLOW)
    assert "drawn from 0" in page.locator("[data-kin='4']").get_attribute("aria-label")
    page.locator("[data-dot='2']").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog.viewer[open]")
    check()

    # how it formed
    before = studio.run(child)["spent"]
    page.get_by_role("button", name="How it formed").click()
    page.wait_for_selector(".strip img", timeout=SLOW)
    assert page.locator(".strip img").count() == OPTIONS["steps"]
    note = page.locator(".strip-note").inner_text()
    assert "bit for bit" in note
    assert "No budget paid" in note
    page.locator(".strip img").evaluate_all("every => Promise.all(every.map(i => i.decode()))")
    assert studio.run(child)["spent"] == before
    shoot(page, "strip")
    check()
    page.keyboard.press("Escape")
    shoot(page, "lineage")

    # the noise of a picture with another prompt
    page.locator("[data-dot='0']").focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Same noise, new prompt").click()
    page.get_by_label("Another prompt for the same noise").fill("a photo of a blue cat")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="a photo of a blue cat").wait_for(timeout=SLOW)
    studio.wait(page.url.rpartition("/")[2])
