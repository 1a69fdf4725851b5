"""People judge in the studio: the routes, and the whole story in a real Chromium."""

from __future__ import annotations

import csv
import io
import json
import os
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fairlead.run import judgements, marks
from fairlead.run.held_out import correlation
from fairlead.run.judged import Judged
from fairlead.run.question_store import QuestionStore
from fairlead.run.view import View

PROMPT = "a photo of a red apple left of a dog"
TURBO = {"prompt": PROMPT, "model": "pocket-turbo", "reward": "brightness"}
SHOTS = os.environ.get("FAIRLEAD_SHOTS")


@pytest.fixture(scope="module")
def finished(studio: Any) -> str:
    id: str = studio.start(**TURBO, budget="nfe=128", seed=5)
    studio.wait(id)
    return id


def folder_of(studio: Any, id: str) -> Path:
    found: Path = studio.runs / studio.run(id)["name"]
    return found


def until_asked(studio: Any, id: str) -> Any:
    """The questions of a run, once it has one."""
    for _ in range(600):
        found = studio.ask(f"/api/runs/{id}/judge")
        if found.status == 200 and found.json["questions"]:
            return found.json["questions"]
        time.sleep(0.1)
    raise AssertionError(f"no question: {studio.run(id)}, worker: {studio.log()}")


def test_judgements_over_http(studio: Any, finished: str) -> None:
    path = f"/api/runs/{finished}/judge"
    words = {"who": "Cleo <b>", "of": "8", "kind": "pick"}
    found = studio.ask(f"{path}?who=Cleo%20%3Cb%3E&of=8&kind=pick").json
    assert found["pictures"] == 8
    shown = [one["candidate"] for one in found["shown"]]
    assert len(shown) == 4
    sent = {**words, "turn": found["turn"], "candidates": shown, "answer": "2,4"}
    after = studio.ask(path, sent).json
    assert after["turn"] == 1
    twice = studio.ask(path, sent)
    assert twice.status == 409
    assert "Another window has judged as Cleo" in twice.json["error"]["message"]
    preferred = {shown[1], shown[3]}
    rows = [json.loads(line) for line in studio.ask(f"{path}/preferences.jsonl").data.splitlines()]
    assert len(rows) == 4
    assert {row["chosen_candidate"] for row in rows} == preferred
    assert all(row["prompt"] == PROMPT and row["judge"] == "Cleo <b>" for row in rows)
    assert all((studio.runs / row[name]).is_file() for row in rows for name in ("chosen", "rejected"))
    table = list(csv.DictReader(io.StringIO(studio.ask(f"{path}/ranking.csv").data.decode())))
    assert {int(row["candidate"]) for row in table[:2]} == preferred
    assert studio.ask(f"{path}/undo", {**words, "turn": 1}).json["judgements"] == after["judgements"] - 1
    assert studio.ask(f"{path}/undo", {**words, "turn": 2}).status == 422
    for wrong in ({"turn": "2"}, {"turn": 2, "candidates": [0, 999], "answer": "1"}, {"turn": 2, "candidates": "all"}):
        assert studio.ask(path, {**words, **wrong}).status in (409, 422)
    for query in ("kind=rank", "of=1", "of=many", "among=best"):
        assert studio.ask(f"{path}?{query}").status == 422


