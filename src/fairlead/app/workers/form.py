"""The form of a new run, generated from the options and the registry; and the same run as a command. No torch."""

from __future__ import annotations

import ast
import shlex
from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import cache
from typing import Any

from fairlead.app import catalogue
from fairlead.app.setting_words import SettingWords, settings_of
from fairlead.core.errors import FairleadError, unknown
from fairlead.run import config
from fairlead.run.options import RunOptions, described

DEFAULTS = {f.name: f.default for f in fields(RunOptions) if f.name != "prompt"}
KINDS = ("models", "rewards", "spaces", "searches", "steerings", "interventions", "samplers")
FIRST = ("prompt", "model", "reward", "budget")
"""What is shown before anything is unfolded."""


def form(usual: Mapping[str, Any]) -> dict[str, Any]:
    """Every option with its type, default and sentence, and the registered items with their settings.

    `usual` are defaults that `fairlead.toml` sets.
    """
    options = [_option(name) | ({"default": usual[name]} if name in usual else {}) for name in described()]
    return {"first": list(FIRST), "options": options, "items": {kind: _items(kind) for kind in KINDS}}


def _option(name: str) -> dict[str, Any]:
    option = described()[name]
    default = DEFAULTS.get(name)
    return {
        "name": name,
        "help": option.help,
        "type": "list" if option.read_as == list[str] else option.read_as.__name__,
        "default": default if isinstance(default, str | int | float | bool) else None,
        "shown_default": option.shown_default,
        "metavar": option.metavar,
        "kind": option.kind,
        "section": option.section,
        "flag": option.flag or f"--{name.replace('_', '-')}",
    }


@cache
def _items(kind: str) -> list[dict[str, Any]]:
    return [_item(item) for item in catalogue.items(kind)]


def _item(item: catalogue.Item) -> dict[str, Any]:
    words = settings_of(item.about)
    settings = [_setting(name, default, words.get(name)) for name, default in item.settings]
    what = " ".join(item.about.partition("\n\n")[0].split()) or item.what
    return {"name": item.name, "what": what, "settings": settings, "package": item.package}


def _setting(name: str, default: str | None, words: SettingWords | None) -> dict[str, Any]:
    """One setting as a field; where its class describes nothing, the type is that of the default."""
    if words is None:
        return {"name": name, "default": default, "type": "text", "range": "", "sentence": "", "choices": []}
    sentence = words.sentence.replace("`", "")
    return {**asdict(words), "default": _as_typed(words.default), "sentence": sentence[:1].upper() + sentence[1:]}


def _as_typed(default: str) -> str:
    """A default as one types it: words without quotes, nothing for None."""
    try:
        value = ast.literal_eval(default)
    except (ValueError, SyntaxError):
        return default
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def read_options(words: Any, usual: Mapping[str, Any] | None = None) -> RunOptions:
    """The options of a request; empty fields are left out, and unknown ones are refused by their nearest name.

    `usual` are defaults that `fairlead.toml` sets. Options of a job are complete: no file changes them.
    """
    if not isinstance(words, Mapping):
        raise FairleadError(f"The options are {words!r:.60}: must be an object with a prompt.")
    known = described()
    typed = {}
    for name, value in words.items():
        if name not in known:
            raise unknown("option", str(name), known)
        if value not in (None, "", []):
            typed[name] = _typed(name, value)
    prompt = typed.pop("prompt", "")
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise FairleadError(f"The prompt {prompt!a:.80} is not valid text. Type it again.") from None
    if "\0" in prompt:
        raise FairleadError(f"The prompt {prompt!a:.80} has a NUL character. Type it again.")
    return RunOptions(prompt, **{**(usual or {}), **typed})


def _typed(name: str, value: Any) -> Any:
    """A value of the option's type, from a form or from JSON."""
    option = described()[name]
    wanted = option.read_as
    if wanted == list[str]:
        many = [value] if isinstance(value, str) else value
        if isinstance(many, list) and all(isinstance(one, str) for one in many):
            return many
        raise FairleadError(f"{name} is {value!r:.60}: must be a list of texts.")
    if wanted is bool and isinstance(value, bool):
        return value
    try:
        if wanted in (int, float) and not isinstance(value, bool):
            return wanted(value)
        if wanted is str and isinstance(value, str):
            return value
    except (ValueError, TypeError, OverflowError):
        pass
    word = {int: "a whole number", float: "a number", bool: "true or false"}.get(wanted, "a text")
    raise FairleadError(f"{name} is {value!r:.60}: must be {word}.")


def chosen(options: RunOptions) -> dict[str, Any]:
    """What differs from the defaults, those of `fairlead.toml` included: a job, a command and Python need them."""
    found = {name: getattr(options, name) for name in described() if name != "prompt"}
    usual = {**DEFAULTS, **{name: None for name in config.of_a_run()}}
    return {name: value for name, value in found.items() if value != usual.get(name) and value not in ((), [])}


def job_options(options: RunOptions) -> dict[str, Any]:
    """The options as a job holds them."""
    return {"prompt": options.prompt, **chosen(options)}


def command_line(options: RunOptions) -> str:
    """The run as one would type it."""
    words = ["fairlead", "run", options.prompt]
    for name, value in chosen(options).items():
        flag = _option(name)["flag"]
        if isinstance(value, bool):
            words.append(flag)
            continue
        for one in value if isinstance(value, list) else [value]:
            words += [flag, str(one)]
    return shlex.join(words)


def python_call(options: RunOptions) -> str:
    """The run as a Python expression."""
    words = "".join(f", {name}={value!r}" for name, value in chosen(options).items())
    return f"fairlead.run({options.prompt!r}{words})"
