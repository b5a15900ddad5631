"""Base classes of widgets that render line by line, and the styles of their tones.

Invariants: a line is spans of printable text in named tones. grapevine.tcss and the theme say what a
tone looks like.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Final, NamedTuple

from rich.segment import Segment
from rich.style import Style
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widget import Widget

from grapevine_tui.text import cells, pad

# A tone is the end of a component class (``tone--TONE``), which grapevine.tcss styles.
AUTHOR_TONE_COUNT: Final = 6
TONES: Final = (
    *("text", "dim", "good", "warn", "bad", "accent", "key", "track", "bar"),
    *(f"author-{number}" for number in range(AUTHOR_TONE_COUNT)),
)


class Span(NamedTuple):
    """Printable text in one style."""

    text: str
    style: Style


class Mark(NamedTuple):
    """How a line stands out: a sign in the first cell, and the tone of its text."""

    sign: str
    tone: str


FOUND_MARK: Final = Mark(">", "accent")  # of what is looked for


def render_spans(spans: Iterable[Span], width_cells: int, base: Style) -> Strip:
    """Return a strip of exactly `width_cells`: `spans` over `base`, truncated or filled with blanks."""
    segments: list[Segment] = []
    remaining = width_cells
    for text, style in spans:
        size = cells(text)
        if size > remaining:
            text = pad(text.rstrip(), remaining)  # trailing blanks go without an ellipsis
            size = remaining
        if size:
            segments.append(Segment(text, base + style))
        remaining -= size
        if not remaining:
            break
    if remaining > 0:
        segments.append(Segment(" " * remaining, base))
    return Strip(segments, max(0, width_cells))


CURSOR_MOVED_TEXT = "Cursor moved into view; press the key again."


class StyleCache:
    """Rich styles of a widget's tones, computed once per theme.

    A component style is resolved against its background first (``auto`` colors, opacity). `foreground`
    styles text; `background` styles a whole line.
    """

    def __init__(self, widget: Widget) -> None:
        self._widget = widget
        self._foregrounds: dict[str, Style] = {}
        self._backgrounds: dict[str, Style] = {}
        self._base: Style | None = None

    def clear(self) -> None:
        """Drop all styles; call it when the theme changes."""
        self._foregrounds.clear()
        self._backgrounds.clear()
        self._base = None

    @property
    def base(self) -> Style:
        """The widget's own style."""
        if self._base is None:
            self._base = self._widget.rich_style
        return self._base

    def foreground(self, tone: str) -> Style:
        found = self._foregrounds.get(tone)
        if found is None:
            style = self._widget.get_component_rich_style(f"tone--{tone}")
            found = Style(color=style.color, bold=style.bold, italic=style.italic)
            self._foregrounds[tone] = found
        return found

    def background(self, tone: str) -> Style:
        found = self._backgrounds.get(tone)
        if found is None:
            style = self._widget.get_component_rich_style(f"tone--{tone}")
            found = Style(bgcolor=style.bgcolor, bold=style.bold)
            self._backgrounds[tone] = found
        return found


TONE_CLASSES = frozenset(
    f"tone--{tone}" for tone in (*TONES, "section", "heading", "cursor", "alarm", "empty")
)


class LineWidget(Widget):
    """A widget of a few lines that do not scroll."""

    COMPONENT_CLASSES: ClassVar[set[str]] = set(TONE_CLASSES)
    ALLOW_SELECT = False

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self.tone_styles = StyleCache(self)

    def notify_style_update(self) -> None:
        self.tone_styles.clear()
        super().notify_style_update()

    def line_spans(self, y: int, width: int) -> list[Span]:
        """Return the spans of line `y` of a widget `width` cells wide."""
        raise NotImplementedError

    def render_line(self, y: int) -> Strip:
        return render_spans(
            self.line_spans(y, self.size.width), self.size.width, self.tone_styles.base
        )


class LineScrollView(ScrollView, can_focus=True):
    """A widget of lines that scroll. It repaints when it gets or loses the focus."""

    COMPONENT_CLASSES: ClassVar[set[str]] = set(TONE_CLASSES)
    ALLOW_SELECT = False

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self.tone_styles = StyleCache(self)

    @property
    def line_cells(self) -> int:
        """The width of a line in cells, without the scrollbar."""
        return self.scrollable_content_region.width

    def mark_span(self, mark: Mark | None) -> Span:
        """The first cell of a line: the sign of its mark, or a blank."""
        if mark is None:
            return Span(" ", Style.null())
        return Span(mark.sign, self.mark_style(mark))

    def mark_style(self, mark: Mark) -> Style:
        """The style of a marked text: bold, so that it stands out without color as well, unless it is dim."""
        return self.tone_styles.foreground(mark.tone) + Style(bold=mark.tone != "dim")

    def notify_style_update(self) -> None:
        self.tone_styles.clear()
        super().notify_style_update()
        self.refresh()

    def on_focus(self) -> None:
        self.refresh()

    def on_blur(self) -> None:
        self.refresh()
