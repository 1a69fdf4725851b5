"""Defaults in one place: `fairlead.toml`, for the command line and Python alike. Imports no torch.

    model = "pocket-turbo"        # what a run uses where nothing else is said
    reward = "clip_score"
    budget = "nfe=320"
    device = "cpu"
    runs = "results"              # the folder of new runs

    [studio]
    port = 8765

Two files are read: your own, and the one in the current folder, which wins. Arguments win over both. A file in the
current folder may come from somebody else, so it may choose only what neither executes code, nor asks a server, nor
writes outside the current folder, nor listens for others. Plans of comparisons and stored runs are complete: no file
changes them.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from fairlead.core.check import is_text, must_be, number_in_range, whole_number
from fairlead.core.errors import FairleadError, unknown
from fairlead.run.formula import ADDRESS, FILE
from fairlead.run.spec import parse_budget, parse_reward

NAME = "fairlead.toml"
VARIABLE = "FAIRLEAD_CONFIG"
"""The environment variable that names your own file, in place of the usual one."""
DEVICE = re.compile(r"(cpu|mps|cuda)(:\d{1,3})?")
READS_FILES = {"file", "stats"}
"""Words of a formula that name a file to execute or to read."""
ASKS_SERVERS = {"http", "judge", "pairwise_judge"}
"""Rewards that send pictures, keys or money to a server."""


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or not is_text(value):
        raise FairleadError(must_be(name, value, "text in quotes"))
    return value


def _budget(name: str, value: Any) -> str:
    parse_budget(_text(name, value))
    return str(value)


def _reward(name: str, value: Any) -> str:
    parse_reward(_text(name, value))
    return str(value)


def _port(name: str, value: Any) -> int:
    return int(whole_number(name, value, 0, 65_535))


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise FairleadError(must_be(name, value, "true or false"))
    return value


def _devices(name: str, value: Any) -> str:
    if value == "":
        return ""
    words = [word.strip() for word in _text(name, value).split(",")]
    if not all(DEVICE.fullmatch(word) for word in words):
        raise FairleadError(must_be(name, value, "devices with commas between them, like 'cuda:0, cuda:1'"))
    return ",".join(words)


def _seconds(name: str, value: Any) -> float:
    return float(number_in_range(name, value, "[1, inf)"))


@dataclass(frozen=True)
class Setting:
    """What may stand in the file."""

    what: str
    default: Any
    check: Callable[[str, Any], Any]
    """Name and value -> the value, or an error."""


SETTINGS: dict[str, Setting] = {
    "model": Setting("the model of a run", "pocket", _text),
    "reward": Setting("what is optimised", "clip_score", _reward),
    "budget": Setting("the budget of a run", "nfe=640", _budget),
    "device": Setting("where networks run: cpu, mps, cuda or cuda:N", "the accelerator if there is one", _text),
    "runs": Setting("the folder of new runs", "runs", _text),
    "studio.host": Setting("where the studio listens", "127.0.0.1", _text),
    "studio.port": Setting("the port of the studio; 0 chooses a free one", 0, _port),
    "studio.idle": Setting("seconds without work after which the studio frees the model", 900.0, _seconds),
    "studio.open": Setting("whether the studio opens a browser", True, _switch),
    "studio.devices": Setting(
        "devices that the studio computes on, like cuda:0,cuda:1; empty: one of its choice", "", _devices
    ),
    "server.host": Setting("where the server listens", "127.0.0.1", _text),
    "server.port": Setting("the port of the server", 8484, _port),
}
OF_A_RUN = ("model", "reward", "budget")
"""Settings that are options of a run under the same name."""


@dataclass(frozen=True)
class Value:
    """A setting in force."""

    value: Any
    source: Path | None
    """The file that sets it; None for the default."""


def own_file() -> Path:
    """Where the user's own file is, whether or not it exists."""
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "fairlead" / NAME


def in_force() -> dict[str, Value]:
    """Every setting with its value and the file that it comes from."""
    found = {name: Value(setting.default, None) for name, setting in SETTINGS.items()}
    own = own_file()
    if os.environ.get(VARIABLE) and not own.is_file():
        raise FairleadError(f"{VARIABLE} is {str(own)!r}, which is not a file. Correct it, or unset it.")
    for path, foreign in ((own, False), (Path(NAME), True)):
        if path.is_file() and not (foreign and own.is_file() and path.samefile(own)):
            found |= {name: Value(value, path) for name, value in read(path, foreign).items()}
    return found


def chosen() -> dict[str, Any]:
    """The settings that a file sets, by name."""
    return {name: found.value for name, found in in_force().items() if found.source is not None}


def of_a_run() -> dict[str, Any]:
    """The options of a run that a file sets."""
    return {name: found for name, found in chosen().items() if name in OF_A_RUN}


def value(name: str) -> Any:
    """One setting; None where no file sets it."""
    return chosen().get(name)


def runs_folder() -> Path:
    """The folder of new runs."""
    return Path(in_force()["runs"].value).expanduser()


def checked(name: str, value: Any) -> Any:
    """A value that was typed elsewhere, checked as in the file."""
    return SETTINGS[name].check(name, value)


def read(path: Path, foreign: bool = False) -> dict[str, Any]:
    """The settings of one file. `foreign`: it lies in the current folder and may have been written by anybody."""
    try:
        with path.open("rb") as handle:
            table = tomllib.load(handle)
    except OSError as error:
        raise FairleadError(f"{path} cannot be read ({error.strerror}). Check its permissions.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FairleadError(f"{path} is not valid TOML ({error!s:.120}). Fix the line.") from error
    found = {}
    for name, entry in _flat(table):
        if name not in SETTINGS:
            raise unknown("setting", name, SETTINGS, of=str(path))
        if foreign and (why := _why_not(name, str(entry))):
            raise FairleadError(
                f"{path} sets {name} to {entry!r:.80}, which {why}. A file in the current folder may not choose that: "
                f"set it in your own file, {own_file()}, or as an argument."
            )
        try:
            found[name] = SETTINGS[name].check(name, entry)
        except FairleadError as error:
            raise FairleadError(f"{path}: {error}") from error
    return found


def _flat(table: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Entries with the names of their tables before them."""
    out = []
    for name, entry in table.items():
        inner = entry.items() if isinstance(entry, Mapping) and name in ("studio", "server") else ()
        out += [(f"{name}.{key}", own) for key, own in inner] if inner else [(name, entry)]
    return [(name, entry) for name, entry in out if entry != {}]


def reaches_out(formula: str) -> str:
    """What a reward does beyond looking at pictures: it executes or reads a file, or asks a server. Empty if neither.

    Decided by the text alone: reading a formula would already open the files that it names.
    """
    words = set(re.findall(r"\w+", formula))
    if FILE.search(formula) or words & READS_FILES:
        return "executes or reads a file"
    if ADDRESS.search(formula) or words & ASKS_SERVERS:
        return "sends pictures, keys or money to a server"
    return ""


def _why_not(name: str, text: str) -> str:
    """Why a file that anybody may have written cannot choose this; empty if it can."""
    if name == "reward" and (why := reaches_out(text)):
        return why
    words = set(re.findall(r"\w+", text))
    if name == "budget" and "dollars" in words:
        return "allows spending money"
    if name == "runs" and (PurePath(text).is_absolute() or text.startswith("~") or ".." in text):
        return "is outside the current folder"
    if name.endswith(".host"):
        return "decides who can connect"
    return ""
