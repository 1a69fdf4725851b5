"""Plant small errors in a copy of the code, one at a time, and report which of them no test notices.

    python -m tools.mutate                       plant, run the tests, print the table
    python -m tools.mutate --only searches/snes  only files whose path contains this
    python -m tools.mutate --survivors           run again what survived, for example after adding a test
    python -m tools.mutate --show                print the table of what was already run
    python -m tools.mutate --write               the same, and write docs/mutations.md

`--count` errors (180) are drawn with `--seed` (0) and spread evenly over the files of six folders. Each answer is
written to `--state` at once, a folder outside the repository, so the command can be stopped and continues where it was.

For every folder the tests first run without an error: the folder's own and `tests/test_laws.py`. They record which
lines each test reaches and how long it takes. An error is then tried against the tests that reach its line, fastest
first, then those that start other processes. The first failure ends the trial, which may take `--seconds` (40). If no
test has failed by then, the error counts as caught only if one test hangs: it has run for ten times as long as usual.

An error that cannot change behaviour is listed in `tools/mutate_equivalents.toml` with a reason.

Why not mutmut or cosmic-ray: mutmut has no sampling and replaces functions by trampolines, which tests that read
signatures, sources and `__code__` notice. cosmic-ray starts a new Python for each error, which would import torch and
diffusers each time. Neither chooses tests by line, and both want to change the working tree. Here the parent process
imports the heavy packages once and is forked for each error.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tools.mutations import Mutation, sample

ROOT = Path(__file__).parents[1]
FOLDERS = ("core", "steering", "searches", "interventions", "bench", "metrics")
LAWS = "tests/test_laws.py"
HEAVY = ("torch", "diffusers", "transformers", "scipy", "sklearn", "pandas", "hypothesis", "botorch", "gpytorch", "cma")
STAYS_OUT = ("torch._inductor", "torch._dynamo", "torch.distributed")
"""Parts of torch that start processes or threads of their own when imported: not before a fork."""
MEMORY = 8 * 2**30
HANGS = 10
SETTLED = {"caught", "hangs"}


# what happens inside the forked process


class Reached:
    """pytest plugin: writes for every test how long it takes and which lines of the package it reaches."""

    def __init__(self, copy: Path, out: Path) -> None:
        self._prefix, self._out = str(copy / "src") + os.sep, out
        self._names: dict[str, str | None] = {}
        self._now: set[tuple[str, int]] = set()
        self._fixtures: dict[str, set[tuple[str, int]]] = {}
        self._outside = False
        self._tests: dict[str, dict[str, Any]] = {}
        self._reports: list[pytest.TestReport] = []

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        name = frame.f_code.co_filename
        if name not in self._names:
            self._names[name] = "src/" + name.removeprefix(self._prefix) if name.startswith(self._prefix) else None
        short = self._names[name]
        if short is None:
            if frame.f_code is subprocess.Popen.__init__.__code__ or frame.f_code.co_name == "_launch":
                self._outside = True
            return None

        def line(frame: FrameType, event: str, argument: Any) -> Any:
            self._now.add((short, frame.f_lineno))
            return line

        self._now.add((short, frame.f_lineno))
        return line

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        """What a shared fixture reaches counts for every test that uses it, not only for the first."""
        if fixturedef.scope == "function":
            return (yield)
        before, self._now = self._now, set()
        try:
            return (yield)
        finally:
            self._fixtures.setdefault(fixturedef.argname, set()).update(self._now)
            self._now |= before

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """One test with its fixtures, traced."""
        self._now, self._outside, self._reports = set(), False, []
        start = time.monotonic()
        sys.settrace(self._trace)
        threading.settrace(self._trace)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            threading.settrace(None)
            for name in getattr(item, "fixturenames", ()):
                self._now |= self._fixtures.get(name, set())
            lines: dict[str, list[int]] = {}
            for file, number in sorted(self._now):
                lines.setdefault(file, []).append(number)
            self._tests[item.nodeid] = {
                "seconds": time.monotonic() - start,
                "passed": all(one.passed for one in self._reports),
                "outside": self._outside,
                "lines": lines,
            }

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Setup, call and teardown."""
        self._reports.append(report)

    def pytest_sessionfinish(self) -> None:
        """Write what was found, and what to import before the forks."""
        heavy = [n for n in sys.modules if n.partition(".")[0] in HEAVY and not n.startswith(STAYS_OUT)]
        self._out.write_text(json.dumps({"tests": self._tests, "modules": heavy}))


