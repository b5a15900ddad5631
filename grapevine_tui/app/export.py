"""Copying to the clipboard, exporting messages and saving screenshots.

Invariants: nothing is copied or written without a request, and every result is reported. The clipboard
gets printable text; `export` writes the exact payloads to a file, as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from textual.app import App
from textual.notifications import SeverityLevel

from grapevine_proto.ids import PeerId
from grapevine_proto.runtime.daemon_threads import DaemonThreads
from grapevine_tui.app.export_files import write_messages, write_text
from grapevine_tui.host.message_buffer import LogEntry
from grapevine_tui.host.model import Model
from grapevine_tui.host.report_format import ReportFormat
from grapevine_tui.text import printable, truncate

COPY_PREVIEW_CELLS: Final = 40
MAX_CLIPBOARD_BYTES: Final = 100_000  # terminals refuse larger OSC 52 sequences, or hang on them


def payload_text(payload: bytes) -> str:
    """Return a payload as text if it is UTF-8, else in hex."""
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return payload.hex()


class Exporter:
    """Copies and exports for `app`. Files go to the working directory, or to `state_dir` if it is not
    writable."""

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
        """Copy the printable form of `text` to the clipboard through the terminal (OSC 52). An escape
        could end a bracketed paste, and a shell would run the text after a line break."""
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
        """Write messages to a new file, unless the last export wrote the same ones. `filter_text` is the
        filter they matched."""
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

    async def save_snapshot(self, snapshot: Mapping[str, Any]) -> None:
        """Write a snapshot to a new file."""
        text = json.dumps(snapshot, allow_nan=False, indent=1) + "\n"
        await self._save("snapshot", ".json", text)

    async def save_report(self, text: str, output: ReportFormat) -> None:
        """Write a report to a new file."""
        await self._save("report", output.suffix, text)

    async def _save(self, stem: str, suffix: str, text: str) -> None:
        try:
            path = await self._file_threads.run(write_text, stem, suffix, text, self._directories())
        except OSError as error:
            self._report(f"cannot write: {error.strerror or error}", is_error=True)
        else:
            self._report(f"{stem} saved to {path}")

    def _name_of(self, peer_id: PeerId) -> str:
        node = self._model.peers.get(peer_id) or self._model.members.get(peer_id)
        return node.name if node is not None else ""

    def save_screenshot(self) -> None:
        """Save the screen as it is."""
        try:
            svg = self._app.export_screenshot(title="grapevine")
            path = write_text("grapevine", ".svg", svg, self._directories())
        except OSError as error:
            self._report(f"cannot write: {error.strerror or error}", is_error=True)
        else:
            self._report(f"screenshot saved to {path}")
