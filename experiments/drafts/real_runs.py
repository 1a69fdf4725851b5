"""A few real runs beside the policy that a pool would have followed: the same drafts, the same finals, the same winner.

python -m experiments.drafts.real_runs --pool experiments/drafts/pocket --draft pocket-turbo@3 --pictures 16
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments import common
from experiments.drafts import policies, results
from experiments.drafts.pools import PICTURE
from fairlead.run import engine
from fairlead.run.posterior import PRIOR
from fairlead.run.spec import make_spec
from fairlead.run.view import View


def compared(pool: results.Pool, prompt: str, o: argparse.Namespace, folder: Path) -> list[str]:
    """A row: what the run chose and what the pool says, with the numbers of drafts and finals of the run."""
    reward = pool.rewards[0]
    budget = {"forwards": float(o.pictures * pool.rows[PICTURE])}
    spec = make_spec(prompt, model=o.model, reward=reward, seed=o.seed, batch=16, budget=budget, draft=o.draft)
    engine.start(spec, folder).close()
    view = View.read(folder)
    order = np.arange(pool.candidates)
    said = policies.drafting(str(spec.draft), PRIOR)(
        pool.of[reward][prompt], pool.prices(None), order, float(o.pictures)
    )
    assert said is not None
    assert view.best is not None
    chosen = view.best.index if view.best.refines is None else view.best.refines
    rungs = [str(rung.entered) for rung in view.rungs]
    mine = pool.of[reward][prompt][said.kind][said.candidate]
    return [prompt, " > ".join(rungs), str(chosen), str(said.candidate), f"{view.best.reward:.3f}", f"{mine:.3f}"]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pool", type=Path, default=Path(__file__).parent / "pocket")
    p.add_argument("--model", default="pocket")
    p.add_argument("--draft", default="pocket-turbo@3")
    p.add_argument("--pictures", type=int, default=8, help="the budget")
    p.add_argument("--prompts", type=int, default=4)
    p.add_argument("--seed", type=int, default=7, help="that of the pool")
    o = p.parse_args(argv)
    pool = results.read(o.pool)
    rows = []
    for prompt in pool.prompts[:: max(1, len(pool.prompts) // o.prompts)][: o.prompts]:
        with tempfile.TemporaryDirectory() as scratch:
            rows.append(compared(pool, prompt, o, Path(scratch) / "run"))
    head = ["prompt", "drafts > finals", "the run's candidate", "the pool's", "the run's reward", "the pool's reward"]
    text = "\n".join(["# Real runs beside the pool", "", *common.table(head, rows)]) + "\n"
    (o.pool / "real_runs.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