def test_the_choice_to_keep_and_its_zip(studio: Any, finished: str) -> None:
    folder = folder_of(studio, finished)
    found = studio.ask(f"/api/runs/{finished}/keep?k=4").json
    assert [len(point["kept"]) for point in found["points"]] == [4] * len(found["points"])
    assert found["points"][0]["vendi"] >= found["points"][-1]["vendi"]
    assert found["points"][0]["reward"] <= found["points"][-1]["reward"]
    point = next(point for point in found["points"] if point["weight"] == found["default"])
    words = point["command"].split()
    assert words[:2] == ["fairlead", "keep"]
    from fairlead.run.diverse_subset import keep

    chosen = [one["candidate"] for one in point["kept"]]
    assert keep(folder, 4, weight=point["weight"]) == chosen, "the command that is shown keeps what is shown"
    data = studio.ask(f"/api/runs/{finished}/kept.zip?candidates={','.join(map(str, chosen))}").data
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        assert len(names) == 8
        assert archive.read(names[0]) == (folder / "images" / f"{point['kept'][0]['image']}.png").read_bytes()
        recipe = json.loads(archive.read(names[1]))
        assert recipe["candidate"] == chosen[0]
        assert recipe["recipe"]["spec"]["prompt"] == PROMPT
    for index in (1, 4, 6):
        marks.add(folder, index, "star", "1")
    starred = studio.ask(f"/api/runs/{finished}/keep?k=2&starred=1").json
    assert {one["candidate"] for point in starred["points"] for one in point["kept"]} <= {1, 4, 6}
    assert "--starred" in starred["points"][0]["command"]
    assert studio.ask(f"/api/runs/{finished}/keep?k=4&starred=1").status == 422
    for query in ("k=0", "k=x", "k=2&floor=low"):
        assert studio.ask(f"/api/runs/{finished}/keep?{query}").status == 422
    for query in ("", "999", "../1"):
        assert studio.ask(f"/api/runs/{finished}/kept.zip?candidates={query}").status in (404, 422)


def test_two_people_answer_one_question_and_the_first_answer_holds(studio: Any) -> None:
    id = studio.start(**{**TURBO, "reward": "human(k=4)"}, budget="nfe=32", seed=6)
    question = until_asked(studio, id)[0]
    assert len(question["images"]) == 4
    assert studio.ask(f"/api/runs/{id}/images/{question['images'][0]}").status == 200
    path = f"/api/runs/{id}/questions/{question['name']}"
    assert studio.ask(path, {"answer": "9"}).status == 422
    assert studio.ask(path, {"answer": ""}).status == 422
    assert studio.ask(f"/api/runs/{id}/questions/nothing", {"answer": "1"}).status == 422
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda text: studio.ask(path, {"answer": text}), ("1", "2", "3", "4")))
    assert sorted(answer.status for answer in answers) == [200, 409, 409, 409]
    refused = next(answer.json["error"]["message"] for answer in answers if answer.status == 409)
    assert "The first answer holds." in refused
    held = next(answer.json["answered"] for answer in answers if answer.status == 200)
    posted = QuestionStore(folder_of(studio, id)).questions()[0]
    assert posted.answer == held
    other = until_asked(studio, id)[0]
    assert other["name"] != question["name"]
    studio.ask(f"/api/runs/{id}/stop", {})
    studio.wait(id, ("waiting",))
    studio.ask(f"/api/runs/{id}/questions/{other['name']}", {"answer": "none"})
    run = studio.wait(id)
    rewards = {c["image"]: c["reward"] for c in run["candidates"]}
    assert sum(rewards.values()) == 1.0
    assert rewards[question["images"][int(held) - 1]] == 1.0


def brighter(view: View, images: list[str]) -> str:
    """The answer of a person who prefers bright pictures."""
    rewards = {Path(c.image).stem: c.reward for c in view.candidates}
    return "1" if rewards[images[0]] > rewards[images[1]] else "2"


def judge_by_keys(page: Any, view: View, many: int) -> None:
    for _ in range(many):
        pair = page.locator(".judge-pair")
        turn = pair.get_attribute("data-turn")
        page.keyboard.press(brighter(view, pair.get_attribute("data-images").split(" ")))
        page.wait_for_selector(f".judge-pair:not([data-turn='{turn}'])", timeout=60_000)


