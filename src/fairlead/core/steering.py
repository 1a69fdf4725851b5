"""What acts inside the denoising loop: `Step` and `Scene` are what a steering sees, `Steering` is what it declares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from fairlead.core.declared import check_declarations, public_names
from fairlead.core.key import Key
from fairlead.core.model import Conditioning, Level
from fairlead.core.samplers import PreviousStep, Sampler, StatefulSampler, line
from fairlead.core.sibling import ModelRef, model_key

Denoise = Callable[[Tensor, Level, Tensor], Tensor]
"""x [R, C, h, w], level, rows [R] -> clean prediction x0 [R, C, h, w]."""
Shift = Callable[[Tensor, Level, Tensor], Tensor]
"""x [R, C, h, w], level, rows [R] -> what is added to the clean prediction, [R, C, h, w]."""
Schedule = Callable[[int], Sequence[Level]]
"""Number of steps -> the noise levels of a model, noisiest first."""
Gradient = Callable[[Callable[[Tensor], Tensor], Tensor], tuple[Tensor, Tensor]]
"""f: [R, ...] -> [R], and a point [R, ...] -> the values [R] and the gradient [R, ...]."""
Decision = Literal["noise", "rows", "state"]


def _unchanged(x: Tensor) -> Tensor:
    return x


def _no_gradient(f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    raise RuntimeError("This step was made without a meter, so it cannot charge for gradients.")


@dataclass(frozen=True)
class Step:
    """One step of the loop as data. A steering returns another Step, and the loop runs that one."""

    x: Tensor
    """[B, C, h, w] float32"""
    at: Level
    """The noise level of `x`."""
    to: Level
    """The noise level that this step goes to."""
    index: int
    steps: int
    keys: tuple[Key, ...]
    """Length B. Private to this step and to steerings: the loop draws its own noise from other keys."""
    groups: Tensor
    """[B] int64"""
    noise: Tensor
    """[B, C, h, w] unit normal; row b depends on the key of sample b alone. Empty for deterministic samplers."""
    memory: dict[str, Any]
    """Kept along the trajectory, empty at step 0: the previous step, the last rewards, ..."""
    denoise: Denoise
    """The model's guided clean prediction; every call is charged."""
    schedule: Schedule
    """The model's own noise levels for a number of steps."""
    score: Callable[[Tensor, Tensor], Tensor]
    """x0 [R, C, h, w], rows [R] -> reward [R]. Decodes and scores; both are charged."""
    sampler: Sampler
    x0: Tensor | None = None
    """[B, C, h, w] clean prediction at (x, at), once it has been computed and paid for"""
    after: Callable[[Tensor], Tensor] = _unchanged
    last: bool = False
    """True if the sample is finished after this step: the remaining levels are left out."""
    prompt_conditioning: Conditioning | None = None
    """The conditioning that the run started with, row b for sample b; `conditioning` is the one in use now."""
    gradient: Gradient = _no_gradient
    """Value and gradient of a function; the rows that are differentiated are charged."""
    levels: Sequence[Level] = ()
    """All noise levels that the loop walks down, noisiest first: what `Steering.grid` returned."""
    siblings: Mapping[str, tuple[Denoise, Schedule]] = field(default_factory=dict)
    """The sibling models that a steering named, as `denoise` and `schedule` in this model's coordinates."""

    @property
    def rows(self) -> Tensor:
        """[B] int64: every sample once."""
        return torch.arange(len(self.x))

    @property
    def conditioning(self) -> Conditioning:
        """The conditioning that the network receives now."""
        conditioning = self.memory.get("conditioning", self.prompt_conditioning)
        assert isinstance(conditioning, Conditioning)
        return conditioning

    def with_conditioning(self, conditioning: Conditioning) -> Step:
        """Use another conditioning in this step and all following ones. A prediction made before is dropped."""
        self.memory["conditioning"] = conditioning
        return replace(self, x0=None)

    def note(self, name: str, values: Tensor) -> None:
        """Record one number per sample [B] beside the terms of the reward; a later value replaces an earlier one."""
        self.memory.setdefault("notes", {})[name] = values

    def guide(self, shift: Shift) -> Step:
        """Add shift(x, at, rows) [R, C, h, w] to every clean prediction of this step.

        A prediction that was already computed is shifted and not computed again.
        """
        denoise = self.denoise

        def guided(x: Tensor, at: Level, rows: Tensor) -> Tensor:
            return denoise(x, at, rows) + shift(x, at, rows)

        x0 = None if self.x0 is None else self.x0 + shift(self.x, self.at, self.rows)
        return replace(self, denoise=guided, x0=x0)

    def with_noise(self, noise: Tensor) -> Step:
        """The same step with other noise [B, C, h, w]."""
        return replace(self, noise=noise)

    def then(self, after: Callable[[Tensor], Tensor]) -> Step:
        """Apply after(x) [B, C, h, w] -> [B, C, h, w] once the step is taken, for example to resample or to add noise.

        Rows may have moved, so the history of multistep samplers is dropped: the next step is of first order.
        """
        before = self.after
        return replace(self, after=lambda x: after(before(x)))

    def solve(self, x: Tensor, levels: Sequence[Level], rows: Tensor) -> Tensor:
        """x [R, C, h, w] at levels[0], rows [R] -> x at levels[-1] by first-order ODE moves; one charged NFE per
        move.
        """
        for at, to in pairwise(levels):
            x = line(x, self.denoise(x, at, rows), at, to)
        return x

    def peek(self, x: Tensor, at: Level, rows: Tensor, steps: int) -> Tensor:
        """x [R, C, h, w] at `at`, rows [R] -> x0 [R, C, h, w] by a short ODE with this step's guidance; charged."""
        below = [level for level in self.schedule(steps) if level.sigma < at.sigma]
        return self.solve(x, [at, *below], rows)

    def by(self, model: ModelRef | None) -> Step:
        """The same step with the unguided denoiser and the schedule of a sibling; None is the run's own model.

        `step.by("pocket-turbo").peek(x, at, rows, 1)` is the sibling's clean prediction of x at `at`; it is charged
        alike.
        """
        if model is None:
            return self
        denoise, schedule = self.siblings[model_key(model)]
        return replace(self, denoise=denoise, schedule=schedule, x0=None)

    def solved(self) -> Step:
        """The same step with x0 computed: one evaluation per sample the first time, none afterwards."""
        if self.x0 is not None:
            return self
        return replace(self, x0=self.denoise(self.x, self.at, self.rows))

    def advance(self, noise: Tensor, rows: Tensor) -> Tensor:
        """Noise [R, C, h, w], rows [R] -> those rows of x moved to `to`, [R, C, h, w]. Needs a solved step."""
        return self._moved(noise, rows)[0]

    def _moved(self, noise: Tensor, rows: Tensor) -> tuple[Tensor, PreviousStep]:
        """What `advance` returns, and what the next step must know of it."""
        if self.x0 is None:
            raise RuntimeError("advance() needs the clean prediction: call solved() first.")
        on_device = rows.to(self.x.device)
        previous: PreviousStep | None = self.memory.get("previous")
        if previous is not None:
            previous = previous.take(rows)
        denoise = self.denoise
        x0 = self.x0[on_device]

        def inner(y: Tensor, at: Level) -> Tensor:
            return denoise(y, at, rows)

        given = (inner, self.x[on_device], x0, self.at, self.to, noise, previous)
        if isinstance(self.sampler, StatefulSampler):
            x, state = self.sampler.moved(*given)
            return x, PreviousStep(x0, self.at, state)
        return self.sampler(*given), PreviousStep(x0, self.at)

    def run(self) -> Tensor:
        """Solve, advance with `noise`, then apply `after`: [B, C, h, w]."""
        ready = self.solved()
        assert ready.x0 is not None
        x, done = ready._moved(ready.noise, ready.rows)
        if ready.after is _unchanged:
            self.memory["previous"] = done
            return x
        self.memory.pop("previous", None)
        return ready.after(x)


