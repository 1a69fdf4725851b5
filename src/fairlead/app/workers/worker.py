"""The process that computes: it takes queued jobs one after the other and keeps its model loaded between them.

`python -m fairlead.app.workers.worker RUNS` is started by the studio and outlives it. It ends after some idle time.
With several devices there is one such process for each.
A run is started through the same functions as by `fairlead run`. What imports torch is imported inside functions.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import queue
import signal
import socketserver
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fairlead.app.report import write_report
from fairlead.app.running import reported
from fairlead.app.workers.address import WORKER, address, device_of, lock_path, only_one
from fairlead.app.workers.form import read_options
from fairlead.app.workers.jobs import Job, Jobs, State
from fairlead.app.workers.previews import Switch, Window
from fairlead.app.workers.vouching import check_vouched, forget, formulas_in, named_by, reaching
from fairlead.app.workers.waiting import person, resume_if_answered
from fairlead.core.errors import FairleadError
from fairlead.core.people import Question
from fairlead.run.records import BatchStep, Progress
from fairlead.run.store import as_json

Answer = Callable[[dict[str, Any]], None]
QUESTIONS = {
    "strip": "fairlead.app.studio.strip:answered",
    "price": "fairlead.app.studio.pricing:price_of",
    "front": "fairlead.app.studio.pricing:front_of",
    "costs": "fairlead.app.serve.compute:costs",
    "choose": "fairlead.app.serve.compute:choose",
    "score": "fairlead.app.serve.compute:score",
    "keep": "fairlead.app.serve.compute:keep",
}
"""What the process is asked beside its jobs -> the function that answers between two batches."""
NEED_THE_MODEL = ("strip", "price", "costs")
BUSY = "A run waits for an answer in the middle of a picture. Answer its question, then this can be computed."


class Desk:
    """What the worker does now, for everybody who asks; safe to use from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._number = 0
        self._state: dict[str, Any] = {"job": None, "folder": None, "phase": "idle"}
        self.stops: set[str] = set()
        """Jobs that somebody wants to stop."""
        self.closing = False

    def say(self, **state: Any) -> None:
        """Replace what is shown."""
        with self._changed:
            self._state = state
            self._number += 1
            self._changed.notify_all()

    def state(self) -> dict[str, Any]:
        """What is shown."""
        with self._changed:
            return self._state

    def follow(self, beat: float = 2.0) -> Iterator[dict[str, Any]]:
        """What is shown, now and whenever it changes, and once in a while in any case."""
        seen = -1
        while True:
            with self._changed:
                self._changed.wait_for(lambda number=seen: self._number != number, timeout=beat)  # type: ignore[misc]
                seen = self._number
                state = self._state
            yield state


class Worker:
    """Takes jobs and questions, one at a time, in the main thread."""

    def __init__(self, root: Path, idle: float, name: str = WORKER) -> None:
        self.root = root.absolute()
        self.name = name
        self.jobs = Jobs(self.root)
        self.desk = Desk()
        self.window = Window()
        self._switch = Switch(root)
        self._idle = idle
        self._questions: queue.Queue[tuple[Mapping[str, Any], Answer] | None] = queue.Queue()
        self._models = ExitStack()
        self._model: str | None = None

    def ask(self, message: Mapping[str, Any], answer: Answer) -> None:
        """Pass a question to the main thread, from another one."""
        self._questions.put((message, answer))

    def wake(self) -> None:
        """Look at the queue again."""
        self._questions.put(None)

    def prepare(self) -> None:
        """Compute on the device that the name says."""
        if device := device_of(self.name):
            from fairlead.run import machine

            machine.use(device)

    def run(self) -> None:
        """Work until there is nothing to do for the idle time."""
        while not self.desk.closing:
            if waiting := self.jobs.waiting(device_of(self.name)):
                self._take(waiting[0])
                self.answer_questions()
                continue
            try:
                self._answer(self._questions.get(timeout=self._idle))
            except queue.Empty:
                return

    def answer_questions(self) -> None:
        """Answer what was asked meanwhile. Called between batches: nothing else uses the model then."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._answer(self._questions.get_nowait())

    def _answer(self, question: tuple[Mapping[str, Any], Answer] | None) -> None:
        if question is None:
            return
        message, answer = question
        answer(caught(lambda: self._answered(message)))

    def meanwhile(self, question: Question) -> None:
        """Work that comes while a person is asked. A price needs the model, which may be in the middle of a picture."""
        with contextlib.suppress(queue.Empty):
            while True:
                asked = self._questions.get_nowait()
                if asked is not None and asked[0].get("do") in NEED_THE_MODEL and question.kind == "steer":
                    asked[1]({"error": BUSY, "class": "Busy"})
                else:
                    self._answer(asked)

    def _answered(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a question, from the function that its word stands for."""
        module, _, name = QUESTIONS[message["do"]].partition(":")
        if "options" in message and self.desk.state()["job"] is None:
            self._keep_model(str(read_options(message["options"]).model))
        found: dict[str, Any] = getattr(importlib.import_module(module), name)(self.root, message)
        return found

    def _keep_model(self, name: str) -> None:
        """Keep one model loaded at a time: another one takes its place."""
        from fairlead.run import models

        if name != self._model:
            self._models.close()
            self._models.enter_context(models.shared())
            self._model = name

    def _take(self, queued: Job) -> None:
        job = self.jobs.move(queued, State.RUNNING, worker=self.name)
        if job is None:
            return
        self.desk.say(job=job.id, folder=job.folder, phase="loading model")
        found = caught(lambda: self._compute(job))
        if "error" in found:
            self.jobs.move(job, State.FAILED, found["error"], error=found["class"])
        else:
            self.jobs.remove(job)
        forget(self.root, job)
        if "error" not in found:
            with contextlib.suppress(FairleadError):
                resume_if_answered(self.jobs, self.root / job.folder)
        self.desk.stops.discard(job.id)
        self.desk.say(job=None, folder=None, phase="idle")

    def _compute(self, job: Job) -> dict[str, Any]:
        """Start or resume the run through the functions that the command line uses."""
        from fairlead.run import engine, models
        from fairlead.run.view import View

        folder = self.root / job.folder
        place = contextlib.chdir(job.where) if os.path.isdir(job.where) else contextlib.nullcontext()

        said: dict[str, Any] = {"job": job.id, "folder": job.folder, "phase": "loading model"}

        def watch(progress: Progress) -> None:
            said.update(shown(progress))
            self.desk.say(**said)
            self.answer_questions()

        def on_step(step: BatchStep) -> None:
            if (batch := self.window.show(job.folder, step)) is not None:
                self.desk.say(**said, batch=batch)

        def stop() -> bool:
            return self.desk.closing or job.id in self.desk.stops

        mine = device_of(self.name)
        asked = person(folder, lambda: stop() or bool(self.jobs.waiting(mine)), self.meanwhile)
        watchers: dict[str, Any] = {"on_progress": watch, "on_step": on_step, "previews": self._switch.read}
        watchers |= {"stop": stop, "person": asked}

        with place, reported(folder):
            if job.kind == "resume":
                spec = View.read(folder).spec
                if job.trust:
                    check_vouched(self.root, job, reaching(formulas_in(spec)))
                self._keep_model(spec.model.name)
                engine.resume(folder, budget=job.budget, trust=job.trust, **watchers).close()
            else:
                options = read_options(job.options)
                check_vouched(self.root, job, named_by(options))
                self._keep_model(str(options.model))
                engine.start(models.spec_of(options), folder, **watchers).close()
            if job.report:
                write_report(folder)
        return {}


