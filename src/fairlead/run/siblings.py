"""The sibling models that a steering or drafts name: loaded like any model, and checked to share its latent space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fairlead.core.errors import FairleadError
from fairlead.core.model import Model
from fairlead.core.samplers import sampler_for
from fairlead.core.sibling import CURVE, ModelRef, Sibling, check_related, model_key
from fairlead.core.steering import Chain
from fairlead.run import inputs, machine, models, registry, rungs
from fairlead.run.spec import Part, Spec

SHARED = ("dtype", "height", "width", *inputs.SETTINGS)
"""Settings of the run's model that a sibling has too."""


def load_siblings(steering: Chain, spec: Spec, model: Model, given: Mapping[str, Model]) -> dict[str, Sibling]:
    """Every sibling by its key, each loaded once; `given` are those already loaded. Encodes the prompt."""
    named: dict[str, Part] = {}
    for drafting in rungs.siblings(spec.draft):
        named[drafting] = _part(drafting, spec)
    for method in steering.parts:
        named |= {model_key(wanted): _part(wanted, spec) for wanted in map(_named, method.siblings)}
    out = {}
    for name, part in named.items():
        other = given[name] if name in given else _own_or_loaded(part, spec, model)
        check_related(model, other, name)
        sampler = sampler_for(registry.resolve("samplers", _sampler(part, name in given)), other)
        out[name] = Sibling(other, other.encode([spec.prompt]), sampler, model.levels(CURVE))
    return out


def _sampler(part: Part, given: bool) -> str:
    """The model's own; one that is only live in Python steps by euler."""
    try:
        return str(models.defaults(part.name, part.settings.get("revision")).get("sampler", "euler"))
    except FairleadError:
        if given:
            return "euler"
        raise


def _named(wanted: Any) -> ModelRef:
    if not isinstance(wanted, str) and not (isinstance(wanted, Mapping) and isinstance(wanted.get("name"), str)):
        raise FairleadError(
            f"Sibling model {wanted!r} has no name: must be a name, or {{'name': ..., 'setting': value}}."
        )
    return wanted


def _part(wanted: ModelRef, spec: Spec) -> Part:
    """The sibling with the run's number format and picture size where it says no other."""
    own = {"name": wanted} if isinstance(wanted, str) else dict(wanted)
    usual = {k: v for k, v in spec.model.settings.items() if k in SHARED}
    return Part(own.pop("name"), usual | own)


def _own_or_loaded(part: Part, spec: Spec, model: Model) -> Model:
    return model if part == spec.model else _loaded(part, spec)


def _loaded(part: Part, spec: Spec) -> Model:
    device = machine.device()
    dtype = part.settings.get("dtype") or machine.dtype(device)
    try:
        built: Model = models.build(replace(spec, model=part), device=device, dtype=dtype)
    except FairleadError as error:
        raise FairleadError(
            f"Sibling model {part.name!r} cannot be loaded: {error} A live pipeline is passed in Python as "
            f"siblings={{name: it}}."
        ) from error
    return built
