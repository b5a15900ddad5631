"""A scrolling view of styled lines, the base of fact sheets and trace reports.

Invariants:

- Only lines on the screen are rendered, and an update repaints only lines that differ: 1,000 lines open
  as fast as ten.
- All text is printable; a mouse selection copies it as shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.segment import Segment
from textual.geometry import Size
from textual.selection import Selection
from textual.strip import Strip

from grapevine_tui.app.widgets.line_widget import LineScrollView, Span, render_spans
from grapevine_tui.text import cells


class StyledText(NamedTuple):
    """Printable text in a tone of `line_widget.TONE_CLASSES`."""

    text: str
    tone: str


Line = tuple[StyledText, ...]


class TextView(LineScrollView):
    """Scrolls over lines of styled text."""

    ALLOW_SELECT = True

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._lines: Sequence[Line] = ()

    def set_lines(self, lines: Sequence[Line]) -> None:
        """Replace the lines and repaint those that differ."""
        old_lines, self._lines = self._lines, lines
        if len(old_lines) != len(lines):
            self.virtual_size = Size(self.size.width, len(lines))
            self.refresh(layout=self.styles.auto_dimensions)
            return
        for number, (old, new) in enumerate(zip(old_lines, lines, strict=True)):
            if old != new:
                self.refresh_line(number)

    def render_line(self, y: int) -> Strip:
        line_number = y + self.scroll_offset.y
        if line_number >= len(self._lines):
            return Strip.blank(self.line_cells, self.tone_styles.base)
        line = self._lines[line_number]
        spans = [Span(part.text, self.tone_styles.foreground(part.tone)) for part in line]
        strip = render_spans(spans, self.line_cells, self.tone_styles.base)
        selection = self.text_selection
        if selection is not None and (span := selection.get_span(line_number)) is not None:
            strip = self._highlight(strip, "".join(part.text for part in line), *span)
        return strip.apply_offsets(0, line_number)

    def _highlight(self, strip: Strip, text: str, start: int, end: int) -> Strip:
        """Return `strip` with characters `start` to `end` shown as selected; -1 is the end of the line."""
        first = cells(text[:start])
        last = cells(text) if end == -1 else cells(text[:end])
        style = self.screen.get_component_rich_style("screen--selection")
        highlighted = Strip(
            Segment.apply_style(strip.crop(first, last), post_style=style), last - first
        )
        return Strip.join([strip.crop(0, first), highlighted, strip.crop(last)])

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        text = "\n".join("".join(part.text for part in line) for line in self._lines)
        return selection.extract(text), "\n"

    def selection_updated(self, selection: Selection | None) -> None:
        self.refresh()
