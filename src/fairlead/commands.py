"""The commands beside `run` as functions, with the words of the command line. Their results are tables.

`fairlead bench` is `fairlead.benchmark` here: `fairlead.bench` is a package, and one name for a package and a function
would mean one or the other, depending on what was imported before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairlead.app.table import Table
from fairlead.core.errors import FairleadError
from fairlead.run import config
from fairlead.run.options import RunOptions, called_with, described
from fairlead.run.part import Part

if TYPE_CHECKING:
    from fairlead.run.price import Price
    from fairlead.run.records import Replay

Folder = str | Path


class Priced(Table):
    """What a run would cost: a row for each part of it and a column for each resource."""

    def __init__(self, price: Price) -> None:
        from fairlead.app.price_table import parts_of

        self.price = price
        """All that is known: `price.candidates`, `price.seconds`, `price.memory` and others."""
        super().__init__([{"part": name, **cost.as_dict()} for name, cost in parts_of(price).items()])


class Replayed(Table):
    """A recorded candidate that was rendered again, beside its record."""

    def __init__(self, replay: Replay) -> None:
        self.identical = replay.identical
        """True if reward and pixels are equal, bit for bit."""
        self.message = replay.message
        self.image = replay.image
        """The picture as PNG."""
        row = {
            "candidate": replay.index,
            "identical": replay.identical,
            "recorded": replay.recorded.reward,
            "replayed": replay.reward,
            "max_pixel_difference": replay.max_pixel_difference,
            "companions": replay.companions,
        }
        super().__init__([row])


class Comparison(Table):
    """Methods at one budget: a row for each method and metric."""

    def __init__(self, folder: Path, standing: Any, page: str) -> None:
        super().__init__(standing.summary())
        self.folder = folder
        self.page = Path(page)
        self.cells = Table(standing.table())
        """A row for each method, prompt and seed."""
        self.curves = Table(standing.curves())
        self.refused: Mapping[str, str] = standing.refused
        """Methods that cannot be run at this budget, with the reason."""
        self.complete: bool = standing.complete


class Benchmarked(Table):
    """A benchmark's scores: a row for each judge and category."""

    def __init__(self, folder: Path, about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(rows)
        self.folder = folder
        self.about = about
        """The settings and the full results, as `fairlead bench --json` prints them."""


def _configured(*own: str) -> Callable[[], Mapping[str, Any]]:
    """The defaults of `fairlead.toml`, without options for which the command has a default of its own."""
    return lambda: {name: value for name, value in config.of_a_run().items() if name not in own}


@called_with(RunOptions, defaults=config.of_a_run)
def price(options: RunOptions) -> Priced:
    """What a run would cost, counted without running it. `model` and `reward` are named, not passed as objects."""
    from fairlead.run import models
    from fairlead.run.price import price as counted

    _named(options)
    return Priced(counted(models.spec_of(options)))


@dataclass(frozen=True, kw_only=True)
class _Calibration(RunOptions):
    """The options of a run and what `calibrate` adds; `prompt` may be a list."""

    sampler: Any = "euler"
    drafts: Sequence[str] = ("4", "6")
    candidates: int = 32


@called_with(_Calibration, defaults=_configured("sampler"))
def calibrate(options: _Calibration) -> Table:
    """How well drafts predict their finished pictures, and what they cost; a row for each of `drafts`.

    `prompt` may be a list of prompts; `candidates` are drawn for each. What is found is stored for the planner.
    """
    from fairlead.app.calibrate import measured

    _named(options)
    prompts = [options.prompt] if isinstance(options.prompt, str) else list(options.prompt)
    words = {name: getattr(options, name) for name in described()}
    found, _ = measured(RunOptions(**words), prompts, list(options.drafts), options.candidates)
    return Table([asdict(row) for row in found])


def keep(
    run: Folder,
    k: int,
    *,
    weight: float = 0.5,
    floor: float | str = "median",
    likeness: str | None = None,
    starred: bool = False,
    judged: bool = False,
) -> Table:
    """Choose k pictures of a run that are good and different, the best choice first; see `Result.keep`."""
    from fairlead.app.result import Result

    shots = Result(run).keep(k, weight=weight, floor=floor, likeness=likeness, starred=starred, judged=judged)
    return Table([{"candidate": s.index, "reward": s.reward, **s.terms, "file": str(s.path)} for s in shots])


def replay(
    run: Folder,
    candidate: int | str = "best",
    *,
    alone: bool = False,
    out: Folder | None = None,
    reward: Any = None,
    model: Any = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    trust: bool = False,
) -> Replayed:
    """Render one candidate again and compare it with the record; `candidate` may be "best" or "baseline".

    Pass `reward`, `model` and `settings` again if the run used live objects, as in `fairlead.resume`.
    """
    from fairlead import api
    from fairlead.app.replaying import index_of, refuse_existing_file
    from fairlead.run import engine
    from fairlead.run.store import write_atomically

    folder = Path(run)
    index = index_of(folder, str(candidate))
    if out is not None:
        refuse_existing_file(Path(out))
    with api.lent_to(folder, model, settings) as lent:
        live = None if reward is None else api.as_live(reward)
        found = engine.replay(folder, index, alone=alone, reward=live, model=lent, trust=trust)
    if out is not None:
        write_atomically(Path(out), found.image)
    return Replayed(found)


def report(*runs: Folder, out: Folder | None = None) -> Path:
    """Write the report of one run into its folder, or a page over several runs to `out`; the page's path."""
    from fairlead.app.runs_page import write_report_of

    return write_report_of([Path(run) for run in runs], None if out is None else Path(out))


def compare(
    plan: str | Path,
    *,
    out: Folder | None = None,
    workers: int = 1,
    budget: str | None = None,
    methods: Sequence[str] = (),
    prompts: int | None = None,
    seeds: int | None = None,
    on_cell: Callable[[Any, str], None] | None = None,
) -> Comparison:
    """Run every method of a plan on the same prompts and seeds; the same call continues an interrupted one.

    `plan` is a TOML file, or "quick" or "full". `on_cell(cell, status)` is called after every cell.
    """
    from fairlead.app.compare import Reporter
    from fairlead.bench import comparison
    from fairlead.bench import plan as plans

    chosen = plans.read(str(plan)).only(methods, prompts, seeds, budget)
    folder = Path("comparisons") / chosen.name if out is None else Path(out)
    comparison.run(chosen, folder, workers=workers, watch=on_cell or (lambda cell, status: None))
    reporter = Reporter(chosen, folder, str(plan))
    standing = reporter.write()
    return Comparison(folder, standing, reporter.files[0])


@dataclass(frozen=True, kw_only=True)
class _Benchmark(RunOptions):
    """The options of a run and what a benchmark adds. `prompt` is its name."""

    budget: Any = None
    prompts: Path | str | None = None
    judge: Sequence[str] = ()
    images: int | None = None
    category: Sequence[str] = ()
    first: int | None = None
    split_seed: int = 43
    only: str = "all"
    out: Path | str | None = None


@called_with(_Benchmark, defaults=_configured("budget"))
def benchmark(options: _Benchmark) -> Benchmarked:
    """Make a benchmark's pictures and score them, as `fairlead bench NAME`; the first argument is the name.

    Without `budget`, `steer`, `intervene` or `draft`, every picture is a plain sample.
    """
    from fairlead.app.bench import Request, measured

    _named(options)
    words = {name: getattr(options, name) for name in described()}
    found = measured(
        options.prompt,
        RunOptions(**{**words, "prompt": ""}),
        Request(
            prompts=None if options.prompts is None else Path(options.prompts),
            judge=list(options.judge),
            images=options.images,
            category=list(options.category),
            first=options.first,
            split_seed=options.split_seed,
            only=options.only,
            out=None if options.out is None else Path(options.out),
        ),
    )
    rows = [row for result in found.done for row in result.rows()]
    return Benchmarked(found.folder, found.about, rows)


def _named(options: RunOptions) -> None:
    """Refuse live objects where only names are read."""
    for name in ("model", "reward"):
        value = getattr(options, name)
        if not isinstance(value, str | Part | Mapping):
            raise FairleadError(f"{name} is {value!r:.60}: must be a name here. Live objects are for fairlead.run.")
