"""How much memory a run needs, counted by running the network on tensors without data, and how many pictures fit."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fairlead.core.device import free as free
from fairlead.core.model import Model, Traceable
from fairlead.run.spec import Spec

MOST = 64
"""Pictures at once at most, however much memory there is: larger batches are no faster."""
USUAL = 4
"""Pictures at once where memory cannot be asked for."""
SPARE = 0.85
"""Part of the free memory that is planned with; the rest is for fragments and for what is not counted."""


@dataclass(frozen=True)
class Footprint:
    """Bytes."""

    weights: int
    """Every network of the pipeline that stays on the device."""
    picture: int
    """The most that is alive at once while one picture is denoised, or decoded, whichever is more.

    Not counted: the reward's own networks, and what a steering or a search keeps between calls, which is latents.
    """

    def at(self, batch: int) -> int:
        """With so many pictures at once."""
        return self.weights + batch * self.picture

    def as_dict(self) -> dict[str, int]:
        """Plain data."""
        return asdict(self)


class _Peak(TorchDispatchMode):  # type: ignore[no-untyped-call, misc, unused-ignore]
    """Bytes of the tensors made inside that were alive at the same time, at the most."""

    most: int

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self.now = self.most = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.seen(tensor)
        return out

    def seen(self, tensor: torch.Tensor) -> torch.Tensor:
        """Count a tensor as alive; several may share their bytes."""
        storage = tensor.untyped_storage()
        size = storage.nbytes()
        key = storage._cdata
        if key not in self._alive:
            self.now += size
        self._alive[key] = self._alive.get(key, 0) + 1
        self.most = max(self.most, self.now)
        weakref.finalize(tensor, self._gone, key, size)
        return tensor

    def _gone(self, key: int, size: int) -> None:
        self._alive[key] -= 1
        if not self._alive[key]:
            del self._alive[key]
            self.now -= size


def peak(work: Callable[[], Any], weights: Iterable[torch.Tensor] = ()) -> int:
    """The most bytes alive at once while `work` makes tensors: with what it keeps for a gradient, without `weights`."""
    known = {w.untyped_storage()._cdata for w in weights}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        return tensor if tensor.untyped_storage()._cdata in known else seen.seen(tensor)

    with _Peak() as seen, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        kept = work()
        most: int = seen.most
    del kept
    return most


def peak_without_data(work: Callable[[], Any], weights: Iterable[torch.Tensor] = ()) -> int:
    """The same, with every tensor inside replaced by its shape."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        return peak(work, weights)


def footprint(model: Model, rows: float = 1, decodes: float = 1, gradient: bool = False) -> Footprint | None:
    """What a model needs, None if it cannot be traced without data. The network does not compute and is not charged.

    `rows` predictions and `decodes` pictures are computed at once per picture of the batch. With `gradient`, one call
    is differentiated at a time, because steps are computed again one by one.
    """
    if not isinstance(model, Traceable):
        return None
    works = model.trace(gradient)
    held = list(model.networks())
    weights = sum(p.numel() * p.element_size() for p in held)
    try:
        picture = max(n * peak_without_data(work, held) for n, work in zip((rows, decodes), works, strict=True))
    except Exception:
        return None
    return Footprint(weights, round(picture))


def fitted(spec: Spec, model: Model, needed: Callable[[], Footprint | None] | None = None) -> Spec:
    """The Spec with its batch chosen, where it was left open (0): what fits into the free memory, in whole groups.

    `needed` knows more of the run than its model.
    """
    if spec.batch:
        return spec
    room = free(model.device)
    need = None
    if model.device.type == "cuda":
        need = footprint(model) if needed is None else needed()
    n = USUAL if room is None or need is None else int(SPARE * room / max(need.picture, 1))
    n = max(1, min(n, MOST))
    return replace(spec, batch=max(spec.group, n - n % spec.group))
