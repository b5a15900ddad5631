"""The app in a browser, by textual-serve: each tab is an attached app of its own before one node.

What must stay true:

- It listens on loopback unless told otherwise, and answers only who brings the token that is in the
  address we print: a loopback port is open to every user of the machine, and to every page that one
  of their browsers shows.
- The token goes into a cookie that scripts cannot read and other sites' pages do not send, and out of
  the address; a page of another origin gets no socket even so.
- Tabs are bounded, and so are connections: one that does not show the token in time is closed, and the
  oldest of those makes room for the next. Closing a tab ends its app and nothing else.

Driven by `serving`, in the loop of the node. Needs the extra ``web``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import shlex
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from grapevine_proto.errors import BindError, ConfigError
from grapevine_proto.events import Event, NodeStarted
from grapevine_proto.files import put_in_place
from grapevine_proto.ids import check_host, join_host_port, split_host_port
from grapevine_tui.host import Host
from grapevine_tui.model import Changes

try:
    from aiohttp import web
    from textual_serve.server import Server
except ImportError:
    raise ConfigError(
        "app.web", "the browser needs more packages: pip install 'grapevine-tui[web]'"
    ) from None

logger = logging.getLogger("grapevine.web")

TABS: Final = 8  # at once; the control socket takes sixteen clients in all
CONNECTIONS: Final = 64  # at once, tabs among them
TOKEN_S: Final = 10.0  # for a new connection, until a request with the token has come
LOOK_S: Final = 1.0  # between looks at them
END_S: Final = 1.0  # for tabs to be closed when the node goes
ADDRESS_NAME: Final = "web.url"  # in the state folder, for its owner alone
# What the page may fetch: nothing from elsewhere, be it a font.
POLICY: Final = (
    "default-src 'self' 'unsafe-inline' data:; connect-src 'self' ws: wss:; frame-ancestors 'none'"
)

Handle = Callable[[Any], Awaitable[Any]]


class Connections:
    """Closes connections of `server` that do not show the token; `dropped` of them so far."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._since: dict[Any, float] = {}  # those without the token; oldest first
        self._admitted: set[Any] = set()
        self.dropped = 0

    def admit(self, connection: Any) -> None:
        """`connection` has shown the token."""
        self._admitted.add(connection)
        self._since.pop(connection, None)

    def look(self, now: float) -> None:
        """Close those that took too long, and the oldest of too many."""
        here = list(self._server.connections)
        self._admitted.intersection_update(here)
        self._since = {
            each: self._since.get(each, now) for each in here if each not in self._admitted
        }
        many = len(here) - CONNECTIONS
        for each, since in sorted(self._since.items(), key=lambda item: item[1]):
            if many > 0 or now - since >= TOKEN_S:
                many -= 1
                self.dropped += 1
                each.force_close()

    async def watch(self) -> None:
        told = 0
        while True:
            await asyncio.sleep(LOOK_S)
            self.look(time.monotonic())
            if self.dropped > told:
                told = self.dropped
                logger.warning("%d connections without the token were closed so far", told)


class Door:
    """Lets in who has the token. `server` learns what its address is called by who asks."""

    def __init__(self, server: Any, token: str, connections: Connections | None = None) -> None:
        self._connections = connections
        self._server = server
        self._token = token
        self._cookie = f"grapevine-{server.port}"  # cookies do not tell ports apart
        self._tabs = 0

    async def admit(self, request: Any, handle: Handle) -> Any:
        if self._is_right(request.query.get("token", "")):
            answer = web.HTTPFound("/")
            answer.set_cookie(self._cookie, self._token, httponly=True, samesite="Strict")
            return answer
        if not self._is_right(request.cookies.get(self._cookie, "")):
            words = "This needs the whole address that the node printed, with its token.\n"
            return web.Response(status=403, text=words)
        own = f"{request.scheme}://{request.host}"
        if request.headers.get("Origin", own) != own:
            return web.Response(status=403, text="not from another page\n")
        if self._connections is not None:
            self._connections.admit(request.protocol)
        if request.path != "/ws":
            self._server.public_url = own
            answer = await handle(request)
            answer.headers["Content-Security-Policy"] = POLICY
            return answer
        if self._tabs >= TABS:
            return web.Response(status=503, text=f"{TABS} tabs are open; close one of them\n")
        self._tabs += 1
        try:
            return await handle(request)
        finally:
            self._tabs -= 1

    def _is_right(self, token: str) -> bool:
        return secrets.compare_digest(token.encode(errors="replace"), self._token.encode())


@contextlib.asynccontextmanager
async def open_at(where: str, command: list[str]) -> AsyncIterator[tuple[Any, str]]:
    """Serve at `where`, ``host:port``, what `command` shows, until the end of this block; gives the
    server and the address to open. Raises BindError."""
    host, port = split_host_port(where)
    try:
        check_host(host)
    except ValueError as error:
        raise BindError(f"web at {where[:80]}: {error}") from None
    server = Server(shlex.join(command), host=host, port=port, title="grapevine")
    server.console.quiet = True
    site = await server._make_app()  # it has no public way to be run in our loop
    token = secrets.token_urlsafe(18)
    runner = web.AppRunner(site, handle_signals=False, shutdown_timeout=END_S, access_log=None)
    door: list[Door] = []
    watching: asyncio.Task[None] | None = None

    async def admit(request: Any, handler: Handle) -> Any:
        return await door[0].admit(request, handler)

    site.middlewares.append(web.middleware(admit))
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise BindError(f"web at {where[:80]}: {error.strerror or error}") from None
        server.port = runner.addresses[0][1]
        connections = Connections(runner.server)
        door.append(Door(server, token, connections))
        watching = asyncio.create_task(connections.watch())
        yield server, f"http://{join_host_port(host, server.port)}/?token={token}"
    finally:
        if watching is not None:
            watching.cancel()
        await runner.cleanup()


def program(*arguments: str) -> list[str]:
    """This program with other arguments."""
    return [sys.executable, "-m", "grapevine_tui", *arguments]


@contextlib.asynccontextmanager
async def served(host: Host, where: str, *, is_loud: bool) -> AsyncIterator[None]:
    """Serve the app before the node of `host`, from when it has started. Enter it before. `is_loud`:
    say on stdout which address to open. Raises BindError."""
    kept: list[Path] = []
    async with open_at(where, program("--help")) as (server, address):

        def begin(event: Event, _: Changes) -> None:
            if not isinstance(event, NodeStarted) or host.state_dir is None:
                return
            server.command = shlex.join(
                program("attach", "--state-dir", str(host.state_dir.absolute()))
            )
            kept.append(_keep(host.state_dir / ADDRESS_NAME, address))
            if is_loud:
                sys.stdout.write(f"open {address}\n")
                sys.stdout.flush()
            else:
                logger.info("in a browser: the address is in %s", kept[0])

        host.listen(begin)
        try:
            yield
        finally:
            for path in kept:
                path.unlink(missing_ok=True)


def _keep(path: Path, address: str) -> Path:
    put_in_place(path, f"{address}\n".encode(), mode=0o600, keeps_mode=False)
    return path
