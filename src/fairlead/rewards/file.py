"""A function or reward of your own, in a file: `path/to/file.py:name`."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from fairlead.core import source as where
from fairlead.core import trust
from fairlead.core.errors import FairleadError
from fairlead.core.function import Function
from fairlead.core.reward import DetailedReward, EarlyReward, Reward, early_level


class FileReward(EarlyReward, DetailedReward):
    """What the named object returns: a function of pictures, a `Reward`, or its class.

    The file is executed.

    Settings:
        source (path/to/file.py:name, required): the file and the name of the object in it.
        digest (text or None, default None): digest of the file's content; it is recorded, and a run whose file has
            changed since is rejected.
    """

    name = "file"
    unit = "the function's own scale"
    licence: ClassVar[str] = "the file's own"
    source: ClassVar[str] = "the file"

    def __init__(self, source: str, digest: str | None = None) -> None:
        path, name = where.split(source)
        found = where.digest(source)
        if digest is not None and digest != found:
            raise FairleadError(
                f"{path} has changed since this run was started: its digest was {digest} and is now {found}. Start a "
                "new run."
            )
        trust.allow_file(path, found)
        spec = importlib.util.spec_from_file_location(f"fairlead_file_{found}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            raise FairleadError(
                f"{path} raised {type(error).__name__} while it was imported: {error}. Fix the file."
            ) from error
        if not hasattr(module, name):
            known = [
                k for k, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__
            ]
            raise FairleadError(
                f"{path} does not define {name!r}. It defines {', '.join(known) or 'no function or class'}."
            )
        self._inner = _reward(getattr(module, name), source)
        self.name = self._inner.name
        self.unit = self._inner.unit or type(self).unit
        self.differentiable = self._inner.differentiable
        self.level = early_level(self._inner)

    @property
    def details(self) -> Mapping[str, Tensor]:
        """The terms of a function that returns a dict."""
        return self._inner.details if isinstance(self._inner, DetailedReward) else {}

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images [B, 3, H, W] in [0, 1], prompts of length B -> [B]."""
        return self._inner.score(images, prompts)

    def compare(self, images: Tensor, early: Tensor, prompts: Sequence[str]) -> Tensor:
        """Passed on to a reward that has a level."""
        assert isinstance(self._inner, EarlyReward)
        return self._inner.compare(images, early, prompts)


def _reward(found: Any, source: str) -> Reward:
    if inspect.isclass(found) and issubclass(found, Reward):
        try:
            found = found()
        except TypeError as error:
            raise FairleadError(
                f"{source} cannot be created without arguments ({error}). Name an object or a function instead."
            ) from None
    if isinstance(found, Reward):
        if found.leaves() != [found]:
            raise FairleadError(f"{source} is a formula. Name a single reward, and write the formula in --reward.")
        return found
    return Function(found)
