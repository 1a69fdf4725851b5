"""The tools in the shape of the Model Context Protocol, by its official package, over stdin and stdout or over HTTP."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ResourceNotFoundError, ToolError
from mcp.server.transport_security import TransportSecuritySettings
from mcp_types import CallToolResult, ContentBlock, ImageContent, ResourceLink, TextContent, ToolAnnotations
from pydantic import Field
from starlette.requests import Request
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fairlead.app.mcp.tools import Found, Tools, request
from fairlead.app.serve.allowed import Allowed
from fairlead.app.serve.delivered import as_text
from fairlead.app.serve.errors import Refused, without_places
from fairlead.app.serve.keys import Caller
from fairlead.app.serve.record import packages
from fairlead.app.serve.server import Application, caller
from fairlead.app.web.body import check_kind, read_bytes
from fairlead.core.errors import FairleadError

PATH = "/mcp"
BODY = 4 << 20
"""Bytes of a call over HTTP: pictures to score are sent in it."""
ADDRESS = "fairlead://runs/{run}/{digest}"
READS = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
SEARCHES = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False)

SESSIONS = 1000
"""Sessions of older clients at once."""

Prompt = Annotated[str, Field(description="What the picture should show.")]
Count = Annotated[int, Field(description="Pictures to deliver, good and different, from 1 to 10.")]
Reward = Annotated[str | None, Field(description="A reward or a formula of rewards, such as 'clip_score'.")]
Budget = Annotated[
    str | None, Field(description="low, medium, high, xhigh or max (4 to 1024 candidates), or limits such as nfe=640.")
]
Seed = Annotated[int | None, Field(description="Another seed makes other pictures; the default is 0.")]
Model = Annotated[str | None, Field(description="A served model.")]
Search = Annotated[str | None, Field(description="A search method such as 'best_of' or 'zero_order'.")]
Run = Annotated[str, Field(description="The id of a run, from the answer of search.")]


class Door:
    """Tools and pictures as the package registers them: a method's hints and docstring are what an assistant reads."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def price(
        self,
        ctx: Context[Any, Any],
        prompt: Prompt,
        n: Count = 1,
        budget: Budget = None,
        reward: Reward = None,
        search: Search = None,
        seed: Seed = None,
        model: Model = None,
    ) -> CallToolResult:
        """Count what a search with the same arguments would spend. Nothing is drawn."""
        with sentences():
            body = request(prompt, n, budget, {"reward": reward, "search": search, "seed": seed}, model)
            return result(await self._tools.price(asker(ctx), body), ctx)

    async def search(
        self,
        ctx: Context[Any, Any],
        prompt: Prompt,
        n: Count = 1,
        budget: Budget = None,
        reward: Reward = None,
        search: Search = None,
        seed: Seed = None,
        model: Model = None,
    ) -> CallToolResult:
        """Draw many candidates for a prompt, and return the best by a reward. The same arguments continue the same run,
        and a larger budget goes on from a smaller one.
        """
        with sentences():
            body = request(prompt, n, budget, {"reward": reward, "search": search, "seed": seed}, model)
            return result(await self._tools.search(asker(ctx), body, ctx.report_progress), ctx)

    async def score(
        self,
        ctx: Context[Any, Any],
        reward: Reward = None,
        run: Annotated[str | None, Field(description="Score pictures of this run.")] = None,
        candidates: Annotated[list[int] | None, Field(description="Some candidates of the run.")] = None,
        images: Annotated[list[str] | None, Field(description="Pictures in base64, in place of a run.")] = None,
        prompts: Annotated[
            str | list[str] | None, Field(description="A prompt for all pictures, or one for each.")
        ] = None,
    ) -> CallToolResult:
        """Score pictures of a run, or pictures that are sent. Every term of the reward is returned."""
        own = {"reward": reward, "images": images, "prompts": prompts}
        body = {name: value for name, value in own.items() if value is not None}
        with sentences():
            return result(await self._tools.score(asker(ctx), body, run, candidates), ctx)

    async def keep(
        self,
        ctx: Context[Any, Any],
        run: Run,
        n: Count = 4,
        weight: Annotated[float, Field(description="0: the most different pictures; a large number: the best.")] = 0.5,
        likeness: Annotated[str | None, Field(description="clip or pixels: how pictures are compared.")] = None,
    ) -> CallToolResult:
        """Choose pictures of a run that are good and different from each other."""
        body = {"n": n, "weight": weight, "likeness": likeness}
        with sentences():
            return result(await self._tools.keep(asker(ctx), run, body), ctx)

    async def picture(self, ctx: Context[Any, Any], run: str, digest: str) -> bytes:
        """A picture of a run, by its digest in the answer of search or keep."""
        try:
            return await self._tools.picture(asker(ctx), run, digest)
        except Refused as error:
            raise ResourceNotFoundError(error.message) from None


