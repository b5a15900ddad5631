"""Everyone in the cluster, linked or not, as a table in front of the others.

What must stay true: a row is made anew only when what it shows has changed, and only so many in one
go, so that thousands of members stall nothing: not when the table opens, nor while nothing happens.
"""

from __future__ import annotations

from collections import Counter
from typing import ClassVar, Final

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.screen import Screen

from grapevine_proto.events import MemberInfo, MemberStatus, PeerState
from grapevine_proto.ids import PeerId
from grapevine_tui.keys import FRONT
from grapevine_tui.model import Model
from grapevine_tui.query import EVERYTHING, parse
from grapevine_tui.text import printable
from grapevine_tui.widgets.bindings import bindings
from grapevine_tui.widgets.filterbar import FilterBar
from grapevine_tui.widgets.grid import Cell, Column, Row
from grapevine_tui.widgets.keyline import KeyLine
from grapevine_tui.widgets.look import STANDINGS, STATE_SIGNS, Sign, member_standing
from grapevine_tui.widgets.peers import PeerGrid
from grapevine_tui.widgets.tables import TONE_COLOURS, address_order, filter_part, title

REFRESH_S: Final = 0.5
AT_ONCE: Final = 500  # rows made in one go: some 7 ms
SOON_S: Final = 0.01
COLUMNS: Final = (
    Column("status", 9),
    Column("name", 9, grows=3),
    Column("link", 9, rank=1),
    Column("address", 15, grows=1, rank=2),
    Column("zone", 8, grows=1, rank=3),
    Column("epoch", 12, right=True, rank=5),
    Column("key", 8, rank=4),
)


class MemberRows:
    """Makes the rows, and keeps those that still say the truth."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._kept: dict[PeerId, tuple[tuple[MemberInfo, str, PeerState | None, Sign], Row]] = {}
        self.is_behind = False
        """Whether there is more to make."""

    def make(self, most: int = AT_ONCE) -> list[Row]:
        """Everyone whose row there is, those that are up first, by name; `most` of them made anew."""
        model, kept = self._model, self._kept
        fresh = {}
        made = 0
        for peer_id, member in model.members.items():
            peer = model.peers.get(peer_id)
            state = peer.state if peer is not None else None
            facts = (member, model.name_of(peer_id), state, member_standing(model, member))
            known = kept.get(peer_id)
            if known is not None and (known[0] == facts or made >= most):
                fresh[peer_id] = known
            elif made < most:
                fresh[peer_id] = (facts, _row(*facts))
                made += 1
        self.is_behind = made >= most
        self._kept = fresh
        return sorted((row for _, row in fresh.values()), key=lambda row: row.order[:2])


def _row(member: MemberInfo, name: str, state: PeerState | None, standing: Sign) -> Row:
    sign, word, tone = standing
    is_linked = state is not None and state is not PeerState.DISCONNECTED
    link = STATE_SIGNS[state] if state is not None and is_linked else None
    is_here = member.status is MemberStatus.UP
    text = "text" if is_here else "dim"
    return Row(
        member.peer_id,
        (
            Cell(f"{sign} {word}", tone),
            Cell(printable(name), "key" if is_here else "dim"),
            Cell(f"{link.sign} {link.word}" if link else "-", link.tone if link else "dim"),
            Cell(printable(str(member.address)) if member.address else "-", text),
            Cell(printable(member.zone) or "-", text if member.zone else "dim"),
            Cell(str(member.epoch), "dim"),
            Cell(member.peer_id.short, "dim"),
        ),
        order=(
            STANDINGS.index(standing),
            name.casefold(),
            tuple(PeerState).index(state) if state is not None else len(PeerState),
            address_order(member.address),
            member.zone.casefold(),
            member.epoch,
            member.peer_id,
        ),
    )


class MembersScreen(Screen[None]):
    """The table, its filter and its keys."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(FRONT)

    def __init__(self, model: Model) -> None:
        super().__init__(name="members")
        self._model = model
        self._rows = MemberRows(model)
        self.table = PeerGrid(COLUMNS, empty="Nobody else is known yet.", name_in_dom="members")
        self.table.is_denied = lambda peer_id: peer_id in model.denied
        self.filter_bar = FilterBar(name_in_dom="members-filter")

    def compose(self) -> ComposeResult:
        yield self.table
        yield self.filter_bar
        yield KeyLine()

    def on_mount(self) -> None:
        self.show()
        self.table.focus()
        self.set_interval(REFRESH_S, self.show)

    def show(self) -> None:
        """Show everyone as they are now."""
        self.table.show(self._rows.make())
        self._entitle()
        if self._rows.is_behind:
            self.set_timer(SOON_S, self.show)

    def _entitle(self) -> None:
        members = self._model.members
        counts = Counter(member_standing(self._model, member) for member in members.values())
        parts = [
            (f"{counts[each]:,} {each.word}", TONE_COLOURS[each.tone])
            for each in STANDINGS
            if counts[each]
        ]
        filtered = filter_part(self.table.wanted, len(self.table.rows))
        words = title(f"Members {len(members):,}", *parts, *filtered)
        if self.table.border_title != words.markup:
            self.table.border_title = words

    def action_filter(self) -> None:
        self.filter_bar.ask(
            "members", self.table.wanted.text, "words name:bob zone:eu status:down -not"
        )

    def on_filter_bar_changed(self, message: FilterBar.Changed) -> None:
        self.table.want(parse(message.text) if message.text.strip() else EVERYTHING)
        self._entitle()

    def on_filter_bar_closed(self, message: FilterBar.Closed) -> None:
        if message.is_dropped:
            self.table.want(EVERYTHING)
        self._entitle()
        self.table.focus()

    def action_back(self) -> None:
        """Clear the filter; where there is none, go back."""
        if self.table.wanted:
            self.table.want(EVERYTHING)
            self._entitle()
        else:
            self.dismiss()
