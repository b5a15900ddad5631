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
from grapevine_proto.threads import Threads
from grapevine_tui.keeping import write_messages, write_picture
from grapevine_tui.model import Model
from grapevine_tui.ring import Entry
from grapevine_tui.text import cut, printable

TOLD_CELLS: Final = 40  # of what was copied
COPIED_BYTES: Final = 100_000  # terminals refuse more in one go, or hang over it


def payload_text(payload: bytes) -> str:
    """A payload as one would paste it: its text, or its bytes in hex."""
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return payload.hex()


class Desk:
    """Hands things out of `app`. `state_dir`: where to write if the working directory refuses."""

    def __init__(self, app: App[None], model: Model, state_dir: Path | None) -> None:
        self._app = app
        self._model = model
        self._state_dir = state_dir
        self._files = Threads("export", 1)
        self._exported: tuple[tuple[int, int, int, str], Path] | None = None

    def _folders(self) -> list[Path]:
        return [Path.cwd(), *([self._state_dir] if self._state_dir else [])]

    def _say(self, words: str, *, is_trouble: bool = False) -> None:
        severity: SeverityLevel = "error" if is_trouble else "information"
        if not is_trouble:
            self._model.note_command(words)
        self._app.notify(printable(words), severity=severity, markup=False)

    def copy(self, text: str) -> None:
        """Put `text` on the clipboard as it is shown, by the terminal (OSC 52): an escape in it could
        end a bracketed paste, and what follows a line's end would be run by the shell it is pasted into."""
        if len(text.encode(errors="replace")) > COPIED_BYTES:
            self._say(
                f"too large to copy: {len(text):,} characters; e writes it to a file",
                is_trouble=True,
            )
            return
        shown = printable(text)
        self._app.copy_to_clipboard(shown)
        self._say(f"copied {cut(shown, TOLD_CELLS)}")

    async def export(self, entries: Sequence[Entry], what: str = "") -> None:
        """Write messages to a file; not the same ones twice. `what`: the filter they passed."""
        if not entries:
            self._say("no message to write", is_trouble=True)
            return
        stamp = (len(entries), entries[0].number, entries[-1].number, what)
        if self._exported is not None and self._exported[0] == stamp and self._exported[1].exists():
            self._say(f"nothing new since {self._exported[1]} was written", is_trouble=True)
            return
        names = {entry.message.origin: self._name(entry.message.origin) for entry in entries}
        try:
            path, count = await self._files.run(
                write_messages, entries, names.__getitem__, self._folders()
            )
        except OSError as error:
            self._say(f"cannot write: {error.strerror or error}", is_trouble=True)
        else:
            self._exported = stamp, path
            self._say(f"{count:,} message{'s' * (count != 1)} written to {path}")

    def _name(self, peer_id: PeerId) -> str:
        known = self._model.peers.get(peer_id) or self._model.members.get(peer_id)
        return known.name if known is not None else ""

    def picture(self) -> None:
        """Save the screen as it is."""
        try:
            path = write_picture(self._app.export_screenshot(title="grapevine"), self._folders())
        except OSError as error:
            self._say(f"cannot write: {error.strerror or error}", is_trouble=True)
        else:
            self._say(f"picture saved to {path}")
