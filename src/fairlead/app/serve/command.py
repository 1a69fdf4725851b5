"""The command `serve` and its keys. Imports its packages only when it is called."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fairlead.app.console import print_json, say
from fairlead.app.options import AsJson
from fairlead.app.web.hosts import in_link, is_loopback
from fairlead.app.words import shown
from fairlead.core.errors import FairleadError
from fairlead.run import config

if TYPE_CHECKING:
    from fairlead.app.serve.allowed import Allowed
    from fairlead.app.serve.models import Served
    from fairlead.app.serve.server import Application, Mounted

KEYS = Path(".serve", "keys.json")

serve = typer.Typer(invoke_without_command=True, add_completion=False)
keys = typer.Typer(help="API keys of a server.", no_args_is_help=True)
serve.add_typer(keys, name="keys")

Keys = Annotated[
    Path | None,
    typer.Option("--keys", metavar="FILE", help="The file of API keys.  [default: .serve/keys.json in --runs]"),
]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", "-m", metavar="NAME", help="NAME or NAME=MODEL; repeat for several.  [default: pocket]"),
]
Rewards = Annotated[
    list[str] | None,
    typer.Option("--reward", metavar="NAME", help="Also allow this reward, or NAME=FORMULA as an alias; repeat."),
]
Most = Annotated[str, typer.Option("--max", metavar="LIMITS", help="The most that one request may spend.")]
MOST = "nfe=20000,seconds=600,dollars=0"
Idle = Annotated[
    float, typer.Option(metavar="SECONDS", min=1, help="The computing process ends after this time without work.")
]
Runs = Annotated[Path | None, typer.Option("--runs", metavar="DIR", help="The folder of the runs.  [default: runs]")]


@serve.callback()
def start(
    context: typer.Context,
    model: Models = None,
    reward: Rewards = None,
    host: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Where to listen.  [default: 127.0.0.1]")] = None,
    port: Annotated[
        int | None, typer.Option(metavar="N", min=0, max=65535, help="0 chooses a free one.  [default: 8484]")
    ] = None,
    public_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A name by which clients reach the server; repeat.")
    ] = None,
    runs: Runs = None,
    most: Most = MOST,
    keys_file: Keys = None,
    seeds: Annotated[
        str, typer.Option(metavar="RULE", help="fixed: the same request is the same picture; fresh: it is a new one.")
    ] = "fixed",
    queue: Annotated[int, typer.Option(metavar="N", min=1, help="Runs that may wait.")] = 32,
    linger: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="A run goes on so long after its client has left.")
    ] = 30.0,
    idle: Idle = 900.0,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Write prompts into the log.")] = False,
    mcp: Annotated[bool, typer.Option("--mcp", help="Also offer tools for assistants at /mcp.")] = False,
) -> int:
    """Answer requests of programs: OpenAI's images interface, scores, metrics."""
    if context.invoked_subcommand is not None:
        return 0
    try:
        from fairlead.app.serve import server
        from fairlead.app.serve.budgets import parse_limits
        from fairlead.app.serve.keys import KeyFile
        from fairlead.app.web import listening as web
    except ImportError as error:
        raise missing(error, "The server", "serve") from None
    if seeds not in ("fixed", "fresh"):
        raise FairleadError(f"--seeds {seeds!r} must be fixed or fresh.")
    folder = runs or config.runs_folder()
    host = host or str(config.in_force()["server.host"].value)
    port = int(config.in_force()["server.port"].value) if port is None else port
    stored = KeyFile(keys_file or folder / KEYS)
    has_keys = bool(stored.keys())
    if not is_loopback(host) and not has_keys:
        raise FairleadError(
            f"--host {host} lets other machines connect, and there are no keys. Make one: fairlead serve keys add."
        )
    served, allowed = offered(model, reward)
    setup = server.Setup(
        runs=folder,
        served=served,
        allowed=allowed,
        most=parse_limits(most),
        fresh=seeds == "fresh",
        keys=stored if has_keys or not is_loopback(host) else None,
        hosts=tuple(public_host or ()),
        is_open=not is_loopback(host),
        idle=idle,
        linger=linger,
        queue=queue,
        log_prompts=log_prompts,
    )
    make_folder(folder)
    application = server.Application(setup)
    if mcp:
        application.mounted.append(_tools(application))
    listening = web.listen(host, port)
    port = listening.getsockname()[1]
    print(f"http://{in_link(host)}:{port}/v1", flush=True)
    guarded = "Requests need a key." if has_keys else "Any key is accepted, because there are none."
    say(f"Serving {', '.join(served)}. Runs are in {shown(folder)}. {guarded} Ctrl-C ends the server.")
    web.serve(application.app(), listening, application.end, server.GRACE)
    return 0


