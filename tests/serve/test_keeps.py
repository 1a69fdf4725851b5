"""POST /v1/keep and /v1/runs/{id}/keep: good and different pictures, of those that are sent or of a run."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest
import torch
from PIL import Image

from fairlead.app.cli import main
from fairlead.core.errors import FairleadError
from fairlead.run.diverse_subset import among_pictures


def flat(colour: str, side: int = 16) -> str:
    out = io.BytesIO()
    half = Image.new("RGB", (side, side), "black")
    half.paste(colour, (0, 0, side // 2, side))
    half.save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


PICTURES = [flat("red"), flat("red", 32), flat("blue"), flat("lime")]


def ask(server: Any, **words: Any) -> Any:
    return server.ask("POST", "/v1/keep", json={"images": PICTURES, "likeness": "pixels", **words})


def test_different_pictures_are_kept(server: Any) -> None:
    """The second picture is the first one, larger: it is kept last. Numbers decide between equals."""
    assert sorted(ask(server, n=3).json()["indices"]) == [0, 2, 3]
    assert sorted(ask(server, n=3, scores=[1, 1.5, 1, 1]).json()["indices"]) == [1, 2, 3]
    assert ask(server, n=1, scores=[1, 2, 3, None]).json()["indices"] == [2]
    assert ask(server, n=1, weight=1000, scores=[5, 4, 3, 2]).json()["indices"] == [0]


def test_the_pictures_of_a_run_give_its_choice(server: Any) -> None:
    """One choice by four ways: the route of a run, its pictures sent, n pictures of a request, and the command."""
    answer = server.draw("keep me", n=3)
    run = answer.model_extra["fairlead"]["run"]
    of_run = server.ask("POST", f"/v1/runs/{run}/keep", json={"n": 3}).json()
    chosen = [one["candidate"] for one in of_run["candidates"]]
    assert chosen == [one.model_extra["fairlead"]["candidate"] for one in answer.data]
    shown = server.ask("GET", f"/v1/runs/{run}/images/{of_run['candidates'][0]['image']}")
    assert base64.b64encode(shown.content).decode() == answer.data[0].b64_json
    folder = server.runs / "local" / run
    assert main(["keep", str(folder), "3"]) == 0
    assert json.loads((folder / "kept.json").read_text())["kept"] == chosen


def test_a_picture_without_a_number_is_never_kept() -> None:
    pictures = [torch.rand(3, 4, 4) for _ in range(3)]
    assert among_pictures(pictures, 2, [float("nan"), 1.0, 2.0], likeness="pixels") == [2, 1]
    with pytest.raises(FairleadError, match="from 1 to 2"):
        among_pictures(pictures, 3, [float("nan"), 1.0, 2.0], likeness="pixels")


@pytest.mark.parametrize(
    ("words", "status", "part"),
    [
        ({"n": 5}, 400, "n is 5"),
        ({"n": 0}, 400, "n is 0"),
        ({"n": True}, 400, "n is True"),
        ({"images": []}, 400, "images is []"),
        ({"images": ["%%%"]}, 422, "images[0] cannot be read"),
        ({"images": PICTURES * 17}, 413, "at most 64"),
        ({"likeness": "/etc"}, 400, "must be one of clip, pixels"),
        ({"weight": -1}, 400, "weight is -1"),
        ({"scores": [1, 2]}, 400, "for each of 4 pictures"),
        ({"scores": [1, 2, 3, True]}, 400, "for each of 4 pictures"),
        ({"scores": [1, 2, 3, 10**400]}, 400, "for each of 4 pictures"),
        ({"scores": [None] * 4}, 422, "must have a number"),
        ({"scores": [1, None, None, None], "n": 2}, 400, "keep from 1 to 1"),
        ({"reward": "clip_score"}, 400, "keep has no setting 'reward'"),
    ],
)
def test_what_is_refused(server: Any, words: dict[str, Any], status: int, part: str) -> None:
    answer = ask(server, **words)
    assert answer.status_code == status, answer.text
    assert part in answer.json()["error"]["message"]


def test_a_run_that_is_not_there(server: Any) -> None:
    for run in ("0" * 32, "..%2F..", "x"):
        assert server.ask("POST", f"/v1/runs/{run}/keep", json={}).status_code == 404
