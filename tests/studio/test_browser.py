"""The page in a real Chromium, with the real server and the real embedded model."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fairlead.app.report import staircase
from fairlead.run import judgements, marks
from fairlead.run.store import Store
from fairlead.run.view import View

pytestmark = pytest.mark.browser

PROMPT = "a photo of a red apple left of a dog"
TURBO = {"prompt": PROMPT, "model": "pocket-turbo", "reward": "brightness"}
SHOTS = os.environ.get("FAIRLEAD_SHOTS")
"""A folder for pictures of every screen, for whoever wants to look at them."""


@pytest.fixture(scope="module")
def finished(studio: Any) -> str:
    id: str = studio.start(**TURBO, budget="nfe=256")
    studio.wait(id)
    return id


def shown_indices(page: Any) -> list[int]:
    """The candidates in the gallery from top to bottom."""
    cells = page.eval_on_selector_all(".cell", "all => all.map(c => [+c.dataset.index, c.getBoundingClientRect()])")
    return [index for index, _ in sorted(cells, key=lambda one: (one[1]["y"], one[1]["x"]))]


def fill_form(page: Any, base: str, prompt: str = PROMPT, budget: str = "nfe=256") -> None:
    page.goto(f"{base}/#/new")
    page.get_by_label("model", exact=True).fill("pocket-turbo")
    page.get_by_label("reward", exact=True).fill("brightness")
    page.get_by_label("budget", exact=True).fill(budget)
    page.locator("textarea").fill(prompt)


def test_from_a_prompt_to_the_winner(studio: Any, page: Any) -> None:
    fill_form(page, studio.base)
    page.wait_for_selector(".price", timeout=60_000)
    assert "64 candidates" in page.locator(".price").inner_text()
    page.locator("textarea").press("Enter")
    page.wait_for_selector(".cell", timeout=60_000)
    page.wait_for_selector(".state.finished", timeout=60_000)
    id = page.url.rpartition("/")[2]
    view = View.read(studio.runs / studio.run(id)["name"])
    assert view.best is not None
    page.get_by_role("button", name="in order").click()
    assert shown_indices(page) == list(range(len(shown_indices(page))))
    shown = page.evaluate(
        """async () => {
            const data = await (await fetch(document.querySelector('.slider .over').src)).arrayBuffer();
            return Array.from(new Uint8Array(data));
        }"""
    )
    digest = hashlib.blake2b(bytes(shown), digest_size=16).hexdigest()
    assert digest == Path(view.best.image).stem
    assert page.locator(".shot.win").inner_text().startswith("Best found")


def test_reload_and_a_killed_server_lose_nothing(open_studio: Callable[..., Any], chromium: Any) -> None:
    studio = open_studio()
    page = chromium.new_page()
    page.goto(studio.link)
    fill_form(page, studio.base, budget="nfe=800")
    page.locator("textarea").press("Enter")
    page.wait_for_selector(".cell", timeout=90_000)
    for _ in range(2):
        page.reload()
        page.wait_for_selector(".cell", timeout=30_000)
    where = page.url
    studio.kill()
    page.wait_for_selector("text=The studio does not answer", timeout=30_000)
    again = open_studio(studio.runs, studio.port)
    page.goto(again.link)
    page.wait_for_selector("h1")
    page.goto(where)
    page.wait_for_selector(".cell", timeout=30_000)
    page.wait_for_selector(".state.finished", timeout=120_000)
    page.get_by_role("button", name="in order").click()
    every = page.evaluate("document.querySelector('.place').getAttribute('aria-setsize')")
    view = View.read(again.runs / again.run(where.rpartition("/")[2])["name"])
    assert int(every) == len(view.candidates) == 200
    assert [c.index for c in view.candidates] == list(range(200))
    assert shown_indices(page) == list(range(len(shown_indices(page))))
    page.close()


def test_two_tabs_two_runs_one_is_stopped(studio: Any, chromium: Any) -> None:
    first = studio.start(**TURBO, budget="nfe=40000", seed=1)
    second = studio.start(**TURBO, budget="nfe=64", seed=2)
    context = chromium.new_context()
    one = context.new_page()
    two = context.new_page()
    one.goto(studio.link)
    one.wait_for_selector(".run")
    one.goto(f"{studio.base}/#/run/{first}")
    two.goto(f"{studio.base}/#/run/{second}")
    two.wait_for_selector(".state.queued")
    one.wait_for_selector(".cell", timeout=60_000)
    one.get_by_role("button", name="Stop").click()
    one.wait_for_selector(".state.stopped", timeout=60_000)
    two.wait_for_selector(".state.finished", timeout=60_000)
    assert two.locator(".place").first.get_attribute("aria-setsize") == "16"
    two.goto(f"{studio.base}/#/run/{first}")
    two.wait_for_selector(".state.stopped")
    two.wait_for_selector(".cell")
    index = two.locator(".cell").nth(1).get_attribute("data-index")
    two.locator(".cell").nth(1).focus()
    two.keyboard.press("s")
    two.wait_for_selector(f".cell[data-index='{index}'] .star")
    one.wait_for_selector(f".cell[data-index='{index}'] .star", timeout=10_000)
    assert marks.starred(studio.runs / studio.run(first)["name"]) == [int(index)]
    context.close()


FOCUS_AND_PRESS = """async () => {
    document.querySelectorAll(".cell")[2].focus();
    await Promise.resolve();
    await Promise.resolve();
    document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: "s", bubbles: true }));
    return document.activeElement.dataset.index;
}"""


def test_a_key_acts_on_what_was_focused_before_the_next_frame(studio: Any, page: Any, finished: str) -> None:
    folder = studio.runs / studio.run(finished)["name"]
    page.goto(f"{studio.base}/#/run/{finished}")
    page.wait_for_selector(".cell")
    index = page.evaluate(FOCUS_AND_PRESS)
    page.wait_for_selector(f".cell[data-index='{index}'] .star", timeout=5_000)
    assert int(index) in marks.starred(folder)
    page.keyboard.press("u")
    page.wait_for_selector(f".cell[data-index='{index}'] .star", state="detached")


def test_stars_rejects_and_undo_by_keyboard(studio: Any, page: Any, finished: str) -> None:
    folder = studio.runs / studio.run(finished)["name"]
    page.goto(f"{studio.base}/#/run/{finished}")
    page.wait_for_selector(".cell")
    page.locator(".cell").first.focus()
    page.keyboard.press("ArrowRight")
    second = page.locator(".cell.selected").get_attribute("data-index")
    page.keyboard.press("s")
    page.wait_for_selector(".cell.selected .star")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("x")
    page.wait_for_selector(".cell.selected.rejected")
    page.keyboard.press("u")
    page.wait_for_selector(".cell.rejected", state="detached")
    assert marks.starred(folder) == [int(second)]
    assert [kinds for kinds in marks.present(marks.of(folder)).values() if "reject" in kinds] == []
    page.get_by_role("button", name="starred", exact=True).click()
    assert shown_indices(page) == [int(second)]
    page.get_by_role("button", name="all", exact=True).click()
    page.keyboard.press("Tab")
    page.locator(".cell").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog.viewer[open]")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog.viewer[open]", state="detached")
    page.keyboard.press("?")
    page.wait_for_selector("dialog.sheet[open]")


def test_compare_and_note_by_keyboard(studio: Any, page: Any, finished: str) -> None:
    page.goto(f"{studio.base}/#/run/{finished}")
    page.wait_for_selector(".cell")
    order = shown_indices(page)
    page.locator(".cell").first.focus()
    page.wait_for_selector(f".cell.selected[data-index='{order[0]}']")
    page.keyboard.press("p")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(f".cell.selected[data-index='{order[1]}']")
    page.keyboard.press("c")
    page.wait_for_selector("dialog.compare[open]")
    names = page.locator(".compare .names")
    assert names.inner_text().split("candidate ")[1].split(" ")[0] == str(order[0])
    page.keyboard.press("ArrowRight")
    page.locator(".compare .names").filter(has_text=f"candidate {order[2]} ").wait_for()
    for way in ("Slider", "Fade", "Difference", "Side by side"):
        page.get_by_role("button", name=way).click()
    page.keyboard.press("+")
    moved = page.eval_on_selector_all(".compare .pane img", "all => all.map(i => i.style.transform)")
    assert len(moved) == 2
    assert moved[0] == moved[1] == "translate(0px, 0px) scale(1.5)"
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog.compare[open]", state="detached")
    page.locator(f".cell[data-index='{order[1]}']").focus()
    page.wait_for_selector(f".cell.selected[data-index='{order[1]}']")
    page.keyboard.press("n")
    page.locator(".note input").fill("<b>sharp</b> eyes")
    page.keyboard.press("Enter")
    page.wait_for_selector(".remark")
    folder = studio.runs / studio.run(finished)["name"]
    assert marks.present(marks.of(folder))[order[1]]["note"] == "<b>sharp</b> eyes"


def test_markup_is_text(studio: Any, page: Any) -> None:
    evil = "<img src=x onerror=alert(1)> שלום dog"
    id = studio.start(**{**TURBO, "prompt": evil}, budget="nfe=16")
    studio.wait(id)
    marks.add(studio.runs / studio.run(id)["name"], 0, "note", "<script>alert(2)</script>")
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    page.goto(f"{studio.base}/#/run/{id}")
    page.wait_for_selector(".cell")
    assert page.locator("h1").inner_text() == evil
    page.locator(".cell").first.click()
    page.goto(f"{studio.base}/#/")
    page.wait_for_selector(".run")
    assert page.locator("img[src=x]").count() == 0


@pytest.mark.parametrize("draft", [None, "2"])
def test_the_curve_is_that_of_the_report(studio: Any, page: Any, finished: str, draft: str | None) -> None:
    """Drafts too, whose rewards do not compare with those of finished pictures."""
    if draft is not None:
        finished = studio.start(**TURBO, budget="nfe=160", draft=draft)
        studio.wait(finished)
        page.goto(f"{studio.base}/#/run/{finished}")
        page.wait_for_selector(".chart .best")
    view = View.read(studio.runs / studio.run(finished)["name"])
    for axis in ("nfe", "seconds"):
        drawn = page.evaluate(
            """async ([id, axis]) => {
                const { Record, staircase } = await import('/static/record.js');
                const record = new Record(await (await fetch(`/api/runs/${id}`)).json());
                return [staircase(record.trace(axis)), record.best.index, record.gain, record.ranked.map(c => c.index)];
            }""",
            [finished, axis],
        )
        assert drawn[0] == [pytest.approx(step) for step in staircase(view.trace(), axis)]
        assert view.best is not None
        assert drawn[1:] == [view.best.index, view.gain, [c.index for c in view.ranked]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_no_serious_fault_of_accessibility(studio: Any, chromium: Any, finished: str, width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    folder = studio.runs / studio.run(finished)["name"]
    if not judgements.of(folder):
        judgements.add(folder, "pair", (0, 1), "1", "Ada", 0)
    second = studio.start(**TURBO, budget="nfe=16", seed=7)
    studio.wait(second)
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.goto(studio.link)
    for name, path, ready in (
        ("runs", "", ".run"),
        ("new", "new", "textarea"),
        ("run", f"run/{finished}", ".cell"),
        ("judge", f"judge/{finished}", ".ranking"),
        ("keep", f"keep/{finished}", ".keep-gallery figure"),
        ("compare", f"compare/{finished}/{second}", ".column + .column"),
    ):
        page.goto(f"{studio.base}/#/{path}")
        page.wait_for_selector(ready)
        if name == "new":
            page.get_by_text("Search and sampling").click()
            page.get_by_text("1 setting of best_of").click()
        page.wait_for_timeout(300)
        found = axe.run(page).response["violations"]
        assert [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")] == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is wider than the window"
        if SHOTS:
            page.screenshot(path=f"{SHOTS}/{name}-{width}-{scheme}.png")
    context.close()


@pytest.fixture(scope="module")
def large(studio: Any, finished: str) -> Iterator[str]:
    """A record of 2,000 candidates, made of rows of a real one."""
    source = studio.runs / studio.run(finished)["name"]
    folder = studio.runs / "two-thousand"
    shutil.copytree(source, folder)
    store = Store.open(folder)
    row = "idx, task, question, key, reward, terms, cost, image, steps, gradient, refines"
    with store._db as db:
        for start in range(64, 2000, 64):
            copied = row.replace("idx", f"idx+{start}", 1).replace("reward", f"reward-{start / 4000}", 1)
            db.execute(f"insert into outcome select {copied}, null from outcome where idx<64 and idx+{start}<2000")
        from fairlead.run import rows

        rows.seal(db, "outcome")
    store.close()
    yield next(row["id"] for row in studio.ask("/api/runs").json["runs"] if row["name"] == "two-thousand")
    shutil.rmtree(folder)


SCROLL = """() => new Promise(done => {
    let last = performance.now(), worst = 0, left = 60;
    const step = now => {
        worst = Math.max(worst, now - last);
        last = now;
        scrollBy(0, 260);
        left-- ? requestAnimationFrame(step) : done(worst);
    };
    requestAnimationFrame(now => { last = now; requestAnimationFrame(step); });
})"""


def test_two_thousand_candidates(studio: Any, chromium: Any, large: str) -> None:
    """First paint, frames and heap. Other work on the machine makes single measurements worse, so the best counts."""
    page = chromium.new_page(viewport={"width": 1280, "height": 800})
    page.goto(studio.link)
    page.wait_for_selector(".run")
    paints = []
    frames = []
    for _ in range(4):
        page.goto("about:blank")
        page.goto(f"{studio.base}/#/run/{large}", wait_until="commit")
        page.wait_for_selector(".cell")
        paints.append(page.evaluate("performance.now()"))
        assert page.locator(".place").first.get_attribute("aria-setsize") == "2000"
        assert page.locator(".cell").count() < 120
        page.wait_for_timeout(300)
        frames.append(page.evaluate(SCROLL))
    heap = page.evaluate("performance.memory.usedJSHeapSize") / 1e6
    print(f"first cells after {min(paints):.0f} ms, slowest frame {min(frames):.0f} ms, heap {heap:.0f} MB")
    slack = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1) + 0.5)
    assert min(paints) < 1000 * slack
    assert min(frames) < 100 * slack
    assert heap < 300
    page.close()
