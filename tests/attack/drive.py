"""Inputs one after the other in a forked worker, under limits of time and memory; resumable.

A machine under load does not make a hang. The time of an input is the larger of its processor time and its wall time
without the time that it waited for a processor (`/proc/PID/schedstat`). The worker looks at it once a second. Where the
worker is stuck outside Python, its parent looks and ends it.
"""

from __future__ import annotations

import contextlib
import io
import json
import mmap
import os
import random
import resource
import signal
import struct
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.attack.shrink import smallest
from tests.attack.target import Failed, Refused, Target, check_sentence, place

from fairlead.core.errors import FairleadError

SECONDS = 10.0
"""What takes longer hangs."""
PATIENCE = 15.0
"""Of the parent, before it ends a worker that does not react."""
MEMORY = 6 << 30
"""Bytes that a worker may take beyond what it has at its start."""
BROKEN = 99
"""The exit code of a worker with a bug of its own."""
CHUNK = 2000
"""Inputs of one worker, so that what one leaves in memory does not add up."""
SAVED = 5.0
"""Seconds between two saved states."""


def waited(process: int | str = "self") -> float:
    """Seconds that a process was ready to run and had no processor; 0 where the system does not say."""
    try:
        return int(Path(f"/proc/{process}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


class Watch:
    """The time of one input, as the module says."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """A new input."""
        self._wall = time.monotonic()
        self._processor = time.process_time()
        self._waited = waited()

    def seconds(self) -> float:
        """Of this input so far."""
        wall = time.monotonic() - self._wall - (waited() - self._waited)
        return max(wall, time.process_time() - self._processor)


@dataclass
class State:
    """What was tried so far."""

    tried: int = 0
    accepted: int = 0
    first: int = 0
    """Refused by the first check."""
    seconds: float = 0.0
    """Processor time."""
    longest: float = 0.0
    refusals: Counter[str] = field(default_factory=Counter)
    """By the place of the package that refused."""
    failures: list[dict[str, Any]] = field(default_factory=list)
    next: int = 0
    """The first input that was not tried yet."""
    left: list[int] = field(default_factory=list)
    """Inputs before it that are to be tried again."""

    @property
    def first_checks(self) -> int:
        """Refused by the first check: of a command line, by typer before any function of fairlead ran."""
        return self.first + sum(many for where, many in self.refusals.items() if where.endswith(" _main"))

    def save(self, path: Path) -> None:
        """Write it as a whole or not at all."""
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(vars(self)))
        os.replace(temporary, path)

    @staticmethod
    def load(path: Path) -> State:
        """The state that was saved, or a new one."""
        if not path.is_file():
            return State()
        data = json.loads(path.read_text())
        return State(**{**data, "refusals": Counter(data["refusals"])})


@contextlib.contextmanager
def limited(watch: Watch) -> Iterator[None]:
    """Raise `Failed` in what takes too long, once a second until it ends."""

    def look(*args: object) -> None:
        if watch.seconds() > SECONDS:
            raise Failed(f"longer than {SECONDS:g} s")

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, 1.0, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def attempt(target: Target, what: Any) -> tuple[str, BaseException | None]:
    """How an input ended: "" if it was accepted, "refused", or what went wrong; with the error."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            target.run(what)
    except Refused as error:
        return "refused", error.cause
    except FairleadError as error:
        try:
            check_sentence(error)
        except Failed as failed:
            return str(failed), error
        return "refused", error
    except Failed as error:
        return str(error), error
    except BaseException as error:
        return f"{type(error).__name__} at {place(error)}: {str(error)[:200]}", error
    return "", None


def kind(wrong: str) -> str:
    """A failure without its details: two inputs with one cause have one kind."""
    return wrong.split(": ")[0]


def count(state: State, target: Target, error: BaseException | None) -> None:
    """Book one input that did not fail."""
    if error is None:
        state.accepted += 1
        return
    state.refusals[place(error)] += 1
    state.first += any(piece in str(error) for piece in target.first)


class Pulse:
    """Two numbers that worker and parent share: the input, and how many calls were made."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 16)

    def beat(self, number: int) -> None:
        """The worker goes on."""
        self._shared[:16] = struct.pack("qq", number, self.read()[1] + 1)

    def read(self) -> tuple[int, int]:
        """The input and the calls so far."""
        number, calls = struct.unpack("qq", self._shared[:16])
        return number, calls


def work(target: Target, path: Path, seed: str, total: int, pulse: Pulse) -> None:
    """Try the next inputs in this process."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    state = State.load(path)
    watch = Watch()
    saved = time.monotonic()
    known = {kind(one["wrong"]) for one in state.failures}
    gone = {one["number"] for one in state.failures}
    numbers = [n for n in state.left if n not in gone]
    numbers += [n for n in range(state.next, min(total, state.next + CHUNK)) if n not in gone]
    for number in numbers:
        pulse.beat(number)
        what = target.make(random.Random(f"{seed} {number}"))
        watch.start()
        before = time.process_time()
        with limited(watch):
            wrong, error = attempt(target, what)
        state.longest = max(state.longest, watch.seconds())
        state.seconds += time.process_time() - before
        state.tried += 1
        state.next = max(state.next, number + 1)
        state.left = [n for n in state.left if n != number]
        fine = wrong in ("", "refused")
        if fine:
            count(state, target, error)
        else:
            if kind(wrong) not in known:
                what = smallest(what, partial(same, target, wrong, pulse))
            known.add(kind(wrong))
            state.failures.append({"number": number, "wrong": wrong, "input": f"{what!a:.2000}"})
        if time.monotonic() - saved > SAVED or not fine:
            state.save(path)
            saved = time.monotonic()
    state.next = min(total, max(state.next, 1 + max([-1, *gone])))
    state.save(path)


def same(target: Target, wrong: str, pulse: Pulse, what: Any) -> bool:
    """True if this input fails in the same way."""
    if kind(wrong).startswith("longer"):
        return False
    pulse.beat(pulse.read()[0])
    with limited(Watch()):
        return kind(attempt(target, what)[0]) == kind(wrong)


def drive(target: Target, path: Path, seed: str, total: int) -> State:
    """Try inputs up to `total`, continuing what `path` has; a worker that dies or hangs is replaced.

    Inputs that failed in an earlier call are tried again first: what was fixed since is no longer a failure.
    """
    again = State.load(path)
    if again.failures:
        again.tried -= len(again.failures)
        again.left += [one["number"] for one in again.failures]
        again.failures = []
        again.save(path)
    while (state := State.load(path)).next < total or state.left:
        pulse = Pulse()
        child = os.fork()
        if child == 0:
            code = BROKEN
            try:
                work(target, path, seed, total, pulse)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        if wrong := guard(child, pulse):
            state = State.load(path)
            number = pulse.read()[0]
            what = target.make(random.Random(f"{seed} {number}"))
            state.failures.append({"number": number, "wrong": wrong, "input": f"{what!a:.2000}"})
            state.tried += 1
            state.left = [n for n in state.left if n != number]
            state.save(path)
    return State.load(path)


def guard(child: int, pulse: Pulse) -> str:
    """Wait for a worker; what ended it, empty if it ended by itself."""
    last = (-1, -1)
    since = time.monotonic()
    idle = 0.0
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            if code == BROKEN:
                raise RuntimeError("the attack itself has a bug, which is printed above")
            return "" if code == 0 else f"the process ended with {code}"
        if pulse.read() != last:
            last = pulse.read()
            since = time.monotonic()
            idle = waited(child)
        elif time.monotonic() - since - (waited(child) - idle) > PATIENCE:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"no answer for {PATIENCE:g} s"
        time.sleep(0.25)
