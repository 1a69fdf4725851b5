"""The noise that a caller gave: the first candidate and the plain sample start from it, the others from drawn noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fairlead.core.errors import FairleadError
from fairlead.core.key import Key
from fairlead.core.model import Model
from fairlead.core.search import Space
from fairlead.run.spec import Spec


class StartsAt:
    """A space whose draw for one key is known."""

    def __init__(self, space: Space, key: Key, x: Tensor) -> None:
        self._space, self._key, self._x = space, key, x

    def __getattr__(self, name: str) -> Any:
        return getattr(self._space, name)

    def draw(self, key: Key) -> Tensor:
        """The given point for its key, a drawn one for all others."""
        return self._x.clone() if key == self._key else self._space.draw(key)


@dataclass(frozen=True, slots=True)
class FirstIs(Key):
    """A search's key whose candidate 0 has a key that is given."""

    first: Key

    def fold(self, *path: str | int) -> Key:
        """The given key for candidate 0, as usual for everything else."""
        return self.first if path == ("candidate", 0) else Key.fold(self, *path)


def search_key(spec: Spec) -> Key:
    """The key of a run's search. Where the run has a parent, candidate 0 has the parent's key."""
    root = Key.root(spec.seed)
    if spec.parent is None:
        return root.fold("search")
    return FirstIs(root.fold("search", spec.parent.picture).digest, spec.parent.first_key)


def first_key(spec: Spec) -> Key:
    """Of candidate 0, whose picture is the plain sample of the seed, or starts where the run's parent did."""
    return search_key(spec).fold("candidate", 0)


def started(space: Space, spec: Spec, model: Model, point: Tensor | None = None) -> Space:
    """The space with `point` [d] or the model's `start_noise` [C, h, w] as its first point, if there is one."""
    if point is not None:
        at_parent: Any = StartsAt(space, first_key(spec), point)
        return at_parent  # type: ignore[no-any-return]
    noise: Tensor | None = getattr(model, "start_noise", None)
    if noise is None:
        return space
    if spec.space.name != "noise":
        raise FairleadError(f"latents are a point of the space 'noise', but the space is {spec.space.name!r}.")
    found: Any = StartsAt(space, first_key(spec), noise.flatten())
    return found  # type: ignore[no-any-return]
