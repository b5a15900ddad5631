"""What all widgets share that paint themselves line by line: named tones, kept at hand.

What must stay true: a line is pieces of printable text in named tones; what a tone looks like is
for grapevine.tcss and the theme to say.
"""

from __future__ import annotations

from typing import ClassVar

from rich.style import Style
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widget import Widget

from grapevine_tui.app.widgets.format import TONES, Span, render_spans

CURSOR_MOVED_TEXT = "The cursor is here now: press the key again."


class StyleCache:
    """A widget's tones as Rich styles, worked out once for each theme.

    A component's style is resolved against its background first (``auto`` colours, opacity), then
    taken apart: `foreground` is what letters have, `background` what a whole line has.
    """

    def __init__(self, widget: Widget) -> None:
        self._widget = widget
        self._foregrounds: dict[str, Style] = {}
        self._backgrounds: dict[str, Style] = {}
        self._base: Style | None = None

    def clear(self) -> None:
        """The styles have changed."""
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
            style = self._widget.get_component_rich_style(f"ink--{tone}")
            found = Style(color=style.color, bold=style.bold, italic=style.italic)
            self._foregrounds[tone] = found
        return found

    def background(self, tone: str) -> Style:
        found = self._backgrounds.get(tone)
        if found is None:
            style = self._widget.get_component_rich_style(f"ink--{tone}")
            found = Style(bgcolor=style.bgcolor, bold=style.bold)
            self._backgrounds[tone] = found
        return found


TONE_CLASSES = frozenset(
    f"ink--{tone}" for tone in (*TONES, "section", "heading", "cursor", "alarm", "empty")
)


class LineWidget(Widget):
    """A widget of a few fixed lines, painted one by one."""

    COMPONENT_CLASSES: ClassVar[set[str]] = set(TONE_CLASSES)
    ALLOW_SELECT = False

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self.tone_styles = StyleCache(self)

    def notify_style_update(self) -> None:
        self.tone_styles.clear()
        super().notify_style_update()

    def line_spans(self, y: int, width: int) -> list[Span]:
        """The pieces of line `y`."""
        raise NotImplementedError

    def render_line(self, y: int) -> Strip:
        return render_spans(
            self.line_spans(y, self.size.width), self.size.width, self.tone_styles.base
        )


class LineScrollView(ScrollView, can_focus=True):
    """The same for lines that scroll. Painted anew when it gets or loses the focus."""

    COMPONENT_CLASSES: ClassVar[set[str]] = set(TONE_CLASSES)
    ALLOW_SELECT = False

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self.tone_styles = StyleCache(self)

    @property
    def line_cells(self) -> int:
        """The cells that a line may take: beside the scrollbar, where there is one."""
        return self.scrollable_content_region.width

    def notify_style_update(self) -> None:
        self.tone_styles.clear()
        super().notify_style_update()
        self.refresh()

    def on_focus(self) -> None:
        self.refresh()

    def on_blur(self) -> None:
        self.refresh()
