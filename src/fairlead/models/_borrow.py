"""A pipeline's networks while a run uses them: one run at a time, frozen, and left exactly as they were found."""

from __future__ import annotations

import inspect
import threading
from abc import ABCMeta
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

import torch

from fairlead.core.errors import FairleadError

PAID: ContextVar[bool] = ContextVar("PAID", default=False)
"""True while an adapter calls its network for rows that it has charged. Adapters that share a network (a model that is
its own sibling) see each other's calls, and a row is charged once."""

_users: WeakKeyDictionary[torch.nn.Module, list[threading.Thread]] = WeakKeyDictionary()
_lock = threading.Lock()


class GivesBack(ABCMeta):
    """An adapter whose construction fails gives its pipeline back, whichever class of it refused."""

    @property
    def __signature__(cls) -> inspect.Signature:
        """That of the adapter's own settings."""
        start: Any = cls.__init__  # type: ignore[misc]
        own = inspect.signature(start)
        return own.replace(parameters=list(own.parameters.values())[1:])

    def __call__(cls, *args: Any, **settings: Any) -> Any:
        """The adapter, or the error after the pipeline is as it was found."""
        adapter: Any = cls.__new__(cls, *args, **settings)  # type: ignore[arg-type]
        try:
            adapter.__init__(*args, **settings)
        except BaseException:
            for undo in reversed(getattr(adapter, "_give_back", [])):
                undo()
            raise
        return adapter


def claim(pipe: Any) -> Callable[[], None]:
    """Reserve every network for this thread; the returned call ends it. Two runs at once would mix hooks and flags."""
    here = threading.current_thread()
    networks = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    with _lock:
        for name, network in networks.items():
            if any(user is not here and user.is_alive() for user in _users.get(network, ())):
                raise FairleadError(
                    f"The {name} of this {type(pipe).__name__} is in use by another run, in another thread. "
                    "Wait until that run has ended, or give this run a pipeline with weights of its own."
                )
        for network in networks.values():
            _users.setdefault(network, []).append(here)

    def release() -> None:
        with _lock:
            for network in networks.values():
                _users[network].remove(here)

    return release


def freeze(pipe: Any) -> Callable[[], None]:
    """Prepare every network for inference; the returned call restores modes and gradient flags exactly."""
    networks = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    modes = [(module, module.training) for network in networks for module in network.modules()]
    grads = [(weight, weight.requires_grad) for network in networks for weight in network.parameters()]
    for network in networks:
        network.eval().requires_grad_(False)

    def give_back() -> None:
        for module, mode in modes:
            module.training = mode
        for weight, grad in grads:
            with torch.inference_mode(weight.is_inference()):  # flags of such a weight can be set only there
                weight.requires_grad_(grad)

    return give_back


def refuse_adapters(pipe: Any, net: Any) -> None:
    """An IP-Adapter needs a picture at every call of the network, and a run starts from a prompt alone."""
    for part in ("encoder_hid_proj", "image_proj"):
        if getattr(net, part, None) is not None and hasattr(pipe, "unload_ip_adapter"):
            raise FairleadError(
                f"This {type(pipe).__name__} has an IP-Adapter, which needs a picture as input: fairlead starts from a "
                "text and pictures of its own options. Call pipe.unload_ip_adapter() first."
            )
