"""Attacks on the command line and on the readers of other people's files: what was tried, and what failed.

    python -m tests.attack commands --count 1000 --seed 1     argument lists, most of them --dry-run
    python -m tests.attack formulas|settings|specs|plans|stores|pictures --count 1000
    python -m tests.attack all --count 100000                 all of them, in turn

A failure is a traceback, exit code 70 ("a bug in fairlead"), or more than 10 seconds. Each one is printed with what
caused it; the exit code is 1 if there was one. The same seed tries the same inputs.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from tests.attack.inputs import TARGETS, Attack, Failed

from fairlead.run import engine, registry
from fairlead.testing.runs import small_spec

SECONDS = 10
"""What takes longer counts as hanging."""


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Raise `Failed` in what takes too long."""

    def late(*args: object) -> None:
        raise Failed(f"longer than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def attempt(attack: Attack) -> str:
    """What went wrong, empty if nothing did."""
    said = io.StringIO()
    try:
        with limited(), contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            attack.run()
    except Failed as error:
        return f"{error} {said.getvalue().strip()[-300:]}"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return ""


def main() -> int:
    """Parse the command line, attack, print tried and failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("target", choices=[*TARGETS, "all"])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    names = list(TARGETS) if options.target == "all" else [options.target]
    kinds: dict[str, int] = {}
    since = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fairlead-attack-") as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        os.chdir(folder)
        engine.Local(small_spec())  # slow imports are not what is measured
        _ = [
            registry.resolve(kind, name)
            for kind in ("searches", "steerings", "features")
            for name in registry.table(kind)
        ]
        makers = [TARGETS[name](Path(folder), options.seed) for name in names]
        for i in range(options.count):
            attack = makers[i % len(makers)](i // len(makers))
            wrong = attempt(attack)
            if wrong:
                kind = wrong.split(":")[0][:60]
                kinds[kind] = kinds.get(kind, 0) + 1
                if kinds[kind] <= 5:
                    print(f"{attack.what!a:.400}\n    {wrong}", flush=True)
    failed = sum(kinds.values())
    print(f"{options.target}: {options.count} tried, {failed} failed, {time.monotonic() - since:.0f} s {kinds or ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
