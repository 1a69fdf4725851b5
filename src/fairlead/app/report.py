"""One self-contained page per run: what it gained, how it got there, and how to do it again. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from fairlead.app import held_out, kept
from fairlead.app.chart import Chart, Line, svg
from fairlead.app.page import change, page, pairs, picture, text
from fairlead.app.words import (
    budget_text,
    command,
    count,
    duration,
    number,
    part_text,
    reason,
    run_command,
    shown,
)
from fairlead.core.cost import UNITS, Cost
from fairlead.run.records import Candidate, RunStatus, StopReason
from fairlead.run.spec import Spec, reward_text
from fairlead.run.store import write_atomically
from fairlead.run.view import Point, View

NAME = "report.html"
GALLERY = 64
"""Pictures shown at most."""
TABLE = 1000
"""Candidates listed at most."""
LARGE, THUMB = 1024, 320
"""Longest side of the winner and of a picture in the gallery; what is larger is inlined smaller."""


def write_report(folder: Path) -> Path:
    """Write `report.html` into the run folder from its record alone, finished or not."""
    view = View.read(Path(folder))
    path = view.folder / NAME
    write_atomically(path, page(f"{view.spec.prompt} · fairlead", "".join(_sections(view))))
    return path


def _sections(view: View) -> Iterator[str]:
    yield _head(view)
    yield _hero(view)
    yield _notes(view)
    yield _charts(view)
    yield kept.section(view)
    yield _gallery(view)
    yield held_out.section(view)
    yield _terms(view)
    yield _cost(view)
    yield _settings(view)
    yield _commands(view)
    yield (
        f"<footer>Run {text(view.spec.id())}, started {text(view.created)}. "
        "One file, nothing is fetched: it can be mailed as it is.</footer>"
    )


def state(view: View) -> str:
    """How the run stands, in words."""
    if view.status == RunStatus.RUNNING:
        return "not finished"
    return reason(view.stopped) or view.status


def _head(view: View) -> str:
    spec = view.spec
    when = view.created[:16].replace("T", " ") + " UTC"
    facts = [spec.model.name, reward_text(spec.reward), spec.search.name, f"seed {spec.seed}", when]
    return (
        f'<div class="top"><b>fairlead</b>{"".join(f"<span>{text(fact)}</span>" for fact in facts)}</div>'
        f"<h1{' class=long' if len(spec.prompt) > 120 else ''}>{text(spec.prompt)}</h1>"
    )


def _hero(view: View) -> str:
    return f'<section class="hero" id="winner">{_shot(view, "best")}{_shot(view, "baseline")}{_facts(view)}</section>'


def _shot(view: View, which: str) -> str:
    candidate = view.best if which == "best" else view.baseline
    css, title = ("win", "Best found") if which == "best" else ("base", "Baseline")
    if candidate is None:
        why = "no candidate has a reward yet" if which == "best" else "not rendered yet"
        return f'<figure class="card shot {css}"><div class="blank"></div><figcaption><b>{title}</b> {why}</figcaption></figure>'
    if which == "best":
        told = f"candidate {candidate.index}" + (
            "" if candidate.refines is None else f", draft {candidate.refines} in full"
        )
    else:
        told = "same seed, no control" if view.own_baseline else "same seed, no search"
    shot = picture(view.named_picture(f"{which}.png", candidate), LARGE)
    return (
        f'<figure class="card shot {css}">{shot.tag(f"{title}: {told}, reward {number(candidate.reward)}")}'
        f"<figcaption><span><b>{title}</b> &nbsp;{told}</span>"
        f'<span class="num">{number(candidate.reward)}</span></figcaption></figure>'
    )


def _facts(view: View) -> str:
    gain = view.gain
    css = "none" if gain != gain or gain == 0 else "down" if gain < 0 else ""
    head = number(gain, sign=True) if gain == gain and gain != 0 else "none" if gain == 0 else "–"
    beaten = sum(1 for c in view.candidates if view.baseline and c.reward > view.baseline.reward)
    if gain > 0:
        small = f"{beaten} of {len(view.candidates)} candidates beat the baseline"
    elif gain == 0:
        small = "no candidate beat the baseline"
    else:
        small = "no comparison possible" if gain != gain else "every candidate is below the baseline"
    limits, spent = view.spec.limit.limits(), view.spent
    used = []
    for name, limit in limits.items():
        share = min(1.0, getattr(spent, name) / limit) if limit else 0.0
        used.append(
            f"<div><dt>{name.upper() if name == 'nfe' else name} spent of budget</dt>"
            f"<dd>{_amount(name, getattr(spent, name))} of {_amount(name, limit)}"
            f'<div class="bar"><i style="width:{share:.1%}"></i></div></dd></div>'
        )
    time = "" if "seconds" in limits else f"<div><dt>time</dt><dd>{duration(spent.seconds)}</dd></div>"
    return (
        f'<aside class="card facts"><div><dl><dt>gain in reward over the baseline</dt></dl><div class="gain num {css}">{head}</div>'
        f'<p class="small">{small}</p></div><dl>'
        f"<div><dt>reward</dt><dd>{text(reward_text(view.spec.reward))}</dd></div>"
        f"<div><dt>candidates</dt><dd>{len(view.candidates)}"
        f"{f' <span class=small>({len(view.failed)} failed)</span>' if view.failed else ''}</dd></div>"
        f"{''.join(used)}{time}<div><dt>{'state' if view.status == 'running' else 'stopped'}</dt>"
        f"<dd>{text(state(view))}</dd></div></dl></aside>"
    )


def _amount(name: str, value: float) -> str:
    return duration(value) if name == "seconds" else count(value)


def _notes(view: View) -> str:
    notes = list(view.warnings)
    if told := held_out.warning(view):
        notes.append(told)
    if view.status == RunStatus.RUNNING:
        notes.append(
            "This run has not finished: it is still going, or it was cut off. The command to continue it is below."
        )
    elif view.stopped == StopReason.WAITING:
        notes.append(f"This run waits for your answer: {command('answer', shown(view.folder))}")
    elif view.status == RunStatus.STOPPED:
        notes.append("This run was stopped before its budget was spent. The command to continue it is below.")
    if view.failed:
        many = len(view.failed)
        notes.append(f"{many} candidate{'s' if many > 1 else ''} got no number from the reward and cannot win.")
    if not notes:
        return ""
    return f'<div class="note-box" id="warnings"><ul>{"".join(f"<li>{text(note)}</li>" for note in notes)}</ul></div>'


def _charts(view: View) -> str:
    trace = view.trace()
    if not any(math.isfinite(point.best) for point in trace):
        return ""
    limit = view.spec.limit
    by_nfe = _chart(view, trace, "nfe", limit.nfe)
    by_seconds = _chart(view, trace, "seconds", limit.seconds)
    return (
        "<h2>Best so far<small>the line is the best reward yet, a dot one candidate</small></h2>"
        f'<section class="charts" id="charts"><figure class="card"><figcaption><b>against NFE</b></figcaption>{by_nfe}</figure>'
        '<figure class="card"><figcaption><b>against seconds</b>, counted when a batch is done</figcaption>'
        f"{by_seconds}</figure></section>"
    )


def _chart(view: View, trace: list[Point], axis: str, limit: float) -> str:
    label = "NFE (denoiser evaluations of all candidates)" if axis == "nfe" else "seconds of computing"
    return svg(
        Chart(
            title=f"Best reward so far against {axis}",
            x_label=label,
            y_label="reward",
            lines=[Line("best so far", staircase(trace, axis), float(getattr(view.spent, axis)))],
            dots=[
                (
                    getattr(p.spent, axis),
                    p.candidate.reward,
                    f"candidate {p.candidate.index}: {number(p.candidate.reward)}",
                )
                for p in trace
                if math.isfinite(p.candidate.reward)
            ],
            failed=[
                (getattr(p.spent, axis), f"candidate {p.candidate.index} failed")
                for p in trace
                if p.candidate.reward != p.candidate.reward
            ],
            baseline=view.baseline.reward if view.baseline else math.nan,
            limit=limit,
        )
    )


def staircase(trace: list[Point], axis: str) -> list[tuple[float, float]]:
    """Only the points where the best so far improved; of several at one time the last."""
    steps: dict[float, float] = {}
    for point in trace:
        if math.isfinite(point.best) and (not steps or point.best > max(steps.values())):
            steps[getattr(point.spent, axis)] = point.best
    return list(steps.items())


def _gallery(view: View) -> str:
    ranked = view.ranked
    if not ranked:
        return ""
    chosen = ranked[:GALLERY]
    cards = "".join(_card(view, candidate, rank) for rank, candidate in enumerate(chosen, 1))
    left = (
        f"the best {len(chosen)} of {len(ranked)}; the others are in the table below and in images/"
        if len(ranked) > len(chosen)
        else "all of them"
    )
    return (
        f"<h2>Candidates<small>{left}; click to enlarge, arrow keys to walk</small></h2>"
        '<div class="tools">order <button data-order="rank" aria-pressed="true">by reward</button>'
        '<button data-order="index" aria-pressed="false">as rendered</button></div>'
        f'<section class="gallery" id="gallery">{cards}</section>'
    )


def _card(view: View, candidate: Candidate, rank: int) -> str:
    failed = candidate.reward != candidate.reward
    wins = view.best is not None and candidate.index == view.best.index
    plain = view.baseline is not None and candidate.index == view.baseline.index
    css = " ".join(w for w, on in (("win", wins), ("base", plain and not wins), ("failed", failed)) if on)
    tags = ('<span class="tag">best</span>' if wins else "") + (
        '<span class="tag base">baseline</span>' if plain else ""
    )
    reward = "failed" if failed else number(candidate.reward)
    alt = f"Candidate {candidate.index}: {'no reward' if failed else f'reward {reward}, rank {rank} of {len(view.candidates)}'}"
    return (
        f'<figure class="card {css}" data-rank="{rank}" data-index="{candidate.index}">'
        f"{picture(view.picture(candidate), THUMB).tag(alt)}{tags}"
        f"<figcaption><b>{reward}</b><span>{candidate.index}</span></figcaption></figure>"
    )


def _terms(view: View) -> str:
    if not view.candidates:
        return ""
    names = [name for name in view.terms if not (len(view.terms) == 1 and name == reward_text(view.spec.reward))]
    lines = [_term_row(view, name, total=False) for name in names] + [_term_row(view, None, total=True)]
    return (
        "<h2>Reward terms<small>each leaf of the formula on its own, before weights</small></h2>"
        '<div class="card scroll" id="terms"><table><thead><tr><th>term</th><th>baseline</th><th>best found</th><th>change</th>'
        f"<th>mean of all</th><th>lowest</th><th>highest</th></tr></thead><tbody>{''.join(lines)}</tbody></table></div>{_all(view)}"
    )


def _value(candidate: Candidate | None, name: str | None) -> float:
    if candidate is None:
        return math.nan
    return candidate.reward if name is None else float(candidate.terms.get(name, math.nan))


def _term_row(view: View, name: str | None, total: bool) -> str:
    every = [v for v in (_value(c, name) for c in view.candidates) if math.isfinite(v)]
    before, after = _value(view.baseline, name), _value(view.best, name)
    mean = sum(every) / len(every) if every else math.nan
    low, high = (min(every), max(every)) if every else (math.nan, math.nan)
    label = f"reward = {reward_text(view.spec.reward)}" if name is None else name
    return (
        f'<tr class="{"total" if total else ""}"><td>{text(label)}</td><td>{number(before)}</td><td>{number(after)}</td>'
        f"{change(after - before)}<td>{number(mean)}</td><td>{number(low)}</td><td>{number(high)}</td></tr>"
    )


def _all(view: View) -> str:
    names = view.terms
    lines = []
    for candidate in view.ranked[:TABLE]:
        wins = view.best is not None and candidate.index == view.best.index
        cells = "".join(f"<td>{number(_value(candidate, name))}</td>" for name in names)
        lines.append(
            f'<tr class="{"win" if wins else ""}"><td>{candidate.index}</td>'
            f"<td>{'failed' if candidate.reward != candidate.reward else number(candidate.reward)}</td>{cells}"
            f"<td>{count(candidate.cost.nfe)}</td><td>{candidate.cost.seconds:.3f}</td><td>{candidate.steps}</td>"
            f"{_refined(view, candidate)}<td>{candidate.task}</td>"
            f"<td><code>{text(Path(candidate.image).name[:12])}</code></td></tr>"
        )
    more = f" (the best {TABLE} of {len(view.candidates)})" if len(view.candidates) > TABLE else ""
    head = "".join(f"<th>{text(name)}</th>" for name in names)
    draft = "<th>draft</th>" if view.spec.draft else ""
    return (
        f"<details><summary>Every candidate with every term{more}</summary><div class='card scroll'><table><thead><tr>"
        f"<th>candidate</th><th>reward</th>{head}<th>NFE</th><th>seconds</th><th>steps</th>{draft}<th>batch</th><th>images/</th>"
        f"</tr></thead><tbody>{''.join(lines)}</tbody></table></div></details>"
    )


def _refined(view: View, candidate: Candidate) -> str:
    """The cell that names the draft a candidate is the full rendering of; none in a run without drafts."""
    if not view.spec.draft:
        return ""
    return f"<td>{'–' if candidate.refines is None else candidate.refines}</td>"


def _cost(view: View) -> str:
    spent, limits, once = view.spent, view.spec.limit.limits(), view.once
    many = len(view.candidates)
    apart = any(value > 1e-6 for name, value in asdict(once).items() if name != "seconds")
    lines = []
    for name, value in asdict(spent).items():
        if not value and name not in limits:
            continue
        limit = limits.get(name, math.inf)
        share = value / limit if math.isfinite(limit) else 0.0
        bar = f'<div class="bar"><i style="width:{min(1.0, share):.1%}"></i></div>' if math.isfinite(limit) else ""
        per = (value - getattr(once, name)) / many if many else math.nan
        before = f"<td>{_amount(name, max(0.0, getattr(once, name)))}</td>" if apart else ""
        lines.append(
            f'<tr><td>{name}<span class="unit">{UNITS[name]}</span></td><td>{_amount(name, value)}</td>'
            f"<td>{_amount(name, limit) if math.isfinite(limit) else 'no limit'}</td>"
            f'<td class="wide">{bar}</td>{before}<td>{f"{per:.3f} s" if name == "seconds" and many else count(per)}</td></tr>'
        )
    head = "<th>once</th>" if apart else ""
    return (
        '<h2>Cost</h2><div class="card scroll" id="cost"><table><thead><tr>'
        f"<th>resource</th><th>spent</th><th>budget</th><th></th>{head}"
        f"<th>per candidate</th></tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
        + (
            "<p class='small'>“Once” is the baseline's own sample and what a method prepares per prompt.</p>"
            if apart
            else ""
        )
    )


def settings(spec: Spec) -> list[tuple[str, str]]:
    """The run's settings as names and words."""
    none = "none"
    return [
        ("model", part_text(spec.model)),
        ("reward", reward_text(spec.reward)),
        *([("watched", ", ".join(map(reward_text, spec.watch)))] if spec.watch else []),
        ("space", part_text(spec.space)),
        ("search", part_text(spec.search)),
        ("steering", ", ".join(map(part_text, spec.steering)) or none),
        ("interventions", ", ".join(map(part_text, spec.interventions)) or none),
        ("sampler", f"{spec.sampler}, {spec.steps} steps"),
        ("group, batch", f"{spec.group}, {spec.batch}"),
        ("seed", str(spec.seed)),
        ("budget", budget_text(spec.budget)),
    ]


