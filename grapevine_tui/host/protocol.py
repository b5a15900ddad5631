"""Protocols between the app and whatever runs the node.

Invariants: the app reaches the node only through these, so the same screens work with a node in
this process, one behind a control socket, and a fake in tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.events import Event
from grapevine_proto.ids import MessageId, PeerId
from grapevine_tui.config.edit import SaveResult, SettingsEditor
from grapevine_tui.config.own_commands import OwnCommand
from grapevine_tui.config.settings import Settings
from grapevine_tui.host.access_state import AccessState
from grapevine_tui.host.ask_members import AskMembers
from grapevine_tui.host.model import Changes, Model
from grapevine_tui.host.report_format import ReportFormat
from grapevine_tui.host.views import NetworkView


class NodeView(Protocol):
    """The parts of the node that the screens need."""

    def now(self) -> float: ...

    @property
    def lag_s(self) -> float: ...


class Playback(Protocol):
    """A recording that is played back."""

    def toggle(self) -> None:
        """Pause or resume; at the end, begin again."""
        ...

    def step(self, seconds: float) -> None:
        """Go so far forth, or back."""
        ...

    def go_to_time(self, text: str) -> None:
        """Go to a time as people write it, or by ``+10`` or ``-60`` seconds. Raises GrapevineError."""
        ...


class HostView(Protocol):
    """Runs one node and keeps its model. Everything but `start` needs it to be running.

    `pending_restart`: names of changed settings that need a restart.
    """

    pending_restart: tuple[str, ...]

    @property
    def node(self) -> NodeView: ...

    @property
    def model(self) -> Model: ...

    @property
    def is_readonly(self) -> bool:
        """Whether it refuses everything that would change the node."""
        ...

    @property
    def playback(self) -> Playback | None:
        """The recording that this host plays back; None: a node."""
        ...

    def listen(self, listener: Callable[[Event, Changes], None]) -> Callable[[], None]:
        """Call `listener` with every event, until the function returned is called."""
        ...

    async def start(self) -> None: ...

    async def leave(self, timeout_s: float) -> int: ...

    async def broadcast(self, payload: bytes) -> tuple[MessageId, int]: ...

    async def publish(
        self,
        topic: str,
        payload: bytes,
        expires_s: int | None = None,
        retain: str | None = None,
    ) -> tuple[MessageId, int]: ...

    async def query(self, ask: AskMembers) -> dict[str, Any]:
        """Ask members and wait for the end of the query. Return the fields of the JSON event
        ``query_done``, and ``answers`` with those of ``answer``. Raises GrapevineError."""
        ...

    async def network(self, view: NetworkView) -> dict[str, Any]:
        """Return a view of the whole network as the fields of its JSON reply. Raises GrapevineError."""
        ...

    async def state(self, access: AccessState) -> dict[str, Any]:
        """Read or change the keyed state; return the fields of the JSON reply. Raises GrapevineError."""
        ...

    async def tags(self, action: str, words: Sequence[str] = ()) -> dict[str, Any]:
        """Show or change the tags of the node, as `ChangeTags` says; return the fields of the JSON reply,
        ``tags``. Raises GrapevineError."""
        ...

    async def trace(self, payload: bytes) -> tuple[MessageId, int]: ...

    async def send(self, peer_ref: str, payload: bytes) -> MessageId: ...

    async def dial(self, address: str) -> None: ...

    async def start_round(self) -> None: ...

    async def deny(self, peer_ref: str, for_s: int | None = None) -> PeerId: ...

    async def allow(self, peer_ref: str) -> PeerId: ...

    async def forget(self, peer_id: PeerId) -> None: ...

    async def alerts(self) -> dict[str, Any]:
        """How every alert stands, as JSON fields. Raises GrapevineError."""
        ...

    async def mute(self, name: str, for_s: int | None = None) -> None:
        """Mute an alert, for `for_s` seconds or until `unmute`. Raises GrapevineError."""
        ...

    async def unmute(self, name: str) -> None:
        """Unmute an alert. Raises GrapevineError."""
        ...

    async def search_history(self, words: str = "", **place: Any) -> dict[str, Any]:
        """A page of the messages kept, as JSON fields; the arguments are those of `history.pages.read_page`.
        Raises GrapevineError."""
        ...

    async def search_events(self, words: str = "", **place: Any) -> dict[str, Any]:
        """A page of the events kept. Raises GrapevineError."""
        ...

    async def export_history(self, file: str, words: str = "") -> dict[str, Any]:
        """Write what is kept and matches to a new file. Raises GrapevineError, OSError."""
        ...

    async def import_history(self, file: str) -> dict[str, Any]:
        """Add the rows of an exported file. Raises GrapevineError, OSError."""
        ...

    async def prune_history(self, before: str = "") -> dict[str, Any]:
        """Delete what is older than `before` and beyond the limits. Raises GrapevineError."""
        ...

    async def snapshot(self) -> dict[str, Any]:
        """Status, tables, counters, traffic and changed settings as JSON fields. Raises GrapevineError."""
        ...

    async def report(self, since: str, output: ReportFormat) -> str:
        """A report with the events since that time. Raises GrapevineError."""
        ...

    def reconfigure(self, config: NodeConfig) -> tuple[str, ...]: ...

    async def edit(self) -> SettingsEditor:
        """Open the settings of the node for editing. Raises GrapevineError."""
        ...

    async def reload(self) -> tuple[str, ...]:
        """Read settings and keys again; return the names that need a restart. Raises
        GrapevineError, OSError."""
        ...

    def on_settings_saved(self, settings: Settings) -> None:
        """Note that an editor of `edit` has saved `settings`."""
        ...

    def refresh(self) -> Changes: ...


class SettingsView(Protocol):
    """The settings that the app shows or follows."""

    @property
    def node(self) -> NodeConfig: ...

    @property
    def alert(self) -> str: ...

    @property
    def theme(self) -> str: ...

    @property
    def state_dir(self) -> Path | None: ...

    @property
    def preferences_file(self) -> Path | None:
        """File for the app's preferences; None: they are not stored."""
        ...

    @property
    def keys(self) -> Mapping[str, str]:
        """Keys that the config file changes, by action."""
        ...

    @property
    def filters(self) -> Mapping[str, str]:
        """Saved filters of the log, by name."""
        ...

    @property
    def highlights(self) -> Mapping[str, str]:
        """Filters of what stands out, by name."""
        ...

    @property
    def columns_by_table(self) -> Mapping[str, tuple[str, ...]]:
        """The columns of the tables of peers and members."""
        ...

    @property
    def own_commands(self) -> tuple[OwnCommand, ...]:
        """Programs that the operator runs on a row."""
        ...


class OwnSettingsView(Protocol):
    """What the config file of this user says for an app over a node in another process."""

    def for_node(self, node: NodeConfig) -> SettingsView:
        """The settings of an app over a node with the configuration `node`."""
        ...

    def reload(self) -> None:
        """Read the file again. Raises GrapevineError; nothing changed then."""
        ...

    def save(self, name: str, text: str) -> SaveResult:
        """Set a setting and write it to the file. Raises GrapevineError, OSError."""
        ...


class Caption(NamedTuple):
    """What one sees in the demo: `text` is one sentence, and the key of `action` (a name of the keymap) does
    what `hint` says. `name` tells captions of one kind from others."""

    name: str
    text: str
    action: str
    hint: str


class DemoView(Protocol):
    """A demo cluster in this process."""

    @property
    def caption(self) -> Caption:
        """What one sees now."""
        ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...
