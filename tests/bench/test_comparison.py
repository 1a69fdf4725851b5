"""Comparisons: one budget for all, the same noise for all, paired numbers, and nothing done twice."""

from __future__ import annotations

import csv
import json
import math
import multiprocessing
import os
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairlead.app.cli import main
from fairlead.bench import comparison, plan, statistics
from fairlead.bench.comparison_results import BASELINE_ROW, REWARD, ComparisonResults
from fairlead.bench.plan import Plan
from fairlead.core.errors import FairleadError, StoreError
from fairlead.core.key import Key
from fairlead.run import engine
from fairlead.run.store import Store

PLAN = """
model = "mixture"
reward = "brightness"
watch = ["jpeg_size"]
budget = "nfe=24"
steps = 2
batch = 2
prompts = ["one", "two", "three"]
[methods.random]
search = "best_of"
[methods.zero_order]
search = "zero_order(neighbours=2)"
[methods.steered]
steer = ["dfs"]
[methods.greedy]
steer = ["paths"]
group = 64
"""


@pytest.fixture(scope="module")
def small() -> Plan:
    return plan.parse(PLAN, "small", Path())


@pytest.fixture(scope="module")
def whole(small: Plan, tmp_path_factory: pytest.TempPathFactory) -> ComparisonResults:
    out = tmp_path_factory.mktemp("whole")
    comparison.run(small, out)
    return ComparisonResults.read(small, out)


def rewards(standing: ComparisonResults) -> dict[Any, list[float]]:
    return {k: [c.reward for c in d.view.candidates] for k, d in standing.done.items()}


def test_numbers_are_paired_and_seeds_shared(whole: ComparisonResults) -> None:
    for d in whole.done.values():
        assert not d.view.own_baseline, "nobody pays for the plain sample"
        assert d.cell.spec.seed == whole.done["random", d.cell.prompt, 0].cell.spec.seed


def test_every_method_has_the_same_noise_and_the_same_budget(small: Plan, whole: ComparisonResults) -> None:
    assert whole.methods == ["random", "zero_order", "steered"]
    assert whole.total == 12
    for (method, prompt, seed), d in whole.done.items():
        assert d.view.spent.nfe <= small.limit
        assert d.view.spent.nfe > small.limit - (10 if method == "steered" else 2), (
            "what is left pays for no more pictures"
        )
        if method != "steered":
            assert d.view.baseline is not None
            assert d.view.baseline.reward == whole.plain(prompt, seed, REWARD)
    seeds = {c.spec.seed for c in small.cells()}
    assert len(seeds) == 3, "every prompt has noise of its own"
    alone = replace(small, prompts=small.prompts[1:2]).cells()
    assert {c.folder for c in alone} <= {c.folder for c in small.cells()}, (
        "a prompt's noise does not depend on the others"
    )


def test_nobody_always_goes_first(small: Plan) -> None:
    cells = small.cells()
    firsts = [cells[i].method for i in range(0, 12, 4)]
    assert len(set(firsts)) == 3
    assert [c.prompt for c in cells] == [p for p in ("one", "two", "three") for _ in range(4)]


def test_who_cannot_is_named_with_the_reason(whole: ComparisonResults) -> None:
    assert list(whole.refused) == ["greedy"]
    assert "does not cover one group of 64" in whole.refused["greedy"]


def test_watched_formulas_have_columns_however_they_are_typed(small: Plan, tmp_path: Path) -> None:
    typed = plan.parse(PLAN.replace('["jpeg_size"]', '["-brightness", "0.50*jpeg_size+1"]'), "typed", Path())
    one = typed.only(["random"], prompts=1)
    comparison.run(one, tmp_path)
    standing = ComparisonResults.read(one, tmp_path)
    assert standing.metrics == [REWARD, "-1*brightness", "0.5*jpeg_size + 1"]
    (row,) = standing.table()
    assert row["-1*brightness"] == -row[REWARD]


def test_a_refusal_is_of_its_budget(small: Plan, tmp_path: Path) -> None:
    greedy = small.only(["greedy"], prompts=1)
    comparison.run(greedy, tmp_path)
    assert list(ComparisonResults.read(greedy, tmp_path).refused) == ["greedy"]
    assert not ComparisonResults.read(greedy.only(budget="nfe=48"), tmp_path).refused


