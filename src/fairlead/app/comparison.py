"""One page for several runs: the winners side by side and best so far over each other. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from fairlead.app.chart import Chart, Line, svg
from fairlead.app.page import change, is_ours, page, picture, text
from fairlead.app.report import LARGE, staircase, state
from fairlead.app.words import command, count, duration, number, part_text, shown
from fairlead.core.errors import StoreError
from fairlead.run.spec import reward_text
from fairlead.run.store import write_atomically
from fairlead.run.view import View

COLOURS = ("#0b8ea3", "#d9772b", "#7a5cc4", "#3c9a5f", "#cc4466", "#9a7b1f", "#4a78d0", "#7d8893")
"""One per run, then again from the start; readable on light and dark."""


def write_comparison(folders: Sequence[Path], out: Path) -> Path:
    """Write the page to `out`. Replaces an older page of ours and nothing else."""
    if out.is_dir() or (out.exists() and not is_ours(out)):
        raise StoreError(f"{out} exists and is not a fairlead page: give another --out.")
    views = [View.read(folder) for folder in folders]
    write_atomically(out, page(f"{len(views)} runs · fairlead", "".join(_sections(views))))
    return out


def names(views: Sequence[View]) -> list[str]:
    """What tells the runs apart: the settings in which they differ, else the folder's name."""
    told = [
        {
            "prompt": view.spec.prompt,
            "model": part_text(view.spec.model),
            "reward": reward_text(view.spec.reward),
            "search": part_text(view.spec.search),
            "steering": " ".join(map(part_text, view.spec.steering)) or "no steering",
            "interventions": " ".join(map(part_text, view.spec.interventions)) or "no intervention",
            "space": part_text(view.spec.space),
            "sampler": view.spec.sampler,
            "steps": f"{view.spec.steps} steps",
            "seed": f"seed {view.spec.seed}",
        }
        for view in views
    ]
    differing = [key for key in told[0] if len({each[key] for each in told}) > 1]
    out = [" · ".join(each[key] for key in differing) for each in told]
    return out if differing and len(set(out)) == len(out) else [view.folder.resolve().name for view in views]


def _sections(views: Sequence[View]) -> Iterator[str]:
    labels = names(views)
    prompts = list(dict.fromkeys(view.spec.prompt for view in views))
    title = prompts[0] if len(prompts) == 1 else f"{len(views)} runs, {len(prompts)} prompts"
    yield f'<div class="top"><b>fairlead</b><span>{len(views)} runs compared</span></div><h1>{text(title)}</h1>'
    yield f'<section class="gallery wide" id="winners">{"".join(map(_winner, views, labels))}</section>'
    rewards = list(dict.fromkeys(reward_text(view.spec.reward) for view in views))
    for reward in rewards:
        yield _charts([(i, v) for i, v in enumerate(views) if reward_text(v.spec.reward) == reward], labels, reward)
    if len(rewards) > 1:
        yield '<p class="small">Runs with different rewards are drawn apart: their numbers have no common scale.</p>'
    yield _table(views, labels)
    yield _commands(views)


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _winner(view: View, label: str) -> str:
    gain = number(view.gain, sign=True) if view.gain == view.gain else "–"
    if view.best is None:
        told = f"<figcaption><b>{text(label)}</b><span>no reward yet</span></figcaption>"
        return f'<figure class="card"><div class="blank"></div>{told}</figure>'
    shot = picture(view.named_picture("best.png", view.best), LARGE)
    return (
        f'<figure class="card">{shot.tag(f"{label}: best reward {number(view.best.reward)}, gain {gain}")}'
        f"<figcaption><b>{text(label)}</b><span>{number(view.best.reward)}&nbsp;({gain})</span></figcaption></figure>"
    )


def _charts(chosen: Sequence[tuple[int, View]], labels: Sequence[str], reward: str) -> str:
    key = "".join(f'<span><i style="background:{_colour(i)}"></i>{text(labels[i])}</span>' for i, _ in chosen)
    if _baseline(chosen) == _baseline(chosen):
        key += '<span><i class="base"></i>baseline of all</span>'
    cards = "".join(
        f'<figure class="card"><figcaption><b>against {"NFE" if axis == "nfe" else axis}</b></figcaption>'
        f'{_chart(chosen, labels, axis)}<div class="key">{key}</div></figure>'
        for axis in ("nfe", "seconds")
    )
    return f'<h2>Best so far<small>reward {text(reward)}</small></h2><section class="charts">{cards}</section>'


def _baseline(chosen: Sequence[tuple[int, View]]) -> float:
    """The baseline's reward if all runs have the same, else NaN."""
    found = {view.baseline.reward if view.baseline else math.nan for _, view in chosen}
    return found.pop() if len(found) == 1 else math.nan


def _chart(chosen: Sequence[tuple[int, View]], labels: Sequence[str], axis: str) -> str:
    return svg(
        Chart(
            title=f"Best reward so far against {axis}, {len(chosen)} runs",
            x_label="NFE (denoiser evaluations of all candidates)" if axis == "nfe" else "seconds of computing",
            y_label="reward",
            lines=[Line(labels[i], staircase(v.trace(), axis), getattr(v.spent, axis), _colour(i)) for i, v in chosen],
            baseline=_baseline(chosen),
            labelled=False,
        )
    )


def _table(views: Sequence[View], labels: Sequence[str]) -> str:
    rows = "".join(
        f"<tr><td>{text(label)}</td><td>{number(v.baseline.reward if v.baseline else None)}</td>"
        f"<td>{number(v.best.reward if v.best else None)}</td>{change(v.gain)}<td>{len(v.candidates)}</td>"
        f"<td>{count(v.spent.nfe)}</td><td>{duration(v.spent.seconds)}</td><td>{text(state(v))}</td></tr>"
        for v, label in zip(views, labels, strict=True)
    )
    return (
        '<h2>Numbers</h2><div class="card scroll" id="numbers"><table><thead><tr>'
        "<th>run</th><th>baseline</th><th>best</th><th>gain</th>"
        f"<th>candidates</th><th>NFE</th><th>time</th><th>stopped</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _commands(views: Sequence[View]) -> str:
    line = command("report", *(shown(view.folder) for view in views))
    return (
        '<h2>Do it again</h2><div class="card cmd" id="commands">'
        f"<div><span>write this page again</span><code>{text(line)}</code></div></div>"
    )
