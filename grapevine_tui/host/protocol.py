"""What the app asks of whoever runs the node for it.

What must stay true: the app reaches the node by these alone, so that the same screen can stand
before a node in its own process, one behind a control socket, or a made-up one in a test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.events import Event
from grapevine_proto.ids import MessageId, PeerId
from grapevine_tui.config.edit import SettingsEditor
from grapevine_tui.config.settings import Settings
from grapevine_tui.host.model import Changes, Model


class NodeView(Protocol):
    """The node itself, as far as the screen needs it."""

    def now(self) -> float: ...

    @property
    def lag_s(self) -> float: ...


class HostView(Protocol):
    """Runs one node and keeps its model. All but `start` need it to be running.

    `pending_restart`: names of settings that were changed and wait for a restart.
    """

    pending_restart: tuple[str, ...]

    @property
    def node(self) -> NodeView: ...

    @property
    def model(self) -> Model: ...

    def listen(self, listener: Callable[[Event, Changes], None]) -> None: ...

    async def start(self) -> None: ...

    async def leave(self, timeout_s: float) -> int: ...

    async def broadcast(self, payload: bytes) -> tuple[MessageId, int]: ...

    async def trace(self, payload: bytes) -> tuple[MessageId, int]: ...

    async def send(self, peer_ref: str, payload: bytes) -> MessageId: ...

    async def dial(self, address: str) -> None: ...

    async def start_round(self) -> None: ...

    async def deny(self, peer_ref: str) -> PeerId: ...

    async def allow(self, peer_ref: str) -> PeerId: ...

    async def forget(self, peer_id: PeerId) -> None: ...

    def reconfigure(self, config: NodeConfig) -> tuple[str, ...]: ...

    async def edit(self) -> SettingsEditor:
        """Open the settings of the node for editing. Raises GrapevineError."""
        ...

    def on_settings_saved(self, settings: Settings) -> None:
        """Note that an editor of `edit` has saved `settings`."""
        ...

    def refresh(self) -> Changes: ...


class SettingsView(Protocol):
    """The settings that the screen shows or obeys."""

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
        """Where what is chosen on the screen is kept; None: nowhere."""
        ...

    @property
    def keys(self) -> Mapping[str, str]:
        """Keys that the config file changes: action -> keys."""
        ...


class DemoView(Protocol):
    """Neighbours in this process that talk, so that every panel is alive."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...