def shown(progress: Progress) -> dict[str, Any]:
    """The progress as plain values."""
    data = asdict(progress)
    limits = {name: value for name, value in data.pop("limit").items() if value != float("inf")}
    return {**data, "phase": str(progress.phase), "limit": limits}


def caught(do: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `do` returns, or its error as a sentence."""
    try:
        return do()
    except FairleadError as error:
        return {"error": str(error), "class": _family(error)}
    except Exception as error:
        traceback.print_exc()
        cause = " ".join(str(error).split()) or type(error).__name__
        return {"error": f"{type(error).__name__}: {cause} (a bug in fairlead: please report it)", "class": "bug"}


def _family(error: FairleadError) -> str:
    """The class that an error belongs to, of `core/errors.py` or the application: others know nothing of a reward's."""
    known = (FairleadError.__module__, "fairlead.app.")
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__.startswith(known))


class _Handler(socketserver.StreamRequestHandler):
    """One connection: one line in, one line out; of `follow` many."""

    server: _Server

    def handle(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            message = json.loads(self.rfile.readline())
            word = "question" if message.get("do") in QUESTIONS else message.get("do")
            getattr(self, f"_{word}", self._unknown)(message)

    def _send(self, value: Any) -> None:
        self.wfile.write(as_json(value).encode() + b"\n")
        self.wfile.flush()

    def _unknown(self, message: Mapping[str, Any]) -> None:
        self._send({"error": f"The worker does not know {message.get('do')!r:.60}. Update fairlead, then start again."})

    def _wake(self, message: Mapping[str, Any]) -> None:
        self.server.worker.wake()
        self._send({})

    def _stop(self, message: Mapping[str, Any]) -> None:
        self.server.worker.desk.stops.add(str(message["job"]))
        self._send({})

    def _preview(self, message: Mapping[str, Any]) -> None:
        self._send(self.server.worker.window.picture(str(message["folder"]), int(message["index"])))

    def _follow(self, message: Mapping[str, Any]) -> None:
        for state in self.server.worker.desk.follow():
            self._send(state)

    def _end(self, message: Mapping[str, Any]) -> None:
        """End the process after the present batch, unless somebody else still waits for a job."""
        worker = self.server.worker
        if all(job.state is State.FAILED for job in worker.jobs.all()):
            _close(worker)
        self._send({})

    def _question(self, message: Mapping[str, Any]) -> None:
        answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self.server.worker.ask(message, answers.put)
        self._send(answers.get())


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, path: str, worker: Worker) -> None:
        self.worker = worker
        super().__init__(path, _Handler)


def main() -> int:
    """Serve one runs folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", type=Path)
    parser.add_argument("--idle", type=float, required=True)
    parser.add_argument("--name", default=WORKER)
    words = parser.parse_args()
    with only_one(words.runs, words.name) as alone:
        if not alone:
            return 0
        lock_path(words.runs, words.name).write_text(str(os.getpid()))
        worker = Worker(words.runs, words.idle, words.name)
        worker.jobs.bury(lambda name: name == words.name)
        path = address(words.runs, words.name)
        path.unlink(missing_ok=True)
        server = _Server(str(path), worker)
        signal.signal(signal.SIGTERM, lambda *_: _close(worker))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            worker.prepare()
            worker.run()
        finally:
            path.unlink(missing_ok=True)
    return 0


def _close(worker: Worker) -> None:
    """Stop after the present batch: what was recorded can be resumed."""
    worker.desk.closing = True
    worker.wake()


if __name__ == "__main__":
    sys.exit(main())