def _settings(view: View) -> str:
    versions = [(name, str(value)) for name, value in view.versions.items()]
    return (
        f'<div class="two"><section id="settings"><h2>Settings</h2>{pairs(settings(view.spec))}</section>'
        f'<section id="versions"><h2>Versions</h2>{pairs(versions) if versions else "<p>None recorded.</p>"}</section></div>'
    )


def _commands(view: View) -> str:
    folder = shown(view.folder)
    lines: list[tuple[str, str]] = []
    if view.status != RunStatus.FINISHED:
        lines.append(("continue this run", command("resume", folder)))
    if view.best:
        lines.append(("render the winner again and compare", command("replay", folder, view.best.index)))
    lines.append(("go on with a larger budget", command("resume", folder, "--budget", _more(view.spec, view.spent))))
    if again := run_command(view.spec):
        lines.append(("the same run from nothing", again))
    lines.append(("write this page again", command("report", folder)))
    body = "".join(f"<div><span>{label}</span><code>{text(line)}</code></div>" for label, line in lines)
    return f'<h2>Do it again<small>a click selects a line</small></h2><div class="card cmd" id="commands">{body}</div>'


def _more(spec: Spec, spent: Cost) -> str:
    """Twice the budget in the entries that have one."""
    return budget_text({name: 2 * value for name, value in (spec.limit.limits() or {"nfe": spent.nfe or 640}).items()})
