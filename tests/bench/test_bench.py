"""`fairlead bench`: prompts by their published counts, pictures once, scores once, and what they add up to."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairlead.app.cli import main
from fairlead.bench import geneval, judging, painting, prompts, statistics, suites
from fairlead.bench.prompts import BenchmarkPrompt
from fairlead.core.errors import FairleadError
from fairlead.run import engine, png
from fairlead.run.spec import make_spec
from fairlead.run.store import Store

DATA = Path(os.environ.get("FAIRLEAD_SHARED", Path(__file__).parents[3] / "shared")) / "data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="the published prompts are not here")


@needs_data
def test_published_files_have_their_published_counts() -> None:
    g = suites.load("geneval", DATA / "geneval" / "evaluation_metadata.jsonl", False, 43)
    assert Counter(a.category for a in g.asked) == dict(zip(geneval.TAGS, (80, 99, 80, 94, 100, 100), strict=True))
    assert g.images == 4
    drawn = suites.load("geneval", DATA / "geneval" / "object_names.txt", False, 43)
    assert [a.text for a in drawn.asked] == [a.text for a in g.asked]
    assert suites.load("geneval", DATA / "geneval" / "object_names.txt", False, 44).digest != g.digest
    t = suites.load("t2i-compbench", DATA / "t2i_compbench", False, 0)
    assert Counter(a.category for a in t.asked) == dict.fromkeys(suites.COMPBENCH, 300)
    kinds = Counter(a.meta["kind"] for a in t.asked if a.category == "complex")
    assert kinds == {"action": 212, "spatial": 58, "spatialaction": 30}
    assert not any("\r" in a.text for a in t.asked)
    assert t.plurals["knives"] == "knife"
    d = suites.load("drawbench", next((DATA / "drawbench").glob("*.csv")), False, 0)
    assert Counter(a.category for a in d.asked)["Reddit"] == 38
    assert len({a.category for a in d.asked}) == 11
    p = suites.load("partiprompts", DATA / "partiprompts" / "PartiPrompts.tsv", False, 0)
    assert len({a.text for a in p.asked}) == 1632
    assert Counter(a.category for a in p.asked)["Animals"] == 314
    assert len({a.meta["challenge"] for a in p.asked}) == 11


@needs_data
def test_metadata_is_the_official_scorers() -> None:
    lines = (DATA / "geneval" / "evaluation_metadata.jsonl").read_text().splitlines()
    suite = suites.load("geneval", DATA / "geneval" / "evaluation_metadata.jsonl", False, 43)
    assert [a.record() for a in suite.asked] == [json.loads(line) for line in lines]
    assert [geneval.as_record(geneval.of_record(json.loads(line))) for line in lines] == [
        json.loads(line) for line in lines
    ]


def test_files_of_prompts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\r\n\r\n two ")
    assert [a.text for a in prompts.read(tmp_path / "a.txt")] == ["one", "two"]
    (tmp_path / "b.csv").write_text('No.,Prompts,Category\n1,"a, b",X \n')
    assert prompts.read(tmp_path / "b.csv") == [BenchmarkPrompt("a, b", "X", {"no.": "1"})]
    (tmp_path / "c.tsv").write_text('Prompt\tCategory\n"quoted" thing\tX\n')
    assert prompts.read(tmp_path / "c.tsv")[0].text == '"quoted" thing'
    (tmp_path / "d.jsonl").write_text('{"prompt": "p", "tag": "t"}\n')
    assert prompts.read(tmp_path / "d.jsonl") == [BenchmarkPrompt("p", "t")]
    (tmp_path / "e.csv").write_text("x,y\n1,2\n")
    with pytest.raises(FairleadError, match="no column of prompts"):
        prompts.read(tmp_path / "e.csv")
    with pytest.raises(FairleadError, match="partial copy"):
        suites.load("drawbench", tmp_path / "b.csv", False, 0)


WORDS = ["--model", "mixture", "--steps", "2", "--batch", "2", "--images", "2", "--judge", "brightness"]


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.csv").write_text("Prompt,Category\none,x\ntwo,x\none,y\n")
    return tmp_path


def bench(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["bench", "prompts", "--prompts", "p.csv", *WORDS, *words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_generation_and_scoring_are_steps_of_their_own(listed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = bench(capsys, "--only", "generate", "--out", "o")
    assert first["results"] == []
    assert first["spent"]["nfe"] == 12
    files = sorted(Path("o").glob("*/samples/*.png"))
    assert [str(f) for f in files[:3]] == [
        "o/00000/samples/00000.png",
        "o/00000/samples/00001.png",
        "o/00001/samples/00000.png",
    ]
    assert json.loads(Path("o/00002/metadata.jsonl").read_text()) == {"tag": "y", "prompt": "one"}
    pixels = {f: f.read_bytes() for f in files}
    assert len(set(pixels.values())) == 6, "also the second 'one' has noise of its own"
    second = bench(capsys, "--only", "score", "--out", "o")
    (result,) = second["results"]
    assert second["spent"] == first["spent"]
    (scores,) = Path("o/scores").glob("*.jsonl")
    rows = [json.loads(line) for line in scores.read_text().splitlines()]
    assert len(rows) == 6
    values = {c: [r["score"] for r in rows if r["category"] == c] for c in "xy"}
    assert result["categories"]["x"]["value"] == pytest.approx(np.mean(values["x"]))
    assert result["overall"]["value"] == pytest.approx(np.mean(values["x"] + values["y"]))
    for name in ("prompts_sha256", "seed", "versions", "spec", "source"):
        assert name in second
    files[3].unlink()
    assert bench(capsys, "--out", "o")["spent"]["nfe"] == 16, "its batch once more, for the same kernels"
    assert {f: f.read_bytes() for f in files} == pixels
    assert len(scores.read_text().splitlines()) == 6
    assert main(["bench", "prompts", "--prompts", "p.csv", *WORDS, "--seed", "1", "--out", "o"]) == 3
    assert "another seed" in capsys.readouterr().err


def test_a_plain_picture_is_the_baseline_of_a_search(listed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench(capsys, "--out", "plain")
    more = ["--reward", "brightness", "--budget", "nfe=12", "--search", "zero_order(neighbours=2)"]
    found = bench(capsys, *more, "--out", "searched")
    assert found["spent"]["nfe"] == 6 * 12
    assert not any(Path("searched/runs").iterdir())
    scores = {
        d: [r["score"] for r in judging._lines(next(Path(d, "scores").glob("*.jsonl")))] for d in ("plain", "searched")
    }
    assert all(b >= a - 1e-6 for a, b in zip(scores["plain"], scores["searched"], strict=True))
    assert scores["plain"] != scores["searched"]
    _, recipe = png.read(Path("plain/00001/samples/00001.png").read_bytes())
    spec = make_spec(
        "two", model="mixture", reward="brightness", steps=2, batch=2, seed=recipe["spec"]["seed"], budget={"nfe": 2}
    )
    engine.start(spec, Path("run")).close()
    store = Store.open(Path("run"))
    candidate = store.baseline()
    assert candidate is not None
    again, _ = png.read((Path("run") / candidate.image).read_bytes())
    mine, _ = png.read(Path("plain/00001/samples/00001.png").read_bytes())
    assert np.abs(again.astype(int) - mine).max() <= 1
    store.close()


def test_steering_without_a_budget_is_one_sample(listed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = bench(capsys, "--steer", "dfs", "--reward", "brightness", "--first", "1", "--images", "1", "--out", "s")
    assert found["prompts"] == 2
    assert found["spent"]["decodes"] > 0
    assert len(list(Path("s").glob("*/samples/*.png"))) == 2


def test_geneval_on_the_embedded_model_is_whole_and_offline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["bench", "geneval", "--first", "1", "--images", "1", "--steps", "2"]
    assert main(words) == 0
    said = capsys.readouterr().out
    for word in ("geneval-pocket", "mean of tasks", *geneval.TAGS, "not comparable", "sha256", "plain samples"):
        assert word in said
    (folder,) = Path("benchmarks").iterdir()
    record = json.loads((folder / "00000" / "metadata.jsonl").read_text())
    assert record["tag"] == "single_object"
    assert set(record["include"][0]) == {"class", "count"}
    assert main([*words, "--only", "score"]) == 0
    assert main(["bench", "geneval", "--model", "mixture"]) == 2
    assert main(["bench", "genevil"]) == 2
    assert "Did you mean 'geneval'" in capsys.readouterr().err


def test_a_file_of_prompts_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "prompts", "--prompts", "missing.txt", "--model", "mixture"]) == 2
    assert "missing.txt does not exist. Pass a text file with one prompt per line." in capsys.readouterr().err


def test_aggregation() -> None:
    """Task rates 1, 0.5, 0, 1, 0.5, 0 with any number of pictures: exactly one half."""

    class Any1:
        id, note = "j", "n"

    records = []
    for at, (tag, size) in enumerate(zip(geneval.TAGS, (3, 5, 4, 6, 7, 3), strict=True)):
        for prompt in range(size):
            for number in range(2):
                score = (1.0, float(number == 0), 0.0)[at % 3]
                records.append({"picture": f"{at}{prompt}/samples/{number}.png", "category": tag, "score": score})
    judge: Any = Any1()
    found = judging.summarise(judge, records, tasks=True)
    assert found.overall.value == 0.5
    assert [found.categories[t].value for t in geneval.TAGS] == [1, 0.5, 0] * 2
    assert found.extra["prompts with a correct picture"] == pytest.approx((3 + 5 + 6 + 7) / 28)
    every = judging.summarise(judge, [*records, {**records[0], "score": math.nan}], tasks=False)
    assert every.overall.value == pytest.approx(sum(r["score"] for r in records) / len(records))
    assert (every.pictures, every.without) == (56, 1)
    asked = [geneval.Prompt(r["category"], str(i), ()) for i, r in enumerate(records)]
    table = geneval.aggregate(asked, [[bool(r["score"])] for r in records])
    assert table.overall == found.overall.value
    assert statistics.mean_of([[[1.0], [1.0]], [[0.0], [1.0]]]).value == 0.75


def test_the_noise_of_a_picture_depends_on_nothing_else(tmp_path: Path) -> None:
    spec = make_spec("x", model="mixture", reward="brightness", steps=2)
    asked = tuple(map(BenchmarkPrompt, ("one", "two", "one")))
    job = painting.Job(suites.Suite("prompts", asked, "", 2), spec, 2, 5, True)
    seeds = {(p.index, p.number): job.spec(p).seed for p in job.pictures()}
    assert len(set(seeds.values())) == 6
    alone = painting.Job(suites.Suite("prompts", asked[1:], "", 2), spec, 4, 5, False)
    assert {job.spec(p).seed for p in alone.pictures() if p.asked.text == "two" and p.number < 2} == {
        seeds[1, 0],
        seeds[1, 1],
    }
