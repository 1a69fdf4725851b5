"""The options of a run as flags of a command, and the few options that other commands share."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from fairlead.app.console import say
from fairlead.run import config, registry
from fairlead.run.options import Option, RunOptions, described

Out = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="DIR", help="New folder for the run.  [default: runs/TIME-PROMPT]")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, everything else on stderr.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only estimate the cost.")]
InStudio = Annotated[
    bool, typer.Option("--studio", help="Compute it in the studio over its folder, and open the page there.")
]
Folder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]
LargerBudget = Annotated[
    str | None,
    typer.Option("--budget", metavar="LIMITS", help="New limits like nfe=2000.  [default: those of the run]"),
]
NewUntil = Annotated[
    str | None,
    typer.Option(
        "--until", metavar="CONDITION", help="New condition that ends the run; '' removes it.  [default: the run's]"
    ),
]
NewStop = Annotated[
    str | None,
    typer.Option("--stop", metavar="RULE", help="flat, flat(price=P), or '' to remove the rule.  [default: the run's]"),
]
Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        metavar="TOKEN",
        help="Hub token for gated models; never recorded.  [default: HF_TOKEN]",
        rich_help_panel="Model",
    ),
]

Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="Execute the reward file that the run names, and send your key to the server that it names."
    ),
]

Log = Annotated[
    list[str] | None,
    typer.Option("--log", metavar="NAME", help="Write rewards and the best picture to tensorboard or wandb; repeat."),
]

ALL_OPTIONS = tuple(described())
DEFAULTS = {f.name: f.default for f in fields(RunOptions) if f.name != "prompt"}


def with_run_options(
    names: Collection[str] = ALL_OPTIONS, defaults: Mapping[str, Any] | None = None, optional_prompt: bool = False
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Replace the parameter `options` of a command by one flag for each of these fields of `RunOptions`.

    `optional_prompt`: the command has another way to say what the pictures should show.

    `defaults` are those of this command where they differ. Commands without a prompt of their own get an empty one.
    """
    usual = {**DEFAULTS, **(defaults or {})}

    def from_files(names: Collection[str]) -> dict[str, Any]:
        """What `fairlead.toml` says of these options; a command with a default of its own keeps it."""
        wanted = {name for name in config.OF_A_RUN if name in names and name not in (defaults or {})}
        return {name: value for name, value in config.chosen().items() if name in wanted}

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        @wraps(command)
        def wrapper(**words: Any) -> int:
            if token := words.pop("token", None):
                os.environ["HF_TOKEN"] = token
            typed = {name: value for name in names if (value := words.pop(name)) is not None}
            configured = {name: value for name, value in from_files(names).items() if name not in typed}
            if configured:
                said = ", ".join(f"{name} = {value!r}" for name, value in configured.items())
                say(f"From {config.NAME}: {said}. See 'fairlead config'.")
            return command(options=RunOptions(**{"prompt": "", **usual, **configured, **typed}), **words)

        described_here = {name: option for name, option in described().items() if name in names}
        of_run: list[inspect.Parameter] = [
            _flag(name, option, usual) for name, option in described_here.items() if option.section != "model"
        ]
        of_model = [_flag(name, option, usual) for name, option in described_here.items() if option.section == "model"]
        if optional_prompt:
            of_run = [_optional(p) if p.name == "prompt" else p for p in of_run]
        if of_model:
            of_model.append(inspect.Parameter("token", _KEYWORD, annotation=Token, default=None))
        hints = get_type_hints(command, include_extras=True)
        parameters: list[inspect.Parameter] = []
        for p in inspect.signature(command).parameters.values():
            own = p.replace(annotation=hints[p.name], kind=_KEYWORD)
            parameters += of_run if p.name == "options" else [own]
        parameters += of_model
        wrapper.__signature__ = inspect.Signature(parameters, return_annotation=int)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": int}
        return wrapper

    return decorate


def _optional(parameter: inspect.Parameter) -> inspect.Parameter:
    declared = parameter.annotation.__metadata__[0]
    return parameter.replace(annotation=Annotated[str | None, declared], default=None)


_KEYWORD = inspect.Parameter.KEYWORD_ONLY


def _flag(name: str, option: Option, defaults: Mapping[str, Any]) -> inspect.Parameter:
    """One field of `RunOptions` as a parameter that typer reads."""
    if name == "prompt":
        argument = typer.Argument(metavar=option.metavar, help=option.help)
        return inspect.Parameter(name, _KEYWORD, annotation=Annotated[str, argument], default="")
    usual = defaults[name]
    many = option.read_as == list[str]
    switch = option.read_as is bool
    flag = option.flag or f"--{name.replace('_', '-')}"
    declared = typer.Option(
        *([flag, option.short] if option.short else [flag]),
        metavar=option.metavar,
        help=option.sentence if defaults[name] is None or many or switch else f"{option.help}  [default: {usual}]",
        autocompletion=_completion(option.kind),
        rich_help_panel="Model" if option.section == "model" else None,
    )
    if switch:
        return inspect.Parameter(name, _KEYWORD, annotation=Annotated[bool, declared], default=False)
    return inspect.Parameter(name, _KEYWORD, annotation=Annotated[option.read_as | None, declared], default=None)


def _completion(kind: str | None) -> Callable[[str], list[str]] | None:
    """Shell completion from the registry."""
    if kind is None:
        return None
    return lambda incomplete: [name for name in registry.table(kind) if name.startswith(incomplete)]
