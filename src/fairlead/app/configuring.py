"""`fairlead config`: the defaults in force, and the files that they come from."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from fairlead.app.console import plain_table, print_json, print_table, stdout
from fairlead.app.options import AsJson
from fairlead.app.words import shown
from fairlead.run import config


def show_config(as_json: AsJson = False) -> int:
    """Which defaults are in force, and where they come from: fairlead.toml in your own folder and in this one."""
    found = config.in_force()
    own = config.own_file()
    if as_json:
        print_json(
            {
                "settings": {name: _as_object(one) for name, one in found.items()},
                "own_file": shown(own),
                "own_file_exists": own.is_file(),
            }
        )
        return 0
    table = plain_table("setting", "in force", "what it is", "from", whole=("setting", "in force", "from"))
    for name, one in found.items():
        source = Text("default", style="dim") if one.source is None else Text(shown(one.source))
        table.add_row(Text(name, style="bold cyan"), Text(str(one.value)), Text(config.SETTINGS[name].what), source)
    console = stdout()
    print_table(console, table)
    missing = "" if own.is_file() else ", which does not exist yet"
    console.print(f"Your own file is {shown(own)}{missing}.", soft_wrap=True)
    console.print(f"A {config.NAME} in the current folder wins over it, and arguments win over both.", soft_wrap=True)
    return 0


def _as_object(one: config.Value) -> dict[str, Any]:
    return {"value": one.value, "from": "default" if one.source is None else shown(one.source)}
