"""What travels between driver, worker and store. Imports no torch at run time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from hashlib import blake2b
from typing import TYPE_CHECKING

from fairlead.core.cost import Cost

if TYPE_CHECKING:
    from torch import Tensor

    from fairlead.core.model import Conditioning
    from fairlead.core.search import Proposal
    from fairlead.run.spec import Spec

BANK = "bank.png"
"""The best picture that a steering made while it prepared, where it was asked for."""
BASELINE = -1
"""Index of the plain sample of the same seed without any control."""
BASELINE_ROW = "no search"
"""The baseline where it stands in a table beside methods."""
REWARD = "reward"
"""The optimised reward where it stands in a table beside watched ones."""


class RunStatus(StrEnum):
    """How a run stands, as its record says it."""

    RUNNING = "running"
    STOPPED = "stopped"
    """It can be resumed."""
    FINISHED = "finished"
    """The search or the budget has ended."""


class StopReason(StrEnum):
    """Why a run ended, as its record says it; where the budget ended it, with the names of its entries."""

    INTERRUPTED = "interrupted"
    ERROR = "error"
    SEARCH_FINISHED = "search finished"
    WAITING = "waiting for an answer"
    """A person gives its rewards and has not answered yet."""
    BUDGET = "budget"
    UNTIL = "until"
    """The best finished picture satisfies the condition that follows."""
    FLAT = "flat"
    """The next picture promises less than its price; the numbers follow."""

    @staticmethod
    def budget(names: Iterable[str]) -> str:
        """The budget of these entries is spent."""
        return f"{StopReason.BUDGET}: {', '.join(names)}"

    @staticmethod
    def until(condition: str) -> str:
        """The condition that was asked for is satisfied."""
        return f"{StopReason.UNTIL}: {condition}"

    @staticmethod
    def flat(gain: float, price: float) -> str:
        """The next picture is expected to add `gain`, in units of the reward, and that is not worth its price."""
        if gain <= 0:
            return f"{StopReason.FLAT}: the best rewards are equal, so the next picture promises nothing"
        return f"{StopReason.FLAT}: the next picture promises {gain:.3g}, and its price is {price:.3g}"


class Phase(StrEnum):
    """What a run is doing, for whoever watches."""

    LOADING = "loading model"
    SEARCHING = "searching"
    CHOOSING = "choosing among the best"
    DONE = "done"


@dataclass(frozen=True)
class IndexedProposal:
    """A question of the search with its place in the run."""

    index: int
    proposal: Proposal
    group: int
    refines: int | None = None
    """The candidate of the rung below that was chosen for this one."""
    origin: int | None = None
    """The candidate that it was drawn from, where the search names one."""

    def again(self, index: int, effort: int | str | None) -> IndexedProposal:
        """The same question at the effort of a higher rung, at another index."""
        return replace(
            self, index=index, proposal=replace(self.proposal, steps=effort), refines=self.index, origin=None
        )


@dataclass(frozen=True)
class Owner:
    """The run that a row belongs to, in a batch that several runs share."""

    spec: Spec
    conditioning: Conditioning
    """One row: its prompt, encoded."""


@dataclass(frozen=True)
class Companions:
    """Where a task stood in a batch that several runs shared. Kernels round by place and size, not by content."""

    before: int
    """Rows before its own."""
    rows: int
    """Rows of the whole batch."""
    runs: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """The folder and the candidates of every run in the batch, this one included, in order."""


@dataclass(frozen=True)
class Task:
    """Whole groups only, in ask order, with what they may spend."""

    indices: tuple[int, ...]
    proposals: tuple[Proposal, ...]
    groups: tuple[int, ...]
    grant: Cost
    is_baseline: bool = False
    """True for the plain sample: no steering, no intervention."""
    refines: tuple[int, ...] = ()
    """Per candidate the one of the rung below that was chosen for it; empty in the first rung."""
    origins: tuple[int | None, ...] = ()
    """Per candidate the one that it was drawn from, if any."""
    states: tuple[Tensor, ...] = ()
    """Per candidate the captured state that it goes on from, [2, C, h, w]; empty where it starts from the noise."""
    owners: tuple[Owner, ...] = ()
    """Per candidate its run, where the batch is shared by several; empty where all belong to one."""
    companions: Companions | None = None
    """Where it stood in a shared batch, to render it again in the same place; None where it was a batch of its own."""


def question(task: Task, position: int) -> str:
    """Digest of what is asked at one index: the point, its randomness, its effort and whether controls apply."""
    p = task.proposals[position]
    h = blake2b(p.x.detach().numpy().tobytes(), digest_size=16)
    h.update(p.key.digest + str((p.steps, task.is_baseline)).encode())
    return h.hexdigest()


@dataclass(frozen=True)
class Outcome:
    """What came back for one candidate."""

    index: int
    reward: float
    """NaN if it failed"""
    terms: Mapping[str, float]
    cost: Cost
    """This candidate's share of its batch."""
    image: bytes
    """PNG"""
    gradient: Tensor | None = None
    state: Tensor | None = None
    """[2, C, h, w] float32: where a peek stopped and its last clean prediction, for the next rung to go on from."""


@dataclass(frozen=True)
class Candidate:
    """A recorded outcome as the readers see it."""

    index: int
    reward: float
    terms: Mapping[str, float]
    cost: Cost
    image: str
    """File name inside the run directory."""
    key: str
    """Hex digest of the candidate's key."""
    task: int
    """Ordinal of the batch it was rendered in."""
    steps: int
    refines: int | None = None
    """The candidate of the rung below that was chosen for this one: its reward chose, this one's judges."""
    rung: int = 0
    """How often it was refined: 0 is what the search asked for, and a draft where the run has drafts."""
    origin: int | None = None
    """The candidate that it was drawn from, where the search names one."""


@dataclass(frozen=True)
class Progress:
    """How a run stands, for whoever watches."""

    phase: Phase
    done: int
    """Candidates with an answer."""
    expected: int | None
    """Candidates the budget affords, if that can be counted."""
    spent: Cost
    limit: Cost
    baseline: float | None
    best: float | None
    best_index: int | None
    seconds: float
    """Since this process started the run."""
    rate: float
    """Images per second of this process; 0 before the first."""
    watched: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Of every watched formula: of the baseline, of the best so far; empty before both are known."""


@dataclass(frozen=True)
class BatchStep:
    """A batch after one denoising step, for whoever watches. Nothing of it is recorded."""

    indices: tuple[int, ...]
    """The candidates that are rendered."""
    step: int
    """Denoising steps taken, from 1."""
    steps: int
    spent: Cost
    """What the batch has spent so far; it is part of no `Progress` yet."""
    previews: Mapping[int, bytes] = field(default_factory=dict)
    """Candidate -> its decoded clean prediction as a small WebP picture; empty where none was wanted at this step."""
    apart: Cost = field(default_factory=Cost)
    """What previews have cost since this process started the run: part of no budget and of no count."""


@dataclass(frozen=True)
class Replay:
    """A recorded candidate rendered again."""

    index: int
    recorded: Candidate
    reward: float
    identical: bool
    """Equal reward and equal pixels, bit for bit."""
    max_pixel_difference: int
    """0 to 255"""
    image: bytes
    companions: int
    """How many candidates were rendered in the same batch this time."""
    message: str
