"""`fairlead bench NAME`: a model, or a method over it, on a benchmark's prompts."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from fairlead.app.console import say, stderr
from fairlead.app.options import ALL_OPTIONS, AsJson, with_run_options
from fairlead.app.progress import Interrupt
from fairlead.app.words import command, count, duration, shown
from fairlead.core.check import one_of, whole_number
from fairlead.core.errors import unknown
from fairlead.run.options import RunOptions
from fairlead.run.spec import Part, Spec, spec_of
from fairlead.run.store import as_json as to_json
from fairlead.run.store import write_atomically

if TYPE_CHECKING:
    from fairlead.bench.judging import Judge, Result
    from fairlead.bench.painting import Job
    from fairlead.bench.suites import Suite

EVERY = 5.0
"""Seconds between two lines about progress."""
INTERRUPTED = 130
ENDLESS = {"nfe": 1e15}
"""The budget of one controlled picture without a search: what it takes."""
STAGES = ("all", "generate", "score")


@with_run_options([name for name in ALL_OPTIONS if name not in ("prompt", "watch")], {"budget": None})
def bench(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="geneval, t2i_compbench, drawbench, partiprompts, or prompts.")
    ],
    prompts: Annotated[Path | None, typer.Option(metavar="PATH", help="Its published file or folder.")] = None,
    *,
    options: RunOptions,
    judge: Annotated[
        list[str] | None, typer.Option(metavar="FORMULA", help="Score by this reward.  [default: its own]")
    ] = None,
    images: Annotated[
        int | None, typer.Option(metavar="N", help="Pictures per prompt.  [default: as published]")
    ] = None,
    category: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only this category; repeat.")] = None,
    first: Annotated[int | None, typer.Option(metavar="N", help="Only the first prompts of every category.")] = None,
    split_seed: Annotated[int, typer.Option(metavar="N", help="Of a new GenEval split.")] = 43,
    only: Annotated[str, typer.Option(metavar="STAGE", help="all, generate or score.")] = "all",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Its folder.  [default: in benchmarks/]")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Make a benchmark's pictures and score them; the same command continues after an interruption.

    Without --budget, --steer, --intervene or --draft, every picture is a plain sample. With a budget, every picture is
    the winner of a search for --reward. With --steer alone, it is one steered sample.
    """
    request = Request(prompts, judge or (), images, category or (), first, split_seed, only, out)
    with contextlib.redirect_stdout(sys.stderr), Interrupt(announce=not stderr().is_terminal) as stop:
        found = measured(name, options, request, stop)
        stopped = stop()
    print(to_json(found.about)) if as_json else _show(found.about, found.done, found.template)
    if stopped:
        again = command("bench", name, "...", "--out", shown(found.folder))
        say(f"Stopped early. Continue with the same command: {again}")
        return INTERRUPTED
    return 0


@dataclass(frozen=True)
class Request:
    """What a benchmark is asked for, beside the options of a run."""

    prompts: Path | None = None
    judge: Sequence[str] = ()
    images: int | None = None
    category: Sequence[str] = ()
    first: int | None = None
    split_seed: int = 43
    only: str = "all"
    out: Path | None = None


class Measured(NamedTuple):
    """What a benchmark found."""

    folder: Path
    about: dict[str, Any]
    done: list[Result]
    template: Spec


def measured(name: str, options: RunOptions, request: Request, stop: Callable[[], bool] = lambda: False) -> Measured:
    """Make the pictures and score them, as far as `stop` lets it; the same call continues."""
    from fairlead.bench import painting, suites
    from fairlead.run import models

    one_of("--only", request.only, STAGES)
    own = models.defaults_of(options)
    every = suites.load(name, request.prompts, own.get("vocabulary") == "words", request.split_seed)
    suite = _part(every, request.category, request.first)
    plain = options.budget is None and not options.steer and not options.intervene and options.draft is None
    fixed = options.budget is None and options.search == "best_of" and options.draft is None
    asked = replace(options, prompt=suite.asked[0].text, seed=0)
    if fixed:
        asked = replace(asked, search=f"best_of(n={options.group})", budget=ENDLESS)
    template = spec_of(asked, own)
    images = suite.images if request.images is None else request.images
    job = painting.Job(suite, models.with_dtype(template), images, options.seed, plain)
    whole_number("--images", job.images, 1)
    folder = request.out or Path("benchmarks") / _folder(job)
    if request.only != "score":
        painting.paint(job, folder, _progress("pictures"), stop)
    ends_here = request.only == "generate" or stop()
    done = [] if ends_here else _judged(job, folder, own, request.judge, stop)
    about = {**painting.manifest(folder), "folder": shown(folder), "results": [r.as_dict() for r in done]}
    if done:
        write_atomically(folder / "results.json", (to_json(about) + "\n").encode())
    return Measured(folder, about, done, template)


