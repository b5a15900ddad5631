"""The screen shows only current facts, or facts with their age."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grapevine_proto.events import (
    MemberStatus,
    MessageReceived,
    MessageSent,
    MessageUndelivered,
    PeerState,
    PeerStateChanged,
    TraceAnswer,
    TraceUpdated,
    UndeliveredReason,
    Via,
)
from grapevine_tui.app.screens.facts import peer_facts
from grapevine_tui.app.widgets.grid import Grid, SortOrder
from grapevine_tui.app.widgets.status_glyphs import STATUS_ORDER
from grapevine_tui.control.jsonlines import named_message
from tests.tui.fake_host import ME, FakeHost
from tests.tui.stage import staged
from tests.tui.values import a_member, a_message, a_peer, a_trace, an_id

pytestmark = pytest.mark.asyncio


def of_each_kind() -> FakeHost:
    """Return a host with a disconnected peer of each member status, and others."""
    host = FakeHost()
    lost_peer = {"state": PeerState.DISCONNECTED, "rtt_s": 0.081, "health": 0.4, "tokens": 7.0}
    host.peers = [
        a_peer(1, "bob"),
        a_peer(2, "carol", state=PeerState.STALE, rtt_s=0.033, last_seen_at=80.0),
        a_peer(3, "dave", state=PeerState.CONNECTING, rtt_s=None),
        *(a_peer(number, f"gone-{number}", **lost_peer) for number in range(4, 9)),
    ]
    statuses = [MemberStatus.UP] * 4 + [MemberStatus.SUSPECT, MemberStatus.DOWN, MemberStatus.LEFT]
    host.members = [
        replace(a_member(number, host.peers[number - 1].name), status=status)
        for number, status in enumerate(statuses, 1)
    ]
    host.model.denied = frozenset({an_id(8)})
    host.members.append(a_member(8, "gone-8"))
    return host


async def test_peers_and_members_stand_in_one_vocabulary() -> None:
    assert len({each.label for each in STATUS_ORDER}) == len({each.glyph for each in STATUS_ORDER})
    async with staged(of_each_kind()) as stage:
        expected = {
            "bob": "● up", "carol": "◐ silent", "dave": "◌ dialing", "gone-4": "◦ closed",
            "gone-5": "▲ suspect", "gone-6": "✕ down", "gone-7": "○ left", "gone-8": "⊘ denied",
        }  # fmt: skip
        shown = {row.cells[1].text: row.cells[0] for row in stage.main.peers.rows}
        assert {name: cell.text for name, cell in shown.items()} == expected
        assert "Peers 1 up · 1 silent · 1 dialing" in stage.text
        await stage.press("m")
        members = {
            row.cells[1].text: row.cells[0]
            for row in stage.app.screen.query_one("#members", Grid).rows
        }
        for name in ("gone-5", "gone-6", "gone-7", "gone-8"):
            assert members[name] == shown[name]  # including the color


async def test_a_peer_without_a_link_has_no_figures_of_now() -> None:
    async with staged(of_each_kind()) as stage:
        for row in stage.main.peers.rows:
            if row.cells[1].text.startswith("gone"):
                assert [cell.text for cell in row.cells[4:]] == ["-"] * 5
        assert "81ms" not in stage.text
        facts = {fact.name: fact.value for fact in peer_facts(stage.host.model, an_id(4)) or ()}
        assert facts["round trip"] == "-"
        assert facts["health"] == "-  not connected"
        silent = {fact.name: fact.value for fact in peer_facts(stage.host.model, an_id(2)) or ()}
        assert silent["round trip"] == "33ms, 20s ago"
        assert stage.host.peers[4].to_dict(now=100.0)["rtt_ms"] is None
        assert stage.host.peers[0].to_dict(now=100.0)["rtt_ms"] == 1.2


@pytest.mark.parametrize(
    ("health", "reason", "expected"),
    [
        (0.98, "", "healthy"),
        (0.9, "", "last packet 1s ago"),
        (0.9, "silent in 9% of the last intervals", "silent in 9% of the last intervals"),
    ],
)
async def test_missed_heartbeats_are_shown_only_for_peers_that_missed_some(
    health: float, reason: str, expected: str
) -> None:
    host = FakeHost()
    host.peers = [a_peer(1, "bob", health=health, health_reason=reason)]
    host.refresh()
    facts = {fact.name: fact.value for fact in peer_facts(host.model, an_id(1)) or ()}
    assert facts["health"] == f"{health:.2f}  {expected}"


async def test_a_denied_peer_is_shown_as_denied_and_one_that_left_as_left() -> None:
    host = FakeHost()
    lost_peer = a_peer(1, "bob", state=PeerState.DISCONNECTED)
    host.happen(PeerStateChanged(lost_peer, PeerState.CONNECTED, "denied"))
    host.happen(PeerStateChanged(lost_peer, PeerState.CONNECTED, "left"))
    host.happen(PeerStateChanged(lost_peer, PeerState.CONNECTED, "silent for 12 s"))
    assert [notice.text for notice in host.model.notices] == [
        "bob denied", "bob left", "bob disconnected: silent for 12 s",
    ]  # fmt: skip


@pytest.mark.parametrize("size", [(120, 36), (80, 24), (40, 12)])
async def test_a_direct_message_names_its_recipient(size: tuple[int, int]) -> None:
    host = FakeHost()
    host.peers = [a_peer(1, "bob")]
    async with staged(host, size=size) as stage:
        sent = a_message(ME, 1, b"for you", via=Via.LOCAL, hops=0)
        sent = sent._replace(id=sent.id._replace(is_direct=True), is_direct=True, to=an_id(1))
        host.happen(MessageSent(sent, 1))
        got = a_message(1, 7, b"for me", is_direct=True)
        host.happen(MessageReceived(got))
        await stage.paint()
        assert "→ bob" in stage.text
        await stage.press("2", "k", "k", "enter")
        assert "bob only" in stage.text
        assert "this node only" not in stage.text
        await stage.press("escape", "G", "enter")
        assert "this node only" in stage.text
    json_object = named_message(sent, host.model.name_of)
    assert (json_object["to"], json_object["to_name"]) == (str(an_id(1)), "bob")
    assert "to" not in named_message(got, host.model.name_of)


async def test_an_unacknowledged_direct_message_is_shown_as_such() -> None:
    host = FakeHost()
    host.peers = [a_peer(1, "bob")]
    async with staged(host) as stage:
        sent = a_message(ME, 1, b"for you", via=Via.LOCAL, is_direct=True, to=an_id(1))
        host.happen(MessageSent(sent, 1))
        await stage.paint()
        assert "direct → bob" in stage.text
        reason = UndeliveredReason.NOT_ACKNOWLEDGED
        host.happen(MessageUndelivered(sent.id, an_id(1), reason, "no [b]reply"))
        await stage.paint()
        assert "failed → bob" in stage.text
        assert "not delivered to bob: not acknowledged (no [b]reply)" in stage.text
        await stage.press("2", "enter")
        assert "not delivered:" in stage.text


async def test_the_last_data_of_a_lost_node_is_dim_and_has_its_time() -> None:
    host = of_each_kind()
    host.model.is_remote = True
    async with staged(host) as stage:
        bright = stage.main.peers.tone_styles.foreground("good").color
        host.model.on_disconnected("connection closed")
        await stage.paint()
        assert "NODE LOST " in stage.text
        for name in ("Peers", "Rate limits", "Anti-entropy"):
            title = next(line for line in stage.text.split("\n") if name in line)
            assert "as of " in title
        assert " up 0s" not in stage.text
        dim = stage.main.peers.tone_styles.foreground("dim").color
        for panel in (stage.main.peers, stage.main.traffic, stage.main.log_view):
            assert {
                panel.tone_styles.foreground(tone).color for tone in ("good", "text", "accent")
            } == {dim}
        await stage.press("m")
        assert (
            stage.app.screen.query_one("#members", Grid).tone_styles.foreground("good").color == dim
        )
        host.model.on_reconnected()
        await stage.paint()
        await stage.press("escape")
        assert stage.main.peers.tone_styles.foreground("good").color == bright
        assert "as of" not in stage.text


async def test_attached_the_keys_and_texts_for_leaving_read_detach() -> None:
    host = of_each_kind()
    host.model.is_remote = True
    async with staged(host) as stage:
        assert "q Detach" in stage.text.split("\n")[-1]
        assert "Quit" not in stage.text
        await stage.press("i", *"/quit")
        assert "Detach; the node keeps running" in stage.text
        await stage.press("ctrl+c", "escape", "question_mark", "G")
        assert "Detach; the node keeps" in stage.text
        assert "Leave the cluster" not in stage.text
        await stage.press("escape", "q")  # detaches without a confirmation
    assert stage.app.return_code == 0
    assert host.left == 1


async def test_a_late_trace_answer_counts_with_its_arrival_time_and_is_marked() -> None:
    host = of_each_kind()
    prompt, late = TraceAnswer(an_id(1), 1, 2, 90), TraceAnswer(an_id(2), 1, 0, 6_200)
    trace = a_trace(1, 0)._replace(answers=(late, prompt))
    assert (trace.p50_ms, trace.last_ms) == (2, 6_200)
    async with staged(host) as stage:
        host.happen(TraceUpdated(trace))
        await stage.press("t")
        assert "last ≤6.2s" in stage.text
        assert "p50 2ms" in stage.text
        assert "1 confirmed late" in stage.text
        assert "<1ms" not in stage.text


async def test_pausing_shows_since_when() -> None:
    async with staged(of_each_kind()) as stage:
        await stage.press("space")
        assert "PAUSED at " in stage.text


async def test_details_of_a_lost_node_show_since_when() -> None:
    host = of_each_kind()
    async with staged(host) as stage:
        await stage.press("1", "g", "enter")
        host.peers, host.members = host.peers[1:], host.members[1:]
        await stage.paint()
        stage.app.screen.show()  # type: ignore[attr-defined]
        await stage.paint()
        assert "no longer known: as of " in stage.text


async def test_a_sort_sign_stands_with_its_heading_and_apart_from_the_next() -> None:
    async with staged(of_each_kind(), size=(80, 24)) as stage:
        table = stage.main.peers
        await stage.press("1")
        for index, column in enumerate(table._columns):
            table.sort_by(SortOrder(index))
            await stage.paint()
            if table._widths[index]:
                heading = next(line for line in stage.text.split("\n") if "state" in line)
                assert f"{column.title}▲ " in heading
