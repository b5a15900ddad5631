"""Serves the app to a browser with textual-serve: each tab is an attached app of its own.

Invariants:

- It listens on loopback by default and answers only requests with the token from the printed
  address, because every user of the machine and every page in a browser can reach a loopback port.
- The token moves from the address into a cookie that scripts cannot read and other sites do not
  send. A page of another origin gets no WebSocket either.
- Tabs and connections are bounded. A connection without the token is closed after a timeout, the
  oldest first if there are too many. Closing a tab ends only its app.

Driven by `web_server`, in the loop of the node. Needs the extra ``web``.
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
from grapevine_proto.ids import check_host, join_host_port, split_host_port
from grapevine_proto.storage.atomic_file import atomic_write
from grapevine_tui.host.local import Host
from grapevine_tui.host.model import Changes

try:
    from aiohttp import web
    from textual_serve.server import Server
except ImportError:
    raise ConfigError(
        "app.web", "serving a browser needs more packages: pip install 'grapevine-tui[web]'"
    ) from None

logger = logging.getLogger("grapevine.web")

MAX_TABS: Final = 8  # at once; the control socket accepts sixteen clients in total
MAX_CONNECTIONS: Final = 64  # at once, including tabs
TOKEN_TIMEOUT_S: Final = 10.0  # for a new connection to send a request with the token
CHECK_INTERVAL_S: Final = 1.0  # of that timeout
SHUTDOWN_TIMEOUT_S: Final = 1.0  # for tabs to close when the node stops
ADDRESS_FILE_NAME: Final = "web.url"  # in the state directory, readable by its owner only
# The page may load nothing from other origins, not even a font.
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'self' 'unsafe-inline' data:; connect-src 'self' ws: wss:; frame-ancestors 'none'"
)

Handle = Callable[[Any], Awaitable[Any]]


class ConnectionLimiter:
    """Closes connections of `server` that do not send the token; `dropped` counts them."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._unauthenticated_since: dict[Any, float] = {}  # oldest first
        self._admitted: set[Any] = set()
        self.dropped = 0

    def admit(self, connection: Any) -> None:
        """Note that `connection` has sent the token."""
        self._admitted.add(connection)
        self._unauthenticated_since.pop(connection, None)

    def close_unauthenticated(self, now: float) -> None:
        """Close connections that took too long, and the oldest of too many."""
        open_connections = list(self._server.connections)
        self._admitted.intersection_update(open_connections)
        self._unauthenticated_since = {
            each: self._unauthenticated_since.get(each, now)
            for each in open_connections
            if each not in self._admitted
        }
        excess = len(open_connections) - MAX_CONNECTIONS
        for each, since in sorted(self._unauthenticated_since.items(), key=lambda item: item[1]):
            if excess > 0 or now - since >= TOKEN_TIMEOUT_S:
                excess -= 1
                self.dropped += 1
                each.force_close()

    async def check_loop(self) -> None:
        reported = 0
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            self.close_unauthenticated(time.monotonic())
            if self.dropped > reported:
                reported = self.dropped
                logger.warning("%d connections without the token were closed so far", reported)


class TokenAuth:
    """Admits requests with the token. `server` learns its public address from them."""

    def __init__(self, server: Any, token: str, limiter: ConnectionLimiter | None = None) -> None:
        self._limiter = limiter
        self._server = server
        self._token = token
        self._cookie = f"grapevine-{server.port}"  # cookies do not distinguish ports
        self._tabs = 0

    async def authorize(self, request: Any, handle: Handle) -> Any:
        if self._is_valid_token(request.query.get("token", "")):
            response = web.HTTPFound("/")
            response.set_cookie(self._cookie, self._token, httponly=True, samesite="Strict")
            return response
        if not self._is_valid_token(request.cookies.get(self._cookie, "")):
            text = "Open the complete address that the node printed, including its token.\n"
            return web.Response(status=403, text=text)
        own_origin = f"{request.scheme}://{request.host}"
        if request.headers.get("Origin", own_origin) != own_origin:
            return web.Response(status=403, text="not from another page\n")
        if self._limiter is not None:
            self._limiter.admit(request.protocol)
        if request.path != "/ws":
            self._server.public_url = own_origin
            response = await handle(request)
            response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
            return response
        if self._tabs >= MAX_TABS:
            return web.Response(status=503, text=f"{MAX_TABS} tabs are open; close one of them\n")
        self._tabs += 1
        try:
            return await handle(request)
        finally:
            self._tabs -= 1

    def _is_valid_token(self, token: str) -> bool:
        return secrets.compare_digest(token.encode(errors="replace"), self._token.encode())


@contextlib.asynccontextmanager
async def serve_command(listen_address: str, command: list[str]) -> AsyncIterator[tuple[Any, str]]:
    """Serve what `command` shows at `listen_address`, ``host:port``, within this context; yield the
    server and the address to open. Raises BindError.
    """
    host, port = split_host_port(listen_address)
    try:
        check_host(host)
    except ValueError as error:
        raise BindError(f"web at {listen_address[:80]}: {error}") from None
    server = Server(shlex.join(command), host=host, port=port, title="grapevine")
    server.console.quiet = True
    application = await server._make_app()  # no public method runs it in an existing loop
    token = secrets.token_urlsafe(18)
    runner = web.AppRunner(
        application, handle_signals=False, shutdown_timeout=SHUTDOWN_TIMEOUT_S, access_log=None
    )
    auth: list[TokenAuth] = []
    check_task: asyncio.Task[None] | None = None

    async def authorize(request: Any, handler: Handle) -> Any:
        return await auth[0].authorize(request, handler)

    application.middlewares.append(web.middleware(authorize))
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise BindError(f"web at {listen_address[:80]}: {error.strerror or error}") from None
        server.port = runner.addresses[0][1]
        limiter = ConnectionLimiter(runner.server)
        auth.append(TokenAuth(server, token, limiter))
        check_task = asyncio.create_task(limiter.check_loop())
        yield server, f"http://{join_host_port(host, server.port)}/?token={token}"
    finally:
        if check_task is not None:
            check_task.cancel()
        await runner.cleanup()


def own_command(*arguments: str) -> list[str]:
    """Command line of this program with other arguments."""
    return [sys.executable, "-m", "grapevine_tui", *arguments]


@contextlib.asynccontextmanager
async def web_server(
    host: Host, listen_address: str, *, prints_address: bool
) -> AsyncIterator[None]:
    """Serve the app for the node of `host` once it has started. Enter before that.
    `prints_address`: print the address to open on stdout. Raises BindError.
    """
    written: list[Path] = []
    async with serve_command(listen_address, own_command("--help")) as (server, address):

        def on_event(event: Event, _: Changes) -> None:
            if not isinstance(event, NodeStarted) or host.state_dir is None:
                return
            server.command = shlex.join(
                own_command("attach", "--state-dir", str(host.state_dir.absolute()))
            )
            written.append(_write_address(host.state_dir / ADDRESS_FILE_NAME, address))
            if prints_address:
                sys.stdout.write(f"open {address}\n")
                sys.stdout.flush()
            else:
                logger.info("in a browser: the address is in %s", written[0])

        host.listen(on_event)
        try:
            yield
        finally:
            for path in written:
                path.unlink(missing_ok=True)


def _write_address(path: Path, address: str) -> Path:
    atomic_write(path, f"{address}\n".encode(), mode=0o600, preserve_mode=False)
    return path