def _part(suite: Suite, categories: Sequence[str], first: int | None) -> Suite:
    """Some categories, the first prompts of each, in the suite's order."""
    known = list(dict.fromkeys(a.category for a in suite.asked))
    for name in categories:
        if name not in known:
            raise unknown("category", name, known, of=suite.name)
    seen: dict[str, int] = {}
    kept = []
    for asked in suite.asked:
        seen[asked.category] = seen.get(asked.category, 0) + 1
        if (not categories or asked.category in categories) and (first is None or seen[asked.category] <= first):
            kept.append(asked)
    parts = [*categories, *([f"the first {first} of every category"] if first is not None else [])]
    return replace(suite, asked=tuple(kept), source=", ".join([suite.source, *parts]))


def _folder(job: Job) -> str:
    from hashlib import blake2b

    from fairlead.run.folders import slug

    digest = blake2b(to_json(job.question()).encode(), digest_size=4).hexdigest()
    return f"{job.suite.name}-{slug(Path(job.template.model.name).name, 24)}-{digest}"


def _judged(
    job: Job, folder: Path, own: dict[str, Any], formulas: Sequence[str], stop: Callable[[], bool]
) -> list[Result]:
    from fairlead.bench import judges, judging

    every: list[Judge] = [judging.Formula(f) for f in formulas] or judges.usual(
        job.suite, own.get("vocabulary") == "words"
    )
    out = []
    for one in every:
        if stop():
            break
        records = judging.score(one, folder, _progress(f"scores of {one.id}"), stop)
        if not stop():
            out.append(judging.summarise(one, records, tasks=job.suite.name == "geneval"))
    return out


def _progress(what: str) -> Callable[[int, int], None]:
    since = last = time.monotonic()
    begun: int | None = None

    def seen(done: int, total: int) -> None:
        nonlocal last, begun
        begun = done if begun is None else begun
        now = time.monotonic()
        if now - last > EVERY and done > begun:
            last = now
            left = (now - since) / (done - begun) * (total - done)
            say(f"{count(done)} of {count(total)} {what}, {duration(left)} left")

    return seen


def _method(spec: Spec) -> str:
    from fairlead.app.words import part_text
    from fairlead.run.spec import reward_text

    parts = [part_text(p) for p in (*spec.steering, *spec.interventions)]
    if spec.budget != ENDLESS or spec.draft:
        budget = ", ".join(f"{k}={v:g}" for k, v in spec.budget.items())
        parts.insert(0, f"{part_text(spec.search)} for {reward_text(spec.reward)} at {budget}")
    elif spec.steering:
        parts.append(f"for {reward_text(spec.reward)}")
    return " + ".join(parts) or "plain samples"


def _show(about: dict[str, Any], done: list[Result], spec: Spec) -> None:
    for result in done:
        print(result.markdown())
        extra = ", ".join(f"{v:.3f} {k}" for k, v in result.extra.items())
        left = f" {result.without} pictures got no number." if result.without else ""
        print(f"\n{result.note[0].upper()}{result.note[1:]}.{f' Also {extra}.' if extra else ''}{left}\n")
    model = Part(**about["spec"]["model"])
    dtype = model.settings.get("dtype", "the device's own dtype")
    packages = ("fairlead", "torch", "diffusers", "transformers")
    versions = ", ".join(f"{k} {v}" for k, v in about["versions"].items() if k in packages)
    print(
        f"{model.name}, {_method(spec)}, {spec.sampler}, {spec.steps} steps, {dtype}, "
        f"{about['images']} pictures per prompt, seed {about['seed']}; "
        f"prompts: {about['prompts']}, {about['source']}, sha256 {about['prompts_sha256']}; {versions}."
    )
    spent = about["spent"]
    print(f"{count(spent['nfe'])} NFE, {count(spent['forwards'])} network rows, {duration(spent['seconds'])}.")
    print(f"All files are in {about['folder']}.")
