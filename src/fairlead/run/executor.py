"""Where tasks run. Local holds one worker in this process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from fairlead.core.cost import Cost
from fairlead.core.model import Model
from fairlead.core.reward import Reward
from fairlead.core.search import Space
from fairlead.core.steering import Chain
from fairlead.run import price
from fairlead.run.asking import Asking
from fairlead.run.records import Outcome, Task
from fairlead.run.spec import Spec
from fairlead.run.worker import Worker


class Executor(Protocol):
    """Runs tasks built from a Spec somewhere, in any order."""

    @property
    def space(self) -> Space:
        """The space of the run, sized for its model."""
        ...

    @property
    def reward(self) -> Reward:
        """What the run optimises, for totals from recorded terms."""
        ...

    def price(self, *, steps: int | None = None, plain: bool = False) -> tuple[Cost, Cost]:
        """(once, unit) by dry run. Asked for every task: an answer is kept."""
        ...

    def people(self, asking: Asking) -> None:
        """Whom a steering asks on the way, from now on."""
        ...

    def prepare(self, grant: Cost) -> tuple[Chain, Cost]:
        """On one worker, once per prompt. The result is data (tensors), shipped by reference."""
        ...

    def map(self, tasks: Sequence[Task], steering: Chain) -> Iterator[tuple[Task, list[Outcome], Cost]]:
        """Every task with its outcomes and cost, lazily. A failure of the machinery is raised."""
        ...


class Local:
    """One worker, here."""

    def __init__(
        self,
        spec: Spec,
        *,
        reward: Reward | None = None,
        model: Model | None = None,
        siblings: Mapping[str, Model] | None = None,
        want_gradient: bool = False,
    ) -> None:
        self.worker = Worker(spec, reward=reward, model=model, siblings=siblings, want_gradient=want_gradient)
        self._prices: dict[tuple[int | None, bool], tuple[Cost, Cost]] = {}

    @property
    def space(self) -> Space:
        """The worker's space."""
        return self.worker.space

    @property
    def reward(self) -> Reward:
        """The worker's, without watchers."""
        return self.worker.reward.optimised

    def price(self, *, steps: int | None = None, plain: bool = False) -> tuple[Cost, Cost]:
        """(once, unit) by dry run on this worker's model."""
        if (steps, plain) not in self._prices:
            self._prices[steps, plain] = price.unit(self.worker, steps=steps, plain=plain)
        return self._prices[steps, plain]

    def people(self, asking: Asking) -> None:
        """Whom this worker asks."""
        self.worker.asking = asking

    def prepare(self, grant: Cost) -> tuple[Chain, Cost]:
        """Here."""
        return self.worker.prepare(grant)

    def map(self, tasks: Sequence[Task], steering: Chain) -> Iterator[tuple[Task, list[Outcome], Cost]]:
        """One after the other."""
        for task in tasks:
            outcomes, cost = self.worker.evaluate(task, steering)
            yield task, outcomes, cost
