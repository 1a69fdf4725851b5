"""The noise that a caller gave: the first candidate and the plain sample start from it, the others from drawn noise."""

from __future__ import annotations

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


def first_key(spec: Spec) -> Key:
    """Of candidate 0, whose picture is the plain sample of the seed."""
    return Key.root(spec.seed).fold("search").fold("candidate", 0)


def started(space: Space, spec: Spec, model: Model) -> Space:
    """The space with the model's `start_noise` [C, h, w] as its first point, if there is one."""
    noise: Tensor | None = getattr(model, "start_noise", None)
    if noise is None:
        return space
    if spec.space.name != "noise":
        raise FairleadError(f"latents are a point of the space 'noise', but the space is {spec.space.name!r}.")
    found: Any = StartsAt(space, first_key(spec), noise.flatten())
    return found  # type: ignore[no-any-return]
