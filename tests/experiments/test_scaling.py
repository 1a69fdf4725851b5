"""The scaling experiment at its smallest: rows, nesting, what it says, and that nothing is made twice."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

import by_path
from fairlead.core.key import Key


@pytest.fixture(scope="module")
def scaling() -> ModuleType:
    return by_path.experiment("noise_search.run")


def test_tiny_run(scaling: ModuleType, tmp_path: Path) -> None:
    words = [
        "run",
        "--model",
        "mixture",
        "--verifier",
        "b=brightness",
        "--verifier",
        "j=jpeg_size",
        "--judge",
        "brightness",
        "--prompts",
        "one;two",
        "--images",
        "16",
        "--steps",
        "4",
        "--out",
        str(tmp_path),
        "--methods",
        "random,zero_order,paths,dfs,steps",
    ]
    scaling.main(words)
    rows = scaling.read(tmp_path)
    assert all(row["nfe"] <= row["budget"] for row in rows)
    for prompt in ("one", "two"):
        for method in ("random", "zero_order"):
            curve = [
                r["metrics"]["b"] for r in rows if (r["prompt"], r["method"], r["verifier"]) == (prompt, method, "b")
            ]
            assert len(curve) == 5
            assert curve == sorted(curve), "the winner of more candidates is no worse on what chose it"
    assert {r["metrics"]["b"] for r in rows if r["method"] == "random" and r["budget"] == 4} != {
        rows[0]["metrics"]["b"]
    }
    assert {r["method"] for r in rows} == {"random", "zero_order", "paths", "dfs", "steps"}
    table = (tmp_path / "tables.md").read_text()
    assert "| b + zero_order |" in table
    assert "| oracle + random |" in table
    assert "**Search keeps helping when steps stop.**" in table
    assert (tmp_path / "b.svg").read_text().count("<circle") > 20
    before = (tmp_path / "rows.jsonl").read_bytes()
    scaling.main(words)
    assert (tmp_path / "rows.jsonl").read_bytes() == before
    assert (tmp_path / "tables.md").read_text() == table


def test_parts_make_the_same_rows(scaling: ModuleType, tmp_path: Path) -> None:
    words = [
        "run",
        "--model",
        "mixture",
        "--verifier",
        "b=brightness",
        "--verifier",
        "e=rank_mean(brightness, jpeg_size)",
        "--judge",
        "brightness",
        "--prompts",
        "one;two;three",
        "--images",
        "4",
        "--steps",
        "4",
        "--methods",
        "random",
    ]
    scaling.main([*words, "--out", str(tmp_path / "whole")])
    for part in ("1/2", "2/2"):
        scaling.main([*words, "--part", part, "--out", str(tmp_path / "parts")])
    whole, parts = (scaling.read(tmp_path / name) for name in ("whole", "parts"))
    assert sorted(map(str, whole)) == sorted(map(str, parts))
    assert (tmp_path / "whole" / "tables.md").read_text() == (tmp_path / "parts" / "tables.md").read_text()


def test_findings_follow_the_numbers(scaling: ModuleType) -> None:
    """Search that goes on while steps stop, a verifier that costs another, one that does not."""
    say = scaling.report

    def rows(method: str, verifier: str, values: dict[str, list[float]]) -> list[dict[str, object]]:
        return [
            {
                "prompt": f"p{p}",
                "seed": 0,
                "method": method,
                "verifier": verifier,
                "budget": float(4 << b),
                "nfe": 4.0,
                "metrics": {m: v[b] + 0.01 * ((p * 7 + b) % 5) for m, v in values.items()},
            }
            for p in range(20)
            for b in range(4)
        ]

    flat, up, down = [1.0] * 4, [1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]
    told = say.Found(
        [
            *rows("random", "x", {"x": up, "y": down, "oracle": up}),
            *rows("random", "y", {"x": flat, "y": up, "oracle": up}),
            *rows("random", "e", {"x": up, "y": up, "oracle": up}),
            *rows("steps", "x", {"x": flat, "y": flat, "oracle": flat}),
            *rows("steps", "y", {"x": flat, "y": up, "oracle": flat}),
            *rows("zero_order", "x", {"x": flat}),
        ]
    )
    text = "\n".join(say.findings(told, ["x", "y", "e"], ["x", "y", "oracle"]))
    assert "steps stop.** In part (x)." in text
    assert "fell against the plain sample: y when x chose" in text
    assert "robust choice (e).** Reappears" in text
    assert "better than random: none; worse: zero_order on x" in text


def test_interval_covers_the_mean(scaling: ModuleType) -> None:
    """95 % intervals of 40 normal values hold the true mean about 95 times in 100."""
    common = by_path.experiment("common")
    hits = 0
    for i in range(100):
        values = Key.root(i).normal(40).tolist()
        mean, low, high = common.bootstrap_seeds(values, Key.root(i).fold("boot"))
        assert low < mean < high
        hits += low < 0 < high
    assert 87 <= hits <= 99
