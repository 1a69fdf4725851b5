"""Jobs as files: every change of state has one winner, and nothing is lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fairlead.app.studio.library import Library
from fairlead.app.studio.standing import standing
from fairlead.app.workers.address import address, only_one
from fairlead.app.workers.jobs import DIED, Jobs, State
from fairlead.app.workers.supervisor import Crew
from fairlead.app.workers.vouching import check_vouched, pass_on, vouch
from fairlead.app.workers.worker import caught
from fairlead.core.errors import FairleadError, StoreError
from fairlead.rewards._asking import NoAnswer


def test_jobs_wait_in_their_order(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    made = [jobs.add({"prompt": "a dog", "seed": seed}) for seed in range(5)]
    assert [job.id for job in Jobs(tmp_path).waiting()] == [job.id for job in made]
    assert len({job.folder for job in made}) == 5, "two runs of one second have folders of their own"


def test_one_process_takes_a_job(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    for _ in range(20):
        job = jobs.add({"prompt": "a dog"})
        with ThreadPoolExecutor(8) as pool:
            taken = list(pool.map(lambda _, job=job: jobs.move(job, State.RUNNING), range(8)))
        assert sum(one is not None for one in taken) == 1
        assert not jobs.remove(job), "it is not in the queue any more"
        jobs.remove(next(one for one in taken if one is not None))
    assert jobs.all() == []


def test_a_dead_job_is_shown_with_its_sentence(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    jobs.move(jobs.add({"prompt": "a dog"}), State.RUNNING)
    waiting = jobs.add({"prompt": "a cat"})
    jobs.bury()
    dead, alive = jobs.all()
    assert (dead.state, dead.sentence) == (State.FAILED, DIED)
    assert alive == waiting


def test_a_run_is_resumed_once_at_a_time(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    first = jobs.resume("run", {"nfe": 100.0})
    with pytest.raises(StoreError, match="queued already"):
        jobs.resume("run", None)
    jobs.move(first, State.FAILED, "It failed.")
    again = jobs.resume("run", None)
    assert jobs.all() == [again]


def test_files_of_others_are_no_jobs(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    job = jobs.add({"prompt": "a dog"})
    home = tmp_path / ".studio" / "jobs"
    (home / "notes.json").write_text("{}")
    (home / "1.dancing.json").write_text("{}")
    (home / "2.queued.json").write_text("[")
    assert jobs.all() == [job]


def test_one_worker_serves_a_folder(tmp_path: Path) -> None:
    with only_one(tmp_path) as first, only_one(tmp_path) as second:
        assert first
        assert not second
    with only_one(tmp_path) as again:
        assert again


def test_the_socket_lies_where_only_its_owner_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = address(tmp_path / "runs")
    assert path.parent.stat().st_mode & 0o077 == 0
    assert path != address(tmp_path / "others")
    path.parent.chmod(0o755)
    with pytest.raises(FairleadError, match="only you can open"):
        address(tmp_path / "runs")


@pytest.mark.parametrize(
    ("status", "stopped", "held", "state", "word"),
    [
        ("", "", False, State.QUEUED, "queued"),
        ("", "", False, State.RUNNING, "loading"),
        ("", "", False, State.FAILED, "failed"),
        ("running", "", True, None, "running"),
        ("running", "", False, None, "died"),
        ("running", "", True, State.RUNNING, "running"),
        ("running", "", False, State.FAILED, "died"),
        ("stopped", "error", False, State.FAILED, "died"),
        ("stopped", "interrupted", False, None, "stopped"),
        ("stopped", "interrupted", False, State.QUEUED, "queued"),
        ("stopped", "waiting for an answer", False, None, "waiting"),
        ("finished", "budget: nfe", False, None, "finished"),
    ],
)
def test_how_a_run_stands(
    status: str, stopped: str, held: bool, state: State | None, word: str, tmp_path: Path
) -> None:
    job = None
    if state is not None:
        job = Jobs(tmp_path).add({"prompt": "a dog"})
        job = job if state is State.QUEUED else Jobs(tmp_path).move(job, state, "A sentence.")
    found = standing(status, stopped, held, job)
    assert found["word"] == word
    assert found["resumable"] == (word in ("died", "stopped", "waiting"))
    assert not (found["active"] and found["resumable"])


def test_a_dead_worker_takes_no_job_of_another_along(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    for worker in ("cuda:0", "cuda:1"):
        jobs.move(jobs.add({"prompt": worker}), State.RUNNING, worker=worker)
    assert {job.worker: job.state for job in jobs.all()} == {"cuda:0": "running", "cuda:1": "running"}
    jobs.bury(lambda worker: worker == "cuda:0")
    assert [(job.options["prompt"], job.state) for job in jobs.all()] == [("cuda:0", "failed"), ("cuda:1", "running")]


def test_a_job_waits_for_its_device(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    bound = jobs.add({"prompt": "a dog"}, device="cuda:1")
    free = jobs.add({"prompt": "a cat"})
    assert jobs.waiting("cuda:0") == [free]
    assert jobs.waiting("cuda:1") == [bound, free]
    assert jobs.waiting() == [bound, free]


def test_a_job_whose_device_nobody_serves_is_stuck(tmp_path: Path) -> None:
    """Unless a worker lives that an earlier studio has started for it."""
    jobs = Jobs(tmp_path)
    for device in ("cuda:1", "cpu", ""):
        jobs.add({"prompt": device or "any"}, device=device)
    library = Library(tmp_path, jobs, Crew(tmp_path, jobs, 1.0, ("cpu", "cpu#2")))

    def words() -> dict[str, str]:
        return {row["prompt"]: row["state"]["word"] for row in library.list()}

    assert words() == {"cuda:1": "stuck", "cpu": "queued", "any": "queued"}
    sentence = next(row["state"]["sentence"] for row in library.list() if row["prompt"] == "cuda:1")
    assert "waits for cuda:1" in sentence
    assert "It computes on cpu." in sentence
    with only_one(tmp_path, "cuda:1"):
        assert set(words().values()) == {"queued"}


def test_a_job_for_another_device_keeps_its_place_and_nobody_is_vouched_for_anew(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    old = [jobs.add({"prompt": "a dog"}, device="cuda:1") for _ in range(2)]
    vouch(tmp_path, old[0])
    new = [jobs.rebind(job, "", lambda made, job=job: pass_on(tmp_path, job, made)) for job in old]
    assert [job.id for job in jobs.waiting("cpu")] == [job.id for job in old]
    check_vouched(tmp_path, new[0], ["my.py:f"])
    with pytest.raises(FairleadError, match="nobody asked for it"):
        check_vouched(tmp_path, new[1], ["my.py:f"])
    running = jobs.move(new[0], State.RUNNING)
    assert running is not None
    for taken in (new[0], running):
        with pytest.raises(StoreError, match="does not wait any more"):
            jobs.rebind(taken, "cpu", lambda made: None)
    assert jobs.all()[0] == replace(running, sentence=jobs.all()[0].sentence)


def test_an_error_is_known_by_its_family() -> None:
    """A reward's own class of error is a RewardError to everybody who reads the job."""

    def unreachable() -> dict[str, Any]:
        raise NoAnswer("nobody answers")

    assert caught(unreachable)["class"] == "RewardError"
