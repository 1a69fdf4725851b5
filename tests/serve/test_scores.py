"""POST /v1/score: the same numbers as `fairlead score`, and what is refused."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fairlead.app.cli import main
from fairlead.run import scoring

ROWS = Image.effect_noise((48, 32), 60)


def saved(image: Image.Image, format: str, **words: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **words)
    return out.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(ROWS.convert("RGB"), "JPEG", exif=exif, quality=90)


def transparent() -> Image.Image:
    image = ROWS.convert("RGBA")
    image.putalpha(ROWS)
    return image


PICTURES = {
    "rgb.png": saved(Image.merge("RGB", (ROWS, ROWS.transpose(Image.Transpose.FLIP_LEFT_RIGHT), ROWS)), "PNG"),
    "turned.jpg": turned(),
    "grey.png": saved(ROWS, "PNG"),
    "alpha.png": saved(transparent(), "PNG"),
    "deep.png": saved(ROWS.convert("I").point(lambda v: v * 257).convert("I;16"), "PNG"),
    "palette.png": saved(ROWS.convert("P"), "PNG"),
    "small.webp": saved(ROWS.convert("RGB").resize((16, 16)), "WEBP", lossless=True),
}


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def ask(server: Any, images: Any, **words: Any) -> Any:
    body = {"images": images, "prompts": "a dog", "reward": "brightness", **words}
    return server.ask("POST", "/v1/score", json=body)


def test_the_numbers_are_those_of_the_command(server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, data in PICTURES.items():
        (tmp_path / name).write_bytes(data)
    formula = "brightness + 0.5*jpeg_size"
    files = [str(tmp_path / name) for name in PICTURES]
    assert main(["score", *files, "--reward", formula, "--prompt", "a dog", "--json"]) == 0
    rows = {Path(row["file"]).name: row for row in json.loads(capsys.readouterr().out)["pictures"]}
    found = ask(server, [text(data) for data in PICTURES.values()], reward=formula).json()
    for place, name in enumerate(PICTURES):
        assert found["scores"][place] == rows[name]["reward"], name
        for term, numbers in found["terms"].items():
            assert numbers[place] == rows[name][term], (name, term)
    assert found["reward"] == formula


def test_pictures_are_answered_in_their_order(server: Any) -> None:
    images = [text(data) for data in PICTURES.values()] * 9
    found = ask(server, images).json()["scores"]
    assert found == found[: len(PICTURES)] * 9
    assert ask(server, images[::-1]).json()["scores"] == found[::-1]
    prefixed = [f"data:image/png;base64,{images[0]}"]
    assert ask(server, prefixed).json()["scores"] == found[:1]


def test_a_picture_without_a_number_has_a_reason(server: Any) -> None:
    images = [text(PICTURES["rgb.png"]), text(saved(Image.new("RGB", (32, 32)), "PNG"))]
    found = ask(server, images, reward="veto(brightness, brightness > 0.1)").json()
    assert found["scores"][1] is None
    assert isinstance(found["scores"][0], float)
    ranked = ask(server, images, reward="rank_mean(brightness, jpeg_size)").json()["scores"]
    assert sorted(ranked) == [0.0, 1.0]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def huge(width: int, height: int, bits: int = 8) -> bytes:
    """A PNG of a few bytes that unpacks to very many pixels."""
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1 + (width * bits + 7) // 8) * min(height, 200))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def moving() -> bytes:
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    return saved(frames[0], "WEBP", save_all=True, append_images=frames[1:])


BAD = {
    "no base64": "%%%",
    "html": "data:text/html;base64,aGVsbG8=",
    "a line break": text(PICTURES["rgb.png"])[:40] + "\n" + text(PICTURES["rgb.png"])[40:],
    "a huge header": text(huge(60_000, 60_000)),
    "a huge bitmap": text(huge(10_000, 10_000, 1)),
    "moving": text(moving()),
    "svg": text(b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "eps": text(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    "cut": text(PICTURES["rgb.png"][:300]),
    "empty": "",
    "gif": text(saved(ROWS, "GIF")),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_picture(server: Any, name: str) -> None:
    answer = ask(server, [text(PICTURES["grey.png"]), BAD[name]])
    assert answer.status_code == 422, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("bad_image", "images")
    assert "images[1]" in error["message"]
    assert " at 0x" not in error["message"]


def test_what_is_refused_before_a_picture_is_read(server: Any) -> None:
    def code(*arguments: Any, **words: Any) -> tuple[int, str]:
        answer = ask(server, *arguments, **words)
        return answer.status_code, answer.json()["error"]["code"]

    one = text(PICTURES["grey.png"])
    assert code([one] * 65) == (413, "too_large")
    assert code([]) == (400, "invalid_value")
    assert code([3]) == (400, "invalid_value")
    assert code([one], prompts=["a", "b"]) == (400, "invalid_value")
    assert code([one], reward="http://127.0.0.1:9/") == (400, "not_allowed")
    assert code([one], reward="human") == (400, "not_allowed")
    assert code([one], reward="brightnes") == (400, "invalid_value")
    assert code([one], reward="clip_score", prompts=None) == (422, "no_prompt")


def test_another_fairlead_scores_here(server: Any, tmp_path: Path) -> None:
    """`http(url=...)` as the reward of a run gives the same rewards as the reward itself."""
    from fairlead.core.cost import INFINITE, Meter
    from fairlead.rewards.http import HttpReward
    from fairlead.run.rewards import build_reward, reward_leaf
    from fairlead.run.spec import parse_reward

    images = torch.stack([scoring.as_tensor(Image.open(io.BytesIO(PICTURES["rgb.png"])))[0], torch.rand(3, 32, 48)])
    images = (images * 255).round() / 255
    there = HttpReward(f"{server.base}/score?reward=brightness").score(images, ["a dog"] * 2)
    here = build_reward(parse_reward("brightness"), reward_leaf)
    with Meter().grant(INFINITE):
        assert torch.equal(there, here(images, ["a dog"] * 2)[0])
