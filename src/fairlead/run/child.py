"""The Spec of a run that starts from a picture of another run. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from fairlead.core.errors import FairleadError, StoreError
from fairlead.run import registry
from fairlead.run.options import described
from fairlead.run.parent import LIKE, UNLIKE, Parent, locate
from fairlead.run.part import Part
from fairlead.run.store import Store

GROUP = 8
"""Pictures that are drawn together where they repel the parent, which is the first of them."""
KEPT = {"budget": "budget", "reward": "reward", "watch": "watch", "seed": "seed", "batch": "batch"}
"""Options that the new run takes from its parent unless they are chosen, and their fields of the Spec."""
CHOSEN = {
    **KEPT,
    **{name: name for name in ("search", "final_judge", "entrants", "looks", "until", "stop", "prompt")},
    "steer": "steering",
    "intervene": "interventions",
    "group": "group",
}
FREE = {*CHOSEN, "like", "unlike", "settings", "draft", "rungs", "finals", "exact"}
"""Options that may differ from the parent's."""


def spec_of_child(options: Any, make: Callable[[Any], Any], abilities: Callable[..., Any]) -> Any:
    """The Spec of a run that starts from another run's picture; `make` turns options into a Spec without a parent,
    and `abilities` says what a model can do.
    """
    if options.like and options.unlike:
        raise FairleadError(f"like is {options.like!r} and unlike is {options.unlike!r}: choose one of them.")
    verb = LIKE if options.like else UNLIKE
    folder, word = locate(options.like or options.unlike, verb)
    store = Store.open(folder)
    try:
        own = store.spec
        candidate = store.best() if word == "best" else store.get(int(word))
    finally:
        store.close()
    if candidate is None:
        raise StoreError(f"{folder} has no picture with a reward yet. Continue it, or name a candidate by its number.")
    chosen = {f.name for f in fields(options) if f.name in CHOSEN and getattr(options, f.name) != f.default}
    chosen.discard("prompt")
    _check_the_rest(options, own, folder)
    usual = {LIKE: "zero_order", UNLIKE: "best_of"}[verb]
    search = options.search if "search" in chosen else usual
    asked = replace(
        options,
        like=None,
        unlike=None,
        model=own.model,
        search=search,
        steps=own.steps,
        prompt=options.prompt or own.prompt,
    )
    made = make(asked)
    kept = {field: getattr(own, field) for name, field in KEPT.items() if name not in chosen}
    parts = {"steering": own.steering, "interventions": own.interventions}
    kept |= {field: value for field, value in parts.items() if field not in {CHOSEN[name] for name in chosen}}
    parent = Parent(verb, str(folder), own.id(), candidate.index, Path(candidate.image).stem, candidate.key)
    child = replace(made, model=own.model, space=own.space, sampler=own.sampler, steps=own.steps, parent=parent, **kept)
    return _alone(child) if verb == LIKE and "group" not in chosen else _together(child, made, chosen, abilities)


def _check_the_rest(options: Any, own: Any, folder: Path) -> None:
    """Refuse what the parent decides, where the options say something else."""
    for f in fields(options):
        value = getattr(options, f.name)
        if f.name in FREE or value == f.default or f.name not in described(type(options)):
            continue
        theirs = getattr(own, f.name, own.model.settings.get(f.name))
        value, theirs = (one.name if isinstance(one, Part) else one for one in (value, theirs))
        if value != theirs:
            raise FairleadError(
                f"{f.name} is {value!r:.60}, but the picture of {folder} was made with {theirs!r}: its noise would "
                "make another picture. Leave the option out."
            )


def _alone(child: Any) -> Any:
    """Every picture by itself: methods that only act on several pictures are left out."""
    steering = tuple(p for p in child.steering if not _needs_others(registry.build("steerings", p)))
    edits = tuple(p for p in child.interventions if not _needs_others(registry.build("interventions", p)))
    return replace(child, steering=steering, interventions=edits, group=1)


def _needs_others(part: Any) -> bool:
    return bool(part.couples or getattr(part, "needs_company", False))


def _together(child: Any, made: Any, chosen: set[str], abilities: Callable[..., Any]) -> Any:
    """One group that the parent leads, whose pictures repel each other."""
    group = made.group if "group" in chosen else GROUP
    child = replace(child, group=group, batch=max(group, child.batch - child.batch % group))
    if child.parent.verb == UNLIKE and "search" not in chosen and "n" not in made.search.settings:
        child = replace(child, search=child.search.with_settings({"n": group}))
    coupled = [registry.build("interventions", p) for p in child.interventions]
    coupled += [registry.build("steerings", p) for p in child.steering]
    if any(part.couples for part in coupled) or child.parent.verb == LIKE:
        return child
    able = abilities(child.model.name, child.model.settings.get("revision"))
    if able is not None and able.sites == 0:
        return replace(child, steering=(*child.steering, Part("particle_guidance")))
    return replace(child, interventions=(*child.interventions, Part("repulsion")))