class Render(Protocol):
    """n keys, steps -> x0 [n, C, h, w] of the run's prompt, without steering, by the run's model or a sibling."""

    def __call__(
        self, keys: tuple[Key, ...], steps: int, *, model: ModelRef | None = None, sampler: Sampler | None = None
    ) -> Tensor:
        """The default sampler is euler, or for a sibling the one that the sibling was made for."""
        ...


@dataclass(frozen=True)
class Scene:
    """What a steering may use once per prompt, before sampling starts. Charged; done by one worker, sent to the
    others.
    """

    key: Key
    render: Render
    score: Callable[[Tensor], Tensor]
    """x0 [n, C, h, w] -> reward [n]"""
    batch: int = 16
    """How many samples the run renders at once: ask for more in pieces of this size."""
    decode: Callable[[Tensor], Tensor] | None = None
    """x0 [n, C, h, w] -> pictures [n, 3, H, W] in [0, 1]; charged"""
    recorded: Callable[[str], Mapping[str, Tensor]] | None = None
    """Directory of another run of the same prompt and model -> the tensors its steering prepared, `<part>.<field>`."""


class Steering(ABC):
    """A method inside the denoising loop: it receives every `Step` and returns the step to run instead.

    A subclass is a frozen dataclass. Its fields are its settings and, once prepared, its tensors. What it does and
    needs is declared by overriding the attributes below, as a class attribute or, where it depends on settings, as a
    property. Any other public attribute of the class is rejected when the class is defined.
    """

    compares: ClassVar[bool] = False
    """True if it scores together exactly the candidates that it compares. Rewards that rank pictures are then
    allowed.
    """
    asks: ClassVar[bool] = False
    """True if a person may give its rewards: it handles `Enough`, which ends the questions about one sample."""
    decides: ClassVar[Decision | None] = None
    """What it decides about where samples are after a step: "noise" if it makes the noise, "rows" if it moves samples
    between rows, "state" if it replaces all that others decided. A "state" part stands last, behind none that
    decides.
    """
    stochastic: ClassVar[bool] = False
    """True if it works only with a sampler that draws noise."""
    differentiates: ClassVar[bool] = False
    """True if it needs gradients of the reward."""
    needs_company: ClassVar[bool] = False
    """True if it changes nothing in a group of one."""
    adaptive: ClassVar[bool] = False
    """True if its cost depends on scores. It must then cost most where no score is better than another (a dry run)."""

    @property
    def learns_from_drafts(self) -> bool:
        """True if the run's drafts are its bank: it changes nothing until `with_bank` has them."""
        return False

    def with_bank(self, bank: Tensor, rewards: Tensor) -> Steering:
        """Ready to steer by samples [n, C, h, w] with rewards [n], for one that learns from drafts."""
        return self

    switched_off: ClassVar[Mapping[str, Any]] = {}
    """Settings with which it changes nothing, bit for bit; the laws test it. Empty if there are none."""
    noticeable: ClassVar[Mapping[str, Any]] = {}
    """Settings with which it acts on small differences of a reward, for the laws, where its defaults do not."""

    cheaper: ClassVar[Sequence[Mapping[str, Any]]] = ()
    """Settings that cost less, the dearest first: what is recommended to whom the budget covers no picture."""

    adapts: ClassVar[bool] = False
    """True if it changes the conditioning between steps. A part that decides the "state" then uses predictions made
    before the change, so the two are refused together. A part that moves "rows" moves their conditioning too."""

    @property
    def couples(self) -> bool:
        """True if samples of one group influence each other. The engine then never cuts a group."""
        return False

    @property
    def siblings(self) -> tuple[ModelRef, ...]:
        """Other models of the same latent space that it uses; they are loaded together with the run's model."""
        return ()

    @property
    def beside(self) -> tuple[Tensor, float] | None:
        """A picture [3, H, W] in [0, 1] that `prepare` made, and its reward: written beside the run's as bank.png."""
        return None

    @property
    def least_moves(self) -> int:
        """How many steps its own noise levels need to be accurate; 0 if it walks the model's levels."""
        return 0

    def grid(self, levels: Sequence[Level], schedule: Schedule) -> Sequence[Level]:
        """The noise levels that the loop walks down, starting from levels[0]; the default is the model's own."""
        return levels

    def prepare(self, scene: Scene) -> Steering:
        """Work that is done once per prompt; returns the steering to use. The default prepares nothing."""
        return self

    @abstractmethod
    def __call__(self, step: Step) -> Step:
        """The step to run instead of `step`."""

    def __init_subclass__(cls, **words: Any) -> None:
        """Reject a misspelt capability and a value that no capability has."""
        super().__init_subclass__(**words)
        check_declarations(cls, public_names(Steering), CHOICES)


