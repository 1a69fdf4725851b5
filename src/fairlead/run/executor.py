"""Where tasks run. `Local` has one worker, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, Protocol

from torch import Tensor

from fairlead.core.cost import Cost
from fairlead.core.errors import FairleadError
from fairlead.core.model import Model
from fairlead.core.reward import FinalJudge, PaidReward, Reward
from fairlead.core.search import Space
from fairlead.core.sibling import model_key
from fairlead.core.steering import Chain
from fairlead.run import dry_run, registry, rungs
from fairlead.run.forming import Watching
from fairlead.run.kept import once
from fairlead.run.preview_questions import PreviewQuestions
from fairlead.run.records import Outcome, Task
from fairlead.run.rung_plan import RungCosts
from fairlead.run.rungs import Effort
from fairlead.run.setup import Setup, resolve, shape_of
from fairlead.run.spec import Spec
from fairlead.run.start import started
from fairlead.run.worker import Worker


class Executor(Protocol):
    """Runs tasks somewhere, in any order, with workers that it builds from the Spec."""

    @property
    def space(self) -> Space:
        """The space of the run, sized for its model."""
        ...

    @property
    def reward(self) -> Reward:
        """What the run optimises, for totals from recorded terms."""
        ...

    @property
    def terms(self) -> Sequence[str]:
        """Names of everything that is recorded about a picture beside its total."""
        ...

    @property
    def final_judge(self) -> FinalJudge | None:
        """Who chooses among the best finished pictures, if not the reward."""
        ...

    def price(self, *, steps: Effort = None, baseline: bool = False) -> tuple[Cost, Cost]:
        """(cost of the preparation, cost per candidate) by dry run. Asked for every task, so answers are cached."""
        ...

    def ask_through(self, previews: PreviewQuestions) -> None:
        """From now on a steering asks a person through `previews`."""
        ...

    def watch(self, watching: Watching | None) -> None:
        """From now on `watching` is shown every step of every batch."""
        ...

    def prepare(self, grant: Cost) -> tuple[Chain, Cost]:
        """Prepare the steering on one worker, once per prompt. The result is data (tensors), shipped by reference."""
        ...

    def map(self, tasks: Sequence[Task], steering: Chain) -> Iterator[tuple[Task, list[Outcome], Cost]]:
        """Every task with its outcomes and cost, lazily. A failure of the machinery is raised."""
        ...


def rung_costs(spec: Spec, executor: Executor) -> RungCosts:
    """What a candidate costs at every rung, by dry run."""
    efforts = spec.efforts
    each = [executor.price(steps=effort)[1] for effort in efforts]
    whole = [executor.price(steps=rungs.from_noise(effort, spec.steps))[1] for effort in efforts]
    before = executor.price()[0]
    if spec.own_baseline:
        before = before + executor.price(baseline=True)[1]
    return RungCosts(tuple(each), tuple(whole), before)


class Local:
    """One worker in this process. `reward`, `model` and `siblings` are live objects in place of what the Spec names."""

    def __init__(
        self,
        spec: Spec,
        *,
        reward: Reward | None = None,
        model: Model | None = None,
        siblings: Mapping[str, Model] | None = None,
    ) -> None:
        self._use(dry_run.with_batch(resolve(spec, reward=reward, model=model, siblings=siblings)))

    def _use(self, setup: Setup) -> None:
        self.setup = setup
        self.__dict__.pop("_of_every_prompt", None)
        self.worker = Worker(setup)
        self._prices: dict[tuple[Effort, bool], tuple[Cost, Cost]] = {}

    def start_at(self, point: Tensor) -> None:
        """Go on with a space whose first point is `point` [d], that of the run's parent."""
        setup = self.setup
        space = registry.build("spaces", setup.spec.space, shape_of(setup.model, setup.conditioning))
        self._use(replace(setup, space=started(space, setup.spec, setup.model, point)))

    def leave_out_drafts(self, spec: Spec) -> None:
        """Go on with this Spec, which is the present one without drafts; siblings that only drafted are dropped."""
        named = {model_key(name) for part in self.setup.steering.parts for name in part.siblings}
        siblings = {name: sibling for name, sibling in self.setup.siblings.items() if name in named}
        self._use(replace(self.setup, spec=spec, siblings=siblings))

    @property
    def space(self) -> Space:
        """The space of the setup."""
        return self.setup.space

    @property
    def reward(self) -> Reward:
        """The worker's reward without the watched ones."""
        return self.worker.reward.optimised

    @property
    def terms(self) -> Sequence[str]:
        """The labels of the worker's reward, watched ones included."""
        return self.worker.reward.labels()

    @property
    def final_judge(self) -> FinalJudge | None:
        """The setup's."""
        return self.setup.final_judge

    def price(self, *, steps: Effort = None, baseline: bool = False) -> tuple[Cost, Cost]:
        """(cost of the preparation, cost per candidate) by dry run on this model."""
        if (steps, baseline) not in self._prices:
            price = partial(dry_run.costs, self.setup, steps=steps, baseline=baseline)
            shared = self._of_every_prompt
            self._prices[steps, baseline] = once("price", (shared, steps, baseline), price) if shared else price()
        return self._prices[steps, baseline]

    @cached_property
    def _of_every_prompt(self) -> tuple[Any, ...] | None:
        """Runs for which this is equal have the same prices; None where a price depends on the prompt."""
        if any(isinstance(leaf, PaidReward) for leaf in self.setup.reward.leaves()):
            return None
        search = self.setup.spec.search
        shape = tuple(self.setup.conditioning.tokens.shape)
        return (self.setup.spec.alike, search.name, repr(search.settings), id(self.setup.model), shape)

    def check_budget(self) -> None:
        """Refuse a budget none of whose entries this run spends: it would never end."""
        spec, limits = self.setup.spec, self.setup.spec.limit.limits()
        setup_cost, each = self.price(steps=spec.efforts[0])
        spends = (setup_cost + each).limits()
        paid = [leaf for leaf in self.worker.reward.leaves() if isinstance(leaf, PaidReward)]
        if self.final_judge is None and "questions" in limits:
            raise FairleadError(
                f"The budget has questions={limits['questions']:g}, which only a final judge asks, and this run has "
                "none. Leave the entry out, or add --final-judge."
            )
        spends |= {"seconds": 1.0, "dollars": sum(leaf.dollars(spec.prompt) for leaf in paid)}
        if not any(spends[name] > 0 for name in limits):
            given = ", ".join(f"{k}={v:g}" for k, v in limits.items())
            raise FairleadError(
                f"The budget {given} limits nothing that this run spends, so it would never end. Add an entry like "
                "nfe=640."
            )

    def ask_through(self, previews: PreviewQuestions) -> None:
        """The worker asks through them."""
        self.worker.previews = previews

    def watch(self, watching: Watching | None) -> None:
        """The worker shows it."""
        self.worker.watching = watching

    def prepare(self, grant: Cost) -> tuple[Chain, Cost]:
        """On this worker."""
        return self.worker.prepare(grant)

    def map(self, tasks: Sequence[Task], steering: Chain) -> Iterator[tuple[Task, list[Outcome], Cost]]:
        """One task after the other."""
        for task in tasks:
            outcomes, cost = self.worker.evaluate(task, steering)
            yield task, outcomes, cost