def missing(error: ImportError, what: str, extra: str) -> FairleadError:
    """The sentence about a package that an extra installs."""
    return FairleadError(
        f"{what} needs the package {error.name!r}, which is not installed. "
        f"Install it with: pip install 'fairlead[{extra}]'."
    )


def make_folder(folder: Path) -> None:
    """Make the folder of the runs."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FairleadError(f"--runs {folder} cannot be used ({error.strerror}). Choose another folder.") from error


def offered(model: list[str] | None, reward: list[str] | None) -> tuple[Mapping[str, Served], Allowed]:
    """The models and rewards of `--model` and `--reward`."""
    from fairlead.app.serve.allowed import REWARDS, Allowed
    from fairlead.app.serve.models import served_models

    served = served_models(model or ["pocket"], int(time.time()))
    aliases, rewards = _rewards(reward or [])
    return served, Allowed(aliases, (*REWARDS, *rewards), tuple(one.model for one in served.values()))


def _tools(application: Application) -> Mounted:
    """The tools for assistants over a server."""
    try:
        from fairlead.app.mcp.server import MountedTools
    except ImportError as error:
        raise missing(error, "--mcp", "mcp") from None
    return MountedTools(application)


def _rewards(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """`NAME=FORMULA` and `NAME` -> aliases and names."""
    from fairlead.run import registry
    from fairlead.run.spec import parse_reward

    aliases: dict[str, str] = {}
    names = []
    for word in words:
        name, equals, formula = word.partition("=")
        if not equals:
            names.append(registry.check("rewards", name))
            continue
        if not name.isidentifier() or name in registry.table("rewards"):
            raise FairleadError(f"--reward {word!r:.80} must begin with a new name, like nice=clip_score+aesthetic.")
        parse_reward(formula)
        aliases[name] = formula
    return aliases, names


@keys.command("add")
def add_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is.")],
    limits: Annotated[
        str,
        typer.Option(
            metavar="LIMITS",
            help="requests a minute, runs at once, waiting runs; nfe, seconds, dollars a day: requests=60,nfe=1000.",
        ),
    ] = "",
    runs: Runs = None,
    keys_file: Keys = None,
) -> int:
    """Make a key and print it, once: only its hash is stored."""
    from fairlead.app.serve.keys import parse_key_limits

    print(_file(runs, keys_file).add(name, parse_key_limits(limits)))
    return 0


@keys.command("list")
def list_keys(runs: Runs = None, keys_file: Keys = None, as_json: AsJson = False) -> int:
    """Show every key without its secret."""
    from fairlead.app.serve.keys import shown as shown_key

    found = [shown_key(key) for key in _file(runs, keys_file).keys().values()]
    if as_json:
        print_json({"keys": found})
        return 0
    for key in found:
        limits = ",".join(f"{limit}={value:g}" for limit, value in key["limits"].items())
        print(f"{key['id']}  {key['name']}  {limits}")
    return 0


@keys.command("remove")
def remove_key(
    id: Annotated[str, typer.Argument(metavar="ID", help="The id that 'keys list' shows.")],
    runs: Runs = None,
    keys_file: Keys = None,
) -> int:
    """Refuse a key from now on."""
    print(f"Removed {_file(runs, keys_file).remove(id).name}.")
    return 0


def _file(runs: Path | None, keys_file: Path | None):  # type: ignore[no-untyped-def]
    from fairlead.app.serve.keys import KeyFile

    return KeyFile(keys_file or (runs or config.runs_folder()) / KEYS)
