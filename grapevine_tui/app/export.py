"""What the app hands to its user beside the screen: the clipboard, files, words about both.

What must stay true: nothing is handed over unasked, and each time it is told what went where. What goes
to the clipboard is printable; what a message really holds goes to a file (`export`), as JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from textual.app import App
from textual.notifications import SeverityLevel

from grapevine_proto.ids import PeerId
from grapevine_proto.runtime.daemon_threads import DaemonThreads
from grapevine_tui.app.export_files import write_messages, write_screenshot
from grapevine_tui.host.message_buffer import LogEntry
from grapevine_tui.host.model import Model
from grapevine_tui.text import printable, truncate

COPY_PREVIEW_CELLS: Final = 40  # of what was copied
MAX_CLIPBOARD_BYTES: Final = 100_000  # terminals refuse more in one go, or hang over it


def payload_text(payload: bytes) -> str:
    """A payload as one would paste it: its text, or its bytes in hex."""
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return payload.hex()


class Exporter:
    """Hands things out of `app`. `state_dir`: where to write if the working directory refuses."""

    def __init__(self, app: App[None], model: Model, state_dir: Path | None) -> None:
        self._app = app
        self._model = model
        self._state_dir = state_dir
        self._file_threads = DaemonThreads("export", 1)
        self._last_export: tuple[tuple[int, int, int, str], Path] | None = None

    def _directories(self) -> list[Path]:
        return [Path.cwd(), *([self._state_dir] if self._state_dir else [])]

    def _report(self, text: str, *, is_error: bool = False) -> None:
        severity: SeverityLevel = "error" if is_error else "information"
        if not is_error:
            self._model.log_command(text)
        self._app.notify(printable(text), severity=severity, markup=False)

    def copy(self, text: str) -> None:
        """Put `text` on the clipboard as it is shown, by the terminal (OSC 52): an escape in it could
        end a bracketed paste, and what follows a line's end would be run by the shell it is pasted into."""
        if len(text.encode(errors="replace")) > MAX_CLIPBOARD_BYTES:
            self._report(
                f"too large to copy: {len(text):,} characters; e exports it",
                is_error=True,
            )
            return
        shown = printable(text)
        self._app.copy_to_clipboard(shown)
        self._report(f"copied {truncate(shown, COPY_PREVIEW_CELLS)}")

    async def export(self, entries: Sequence[LogEntry], filter_text: str = "") -> None:
        """Write messages to a file; not the same ones twice. `filter_text`: the filter they passed."""
        if not entries:
            self._report("nothing to export", is_error=True)
            return
        fingerprint = (len(entries), entries[0].number, entries[-1].number, filter_text)
        if (
            self._last_export is not None
            and self._last_export[0] == fingerprint
            and self._last_export[1].exists()
        ):
            self._report(f"nothing new since the export to {self._last_export[1]}", is_error=True)
            return
        names = {entry.message.origin: self._name_of(entry.message.origin) for entry in entries}
        try:
            path, count = await self._file_threads.run(
                write_messages, entries, names.__getitem__, self._directories()
            )
        except OSError as error:
            self._report(f"cannot write: {error.strerror or error}", is_error=True)
        else:
            self._last_export = fingerprint, path
            self._report(f"{count:,} message{'s' * (count != 1)} exported to {path}")

    def _name_of(self, peer_id: PeerId) -> str:
        node = self._model.peers.get(peer_id) or self._model.members.get(peer_id)
        return node.name if node is not None else ""

    def save_screenshot(self) -> None:
        """Save the screen as it is."""
        try:
            path = write_screenshot(
                self._app.export_screenshot(title="grapevine"), self._directories()
            )
        except OSError as error:
            self._report(f"cannot write: {error.strerror or error}", is_error=True)
        else:
            self._report(f"screenshot saved to {path}")