class Ordered:
    """pytest plugin: runs the named tests in their order, and writes a line when each starts and ends."""

    def __init__(self, names: list[str], out: Path) -> None:
        self._place = {name: i for i, name in enumerate(names)}
        self._out = out

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """The chosen tests in their order."""
        items[:] = sorted((one for one in items if one.nodeid in self._place), key=lambda one: self._place[one.nodeid])

    def _write(self, *words: Any) -> None:
        with self._out.open("a") as file:
            file.write(json.dumps([time.monotonic(), *words]) + "\n")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A line with the time."""
        self._write("start", nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A line with the reason of a failure."""
        if report.failed:
            self._write("failed", report.nodeid, getattr(report.longrepr, "reprcrash", None) and _crash(report))

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """A line with the time."""
        self._write("end", nodeid)


def _crash(report: pytest.TestReport) -> str:
    return str(report.longrepr.reprcrash.message).partition("\n")[0][:200]  # type: ignore[union-attr]


def _run_pytest(copy: Path, log: Path, words: list[str], plugin: object) -> None:
    """Ends this process with pytest's exit code."""
    code = 70
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(output, stream)
        os.chdir(copy)
        for name in [n for n in sys.modules if n.partition(".")[0] in ("fairlead", "tools", "tests")]:
            if name != __name__ and not name.startswith("tools.mut"):
                del sys.modules[name]
        sys.path[:] = [str(copy / "src"), str(copy), *(p for p in sys.path if not _is_ours(p))]
        limit = MEMORY + 4096 * int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        code = int(pytest.main([*words, "-q", "-p", "no:cacheprovider", "--durations=0"], plugins=[plugin]))
    finally:
        sys.stdout.flush()
        os._exit(code)


def _is_ours(path: str) -> bool:
    return Path(path or ".").resolve() in (ROOT, ROOT / "src")


# the parent process


@dataclass(frozen=True)
class Trial:
    """How one error fared."""

    outcome: str
    """caught, hangs, survived, unfinished (no failure in the time), no test."""
    test: str
    """The test that failed, hung, or was running."""
    seconds: float
    why: str = ""