def test_who_got_no_picture_in_time_takes_no_part(small: Plan, tmp_path: Path) -> None:
    from fairlead.run.spec import make_spec

    hurried = small.only(["zero_order"], prompts=1, budget="seconds=20")
    for cell, status in zip(hurried.cells(), ("finished", "running"), strict=True):
        spec = make_spec(cell.prompt, model="mixture", reward="brightness", budget={"seconds": 20.0})
        store = Store.create(tmp_path / cell.folder, spec, {}, "now")
        store.set_status(status, "budget: seconds" if status == "finished" else "")
        store.close()
    standing = ComparisonResults.read(hurried, tmp_path)
    assert list(standing.refused) == [hurried.cells()[0].method]
    assert "ended before the first picture" in standing.refused[hurried.cells()[0].method]
    assert not standing.done


def test_an_interrupted_comparison_goes_on_bit_for_bit(small: Plan, whole: ComparisonResults, tmp_path: Path) -> None:
    asked = iter(range(99))
    comparison.run(small, tmp_path, stop=lambda: next(asked) >= 25)
    half = ComparisonResults.read(small, tmp_path)
    assert 0 < len(half.done) < len(whole.done)
    seen: list[str] = []
    comparison.run(small, tmp_path, watch=lambda c, s: seen.append(c.folder))
    assert rewards(ComparisonResults.read(small, tmp_path)) == rewards(whole)
    assert len(seen) == 12 - len(half.done)
    comparison.run(small, tmp_path, watch=lambda c, s: seen.append(c.folder))
    assert len(seen) == 12 - len(half.done) + 3, "only what was refused is tried again"


def test_a_larger_budget_goes_on_and_a_cell_is_an_ordinary_run(small: Plan, tmp_path: Path) -> None:
    one = small.only(["random"], prompts=1)
    comparison.run(one, tmp_path)
    more = one.only(budget="nfe=36")
    assert not ComparisonResults.read(more, tmp_path).done, "half the budget is no answer"
    comparison.run(more, tmp_path)
    (d,) = ComparisonResults.read(more, tmp_path).done.values()
    assert len(d.view.candidates) == 18
    with pytest.raises(StoreError, match=r"has spent more than nfe=24\. Use a larger --budget, or another --out"):
        comparison.run(one, tmp_path)
    assert len(ComparisonResults.read(more, tmp_path).done) == 1, "what is there stays"
    engine.start(more.cells()[0].spec, tmp_path / "again").close()
    again = Store.open(tmp_path / "again")
    assert [c.reward for c in again.candidates()] == [c.reward for c in d.view.candidates]
    again.close()


def test_two_processes_give_what_one_gives(small: Plan, whole: ComparisonResults, tmp_path: Path) -> None:
    two = small.only(["zero_order"])
    seen: list[str] = []
    comparison.run(two, tmp_path, workers=2, watch=lambda c, s: seen.append(c.folder))
    assert sorted(seen) == sorted(c.folder for c in two.cells())
    expected = {k: v for k, v in rewards(whole).items() if k[0] in two.methods}
    found = rewards(ComparisonResults.read(two, tmp_path))
    assert found.keys() == expected.keys()
    for key, values in found.items():
        assert values == pytest.approx(expected[key], abs=1e-6)


def test_numbers_are_paired_over_prompts(whole: ComparisonResults) -> None:
    """Against the plainest way to compute them."""
    line = next(x for x in whole.lines if x.method == "zero_order")
    for metric in (REWARD, "jpeg_size"):
        ours = [whole.done["zero_order", p, 0].final(metric) for p in ("one", "two", "three")]
        theirs = [whole.done["random", p, 0].final(metric) for p in ("one", "two", "three")]
        gaps = np.array(ours) - np.array(theirs)
        assert line.values[metric].value == pytest.approx(np.mean(ours))
        assert line.over[metric].value == pytest.approx(gaps.mean())
        means = np.sort(gaps[statistics.resamples(3)].mean(1))
        assert line.over[metric].low == pytest.approx(np.quantile(means, 0.025))
        assert line.wins[metric].value == pytest.approx(np.mean(np.where(gaps == 0, 0.5, gaps > 0)))
    assert whole.lines[-1].method == BASELINE_ROW
    assert whole.lines[-1].over[REWARD].value <= 0


def test_a_curve_knows_only_what_was_spent(whole: ComparisonResults) -> None:
    for method in whole.methods:
        curve = whole.curve(method, "nfe", REWARD)
        values = [m.value for _, m in curve]
        assert values == sorted(values)
        assert curve[0][0] >= 2 * (1 - 1e-9), "before the first picture there is nothing"
        assert values[-1] == pytest.approx(statistics.mean(whole.over_prompts(whole.final(method, REWARD))).value)
    d = whole.done["random", "one", 0]
    first = d.view.candidates[0].reward
    assert d.at(2, "nfe", REWARD) == d.at(3.9, "nfe", REWARD) == first
    assert math.isnan(d.at(1.9, "nfe", REWARD))
    assert d.at(24, "nfe", REWARD) == max(c.reward for c in d.view.candidates)


