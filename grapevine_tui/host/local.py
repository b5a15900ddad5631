"""Runs a node in this process and keeps its model, for the app and for headless nodes.

Invariants:

- Events reach the model and then the listeners at once, in the order the node emits them.
- A name that two members have is never resolved to one of them; the error lists both IDs.
- Nothing here depends on a screen or a stream.

Driven by the app or `Headless`: `start`, commands, periodic `refresh`, `leave`.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from grapevine_proto import MemberFilter
from grapevine_proto.config.node import NodeConfig
from grapevine_proto.errors import (
    ConfigError,
    GrapevineError,
    InvalidArgument,
    NotRunning,
    StateLockedError,
    UnknownPeer,
)
from grapevine_proto.events import (
    Event,
    KeyInfo,
    MemberStatus,
    Message,
    MessageSent,
    NodeStarted,
)
from grapevine_proto.ids import PEER_ID_BYTES, Address, MessageId, PeerId
from grapevine_proto.node import Node
from grapevine_proto.overlay.state.shared_map import is_owners_alone
from grapevine_proto.runtime.discovery.local import LocalDiscovery
from grapevine_proto.runtime.discovery.mdns import MdnsDiscovery
from grapevine_proto.runtime.discovery.source import Discovery
from grapevine_proto.runtime.udp_socket import DatagramSocket, UdpSocket
from grapevine_tui import garbage_collection
from grapevine_tui.config.edit import LiveSettings, SettingsEditor
from grapevine_tui.config.settings import Settings
from grapevine_tui.config.sources import SettingValue
from grapevine_tui.history.database import HistoryUnavailable
from grapevine_tui.history.describe import format_age
from grapevine_tui.history.history import OFF_TEXT, History, HistorySettings
from grapevine_tui.history.writer import Limits
from grapevine_tui.host import snapshot
from grapevine_tui.host.access_state import AccessState
from grapevine_tui.host.alerts import AlertBook, AlertChange
from grapevine_tui.host.ask_members import AskMembers
from grapevine_tui.host.model import Changes, Model
from grapevine_tui.host.report_format import ReportFormat
from grapevine_tui.host.state_sampler import FIRST_SAMPLE_S, SAMPLE_INTERVAL_S, StateSampler
from grapevine_tui.host.views import NetworkView
from grapevine_tui.logs import set_level
from grapevine_tui.text import printable

if TYPE_CHECKING:
    from grapevine_tui.history.samples import PastValues
    from grapevine_tui.host.protocol import Playback

MIN_PREFIX_DIGITS: Final = 4  # hex digits of an ID prefix that is accepted as a reference
MAX_IDS_IN_ERROR: Final = 4  # members of one name that an error lists
MAX_QUERY_TIMEOUT_S: Final = 25  # a client of the control socket waits 30 s for a reply
MAX_LISTED_KEYS: Final = 1_000  # in one reply,
MAX_LISTED_BYTES: Final = 2**20  # of values
MAX_REPORTED_EVENTS: Final = 1_000  # the latest of a report
MAX_REPORTED_SAMPLES: Final = 600  # in its graphs; unpacking one takes about a millisecond
MAX_PEER_COUNTS: Final = 256  # broadcasts whose peer count is kept until it is read
PEER_COUNT_TIMEOUT_S: Final = (
    2.0  # if all peers are slow, the node reports the count within a second
)
DIGEST_DELAY_S: Final = 2.5  # digests omit messages newer than 2 s, which broadcast still delivers

MAX_HISTORY_CLOSE_S: Final = 2.0  # to write what is queued at the end

alert_logger = logging.getLogger("grapevine.alerts")

T = TypeVar("T")
Listener = Callable[[Event, Changes], None]
# of the setting app.discover
DISCOVERY_SOURCES: Final[Mapping[str, Callable[[], Discovery]]] = {
    "local": LocalDiscovery,
    "mdns": MdnsDiscovery,
}


class Host:
    """One node and its model.

    What happens is kept in the state directory, or in `history_dir`, as `settings` say; without settings
    nothing is. `open_socket` is that of `Node`.
    `spare_state_dirs` are tried in turn while a state directory is in use. Commands raise what `Node` raises,
    NotRunning before `start` and after `leave`.
    """

    def __init__(
        self,
        config: NodeConfig,
        state_dir: Path | None,
        *,
        settings: Settings | None = None,
        model: Model | None = None,
        spare_state_dirs: Iterable[Path] = (),
        history_dir: Path | None = None,
        open_socket: Callable[[str], Awaitable[DatagramSocket]] = UdpSocket.open,
    ) -> None:
        self.model = Model() if model is None else model
        self.state_dir = state_dir
        self.started = asyncio.Event()
        self.started_at = 0.0  # on the node's clock
        self.hook_outcomes: Counter[str] = Counter()
        """Outcomes of ``--on`` programs and their counts."""
        self.pending_restart: tuple[str, ...] = ()
        """Names of changed settings that need a restart."""
        self.on_app_settings_changed: Callable[[Settings], object] = lambda _: None
        """Called with settings that were reloaded or saved."""
        self.alert_book = AlertBook(self._compile_filter)
        """The alerts, which `service.alerts` evaluates."""
        self.history: History | None = None
        """What is kept of the past, once the node has started; None: nothing."""
        self._history_dir = history_dir
        self._sampling: asyncio.Task[None] | None = None
        self._open_socket = open_socket
        self._history_settings = None if settings is None else history_settings(settings)
        self._discover = () if settings is None else settings.discover
        self._live_settings = None if settings is None else LiveSettings(settings)
        self._config = self._desired_config = config
        self._spare_state_dirs = list(spare_state_dirs)
        self._listeners: list[Listener] = []
        self._alert_listeners: list[Callable[[AlertChange], object]] = []
        self._denied_overrides: dict[PeerId, bool] = {}
        self._ban_timers: dict[PeerId, asyncio.TimerHandle] = {}  # one per ban that ends
        self._peer_counts: OrderedDict[MessageId, int] = OrderedDict()
        self._peer_count_waiters: dict[MessageId, asyncio.Future[int]] = {}
        self._last_unpushed_at = 0.0
        self._changes = Changes.NONE  # of the model, between two refreshes
        self.model.denied = frozenset(config.denied)
        self.node = self._new_node()
        if settings is not None:
            self.apply_app_settings(settings)

    @property
    def is_readonly(self) -> bool:
        return False

    @property
    def playback(self) -> Playback | None:
        """This is no recording."""
        return None

    @property
    def config(self) -> NodeConfig:
        """The configuration in effect, without changes that need a restart."""
        return self._config

    async def edit(self) -> SettingsEditor:
        """Open the settings for editing, as the config file has them now. Raises ConfigError."""
        if self._live_settings is None:
            raise ConfigError("", "this node has no settings to edit")
        return self._live_settings.edit(self.reconfigure)

    async def reload(self) -> tuple[str, ...]:
        """Read settings and keys again and apply them; return the names that need a restart.
        Raises GrapevineError or OSError if something is invalid; then nothing changed."""
        if self._live_settings is None:
            raise ConfigError("", "this node has no settings to reload")
        settings, self.pending_restart = self._live_settings.reload(self.reconfigure)
        self.apply_app_settings(settings)
        set_level(settings.log_level)
        return self.pending_restart

    def apply_app_settings(self, settings: Settings) -> None:
        """Apply what this host takes from `settings` beside the configuration of the node."""
        self.alert_book.set_rules(settings.alert_rules, self.node.now())
        self.on_app_settings_changed(settings)

    def on_settings_saved(self, settings: Settings) -> None:
        """Note that an editor of `edit` has saved `settings`."""
        self.apply_app_settings(settings)
        if self._live_settings is not None:
            self.pending_restart = self._live_settings.on_saved(settings)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every event and what it changed in the model, until the function returned is
        called. It must return quickly.
        """
        self._listeners.append(listener)
        return partial(self._listeners.remove, listener)

    def listen_to_alerts(self, listener: Callable[[AlertChange], object]) -> None:
        """Call `listener` with every alert that begins to fire or is over, also if it is muted."""
        self._alert_listeners.append(listener)

    def report_alert(self, change: AlertChange) -> None:
        """Report a change of an alert: in the model, the history and the log, and to the listeners."""
        if change.peer_id is not None:
            change = change._replace(peer_name=self.name_of(change.peer_id))
        self._changes |= self.model.on_alert(change)
        level = "warning" if change.is_firing else "info"
        text = f"{change.text} (muted)" if change.is_muted else change.text
        self._note("alert", text, change.peer_id, level=level)
        alert_logger.log(logging.WARNING if change.is_firing else logging.INFO, "%s", text)
        for listener in self._alert_listeners:
            listener(change)

    async def alerts(self) -> dict[str, Any]:
        """How every alert stands, as JSON fields."""
        return snapshot.alerts(self)

    async def mute(self, name: str, for_s: int | None = None) -> None:
        """Mute an alert for `for_s` seconds, or until `unmute` or the restart. Raises GrapevineError."""
        self.alert_book.mute(name, for_s, self.node.now())
        how_long = "" if for_s is None else f" for {format_age(for_s)}"
        self._note("muted", f"alert {name} was muted here{how_long}")

    async def unmute(self, name: str) -> None:
        """Unmute an alert. Raises GrapevineError."""
        self.alert_book.unmute(name)
        self._note("muted", f"alert {name} was unmuted here")

    async def start(self) -> None:
        """Start the node. Raises ConfigError, BindError, StateLockedError."""
        while True:
            try:
                await self.node.start()
            except StateLockedError:
                if not self._spare_state_dirs:
                    raise
                self.state_dir = self._spare_state_dirs.pop(0)
                self.node = self._new_node()
            else:
                garbage_collection.resume()
                self.started.set()
                self.refresh()
                return

    async def leave(self, timeout_s: float) -> int:
        """Leave the cluster within `timeout_s`; return the number of unacknowledged broadcasts."""
        try:
            return await self.node.leave(timeout_s)
        finally:
            for timer in self._ban_timers.values():
                timer.cancel()
            self._ban_timers.clear()
            if self._sampling is not None:
                self._sampling.cancel()
            if self.history is not None:
                await self.history.close(min(MAX_HISTORY_CLOSE_S, timeout_s))

    async def broadcast(self, payload: bytes) -> tuple[MessageId, int]:
        """Broadcast `payload`; return its ID and the number of peers it is sent to at once."""
        return await self._await_peer_count(await self.node.broadcast(payload))

    async def publish(
        self,
        topic: str,
        payload: bytes,
        expires_s: int | None = None,
        retain: str | None = None,
    ) -> tuple[MessageId, int]:
        """Publish `payload` under `topic`; return as `broadcast` does."""
        message_id = await self.node.publish(topic, payload, expires_s=expires_s, retain=retain)
        return await self._await_peer_count(message_id)

    async def query(self, ask: AskMembers) -> dict[str, Any]:
        """Ask members and wait for the end of the query; return it and its answers as JSON fields."""
        if ask.timeout_s is not None and not 1 <= ask.timeout_s <= MAX_QUERY_TIMEOUT_S:
            raise InvalidArgument(
                f"timeout: expected 1 to {MAX_QUERY_TIMEOUT_S} seconds, got {ask.timeout_s}"
            )
        query = await self.node.query(
            ask.name,
            ask.payload,
            filter=MemberFilter(zone=ask.zone, tags=ask.tags or {}, nearest=ask.nearest),
            timeout=ask.timeout_s,
            limit=ask.limit,
            sample=ask.sample,
        )
        answers = [answer.to_dict() async for answer in query]
        return query.report().to_dict() | {"answers": answers}

    async def network(self, view: NetworkView) -> dict[str, Any]:
        """Return a view of the whole network as the fields of its JSON reply."""
        from grapevine_tui.host.network_views import network_view

        return await network_view(self.node, self._resolve_any, view)

    def _resolve_any(self, peer_ref: str) -> PeerId:
        """As `resolve`; this node may be named too."""
        found = self._matches(peer_ref.strip())
        return self.node.peer_id if found == {self.node.peer_id} else self.resolve(peer_ref)

    async def state(self, access: AccessState) -> dict[str, Any]:
        """Read or change the keyed state; return the fields of the JSON reply."""
        state, key = self.node.state, access.key
        match access.action:
            case "set":
                await state.set(key, access.payload, ttl=access.ttl_s, durable=access.durable)
                return {"key": key}
            case "del":
                return {"key": key, "deleted": await state.delete(key)}
            case "get":
                found = [each for each in state.keys(key) if each.key == key]
                return (found[0] if found else KeyInfo(key, None)).to_dict()
            case _:
                return list_keys(state.keys(key), key, access.after)

    async def tags(self, action: str, words: Sequence[str] = ()) -> dict[str, Any]:
        """Show or change the tags of this node; return the fields of the JSON reply."""
        tags = self.node.tags
        if action == "set":
            tags |= dict(each.split("=", 1) for each in words)
        elif action == "unset":
            if missing := [each for each in words if each not in tags]:
                raise InvalidArgument(f"this node has no tag {printable(missing[0])!r}")
            tags = {name: value for name, value in tags.items() if name not in words}
        if action != "list":
            await self.node.set_tags(tags)
        return {"tags": dict(sorted(tags.items()))}

    async def trace(self, payload: bytes) -> tuple[MessageId, int]:
        """Broadcast `payload` and trace it: members that receive it confirm, reported by
        TraceUpdated.
        """
        return await self._await_peer_count(await self.node.trace(payload))

    async def _await_peer_count(self, message_id: MessageId) -> tuple[MessageId, int]:
        if message_id not in self._peer_counts:
            waiter = self._peer_count_waiters[message_id] = (
                asyncio.get_running_loop().create_future()
            )
            try:
                with suppress(TimeoutError):
                    await asyncio.wait_for(waiter, PEER_COUNT_TIMEOUT_S)
            finally:
                del self._peer_count_waiters[message_id]
        return message_id, self._peer_counts.pop(message_id, 0)

    @property
    def unacknowledged(self) -> int:
        """Number of our broadcasts that no peer has acknowledged."""
        return self.node.unacknowledged

    def sync_unacknowledged(self) -> None:
        """Start an anti-entropy round if it could deliver unacknowledged broadcasts."""
        if self.unacknowledged and self.node.now() >= self._last_unpushed_at + DIGEST_DELAY_S:
            self.node.start_round()

    def failure(self) -> GrapevineError | None:
        """Why the node stopped by itself; None if it runs or was asked to leave."""
        try:
            self.node.start_round()  # the cheapest of the commands, all of which raise it
        except NotRunning:
            return None
        except GrapevineError as error:
            return error
        return None

    async def send(self, peer_ref: str, payload: bytes) -> MessageId:
        """Send `payload` to one peer: a name, an ID or its prefix, or an address."""
        return await self.node.send(self.resolve(peer_ref), payload)

    async def dial(self, address: str) -> None:
        """Dial ``host:port``; the outcome is reported by events. Raises ConfigError, UnknownPeer."""
        await self.node.dial(address)

    def reconfigure(self, config: NodeConfig) -> tuple[str, ...]:
        """Apply `config` as far as a running node can; return the fields that need a restart. Peers
        denied or allowed at run time stay so.
        """
        denied = set(config.denied) | {
            each for each, is_denied in self._denied_overrides.items() if is_denied
        }
        denied -= {each for each, is_denied in self._denied_overrides.items() if not is_denied}
        config = config.replace(denied=sorted(denied))
        before = self._config.settings()
        restart = self.node.reconfigure(config)
        self._desired_config, self._config = config, self.node.config
        self.model.denied = frozenset(self._config.denied)
        self._note_changes(before, self._config.settings())
        return restart

    def _note_changes(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        for name, value in after.items():
            if value != before[name] and name != "denied":
                self._note("settings", f"{name}: {before[name]!r} became {value!r}")

    def _note(
        self, kind: str, text: str, peer_id: PeerId | None = None, *, level: str = "info"
    ) -> None:
        if self.history is not None:
            self.history.note(kind, text, peer_id, level=level)

    async def deny(self, peer_ref: str, for_s: int | None = None) -> PeerId:
        """Ban a peer for `for_s` seconds, or until the node restarts. A full ID need not be known. Raises
        UnknownPeer."""
        peer_id = _parse_peer_id(peer_ref) or self.resolve(peer_ref)
        if peer_id == self.node.peer_id:
            raise UnknownPeer("a node cannot deny itself")
        self._set_denied(peer_id, is_denied=True, for_s=for_s)
        if for_s is not None:
            loop = asyncio.get_running_loop()
            self._ban_timers[peer_id] = loop.call_later(for_s, self._lift_ban, peer_id)
        return peer_id

    def _lift_ban(self, peer_id: PeerId) -> None:
        with suppress(GrapevineError):  # the node has stopped
            self._set_denied(peer_id, is_denied=False)

    async def forget(self, peer_id: PeerId) -> None:
        """Remove a member that is down from the tables. Raises UnknownPeer if it is not down."""
        name = self.name_of(peer_id) or peer_id.short
        self.node.forget(peer_id)
        self._note("forgotten", f"{name} was forgotten here", peer_id)

    async def start_round(self) -> None:
        """Start an anti-entropy round now."""
        self.node.start_round()

    async def allow(self, peer_ref: str) -> PeerId:
        """Lift the ban on a peer. Raises UnknownPeer if no banned peer matches."""
        peer_ref, prefix = peer_ref.strip(), _parse_prefix(peer_ref.strip())
        denied = self._config.denied
        found = [each for each in denied if prefix and str(each).startswith(prefix)]
        found = found or [each for each in self._matches(peer_ref) if each in denied]
        if len(found) != 1:
            count_text = "several denied peers match" if found else "no denied peer matches"
            raise UnknownPeer(f"{count_text} {printable(peer_ref)!r}")
        return self._set_denied(found[0], is_denied=False)

    def _set_denied(self, peer_id: PeerId, *, is_denied: bool, for_s: int | None = None) -> PeerId:
        if (timer := self._ban_timers.pop(peer_id, None)) is not None:
            timer.cancel()
        before = self._denied_overrides.get(peer_id)
        self._denied_overrides[peer_id] = is_denied
        try:
            self.reconfigure(self._desired_config)
        except GrapevineError:
            del self._denied_overrides[peer_id]
            if before is not None:
                self._denied_overrides[peer_id] = before
            raise
        kind = "denied" if is_denied else "allowed"
        how_long = "" if for_s is None else f" for {format_age(for_s)}"
        name = self.name_of(peer_id) or peer_id.short
        self._note(kind, f"{name} was {kind} here{how_long}", peer_id)
        return peer_id

    def refresh(self) -> Changes:
        """Update the model's tables."""
        node = self.node
        self.model.tags = node.tags
        self.model.observed, self.model.mapped = node.observed, node.mapped
        self.model.own_name = self._config.name
        self.model.alerts = self.alert_book.statuses(node.now())
        changes, self._changes = self._changes, Changes.NONE
        return changes | self.model.refresh(node.peers(), node.members(), node.stats(), node.now())

    def resolve(self, peer_ref: str) -> PeerId:
        """Resolve a name, an ID or at least four digits of its prefix, or an address to a peer.

        Raises UnknownPeer, with a message for users, if none or several match or it is this node.
        """
        peer_ref = peer_ref.strip()
        found = self._matches(peer_ref) - {self.node.peer_id}
        if len(found) == 1:
            return found.pop()
        if found:
            ids = sorted(str(peer_id) for peer_id in found)
            listed = ", ".join(ids[:MAX_IDS_IN_ERROR]) + (
                ", ..." if len(ids) > MAX_IDS_IN_ERROR else ""
            )
            raise UnknownPeer(f"{printable(peer_ref)!r} is ambiguous: {listed}; use a longer ID")
        if peer_ref and self._matches(peer_ref):
            raise UnknownPeer(f"{printable(peer_ref)!r} is this node")
        raise UnknownPeer(
            f"no peer or member named {printable(peer_ref)!r}{self._did_you_mean(peer_ref)}"
        )

    def name_of(self, peer_id: PeerId) -> str:
        """Name of a node, unescaped; empty if unknown."""
        if peer_id == self.node.peer_id:
            return self._config.name
        known = self.model.peers.get(peer_id) or self.model.members.get(peer_id)
        return known.name if known is not None else ""

    def _new_node(self) -> Node:
        node = Node(
            self._config,
            state_dir=self.state_dir,
            discovery=[DISCOVERY_SOURCES[each]() for each in self._discover],
            open_socket=self._open_socket,
        )
        node.on_event(self._on_event)
        return node

    def _on_event(self, event: Event) -> None:
        match event:
            case NodeStarted():
                self.started_at = self.node.now()
                self._open_history()
            case MessageSent():
                self._record_peer_count(event)
            case _:
                pass
        changes = self.model.apply(event)
        if self.history is not None:
            self.history.on_event(event)
        for listener in self._listeners:
            listener(event, changes)

    # --- history ----------------------------------------------------------------------------------

    def _open_history(self) -> None:
        """Keep a history from now on: only now it is known which state directory this node uses."""
        settings = self._history_settings
        directory = self._history_dir or self.state_dir
        if self.history is None and directory and settings and settings.keep != "off":
            self.history = History(
                directory,
                settings,
                name_of=self.name_of,
                zone_of=self._zone_of,
                on_problem=self.model.on_history_problem,
                own_id=self.node.peer_id,
                wall_clock=self.model.wall_now,
            )
            self._sampling = asyncio.create_task(self._take_samples(), name="history samples")

    async def _take_samples(self) -> None:
        """Keep what the screens show, every `SAMPLE_INTERVAL_S`."""
        sampler, delay_s = StateSampler(self), FIRST_SAMPLE_S
        while self.history is not None:
            await asyncio.sleep(delay_s)
            delay_s = SAMPLE_INTERVAL_S
            with suppress(GrapevineError):  # the node has stopped
                self.refresh()
                body, is_full = sampler.take()
                self.history.sample(body, is_full=is_full)

    def _zone_of(self, peer_id: PeerId) -> str:
        if peer_id == self.node.peer_id:
            return self._config.zone
        known = self.model.peers.get(peer_id) or self.model.members.get(peer_id)
        return known.zone if known is not None else ""

    @property
    def _known_history(self) -> History:
        if self.history is None:
            raise HistoryUnavailable(OFF_TEXT)
        return self.history

    async def search_history(self, words: str = "", **place: Any) -> dict[str, Any]:
        """A page of the messages kept; the arguments are those of `history.pages.read_page`. Raises
        GrapevineError."""
        return await with_time_errors(self._known_history.search(words, **place))

    async def search_events(self, words: str = "", **place: Any) -> dict[str, Any]:
        """A page of the events kept. Raises GrapevineError."""
        return await with_time_errors(self._known_history.events(words, **place))

    async def snapshot(self) -> dict[str, Any]:
        """Status, tables, counters, traffic and changed settings as JSON fields."""
        return snapshot.whole_snapshot(self)

    @property
    def settings(self) -> Settings | None:
        """The settings in effect; None if this host was started without any."""
        return None if self._live_settings is None else self._live_settings.current

    @property
    def settings_values(self) -> tuple[SettingValue, ...]:
        """The settings in the config file and on the command line, with their origins."""
        return () if self._live_settings is None else self._live_settings.values

    async def report(self, since: str, output: ReportFormat) -> str:
        """A report with the events and graphs since that time; if nothing is kept, with the graphs of the
        screens. Raises GrapevineError."""
        from grapevine_tui.host.report import render_report

        rows: list[dict[str, Any]] = []
        past: list[PastValues] = []
        if self.history is not None:
            rows = (await self.search_events(since=since, limit=MAX_REPORTED_EVENTS))["events"]
            past = await with_time_errors(self.history.past_values(since, MAX_REPORTED_SAMPLES))
        return render_report(await self.snapshot(), rows, output, past)

    async def export_history(self, file: str, words: str = "") -> dict[str, Any]:
        """Write what is kept to a new file, as JSON Lines. Raises GrapevineError, OSError."""
        exported = self._known_history.export_to(Path(file), words)
        return (await with_time_errors(exported))._asdict() | {"file": file}

    async def import_history(self, file: str) -> dict[str, Any]:
        """Add the rows of such a file. Raises GrapevineError, OSError."""
        imported = await with_time_errors(self._known_history.import_from(Path(file)))
        return dict(imported._asdict())

    async def prune_history(self, before: str = "") -> dict[str, Any]:
        """Delete what is older than `before`, and what is beyond the limits. Raises GrapevineError."""
        return {"deleted": await with_time_errors(self._known_history.prune(before))}

    def _compile_filter(self, text: str) -> Callable[[Message], bool]:
        from grapevine_tui.host.query import compile_filter, parse_query

        return compile_filter(parse_query(text), self.model)

    def _record_peer_count(self, event: MessageSent) -> None:
        if event.peers == 0:
            self._last_unpushed_at = event.message.received_at
        self._peer_counts[event.message.id] = event.peers
        while len(self._peer_counts) > MAX_PEER_COUNTS:
            self._peer_counts.popitem(last=False)
        waiter = self._peer_count_waiters.get(event.message.id)
        if waiter is not None and not waiter.done():
            waiter.set_result(event.peers)

    def _matches(self, peer_ref: str) -> set[PeerId]:
        # A member that left gives up its name; one that is down keeps it, because it may return and
        # must not be impersonated meanwhile.
        named = [(self.node.peer_id, self._config.name)] + [
            (member.peer_id, "" if member.status is MemberStatus.LEFT else member.name)
            for member in self.node.members()
        ]
        prefix, address = _parse_prefix(peer_ref), _parse_address(peer_ref)
        found = {
            peer_id
            for peer_id, name in named
            if (name and name == peer_ref) or (prefix and str(peer_id).startswith(prefix))
        }
        # The address at which a session proved the member to be, not the one its record claims.
        connected = None if address is None else self.node.peer_at(address)
        found |= set() if connected is None else {connected}
        return found | ({self.node.peer_id} if self.node.address == address else set())

    def _did_you_mean(self, peer_ref: str) -> str:
        names = {peer.name for peer in self.node.peers()}
        names |= {member.name for member in self.node.members()}
        close = difflib.get_close_matches(peer_ref[:64], sorted(names - {""})[:1000], n=1)
        return f"; did you mean {printable(close[0])}?" if close else ""


def history_settings(settings: Settings) -> HistorySettings:
    """What `settings` say about the history."""
    limits = Limits(settings.history_bytes, settings.history_days)
    return HistorySettings(settings.history, limits, settings.history_direct)


async def with_time_errors(work: Awaitable[T]) -> T:
    """The result of `work`, whose ValueError becomes one for users."""
    try:
        return await work
    except ValueError as error:
        raise InvalidArgument(str(error)) from None


def _parse_prefix(text: str) -> str:
    """Return `peer_ref` as an ID prefix in hex; empty if it is not one."""
    digits = text.lower()
    is_hex = len(digits) >= MIN_PREFIX_DIGITS and all(
        digit in "0123456789abcdef" for digit in digits
    )
    return digits if is_hex and len(digits) <= 2 * PEER_ID_BYTES else ""


def _parse_peer_id(text: str) -> PeerId | None:
    with suppress(ValueError):
        return PeerId.parse(text.strip().lower())
    return None


def _parse_address(text: str) -> Address | None:
    with suppress(ValueError):
        return Address.parse(text)
    return None


def list_keys(keys: Sequence[KeyInfo], prefix: str, after: str) -> dict[str, Any]:
    """One page of `keys`, which are sorted and begin with `prefix`: those that follow `after`. ``more`` says
    that others follow."""
    shown: list[dict[str, Any]] = []
    size = 0
    for each in keys:
        if each.key <= after or (not prefix and is_owners_alone(each.key)):
            continue
        entries = (each.winner, *each.others)
        size += sum(len(entry.value or b"") for entry in entries if entry is not None)
        if shown and (len(shown) >= MAX_LISTED_KEYS or size > MAX_LISTED_BYTES):
            return {"keys": shown, "more": True}
        shown.append(each.to_dict())
    return {"keys": shown, "more": False}
