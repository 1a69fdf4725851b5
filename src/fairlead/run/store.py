"""Append-only record of a run: SQLite in WAL mode beside content-addressed PNG files. Imports no torch.

A run directory holds `run.sqlite`, `images/<digest>.png`, and, once there is a winner, `best.png`, `baseline.png` and
`report.html`. Paths inside are relative, so it can be moved. Resuming is replaying: the search asks again, and an
answer that is recorded is recalled instead of computed; another question at the same index is an error.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from fairlead.core.cost import Cost
from fairlead.core.errors import StoreError
from fairlead.run import inputs, lineage, rows, rungs
from fairlead.run.claim import DATABASE as DATABASE
from fairlead.run.claim import LOCK, PROCESS, clean, connect, connect_to_read, locked, record_of, remove_record
from fairlead.run.claim import is_vacant as is_vacant
from fairlead.run.claim import refuse_taken as refuse_taken
from fairlead.run.files import as_json as as_json
from fairlead.run.files import write_atomically as write_atomically
from fairlead.run.records import BASELINE, Candidate, Companions, Outcome, RunStatus, Task, question
from fairlead.run.rows import COLUMNS, SCHEMA, VERSION, picture_name
from fairlead.run.spec import Spec
from fairlead.run.sqlite_errors import sqlite_errors as sqlite_errors


class Store:
    """One run directory, open for reading or, with `lock`, for writing by this process alone."""

    def __init__(self, folder: Path, db: sqlite3.Connection, version: int = VERSION) -> None:
        self.folder, self._db, self._version = folder, db, version
        self._images = str(folder / "images")
        self._listed = frozenset[str]()

    @staticmethod
    def create(folder: Path, spec: Spec, versions: Mapping[str, str], created: str) -> Store:
        """A new run directory. Refuses a folder that has anything in it.

        The database is written under another name and renamed when it is complete: a process that is killed on the way
        leaves nothing that looks like a record, and the folder can be used again.
        """
        folder = Path(folder)
        refuse_taken(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{folder} cannot be written ({error.strerror}). Choose another --out.") from error
        with locked(folder) as handle, sqlite_errors(folder):
            refuse_taken(folder)  # another process may have been faster
            os.ftruncate(handle, 0)
            os.write(handle, PROCESS.encode())
            (folder / "images").mkdir(exist_ok=True)
            inputs.keep(folder, spec.model)
            for name in (f"{DATABASE}-wal", f"{DATABASE}-shm"):
                (folder / name).unlink(missing_ok=True)
            temporary = folder / f".{DATABASE}.{os.getpid()}"
            with contextlib.closing(connect(temporary)) as db, db:
                db.executescript(f"begin; {SCHEMA} pragma user_version={VERSION};")
                db.execute(
                    "insert into run values(?,?,?,?,?,?,?,null)",
                    (spec.id(), spec.json(), json.dumps(dict(versions)), created, RunStatus.RUNNING.value, "", ""),
                )
                rows.seal(db, "run")
            os.replace(temporary, folder / DATABASE)
            db = connect(folder / DATABASE)
            db.execute("pragma journal_mode=wal")
        return Store(folder, db)

    @staticmethod
    def open(folder: Path, verify: bool = True) -> Store:
        """An existing run directory, wherever it was moved; `verify` its rows unless that was done already."""
        folder = Path(folder)
        path = record_of(folder)
        with sqlite_errors(folder):
            db = connect_to_read(path)
            version = db.execute("pragma user_version").fetchone()[0]
            if version > VERSION:
                raise StoreError(
                    f"{path} has format {version}, this fairlead reads up to {VERSION}: update fairlead to continue it."
                )
            if version < 1 or db.execute("select count(*) from run").fetchone()[0] != 1:
                raise StoreError(
                    f"{path} is not a finished run record (format {version}): the process that made it was stopped "
                    f"before its first row, or a file beside it is missing. Look for {DATABASE}-wal, or start the run "
                    "again in another folder."
                )
            if version > 1 and verify:
                rows.verify(db)
        return Store(folder, db, version)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for writing; the lock ends with the process, however it ends."""
        with locked(self.folder):
            with sqlite_errors(self.folder):
                self._add_checksums()
                clean(self.folder)
            yield

    def _add_checksums(self) -> None:
        """Bring a record of format 1 to the present one before it is written to."""
        if self._version >= VERSION:
            return
        with self._db:
            self._db.execute("begin")
            for table in rows.SEALED:
                self._db.execute(f"alter table {table} add column checksum text")
                rows.seal(self._db, table)
            self._db.execute(f"pragma user_version={VERSION}")
        self._version = VERSION

    def close(self) -> None:
        """Fold the journal into the one file and close it."""
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("pragma wal_checkpoint(truncate)")
        self._db.close()

    # what the run is

    @property
    def spec(self) -> Spec:
        """The run as data."""
        return Spec.from_json(self._one("spec"))

    @property
    def versions(self) -> dict[str, str]:
        """Package versions, model fingerprint and machine the run was started on."""
        with sqlite_errors(self.folder):
            return rows.texts(self._one("versions"))

    @property
    def created(self) -> str:
        """When the run was started, ISO 8601 UTC."""
        return self._one("created")

    @property
    def status(self) -> RunStatus:
        """`running`, `stopped` or `finished`."""
        with sqlite_errors(self.folder):
            return rows.status(self._one("status"))

    @property
    def stopped(self) -> str:
        """Why it ended, in words."""
        return self._one("stopped")

    def _one(self, column: str) -> str:
        with sqlite_errors(self.folder):
            return str(self._db.execute(f"select {column} from run").fetchone()[0])

    def set_status(self, status: RunStatus, stopped: str = "") -> None:
        """Record how the run stands."""
        with sqlite_errors(self.folder), self._db:
            self._db.execute("update run set status=?, stopped=?", (RunStatus(status).value, str(stopped)))
            rows.seal(self._db, "run")

    def extend(self, spec: Spec, versions: Mapping[str, str] | None = None) -> None:
        """Change the budget of a run, noting what it had by then, and `versions`; more would be another run."""
        if spec.id() != self.spec.id():
            raise StoreError(f"{self.folder} records run {self.spec.id()[:8]}, not {spec.id()[:8]}: start a new run.")
        with sqlite_errors(self.folder), self._db:
            note = json.dumps({"extended_after": self.last_index()})
            facts = json.dumps(dict(versions or self.versions))
            self._db.execute("update run set spec=?, message=?, versions=?", (spec.json(), note, facts))
            rows.seal(self._db, "run")

    @property
    def extended_after(self) -> int:
        """The last candidate made under an earlier budget; -1 if the budget was never changed."""
        with sqlite_errors(self.folder):
            return rows.extended_after(self._one("message"))

    # what was answered

    def recall(self, task: Task, pictures: bool = True) -> list[Outcome] | None:
        """The recorded answers to a task's questions, all or none. Without `pictures` these are not read."""
        with sqlite_errors(self.folder):
            marks = ",".join("?" * len(task.indices))
            found = self._db.execute(
                f"select question, gradient, {COLUMNS} from outcome where idx in ({marks}) order by idx",
                task.indices,
            ).fetchall()
        if len(found) != len(task.indices):
            return None
        out = []
        for position, (asked, slope, *row) in enumerate(found):
            if asked != question(task, position):
                raise StoreError(
                    f"Candidate {row[0]} of {self.folder} was asked another question when it was recorded: "
                    "the algorithm or its settings changed since, so start a new run."
                )
            with sqlite_errors(self.folder):
                c = rows.candidate(row)
                gradient = rows.gradient(slope, task.proposals[position].x.numel())
            picture = self.image(row[4]) if pictures else self._present(row[4])
            out.append(Outcome(c.index, c.reward, c.terms, c.cost, picture, gradient))
        return out

    def _present(self, digest: str) -> bytes:
        """Nothing, if there is a picture of that digest; else the error of reading it."""
        self._listed = self._listed or frozenset(os.listdir(self._images))
        return b"" if f"{digest}.png" in self._listed else self.image(digest)[:0]

    def answered_indices(self, indices: Sequence[int]) -> set[int]:
        """Which of these have an answer."""
        marks = ",".join("?" * len(indices))
        with sqlite_errors(self.folder):
            return {r[0] for r in self._db.execute(f"select idx from outcome where idx in ({marks})", tuple(indices))}

    def get(self, index: int) -> Candidate:
        """One recorded candidate."""
        found = self._find(index)
        if found is None:
            raise StoreError(f"{self.folder} has no candidate {index}: it has {self.count()}, counted from 0.")
        return found

    def _find(self, index: int) -> Candidate | None:
        with sqlite_errors(self.folder):
            row = self._db.execute(f"select {COLUMNS} from outcome where idx=?", (index,)).fetchone()
            if row is None:
                return None
            (found,) = lineage.with_origins(self._db, [rows.candidate(row)])
            return found if found.refines is None else replace(found, rung=rows.rungs(self._refined())[index])

    def _refined(self) -> dict[int, int]:
        """Of every candidate that refines another, the other."""
        with sqlite_errors(self.folder):
            found = self._db.execute("select idx, refines from outcome where refines is not null order by idx")
            return {rows.whole(idx, "idx"): rows.whole(refines, "refines") for idx, refines in found}

    def refinements(self) -> dict[int, int]:
        """Draft -> the candidate that refines it, by index."""
        return {draft: index for index, draft in self._refined().items()}

    def last_index(self) -> int:
        """The highest index of a candidate; -1 without any."""
        with sqlite_errors(self.folder):
            return int(self._db.execute("select coalesce(max(idx), -1) from outcome").fetchone()[0])

    def count(self) -> int:
        """How many candidates there are, without the baseline."""
        with sqlite_errors(self.folder):
            found = self._db.execute("select count(*) from outcome where idx != ?", (BASELINE,)).fetchone()
        return int(found[0])

    def record(self, task: Task, outcomes: Sequence[Outcome], cost: Cost) -> None:
        """One task, one transaction: recorded whole or not at all. Pictures are on disk before the rows."""
        with sqlite_errors(self.folder):
            steps = self.spec.steps
            names = [self._put(o.image) for o in outcomes]
            with self._db:
                number = self._db.execute("select coalesce(max(number), -1) + 1 from task").fetchone()[0]
                asked = [question(task, i) for i in range(len(outcomes))]
                drafts = task.refines or [None] * len(outcomes)
                values = (number, rows.asked(asked, task.companions), json.dumps(cost.as_dict()))
                self._db.execute("insert into task values(?,?,?,null)", values)
                self._db.executemany(
                    "insert into outcome values(?,?,?,?,?,?,?,?,?,?,?,null)",
                    [
                        (
                            o.index,
                            number,
                            q,
                            p.key.hex(),
                            None if o.reward != o.reward else o.reward,
                            json.dumps(dict(o.terms)),
                            json.dumps(o.cost.as_dict()),
                            name,
                            rungs.evaluations(p.steps, steps),
                            None if o.gradient is None else o.gradient.float().numpy().tobytes(),
                            draft,
                        )
                        for o, q, p, name, draft in zip(outcomes, asked, task.proposals, names, drafts, strict=True)
                    ],
                )
                lineage.add(self._db, task.indices, task.origins)
                rows.seal(self._db, "task", "number=?", [number])
                rows.seal(self._db, "outcome", "task=?", [number])

    def record_cut(self, cost: Cost) -> None:
        """A task that was cut and has no outcomes, with what it spent all the same."""
        with sqlite_errors(self.folder), self._db:
            number = self._db.execute("select coalesce(max(number), -1) + 1 from task").fetchone()[0]
            self._db.execute("insert into task values(?, '[]', ?, null)", (number, json.dumps(cost.as_dict())))
            rows.seal(self._db, "task", "number=?", [number])

    def set_rewards(self, totals: Mapping[int, float], terms: Mapping[int, Mapping[str, float]]) -> None:
        """Replace totals, which change as candidates join where a reward ranks, and terms that a person gave."""
        new = [(None if v != v else v, i) for i, v in totals.items()]
        with sqlite_errors(self.folder), self._db:
            self._db.executemany("update outcome set reward=? where idx=?", new)
            self._db.executemany(
                "update outcome set terms=? where idx=?", [(json.dumps(dict(t)), i) for i, t in terms.items()]
            )
            rows.seal(self._db, "outcome")

    def recall_prepared(self, name: str) -> tuple[bytes, Cost] | None:
        """What a steering prepared once per prompt, with what it cost."""
        with sqlite_errors(self.folder):
            row = self._db.execute("select data, cost from prepared where name=?", (name,)).fetchone()
            return None if row is None else (rows.data(row[0]), rows.cost(row[1]))

    def record_prepared(self, name: str, data: bytes, cost: Cost) -> None:
        """Keep what a steering prepared."""
        with sqlite_errors(self.folder), self._db:
            self._db.execute("insert into prepared values(?,?,?,null)", (name, data, json.dumps(cost.as_dict())))
            rows.seal(self._db, "prepared", "name=?", [name])

    # what readers want

    def candidates(self) -> list[Candidate]:
        """Everything recorded but the baseline, in ask order."""
        return [c for c in self._candidates() if c.index != BASELINE]

    def baseline(self) -> Candidate | None:
        """The plain sample: its own row, or the first candidate of an uncontrolled run."""
        return self._find(BASELINE) or (None if self.spec.controlled else self._find(0))

    def best(self) -> Candidate | None:
        """The candidate with the highest reward, the earliest of equals. Never a failed one, nor one of a lower rung
        once a higher one has an answer.
        """
        with sqlite_errors(self.folder):
            rung_of = rows.rungs(self._refined())
            known = "select idx, reward from outcome where reward is not null and idx != ?"
            ranked = [(rung_of.get(i, 0), rows.reward(value), -i) for i, value in self._db.execute(known, (BASELINE,))]
        return self._find(-max(ranked)[2]) if ranked else None

    def spent(self) -> Cost:
        """Everything recorded as spent, preparation included."""
        with sqlite_errors(self.folder):
            found = self._db.execute("select cost from task union all select cost from prepared").fetchall()
            return sum((rows.cost(cost) for (cost,) in found), Cost())

    def unanswered(self) -> Cost:
        """What tasks spent that were cut, and gave no candidate."""
        with sqlite_errors(self.folder):
            found = self._db.execute("select cost from task where number not in (select task from outcome)").fetchall()
            return sum((rows.cost(cost) for (cost,) in found), Cost())

    def task_of(self, index: int) -> list[int]:
        """Indices rendered in the same batch as `index`, in batch order."""
        with sqlite_errors(self.folder):
            found = self._db.execute(
                "select idx from outcome where task=(select task from outcome where idx=?) order by idx", (index,)
            ).fetchall()
        return [r[0] for r in found]

    def companions_of(self, index: int) -> Companions | None:
        """Where the batch of `index` stood in one that several runs shared; None where it was a batch of its own."""
        with sqlite_errors(self.folder):
            found = "select questions from task where number=(select task from outcome where idx=?)"
            return rows.companions(*self._db.execute(found, (index,)).fetchone() or ("",))

    def _candidates(self) -> list[Candidate]:
        with sqlite_errors(self.folder):
            return lineage.candidates(self._db)

    def image(self, digest: str) -> bytes:
        """The PNG of that digest."""
        with sqlite_errors(self.folder):
            path = f"{self._images}/{rows.image(digest)}.png"
        try:
            data = Path(path).read_bytes()
        except FileNotFoundError:
            raise StoreError(f"{path} is missing: restore it, or start the run again.") from None
        if picture_name(data) != digest:
            raise StoreError(f"{path} is damaged: restore it, or start the run again.")
        return data

    def _put(self, png: bytes) -> str:
        digest = picture_name(png)
        path = self.folder / "images" / f"{digest}.png"
        if not path.exists() or path.read_bytes() != png:  # a power cut may have left half of it
            write_atomically(path, png, durable=False)
        return digest


def discard(folder: Path) -> bool:
    """Remove a run that this process has created and in which nothing was recorded or paid for; True if it did."""
    with locked(folder):
        if (folder / LOCK).read_text() != PROCESS:
            return False
        store = Store.open(folder)
        try:
            if store.count() or store.baseline() or store.spent().dollars:
                return False
        finally:
            store.close()
        remove_record(folder)
    return True
