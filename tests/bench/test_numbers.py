"""What benchmarks compute from files, pictures and detections, each against its definition."""

from __future__ import annotations

import json
import math
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fairlead.app.cli import main
from fairlead.bench import (
    blip_vqa,
    compbench,
    diversity,
    judges,
    judging,
    open_detector,
    painting,
    plan,
    prompts,
    statistics,
    suites,
)
from fairlead.bench.comparison_results import ComparisonResults
from fairlead.bench.prompts import BenchmarkPrompt
from fairlead.core.key import Key
from fairlead.run import machine

ONE_MADE = ["--model", "mixture", "--steps", "2", "--batch", "2", "--images", "1", "--judge", "brightness"]


# statistics


def test_a_mean_of_groups_is_resampled_inside_them() -> None:
    """Written out: pictures of resampled prompts are pooled, then groups are averaged."""
    groups = [[[1, 0, 1], [0], [1, 1]], [[0, 0], [1], [1, 0, 0, 1]]]
    found = statistics.mean_of(groups)
    draws = []
    for i, rows in enumerate(groups):
        picks = statistics.resamples(3, Key.root(0).fold("bootstrap", i))
        pooled = [[v for j in pick for v in rows[j]] for pick in picks]
        draws.append([sum(p) / len(p) for p in pooled])
    low, high = np.quantile(np.mean(draws, axis=0), [0.025, 0.975])
    assert found.value == pytest.approx((4 / 6 + 3 / 7) / 2)
    assert (found.low, found.high, found.n) == (pytest.approx(low), pytest.approx(high), 6)
    rng = np.random.default_rng(3)
    one = [[float(v) for v in rng.normal(size=4)] for _ in range(12)]
    picks = statistics.resamples(12, Key.root(0).fold("bootstrap", 0))
    means = [np.mean([one[j] for j in pick]) for pick in picks]
    alone = statistics.ratio(one)
    assert (alone.low, alone.high) == tuple(pytest.approx(q) for q in np.quantile(means, [0.025, 0.975]))
    few = statistics.mean_of([[[1], [0, 0]]])
    assert (few.value, few.n, math.isnan(few.low)) == (pytest.approx(1 / 3), 2, True)
    assert statistics.ratio(groups[0]).value == pytest.approx(4 / 6)


# prompts and suites


def test_a_digest_is_of_texts_and_categories() -> None:
    asked = [BenchmarkPrompt("größe", "c", {"b": 1, "a": 2})]
    text = '[{"a": 2, "b": 1, "prompt": "größe", "tag": "c"}]'
    assert prompts.digest(asked) == sha256(text.encode()).hexdigest()[:16]


def test_classes_of_a_text_file(tmp_path: Path) -> None:
    """A model of the pocket world is asked only for what lies in it."""
    (tmp_path / "names.txt").write_text("dog\n\nyak\ncup\ncar\n")

    def words(known: bool) -> str:
        return " ".join(a.text for a in suites.load("geneval", tmp_path / "names.txt", known, 3).asked)

    assert "yak" in words(False)
    assert "yak" not in words(True)
    assert "dog" in words(True)


def test_each_benchmark_has_its_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(compbench, "CompBench", lambda plurals: made.append(plurals) or "boxes")
    monkeypatch.setattr(judging, "Formula", lambda text: text)
    monkeypatch.setattr(judging, "pocket_geneval", lambda: "pocket")

    def of(name: str, words: bool) -> Any:
        return judges.usual(SimpleNamespace(name=name, plurals={"boys": "boy"}), words)  # type: ignore[arg-type]

    assert of("geneval", True) == ["pocket"]
    assert of("t2i_compbench", False) == ["boxes"]
    assert made == [{"boys": "boy"}]
    assert of("t2i_compbench", True) == ["clip_score", "aesthetic"]
    assert of("drawbench", False) == ["clip_score", "aesthetic"]
    assert of("drawbench", True) == ["clip_score", "aesthetic"]


def test_a_plan_keeps_what_is_not_left_out() -> None:
    text = 'model = "mixture"\nreward = "brightness"\nbudget = "nfe=24"\nprompts = ["one", "two"]\n'
    methods = '[methods.a]\nsearch = "best_of"\n[methods.b]\nsearch = "zero_order"\n[methods.c]\nsearch = "snes"\n'
    whole = plan.parse(text + methods, "small", Path())
    assert list(whole.only(prompts=1).methods) == ["a", "b", "c"]
    assert len(whole.only(prompts=1).prompts) == 1
    assert set(whole.only(("c",)).methods) == {"c", whole.reference}


# diversity


def test_diversity_is_of_the_pictures_of_one_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[tuple[int, ...], list[str]]] = []

    def metric(images: Tensor, prompts_: list[str]) -> float:
        seen.append((tuple(images.shape), prompts_))
        return 7.0

    sizes = {"a": 8, "b": 8, "c": 4}
    monkeypatch.setattr(diversity, "_metric", lambda name: metric)
    monkeypatch.setattr(diversity.scoring, "load", lambda path: (torch.zeros(3, sizes[path.name], 8), {}))
    sets = [[Path("a"), Path("b")], [Path("a")], [], [Path("a"), Path("c")]]
    found = diversity.of("vendi", sets, ["p", "q", "r", "s"])
    assert found[0] == 7.0
    assert [math.isnan(v) for v in found] == [False, True, True, True]
    assert seen == [((2, 3, 8, 8), ["p", "p"])]


