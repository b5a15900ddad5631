"""The footer: the keys that work where the focus is.

Invariants:

- Hints that do not fit are omitted whole, lowest priority first; quit and help go last. Spare room shows
  further keys that work here.
- A label says what the key does now: a toggle is named after the state it leads to.
- In a read-only app the line begins with that word, and keys that only act are left out.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final, NamedTuple

from textual import events
from textual.app import ScreenStackError
from textual.binding import Binding
from textual.dom import NoScreen

from grapevine_tui.app.themed_app import ThemedApp
from grapevine_tui.app.widgets.bindings import label_of
from grapevine_tui.app.widgets.line_widget import LineWidget, Span
from grapevine_tui.control.commands import COMMANDS, Kind
from grapevine_tui.text import cells

KEY_GAP_CELLS: Final = 2
READ_ONLY_LABEL: Final = "read-only  "
ACT_KEYS: Final = frozenset(
    each.name for each in COMMANDS if each.kind is Kind.NODE_ACT and each.name != "leave"
) | {"redial", "save"}  # which dials, and which changes settings
REFRESH_INTERVAL_S: Final = 0.5
# Names of actions by priority. "" stands for actions without a name: the compose box's own.
KEY_PRIORITY: Final = (
    *(
        "quit",
        "help",
        "back",
        "",
        "compare",
        "back_10_s",
        "on_10_s",
        "go_to",
        "save",
        "longer",
        "shorter",
        "trace",
        "query",
        "details",
        "filter",
        "write",
    ),
    *(
        "authors",
        "older",
        "newer",
        "commands",
        "zoom",
        "sort",
        "follow",
        "copy",
        "dial",
        "pause",
        "undo",
    ),
    *(
        "members",
        "traces",
        "status",
        "settings",
        "traffic",
        "deny",
        "forget",
        "send",
        "redial",
    ),
    *(
        "round",
        "export",
        "reverse",
        "copy_id",
        "screenshot",
        "peers",
        "messages",
        "rates",
        "rounds",
    ),
    *("next_panel", "previous_panel", "first", "last", "page_down", "page_up", "down", "up"),
)


class KeyHint(NamedTuple):
    """A key and its label; `x` is its first cell in the line."""

    binding: Binding
    display: str
    label: str
    x: int = 0
    is_shown: bool = True

    @property
    def width(self) -> int:
        return cells(self.display) + 1 + cells(self.label)


def _priority(hint: KeyHint) -> tuple[bool, int]:
    name = hint.binding.id or ""
    return not hint.is_shown, KEY_PRIORITY.index(name) if name in KEY_PRIORITY else len(
        KEY_PRIORITY
    )


def fit_hints(hints: list[KeyHint], width_cells: int) -> list[KeyHint]:
    """Return the hints that fit, by priority, in their order and with `x` set."""
    kept: set[int] = set()
    used_cells = 1 - KEY_GAP_CELLS
    for index in sorted(range(len(hints)), key=lambda each: _priority(hints[each])):
        needed = hints[index].width + KEY_GAP_CELLS
        if used_cells + needed <= width_cells:
            kept.add(index)
            used_cells += needed
    placed = []
    x = 1
    for each in (hints[index] for index in sorted(kept)):
        placed.append(each._replace(x=x))
        x += each.width + KEY_GAP_CELLS
    return placed


class KeyFooter(LineWidget):
    """Shows the keys of the focused widget, its screen and the app; a click presses one."""

    def __init__(self, *, id: str = "keys") -> None:
        super().__init__(id=id)
        self._hints: list[KeyHint] = []

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, lambda _: self.update_hints())
        self.set_interval(REFRESH_INTERVAL_S, self.update_hints)
        self.update_hints()

    def update_hints(self) -> None:
        """Collect the active bindings with their current labels."""
        with suppress(NoScreen, ScreenStackError):  # the app is ending and has no screen
            self._collect_hints()

    def _collect_hints(self) -> None:
        hints_by_label: dict[str, KeyHint] = {}
        for node, binding, enabled, _ in self.screen.active_bindings.values():
            if not enabled or not (binding.show or binding.id in KEY_PRIORITY):
                continue
            if self._is_readonly and binding.id in ACT_KEYS:
                continue
            label = label_of(node, binding)
            existing = hints_by_label.get(label)
            if existing is not None and existing.binding.action == binding.action:
                continue  # another key for the same action action
            display = self.app.get_key_display(binding)
            if existing is not None and existing.is_shown == binding.show:
                hints_by_label[label] = existing._replace(display=f"{existing.display} {display}")
            elif label and (existing is None or binding.show):
                hints_by_label[label] = KeyHint(binding, display, label, is_shown=binding.show)
        hints = sorted(hints_by_label.values(), key=lambda each: not each.is_shown)
        if hints != self._hints:
            self._hints = hints
            self.refresh()

    def line_spans(self, y: int, width: int) -> list[Span]:
        if y:
            return []
        spans = [Span(" ", self.tone_styles.foreground("dim"))]
        if self._is_readonly:
            spans.append(Span(READ_ONLY_LABEL, self.tone_styles.foreground("warn")))
        for each in self._placed_hints(width):
            spans.append(Span(each.display, self.tone_styles.foreground("accent")))
            spans.append(
                Span(f" {each.label}{' ' * KEY_GAP_CELLS}", self.tone_styles.foreground("dim"))
            )
        return spans

    def _placed_hints(self, width_cells: int) -> list[KeyHint]:
        """Return the hints that fit, behind the label of a read-only app."""
        start = cells(READ_ONLY_LABEL) if self._is_readonly else 0
        hints = fit_hints(self._hints, width_cells - start)
        return [each._replace(x=each.x + start) for each in hints]

    @property
    def _is_readonly(self) -> bool:
        app = self.app
        return isinstance(app, ThemedApp) and app.is_readonly

    def on_click(self, event: events.Click) -> None:
        for each in self._placed_hints(self.size.width):
            if each.x <= event.x < each.x + each.width:
                self.app.simulate_key(each.binding.key)
