"""Checks what a class declares about itself, when the class is defined: a misspelt capability is an error, not a
default.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from fairlead.core.errors import FairleadError


def public_names(base: type) -> list[str]:
    """The public attributes and methods that a base class declares itself."""
    return [name for name in vars(base) if not name.startswith("_")]


def check_declarations(
    cls: type,
    known: Sequence[str],
    choices: Mapping[str, Sequence[Any]],
    as_settings: Sequence[str] = (),
    own_names: bool = False,
) -> None:
    """Reject public attributes of the class body that are neither settings (annotated fields), helpers nor in `known`.

    Args:
        cls: the class that is being defined.
        known: the capabilities and methods that its base classes declare.
        choices: the values that a capability may have, where it is written as a plain class attribute.
        as_settings: capabilities that may be fields, because the user chooses them.
        own_names: True if other public attributes are allowed, as long as they do not look like a misspelt known one.

    """
    fields = [name for name, kind in inspect.get_annotations(cls).items() if not str(kind).startswith("ClassVar")]
    for name in fields:
        if name in known and name not in as_settings:
            raise FairleadError(
                f"{cls.__name__}.{name} is written as a setting, but it is a capability: "
                f"write `{name} = ...` without a type, or a property."
            )
    for name, value in vars(cls).items():
        if name.startswith("_") or name in fields:
            continue
        if name not in known:
            _check_helper(cls, name, value, known, own_names)
        elif name in choices and not isinstance(value, property) and value not in choices[name]:
            allowed = ", ".join(repr(choice) for choice in choices[name])
            raise FairleadError(f"{cls.__name__}.{name} is {value!r}: must be one of {allowed}.")


def _check_helper(cls: type, name: str, value: Any, known: Sequence[str], own_names: bool) -> None:
    """A method of its own may have any name that cannot be mistaken for a declared one; an attribute may not."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    if near:
        raise FairleadError(f"{cls.__name__}.{name} is not a known capability. Did you mean {near[0]!r}?")
    if not own_names and not callable(value) and not isinstance(value, classmethod | staticmethod):
        raise FairleadError(
            f"{cls.__name__}.{name} is not a known capability: known are {', '.join(known)}. "
            "Start the name of a helper with an underscore."
        )
