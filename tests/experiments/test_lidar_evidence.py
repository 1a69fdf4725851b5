"""The arithmetic of experiments/lidar: shares of tasks, and the speed ratio at equal score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import by_path


@pytest.fixture(scope="module")
def script() -> Any:
    return by_path.experiment("lidar.run")


def rows(script: Any) -> list[dict[str, Any]]:
    """Two tasks of 30 and 10 prompts; the gradient reaches 0.6 in 10 s, lidar 0.5, 0.7 and 0.9 in 1, 2 and 4 s."""
    made = {"base": (0.3, 0.5), "reward_gradient": (0.6, 10)}
    made |= {"lidar, n=3": (0.5, 1), "lidar, n=9": (0.7, 2), "lidar, n=50": (0.9, 4)}
    out = []
    for i in range(40):
        for method, (score, seconds) in made.items():
            row = dict.fromkeys(script.FIELDS[3:], 1.0)
            tag = "counting" if i < 30 else "position"
            value = score + (0.05 if i < 30 else -0.05)
            own = {"correct": value, "reward": -value, "seconds": seconds}
            out.append({"prompt": str(i), "tag": tag, "method": method, **row, **own})
    return out


def test_tasks_count_alike_and_the_ratio_is_that_of_the_cheapest_that_is_as_good(script: Any, tmp_path: Path) -> None:
    table = script.Table(rows(script))
    mean, draws = table.score("correct")
    assert mean.tolist() == pytest.approx([0.3, 0.6, 0.5, 0.7, 0.9]), "tasks alike, whatever their size"
    assert draws.shape == (script.RESAMPLES, 5)
    scores = {f: table.score(f) for f in ("correct", "reward", "seconds")}
    assert "| lidar, n=9 | 5.00 " in script.speed(table, scores, "reward_gradient", "correct")
    assert "| lidar, n=3 | 10.00 " in script.speed(table, scores, "reward_gradient", "reward")
    assert script.figure(table, scores).count("<circle") == 10


def test_prompts_come_task_by_task(script: Any) -> None:
    few = script.prompts(12, [f"thing {i}" for i in range(48)])
    assert [p.tag for p in few[:6]] == [p.tag for p in few[6:]]
    assert len({p.tag for p in few}) == 6
    assert len({p.text for p in script.prompts(200, [f"thing {i}" for i in range(48)])}) == 200
