"""What a steering prepared, as bytes: plain fields and tensors of frozen dataclasses, no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fairlead.core.errors import FairleadError, StoreError
from fairlead.core.steering import Chain
from fairlead.run.spec import Spec
from fairlead.run.store import Store


def dump(chain: Chain, bare: Chain) -> bytes:
    """Every tensor field of every part, under `<part>.<field>`; nothing else may differ from the unprepared chain."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for i, part in enumerate(chain.parts):
        if not is_dataclass(part):
            raise TypeError(f"{type(part).__name__} is not a frozen dataclass, so what it prepared cannot be recorded")
        for field in fields(part):
            value = getattr(part, field.name)
            if isinstance(value, Tensor):
                tensors[f"{i}.{field.name}"] = value.detach().cpu().contiguous()
            else:
                if value != getattr(bare.parts[i], field.name):
                    raise TypeError(
                        f"{type(part).__name__} prepared {field.name} as {value!r}: only tensors are recorded"
                    )
                plain[f"{i}.{field.name}"] = value
    data: bytes = save(tensors, {"plain": json.dumps(plain, default=repr)})
    return data


def restore(chain: Chain, data: bytes, device: Any) -> Chain:
    """The unprepared chain with its prepared tensors put back."""
    tensors = _load(data)
    parts = []
    for i, part in enumerate(chain.parts):
        own = {k.partition(".")[2]: v.to(device) for k, v in tensors.items() if k.partition(".")[0] == str(i)}
        try:
            parts.append(replace(part, **own) if own else part)  # type: ignore[type-var]
        except TypeError as error:
            name = type(part).__name__
            raise StoreError(f"What {name} prepared has another form ({error}): start the run again.") from error
    return Chain(tuple(parts))


def _load(data: bytes) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load(data)
        return tensors
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RuntimeError) as error:
        raise StoreError(f"What the steering prepared cannot be read ({error!s:.80}): start the run again.") from error


def recorded(folder: Path, spec: Spec, device: Any) -> Mapping[str, Tensor]:
    """What the steering of another run prepared, as `<part>.<field>`; its prompt and model must be those of `spec`.

    Tensors of another prompt or model may have the same shape: they would spoil the picture without any error.
    """
    store = Store.open(folder)
    try:
        other = store.spec
        kept = store.recall_prepared("steering")
    finally:
        store.close()
    for what, mine, its in (("prompt", spec.prompt, other.prompt), ("model", spec.model, other.model)):
        if mine != its:
            raise FairleadError(
                f"The run in {folder} has the {what} {its!r} and this one {mine!r}: they must be equal."
            )
    if kept is None:
        raise FairleadError(f"The run in {folder} prepared nothing. Name a run that used the same steering.")
    return {name: tensor.to(device) for name, tensor in _load(kept[0]).items()}
