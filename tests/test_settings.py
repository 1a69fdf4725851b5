"""Every setting of every registered item is described where a reader looks: a line in the docstring of its class.

Settings:
    k (whole number >= 0, default 16): candidate noises per step. Yeh et al. 2025.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any

import pytest

from fairlead.run import registry

GIVEN = {"searches": 2, "spaces": 1, "adapters": 1}
"""How many arguments a run passes itself, by kind."""
LINE = re.compile(r"(?P<name>\w+) \((?P<range>.*?), (?P<default>required|default .*?)\): (?P<text>\S.*)")
ITEMS = [
    (kind, name)
    for kind, table in registry.BUILTIN.items()
    for name, where in table.items()
    if not (kind == "models" and where.startswith("fairlead.pocket"))
]


def settings_of(kind: str, make: Any) -> dict[str, Any]:
    """What a person can set, with its default. Tensors and notebooks that a method fills itself are no settings."""
    if not isinstance(make, type) or make.__init__ is object.__init__:
        return {}
    own = (
        {f.name for f in dataclasses.fields(make) if str(f.type).startswith("Tensor") or not f.repr}
        if dataclasses.is_dataclass(make)
        else set()
    )
    found = registry.parameters(make, GIVEN.get(kind, 0))
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {p.name: p.default for p in found if p.kind not in variable and p.name not in own}


def described(make: Any) -> dict[str, re.Match[str]]:
    """The lines under `Settings:` by name; a line that continues is joined."""
    doc = inspect.getdoc(make) or ""
    _, found, section = doc.partition("\nSettings:\n")
    if not found:
        return {}
    section = re.split(r"\n\S", section)[0]
    entries = re.split(r"\n    (?=\S)", "\n" + section.rstrip())[1:]
    joined = [" ".join(entry.split()) for entry in entries]
    lines = [LINE.fullmatch(entry) for entry in joined]
    assert all(lines), (
        f"{make.__name__}: not of the form 'name (range, default X): text': {joined[lines.index(None)]!r}"
    )
    return {line["name"]: line for line in lines if line is not None}


@pytest.mark.parametrize(("kind", "name"), ITEMS)
def test_every_setting_is_described(kind: str, name: str) -> None:
    make = registry.resolve(kind, name)
    wanted, found = settings_of(kind, make), described(make)
    for base in make.__mro__[1:] if isinstance(make, type) else ():
        inherited = {setting: line for setting, line in described(base).items() if setting in wanted}
        found = inherited | found
    assert set(found) == set(wanted), f"{name}: described are {sorted(found)}, settings are {sorted(wanted)}"
    for setting, default in wanted.items():
        said = found[setting]["default"]
        expected = "required" if default is inspect.Parameter.empty else f"default {default!r}"
        assert said == expected, f"{name}.{setting}: the docstring says {said!r}, the code {expected!r}"


def test_the_judges_describe_their_server_once() -> None:
    judge, pairwise = (registry.resolve("rewards", name) for name in ("judge", "pairwise_judge"))
    assert set(described(judge)) & set(described(pairwise)) == {"rubric"}


def test_the_test_sees_what_is_missing_and_what_is_wrong() -> None:
    class Bare:
        """No settings."""

    class Wrong:
        """One.

        Settings:
            k: without a range
        """

    assert described(Bare) == {}
    with pytest.raises(AssertionError, match="not of the form"):
        described(Wrong)
