"""The app in a browser: access control, and that typed messages are broadcast."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from grapevine_proto.errors import BindError
from tests.tui.runs import WAIT_S, Bench, environ_of

HAS_EXTRA = importlib.util.find_spec("textual_serve") is not None
needs_extra = pytest.mark.skipif(not HAS_EXTRA, reason="the extra `web` is not installed")


def test_without_the_extra_it_is_one_line_that_names_it(bench: Bench) -> None:
    package = (
        bench.directory / "textual_serve"
    )  # found first, and with no server in it: as if not there
    package.mkdir()
    (package / "__init__.py").touch()
    done = bench.command("--web", "--port", "0")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "pip install 'grapevine-tui[web]'" in done.stderr


def test_an_invalid_address_is_rejected_at_once(bench: Bench) -> None:
    done = bench.command("--web", "nowhere")
    assert done.returncode == 2
    assert "app.web" in done.stderr


@asynccontextmanager
async def in_browser(directory: Path, *arguments: str) -> AsyncIterator[tuple[str, str]]:
    """A node with its app on the web: the page's address and its token."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "grapevine_tui", "--web", "127.0.0.1:0", "-l", "warn", *arguments,
        stdout=subprocess.PIPE, env=environ_of(directory), cwd=directory,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(WAIT_S):
            keyword, address = (await process.stdout.readline()).decode().split()
            assert keyword == "open"
            page, _, token = address.partition("?token=")
            yield page, token
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()


async def shows(socket: Any, expected: str) -> None:
    """Wait until `words` have been drawn."""
    drawn = b""
    while expected.encode() not in drawn:
        drawn += (await socket.receive()).data


@needs_extra
@pytest.mark.asyncio
@pytest.mark.parametrize("host", ["a..b", "a" * 70, "010.0.0.1", "192.0.2.77"])
async def test_a_host_that_cannot_be_listened_at_is_named_with_the_reason(host: str) -> None:
    from grapevine_tui.service import web

    with pytest.raises(BindError, match=rf"^web at {host[:70]}:0: \S+"):
        async with web.serve_command(f"{host}:0", ["true"]):
            pass


@needs_extra
@pytest.mark.asyncio
async def test_only_a_client_with_the_full_address_gets_the_app(bench: Bench) -> None:
    from aiohttp import ClientSession, CookieJar, WSServerHandshakeError

    bob, address = bench.started("--name", "bob", "--profile", "local")
    options = ("--port", "0", "--name", "ams-1", "--peer", address, "--state-dir", "kept")
    async with in_browser(bench.directory, *options) as (page, token):
        kept = bench.directory / "kept" / "web.url"
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        assert kept.read_text() == f"{page}?token={token}\n"
        async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as browser:
            for path in ("", "ws", "static/js/textual.js", f"?token={token}x"):
                assert (await browser.get(page + path)).status == 403
            admitted = await browser.get(f"{page}?token={token}")
            assert (admitted.status, str(admitted.url)) == (200, page)
            assert "connect-src 'self'" in admitted.headers["Content-Security-Policy"]
            (cookie,) = admitted.history[0].cookies.values()
            assert (cookie["samesite"], cookie["httponly"]) == ("Strict", True)
            with pytest.raises(WSServerHandshakeError, match="403"):
                await browser.ws_connect(f"{page}ws", origin="http://elsewhere.example")
            async with browser.ws_connect(f"{page}ws?width=120&height=36") as socket:
                await shows(socket, "attached:")
                await shows(socket, "Zoom")  # at first nothing has the focus: keys of the panels
                await socket.send_json(["focus"])  # as the page says when it is clicked
                await socket.send_json(["stdin", "i"])
                await shows(socket, "Send")  # the keys of the compose box
                await socket.send_json(["stdin", "hello from a browser\r"])
                received = await asyncio.to_thread(
                    bob.expect, "message", text="hello from a browser"
                )
                assert received["from_name"] == "ams-1"
                await shows(socket, "hello from a browser")
    assert not kept.exists()


@needs_extra
@pytest.mark.asyncio
async def test_each_tab_has_its_own_demo(tmp_path: Path) -> None:
    from aiohttp import ClientSession, CookieJar

    async with (
        in_browser(tmp_path, "--demo") as (page, token),
        ClientSession(cookie_jar=CookieJar(unsafe=True)) as browser,
    ):
        assert (await browser.get(f"{page}?token={token}")).status == 200
        async with browser.ws_connect(f"{page}ws?width=120&height=36") as socket:
            await shows(socket, "Peers")
    assert os.listdir(tmp_path) == []


@needs_extra
@pytest.mark.asyncio
async def test_tabs_are_bounded() -> None:
    from grapevine_tui.service.web import MAX_TABS, TokenAuth

    door = TokenAuth(SimpleNamespace(port=1, public_url=""), "secret")
    gate = asyncio.Event()

    async def handle(request: Any) -> Any:
        await gate.wait()
        return SimpleNamespace(status=101, headers={})

    request = SimpleNamespace(
        query={}, cookies={"grapevine-1": "secret"}, headers={}, path="/ws", scheme="http", host="h"
    )
    tabs = [asyncio.create_task(door.authorize(request, handle)) for _ in range(MAX_TABS + 1)]
    refused = await tabs[MAX_TABS]
    assert refused.status == 503
    assert not any(tab.done() for tab in tabs[:MAX_TABS])
    gate.set()
    assert [(await tab).status for tab in tabs[:MAX_TABS]] == [101] * MAX_TABS
    assert (await door.authorize(request, handle)).status == 101  # there is room again


@needs_extra
def test_connections_without_the_token_are_closed_when_late_or_too_many() -> None:
    from grapevine_tui.service.web import MAX_CONNECTIONS, TOKEN_TIMEOUT_S, ConnectionLimiter

    class Connection:
        is_closed = False

        def force_close(self) -> None:
            self.is_closed = True
            server.connections.remove(self)

    early, admitted = Connection(), Connection()
    server = SimpleNamespace(connections=[early, admitted])
    connections = ConnectionLimiter(server)
    connections.admit(admitted)
    connections.close_unauthenticated(0.0)
    server.connections += [Connection() for _ in range(MAX_CONNECTIONS - 2)]
    connections.close_unauthenticated(1.0)
    assert connections.dropped == 0
    late = Connection()
    server.connections.append(late)
    connections.close_unauthenticated(2.0)
    assert (early.is_closed, late.is_closed, connections.dropped) == (True, False, 1)
    connections.close_unauthenticated(2.0 + TOKEN_TIMEOUT_S)
    assert server.connections == [admitted]
    assert connections.dropped == MAX_CONNECTIONS
