"""The page of a comparison: who gains what at one budget, and the pictures side by side. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairlead.app import forest
from fairlead.app.chart import Chart, svg
from fairlead.app.chart import Line as Curve
from fairlead.app.page import is_ours, page, pairs, picture, text
from fairlead.app.words import command, count, duration, number, shown
from fairlead.core.cost import UNITS
from fairlead.core.errors import StoreError
from fairlead.run.records import BASELINE_ROW, REWARD
from fairlead.run.store import write_atomically

if TYPE_CHECKING:
    from fairlead.bench.comparison_results import ComparisonResults
    from fairlead.bench.statistics import Mean

NAME = "comparison.html"
ROWS = 24
"""Prompts with pictures at most."""
THUMB = 256
COLOURS = (
    "#7d8893",
    "#0b8ea3",
    "#d9772b",
    "#7a5cc4",
    "#3c9a5f",
    "#cc4466",
    "#9a7b1f",
    "#4a78d0",
    "#b0559b",
    "#4f9e91",
    "#a05a3c",
    "#6b8e23",
    "#8c7ae6",
    "#c23616",
    "#2f8fdd",
    "#b8860b",
)
"""The reference has the first."""


def write_contest(standing: ComparisonResults, source: str, out: Path | None = None) -> Path:
    """Write the page into the comparison's folder, however far it is. `source` is the plan as it was typed."""
    path = out or standing.out / NAME
    if path.exists() and not is_ours(path):
        raise StoreError(f"{path} exists and is not a fairlead page: move it away.")
    title = f"{standing.plan.name}: {len(standing.plan.methods)} methods · fairlead"
    write_atomically(path, page(title, "".join(_sections(standing, source))))
    return path


def _sections(s: ComparisonResults, source: str) -> Iterator[str]:
    yield _head(s)
    if not s.shared:
        why = "".join(f"<li>{text(m)}: {text(w)}</li>" for m, w in s.refused.items())
        yield f'<p>No prompt has been done by every method yet.</p><ul class="small">{why}</ul>{_commands(s, source)}'
        return
    yield _verdict(s)
    yield _forests(s)
    yield _curves(s)
    yield _league(s)
    yield _pictures(s)
    yield _costs(s)
    yield _methods(s)
    yield _settings(s)
    yield _commands(s, source)
    yield "<footer>One file, nothing is fetched: it can be mailed as it is.</footer>"


def unit(resource: str) -> str:
    """`denoiser evaluations (NFE)`."""
    return UNITS[resource] + (" (NFE)" if resource == "nfe" else "")


def label(s: ComparisonResults, metric: str) -> str:
    """A metric as people call it."""
    return s.plan.reward if metric == REWARD else metric


def _colour(s: ComparisonResults, method: str) -> str:
    if method == BASELINE_ROW:
        return "var(--faint)"
    names = [s.plan.reference, *(m for m in s.plan.methods if m != s.plan.reference)]
    return COLOURS[names.index(method) % len(COLOURS)]


def _swatch(s: ComparisonResults, method: str) -> str:
    return f'<i class="swatch" style="background:{_colour(s, method)}"></i>{text(method)}'


def _head(s: ComparisonResults) -> str:
    plan, done = s.plan, len(s.done)
    refused = sum(len(plan.prompts) * len(plan.seeds) for _ in s.refused)
    facts = [
        str(plan.common.get("model", "pocket")),
        f"{len(plan.methods)} methods",
        f"{len(plan.prompts)} prompts",
        f"{len(plan.seeds)} seed{'s' if len(plan.seeds) > 1 else ''}",
        f"{count(plan.limit)} {plan.resource} each",
    ]
    bar = ""
    if done + refused < s.total:
        bar = (
            f'<div class="progress"><p class="small">{done} of {s.total - refused} runs are done; numbers are over the '
            f"{len(s.prompts)} prompts that every method has finished.</p>"
            f'<div class="bar"><i style="width:{done / max(1, s.total - refused):.1%}"></i></div></div>'
        )
    about = f"<p>{text(plan.about)}</p>" if plan.about else ""
    return (
        f'<div class="top"><b>fairlead</b>{"".join(f"<span>{text(f)}</span>" for f in facts)}</div>'
        f"<h1>{len(s.methods)} methods at {text(count(plan.limit))} {text(unit(plan.resource))}</h1>{bar}{about}"
    )


