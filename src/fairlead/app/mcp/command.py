"""The command `mcp`. Imports its packages only when it is called."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fairlead.app.serve import command as serving
from fairlead.run import config

if TYPE_CHECKING:
    from mcp.server import MCPServer

    from fairlead.app.serve.server import Application


def mcp(
    model: serving.Models = None,
    reward: serving.Rewards = None,
    runs: serving.Runs = None,
    most: serving.Most = serving.MOST,
    idle: serving.Idle = 900.0,
) -> int:
    """Offer search, price, score and keep as tools for assistants, over stdin and stdout.

    An assistant starts this command by itself and speaks the Model Context Protocol with it.
    """
    try:
        from fairlead.app.mcp.server import server_of
        from fairlead.app.serve import server
        from fairlead.app.serve.budgets import parse_limits
    except ImportError as error:
        raise serving.missing(error, "fairlead mcp", "mcp") from None
    folder = runs or config.runs_folder()
    served, allowed = serving.offered(model, reward)
    serving.make_folder(folder)
    setup = server.Setup(runs=folder, served=served, allowed=allowed, most=parse_limits(most), idle=idle, linger=0.0)
    application = server.Application(setup)
    asyncio.run(_answer(application, server_of(application)))
    return 0


async def _answer(application: Application, tools: MCPServer[Any]) -> None:
    """Answer until stdin ends. The package keeps stdout for the protocol: what others print goes to stderr."""
    async with application.running():
        await tools.run_stdio_async()
