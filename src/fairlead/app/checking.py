"""`fairlead doctor`: checks that a run works here, and that the rewards give the published scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from fairlead.app.console import print_json, quiet, stdout
from fairlead.app.options import AsJson
from fairlead.core.errors import FairleadError


def doctor(
    rewards: Annotated[bool, typer.Option("--rewards", help="Check the rewards, against published numbers.")] = False,
    pictures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="With --rewards: where the pictures of published numbers are.")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With --rewards: JSON list of reward, picture, prompt, published."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Check that everything a run needs works here. Exit code 1 if something does not."""
    from fairlead.run.doctor import checks

    if (pictures or reference) and not rewards:
        raise FairleadError(f"--pictures {pictures} and --reference {reference} need --rewards. Add it.")
    with quiet(as_json):
        if rewards:
            from fairlead.run import check_rewards

            found = check_rewards.checks(pictures, reference)
        else:
            found = list(checks())
    if as_json:
        listed = [{"name": c.name, "ok": c.ok, "detail": c.detail, "fix": c.fix} for c in found]
        print_json({"ok": all(c.ok for c in found), "checks": listed})
        return 0 if all(c.ok for c in found) else 1
    table = Table.grid(padding=(0, 2))
    for check in found:
        mark = Text("ok", style="green") if check.ok else Text("no", style="bold red")
        detail = check.detail if check.ok or not check.fix else f"{check.detail}\n→ {check.fix}"
        table.add_row(mark, Text(check.name), Text(detail, style="" if check.ok else "yellow"))
    stdout().print(table)
    return 0 if all(c.ok for c in found) else 1