def test_a_comparison_pools_the_seeds_of_a_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(diversity, "of", lambda name, sets, words: asked.append((name, sets, words)) or [1.0, 3.0])
    results: Any = SimpleNamespace(
        plan=SimpleNamespace(diversity=("vendi",), seeds=(0, 1)),
        prompts=["p", "q"],
        shared=[("p", 0), ("q", 0), ("p", 1), ("q", 1)],
        picture=lambda method, p, s: None if (p, s) == ("q", 1) else Path(f"{method}-{p}-{s}"),
    )
    assert ComparisonResults._diversity(results, "m")["vendi"].value == 2.0
    assert asked == [("vendi", [[Path("m-p-0"), Path("m-p-1")], [Path("m-q-0")]], ["p", "q"])]
    results.plan.seeds = (0,)
    assert ComparisonResults._diversity(results, "m") == {}


# pictures and their judges


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("one\ntwo\nthree\n")
    return tmp_path


def test_the_size_in_a_picture_is_width_and_height(listed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(painting.Renderer, "draw", lambda self, texts, keys: torch.zeros(len(texts), 3, 8, 12))
    assert main(["bench", "prompts", "--prompts", "p.txt", *ONE_MADE, "--only", "generate", "--out", "o"]) == 0
    with Image.open("o/00000/samples/00000.png") as image:
        assert image.size == (12, 8)
        assert "Size: 12x8" in image.info["parameters"]


def test_scores_are_on_disk_as_soon_as_they_are_counted(listed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["bench", "prompts", "--prompts", "p.txt", *ONE_MADE, "--only", "generate", "--out", "o"]) == 0
    monkeypatch.setattr(judging, "BATCH", 2)
    counted: list[tuple[int, int, int]] = []

    def seen(done: int, all_: int) -> None:
        found = [line for path in Path("o/scores").glob("*.jsonl") for line in path.read_text().splitlines()]
        counted.append((done, all_, len([json.loads(line) for line in found])))

    rows = judging.score(judging.Formula("brightness"), Path("o"), seen, lambda: False)
    assert counted == [(0, 3, 0), (2, 3, 2), (3, 3, 3)]
    assert len(rows) == 3


# ports


def test_blip_sees_clips_colours() -> None:
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    assert tuple(OPENAI_CLIP_MEAN) == blip_vqa.MEAN
    assert tuple(OPENAI_CLIP_STD) == blip_vqa.STD
    assert (blip_vqa.SIDE, blip_vqa.LONGEST) == (480, 35)


def test_questions_are_padded_and_cut() -> None:
    class Told(Exception):
        pass

    def tokenizer(questions: list[str], **words: Any) -> Any:
        assert words == {"padding": True, "truncation": True, "max_length": 35, "return_tensors": "pt"}
        raise Told

    judge = blip_vqa.BlipVqa.__new__(blip_vqa.BlipVqa)
    judge._tokenizer = tokenizer
    with pytest.raises(Told):
        judge._ask(torch.zeros(1, 1, 1), ["a?", "a long one?"])


class FakeDepth(torch.nn.Module):
    """Depth grows from left to right, 8 rows and 16 columns."""

    def forward(self, **words: Any) -> Any:
        return SimpleNamespace(predicted_depth=torch.arange(16.0).expand(1, 8, 16))


def test_depth_inside_a_box(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes are in a frame whose longer side has 480 pixels: here 480 x 240."""
    import transformers

    class Inputs(dict[str, Any]):
        def to(self, device: str) -> Inputs:
            return self

    placed: list[str] = []
    monkeypatch.setattr(open_detector, "pretrained", lambda word, kind, name: FakeDepth())
    monkeypatch.setattr(FakeDepth, "to", lambda self, device: placed.append(device) or self)
    make = staticmethod(lambda name: lambda images, return_tensors: Inputs())
    monkeypatch.setattr(transformers.AutoImageProcessor, "from_pretrained", make)
    near = open_detector.Depth(device="somewhere")(torch.zeros(3, 100, 200))
    assert near((0.0, 0.0, 29.0, 239.0)) == 0
    assert near((451.0, 0.0, 480.0, 240.0)) == pytest.approx(1)
    assert near((-20.0, -20.0, 900.0, 900.0)) == pytest.approx(0.5)
    assert near((150.0, 30.0, 209.0, 60.0)) == pytest.approx(5.5 / 15)
    open_detector.Depth()
    assert placed == ["somewhere", machine.device()]


def test_a_mean_of_nothing_is_over_no_prompts() -> None:
    assert (statistics.Mean(0.5).n, statistics.Mean(0.5).sure) == (0, 0)


def test_how_many_prompts_the_published_files_have() -> None:
    """Ghosh et al. 2023, Saharia et al. 2022, Yu et al. 2022."""
    assert suites.PUBLISHED == {"geneval": 553, "drawbench": 200, "partiprompts": 1632}
