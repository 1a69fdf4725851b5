"""Which queued jobs the user of this machine asked for. Imports no torch.

A job is a file in the runs folder, and a runs folder may have come with an archive. So a job that executes a file, asks
a server or copies somebody's picture into its run is computed only if there is a mark for exactly this job in the
user's private folder, where an archive cannot put one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path

from fairlead.app.workers.address import private_folder
from fairlead.app.workers.jobs import Job
from fairlead.core.errors import FairleadError
from fairlead.run import config
from fairlead.run.options import RunOptions
from fairlead.run.spec import Spec, reward_text

FORMULAS = ("reward", "watch", "final_judge", "until")
"""Options that hold formulas of rewards."""
PICTURES = ("image", "mask", "like", "unlike")
"""Options that name a picture, which is copied into the run."""


def formulas_of(options: RunOptions) -> dict[str, str]:
    """Every formula of the options, with the name of its option."""
    found: dict[str, str] = {}
    for name in FORMULAS:
        value = getattr(options, name)
        every = value if isinstance(value, list | tuple) else [value]
        found |= {str(one): name for one in every if one is not None}
    return found


def formulas_in(spec: Spec) -> dict[str, str]:
    """The same of a run that is recorded."""
    judge = [] if spec.final_judge is None else [reward_text(spec.final_judge)]
    return {reward_text(spec.reward): "reward", **dict.fromkeys([*map(reward_text, spec.watch), *judge], "watch")}


def _mark(root: Path, job: Job) -> Path:
    data = {name: value for name, value in asdict(job).items() if name not in ("state", "worker", "sentence", "error")}
    words = json.dumps([str(root.resolve()), data], sort_keys=True)
    return private_folder() / f"{blake2b(words.encode(), digest_size=16).hexdigest()}.asked"


def vouch(root: Path, job: Job) -> Job:
    """The user asked for this job, and for what it names."""
    _mark(root, job).touch(mode=0o600)
    return job


def pass_on(root: Path, old: Job, new: Job) -> None:
    """The new job takes the place of the old one: it is vouched for if that one was."""
    if _mark(root, old).is_file():
        vouch(root, new)
        forget(root, old)


def named_by(options: RunOptions) -> list[str]:
    """What the options name outside the run: formulas that reach out, and pictures."""
    pictures = [str(value) for name in PICTURES if (value := getattr(options, name)) is not None]
    return [*reaching(formulas_of(options)), *pictures]


def reaching(formulas: Iterable[str]) -> list[str]:
    """Those that execute or read a file, or ask a server."""
    return [formula for formula in formulas if config.reaches_out(formula)]


def check_vouched(root: Path, job: Job, named: Sequence[str]) -> None:
    """Refuse a job that names something outside its run, and that the user of this machine did not ask for."""
    if named and not _mark(root, job).is_file():
        raise FairleadError(
            f"This run names {named[0][:200]!r}, but nobody asked for it on this machine: its job may have come with "
            "the folder. Start it again, and read what it names before you say yes."
        )


def forget(root: Path, job: Job) -> None:
    """The job has ended."""
    _mark(root, job).unlink(missing_ok=True)
