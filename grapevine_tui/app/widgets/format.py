"""How things look everywhere: our themes, signs, numbers in words for people, painted lines.

What must stay true:

- Each state has a sign of its own beside its colour: colour alone tells too little.
- Whatever is painted has been through `printable`; numbers here never take more cells than said.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, NamedTuple

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip
from textual.theme import Theme

from grapevine_proto.events import MemberInfo, MemberStatus, PeerInfo, PeerState, RoundOutcome
from grapevine_tui.host.model import Model
from grapevine_tui.text import cells, pad

GRAPEVINE: Final = Theme(
    name="grapevine",
    primary="#8fce5a",  # a vine leaf in the sun
    secondary="#a98be8",  # a grape
    accent="#d8a4ff",
    warning="#f0b952",
    error="#ff6f7d",
    success="#8fce5a",
    foreground="#e4deef",
    background="#131019",
    surface="#191522",
    panel="#241e31",
    dark=True,
    variables={
        "border-blurred": "#3a3150",
        "text-muted": "#a197b5",
        "text-disabled": "#6f6587",
        "footer-background": "#191522",
        "footer-key-foreground": "#d8a4ff",
        "footer-description-foreground": "#a79dba",
        "input-selection-background": "#a98be8 40%",
        "block-cursor-background": "#8fce5a",
        "block-cursor-foreground": "#131019",
        "scrollbar": "#3a3150",
        "scrollbar-hover": "#54477a",
        "scrollbar-active": "#8fce5a",
        "scrollbar-background": "#191522",
        "scrollbar-background-hover": "#191522",
        "scrollbar-background-active": "#191522",
        "scrollbar-corner-color": "#191522",
    },
)
GRAPEVINE_LIGHT: Final = Theme(
    name="grapevine-light",
    primary="#3f7d1c",
    secondary="#6b43b5",
    accent="#8a2fc0",
    warning="#9a6100",
    error="#b8243a",
    success="#3f7d1c",
    foreground="#2a2338",
    background="#f6f3fa",
    surface="#fdfcff",
    panel="#e9e3f2",
    dark=False,
    variables={
        "border-blurred": "#cabfdd",
        "text-muted": "#665c7a",
        "text-disabled": "#958ba8",
        "author-4": "#0b7285",
        "author-5": "#b03a6d",
        "footer-background": "#e9e3f2",
        "footer-key-foreground": "#6b43b5",
        "footer-description-foreground": "#5c5270",
        "scrollbar": "#cabfdd",
        "scrollbar-background": "#fdfcff",
        "scrollbar-corner-color": "#fdfcff",
    },
)
GRAPEVINE_CONTRAST: Final = Theme(
    name="grapevine-contrast",
    primary="#8cff3f",
    secondary="#8fd8ff",
    accent="#ffd866",
    warning="#ffb84d",
    error="#ff9b9b",
    success="#8cff3f",
    foreground="#ffffff",
    background="#000000",
    surface="#000000",
    panel="#1c1c1c",
    dark=True,
    variables={
        "border-blurred": "#8a8a8a",
        "text-muted": "#d7d7d7",
        "text-disabled": "#c0c0c0",
        "author-4": "#7fe9f5",
        "author-5": "#ffb3d9",
    },
)
THEMES: Final = (GRAPEVINE, GRAPEVINE_LIGHT, GRAPEVINE_CONTRAST)
# Colours that Textual's own themes do not name.
THEME_VARIABLES: Final = {"author-4": "#5cc3d4", "author-5": "#e692b4"}


class StatusGlyph(NamedTuple):
    """A sign, a word of at most seven cells and the name of a colour."""

    glyph: str
    label: str
    tone: str


# One vocabulary for peers and members alike, in the order in which tables have them.
UP: Final = StatusGlyph("●", "up", "good")
STALE: Final = StatusGlyph("◐", "silent", "warn")
DIALING: Final = StatusGlyph("◌", "dialing", "dim")
SUSPECT: Final = StatusGlyph("▲", "suspect", "warn")
CLOSED: Final = StatusGlyph("◦", "closed", "dim")  # up, as far as is known, and not connected to us
DOWN: Final = StatusGlyph("✕", "down", "bad")
LEFT: Final = StatusGlyph("○", "left", "dim")
DENIED: Final = StatusGlyph("⊘", "denied", "bad")
STATUS_ORDER: Final = (UP, STALE, DIALING, SUSPECT, CLOSED, DOWN, LEFT, DENIED)
STATE_GLYPHS: Final = {
    PeerState.CONNECTING: DIALING,
    PeerState.CONNECTED: UP,
    PeerState.STALE: STALE,
    PeerState.DISCONNECTED: DOWN,
}
STATUS_GLYPHS: Final = {
    MemberStatus.UP: UP,
    MemberStatus.SUSPECT: SUSPECT,
    MemberStatus.DOWN: DOWN,
    MemberStatus.LEFT: LEFT,
}


def peer_status(model: Model, peer: PeerInfo) -> StatusGlyph:
    """How a peer stands with us now: its link where there is one, else what the cluster holds of it."""
    if peer.peer_id in model.denied:
        return DENIED
    member = model.members.get(peer.peer_id)
    if peer.state is not PeerState.DISCONNECTED or member is None:
        return STATE_GLYPHS[peer.state]
    return CLOSED if member.status is MemberStatus.UP else STATUS_GLYPHS[member.status]


def member_status(model: Model, member: MemberInfo) -> StatusGlyph:
    """How a member stands in the cluster now, in the words for peers."""
    if member.peer_id in model.denied:
        return DENIED
    return STATUS_GLYPHS[member.status]


OUTCOME_GLYPHS: Final = {
    RoundOutcome.RUNNING: StatusGlyph("◌", "running", "dim"),
    RoundOutcome.IN_SYNC: StatusGlyph("=", "in sync", "good"),
    RoundOutcome.REPAIRED: StatusGlyph("+", "repaired", "accent"),
    RoundOutcome.PARTIAL: StatusGlyph("▲", "partial", "warn"),
    RoundOutcome.NO_ANSWER: StatusGlyph("✕", "no answer", "bad"),
}

# Names of the colours, as component classes end in them; grapevine.tcss says what they are.
AUTHOR_TONE_COUNT: Final = 6
TONES: Final = (
    *("text", "dim", "good", "warn", "bad", "accent", "key", "track", "bar"),
    *(f"author-{number}" for number in range(AUTHOR_TONE_COUNT)),
)


# Numbers for people


def format_count(value: float) -> str:
    """At most five cells: ``7``, ``0.4``, ``412``, ``1.2k``, ``12k``, ``3.4M``."""
    if value < 10 and value != int(value):
        return f"{value:.1f}"
    for unit in ("", "k", "M", "G"):
        if value < 9.95 and unit:
            return f"{value:.1f}{unit}"
        if value < 999.5:
            return f"{value:.0f}{unit}"
        value /= 1000
    return f"{value:.0f}T"


def format_bytes(value: float) -> str:
    """At most seven cells: ``61 B``, ``6.1 KB``, ``12 MB``; a KB is 1,000 bytes."""
    return (
        f"{value:.0f} B"
        if value < 1000
        else f"{format_count(value).upper()[:-1]} {_byte_unit(value)}"
    )


def _byte_unit(value: float) -> str:
    return {"k": "KB", "M": "MB", "G": "GB", "T": "TB"}[format_count(value)[-1]]


def format_duration(duration_s: float) -> str:
    """At most six cells: ``42s``, ``5m03s``, ``3h12m``, ``12d4h``."""
    if not math.isfinite(duration_s):
        return "never"
    seconds = max(0, int(duration_s))
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02}s"
    if seconds < 86_400:
        return f"{seconds // 3600}h{seconds // 60 % 60:02}m"
    return f"{seconds // 86_400}d{seconds // 3600 % 24}h"


def format_latency(latency_s: float | None) -> str:
    """At most six cells: ``--``, ``0.4ms``, ``81ms``, ``2.1s``."""
    if latency_s is None:
        return "--"
    ms = latency_s * 1000
    if ms < 9.95:
        return f"{ms:.1f}ms"
    return f"{ms:.0f}ms" if ms < 999.5 else f"{latency_s:.1f}s"


def health_tone(health: float) -> str:
    return "good" if health >= 0.8 else "warn" if health >= 0.5 else "bad"


# Painted lines


class Span(NamedTuple):
    """Printable text in one style."""

    text: str
    style: Style


def render_spans(spans: Iterable[Span], width_cells: int, base: Style) -> Strip:
    """One line of exactly `width_cells`: pieces over `base`, the last of them cut where it must be."""
    segments: list[Segment] = []
    remaining = width_cells
    for text, style in spans:
        size = cells(text)
        if size > remaining:
            text = pad(text.rstrip(), remaining)  # blanks go first, unseen
            size = remaining
        if size:
            segments.append(Segment(text, base + style))
        remaining -= size
        if not remaining:
            break
    if remaining > 0:
        segments.append(Segment(" " * remaining, base))
    return Strip(segments, max(0, width_cells))


BAR_FULL: Final = "━"
BAR_HALF: Final = "╸"
BAR_EMPTY: Final = "─"  # thinner: where there are no colours a bar is read by its strokes


def bar(fraction: float, width_cells: int) -> tuple[str, str]:
    """A bar's filled part and its empty track, together `width_cells`, exact to half a cell."""
    halves = round(min(1.0, max(0.0, fraction)) * width_cells * 2)
    filled = BAR_FULL * (halves // 2) + (BAR_HALF if halves % 2 else "")
    return filled, BAR_EMPTY * (width_cells - len(filled))


# Braille cells hold two columns of four dots each (Unicode 2800: dots 1-8 are bits 0-7).
_LEFT_UP: Final = (0x00, 0x40, 0x44, 0x46, 0x47)
_RIGHT_UP: Final = (0x00, 0x80, 0xA0, 0xB0, 0xB8)
_LEFT_DOWN: Final = (0x00, 0x01, 0x03, 0x07, 0x47)
_RIGHT_DOWN: Final = (0x00, 0x08, 0x18, 0x38, 0xB8)


def braille_graph(
    values: Iterable[float], width_cells: int, rows: int, *, hanging: bool = False
) -> list[str]:
    """A filled curve of `rows` lines of braille, newest at the right; `hanging` from the top.

    Scaled to its own highest value; anything above nothing shows at least one dot.
    """
    point_count = width_cells * 2
    if point_count <= 0:
        return [""] * rows
    shown = list(values)[-point_count:]
    shown = [0.0] * (point_count - len(shown)) + shown
    peak = max(shown) or 1.0
    dots = [max(1 if value > 0 else 0, round(value / peak * rows * 4)) for value in shown]
    left, right = (_LEFT_DOWN, _RIGHT_DOWN) if hanging else (_LEFT_UP, _RIGHT_UP)
    lines = []
    for row in range(rows):
        filled_below = (row if hanging else rows - 1 - row) * 4  # dots that other rows hold already
        lines.append(
            "".join(
                chr(
                    0x2800
                    + left[min(4, max(0, dots[index] - filled_below))]
                    + right[min(4, max(0, dots[index + 1] - filled_below))]
                )
                for index in range(0, point_count, 2)
            )
        )
    return lines
