"""The main job on the embedded model, through the command line, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fairlead.run import registry

try:
    import fairlead.pocket.load as load

    HERE = (load.folder() / "model_index.json").is_file() and (load.clip_folder() / "config.json").is_file()
except ImportError:
    HERE = False

pytestmark = pytest.mark.skipif(not HERE, reason="the embedded weights are not in this checkout")
PROMPT = "a photo of a red apple left of a dog"


def fairlead(*words: str, ok: bool = True, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "fairlead", *words], capture_output=True, text=True, timeout=300, cwd=cwd
    )
    if ok:
        assert done.returncode == 0, done.stderr
    return done


def pixels(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> dict:
    out = tmp_path_factory.mktemp("main") / "run"
    done = fairlead(
        "run", PROMPT, "--reward", "clip_score", "--budget", "nfe=640", "--seed", "0", "--json", "--out", str(out)
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_improves_on_its_baseline(first: dict) -> None:
    assert first["best"]["reward"] > first["baseline"]["reward"]
    assert first["cost"]["nfe"] == 640
    assert first["cost"]["decodes"] == 32
    assert first["stopped"] == "budget: nfe"
    assert set(first["best"]["terms"]) == {"clip_score"}
    assert (Path(first["run"]) / "report.html").stat().st_size > 10_000


def test_picture_carries_its_recipe(first: dict) -> None:
    with Image.open(first["best"]["image"]) as image:
        recipe = json.loads(image.info["fairlead"])
        assert image.info["parameters"].startswith(PROMPT)
    assert recipe["candidate"] == first["best"]["candidate"]
    assert recipe["reward"] == first["best"]["reward"]
    assert recipe["spec"]["prompt"] == PROMPT


def test_same_command_same_bits(first: dict, tmp_path: Path) -> None:
    out = tmp_path / "again"
    done = fairlead(
        "run", PROMPT, "--reward", "clip_score", "--budget", "nfe=640", "--seed", "0", "--json", "--out", str(out)
    )
    again = json.loads(done.stdout.strip().splitlines()[-1])
    assert again["best"]["reward"] == first["best"]["reward"]
    assert again["baseline"] == first["baseline"] | {"image": again["baseline"]["image"]}
    old = sorted(p.name for p in (Path(first["run"]) / "images").iterdir())
    assert sorted(p.name for p in (out / "images").iterdir()) == old, "content-addressed names differ, so bytes differ"


def test_replay_is_identical(first: dict) -> None:
    done = fairlead("replay", first["run"], str(first["best"]["candidate"]), "--json")
    assert json.loads(done.stdout.strip().splitlines()[-1])["identical"] is True


def test_saved_picture_scores_what_was_recorded(first: dict) -> None:
    import torch

    from fairlead.rewards.clip_score import ClipScore

    image = torch.from_numpy(pixels(first["best"]["image"]).copy()).permute(2, 0, 1)[None].float() / 255
    score = float(ClipScore().score(image, [PROMPT])[0])
    assert score == pytest.approx(first["best"]["reward"], abs=1e-3)


def test_killed_and_resumed_gives_the_same_winner(first: dict, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    words = ["run", PROMPT, "--reward", "clip_score", "--budget", "nfe=640", "--seed", "0", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "fairlead", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not list(out.glob("images/*.png")):
        time.sleep(0.05)
    assert process.poll() is None, "it ended before it could be killed"
    process.kill()
    process.wait(60)
    done = fairlead("resume", str(out), "--json")
    resumed = json.loads(done.stdout.strip().splitlines()[-1])
    assert resumed["best"]["candidate"] == first["best"]["candidate"]
    assert resumed["best"]["reward"] == first["best"]["reward"]
    assert np.array_equal(pixels(resumed["best"]["image"]), pixels(first["best"]["image"]))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", ""], "write what the picture should show"),
        (["run", "a dog " * 20], "tokens"),
        (["run", "a dog", "--budget", "nfe=19"], "nfe=20"),
        (["run", "a dog", "--reward", "clip_scor"], "clip_score"),
        (["run", "a dog", "--model", "poket"], "pocket"),
        (["run", "a dog", "--search", "bestof"], "best_of"),
        (["run", "a dog", "--set", "best_of.k=3"], "best_of"),
        (["run", "a dog", "--set", "best_of.n=0"], "best_of.n"),
        (["run", "a dog", "--steps", "0"], "steps"),
        (["run", "a dog", "--budget", "nfe=-5"], "must be > 0"),
        (["resume", "nowhere"], "nowhere"),
    ],
)
def test_wrong_input_is_one_sentence_and_leaves_nothing(words: list[str], said: str, tmp_path: Path) -> None:
    done = fairlead(*words, ok=False, cwd=tmp_path)
    assert done.returncode != 0
    passing = ("warning:", "loading model")
    lines = [line for line in done.stderr.strip().splitlines() if not line.startswith(passing)]
    assert len(lines) == 1, done.stderr
    assert said in lines[0]
    assert not list(tmp_path.iterdir())


def test_unknown_words_are_named(tmp_path: Path) -> None:
    done = fairlead("price", "a photo of a wombat", cwd=tmp_path)
    assert "'wombat'" in done.stderr


def test_python_door(tmp_path: Path) -> None:
    import fairlead as door

    result = door.run(
        "a photo of a dog",
        reward=0.1 * door.Aesthetic() + door.ClipScore(),
        budget={"nfe": 80},
        steps=10,
        seed=3,
        out=tmp_path / "r",
    )
    assert result.cost.nfe == 80
    assert set(result.best.terms) == {"aesthetic", "clip_score"}
    assert result.best.image.size == (64, 64)
    assert "<" in result._repr_html_()
    kept = result.save(tmp_path / "kept")
    assert (tmp_path / "kept" / "run.sqlite").is_file(), kept
    function = door.run(
        "a photo of a dog", reward=lambda images, prompts: images.mean(dim=(1, 2, 3)), budget={"nfe": 20}, steps=5
    )
    assert function.best.reward >= function.baseline.reward


def test_every_registered_name_resolves() -> None:
    for kind in registry.BUILTIN:
        for name in registry.table(kind):
            assert registry.resolve(kind, name) is not None