CHOICES: dict[str, tuple[Any, ...]] = {
    "compares": (False, True),
    "asks": (False, True),
    "decides": (None, "noise", "rows", "state"),
    "stochastic": (False, True),
    "differentiates": (False, True),
    "needs_company": (False, True),
    "adaptive": (False, True),
    "adapts": (False, True),
    "couples": (False, True),
    "learns_from_drafts": (False, True),
}
"""The values that a capability may have."""


@dataclass(frozen=True)
class Chain(Steering):
    """Several steerings in order: each sees the step that the one before it returned. Empty, it is the plain
    sampler.
    """

    parts: tuple[Steering, ...] = ()

    @property
    def couples(self) -> bool:
        """True if any part couples samples."""
        return any(part.couples for part in self.parts)

    @property
    def learns_from_drafts(self) -> bool:
        """True if any part does."""
        return any(part.learns_from_drafts for part in self.parts)

    def with_bank(self, bank: Tensor, rewards: Tensor) -> Chain:
        """Every part that learns from drafts with its bank, the others as they are."""
        return Chain(tuple(p.with_bank(bank, rewards) if p.learns_from_drafts else p for p in self.parts))

    def grid(self, levels: Sequence[Level], schedule: Schedule) -> Sequence[Level]:
        """The levels after every part has replaced or kept them."""
        for part in self.parts:
            levels = part.grid(levels, schedule)
        return levels

    def prepare(self, scene: Scene) -> Chain:
        """Every part prepared, in order."""
        return Chain(tuple(part.prepare(scene) for part in self.parts))

    def __call__(self, step: Step) -> Step:
        """The step as the last part leaves it."""
        for part in self.parts:
            step = part(step)
        return step


class EarlyPredictions(Steering):
    """Last in a chain: keeps the clean predictions at wanted shares of noise sigma/(alpha + sigma). Costs no
    evaluation.

    Each is taken at the nearest step of the grid, the noisier one of two equally near.
    """

    def __init__(self, levels: Sequence[Level], wanted: Iterable[float]) -> None:
        self._wanted = tuple(wanted)
        self.grid(levels, lambda steps: levels)
        self.found: dict[float, Tensor] = {}
        """Wanted share -> x0 [B, C, h, w]"""

    def grid(self, levels: Sequence[Level], schedule: Schedule) -> Sequence[Level]:
        """The levels unchanged; chooses the steps at which predictions are kept."""
        shares = [at.time for at in levels[:-1]]
        self._at: dict[int, list[float]] = {}
        for wanted in self._wanted:
            nearest = min(range(len(shares)), key=lambda i: abs(shares[i] - wanted))
            self._at.setdefault(nearest, []).append(wanted)
        return levels

    def __call__(self, step: Step) -> Step:
        """The same step, solved where its prediction is kept."""
        if step.index not in self._at:
            return step
        step = step.solved()
        assert step.x0 is not None
        self.found.update(dict.fromkeys(self._at[step.index], step.x0))
        return step