def server_of(application: Application) -> MCPServer[Any]:
    """The server of the protocol over an application of `fairlead serve`."""
    logging.getLogger("mcp").setLevel(logging.ERROR)
    door = Door(Tools(application))
    served = ", ".join(application.setup.served)
    words = f"Search for better pictures at a budget. Models: {served}. {_rewards(application.setup.allowed)}"
    server: MCPServer[Any] = MCPServer(
        "fairlead", instructions=words, version=packages()["fairlead"], log_level="ERROR"
    )
    for tool in (door.price, door.score, door.keep):
        server.add_tool(tool, annotations=READS)
    server.add_tool(door.search, annotations=SEARCHES)
    server.resource(ADDRESS, name="picture", description="A picture of a run.", mime_type="image/webp")(door.picture)
    return server


def _rewards(allowed: Allowed) -> str:
    return f"Rewards: {', '.join([*allowed.aliases, *sorted(allowed.rewards)])}."


def asker(ctx: Context[Any, Any]) -> Caller:
    """Whose call it is: the key of the HTTP request, or the one caller of a process."""
    sent = ctx.request_context.request
    return Caller() if sent is None else caller(sent)


@contextlib.contextmanager
def sentences() -> Iterator[None]:
    """Errors of ours reach the assistant as their sentence; the package withholds the text of all others."""
    try:
        yield
    except Refused as error:
        raise ToolError(error.message) from None
    except FairleadError as error:
        raise ToolError(without_places(str(error))) from None


def result(found: Found, ctx: Context[Any, Any]) -> CallToolResult:
    """Words, small pictures, links to the whole ones, and the values as JSON."""
    blocks: list[ContentBlock] = [TextContent(text=found.text)]
    blocks += [ImageContent(data=as_text(one), mime_type="image/webp") for one in found.previews]
    for one in found.candidates:
        uri = ADDRESS.format(run=found.run, digest=one["image"])
        blocks.append(ResourceLink(name=f"candidate {one['candidate']}", uri=uri, mime_type="image/webp"))
    values = dict(found.values)
    sent = ctx.request_context.request
    if sent is not None and found.candidates:
        root = f"{str(sent.base_url).rstrip('/')}/v1/runs/{found.run}/images"
        values["links"] = [f"{root}/{one['image']}" for one in found.candidates]
    return CallToolResult(content=blocks, structured_content=values)


class Bounded:
    """What stands before the package: the server's limits of kind, size and time, and whose session it is.

    A session is used by older clients, and belongs to the key that began it. No stream is held open between two calls,
    because nothing would be said in it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._owners: dict[str, str] = {}
        """Session -> the tenant that began it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the application."""
        sent = Request(scope, receive)
        if sent.method not in ("POST", "DELETE"):
            raise Refused(405, "wrong_method", f"{sent.method} is not used for {PATH!r}.", headers={"allow": "POST"})
        session = sent.headers.get("mcp-session-id")
        if session is not None and self._owners.get(session) != sent.state.tenant:
            raise Refused(404, "not_found", f"There is no session {session!r:.40}. Begin another.")
        body = b""
        if sent.method == "POST":
            check_kind(sent.headers.get("content-type"), "content-encoding" in sent.headers)
            body = await read_bytes(sent, BODY)
        unread = [{"type": "http.request", "body": body, "more_body": False}]

        async def replayed() -> Message:
            return unread.pop() if unread else await receive()

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._note(dict(message["headers"]).get(b"mcp-session-id"), sent.state.tenant)
            await send(message)

        await self._app(scope, replayed, noted)

    def _note(self, session: bytes | None, tenant: str) -> None:
        if session is not None:
            self._owners.setdefault(session.decode("latin-1"), tenant)
        while len(self._owners) > SESSIONS:
            del self._owners[next(iter(self._owners))]


class MountedTools:
    """The tools as a route of `fairlead serve`. The gate in front has checked host, origin and key."""

    def __init__(self, application: Application) -> None:
        self._server = server_of(application)
        inner = self._server.streamable_http_app(
            streamable_http_path=PATH,
            max_sessions=SESSIONS,
            transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        )
        answering = inner.routes[0]
        assert isinstance(answering, Route)
        self.routes: list[BaseRoute] = [Route(PATH, endpoint=Bounded(answering.app))]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answer for as long as the context is open; can be opened once."""
        async with self._server.session_manager.run():
            yield
