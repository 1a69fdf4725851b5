"""`fairlead doctor --rewards`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fairlead.app.cli import main
from fairlead.run import registry


def doctor(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, dict[str, Any]]]:
    code = main(["doctor", "--rewards", "--json", *words])
    out, err = capsys.readouterr()
    return code, {c["name"]: c for c in json.loads(out)["checks"]} if out else {"": {"detail": err}}


def test_every_reward_has_a_line_and_published_numbers_wait_for_their_pictures(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, found = doctor(capsys)
    assert code == 0
    assert {f"reward {name}" for name in registry.table("rewards")} <= set(found)
    assert "not tried, published 0.5812" in found["image_reward on 1.webp, 'a painting of an ocean w'"]["detail"]
    assert "differentiable" in found["reward hps"]["detail"]


def test_published_heads_are_compared(
    capsys: pytest.CaptureFixture[str], shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIRLEAD_SHARED", str(shared.parent))
    code, found = doctor(capsys)
    assert code == 0
    for name in ("sac+logos+ava1-l14-linearMSE.pth", "sa_0_4_vit_l_14_linear.pth"):
        assert "largest gap to the published values" in found[f"aesthetic {name}"]["detail"]


def test_own_numbers_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8), (51, 51, 51)).save(tmp_path / "a.png")
    Image.new("RGB", (8, 8), (102, 102, 102)).save(tmp_path / "b.png")
    rows = [{"reward": "brightness", "picture": f"{n}.png", "prompt": "p", "published": 0.2} for n in "ab"]
    (tmp_path / "numbers.json").write_text(json.dumps(rows))
    code, found = doctor(capsys, "--pictures", str(tmp_path), "--reference", str(tmp_path / "numbers.json"))
    assert code == 1
    assert found["brightness on a.png, 'p'"]["ok"]
    assert found["brightness on a.png, 'p'"]["detail"].startswith("ours 0.2000, published 0.2000")
    assert not found["brightness on b.png, 'p'"]["ok"]
    (tmp_path / "numbers.json").write_text("[{}]")
    code, found = doctor(capsys, "--reference", str(tmp_path / "numbers.json"))
    assert code == 2
    assert "Fix the file" in found[""]["detail"]


def test_pictures_without_weights_say_what_to_fetch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "1.webp")
    code, found = doctor(capsys, "--pictures", str(tmp_path))
    assert code == 0
    assert "hf download THUDM/ImageReward" in found["image_reward on 1.webp, 'a painting of an ocean w'"]["detail"]
