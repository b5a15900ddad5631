"""The control socket: lets other processes of this user query and control a running node.

Invariants:

- The socket is `control.sock` in the state directory, mode 0600 before anyone can connect. It is
  removed when the node stops; a stale one is replaced.
- `watch.sock` beside it, mode 0660, answers commands that read and refuses every other.
- It speaks the JSON Lines protocol of a headless node: one command per line, one reply object each;
  after ``watch`` also events.
- Clients, their lines and their timeouts are bounded; a slow client delays only itself.
- A node whose socket cannot be created runs without it and logs a warning.

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
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from grapevine_proto.events import Event, NodeStarted
from grapevine_tui.config.settings import Settings
from grapevine_tui.control.event_feed import SUMMARY_INTERVAL_S
from grapevine_tui.control.jsonlines import encode_event
from grapevine_tui.control.lines import READ_CHUNK_BYTES, LineSplitter
from grapevine_tui.control.socket_file import SOCKET_NAME, WATCH_SOCKET_NAME, connectable_path
from grapevine_tui.control.subscribers import Subscribers
from grapevine_tui.host.local import Host
from grapevine_tui.host.model import Changes

if TYPE_CHECKING:
    from grapevine_tui.control.executor import CommandExecutor, Reply

logger = logging.getLogger("grapevine.control")

SOCKET_MODE: Final = 0o600
WATCH_SOCKET_MODE: Final = 0o660  # the directory decides whether the group gets there
MAX_CLIENTS: Final = 16  # at once; further ones get an error and are disconnected
LINE_TIMEOUT_S: Final = (
    10.0  # for a whole line from its first byte, and for the first line from the connection on
)
WRITE_TIMEOUT_S: Final = (
    10.0  # a client that does not read its replies for this long is disconnected
)
MAX_UNREAD_REPLY_BYTES: Final = (
    256 * 1024
)  # of unread replies, before the client's next line is read


class ControlServer:
    """Listens at `state_dir` for one host. `on_quit` is called when a client sends ``leave``. `is_readonly`:
    at the socket for those who only watch."""

    def __init__(
        self,
        host: Host,
        state_dir: Path,
        on_quit: Callable[[], object],
        settings: Settings | None = None,
        *,
        is_readonly: bool = False,
    ) -> None:
        self._host = host
        self._settings = settings
        self._is_readonly = is_readonly
        self._mode = WATCH_SOCKET_MODE if is_readonly else SOCKET_MODE
        self._subscribers = Subscribers(host)
        self._flush_task: asyncio.Task[None] | None = None
        self._path = state_dir / (WATCH_SOCKET_NAME if is_readonly else SOCKET_NAME)
        self._on_quit = on_quit
        self._clients: set[asyncio.Task[None]] = set()
        self._idle_clients: dict[asyncio.Task[None], None] = {}  # no command yet; oldest first
        self._sock: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._is_quit_requested = False

    @cached_property
    def _executor(self) -> CommandExecutor:
        """Loaded with the first command, as that of a headless node is."""
        from grapevine_tui.control.executor import CommandExecutor

        return CommandExecutor(self._host, self._settings, is_readonly=self._is_readonly)

    def bind(self) -> None:
        """Create the socket. Clients are answered after `start`. Raises OSError and then leaves
        nothing behind.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._remove_stale_socket()
            with connectable_path(self._path) as path:
                sock.bind(path)
            self._inode = self._path.lstat().st_ino
            self._path.chmod(self._mode)  # before `listen`, so that no other user can connect
            sock.listen(MAX_CLIENTS)
            sock.setblocking(False)
        except BaseException:
            sock.close()
            self._unlink_socket()
            raise
        self._sock = sock

    async def start(self) -> None:
        """Answer clients until `close`."""
        self._server = await asyncio.start_unix_server(self._on_client, sock=self._sock)
        self._flush_task = asyncio.create_task(self._flush_loop())

    def close(self) -> None:
        """Disconnect all clients and remove the socket."""
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
        """Remove a stale socket. The lock of the state directory excludes another running node."""
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(self._path.lstat().st_mode):
                raise FileExistsError(errno.EEXIST, "exists and is not a socket", str(self._path))
            self._path.unlink()

    def _unlink_socket(self) -> None:
        with contextlib.suppress(OSError):
            if self._path.lstat().st_ino == self._inode:  # otherwise it belongs to the next node
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
                error = f"too many clients: {MAX_CLIENTS} are connected"
                writer.write(encode_event("reply", {"request": None, "ok": False, "error": error}))
                return
            self._clients.add(task)
            self._idle_clients[task] = None
            await self._serve_client(reader, writer)
        except TimeoutError:
            writer.transport.abort()  # `close` would wait for the client
        except (OSError, asyncio.CancelledError):
            pass  # the client disconnected, or the server closes
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
                self._subscribe(writer, reply)
                async with asyncio.timeout(WRITE_TIMEOUT_S):
                    await writer.drain()
                if reply.is_leave and not self._is_quit_requested:
                    self._is_quit_requested = True
                    self._on_quit()
                await asyncio.sleep(0)  # give the node a turn between lines of one client

    def _subscribe(self, writer: asyncio.StreamWriter, reply: Reply) -> None:
        """Begin to send the events that a reply promises."""
        if reply.is_watch:
            self._subscribers.watch(writer)
        if reply.pattern:
            self._subscribers.subscribe(writer, reply.pattern)
        if reply.key_prefix is not None:
            self._subscribers.watch_keys(writer, reply.key_prefix)


@contextlib.asynccontextmanager
async def control_server(
    host: Host, on_quit: Callable[[], object], settings: Settings | None = None
) -> AsyncIterator[None]:
    """Serve both sockets from the start of the host's node until the end of this context. Clients may connect
    as soon as a listener added afterwards sees NodeStarted.
    """
    servers: list[ControlServer] = []
    start_tasks: list[asyncio.Task[None]] = []

    def on_event(event: Event, _: Changes) -> None:
        if not isinstance(event, NodeStarted) or not hasattr(socket, "AF_UNIX"):
            return
        if host.state_dir is None:  # a demo
            return
        for is_readonly in (False, True):
            server = ControlServer(host, host.state_dir, on_quit, settings, is_readonly=is_readonly)
            try:
                server.bind()
            except OSError as error:
                logger.warning("no %s socket: %s", "watch" if is_readonly else "control", error)
            else:
                servers.append(server)
                start_tasks.append(asyncio.create_task(server.start()))

    host.listen(on_event)
    try:
        yield
    finally:
        for task in start_tasks:
            await task
        for server in servers:
            server.close()
