"""Executes commands on a host: the same replies on stdin and on the control socket.

Invariants:

- A line gets one reply, or none if it is blank. An invalid line changes nothing.
- The executor does not know where a line comes from or how its reply is sent.

`headless` and the control server call `execute`, one line of a client at a time.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, assert_never

from grapevine_proto import compiled
from grapevine_proto.errors import GrapevineError, MessageTooLarge, NoMatchingMember
from grapevine_proto.events import MemberInfo
from grapevine_proto.ids import PeerId
from grapevine_proto.runtime.daemon_threads import DaemonThreads
from grapevine_tui.config.edit import SettingsEditor, reload_kept
from grapevine_tui.config.settings import Settings
from grapevine_tui.config.sources import SettingValue
from grapevine_tui.control.commands import (
    AlertCommand,
    Allow,
    Broadcast,
    ChangeTags,
    ChooseLayout,
    ClientAction,
    Command,
    Deny,
    Dial,
    ExportHistory,
    Filter,
    Find,
    Follow,
    Forget,
    GoTo,
    HistoryCommand,
    ImportHistory,
    MakeReport,
    MuteAlert,
    MuteContext,
    NodeAction,
    PeerCommand,
    PruneHistory,
    Publish,
    Query,
    RemoveHighlight,
    Run,
    ScreenAction,
    SearchHistory,
    Send,
    SetHighlight,
    SetSettings,
    Show,
    ShowContext,
    ShowEvents,
    ShowFleet,
    ShowHelp,
    ShowMembers,
    ShowTab,
    Sort,
    Subscribe,
    Surface,
    ToggleBox,
    Trace,
    UnmuteAlert,
    commands_on,
)
from grapevine_tui.control.jsonlines import NO_MEMBER_CODE, Object
from grapevine_tui.control.lines import MAX_LINE_BYTES
from grapevine_tui.control.read_only import refuse_act
from grapevine_tui.control.reload import reload_settings
from grapevine_tui.control.requests import InvalidRequest, Request, parse_request
from grapevine_tui.host import snapshot
from grapevine_tui.host.access_state import AccessState
from grapevine_tui.host.ask_members import AskMembers
from grapevine_tui.host.local import Host
from grapevine_tui.host.report_format import ReportFormat
from grapevine_tui.host.views import ShowHolders, ShowMatrix, ShowRtt, ShowTopology
from grapevine_tui.logs import set_level

logger = logging.getLogger("grapevine.executor")

MAX_PAYLOAD_READS: Final = 4  # payload files read at the same time, for all clients
PAYLOAD_COMMANDS: Final = (Broadcast, Publish, AskMembers, AccessState, Trace, Send)
ERROR_CODES: Final = ((NoMatchingMember, NO_MEMBER_CODE),)  # for those that scripts tell apart
LINE_TOO_LONG: Final = f"the line is longer than {MAX_LINE_BYTES:,} bytes"


NETWORK_VIEWS: Final = (ShowRtt, ShowMatrix, ShowTopology, ShowHolders)
MEMBER_SORT_KEYS: Final[Mapping[str, Callable[[MemberInfo], Any]]] = {
    "name": lambda each: (each.name, each.peer_id),
    "zone": lambda each: (each.zone, each.name, each.peer_id),
    "rtt": lambda each: (each.rtt is None, each.rtt.seconds if each.rtt else 0.0, each.peer_id),
}


class Reply(NamedTuple):
    """The fields of a ``reply``. `is_leave`: the caller must shut the node down. `is_watch`: the
    client wants events from now on, or with `pattern` the messages of these topics, or with `key_prefix` the
    changes of these keys."""

    fields: Object
    is_leave: bool = False
    is_watch: bool = False
    pattern: str = ""
    key_prefix: str | None = None


class Unavailable(GrapevineError):
    """The command does not apply to this node."""


class CommandExecutor:
    """Executes commands on one host. `settings` are those the process started with; None: they can
    be neither read nor changed. `is_readonly`: every act is refused."""

    def __init__(
        self, host: Host, settings: Settings | None = None, *, is_readonly: bool = False
    ) -> None:
        self._host = host
        self._is_readonly = is_readonly
        self._settings = settings
        self._payload_readers = DaemonThreads("payload files", MAX_PAYLOAD_READS)

    async def execute(self, line: bytes | None) -> Reply | None:
        """The reply to `line`, or None if it is blank. `line` None: it was too long. Never raises
        because of what a line contains."""
        request_id: Any = None
        try:
            request = _parse_line(line)
            if request is None:
                return None
            request_id = request.request_id
            if self._is_readonly:
                refuse_act(request.command)
            result = await self._execute(await self._load_payload(request))
        except GrapevineError as error:
            if request_id is None and isinstance(error, InvalidRequest):
                request_id = error.request_id
            fields = {"request": request_id, "ok": False, "error": str(error)}
            code = next((word for kind, word in ERROR_CODES if isinstance(error, kind)), None)
            return Reply(fields if code is None else fields | {"code": code})
        except Exception as error:  # a bug here must not end the node
            logger.exception("internal error in a command")
            problem = f"internal error: {type(error).__name__}: {error}"
            return Reply({"request": request_id, "ok": False, "error": problem})
        return Reply(
            {"request": request_id, "ok": True, **result},
            is_leave=request.command is NodeAction.LEAVE,
            is_watch=request.command is ClientAction.WATCH,
            pattern=request.command.pattern if isinstance(request.command, Subscribe) else "",
            key_prefix=_watched_prefix(request.command),
        )

    async def _load_payload(self, request: Request) -> Command:
        command = request.command
        if request.file and isinstance(command, PAYLOAD_COMMANDS):
            limit = self._host.config.max_message_size
            payload = await self._payload_readers.run(_read_payload, Path(request.file), limit)
            return command._replace(payload=payload)
        return command

    async def _execute(self, command: Command) -> Object:
        host = self._host
        if isinstance(command, NETWORK_VIEWS):
            return await host.network(command)
        match command:
            case Broadcast() | Publish() | AskMembers() | Trace() | Send():
                return await self._send_payload(command)
            case AccessState() | ChangeTags():
                return await self._use_state(command)
            case Dial() | Deny() | Allow() | Forget():
                return await self._use_peer(command)
            case NodeAction.START_ROUND:
                await host.start_round()
                return {}
            case MuteAlert() | UnmuteAlert():
                return await self._use_alerts(command)
            case SetSettings(changes):
                return self._set_settings(changes)
            case NodeAction.RELOAD:
                return {"restart": list(reload_settings(host, self._known_settings))}
            case NodeAction.LEAVE:
                return {}  # the caller of `execute` shuts the node down
            case (
                ScreenAction()
                | Filter()
                | Find()
                | Sort()
                | Follow()
                | GoTo()
                | Run()
                | ChooseLayout()
                | ToggleBox()
                | ShowTab()
                | SetHighlight()
                | RemoveHighlight()
                | ShowContext()
                | MuteContext()
                | ShowFleet()
            ):
                raise Unavailable("this acts on the app's screen; this node has none")
            case (
                ShowEvents()
                | SearchHistory()
                | ExportHistory()
                | ImportHistory()
                | PruneHistory()
                | MakeReport()
            ):
                return await self._use_history(command)
            case _:
                return self._query(command)

    async def _use_peer(self, command: PeerCommand) -> Object:
        host = self._host
        match command:
            case Dial(address):
                await host.dial(address)
                return {"address": address}
            case Deny(peer_ref, for_s):
                return {"peer_id": str(await host.deny(peer_ref, for_s))}
            case Allow(peer_ref):
                return {"peer_id": str(await host.allow(peer_ref))}
            case Forget(peer_ref):
                peer_id = _parse_peer_id(peer_ref) or host.resolve(peer_ref)
                await host.forget(peer_id)
                return {"peer_id": str(peer_id)}
            case _:
                assert_never(command)

    async def _use_alerts(self, command: AlertCommand) -> Object:
        match command:
            case MuteAlert(name, for_s):
                await self._host.mute(name, for_s)
                return {"name": name}
            case UnmuteAlert(name):
                await self._host.unmute(name)
                return {"name": name}
            case _:
                assert_never(command)

    async def _use_state(self, command: AccessState | ChangeTags) -> Object:
        if isinstance(command, ChangeTags):
            return await self._host.tags(command.action, command.words)
        return await self._host.state(command)

    async def _use_history(self, command: HistoryCommand) -> Object:
        host = self._host
        try:
            match command:
                case ShowEvents():
                    return await host.search_events(**command._asdict())
                case SearchHistory():
                    return await host.search_history(**command._asdict())
                case ExportHistory(file_name, words):
                    return await host.export_history(file_name, words)
                case ImportHistory(file_name):
                    return await host.import_history(file_name)
                case PruneHistory(before):
                    return await host.prune_history(before)
                case MakeReport(since, is_html):
                    output = ReportFormat.HTML if is_html else ReportFormat.MARKDOWN
                    return {"format": output.value, "report": await host.report(since, output)}
                case _:
                    assert_never(command)
        except OSError as error:
            raise Unavailable(f"{error.filename}: {error.strerror or error}") from None

    async def _send_payload(
        self, command: Broadcast | Publish | AskMembers | Trace | Send
    ) -> Object:
        host = self._host
        match command:
            case Broadcast(payload):
                message_id, peers = await host.broadcast(payload)
                return {"id": str(message_id), "peers": peers}
            case Publish(topic, payload, expires_s, retain):
                message_id, peers = await host.publish(topic, payload, expires_s, retain)
                return {"id": str(message_id), "peers": peers}
            case AskMembers():
                return await host.query(command)
            case Trace(payload):
                message_id, peers = await host.trace(payload)
                return {"id": str(message_id), "peers": peers}
            case Send(recipient, payload):
                peer_id = host.resolve(recipient)
                return {"id": str(await host.node.send(peer_id, payload)), "to": str(peer_id)}
            case _:
                assert_never(command)

    def _query(self, command: Query | ClientAction) -> Object:
        """Read the node; changes nothing."""
        node = self._host.node
        match command:
            case Show():
                return self._show(command)
            case ShowMembers(tags, order):
                members = sorted(node.members(tags), key=MEMBER_SORT_KEYS[order])
                return {"members": [member.to_dict() for member in members]}
            case ClientAction.POLL:
                return snapshot.changing_values(self._host)
            case ClientAction.WATCH | ClientAction.TABLES:
                return snapshot.full_state(self._host)
            case Subscribe(pattern):
                node.hold_topics(pattern)()  # refuses what `Subscribers.add` would
                return {"pattern": pattern}
            case ShowHelp(name):
                specs = [each for each in commands_on(Surface.HELP) if name in ("", each.name)]
                return {"help": [{"usage": each.usage, "help": each.help} for each in specs]}
            case _:
                assert_never(command)

    def _show(self, shown: Show) -> Object:
        node = self._host.node
        now = node.now()
        match shown:
            case Show.PEERS:
                denied = frozenset(self._host.config.denied)
                return {
                    "peers": [
                        peer.to_dict(now=now) | {"denied": peer.peer_id in denied}
                        for peer in node.peers()
                    ]
                }
            case Show.ROUNDS:
                return {
                    "rounds": [
                        each.to_dict() | {"ago_s": round(max(0.0, now - each.started_at), 3)}
                        for each in node.rounds()
                    ]
                }
            case Show.TRACES:
                return {"traces": [each.to_dict() for each in node.traces()]}
            case Show.DISCOVERED:
                return snapshot.discovered(node)
            case Show.ALERTS:
                return snapshot.alerts(self._host)
            case Show.STATS:
                return {"stats": node.stats().to_dict(now=now), "compiled": compiled}
            case Show.STATUS:
                return snapshot.status(self._host)
            case Show.SNAPSHOT:
                return snapshot.whole_snapshot(self._host)
            case Show.SETTINGS:
                values = self._new_editor().values_with_restart_notes
                return {"values": [self._setting_fields(each) for each in values]}
            case _:
                assert_never(shown)

    def _setting_fields(self, setting: SettingValue) -> Object:
        """The setting, to those who only watch without programs: their arguments may contain a password."""
        if self._is_readonly and setting.value and setting.name in snapshot.PROGRAM_SETTINGS:
            setting = setting._replace(value=type(setting.value)(), origin="not shown")
        return setting._asdict()

    @property
    def _known_settings(self) -> Settings:
        if self._settings is None:
            raise Unavailable("this node has no settings that can be read or changed")
        return self._settings

    def _new_editor(self) -> SettingsEditor:
        """A new editor for each request: other processes and people change the same files."""
        settings = self._known_settings
        current = reload_kept(self._host.settings or settings, self._host.config.keys)
        return SettingsEditor(current, self._host.reconfigure, settings)

    def _set_settings(self, changes: tuple[tuple[str, str], ...]) -> Object:
        """Apply and save all of `changes`, or none."""
        editor = self._new_editor()
        for name, text in changes:
            editor.set_value(name, text)
        try:
            result = editor.save()
        except OSError as error:
            raise Unavailable(f"not saved: {error.strerror or error}") from None
        self._host.on_settings_saved(editor.settings)
        self._host.pending_restart = editor.pending_restart
        set_level(editor.settings.log_level)
        return {
            "path": None if result.path is None else str(result.path),
            "comments_preserved": result.comments_preserved,
            "restart": list(result.pending_restart),
            "overridden_by": dict(result.overridden_by),
            "values": [each._asdict() for each in editor.values_with_restart_notes],
        }


def _parse_line(line: bytes | None) -> Request | None:
    if line is None:
        raise InvalidRequest(LINE_TOO_LONG)
    return parse_request(line)


def _watched_prefix(command: Command) -> str | None:
    match command:
        case AccessState(action="watch", key=prefix):
            return prefix
    return None


def _parse_peer_id(text: str) -> PeerId | None:
    """The complete ID that `text` is; None if it is a name, an address or a prefix."""
    with suppress(ValueError):
        return PeerId.parse(text.strip())
    return None


def _read_payload(path: Path, limit_bytes: int) -> bytes:
    """Contents of the regular file at `path`.

    Raises:
        InvalidRequest: it cannot be read, or is not a regular file.
        MessageTooLarge: it is longer than `limit_bytes`.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InvalidRequest(f"{path}: not a plain file")
        if status.st_size > limit_bytes:
            raise MessageTooLarge(status.st_size, limit_bytes)
        with path.open("rb") as file:
            payload = file.read(limit_bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: an invalid name
        raise InvalidRequest(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if len(payload) > limit_bytes:
        raise MessageTooLarge(len(payload), limit_bytes)
    return payload
