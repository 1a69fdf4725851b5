"""The command line. Imports torch only inside the commands that compute."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from fairlead.app import (
    answering,
    bench,
    calibrate,
    calibrate_repulsion,
    catalogue,
    checking,
    compare,
    configuring,
    rank,
    run_set,
    scoring,
)
from fairlead.app import judge as judging
from fairlead.app import keep as keeping
from fairlead.app.console import one_line_warnings, print_json, print_pairs, print_table, quiet, say, stdout
from fairlead.app.listing import describe, item_object, item_table, list_runs, model_table
from fairlead.app.loggers import followed
from fairlead.app.mcp.command import mcp
from fairlead.app.options import (
    AsJson,
    DryRun,
    Folder,
    InStudio,
    LargerBudget,
    Log,
    NewStop,
    NewUntil,
    Out,
    Trust,
    with_run_options,
)
from fairlead.app.price_table import show_price
from fairlead.app.replaying import index_of, refuse_existing_file
from fairlead.app.running import INTERRUPTED, computing, finish, refuse_existing, reported, warn
from fairlead.app.runs_page import write_report_of
from fairlead.app.serve.command import serve
from fairlead.app.studio.command import studio
from fairlead.app.studio.opening import open_run
from fairlead.app.words import nothing_left, shown
from fairlead.core.check import is_text
from fairlead.core.errors import FairleadError, unknown
from fairlead.run import config
from fairlead.run.folders import new_folder
from fairlead.run.options import RunOptions
from fairlead.run.records import BASELINE
from fairlead.run.registry import LISTED
from fairlead.run.set_file import SetFile
from fairlead.run.spec import Spec, parse_budget
from fairlead.run.store import Store, write_atomically
from fairlead.run.view import View

app = typer.Typer(
    help="Search for better pictures with a frozen text-to-image model, at a budget.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _spec(options: RunOptions) -> Spec:
    """The options of a command line -> a checked Spec, with the defaults of the model."""
    from fairlead.run import models

    if not (options.prompt or options.like or options.unlike):
        raise FairleadError("PROMPT is missing: write what the picture should show, or use --like or --unlike.")
    try:
        options.prompt.encode()
    except UnicodeEncodeError:
        raise FairleadError(f"The prompt {options.prompt!a} is not valid UTF-8 text. Type it again.") from None
    return models.spec_of(options)


@app.command("run", short_help="Search for a better picture.")
@with_run_options(optional_prompt=True)
def run_command(
    options: RunOptions,
    prompts: run_set.Prompts = None,
    seeds: run_set.Seeds = None,
    keep: keeping.Keep = None,
    log: Log = None,
    out: Out = None,
    trust: Trust = False,
    as_json: AsJson = False,
    dry_run: DryRun = False,
    in_studio: InStudio = False,
) -> int:
    """Search for a better picture; write it, the other candidates and a report into a new folder.

    With --prompts or --seeds, do so for each of them, with one page and one table; one resume continues all.
    """
    if not options.prompt and prompts is None:
        raise FairleadError("Missing argument 'PROMPT': write what the picture should show, or use --prompts FILE.")
    if prompts is not None or seeds is not None:
        if dry_run:
            raise FairleadError("--dry-run is for one prompt and one seed. A set costs that times its runs.")
        return run_set.run_set_command(options, prompts, seeds, keep, log or (), out, as_json)
    spec = _spec(options)
    if dry_run:
        warn(spec)
        return show_price(spec, as_json)
    if in_studio:
        warn(spec)
        return open_run(options, out, {"--json": as_json, "--keep": keep, "--log": log})
    folder = out if out is not None else new_folder(spec.prompt, datetime.now(UTC), config.runs_folder())
    refuse_existing(folder)
    warn(spec)
    from fairlead.run import engine

    with computing(as_json) as (watch, stop), reported(folder), followed(log=log or ()) as events:
        seen = events.of(folder, watch)
        engine.start(spec, folder, on_progress=seen, on_step=watch.step, stop=stop, trust=trust).close()
        if keep is not None:
            from fairlead.run.diverse_subset import keep as choose

            choose(folder, keep)
    return finish(folder, as_json)


@app.command(short_help="Continue a run where it ended.")
def resume(
    run: Folder,
    budget: LargerBudget = None,
    until: NewUntil = None,
    stop_rule: NewStop = None,
    log: Log = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> int:
    """Continue a run where it ended, with a larger --budget or another stop rule if one is given.

    A run that ended by --until or --stop goes on if that rule is changed, or with a larger budget, which removes it.
    """
    limits = None if budget is None else parse_budget(budget)
    if SetFile.is_here(run):
        from fairlead.run.engine import Changes

        return run_set.resume_set(run, Changes(limits, until, stop_rule), log or (), trust, as_json)
    Store.open(run).close()
    from fairlead.run import engine

    with computing(as_json) as (watch, stop), reported(run), followed(log=log or ()) as events:
        engine.resume(
            run,
            budget=limits,
            until=until,
            stop_rule=stop_rule,
            on_progress=events.of(run, watch),
            on_step=watch.step,
            stop=stop,
            trust=trust,
        ).close()
    if watch.idle:
        say(nothing_left(View.read(run)))
    return finish(run, as_json)


@app.command(short_help="Render one candidate again and compare.")
def replay(
    run: Folder,
    candidate: Annotated[str, typer.Argument(metavar="CANDIDATE", help="Its number, or 'best', or 'baseline'.")],
    alone: Annotated[bool, typer.Option("--alone", help="Without the others of its batch.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the picture to this new file.")
    ] = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> int:
    """Render one candidate again and say whether it is identical. Exit code 1 if it is not."""
    index = index_of(run, candidate)
    if out is not None:
        refuse_existing_file(out)
    from fairlead.run import engine

    with quiet(as_json):
        again = engine.replay(run, index, alone=alone, trust=trust)
    if out is not None:
        write_atomically(out, again.image)
    if as_json:
        print_json(
            {
                "run": shown(run),
                "candidate": again.index,
                "identical": again.identical,
                "reward": {"recorded": again.recorded.reward, "replayed": again.reward},
                "max_pixel_difference": again.max_pixel_difference,
                "companions": again.companions,
                "image": None if out is None else shown(out),
            }
        )
    else:
        rows: list[tuple[str, str | Text | Path]] = [
            ("candidate", str(again.index) if again.index != BASELINE else "baseline"),
            ("recorded reward", repr(again.recorded.reward)),
            ("replayed reward", repr(again.reward)),
            (
                "pixels",
                "identical"
                if again.max_pixel_difference == 0
                else f"differ by up to {again.max_pixel_difference} of 255",
            ),
            ("rendered with", f"{again.companions} in one batch"),
        ]
        print_pairs(stdout(), rows if out is None else [*rows, ("picture", out)])
        print(again.message)
    return 0 if again.identical else 1


@app.command(short_help="Write the report of a run, or compare several.")
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="One run, or several to compare.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Page for several runs.  [default: comparison.html]"),
    ] = None,
) -> int:
    """Write the report of one run again, or one page that compares several runs."""
    print(shown(write_report_of(runs, out)))
    return 0


@app.command("list")
def list_command(
    kind: Annotated[
        str | None, typer.Argument(metavar="[KIND]", help=f"One of {', '.join(LISTED)}, runs.  [default: all but runs]")
    ] = None,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Describe only this one.")] = None,
    starred: Annotated[bool, typer.Option("--starred", help="Only runs with a starred picture.")] = False,
    as_json: AsJson = False,
) -> int:
    """What can be named in a run, or the runs in ./runs."""
    if kind is not None and kind not in (*LISTED, "runs"):
        raise unknown("list", kind, (*LISTED, "runs"))
    if kind == "runs":
        return list_runs(as_json, starred)
    if starred:
        raise FairleadError(f"--starred is for runs, but the list is of {kind or 'everything'}. See 'list runs'.")
    if kind is not None and name is not None:
        return describe(kind, name, as_json)
    kinds = LISTED if kind is None else (kind,)
    if as_json:
        found = {}
        for k in kinds:
            found[k] = [item_object(k, item) for item in catalogue.items(k)]
        print_json(found)
        return 0
    console = stdout()
    for i, k in enumerate(kinds):
        if len(kinds) > 1:
            console.print(Text(f"{chr(10) if i else ''}{k}", style="bold"))
        print_table(console, model_table() if k == "models" else item_table(k))
    return 0


@app.command()
@with_run_options()
def price(options: RunOptions, as_json: AsJson = False) -> int:
    """What a run would cost, counted without running it."""
    spec = _spec(options)
    warn(spec)
    return show_price(spec, as_json)


app.command(short_help="Methods at one budget, side by side.")(compare.compare)
app.command(short_help="A model or a method on a benchmark's prompts.")(bench.bench)
app.command(short_help="Score and rank pictures that exist.")(scoring.score)
app.command(short_help="Choose good and different pictures of a run.")(keeping.keep)
app.command(short_help="Rank the pictures that people compared.")(rank.rank)
app.command(short_help="Answer the questions of a run, then continue it.")(answering.answer)
app.command(short_help="Let a judge choose among a run's best pictures.")(judging.judge)
app.command(short_help="How much of a gain survives fewer steps.")(calibrate.calibrate)
app.command(short_help="How strong repulsion may be for a model.")(calibrate_repulsion.calibrate_repulsion)
app.command("config", short_help="Which defaults are in force, and where they come from.")(configuring.show_config)
app.command(short_help="A page to search, watch, judge and choose.")(studio)
app.add_typer(serve, name="serve", short_help="Answer other programs over HTTP, as OpenAI does.")
app.command(short_help="Tools for assistants, over the Model Context Protocol.")(mcp)
app.command(short_help="Check that everything works here.")(checking.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"fairlead {version('fairlead')}")
        except PackageNotFoundError:
            print("fairlead (not installed)")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


# running a command line


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code. Every error is one sentence on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    with one_line_warnings():
        return _main(sys.argv[1:] if argv is None else argv)


def _main(argv: Sequence[str]) -> int:
    usage_error = typer.BadParameter.__mro__[2]  # ClickException, wherever this typer keeps it
    try:
        for word in argv:
            if not is_text(word):
                raise FairleadError(f"{word!a:.80} is not valid text: type it again.")
        code = app(args=list(argv) or ["--help"], prog_name="fairlead", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except FairleadError as error:
        return _fail(str(error), error.exit_code, error)
    except (KeyboardInterrupt, typer.Abort) as error:
        return _fail("", INTERRUPTED, error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is not None and error.strerror:
            name = f"{error.filename!s:.200}"
            return _fail(
                f"{name} cannot be used ({error.strerror}). Choose another, or check its permissions.", 3, error
            )
        return _bug(error)
    except Exception as error:
        if isinstance(error, usage_error):
            where = getattr(getattr(error, "ctx", None), "command_path", "fairlead")
            return _fail(f"{error.format_message()} See '{where} --help'.", 2, error)  # type: ignore[attr-defined]
        return _bug(error)


def _bug(error: Exception) -> int:
    cause = " ".join(str(error).split()) or type(error).__name__
    return _fail(
        f"{type(error).__name__}: {cause} (a bug in fairlead: please report it; FAIRLEAD_DEBUG=1 shows where)",
        70,
        error,
    )


def _fail(sentence: str, code: int, error: BaseException) -> int:
    if os.environ.get("FAIRLEAD_DEBUG") == "1":
        traceback.print_exception(error)
    if sentence:
        say(f"fairlead: {sentence}")
    return code
