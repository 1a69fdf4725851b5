"""What the suites share: checks with sentences, and a model opened for counting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fairlead.core.cost import INFINITE, Meter
from fairlead.core.key import Key, normals
from fairlead.core.model import Conditioning, Model


def law(holds: bool, sentence: str) -> None:
    """Raise the sentence unless the law holds. Not an assert statement: those vanish under -O."""
    if not holds:
        raise AssertionError(sentence)


def equal(a: Tensor, b: Tensor, sentence: str) -> None:
    """Bit for bit, NaN equal to NaN."""
    same = a.shape == b.shape and a.dtype == b.dtype
    law(same, f"{sentence}: shapes or dtypes differ, {tuple(a.shape)} {a.dtype} and {tuple(b.shape)} {b.dtype}.")
    bits = torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)) and torch.equal(a.isnan(), b.isnan())
    law(bits, f"{sentence}: largest difference {_gap(a, b):.3g}.")


def close(a: Tensor, b: Tensor, sentence: str, tolerance: float = 1e-4) -> None:
    """Up to rounding, relative to the largest entry."""
    law(a.shape == b.shape, f"{sentence}: shapes {tuple(a.shape)} and {tuple(b.shape)} differ.")
    law(torch.equal(a.isnan(), b.isnan()), f"{sentence}: NaN in one and not in the other.")
    scale = max(1.0, float(b.nan_to_num().abs().max())) if b.numel() else 1.0
    gap = _gap(a, b)
    law(gap <= tolerance * scale, f"{sentence}: largest difference {gap:.3g}, allowed {tolerance * scale:.3g}.")


def differs(a: Tensor, b: Tensor) -> bool:
    """Anything at all is different."""
    return not torch.equal(a, b)


def _gap(a: Tensor, b: Tensor) -> float:
    if a.numel() == 0:
        return 0.0
    return float((a.detach().double() - b.detach().double()).nan_to_num().abs().max())


def raises(kind: type[BaseException], call: Callable[[], Any], sentence: str) -> None:
    """`call` must raise `kind`."""
    try:
        call()
    except kind:
        return
    raise AssertionError(sentence)


@contextmanager
def counting(model: Model) -> Iterator[Meter]:
    """The model on a meter of its own, inside a grant without limit."""
    meter = Meter()
    model.meter(meter)
    with meter.grant(INFINITE):
        yield meter


@contextmanager
def global_randomness_untouched(what: str) -> Iterator[None]:
    """Nothing inside may draw from torch's global stream."""
    before = torch.get_rng_state()
    yield
    law(torch.equal(before, torch.get_rng_state()), f"{what} drew from torch's global random stream: use its Key.")


def keys(n: int, name: str = "law") -> tuple[Key, ...]:
    """n unrelated keys."""
    return tuple(Key.root(7).fold(name, i) for i in range(n))


def latents(model: Model, n: int, name: str = "latent") -> Tensor:
    """[n, C, h, w] unit normal on the model's device, row i the same for every n."""
    return normals(keys(n, name), *model.latent).to(model.device)


def prompts(n: int) -> list[str]:
    """n prompts, the first two different."""
    some = ("a photo of a red apple", "a photo of a dog", "a photo of two cats", "a photo of a blue car")
    return [some[i % len(some)] for i in range(n)]


def encode(model: Model, n: int) -> Conditioning:
    """Conditioning of n rows."""
    return model.encode(prompts(n))


def weights_in_graph(value: Tensor, allowed: Sequence[Tensor]) -> list[str]:
    """Leaves of the autograd graph of `value` that are not in `allowed`: weights that would receive gradients."""
    found: list[str] = []
    seen: set[Any] = set()
    todo: list[Any] = [value.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and not any(leaf is a for a in allowed):
            found.append(f"{tuple(leaf.shape)}")
        todo.extend(n for n, _ in node.next_functions)
    return found