class Workplace:
    """A copy of the tree, a folder with what is already known, and forked test runs."""

    def __init__(self, state: Path, seconds: float) -> None:
        self.state, self._seconds = state, seconds
        self.copy = state / "copy"
        state.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.copy, ignore_errors=True)
        names = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        for name in names.stdout.splitlines():
            if (ROOT / name).is_file():
                (self.copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.copy / name)
        os.environ["PYTHONPATH"] = os.pathsep.join([str(self.copy / "src"), str(self.copy)])
        os.environ["OMP_NUM_THREADS"] = "1"
        self.answers = _read_lines(state / "answers.jsonl")

    def remember(self, one: Mutation, trial: Trial) -> None:
        """Writes an answer at once."""
        self.answers[one.key] = {"key": one.key, **vars(trial)}
        with (self.state / "answers.jsonl").open("a") as file:
            file.write(json.dumps(self.answers[one.key]) + "\n")

    def _fork(self, words: list[str], plugin: object, seconds: float, finished: Callable[[], bool]) -> int | None:
        """The exit code, or None where the time was over."""
        child = os.fork()
        if child == 0:
            _run_pytest(self.copy, self.state / "output.txt", words, plugin)
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end and not finished():
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    child = 0
                    return os.waitstatus_to_exitcode(status)
                time.sleep(0.05)
            return None
        finally:
            if child:
                _end(child)

    def baseline(self, suite: str) -> dict[str, Any]:
        """What each test of a folder or file reaches. Only files that changed, or whose subject did, run again."""
        path = self.copy / suite
        files = [path] if path.is_file() else sorted(path.glob("test_*.py"))
        folders = FOLDERS if suite == LAWS else (path.name,)
        sources = [one for folder in folders for one in sorted((self.copy / "src/fairlead" / folder).glob("*.py"))]
        helpers = sorted(one for one in path.parent.glob("*.py") if not one.name.startswith("test_"))
        shared = blake2b(b"".join(one.read_bytes() for one in [*sources, *helpers])).digest()
        kept = self.state / f"baseline_{path.stem}.json"
        found: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {"files": {}, "modules": []}
        digests = {
            one.relative_to(self.copy).as_posix(): blake2b(one.read_bytes() + shared, digest_size=8).hexdigest()
            for one in files
        }
        stale = [name for name, digest in digests.items() if found["files"].get(name, {}).get("digest") != digest]
        if stale:
            print(f"{suite}: running {len(stale)} files without an error", flush=True)
            tests, modules = self._reached(stale)
            found["modules"] = sorted({*found["modules"], *modules})
            for name in stale:
                own = {test: what for test, what in tests.items() if test.partition("::")[0] == name}
                found["files"][name] = {"digest": digests[name], "tests": own}
            kept.write_text(json.dumps(found))
        found["tests"] = {}
        for name in digests:
            found["tests"] |= found["files"][name]["tests"]
        return found

    def _reached(self, files: list[str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
        """The tests of these files that pass, with seconds and lines, and the heavy modules they import."""
        out = self.state / "reached.json"
        out.unlink(missing_ok=True)
        self._fork(files, Reached(self.copy, out), 1800, lambda: False)
        if not out.exists():
            raise SystemExit(f"The tests did not finish without an error. See {self.state / 'output.txt'}.")
        found = json.loads(out.read_text())
        passing = {name: test for name, test in found["tests"].items() if test["passed"]}
        order = sorted(passing, key=lambda name: passing[name]["seconds"])
        seconds, failing = self._sound(order)
        for name in order:
            passing[name]["seconds"] = seconds.get(name, 1e9)
        left_out = sorted((found["tests"].keys() - passing.keys()) | failing)
        print(f"left out, because they are skipped or fail without an error: {left_out or 'none'}", flush=True)
        return {name: test for name, test in passing.items() if name not in failing}, found["modules"]

    def _sound(self, order: list[str]) -> tuple[dict[str, float], set[str]]:
        """Seconds of every test in the order of the trials, and the tests that fail there without an error."""
        out = self.state / "trial.jsonl"
        out.unlink(missing_ok=True)
        self._fork(_files(order), Ordered(order, out), 1800, lambda: False)
        seconds: dict[str, float] = {}
        failing: set[str] = set()
        for when, what, name, *_ in _lines(out):
            if what == "start":
                seconds[name] = when
            elif what == "end":
                seconds[name] = when - seconds[name]
            else:
                failing.add(name)
        return seconds, failing

    def trial(self, one: Mutation, tests: dict[str, dict[str, Any]]) -> Trial:
        """Plants one error and runs the tests that may notice it."""
        order = order_of(one, tests)
        if not order:
            return Trial("no test", "", 0.0)
        out = self.state / "trial.jsonl"
        out.unlink(missing_ok=True)
        start = time.monotonic()
        with self._planted(one):
            code = self._fork(
                [*_files(order), "-x"], Ordered(order, out), self._seconds, lambda: _failed(out) is not None
            )
        seconds = time.monotonic() - start
        failure = _failed(out)
        if failure:
            return Trial("caught", failure[2], seconds, failure[3] or "")
        if code == 0:
            return Trial("survived", "", seconds)
        if code is not None:
            return Trial("caught", "import", seconds, f"pytest ended with {code}")
        running = [line for line in _lines(out) if line[1] == "start"]
        if not running:
            return Trial("hangs", "import", seconds)
        began, _, name = running[-1]
        usual = tests[name]["seconds"]
        hangs = time.monotonic() - began > HANGS * usual + 2
        return Trial("hangs" if hangs else "unfinished", name, seconds)

    @contextmanager
    def _planted(self, one: Mutation) -> Iterator[None]:
        path = self.copy / one.file
        sound = path.read_text(encoding="utf-8")
        try:
            self._write(path, one.apply(sound))
            yield
        finally:
            self._write(path, sound)

    @staticmethod
    def _write(path: Path, text: str) -> None:
        """Without what Python compiled before: it compares whole seconds and sizes only."""
        path.write_text(text, encoding="utf-8")
        for old in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            old.unlink()


def _end(child: int) -> None:
    for send in (os.killpg, os.kill):
        try:
            send(child, signal.SIGKILL)
        except ProcessLookupError:
            continue
    os.waitpid(child, 0)


def _files(names: list[str]) -> list[str]:
    return list(dict.fromkeys(name.partition("::")[0] for name in names))


def _lines(path: Path) -> list[list[Any]]:
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _failed(path: Path) -> list[Any] | None:
    return next((line for line in _lines(path) if line[1] == "failed"), None)


def _read_lines(path: Path) -> dict[str, dict[str, Any]]:
    text = path.read_text() if path.exists() else ""
    return {answer["key"]: answer for answer in map(json.loads, text.splitlines())}


def order_of(one: Mutation, tests: dict[str, dict[str, Any]]) -> list[str]:
    """The tests that reach the line, fastest first, then those that start processes of their own.

    Lines that run at import, and lines that no test is seen to reach, are tried against all, those that reach the
    file first.
    """
    reaching = {name for name, test in tests.items() if one.line in test["lines"].get(one.file, ())}
    touching = {name for name, test in tests.items() if one.file in test["lines"]}
    chosen = reaching | {name for name, test in tests.items() if test["outside"]}
    if not one.in_function or not reaching:
        reaching, chosen = touching, set(tests)
    return sorted(chosen, key=lambda name: (name not in reaching, tests[name]["seconds"]))


def preload(names: list[str]) -> None:
    """Imports the heavy packages before the forks."""
    for name in names:
        try:
            importlib.import_module(name)
        except Exception:  # a module that only loads in a certain order is loaded by the test again
            continue


# the table


def equivalents(path: Path = ROOT / "tools" / "mutate_equivalents.toml") -> dict[str, str]:
    """Key of an error that cannot change behaviour -> the reason."""
    if not path.exists():
        return {}
    return {key: entry["reason"] for key, entry in tomllib.loads(path.read_text(encoding="utf-8")).items()}


def table(chosen: list[Mutation], answers: dict[str, dict[str, Any]], reasons: dict[str, str]) -> str:
    """Markdown: numbers for each folder, then what survived and what is equivalent."""
    rows: dict[str, Counter[str]] = {folder: Counter() for folder in FOLDERS}
    for one in chosen:
        outcome = "equivalent" if one.key in reasons else answers.get(one.key, {}).get("outcome", "not run")
        rows[one.file.split("/")[2]][outcome] += 1
    total: Counter[str] = sum(rows.values(), Counter())
    lines = [
        "| folder | planted | equivalent | caught | hangs | survived | share caught |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in [*rows.items(), ("all", total)]:
        real = row.total() - row["equivalent"] - row["not run"]
        settled = sum(row[outcome] for outcome in SETTLED)
        share = f"{settled / real:.1%}" if real else ""
        cells = [name, row.total(), row["equivalent"], row["caught"], row["hangs"], real - settled, share]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    if total["not run"]:
        lines += ["", f"{total['not run']} were not run yet."]
    survivors = [one for one in chosen if one.key not in reasons and _survived(one, answers)]
    lines += ["", f"Survivors: {len(survivors)}"]
    lines += [f"- {place(one)} ({answers[one.key]['outcome']})" for one in survivors]
    return "\n".join(lines)


def place(one: Mutation) -> str:
    """One error in a line."""
    before, after = (" ".join(text.split()) for text in (one.before, one.after))
    where = f"`{one.file.removeprefix('src/fairlead/')}` {one.function or 'module'}"
    return f"{where}, {one.kind}: `{before}` -> `{after}`"


def _survived(one: Mutation, answers: dict[str, dict[str, Any]]) -> bool:
    return one.key in answers and answers[one.key]["outcome"] not in SETTLED


def write(chosen: list[Mutation], words: str, reasons: dict[str, str], seed: int) -> None:
    """docs/mutations.md."""
    listed = [one for one in chosen if one.key in reasons]
    text = [
        "# What the tests notice",
        "",
        "This page is for people who change fairlead and want to know how far its tests can be trusted.",
        "",
        f"`python -m tools.mutate --count {len(chosen)} --seed {seed}` plants small errors, one at a time, and runs",
        "the tests of the changed folder and the laws. `--write` writes this page. An error that hangs a test counts",
        "as caught.",
        "",
        words,
        "",
        "Errors that cannot change behaviour, which do not count:",
        "",
        *(f"- {place(one)}. {reasons[one.key]}" for one in listed),
    ]
    (ROOT / "docs" / "mutations.md").write_text("\n".join(text) + "\n", encoding="utf-8")


# the command


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.mutate", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=180)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=40.0, help="limit of one trial")
    parser.add_argument("--state", type=Path, default=Path(tempfile.gettempdir()) / "fairlead-mutations")
    parser.add_argument("--only", default="", help="run only files whose path contains this")
    parser.add_argument("--survivors", action="store_true", help="run again what was not caught")
    parser.add_argument("--show", action="store_true", help="run nothing")
    parser.add_argument("--write", action="store_true", help="run nothing, write docs/mutations.md")
    words = parser.parse_args()
    paths = [path for name in FOLDERS for path in (ROOT / "src" / "fairlead" / name).glob("*.py")]
    texts = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    chosen, reasons = sample(texts, words.count, words.seed), equivalents()
    state: Path = words.state.resolve()
    if not (words.show or words.write):
        run(chosen, reasons, Workplace(state, words.seconds), words.only, words.survivors)
    answers = _read_lines(state / "answers.jsonl")
    report = table(chosen, answers, reasons)
    print(report)
    if words.write:
        write(chosen, report, reasons, words.seed)


def run(chosen: list[Mutation], reasons: dict[str, str], place_: Workplace, only: str, survivors: bool) -> None:
    """Tries every error that has no answer yet."""
    for folder in FOLDERS:
        own = [one for one in chosen if f"/{folder}/" in one.file and only in one.file and one.key not in reasons]
        again = {one.key for one in own if survivors and _survived(one, place_.answers)}
        waiting = [one for one in own if one.key not in place_.answers or one.key in again]
        if not waiting:
            continue
        found = [place_.baseline(f"tests/{folder}"), place_.baseline(LAWS)]
        tests = found[0]["tests"] | found[1]["tests"]
        preload(found[0]["modules"] + found[1]["modules"])
        for i, one in enumerate(waiting):
            trial = place_.trial(one, tests)
            place_.remember(one, trial)
            print(
                f"{folder} {i + 1}/{len(waiting)} {trial.outcome:10} {trial.seconds:5.1f} s  {place(one)}", flush=True
            )


if __name__ == "__main__":
    main()
