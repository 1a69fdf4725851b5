"""Attacks on the command line and on the readers of other people's files: what was tried, and what failed.

    python -m tests.attack all                             100,000 inputs, as many of each kind as SHARES says
    python -m tests.attack formulas --count 1000 --seed 1  one kind: formulas, settings, specs, plans, commands, stores,
                                                           pictures
    python -m tests.attack table --write docs/security.md  the table of all that was tried

A failure is anything but an answer or a refusal in one sentence: a traceback, exit code 70 ("a bug in fairlead"), the
end of the process, or more than 10 seconds. Each kind of failure is printed with the smallest input that was found for
it; the exit code is 1 if there was one. The same seed tries the same inputs. What was tried is kept in --state, and a
second call goes on from there.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from tests.attack.commands import commands
from tests.attack.drive import State, drive
from tests.attack.pictures import pictures
from tests.attack.readers import formulas, plans, settings, specs
from tests.attack.stores import stores
from tests.attack.target import Target

from fairlead.run import engine, registry
from fairlead.testing.runs import small_spec

TARGETS: dict[str, Callable[[Path], Target]] = {
    "formulas": formulas,
    "settings": settings,
    "specs": specs,
    "plans": plans,
    "commands": commands,
    "stores": stores,
    "pictures": pictures,
}
SHARES = {
    "formulas": 25_000,
    "settings": 10_000,
    "specs": 25_000,
    "plans": 15_000,
    "commands": 10_000,
    "stores": 7_500,
    "pictures": 7_500,
}
MARKS = ("<!-- attack table -->\n", "<!-- end of the attack table -->\n")


def warm() -> None:
    """Import what is slow, so that every worker has it."""
    torch.set_num_threads(1)
    engine.Local(small_spec())
    for kind in ("searches", "steerings", "interventions", "features", "spaces"):
        for name in registry.table(kind):
            registry.resolve(kind, name)


def show(name: str, state: State) -> None:
    """Print what was tried and what failed; of every kind of failure the first five."""
    seen: dict[str, int] = {}
    for one in state.failures:
        kind = one["wrong"].split(": ")[0]
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] <= 5:
            print(f"{name} {one['number']}: {one['wrong']}\n    {one['input']:.600}")
    rate = state.tried / max(state.seconds, 1e-9)
    print(f"{name}: {state.tried} tried, {len(state.failures)} failed, {rate:.0f} a second {seen or ''}", flush=True)


def table(folder: Path) -> list[str]:
    """Everything in --state as a table in Markdown."""
    lines = ["| input | tried | accepted | refused later | refused by the first check | places that refuse "]
    lines[0] += "| longest | failed |"
    lines.append("|---|---|---|---|---|---|---|---|")
    total = State()
    for name in TARGETS:
        states = [State.load(path) for path in sorted(folder.glob(f"{name}-*.json"))]
        one = State()
        for state in states:
            for each in (one, total):
                each.tried += state.tried
                each.accepted += state.accepted
                each.first += state.first
                each.longest = max(each.longest, state.longest)
                each.refusals += state.refusals
                each.failures += state.failures
        if states:
            lines.append(row(name, one))
    return [*lines, row("**all**", total)]


def row(name: str, state: State) -> str:
    """One line of the table."""
    first = state.first_checks
    later = sum(state.refusals.values()) - first
    cells = [name, state.tried, state.accepted, later, first, len(state.refusals)]
    cells += [f"{state.longest:.1f} s", len(state.failures)]
    return "| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else cell for cell in cells) + " |"


def write_table(lines: list[str], path: Path) -> None:
    """Put the table between its marks."""
    before, _, rest = path.read_text().partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    path.write_text(before + MARKS[0] + "\n" + "\n".join(lines) + "\n\n" + MARKS[1] + after)


def main() -> int:
    """Parse the command line, attack, print tried and failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("target", choices=[*TARGETS, "all", "table"])
    parser.add_argument("--count", type=int, help="inputs of each kind; left out, those of SHARES")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--state", type=Path, help="folder of what was tried; left out, everything starts anew")
    parser.add_argument("--write", type=Path, help="page into which the table is written")
    options = parser.parse_args()
    if options.target == "table":
        lines = table(options.state or Path())
        print("\n".join(lines))
        if options.write:
            write_table(lines, options.write)
        return 0
    warnings.simplefilter("ignore")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    names = list(TARGETS) if options.target == "all" else [options.target]
    shared = Path("/dev/shm")
    failed = 0
    with tempfile.TemporaryDirectory(prefix="fairlead-attack-", dir=shared if shared.is_dir() else None) as folder:
        state = (options.state or Path(folder) / "state").absolute()
        state.mkdir(parents=True, exist_ok=True)
        os.environ["XDG_CACHE_HOME"] = folder
        os.chdir(folder)
        warm()
        for name in names:
            own = Path(folder) / name
            own.mkdir()
            path = state / f"{name}-{options.seed}.json"
            found = drive(TARGETS[name](own), path, f"{options.seed} {name}", options.count or SHARES[name])
            show(name, found)
            failed += len(found.failures)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
