"""The app in a browser, by textual-serve: each tab is an attached app of its own before one node.

What must stay true:

- It listens on loopback unless told otherwise, and answers only who brings the token that is in the
  address we print: a loopback port is open to every user of the machine, and to every page that one
  of their browsers shows.
- The token goes into a cookie that scripts cannot read and other sites' pages do not send, and out of
  the address; a page of another origin gets no socket even so.
- Tabs are bounded. Closing one ends its app and nothing else.

Driven by `serving`, in the loop of the node. Needs the extra ``web``.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import shlex
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from grapevine_proto.errors import BindError, ConfigError
from grapevine_proto.events import Event, NodeStarted
from grapevine_proto.files import put_in_place
from grapevine_proto.ids import join_host_port, split_host_port
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
END_S: Final = 1.0  # for tabs to be closed when the node goes
ADDRESS_NAME: Final = "web.url"  # in the state folder, for its owner alone
# What the page may fetch: nothing from elsewhere, be it a font.
POLICY: Final = (
    "default-src 'self' 'unsafe-inline' data:; connect-src 'self' ws: wss:; frame-ancestors 'none'"
)

Handle = Callable[[Any], Awaitable[Any]]


class Door:
    """Lets in who has the token. `server` learns what its address is called by who asks."""

    def __init__(self, server: Any, token: str) -> None:
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
    server = Server(shlex.join(command), host=host, port=port, title="grapevine")
    server.console.quiet = True
    site = await server._make_app()  # it has no public way to be run in our loop
    token = secrets.token_urlsafe(18)
    runner = web.AppRunner(site, handle_signals=False, shutdown_timeout=END_S, access_log=None)
    door: list[Door] = []

    async def admit(request: Any, handler: Handle) -> Any:
        return await door[0].admit(request, handler)

    site.middlewares.append(web.middleware(admit))
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise BindError(where, error.strerror or str(error)) from None
        server.port = runner.addresses[0][1]
        door.append(Door(server, token))
        yield server, f"http://{join_host_port(host, server.port)}/?token={token}"
    finally:
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