@pytest.mark.browser
def test_thirty_pairs_by_keyboard_undo_reload_and_a_killed_server(
    open_studio: Callable[..., Any], chromium: Any
) -> None:
    studio = open_studio()
    id = studio.start(**TURBO, budget="nfe=64", seed=7)
    studio.wait(id)
    view = View.read(folder_of(studio, id))
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    page.goto(studio.link)
    page.wait_for_selector("h1")
    page.goto(f"{studio.base}/#/run/{id}")
    page.wait_for_selector(".cell", timeout=60_000)
    page.keyboard.press("j")
    page.wait_for_selector(".judge-pair", timeout=60_000)
    page.get_by_label("Your name").fill("Ada")
    page.keyboard.press("Enter")
    page.locator(".judge-pair .card").first.focus()
    judge_by_keys(page, view, 12)
    for _ in range(3):
        turn = page.locator(".judge-pair").get_attribute("data-turn")
        page.keyboard.press("u")
        page.wait_for_selector(f".judge-pair:not([data-turn='{turn}'])", timeout=60_000)
    shown = page.locator(".judge-pair").get_attribute("data-images")
    page.reload()
    page.wait_for_selector(".judge-pair", timeout=60_000)
    assert page.locator(".judge-pair").get_attribute("data-images") == shown
    judge_by_keys(page, view, 10)
    studio.kill()
    again = open_studio(studio.runs, studio.port)
    page.goto(again.link)
    page.wait_for_selector("h1")
    page.goto(f"{again.base}/#/judge/{id}")
    page.wait_for_selector(".judge-pair", timeout=60_000)
    judge_by_keys(page, view, 11)
    judged = Judged.of(view.folder)
    assert judged.judges == {"Ada": 30}
    assert len(judgements.of(view.folder)) == 36
    rewards = {c.index: c.reward for c in view.candidates}
    assert correlation([(place.strength, rewards[place.candidate]) for place in judged.ranking]) > 0.85
    drawn = page.eval_on_selector_all(".ranking img", "all => all.map(i => i.src.split('/').pop().split('?')[0])")
    assert drawn == [Path(view.candidates[place.candidate].image).stem for place in judged.ranking]
    page.keyboard.press("=")
    page.wait_for_selector("text=31 judged by Ada", timeout=60_000)
    page.keyboard.press("0")
    page.wait_for_selector("text=32 judged by Ada", timeout=60_000)
    assert [j.answer for j in judgements.of(view.folder)[-2:]] == ["tie", "both bad"]
    page.close()


@pytest.mark.browser
def test_a_waiting_run_goes_on_and_the_front_is_the_control(studio: Any, page: Any, finished: str) -> None:
    page.goto(f"{studio.base}/#/new")
    page.get_by_label("model", exact=True).fill("pocket-turbo")
    page.get_by_label("reward", exact=True).fill("human(mode='pairwise')")
    page.get_by_label("budget", exact=True).fill("nfe=12")
    page.locator("textarea").fill("a photo of a dog")
    page.locator("textarea").press("Enter")
    page.wait_for_selector(".asks", timeout=120_000)
    id = page.url.rpartition("/")[2]
    page.get_by_role("link", name="Answer").click()
    for key in ("2", "1"):
        page.wait_for_selector(".judge-pair", timeout=60_000)
        turn = page.locator(".judge-pair").get_attribute("data-turn")
        page.keyboard.press(key)
        page.wait_for_selector(f".judge-pair[data-turn='{turn}']", state="detached", timeout=60_000)
    run = studio.wait(id)
    assert [c["reward"] for c in run["candidates"]] == [0.0, 1.0, 0.5]

    page.goto(f"{studio.base}/#/keep/{finished}")
    page.wait_for_selector(".keep-gallery figure", timeout=120_000)
    assert page.locator(".keep-gallery figure").count() == 6
    kept = page.eval_on_selector_all(".keep-gallery figure", "all => all.map(f => +f.dataset.index)")
    dots = page.locator(".front-dot").count()
    page.get_by_label("From the best to the most different").focus()
    page.keyboard.press("Home")
    page.wait_for_selector(f".keep[data-setting='{dots - 1}']", timeout=60_000)
    best = page.eval_on_selector_all(".keep-gallery figure", "all => all.map(f => +f.dataset.index)")
    assert best != kept
    assert set(best) == {c.index for c in View.read(folder_of(studio, finished)).ranked[:6]}
    page.locator("[data-dot='0']").click()
    page.wait_for_selector(".keep[data-setting='0']", timeout=60_000)
    assert page.locator(".keep-command").inner_text().endswith(" 6 --weight 0")
    page.get_by_label("One less").click()
    page.wait_for_selector(".keep-gallery figure:nth-child(6)", state="detached", timeout=60_000)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download 5 as a zip").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert len(archive.namelist()) == 10
