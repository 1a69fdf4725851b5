"""What is shown while a run goes on, and how it is stopped."""

from __future__ import annotations

import io
import os
import signal
from dataclasses import replace

import pytest
from rich.console import Console

from fairlead.app.progress import Interrupt, Watch, fraction, line, time_left
from fairlead.core.cost import Cost
from fairlead.run.records import BatchStep, Progress

NOW = Progress("searching", 8, 32, Cost(nfe=160, seconds=2.0), Cost.budget({"nfe": 640}), 0.25, 0.3127, 5, 3.0, 4.0)


def test_fraction_and_time_left() -> None:
    assert fraction(NOW) == 0.25
    assert time_left(NOW) == 6.0
    assert time_left(replace(NOW, limit=Cost.budget({"nfe": 640, "seconds": 5}))) == 3.0
    assert time_left(replace(NOW, rate=0.0)) is None
    assert fraction(replace(NOW, done=0, spent=Cost())) == 0.0


def test_a_line_says_what_matters() -> None:
    said = line(NOW)
    for word in (
        "8 of 32 candidates",
        "160 of 640 NFE",
        "4.0 images/s",
        "best 0.3127",
        "baseline 0.2500",
        "+0.0627",
        "6.0 s left",
    ):
        assert word in said
    assert " left" not in line(replace(NOW, done=32)), "nothing is left to wait for"


@pytest.mark.parametrize(
    "changes",
    [
        {
            "phase": "loading model",
            "done": 0,
            "expected": None,
            "best": None,
            "baseline": None,
            "best_index": None,
            "rate": 0.0,
        },
        {"best": None, "best_index": None, "baseline": float("nan")},
        {"expected": None, "limit": Cost.budget({"seconds": 9})},
        {"limit": Cost.budget({"decodes": 9})},
        {"phase": "done"},
    ],
)
def test_every_state_can_be_shown(changes: dict[str, object]) -> None:
    for terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=80)
        with Watch(console, Interrupt()) as watch:
            watch(replace(NOW, **changes))  # type: ignore[arg-type]
            console.print(watch._render())
        assert line(replace(NOW, **changes))  # type: ignore[arg-type]


def test_a_log_gets_a_line_every_ten_seconds() -> None:
    clock = iter(range(0, 1000, 3))
    out = io.StringIO()
    with Watch(Console(file=out, width=200), Interrupt(), clock=lambda: float(next(clock))) as watch:
        watch(replace(NOW, phase="loading model"))
        for done in range(8, 32):
            watch(replace(NOW, done=done))
        watch(replace(NOW, phase="done"))
    assert 5 <= len(out.getvalue().splitlines()) <= 10


def test_images_per_second_are_those_that_arrive() -> None:
    now = [0.0]
    watch = Watch(Console(file=io.StringIO()), Interrupt(), clock=lambda: now[0])
    now[0] = 1.0
    watch(replace(NOW, done=8, rate=100.0))
    assert watch._now is not None
    assert watch._now.rate == 100.0
    now[0] = 3.0
    watch(replace(NOW, done=16, rate=100.0))
    assert watch._now.rate == 4.0


def test_ctrl_c_once_asks_and_twice_aborts(capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert "stopping after this batch" in capfd.readouterr().err


def test_drift_is_said_once_while_the_run_goes_on() -> None:
    out = io.StringIO()
    away = {"aesthetic": (5.0, 4.5), "detector": (0.5, 0.4)}
    with Watch(Console(file=out, width=200), Interrupt(), clock=lambda: 0.0) as watch:
        watch(replace(NOW, watched=away))
        watch(replace(NOW, watched={**away, "detector": (0.5, 0.5)}))
        watch(replace(NOW, watched=away, best=0.2))
        watch(replace(NOW, watched={"aesthetic": (5.0, float("nan"))}))
        watch(replace(NOW, watched=away))
        assert "warning" not in out.getvalue(), "one batch in a row is chance"
        for _ in range(4):
            watch(replace(NOW, watched=away))
    (said,) = [each for each in out.getvalue().splitlines() if "warning" in each]
    for word in ("After 8 candidates", "+0.0627", "aesthetic (−0.5000)", "detector (−0.1000)", "Ctrl-C"):
        assert word in said


STEP = BatchStep((8, 9, 10, 11), 15, 20, Cost(nfe=60))


def test_a_batch_moves_the_bar_step_by_step() -> None:
    assert fraction(NOW, STEP) == (8 + 3) / 32
    assert fraction(replace(NOW, expected=None), STEP) == (160 + 60) / 640
    out = io.StringIO()
    clock = iter(range(0, 10_000))
    console = Console(file=out, force_terminal=True, width=100)
    with Watch(console, Interrupt(), clock=lambda: float(next(clock))) as watch:
        watch(replace(NOW, rate=0.0))
        for step in range(1, 16):
            watch.step(replace(STEP, step=step))
        console.print(watch._render())
        assert "step 15 of 20, candidates 8 to 11" in out.getvalue()
        assert " 34%" in out.getvalue()
        assert "left" in out.getvalue(), "the steps of the first batch tell how long it takes"
        watch(NOW)
        assert watch._step is None


def test_a_slow_batch_writes_lines_too() -> None:
    clock = iter(range(0, 10_000, 4))
    out = io.StringIO()
    with Watch(Console(file=out, width=200), Interrupt(), clock=lambda: float(next(clock))) as watch:
        watch(NOW)
        for step in range(1, 10):
            watch.step(replace(STEP, step=step, indices=(-1,)))
    lines = out.getvalue().splitlines()
    assert 3 <= len(lines) <= 5
    assert "step 3 of 20, the baseline" in out.getvalue()
