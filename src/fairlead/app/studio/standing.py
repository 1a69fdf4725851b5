"""How a run stands, from its record, its lock and its job. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fairlead.app.words import reason
from fairlead.app.workers.jobs import DIED, Job, State
from fairlead.run.records import RunStatus, StopReason


def standing(
    status: str, stopped: str, held: bool, job: Job | None, unserved: Sequence[str] | None = None
) -> dict[str, Any]:
    """A word for the page and a sentence for the reader; `status` is empty where there is no record.

    `unserved`: the devices that there are, where none of them is that of the waiting job.
    `resumable` says whether the record can be continued as it is, `active` whether it will change by itself.
    """
    word, sentence = _word(status, stopped, held, job)
    if word == "queued" and job is not None and unserved is not None:
        word, sentence = "stuck", _stuck(job.device, unserved)
    return {
        "word": word,
        "sentence": sentence,
        "active": word in ("queued", "loading", "running"),
        "resumable": word in ("died", "stopped", "waiting") and bool(status),
        "job": None if job is None else job.id,
        "devices": list(unserved or []),
    }


def _stuck(device: str, present: Sequence[str]) -> str:
    """Why a job would wait for ever, and what to do."""
    here = f"It computes on {', '.join(present)}." if present else "It chooses the device itself."
    return (
        f"This run waits for {device}, which this studio does not use. {here} "
        f"Queue the run again, or start the studio with --devices {device}."
    )


def _word(status: str, stopped: str, held: bool, job: Job | None) -> tuple[str, str]:
    state = None if job is None else job.state
    if job is not None and state is State.QUEUED:
        on = f" on {job.device}" if job.device else ""
        return "queued", f"It starts when the runs before it{on} are done."
    if job is not None and state is State.FAILED and status != RunStatus.FINISHED:
        return ("died" if status else "failed"), job.sentence
    if state is State.RUNNING and not status:
        return "loading", "The model is being loaded."
    if status == RunStatus.RUNNING:
        return ("running", "") if held or state is State.RUNNING else ("died", DIED)
    if state is State.RUNNING:
        return "loading", "The run goes on as soon as the model is loaded."
    if stopped == StopReason.WAITING:
        return "waiting", "This run waits for an answer of a person."
    return status, reason(stopped)
