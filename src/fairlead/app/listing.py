"""What `list` prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fairlead.app import catalogue
from fairlead.app.console import plain_table, print_json, print_pairs, say, stdout
from fairlead.app.run_object import run_object
from fairlead.app.words import count, number, reason, shown
from fairlead.core.errors import FairleadError
from fairlead.run import config, marks, registry
from fairlead.run.spec import reward_text
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
    if kind == "rewards":
        out["unit"] = item.unit
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
    whole = ("name", "family", "size", "steps", "pixels", "guidance")
    table = plain_table(*whole, "can", whole=whole)
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
    table = plain_table("name", "what it is", "settings", whole=("name",))
    for item in catalogue.items(kind):
        what = item.what if item.package == "fairlead" else f"{item.what} [{item.package}]".strip()
        what = f"{what} [{item.unit}]" if item.unit else what
        settings = ", ".join(_setting(*one) for one in item.settings)
        table.add_row(Text(item.name, style="bold cyan"), Text(what), Text(settings, style="dim"))
    longest = [len(word) for item in catalogue.items(kind) for one in item.settings for word in _setting(*one).split()]
    table.columns[2].min_width = max(longest, default=0) + 1
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
    if item.unit:
        console.print(Text(f"\nA point of the reward: {item.unit}."))
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
        "pixels": facts["size"],
        "guidance": facts.get("guidance"),
        "can": facts.get("able"),
    }
    lines: list[tuple[str, str | Text | Path]] = [(what, str(value)) for what, value in rows.items() if value]
    if card := facts.get("card"):
        lines.append(("model card", Path(card)))
    print()
    print_pairs(console, lines)
    if words:
        console.print(Text(f"\nIt knows these {len(words)} words and no others: {', '.join(words)}."))


def list_runs(as_json: bool, starred: bool = False) -> int:
    """The runs in the folder of runs, or those of them that have a starred picture."""
    root = config.runs_folder()
    console = stdout()
    objects: list[dict[str, Any]] = []
    lines = list[list[Text]]()
    for folder in catalogue.runs(root):
        try:
            view = View.read(folder)
        except FairleadError as error:
            objects.append({"run": shown(folder), "error": str(error)})
            lines.append([Text(shown(folder)), Text(str(error), style="yellow")])
            continue
        stars = marks.starred(folder)
        if starred and not stars:
            continue
        objects.append({**run_object(view), "prompt": view.spec.prompt, "starred": stars})
        lines.append([Text(shown(folder), style="bold cyan"), Text(view.spec.prompt), Text(_result(view), style="dim")])
    if as_json:
        print_json({"runs": objects})
        return 0
    if not lines and starred:
        say(f"No run in {shown(root)} has a starred picture. Star some in 'fairlead studio'.")
    elif not lines:
        say(f"There is no run in {shown(root)} yet: 'fairlead run \"a photo of a dog\"' makes one.")
    for folder_line, *rest in lines:
        console.print(folder_line, soft_wrap=True)
        for line in rest:
            console.print(Padding(line, (0, 0, 0, 2), expand=False))
    return 0


def _result(view: View) -> str:
    """What a run found and cost, on one line."""
    rewards = [number(shot.reward if shot else None) for shot in (view.baseline, view.best)]
    facts = [
        f"{reward_text(view.spec.reward)} {' → '.join(rewards)} ({number(view.gain, sign=True)})",
        f"{len(view.candidates)} candidates",
        f"{count(view.spent.nfe)} NFE",
        reason(view.stopped) or view.status,
    ]
    return " · ".join(facts)