def interval(m: Mean, sign: bool = False) -> str:
    """`0.31 to 0.44`, empty where there is none."""
    return "" if math.isnan(m.low) else f"{number(m.low, sign)} to {number(m.high, sign)}"


def sentences(s: ComparisonResults) -> list[str]:
    """What the numbers say, no more."""
    out, reference = [], s.plan.reference
    for metric in s.metrics:
        compared = [x for x in s.lines if metric in x.over and x.method != BASELINE_ROW]
        if not compared:
            continue
        first = max(compared, key=lambda x: _finite(x.over[metric].value))
        d, w = first.over[metric], first.wins[metric]
        told = f"By {label(s, metric)}{', which is optimised' if metric == REWARD else ', which no method sees'}: "
        if d.value > 0:
            told += f"{first.method} stands highest over {reference}, {number(d.value, sign=True)}"
            told += f" (95 %: {interval(d, True)})" if interval(d) else ""
            told += f", better on {w.value:.0%} of {w.n} prompts" + ("." if d.sure else "; no difference is shown.")
        else:
            told += f"no method stands above {reference}."
        names: dict[int, list[str]] = {}
        for x in compared:
            names.setdefault(x.over[metric].sure, []).append(x.method)
        if more := [m for m in names.get(1, []) if m != first.method]:
            told += f" Above {reference} too: {', '.join(more)}."
        if alike := [m for m in names.get(0, []) if m != first.method or d.value <= 0]:
            told += f" No difference to {reference} is shown for {', '.join(alike)}."
        if behind := names.get(-1):
            told += f" Below {reference}: {', '.join(behind)}."
        out.append(told)
    for method, why in s.refused.items():
        out.append(f"{method} took no part: {why}")
    return out


def _verdict(s: ComparisonResults) -> str:
    return f'<section class="verdict" id="verdict"><ul>{"".join(f"<li>{text(x)}</li>" for x in sentences(s))}</ul></section>'


