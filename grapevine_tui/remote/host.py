"""A node in another process, or on another host, reached over its control socket; to the app it is like one
in its own.

Invariants:

- The app shows what the node reports: tables, polled twice a second, and events as they happen.
- A lost connection is reported at once and retried until it succeeds; what was shown stays.
- Leaving means disconnecting: the node keeps running.
- Nothing that would change the node is sent to a read-only target.

Driven by `attach` and the app: `start`, commands, periodic `refresh`, `leave`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final, NamedTuple, assert_never

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.events import (
    Event,
    MemberChanged,
    MemberInfo,
    MessageReceived,
    NodeStarted,
    PeerDiscovered,
)
from grapevine_proto.ids import Address, MessageId, PeerId
from grapevine_proto.storage.permissions import UntrustedFile
from grapevine_tui.config.edit import RemoteSettingsEditor, SaveResult
from grapevine_tui.config.settings import Settings, settings_from_values
from grapevine_tui.config.sources import SettingValue
from grapevine_tui.control.client import CLOSED_TEXT, CommandFailed
from grapevine_tui.control.jsonlines import Object
from grapevine_tui.control.lines import MAX_LINE_BYTES
from grapevine_tui.control.read_only import refuse_act_request
from grapevine_tui.control.socket_file import check_server_owner, connectable_path
from grapevine_tui.control.target import (
    LocalTarget,
    NodeUnreachable,
    SshProcess,
    SshTarget,
    Target,
    as_target,
    start_ssh,
)
from grapevine_tui.host.access_state import AccessState
from grapevine_tui.host.alerts import AlertStatus
from grapevine_tui.host.ask_members import AskMembers
from grapevine_tui.host.model import Changes, Model, RoundEntry, TraceEntry
from grapevine_tui.host.protocol import Playback
from grapevine_tui.host.report_format import ReportFormat
from grapevine_tui.host.views import (
    NetworkView,
    ShowHolders,
    ShowMatrix,
    ShowRtt,
    ShowTopology,
)
from grapevine_tui.remote.decode import (
    DECODE_ERRORS,
    alert_from_json,
    alert_status_from_json,
    event_from_json,
    member_from_json,
    message_from_json,
    peer_from_json,
    round_from_json,
    stats_from_json,
    tags_from_json,
    trace_from_json,
)

REPLY_TIMEOUT_S: Final = 30.0  # a broadcast may wait for backpressure; other replies are immediate
RECONNECT_INTERVAL_S: Final = 1.0  # between attempts to reconnect
MAX_SSH_RECONNECT_INTERVAL_S: Final = 30.0  # doubled up to this over ssh: each attempt is a login
MAX_REPLY_BYTES: Final = (
    64 * 2**20
)  # of one line; all members of a large cluster take a few megabytes
SILENT_TIMEOUT_S: Final = 3.0  # without an answer, what is shown is marked as outdated
MEMBERS_REFRESH_INTERVAL_S: Final = 30.0  # between full member lists; events report the changes
MAX_INLINE_PAYLOAD_BYTES: Final = (
    MAX_LINE_BYTES // 2
)  # payload bytes that fit a line in base64; larger ones go through a file
ENVELOPE_FIELDS: Final = ("event", "time", "request", "ok")
MALFORMED_REPLY_ERRORS: Final = (*DECODE_ERRORS, RecursionError)

Listener = Callable[[Event, Changes], None]


class RemoteHost:
    """The node at a target, or on a state directory. Commands raise NodeUnreachable, ReadOnly, or
    CommandFailed with the node's error.
    """

    def __init__(
        self, where: Target | Path, model: Model, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.model = model
        self.config = NodeConfig()
        self.pending_restart: tuple[str, ...] = ()
        self.on_config_changed: Callable[[NodeConfig], object] = lambda _: None
        """Called if the node at the socket has another configuration after a reconnect."""
        self.on_received: Callable[[str, Object], object] = lambda kind, fields: None
        """Called with the kind and the fields of each object that changes the model, as `recording.Frame`."""
        self.target = as_target(where)
        self._clock = clock
        self._listeners: list[Listener] = []
        self._clock_offset_s = 0.0  # from our clock to the node's
        self._lag_s = 0.0
        self.unacknowledged = 0
        """Own broadcasts of the node that no peer has acknowledged yet."""
        self._request_ids = count(1)
        self._pending_replies: dict[int, asyncio.Future[Object]] = {}
        self._connection: _Connection | None = None
        self._answered_at = 0.0  # the latest snapshot
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_polling = False
        self._members: dict[PeerId, MemberInfo] = {}
        self._members_fetched_at = 0.0
        self._changes = Changes.NONE
        self._stop_reason = ""  # reported by the node when it stopped
        self._known_messages: set[MessageId] = set()
        model.is_remote = True

    async def fetch_state(self) -> None:
        """Have `on_received` called with the full state. Raises NodeUnreachable, CommandFailed."""
        self.on_received("state", await self._request("tables"))

    # State for the screens

    @property
    def is_readonly(self) -> bool:
        return self.target.is_readonly

    @property
    def playback(self) -> Playback | None:
        """This is no recording."""
        return None

    @property
    def node(self) -> RemoteHost:
        return self

    def now(self) -> float:
        """Estimate of the node's clock."""
        return self._clock() + self._clock_offset_s

    @property
    def lag_s(self) -> float:
        return self._lag_s

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every event and what it changed in the model, until the function returned is
        called."""
        self._listeners.append(listener)
        return partial(self._listeners.remove, listener)

    def refresh(self) -> Changes:
        """Poll the tables; return what the latest poll changed."""
        if self._connection is not None and not self._is_polling:
            self._start_task(self._poll_snapshot())
        silent_s = self._clock() - self._answered_at
        if self.is_connected and silent_s > SILENT_TIMEOUT_S:
            self._changes |= self.model.on_silent(self.model.wall_now() - silent_s)
        changes, self._changes = self._changes, Changes.NONE
        return changes

    # Connection

    @property
    def is_connected(self) -> bool:
        """Whether the connection is up, even if the node does not answer."""
        return self._connection is not None

    async def start(self) -> None:
        """Connect and keep connected. Raises NodeUnreachable."""
        await self._connect()
        self._start_task(self._keep_connected())

    def start_later(self) -> None:
        """Connect as soon as the node can be reached, and keep connected."""
        self._start_task(self._keep_connected())

    async def leave(self, timeout_s: float) -> int:
        """Disconnect."""
        for task in self._tasks:
            task.cancel()
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        return 0

    def _start_task(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open_connection(self) -> _Connection:
        """Connect to the socket. Raises NodeUnreachable."""
        match self.target:
            case LocalTarget():
                return await _open_here(self.target)
            case SshTarget():
                sock, ssh = start_ssh(self.target)
                reader, writer = await asyncio.open_unix_connection(
                    sock=sock, limit=MAX_REPLY_BYTES
                )
                return _Connection(reader, writer, ssh)
            case _:
                assert_never(self.target)

    async def _connect(self) -> None:
        connection = await self._open_connection()
        try:
            await self._watch(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._stop_reason = ""

    async def _watch(self, connection: _Connection) -> None:
        """Ask for the full state and the events, and show that state. Raises NodeUnreachable."""
        try:
            async with asyncio.timeout(REPLY_TIMEOUT_S):
                connection.writer.write(b'{"cmd":"watch"}\n')
                line = await connection.reader.readline()
            if not line and connection.ssh is not None:
                raise ConnectionResetError
            reply = json.loads(line)
            if reply["ok"]:
                self.on_received("state", reply)
                self._apply_full_state(reply)
        except TimeoutError:
            raise NodeUnreachable(f"the process at {self.target} does not answer") from None
        except (OSError, *MALFORMED_REPLY_ERRORS) as error:
            if connection.ssh is not None and isinstance(error, OSError):
                reason = await connection.failure()
                raise NodeUnreachable(f"{self.target}: {reason}") from None
            problem = "is not a Grapevine node"
            raise NodeUnreachable(f"the process at {self.target} {problem}") from None
        if not reply["ok"]:
            raise NodeUnreachable(f"the node at {self.target} answers: {reply['error']}")

    async def _keep_connected(self) -> None:
        while True:
            if self._connection is not None:
                reason = await self._read_until_closed(self._connection)
                self._on_disconnected(reason)
                await asyncio.sleep(RECONNECT_INTERVAL_S)
            delay_s = RECONNECT_INTERVAL_S
            while self._connection is None:
                try:
                    await self._connect()
                except NodeUnreachable as error:
                    if self.model.local_node is None:  # it never answered
                        self.model.disconnect_reason = str(error)
                    await asyncio.sleep(delay_s)
                    if isinstance(self.target, SshTarget):
                        delay_s = min(2 * delay_s, MAX_SSH_RECONNECT_INTERVAL_S)

    async def _read_until_closed(self, connection: _Connection) -> str:
        """Process lines until the connection ends; return the reason.

        Chunks, not lines, are read: a node that stops while a request is under way resets the connection, and
        a reader of lines would drop those behind the first, the reason among them."""
        pending = b""  # the beginning of a line
        try:
            while chunk := await connection.reader.read(MAX_REPLY_BYTES):
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    self._on_object(json.loads(line))
                if len(pending) > MAX_REPLY_BYTES:
                    return "invalid reply"
        except OSError as error:
            if not self._stop_reason:
                return error.strerror or "the connection broke"
        except MALFORMED_REPLY_ERRORS:
            return "invalid reply"
        if self._stop_reason:
            return f"the node stopped: {self._stop_reason}"
        return await connection.failure()

    def _on_disconnected(self, reason: str) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        for future in self._pending_replies.values():
            if not future.done():
                future.set_exception(NodeUnreachable(f"connection to the node closed: {reason}"))
        self._changes |= self.model.on_disconnected(reason)

    # Events

    def _on_object(self, fields: Object) -> None:
        if fields["event"] == "reply":
            future = self._pending_replies.get(fields["request"])
            if future is not None and not future.done():
                future.set_result(fields)
            return
        self.on_received("event", fields)
        self._on_event(fields)

    def _on_event(self, fields: Object) -> None:
        now = self.now()
        if fields["event"] == "message" and "at" in fields:
            self._add_past_message(fields, now)
            return
        if fields["event"] == "alert":
            self._changes |= self.model.on_alert(alert_from_json(fields))
            return
        event = event_from_json(fields, now)
        if event is None:
            return
        if isinstance(event, MemberChanged):
            self._members[event.member.peer_id] = event.member
        self._stop_reason = fields["reason"] if fields["event"] == "stopped" else self._stop_reason
        self._dispatch(event)

    def _dispatch(self, event: Event) -> None:
        changes = self.model.apply(event)
        for listener in self._listeners:
            listener(event, changes)

    def _add_past_message(self, fields: Object, now: float) -> None:
        """Add a message from before this connection."""
        message = message_from_json(fields, now)
        if message.id in self._known_messages:
            return
        self._known_messages.add(message.id)
        self.model.messages.append(message, float(fields["at"]))
        self.model.note_topic(message.topic)
        for listener in self._listeners:
            listener(MessageReceived(message), Changes.MESSAGES)

    def _apply_full_state(self, reply: Object) -> None:
        """Replace the model by the state of the node at connection time."""
        model, status = self.model, reply["status"]
        now_unix = model.wall_now()
        self._clock_offset_s = float(reply["snapshot"]["now_s"]) - self._clock()
        now = self.now()
        config = NodeConfig(
            name=status["name"],
            zone=status["zone"],
            cluster=status["cluster"],
            strategy=status["strategy"],
            max_peers=reply["max_peers"],
            max_message_size=reply["max_message_size"],
        )
        self._known_messages = {entry.message.id for entry in model.messages.newest_first()}
        rounds = [
            RoundEntry(now_unix - each["ago_s"], round_from_json(each, now))
            for each in reply["rounds"]
        ]
        traces = [
            (now_unix - each["ago_s"], trace_from_json(each, now)) for each in reply["traces"]
        ]
        self._apply_members(reply)
        started = NodeStarted(
            PeerId.parse(status["peer_id"]), Address.parse(status["address"]), status["epoch"]
        )
        self._dispatch(started)
        model.own_name = str(status["name"])
        if model.local_node is not None:
            model.local_node.started_at = now_unix - status["uptime_s"]
        model.rounds.clear()
        model.rounds.extend(rounds)
        payloads = {each.trace.id: each.payload for each in model.traces.values()}
        model.traces.clear()
        for at_unix, trace in traces:
            model.traces[trace.id] = TraceEntry(at_unix, payloads.get(trace.id, b""), trace)
        model.discovered.clear()
        for each in reply.get("discovered", ()):
            model.apply(PeerDiscovered(Address.parse(each["address"]), str(each["source"])))
        self._apply_snapshot(reply["snapshot"])
        self._changes |= model.on_reconnected() | Changes.ROUNDS | Changes.TRACES
        if config != self.config:
            self.config = config
            self.on_config_changed(config)

    def _apply_members(self, reply: Object) -> None:
        self._members = {each.peer_id: each for each in map(member_from_json, reply["members"])}
        self._members_fetched_at = self._clock()

    def _apply_snapshot(self, snapshot: Object) -> None:
        now = float(snapshot["now_s"])
        self._clock_offset_s = now - self._clock()
        self._lag_s = float(snapshot["lag_ms"]) / 1000
        self.unacknowledged = int(snapshot.get("unacknowledged", 0))
        self.model.tags = tags_from_json(snapshot.get("tags", {}))
        self._show_alerts(tuple(map(alert_status_from_json, snapshot.get("alerts", ()))))
        observed = snapshot.get("observed")
        self.model.observed = None if observed is None else Address.parse(observed)
        mapped = snapshot.get("mapped")
        self.model.mapped = None if mapped is None else Address.parse(mapped)
        denied = frozenset(map(PeerId.parse, snapshot.get("denied", ())))
        if denied != self.model.denied:
            self.model.denied = denied
            self._changes |= Changes.PEERS | Changes.MEMBERS
        self._answered_at = self._clock()
        if self.is_connected:
            self._changes |= self.model.on_reconnected()
        self._changes |= self.model.refresh(
            [peer_from_json(each, now) for each in snapshot["peers"]],
            self._members.values(),
            stats_from_json(snapshot["stats"], now),
            now,
        )

    def _show_alerts(self, alerts: Sequence[AlertStatus]) -> None:
        """Show how the alerts of the node stand."""
        self.model.alerts = alerts

    async def _poll_snapshot(self) -> None:
        self._is_polling = True
        try:
            with contextlib.suppress(NodeUnreachable, CommandFailed):
                snapshot = await self._request("poll")
                is_stale = self._clock() - self._members_fetched_at > MEMBERS_REFRESH_INTERVAL_S
                if is_stale or snapshot["members"] != len(self._members):
                    reply = await self._request("members")
                    self.on_received("members", reply)
                    self._apply_members(reply)
                self.on_received("poll", snapshot)
                self._apply_snapshot(snapshot)
        except MALFORMED_REPLY_ERRORS:
            if self._connection is not None:
                self._connection.writer.transport.abort()
        finally:
            self._is_polling = False

    # Commands

    async def _request(self, command: str, **fields: Any) -> Object:
        """Send a command and return the reply. Raises NodeUnreachable, CommandFailed."""
        if self.target.is_readonly:
            refuse_act_request({"cmd": command, **fields})
        if self._connection is None:
            raise NodeUnreachable(f"no connection to the node: {self.model.disconnect_reason}")
        request_id = next(self._request_ids)
        future = self._pending_replies[request_id] = asyncio.get_running_loop().create_future()
        try:
            self._connection.writer.write(
                json.dumps({"cmd": command, "request": request_id, **fields}).encode() + b"\n"
            )
            async with asyncio.timeout(REPLY_TIMEOUT_S):
                reply: Object = await future
        except TimeoutError:
            raise NodeUnreachable("the node does not answer") from None
        finally:
            del self._pending_replies[request_id]
        if not reply["ok"]:
            raise CommandFailed(str(reply["error"]))
        return reply

    async def _request_apart(self, command: str, **fields: Any) -> Object:
        """Send a command over a connection of its own, because the replies on one come in order and this one
        may take long. Raises NodeUnreachable, CommandFailed."""
        request = {"cmd": command, **fields}
        if self.target.is_readonly:
            refuse_act_request(request)
        connection = await self._open_connection()
        try:
            async with asyncio.timeout(REPLY_TIMEOUT_S):
                connection.writer.write(json.dumps(request).encode() + b"\n")
                reply: Object = json.loads(await connection.reader.readline())
                is_ok = reply["ok"]
        except TimeoutError:
            raise NodeUnreachable("the node does not answer") from None
        except (OSError, *MALFORMED_REPLY_ERRORS):
            raise NodeUnreachable("the node closed the connection without a reply") from None
        finally:
            connection.close()
        if not is_ok:
            raise CommandFailed(str(reply["error"]))
        return reply

    async def _request_with_payload(
        self, command: str, payload: bytes, **fields: str | int
    ) -> Object:
        if len(payload) <= MAX_INLINE_PAYLOAD_BYTES:
            return await self._request(command, base64=b64encode(payload).decode("ascii"), **fields)
        if isinstance(self.target, SshTarget):  # a file would be there, not here
            limit = f"{MAX_INLINE_PAYLOAD_BYTES:,} bytes"
            raise CommandFailed(f"too large: over ssh, at most {limit} can be sent")
        with tempfile.NamedTemporaryFile(prefix="grapevine-") as file:  # mode 0600
            file.write(payload)
            file.flush()
            return await self._request(command, file=file.name, **fields)

    async def broadcast(self, payload: bytes) -> tuple[MessageId, int]:
        reply = await self._request_with_payload("broadcast", payload)
        return MessageId.parse(reply["id"]), int(reply["peers"])

    async def publish(
        self,
        topic: str,
        payload: bytes,
        expires_s: int | None = None,
        retain: str | None = None,
    ) -> tuple[MessageId, int]:
        options = _given(expires_s=expires_s, retain=retain)
        reply = await self._request_with_payload("publish", payload, topic=topic, **options)
        return MessageId.parse(reply["id"]), int(reply["peers"])

    async def query(self, ask: AskMembers) -> Object:
        options = ask._asdict()
        payload = options.pop("payload")
        text = b64encode(payload).decode("ascii")
        return await self._request_apart("query", base64=text, **_given(**options))

    async def network(self, view: NetworkView) -> Object:
        command = {
            ShowRtt: "rtt",
            ShowMatrix: "matrix",
            ShowTopology: "topology",
            ShowHolders: "has",
        }
        fields = {name: value for name, value in asdict(view).items() if value}
        return await self._request_apart(command[type(view)], **fields)

    async def state(self, access: AccessState) -> Object:
        fields: Object = {"action": access.action, "key": access.key, "after": access.after}
        if access.action == "set":
            fields["base64"] = b64encode(access.payload).decode("ascii")
            fields |= {"durable": access.durable, **_given(ttl_s=access.ttl_s)}
        return await self._request("state", **fields)

    async def tags(self, action: str, words: Sequence[str] = ()) -> Object:
        pairs = dict(each.split("=", 1) for each in words) if action == "set" else list(words)
        return await self._request("tags", action=action, tags=pairs)

    async def trace(self, payload: bytes) -> tuple[MessageId, int]:
        reply = await self._request_with_payload("trace", payload)
        return MessageId.parse(reply["id"]), int(reply["peers"])

    async def send(self, peer_ref: str, payload: bytes) -> MessageId:
        return MessageId.parse(
            (await self._request_with_payload("send", payload, to=peer_ref))["id"]
        )

    async def dial(self, address: str) -> None:
        await self._request("dial", address=address)

    async def deny(self, peer_ref: str, for_s: int | None = None) -> PeerId:
        reply = await self._request("deny", peer=peer_ref, **_given(for_s=for_s))
        return PeerId.parse(reply["peer_id"])

    async def allow(self, peer_ref: str) -> PeerId:
        return PeerId.parse((await self._request("allow", peer=peer_ref))["peer_id"])

    async def forget(self, peer_id: PeerId) -> None:
        await self._request("forget", peer=str(peer_id))
        self._members.pop(peer_id, None)

    async def start_round(self) -> None:
        await self._request("round")

    async def alerts(self) -> Object:
        return await self._request("alerts")

    async def mute(self, name: str, for_s: int | None = None) -> None:
        await self._request("mute", name=name, **_given(for_s=for_s))

    async def unmute(self, name: str) -> None:
        await self._request("unmute", name=name)

    async def search_history(self, words: str = "", **place: Any) -> Object:
        return await self._request("history", words=words, **place)

    async def search_events(self, words: str = "", **place: Any) -> Object:
        return await self._request("events", words=words, **place)

    async def snapshot(self) -> Object:
        reply = await self._request("snapshot")
        return {name: value for name, value in reply.items() if name not in ENVELOPE_FIELDS}

    async def report(self, since: str, output: ReportFormat) -> str:
        reply = await self._request("report", since=since, is_html=output is ReportFormat.HTML)
        return str(reply["report"])

    async def export_history(self, file: str, words: str = "") -> Object:
        return await self._request("history_export", file_name=file, words=words)

    async def import_history(self, file: str) -> Object:
        return await self._request("history_import", file_name=file)

    async def prune_history(self, before: str = "") -> Object:
        return await self._request("history_prune", before=before)

    def reconfigure(self, config: NodeConfig) -> tuple[str, ...]:
        raise CommandFailed("the node runs in another process; change its settings with `edit`")

    async def reload(self) -> tuple[str, ...]:
        return tuple((await self._request("reload"))["restart"])

    async def edit(self) -> RemoteSettingsEditor:
        """Open the settings of the node for editing. Raises NodeUnreachable, CommandFailed."""
        return RemoteSettingsEditor(
            _settings_from_reply(await self._request("settings")), self._set_settings
        )

    def on_settings_saved(self, settings: Settings) -> None:
        """Nothing to do: the node applied and saved them itself."""

    async def _set_settings(self, changes: Mapping[str, str]) -> tuple[SaveResult, Settings]:
        reply = await self._request("set_settings", changes=dict(changes))
        result = SaveResult(
            path=None if reply["path"] is None else Path(reply["path"]),
            comments_preserved=reply["comments_preserved"],
            pending_restart=tuple(reply["restart"]),
            overridden_by=reply["overridden_by"],
        )
        return result, _settings_from_reply(reply)


class _Connection(NamedTuple):
    """A connection to the node, with the ssh that carries it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    ssh: SshProcess | None = None

    async def failure(self) -> str:
        """Why the other end has closed it."""
        reason = "" if self.ssh is None else await asyncio.to_thread(self.ssh.failure)
        return reason or CLOSED_TEXT

    def close(self) -> None:
        self.writer.close()
        if self.ssh is not None:
            self.ssh.end()


async def _open_here(target: LocalTarget) -> _Connection:
    """Connect to the socket of a node on this machine. Raises NodeUnreachable."""
    try:
        with connectable_path(target.socket_path) as path:
            reader, writer = await asyncio.open_unix_connection(path, limit=MAX_REPLY_BYTES)
    except OSError as error:
        is_absent = error.errno in (errno.ENOENT, errno.ECONNREFUSED)
        reason = "no node is running there" if is_absent else error.strerror
        raise NodeUnreachable(f"no node answers at {target}: {reason}") from None
    try:
        check_server_owner(writer.get_extra_info("socket"), target.socket_path)
    except UntrustedFile as error:
        writer.close()
        raise NodeUnreachable(f"{target}: {error.strerror}") from None
    return _Connection(reader, writer)


def _settings_from_reply(reply: Object) -> Settings:
    return settings_from_values(
        SettingValue(each["name"], each["value"], each["origin"]) for each in reply["values"]
    )


def _given(**options: Any) -> Object:
    """The options that are not None."""
    return {field: value for field, value in options.items() if value is not None}
