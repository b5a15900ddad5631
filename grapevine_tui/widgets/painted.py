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

from grapevine_tui.widgets.look import TONES, Piece, paint

CURSOR_HERE = "The cursor is here now: press the key again."


class Inks:
    """A widget's tones as Rich styles, worked out once for each theme.

    A component's style is resolved against its background first (``auto`` colours, opacity), then
    taken apart: `ink` is what letters have, `ground` what a whole line has.
    """

    def __init__(self, widget: Widget) -> None:
        self._widget = widget
        self._inks: dict[str, Style] = {}
        self._grounds: dict[str, Style] = {}
        self._base: Style | None = None

    def forget(self) -> None:
        """The styles have changed."""
        self._inks.clear()
        self._grounds.clear()
        self._base = None

    @property
    def base(self) -> Style:
        """The widget's own style."""
        if self._base is None:
            self._base = self._widget.rich_style
        return self._base

    def ink(self, tone: str) -> Style:
        found = self._inks.get(tone)
        if found is None:
            full = self._widget.get_component_rich_style(f"ink--{tone}")
            found = Style(color=full.color, bold=full.bold, italic=full.italic)
            self._inks[tone] = found
        return found

    def ground(self, tone: str) -> Style:
        found = self._grounds.get(tone)
        if found is None:
            full = self._widget.get_component_rich_style(f"ink--{tone}")
            found = Style(bgcolor=full.bgcolor, bold=full.bold)
            self._grounds[tone] = found
        return found


INK_CLASSES = frozenset(
    f"ink--{tone}" for tone in (*TONES, "section", "heading", "cursor", "alarm", "empty")
)


class Painted(Widget):
    """A widget of a few fixed lines, painted one by one."""

    COMPONENT_CLASSES: ClassVar[set[str]] = set(INK_CLASSES)
    ALLOW_SELECT = False

    def __init__(self, *, name_in_dom: str) -> None:
        super().__init__(id=name_in_dom)
        self.inks = Inks(self)

    def notify_style_update(self) -> None:
        self.inks.forget()
        super().notify_style_update()

    def line(self, y: int, width: int) -> list[Piece]:
        """The pieces of line `y`."""
        raise NotImplementedError

    def render_line(self, y: int) -> Strip:
        return paint(self.line(y, self.size.width), self.size.width, self.inks.base)


class PaintedView(ScrollView, can_focus=True):
    """The same for lines that scroll. Painted anew when it gets or loses the focus."""

    COMPONENT_CLASSES: ClassVar[set[str]] = set(INK_CLASSES)
    ALLOW_SELECT = False

    def __init__(self, *, name_in_dom: str) -> None:
        super().__init__(id=name_in_dom)
        self.inks = Inks(self)

    @property
    def room(self) -> int:
        """The cells that a line may take: beside the scrollbar, where there is one."""
        return self.scrollable_content_region.width

    def notify_style_update(self) -> None:
        self.inks.forget()
        super().notify_style_update()
        self.refresh()

    def on_focus(self) -> None:
        self.refresh()

    def on_blur(self) -> None:
        self.refresh()
