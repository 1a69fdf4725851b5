"""What `list` prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from fairlead.app import catalogue
from fairlead.app.console import pairs, plain_table, print_json, say, stdout
from fairlead.app.run_object import run_object
from fairlead.app.words import count, number, reason, shown
from fairlead.core.errors import FairleadError
from fairlead.run import marks, registry
from fairlead.run.view import View


def item_object(kind: str, item: catalogue.Item) -> dict[str, Any]:
    """One registered item as JSON data."""
    out: dict[str, Any] = {
        "name": item.name,
        "what": item.what,
        "settings": dict(item.settings),
        "package": item.package,
    }
    if kind == "models":
        out.update(model_facts(item.name))
    return out


def model_facts(name: str) -> dict[str, Any]:
    """What can be known about a model without loading it, or why it cannot be used."""
    from fairlead.run import models

    try:
        return dict(models.describe(name))
    except (FairleadError, OSError, ValueError, KeyError) as error:
        return {"error": str(error)}


def model_table() -> Table:
    """The models with family, size, steps."""
    table = plain_table("name", "family", "size", "steps", "picture", "guidance", "can")
    for item in catalogue.items("models"):
        facts = model_facts(item.name)
        if "error" in facts:
            table.add_row(Text(item.name), Text(f"not usable here: {facts['error']}", style="yellow"))
            continue
        size = facts.get("megabytes")
        cells = [
            facts.get("family"),
            f"{size:.0f} MB" if size else "",
            facts.get("steps"),
            facts.get("size"),
            facts.get("guidance"),
            facts.get("able"),
        ]
        table.add_row(Text(item.name, style="bold cyan"), *(Text("" if cell is None else str(cell)) for cell in cells))
    table.caption = Text("and any folder or hub name of a supported diffusers pipeline")
    table.caption_justify = "left"
    return table


def item_table(kind: str) -> Table:
    """The items of one kind with what they are and their settings."""
    table = plain_table("name", "what it is", "settings")
    for item in catalogue.items(kind):
        what = item.what if item.package == "fairlead" else f"{item.what} [{item.package}]".strip()
        settings = ", ".join(_setting(*one) for one in item.settings)
        table.add_row(Text(item.name, style="bold cyan"), Text(what), Text(settings, style="dim"))
    if not table.rows:
        table.add_row(Text("none yet", style="dim"))
    return table


def describe(kind: str, name: str, as_json: bool) -> int:
    """Everything that is known about one registered item: source, settings, cost."""
    registry.check(kind, name)
    item = next(item for item in catalogue.items(kind) if item.name == name)
    if as_json:
        words = {"words": _words(name)} if kind == "models" else {}
        print_json({**item_object(kind, item), "about": item.about, **words})
        return 0
    console = stdout()
    settings = [_setting(*one) for one in item.settings]
    for i, part in enumerate((item.about or item.what or f"{name} has no description.").split("\n\n")):
        console.print(Text("\n" * bool(i) + " ".join(part.split())))
    if settings:
        console.print(Text("\n" + ", ".join(settings), style="dim"))
    if kind == "models":
        _model_facts(name)
    return 0


def _setting(name: str, default: str | None) -> str:
    return f"{name} (required)" if default is None else f"{name}={default}"


def _words(name: str) -> list[str]:
    from fairlead.run import models

    return models.words(name)


def _model_facts(name: str) -> None:
    """What the table of models says, where the model card is, and the words of a model that knows no others."""
    facts = model_facts(name)
    console = stdout()
    if "error" in facts:
        console.print(Text(f"\nnot usable here: {facts['error']}", style="yellow"))
        return
    megabytes = facts["megabytes"]
    words = _words(name)
    rows = {
        "family": facts["family"],
        "size": f"{megabytes:.0f} MB" if megabytes else "",
        "steps": facts["steps"],
        "picture": facts["size"],
        "guidance": facts.get("guidance"),
        "can": facts.get("able"),
        "model card": facts.get("card"),
    }
    print()
    console.print(pairs([(what, str(value)) for what, value in rows.items() if value]))
    if words:
        console.print(Text(f"\nIt knows these {len(words)} words and no others: {', '.join(words)}."))


def list_runs(as_json: bool, starred: bool = False) -> int:
    """The runs in ./runs, or those of them that have a starred picture."""
    root = Path("runs")
    objects: list[dict[str, Any]] = []
    table = plain_table("run", "prompt", "candidates", "baseline", "best", "gain", "NFE", "stopped")
    table.columns[0].no_wrap = True
    for folder in catalogue.runs(root):
        try:
            view = View.read(folder)
        except FairleadError as error:
            objects.append({"run": shown(folder), "error": str(error)})
            table.add_row(Text(shown(folder)), Text(str(error), style="yellow"))
            continue
        stars = marks.starred(folder)
        if starred and not stars:
            continue
        objects.append({**run_object(view), "prompt": view.spec.prompt, "starred": stars})
        table.add_row(
            Text(shown(folder), style="bold cyan"),
            Text(view.spec.prompt),
            str(len(view.candidates)),
            number(view.baseline.reward if view.baseline else None),
            number(view.best.reward if view.best else None),
            number(view.gain, sign=True),
            count(view.spent.nfe),
            Text(reason(view.stopped) or view.status),
        )
    if as_json:
        print_json({"runs": objects})
    elif objects:
        stdout().print(table)
    elif starred:
        say("No run in ./runs has a starred picture. Star some in 'fairlead studio'.")
    else:
        say("There is no run in ./runs yet: 'fairlead run \"a photo of a dog\"' makes one.")
    return 0
