"""The caption of the demo: what one sees now, and the key that shows more.

Invariants: a line or two, and always as many on a screen of one width, so that panels do not jump.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from textual.binding import Binding

from grapevine_tui.app.widgets.line_widget import LineWidget, Span
from grapevine_tui.config.keymap import DEFAULT_KEYS
from grapevine_tui.host.protocol import Caption, DemoView

ONE_LINE_CELLS: Final = 120  # a narrower screen has the key on a line of its own
BADGE: Final = " demo  "


class CaptionLine(LineWidget):
    """Shows the caption of `demo`, or nothing without one. `keys` are those that a config file changes."""

    def __init__(self, demo: DemoView | None, keys: Mapping[str, str], *, id: str) -> None:
        super().__init__(id=id)
        self._demo = demo
        self._keys = keys
        self._shown: Caption | None = None

    def set_width(self, width_cells: int) -> None:
        """Take the lines that a screen of this width needs."""
        self.styles.height = 1 if width_cells >= ONE_LINE_CELLS else 2

    def tick(self) -> None:
        """Repaint if the caption changed."""
        if self._demo is not None and self._demo.caption != self._shown:
            self.refresh()

    def line_spans(self, y: int, width: int) -> list[Span]:
        if self._demo is None:
            return []
        if y == 0:
            self._shown = self._demo.caption
        caption = self._shown
        if caption is None:
            return []
        foreground = self.tone_styles.foreground
        key = [
            Span(self._key_of(caption.action), foreground("key")),
            Span(f" {caption.hint}", foreground("dim")),
        ]
        if y:
            return [Span(" " * len(BADGE), foreground("text")), *key]
        text = [Span(BADGE, foreground("section")), Span(caption.text, foreground("text"))]
        return [*text, Span("  ", foreground("text")), *key] if width >= ONE_LINE_CELLS else text

    def _key_of(self, action: str) -> str:
        first = self._keys.get(action, DEFAULT_KEYS[action]).split(",")[0]
        return self.app.get_key_display(Binding(first, action))
