"""A host without a node, for tests of the app: its tables can be set and its calls inspected."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.errors import (
    ConfigError,
    GrapevineError,
    InvalidArgument,
    MessageTooLarge,
    UnknownPeer,
)
from grapevine_proto.events import (
    Event,
    KeyInfo,
    MemberInfo,
    MessageSent,
    NodeStarted,
    NodeStopped,
    PeerInfo,
    Stats,
    Via,
)
from grapevine_proto.ids import Address, MessageId, PeerId
from grapevine_tui.config.columns import DEFAULTS
from grapevine_tui.config.edit import LiveSettings, SettingsEditor
from grapevine_tui.config.own_commands import OwnCommand
from grapevine_tui.config.settings import Settings
from grapevine_tui.history.database import HistoryUnavailable
from grapevine_tui.history.history import OFF_TEXT, History, HistorySettings
from grapevine_tui.history.writer import Limits
from grapevine_tui.host.access_state import AccessState
from grapevine_tui.host.ask_members import AskMembers
from grapevine_tui.host.local import with_time_errors
from grapevine_tui.host.model import Changes, Model
from grapevine_tui.host.protocol import Playback
from grapevine_tui.host.report_format import ReportFormat
from grapevine_tui.host.views import NetworkView
from tests.tui.network_values import a_network
from tests.tui.values import EPOCH, a_message, an_id

ME = 0xA3F91C02


@dataclass
class FakeSettings:
    node: NodeConfig = field(
        default_factory=lambda: NodeConfig(name="ams-1", zone="eu-west", cluster="default")
    )
    theme: str = ""
    alert: str = "off"
    state_dir: Path | None = None
    preferences_file: Path | None = None
    keys: dict[str, str] = field(default_factory=dict)
    own_commands: tuple[OwnCommand, ...] = ()
    filters: dict[str, str] = field(default_factory=dict)
    highlights: dict[str, str] = field(default_factory=dict)
    columns_by_table: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: DEFAULTS)


class FakeNode:
    """A clock that tests set, and a count of the rounds requested."""

    def __init__(self) -> None:
        self.time = 100.0
        self.lag_s = 0.002
        self.rounds_requested = 0

    def now(self) -> float:
        return self.time


class FakeHost:
    """Serves the tables that a test sets, applies the events it passes, and records calls.

    `fails` maps start, broadcast, dial or query to the error that it raises."""

    def __init__(self, **fails: GrapevineError) -> None:
        self.node = FakeNode()
        self.model = Model()
        self.peers: list[PeerInfo] = []
        self.members: list[MemberInfo] = []
        self.stats = Stats(next_round_at=112.0)
        self.fails = SimpleNamespace(start=None, broadcast=None, dial=None, query=None)
        vars(self.fails).update(fails)
        self.broadcasts: list[bytes] = []
        self.traced: list[bytes] = []
        self.queries: list[AskMembers] = []
        self.answering = asyncio.Event()  # cleared: queries wait for their answers
        self.answering.set()
        self.answers: dict[str, Any] = {}
        self.views: list[NetworkView] = []
        self.network_replies: dict[type, dict[str, Any]] = a_network()
        self.keys: list[KeyInfo] = []
        self.state_calls: list[tuple[str, str, bytes, dict[str, Any]]] = []
        self.own_tags: dict[str, str] = {}
        self.published: list[tuple[str, bytes, int | None]] = []
        self.sends: list[tuple[str, bytes]] = []
        self.dials: list[str] = []
        self.denied: list[PeerId] = []
        self.denied_for: list[int | None] = []
        self.configs: list[NodeConfig] = []
        self.pending_restart: tuple[str, ...] = ()
        self.live_settings: LiveSettings | None = None
        self.restart: tuple[str, ...] = ()
        self.history: History | None = None
        self.playback: Playback | None = None
        self.left = 0
        self.unacknowledged = 0
        self.limit_bytes = 1100
        self._listeners: list[Callable[[Event, Changes], None]] = []

    is_readonly = False

    async def snapshot(self) -> dict[str, Any]:
        return {"at": 1_790_000_000.0, "peers": [each.to_dict(now=1.0) for each in self.peers]}

    async def report(self, since: str, output: ReportFormat) -> str:
        return f"report in {output.value} since {since}\n"

    def with_settings(self, settings: object) -> FakeHost:
        """This host, with settings that the app can edit if they are real ones."""
        if isinstance(settings, Settings):
            self.live_settings = LiveSettings(settings)
        return self

    def listen(self, listener: Callable[[Event, Changes], None]) -> Callable[[], None]:
        self._listeners.append(listener)
        return partial(self._listeners.remove, listener)

    def keep_history(self, state_dir: Path) -> History:
        """Keep what happens from now on. Call it in the event loop of the app."""
        self.history = History(
            state_dir,
            HistorySettings("on", Limits(2**30, 36_500.0), keeps_direct=True),
            name_of=lambda peer_id: {each.peer_id: each.name for each in self.peers}.get(
                peer_id, ""
            ),
            zone_of=lambda _: "",
            on_problem=self.model.on_history_problem,
        )
        return self.history

    def happen(self, *events: Event) -> None:
        """Apply events of the node, as the real host does."""
        for event in events:
            changes = self.model.apply(event)
            if self.history is not None:
                self.history.on_event(event)
            for listener in self._listeners:
                listener(event, changes)

    async def start(self) -> None:
        if self.fails.start:
            raise self.fails.start
        self.happen(NodeStarted(an_id(ME), Address("127.0.0.1", 8000), EPOCH))

    async def leave(self, timeout_s: float) -> int:
        self.left += 1
        self.happen(NodeStopped("left"))
        return self.unacknowledged

    async def broadcast(self, payload: bytes) -> tuple[MessageId, int]:
        if self.fails.broadcast:
            raise self.fails.broadcast
        if len(payload) > self.limit_bytes:
            raise MessageTooLarge(len(payload), self.limit_bytes)
        self.broadcasts.append(payload)
        message = a_message(ME, len(self.broadcasts), payload, via=Via.LOCAL, hops=0)
        self.happen(MessageSent(message, len(self.peers)))
        return message.id, len(self.peers)

    async def publish(
        self,
        topic: str,
        payload: bytes,
        expires_s: int | None = None,
        retain: str | None = None,
    ) -> tuple[MessageId, int]:
        self.published.append((topic, payload, expires_s))
        return await self.broadcast(payload)

    async def query(self, ask: AskMembers) -> dict[str, Any]:
        if self.fails.query:
            raise self.fails.query
        self.queries.append(ask)
        await self.answering.wait()
        return self.answers | {"name": ask.name}

    async def network(self, view: NetworkView) -> dict[str, Any]:
        if self.fails.query:
            raise self.fails.query
        self.views.append(view)
        return self.network_replies[type(view)]

    async def state(self, access: AccessState) -> dict[str, Any]:
        action, key = access.action, access.key
        options = {"ttl_s": access.ttl_s, "durable": access.durable}
        given = {name: value for name, value in options.items() if value}
        self.state_calls.append((action, key, access.payload, given))
        match action:
            case "list":
                keys = [each for each in self.keys if each.key.startswith(key)]
                return {"keys": [each.to_dict() for each in keys], "more": False}
            case "get":
                found = next((each for each in self.keys if each.key == key), KeyInfo(key, None))
                return found.to_dict()
            case _:
                return {"key": key, "deleted": any(each.key == key for each in self.keys)}

    async def tags(self, action: str, words: Sequence[str] = ()) -> dict[str, Any]:
        if action == "set":
            self.own_tags |= dict(each.split("=", 1) for each in words)
        elif action == "unset":
            self.own_tags = {k: v for k, v in self.own_tags.items() if k not in words}
        return {"tags": dict(self.own_tags)}

    async def trace(self, payload: bytes) -> tuple[MessageId, int]:
        self.traced.append(payload)
        return await self.broadcast(payload)

    async def send(self, identity: str, payload: bytes) -> MessageId:
        self.resolve(identity)
        self.sends.append((identity, payload))
        return MessageId(an_id(ME), EPOCH, len(self.sends), is_direct=True)

    async def dial(self, where: str) -> None:
        if self.fails.dial:
            raise self.fails.dial
        self.dials.append(where)

    async def start_round(self) -> None:
        self.node.rounds_requested += 1

    async def deny(self, identity: str, for_s: int | None = None) -> PeerId:
        self.denied.append(self.resolve(identity))
        self.denied_for.append(for_s)
        return self.denied[-1]

    async def allow(self, identity: str) -> PeerId:
        self.denied.remove(self.resolve(identity))
        return self.resolve(identity)

    async def forget(self, peer_id: PeerId) -> None:
        if peer_id not in self.model.peers and peer_id not in self.model.members:
            raise UnknownPeer("no peer or member has this ID")
        self.peers = [peer for peer in self.peers if peer.peer_id != peer_id]
        self.members = [member for member in self.members if member.peer_id != peer_id]

    async def alerts(self) -> dict[str, Any]:
        return {"alerts": [each.to_dict() for each in self.model.alerts]}

    async def mute(self, name: str, for_s: int | None = None) -> None:
        self._set_muted(name, is_muted=True)

    async def unmute(self, name: str) -> None:
        self._set_muted(name, is_muted=False)

    def _set_muted(self, name: str, *, is_muted: bool) -> None:
        if name not in {each.name for each in self.model.alerts}:
            raise InvalidArgument(f"no alert is named {name!r}")
        self.model.alerts = [
            each._replace(is_muted=is_muted if each.name == name else each.is_muted)
            for each in self.model.alerts
        ]

    async def search_history(self, words: str = "", **place: Any) -> dict[str, Any]:
        return await with_time_errors(self._history.search(words, **place))

    async def search_events(self, words: str = "", **place: Any) -> dict[str, Any]:
        return await with_time_errors(self._history.events(words, **place))

    async def export_history(self, file: str, words: str = "") -> dict[str, Any]:
        return (await self._history.export_to(Path(file), words))._asdict() | {"file": file}

    async def import_history(self, file: str) -> dict[str, Any]:
        return dict((await self._history.import_from(Path(file)))._asdict())

    async def prune_history(self, before: str = "") -> dict[str, Any]:
        return {"deleted": await self._history.prune(before)}

    @property
    def _history(self) -> History:
        if self.history is None:
            raise HistoryUnavailable(OFF_TEXT)
        return self.history

    def reconfigure(self, config: NodeConfig) -> tuple[str, ...]:
        self.configs.append(config)
        return self.restart

    async def edit(self) -> SettingsEditor:
        if self.live_settings is None:
            raise ConfigError("", "this node has no settings to edit")
        return self.live_settings.edit(self.reconfigure)

    async def reload(self) -> tuple[str, ...]:
        if self.live_settings is None:
            raise ConfigError("", "this node has no settings to reload")
        _, self.pending_restart = self.live_settings.reload(self.reconfigure)
        return self.pending_restart

    def on_settings_saved(self, settings: Settings) -> None:
        if self.live_settings is not None:
            self.pending_restart = self.live_settings.on_saved(settings)

    def resolve(self, identity: str) -> PeerId:
        for peer in self.peers:
            if peer.name == identity:
                return peer.peer_id
        raise UnknownPeer(f"no peer or member named {identity}")

    def refresh(self) -> Changes:
        return self.model.refresh(self.peers, self.members, self.stats, self.node.now())


def clock_time() -> str:
    return time.strftime("%H:%M:%S")
