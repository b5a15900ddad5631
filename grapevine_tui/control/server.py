"""The control socket: a running node looked at and ordered about from another terminal.

What must stay true:

- The socket is `control.sock` in the state directory, for its owner alone (0600) from the moment it
  can be connected to; it goes when the node goes, and one left by a node that died is replaced.
- It speaks what a headless node speaks on stdin and stdout: one line a command, one object a reply;
  and to who asks to ``watch`` it tells what happens.
- Clients, their lines and their patience are bounded; a slow one delays only itself.
- A node whose socket cannot be made runs all the same, and says so in its log.

Driven by `control_server`, in the loop of the node.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

from grapevine_proto.events import Event, NodeStarted
from grapevine_tui.config.settings import Settings
from grapevine_tui.control.event_feed import SUMMARY_INTERVAL_S
from grapevine_tui.control.executor import CommandExecutor
from grapevine_tui.control.jsonlines import encode_event
from grapevine_tui.control.lines import READ_CHUNK_BYTES, LineSplitter
from grapevine_tui.control.socket_file import SOCKET_NAME, connectable_path
from grapevine_tui.control.subscribers import Subscribers
from grapevine_tui.host.local import Host
from grapevine_tui.host.model import Changes

logger = logging.getLogger("grapevine.control")

MAX_CLIENTS: Final = 16  # at once; more are told so and hung up on
LINE_TIMEOUT_S: Final = (
    10.0  # for a line from its first byte on, and for the first from the connection on
)
WRITE_TIMEOUT_S: Final = 10.0  # a client that does not take its replies for so long is hung up on
MAX_UNREAD_REPLY_BYTES: Final = (
    256 * 1024
)  # of replies a client has not taken, before its next line is read


class ControlServer:
    """Listens at `state_dir` for one host. `on_quit` is called when a client says ``leave``."""

    def __init__(
        self,
        host: Host,
        state_dir: Path,
        on_quit: Callable[[], object],
        settings: Settings | None = None,
    ) -> None:
        self._executor = CommandExecutor(host, settings)
        self._subscribers = Subscribers(host)
        self._flush_task: asyncio.Task[None] | None = None
        self._path = state_dir / SOCKET_NAME
        self._on_quit = on_quit
        self._clients: set[asyncio.Task[None]] = set()
        self._idle_clients: dict[asyncio.Task[None], None] = {}  # have not asked yet; oldest first
        self._sock: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._is_quit_requested = False

    def bind(self) -> None:
        """Let clients connect; they are answered after `start`. Raises OSError; then nothing is
        left behind."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._remove_stale_socket()
            with connectable_path(self._path) as path:
                sock.bind(path)
            self._inode = self._path.lstat().st_ino
            self._path.chmod(0o600)  # nobody can connect before `listen`
            sock.listen(MAX_CLIENTS)
            sock.setblocking(False)
        except BaseException:
            sock.close()
            self._unlink_socket()
            raise
        self._sock = sock

    async def start(self) -> None:
        """Answer, from now to `close`."""
        self._server = await asyncio.start_unix_server(self._on_client, sock=self._sock)
        self._flush_task = asyncio.create_task(self._flush_loop())

    def close(self) -> None:
        """Hang up on everybody and take the socket away."""
        self._unlink_socket()
        if self._server is not None:
            self._server.close()
        elif self._sock is not None:
            self._sock.close()
        if self._flush_task is not None:
            self._flush_task.cancel()
        for client in self._clients:
            client.cancel()

    async def _flush_loop(self) -> None:
        while True:
            await asyncio.sleep(SUMMARY_INTERVAL_S / 2)
            self._subscribers.flush()

    def _remove_stale_socket(self) -> None:
        """Take a stale socket away: whoever holds the state directory's lock is the only node here."""
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(self._path.lstat().st_mode):
                raise FileExistsError(errno.EEXIST, "is in the way", str(self._path))
            self._path.unlink()

    def _unlink_socket(self) -> None:
        with contextlib.suppress(OSError):
            if self._path.lstat().st_ino == self._inode:  # else it is the next node's
                self._path.unlink()

    async def _on_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            if len(self._clients) >= MAX_CLIENTS and self._idle_clients:
                oldest_idle = next(iter(self._idle_clients))
                del self._idle_clients[oldest_idle]
                self._clients.discard(oldest_idle)
                oldest_idle.cancel()
            if len(self._clients) >= MAX_CLIENTS:
                error = f"{MAX_CLIENTS} others are connected; one of them has to go first"
                writer.write(encode_event("reply", {"request": None, "ok": False, "error": error}))
                return
            self._clients.add(task)
            self._idle_clients[task] = None
            await self._serve_client(reader, writer)
        except TimeoutError:
            writer.transport.abort()  # a mere `close` would wait for it for ever
        except (OSError, asyncio.CancelledError):
            pass  # it went, or we go
        finally:
            self._clients.discard(task)
            self._idle_clients.pop(task, None)
            self._subscribers.remove(writer)
            writer.close()

    async def _serve_client(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.transport.set_write_buffer_limits(MAX_UNREAD_REPLY_BYTES)
        splitter, task = LineSplitter(), asyncio.current_task()
        line_deadline: float | None = asyncio.get_running_loop().time() + LINE_TIMEOUT_S
        while True:
            async with asyncio.timeout_at(line_deadline):
                chunk = await reader.read(READ_CHUNK_BYTES)
            if not chunk:
                return
            lines = splitter.feed(chunk)
            if lines and task is not None:
                self._idle_clients.pop(task, None)
            if not splitter.has_partial_line:
                line_deadline = None
            elif lines or line_deadline is None:
                line_deadline = asyncio.get_running_loop().time() + LINE_TIMEOUT_S
            for line in lines:
                reply = await self._executor.execute(line)
                if reply is None:
                    continue
                writer.write(encode_event("reply", reply.fields))
                if reply.is_watch:
                    self._subscribers.add(writer)
                async with asyncio.timeout(WRITE_TIMEOUT_S):
                    await writer.drain()
                if reply.is_quit and not self._is_quit_requested:
                    self._is_quit_requested = True
                    self._on_quit()
                await asyncio.sleep(0)  # between the lines of one client, the node's turn


@contextlib.asynccontextmanager
async def control_server(
    host: Host, on_quit: Callable[[], object], settings: Settings | None = None
) -> AsyncIterator[None]:
    """Listen from when the host's node has started until the end of this block. Whoever is told
    of the start after this was entered may connect at once."""
    server: ControlServer | None = None
    start_task: asyncio.Task[None] | None = None

    def on_event(event: Event, _: Changes) -> None:
        nonlocal server, start_task
        if not isinstance(event, NodeStarted) or not hasattr(socket, "AF_UNIX"):
            return
        if host.state_dir is None:  # a demonstration
            return
        server = ControlServer(host, host.state_dir, on_quit, settings)
        try:
            server.bind()
        except OSError as error:
            logger.warning("no control socket: %s", error)
        else:
            start_task = asyncio.create_task(server.start())

    host.listen(on_event)
    try:
        yield
    finally:
        if start_task is not None:
            await start_task
        if server is not None:
            server.close()