def _finite(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


def _forests(s: ComparisonResults) -> str:
    cards = ""
    for metric in s.metrics:
        rows = [
            forest.Row(
                x.method,
                x.over[metric].value,
                x.over[metric].low,
                x.over[metric].high,
                f"{number(x.over[metric].value, sign=True)}  wins {x.wins[metric].value:.0%}",
                _colour(s, x.method),
            )
            for x in s.lines
            if metric in x.over
        ]
        if rows:
            kind = "optimised" if metric == REWARD else "not optimised"
            title = f"{label(s, metric)} over {s.plan.reference}, paired over {len(s.prompts)} prompts"
            chart = forest.svg(title, f"difference to {s.plan.reference}, 95 % interval over prompts", rows)
            cards += (
                f'<figure class="card"><figcaption><b>{text(label(s, metric))}</b>, {kind}</figcaption>{chart}</figure>'
            )
    if not cards:
        return ""
    small = "same prompt, same seed; the interval is a bootstrap over prompts; a tie is half a win"
    return f'<h2>Over {text(s.plan.reference)}<small>{small}</small></h2><section class="charts" id="forests">{cards}</section>'


def _curves(s: ComparisonResults) -> str:
    axes = [s.plan.resource, *(a for a in ("seconds", "nfe") if a != s.plan.resource)][:2]
    cards = "".join(_curve(s, s.plan.resource, metric) for metric in s.metrics)
    cards += _curve(s, axes[1], REWARD)
    small = "mean over prompts of what stopping there would have given; the band is the 95 % interval"
    return f'<h2>Best so far<small>{small}</small></h2><section class="charts" id="curves">{cards}</section>'


def _curve(s: ComparisonResults, axis: str, metric: str) -> str:
    lines, methods = [], []
    for x in s.lines:
        points = s.curve(x.method, axis, metric) if x.method != BASELINE_ROW else []
        if points:
            steps = [(at, m.value) for at, m in points]
            ends = zip(points, [*points[1:], points[-1]], strict=True)
            band = [(place, m.low, m.high) for (at, m), (to, _) in ends for place in (at, to)]
            end = min(points[-1][0], s.plan.limit) if axis == s.plan.resource else points[-1][0]
            lines.append(Curve(x.method, steps, end, _colour(s, x.method), band or ()))
            methods.append(x.method)
    if not lines:
        return ""
    plain = s.lines[-1].values[metric].value if s.lines[-1].method == BASELINE_ROW else math.nan
    key = "".join(
        f'<span data-line="{text(m)}"><i style="background:{_colour(s, m)}"></i>{text(m)}</span>' for m in methods
    ) + (f'<span><i class="base"></i>{BASELINE_ROW}</span>' if plain == plain else "")
    name = label(s, metric)
    chart = Chart(f"{name} of the best so far against {axis}", unit(axis), name, lines, baseline=plain, labelled=False)
    kind = " of the leader by reward" if metric != REWARD else ""
    return (
        f'<figure class="card"><figcaption><b>{text(name)}</b>{kind}, against {text(unit(axis))}</figcaption>'
        f'{svg(chart)}<div class="key">{key}</div></figure>'
    )


def _cell(m: Mean, best: bool) -> str:
    return f"<td{' class=best' if best else ''}>{number(m.value)}<small>{interval(m)}</small></td>"


def _league(s: ComparisonResults) -> str:
    kinds = list(dict.fromkeys(k for x in s.lines for k in x.diversity))
    top = {m: max((_finite(x.values[m].value) for x in s.lines), default=math.nan) for m in s.metrics}
    widest = {k: max(_finite(x.diversity[k].value) for x in s.lines if k in x.diversity) for k in kinds}
    head = "".join(
        f"<th>{text(label(s, m))}<small>{'optimised' if m == REWARD else 'not optimised'}</small></th>"
        for m in s.metrics
    ) + "".join(f"<th>{text(k)}<small>diversity over seeds</small></th>" for k in kinds)
    rows = ""
    for x in s.lines:
        cells = "".join(_cell(x.values[m], x.values[m].value == top[m]) for m in s.metrics)
        for k in kinds:
            cells += _cell(x.diversity[k], x.diversity[k].value == widest[k]) if k in x.diversity else "<td></td>"
        rows += f"<tr{' class=aside' if x.method == BASELINE_ROW else ''}><td>{_swatch(s, x.method)}</td>{cells}</tr>"
    small = f"means over {len(s.prompts)} prompts with 95 % intervals; best of each column in colour"
    return (
        f'<h2>League<small>{small}</small></h2><div class="card scroll" id="league"><table><thead><tr><th>method</th>{head}</tr>'
        f"</thead><tbody>{rows}</tbody></table></div>"
    )


def _pictures(s: ComparisonResults) -> str:
    methods = [
        *([BASELINE_ROW] if s.lines[-1].method == BASELINE_ROW else []),
        *(x.method for x in s.lines if x.method != BASELINE_ROW),
    ]
    firsts = {p: seed for p, seed in reversed(s.shared)}
    chosen = [(p, firsts[p]) for p in s.prompts][:ROWS]
    judge = s.metrics[1] if len(s.metrics) > 1 else None
    head = "".join(f"<th>{text(m)}</th>" for m in methods)
    rows = ""
    for prompt, seed in chosen:
        values = {m: s.final(m, REWARD)(prompt, seed) for m in methods}
        top = max(map(_finite, values.values()))
        cells = "".join(_shot(s, m, prompt, seed, values[m], values[m] == top, judge) for m in methods)
        more = f"<br><small>seed {seed}</small>" if len(s.plan.seeds) > 1 else ""
        rows += f"<tr><td>{text(prompt)}{more}</td>{cells}</tr>"
    told = f"{text(s.plan.reward)}{f', right {text(judge)}' if judge else ''}"
    left = f"; the first {ROWS} of {len(s.prompts)} prompts" if len(s.prompts) > ROWS else ""
    small = f"same prompt, same seed, every method's winner; left {told}{left}; click to enlarge"
    return (
        f'<h2>Pictures<small>{small}</small></h2><div class="card scroll" id="pictures"><table class="wall"><thead><tr>'
        f"<th>prompt</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _shot(s: ComparisonResults, method: str, prompt: str, seed: int, value: float, top: bool, judge: str | None) -> str:
    path = s.picture(method, prompt, seed)
    if path is None:
        return '<td><div class="blank"></div></td>'
    held = f"<span>{number(s.final(method, judge)(prompt, seed))}</span>" if judge else ""
    alt = f"{method}: {prompt}, {label(s, REWARD)} {number(value)}"
    return (
        f"<td><figure{' class=win' if top else ''}>{picture(path, THUMB).tag(alt)}"
        f"<figcaption><b>{number(value)}</b>{held}</figcaption></figure></td>"
    )


def _costs(s: ComparisonResults) -> str:
    lines = [x for x in s.lines if x.method != BASELINE_ROW]
    names = [n for n in UNITS if n == s.plan.resource or any(getattr(x.cost, n) for x in lines)]
    equal = {s.plan.resource: "<small>held equal</small>"}
    head = "".join(f"<th>{text('NFE' if n == 'nfe' else UNITS[n])}{equal.get(n, '')}</th>" for n in names)
    rows = "".join(
        f"<tr><td>{_swatch(s, x.method)}</td><td>{count(x.candidates)}</td>"
        + "".join(
            f"<td>{duration(x.cost.seconds) if n == 'seconds' else count(getattr(x.cost, n))}</td>" for n in names
        )
        + f"<td>{duration(x.wall)}</td><td>{count(round(x.peak_mb)) if x.peak_mb == x.peak_mb else '–'}</td></tr>"
        for x in lines
    )
    return (
        "<h2>Cost<small>mean of one prompt and seed; what only one of the columns holds equal can differ in the others</small></h2>"
        f'<div class="card scroll" id="cost"><table><thead><tr><th>method</th><th>pictures</th>{head}<th>start to end'
        "<small>with the search's own thinking and loading of rewards</small></th><th>peak MB</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _methods(s: ComparisonResults) -> str:
    from fairlead.bench import plan

    rows: Sequence[tuple[str, str]] = [
        (m, plan.part(w) + (f" — took no part: {s.refused[m]}" if m in s.refused else ""))
        for m, w in s.plan.methods.items()
    ]
    return f'<h2>Methods</h2><div class="methods">{pairs(list(rows))}</div>'


def _settings(s: ComparisonResults) -> str:
    first = next(iter(s.done.values()))
    spec, p = first.view.spec, s.plan
    items: list[tuple[str, Any]] = [
        (
            "held equal",
            f"{p.resource} = {count(p.limit)} per prompt and seed; preparation is inside, the plain sample is nobody's",
        ),
        ("reward", p.reward),
        ("watched", ", ".join(p.watch) or "none"),
        ("reference", p.reference),
        ("prompts", f"{len(p.prompts)}, sha256 {p.digest}"),
        ("seeds", ", ".join(map(str, p.seeds))),
        ("model", f"{spec.model.name}, {spec.sampler}, {spec.steps} steps, batch {spec.batch}"),
        *((f"model {k}", v) for k, v in spec.model.settings.items()),
        *first.view.versions.items(),
    ]
    return f'<section id="settings"><h2>Settings</h2>{pairs([(str(a), str(b)) for a, b in items])}</section>'


def _commands(s: ComparisonResults, source: str) -> str:
    words = ("compare", source, "--out", shown(s.out))
    lines = [
        ("continue, or write this page again", command(*words)),
        ("go on with twice the budget", command(*words, "--budget", f"{s.plan.resource}={2 * s.plan.limit:.15g}")),
    ]
    if s.done:
        one = next(iter(s.done.values()))
        lines.append(
            (f"the whole search of one picture: {one.cell.method}", command("report", shown(s.out / one.cell.folder)))
        )
    body = "".join(f"<div><span>{text(a)}</span><code>{text(b)}</code></div>" for a, b in lines)
    return f'<h2>Do it again<small>a click selects a line</small></h2><div class="card cmd" id="commands">{body}</div>'