def test_a_line_has_the_largest_memory_of_its_cells(whole: ComparisonResults) -> None:
    for line in whole.lines:
        rows = [whole.done[line.method, *key] for key in whole.shared] if line.cells else []
        peaks = [cell.peak_mb for cell in rows if cell.peak_mb]
        assert line.peak_mb == max(peaks) if peaks else math.isnan(line.peak_mb)


def test_intervals() -> None:
    hits = 0
    for i in range(100):
        found = statistics.mean(Key.root(i).normal(40).tolist(), Key.root(i).fold("boot"))
        assert found.low < found.value < found.high
        hits += found.low < 0 < found.high
    assert 87 <= hits <= 99
    assert statistics.mean([1.0, math.nan, 3.0]).n == 2
    assert math.isnan(statistics.mean([1.0, 2.0]).low), "two prompts say nothing about a spread"
    assert statistics.mean([2.0, 2.0, 2.0]).sure == 1
    assert [statistics.wins(a, 1.0) for a in (2.0, 1.0, 0.0)] == [1, 0.5, 0]
    assert statistics.wins(8.7114, 8.7114 + 4.8e-7) == 0.5, "rounding wins nothing"
    assert statistics.wins(8.7115, 8.7114) == 1
    band = statistics.band([[1.0, 2.0], [3.0, 2.0], [2.0, 5.0]])
    assert [m.value for m in band] == [2.0, 3.0]
    assert band[0].low < 2 < band[0].high


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('budget = "nfe=24"', 'budget = "nfe=24,seconds=3"', "holds only one resource equal"),
        ('budget = "nfe=24"', 'budgets = "nfe=24"', "Did you mean 'budget'"),
        ("group = 64", "groups = 64", "Did you mean 'group'"),
        ('prompts = ["one", "two", "three"]', "prompts = []", "0 prompts"),
        ('steer = ["dfs"]', 'steer = ["dfz"]', "Did you mean 'dfs'"),
        ('reward = "brightness"', 'reward = "brightnes"', "Did you mean 'brightness'"),
        ("[methods.random]", "[method.random]", "methods"),
        ("steps = 2", "steps = ", "not valid TOML"),
        ('budget = "nfe=24"', "budget = 24", "budget is 24"),
        ('budget = "nfe=24"', "budget = {nfe = 'x'}", "not name=number"),
        ("steps = 2", "seeds = true", "seeds is True"),
        ("steps = 2", "seeds = 1.5", "seeds is 1.5"),
        ("steps = 2", "seeds = []", "at least one"),
        ("steps = 2", "seeds = [1, 1]", "each only once"),
        ("steps = 2", 'seeds = ["a"]', "A seed is 'a'"),
        ("steps = 2", 'diversity = ["vendii"]', "Did you mean 'vendi'"),
        ('["one", "two", "three"]', "3", r"prompts is 3: must be text in quotes, a list of it, or \{generate = 12\}\."),
        ('["one", "two", "three"]', "{}", "file = 'prompts.txt'"),
        ('["one", "two", "three"]', "{generate = -1}", "generate is -1"),
        ('["one", "two", "three"]', "{generate = 100000}", "must be at most 288"),
        ('["one", "two", "three"]', "{file = 'p.txt', count = 0}", "count is 0"),
        ('model = "mixture"', "model = 3", "model of plan wrong is 3"),
        ('steer = ["dfs"]', "steer = 3", "steer of method steered is 3"),
        ('steer = ["dfs"]', "settings = 'n=3'", "settings of method steered"),
        ("[methods.steered]", '[methods."../steered"]', "is called '../steered'"),
        ("[methods.steered]", f'[methods."{BASELINE_ROW}"]', f"is called '{BASELINE_ROW}'"),
    ],
)
def test_a_wrong_plan_is_one_sentence(old: str, new: str, told: str) -> None:
    with pytest.raises(FairleadError, match=told):
        plan.parse(PLAN.replace(old, new), "wrong", Path())


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('steer = ["dfs"]', 'steer = ["dfs(breath=2)"]', "of dfs is unknown"),
        ('steer = ["dfs"]', 'search = "best_of(m=2)"', "of best_of is unknown"),
        ('steer = ["dfs"]', 'space = "embedding(frist=1)"', "Did you mean 'first'"),
        ('steer = ["dfs"]', 'intervene = ["repulsion(strenght=1)"]', "Did you mean 'strength'"),
    ],
)
def test_a_misspelt_setting_costs_nothing(old: str, new: str, told: str, tmp_path: Path) -> None:
    wrong = plan.parse(PLAN.replace(old, new), "wrong", Path())
    with pytest.raises(FairleadError, match=told):
        comparison.run(wrong, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_prompt_counts_once(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("one\ntwo\none\nthree\n")
    for given in ('["one", "two ", "one", "two"]', "{file = 'p.txt', count = 2}"):
        found = plan.parse(PLAN.replace('["one", "two", "three"]', given), "twice", tmp_path)
        assert [text for text, _ in found.prompts] == ["one", "two"]


@pytest.mark.parametrize("words", [{"prompts": -1}, {"prompts": 0}, {"seeds": 0}])
def test_less_than_one_is_no_part_of_a_plan(small: Plan, words: dict[str, int]) -> None:
    with pytest.raises(FairleadError, match="whole number >= 1"):
        small.only(**words)  # type: ignore[arg-type]


def test_workers_that_die_are_counted_and_a_broken_watcher_is_heard(
    small: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: fork)
    monkeypatch.setattr(comparison, "_work", lambda *words: os._exit(3 if words[2] == 0 else 0))
    with pytest.raises(FairleadError, match=r"^1 of 2 workers died"):
        comparison.run(small, tmp_path, workers=2)

    def broken(cell: plan.Cell, status: str) -> None:
        raise ZeroDivisionError

    where = small.cells()[0].folder

    def waits(plan: Plan, out: Path, rank: int, threads: int, ended: Any, said: Any) -> None:
        said.put((where, "done"))
        ended.wait(20)

    monkeypatch.setattr(comparison, "_work", waits)
    with pytest.raises(ZeroDivisionError):
        comparison.run(small, tmp_path, workers=2, watch=broken)


@pytest.mark.parametrize("name", plan.ready_made())
def test_ready_made_plans_are_plans(name: str) -> None:
    ready = plan.read(name)
    assert ready.reference == "random"
    assert len(ready.prompts) >= 6
    assert len({tag for _, tag in ready.prompts}) == 6
    assert "detector" in ready.watch


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.toml").write_text(PLAN)
    words = ["compare", "p.toml", "--method", "zero_order", "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["done"], found["cells"]) == (6, 6)
    page = Path(found["page"]).read_text()
    assert page.count("<table") >= 4
    assert page.count('<figure class="win">') >= 3
    for word in (
        "brightness",
        "which is optimised",
        "24 denoiser evaluations",
        "zero_order",
        BASELINE_ROW,
        "held equal",
    ):
        assert word in page
    assert "http" not in page.replace("http://www.w3.org", "")
    with Path("comparisons/p/cells.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 6
    assert {row["nfe"] for row in rows} == {"24"}
    assert all(float(row["reward"]) >= float(row["reward, no search"]) for row in rows)
    if find_spec("pyarrow") is not None:
        import pandas

        for name in ("cells", "methods", "curves"):
            tables = [
                pandas.read_parquet(f"comparisons/p/{name}.parquet"),
                pandas.read_csv(f"comparisons/p/{name}.csv"),
            ]
            assert [list(table.columns) for table in tables] == [list(tables[1].columns)] * 2
            assert len(tables[0]) == len(tables[1]) > 0
    before = {p: p.read_bytes() for p in Path("comparisons/p").rglob("*.sqlite")}
    assert main([*words[:-1], "--report"]) == 0
    assert "zero_order" in capsys.readouterr().out
    assert {p: p.read_bytes() for p in Path("comparisons/p").rglob("*.sqlite")} == before
    assert main(["compare", "p.tml"]) == 2
    assert "ready-made" not in capsys.readouterr().out


def test_while_another_process_works_on_it_nothing_is_final(
    small: Plan, whole: ComparisonResults, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "half"
    shutil.copytree(whole.out, out)
    left = next(cell for cell in small.cells() if cell.method == "zero_order")
    shutil.rmtree(out / left.folder)
    (tmp_path / "small.toml").write_text(PLAN)
    words = ["compare", str(tmp_path / "small.toml"), "--out", str(out), "--report"]
    with comparison._claimed(out, left):
        found = ComparisonResults.read(small, out)
        assert (found.running, found.complete, len(found.done)) == (1, False, 8)
        assert main(words) == 0
        told = "Not final: 8 of 9 runs are done and 1 still running. Numbers are over the 2 prompts that every method"
        assert capsys.readouterr().out.startswith(told)
        assert told in (out / "comparison.html").read_text()
        assert main([*words, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["final"] is False
    assert ComparisonResults.read(small, out).running == 0
    assert whole.complete
    assert main([*words[:3], str(whole.out), "--report"]) == 0
    assert "Not final" not in capsys.readouterr().out
