"""Keys sort and filter tables, and the cursor stays on its row."""

from __future__ import annotations

import pytest

from grapevine_proto.events import PeerState, Via
from grapevine_proto.ids import Address
from grapevine_tui.app.widgets.peer_table import address_sort_key
from grapevine_tui.host.timeseries import AuthorTable
from tests.tui.fake_host import FakeHost
from tests.tui.stage import Stage, staged
from tests.tui.values import a_message, a_peer, an_id, received

pytestmark = pytest.mark.asyncio


def three() -> FakeHost:
    host = FakeHost()
    host.peers = [
        a_peer(1, "bob", zone="eu-west", rtt_s=0.05, address=Address("10.0.0.10", 8000)),
        a_peer(2, "carol", zone="us-east", rtt_s=None, address=Address("10.0.0.9", 8000)),
        a_peer(3, "dave", zone="eu-west", rtt_s=0.001, state=PeerState.STALE),
    ]
    return host


def names(stage: Stage) -> list[str]:
    return [row.cells[1].text for row in stage.main.peers.rows]


async def test_s_sorts_by_each_column_in_turn_and_r_the_other_way() -> None:
    async with staged(three()) as stage:
        await stage.press("escape", "1")
        assert names(stage) == ["bob", "carol", "dave"]
        await stage.press("s", "r")
        assert names(stage) == ["dave", "bob", "carol"]
        assert "state▼ " in stage.text
        await stage.press("s", "s")
        assert "address▲ " in stage.text
        assert stage.main.peers.rows[0].cells[2].text == "10.0.0.7:8003"
        assert stage.main.peers.rows[1].cells[2].text == "10.0.0.9:8000"
        await stage.press("s", "s")
        assert "rtt▲ " in stage.text
        assert names(stage) == ["dave", "bob", "carol"]
        await stage.press("s", "s", "s")
        assert stage.main.peers.row_order is None
        assert names(stage) == ["bob", "carol", "dave"]


async def test_a_column_is_named_to_sort_by_and_unknown_values_come_last_either_way() -> None:
    host = FakeHost()
    host.peers = [
        a_peer(1, "ann", rtt_s=0.02),
        a_peer(2, "bob", rtt_s=0.2),
        a_peer(3, "carol", state=PeerState.DISCONNECTED),
        a_peer(4, "dave", rtt_s=0.1),
    ]

    async with staged(host) as stage:
        await stage.press("1", "R")
        assert names(stage) == ["bob", "dave", "ann", "carol"]
        await stage.press("R")
        assert names(stage) == ["ann", "dave", "bob", "carol"]
        await stage.submit("/peers")
        await stage.submit("/sort peer")
        assert names(stage) == ["ann", "bob", "carol", "dave"]
        await stage.submit("/sort rt")
        assert names(stage)[0] == "bob"
        await stage.submit("/sort nonsense")
        assert "no column is named 'nonsense'; columns: state, peer" in stage.text
        await stage.press("escape", "4", "R")  # rounds have no such column: nothing happens
        assert stage.main.rounds.row_order is None


async def test_a_name_that_others_contain_is_followed_by_its_id() -> None:
    host = FakeHost()
    host.peers = [a_peer(1, "web-1"), a_peer(2, "web-10"), a_peer(3, "two words")]
    async with staged(host) as stage:
        for line, expected in (
            ("/follow web-1", f"from:{an_id(1)}"),
            ("/follow web-10", "from:web-10"),
            ('/follow "two words"', 'from:"two words"'),
        ):
            await stage.submit(line)
            assert stage.main.log_view.filter_query.text == expected
        await stage.submit("/follow nobody")
        assert "no single node is named 'nobody'" in stage.text


async def test_a_click_on_a_heading_sorts_by_it_and_again_the_other_way() -> None:
    async with staged(three()) as stage:
        await stage.pilot.click("#peers", offset=(13, 1))
        await stage.paint()
        assert "peer▲" in stage.text.replace(" ", "")
        await stage.pilot.click("#peers", offset=(13, 1))
        await stage.paint()
        assert names(stage) == ["dave", "carol", "bob"]


async def test_the_cursor_stays_with_its_row_through_sorting_and_filtering() -> None:
    host = three()
    host.peers += [a_peer(number, f"extra{number:02}") for number in range(10, 60)]
    async with staged(host) as stage:
        await stage.press("escape", "1", "j")
        assert stage.main.peers.cursor_key == an_id(2)
        await stage.press("s", "s", "r")
        assert stage.main.peers.cursor_key == an_id(2)
        assert "carol" in stage.text  # and is in view
        await stage.press("slash", *"zone:us", "enter")
        assert names(stage) == ["carol"]
        assert stage.main.peers.cursor_key == an_id(2)
        await stage.press("escape")
        assert stage.main.peers.cursor_key == an_id(2)
        assert "carol" in stage.text


async def test_slash_filters_peers_as_one_types_and_escape_clears() -> None:
    async with staged(three()) as stage:
        await stage.press("escape", "1", "slash", *"eu-w")
        assert names(stage) == ["bob", "dave"]
        assert "2 match eu-w" in stage.text
        await stage.press("enter")
        assert stage.focused == "peers"
        assert "2 match eu-w" in stage.text
        await stage.press("slash", *" q[/nope]", "enter")
        assert names(stage) == []
        assert "Nothing matches" in stage.text
        await stage.press("escape")
        assert names(stage) == ["bob", "carol", "dave"]
        assert "match" not in stage.text
        await stage.press("slash", *"dave", "escape")
        assert names(stage) == ["bob", "carol", "dave"]


async def test_the_message_log_is_filtered_while_typing_and_counts_matches() -> None:
    host = three()
    async with staged(host) as stage:
        for number in range(100):
            host.happen(received(1 + number % 2, number, f"line {number}".encode()))
        await stage.press("escape", "2", "slash", *"from:bob 8")
        assert "14 match from:bob 8 · following" in stage.text
        assert "line 88" in stage.text
        assert "line 81" not in stage.text  # carol's
        await stage.press("enter")
        host.happen(received(2, 200, b"line 888"), received(1, 201, b"line 889"))
        await stage.paint()
        assert "15 match" in stage.text
        assert "line 889" in stage.text
        assert "line 888" not in stage.text
        await stage.press("k", "enter")
        assert stage.has_sheet
        assert "line 889" in stage.text
        await stage.press("escape", "escape")
        assert "match" not in stage.text
        assert "line 888" in stage.text


async def test_the_cursor_stays_with_its_message_when_a_filter_is_set_and_cleared() -> None:
    async with staged(three()) as stage:
        for number in range(100):
            stage.host.happen(received(1, number, f"line {number}.".encode()))
        await stage.paint()
        await stage.press("escape", "2", *["k"] * 20)
        here = stage.main.log_view.cursor_entry
        assert here is not None
        await stage.press("slash", *"-line", "backspace", "backspace", "backspace", "backspace")
        await stage.press("escape")
        await stage.press("slash", *"0.", "enter")
        after = stage.main.log_view.cursor_entry
        assert after is not None
        assert after.number == 80
        assert here.number == 80
        await stage.press("escape")
        assert stage.main.log_view.cursor_entry == after
        assert "line 80." in stage.text


async def test_messages_are_filtered_by_direct_and_repair() -> None:
    async with staged(three()) as stage:
        from grapevine_proto.events import MessageReceived

        stage.host.happen(
            MessageReceived(a_message(1, 0, b"line 0", is_direct=True)),
            MessageReceived(a_message(1, 1, b"line 1", via=Via.REPAIR)),
            MessageReceived(a_message(1, 2, b"line 2")),
        )
        await stage.press("escape", "2", "slash", *"private:")
        assert "line 0" in stage.text
        assert "line 1" not in stage.text
        await stage.press("escape", "slash", *"via:repair", "enter")
        assert "line 1" in stage.text
        assert "1 match via:repair" in stage.text


async def test_an_untrusted_filter_that_is_pasted_only_matches_nothing() -> None:
    from textual.events import Paste

    async with staged(three()) as stage:
        await stage.press("escape", "2", "slash")
        stage.main.filter_bar.line_input.post_message(Paste("\x1b]0;x\x07[/nope]\nmore"))
        await stage.paint()
        assert "0 match \\x1b]0;x\\x07[/nope]" in stage.text
        for line in stage.text.split("\n"):
            assert line.isprintable()


@pytest.mark.parametrize("size", [(80, 24), (60, 14), (40, 12), (39, 11), (1, 1)])
async def test_filters_stand_every_size(size: tuple[int, int]) -> None:
    async with staged(three(), size=(120, 36)) as stage:
        await stage.press("escape", "1", "slash", "b")
        await stage.resize(*size)
        await stage.press("o", "enter", "s", "r", "escape", "4", "slash", "x", "escape")
        await stage.resize(120, 36)
        assert stage.app.is_running


async def test_addresses_are_ordered_by_number() -> None:
    hosts = ["10.0.0.9", "10.0.0.10", "::1", "9.255.255.255"]
    ordered = sorted((Address(host, 1) for host in hosts), key=address_sort_key)
    assert [each.host for each in ordered] == ["9.255.255.255", "10.0.0.9", "10.0.0.10", "::1"]
    assert address_sort_key(None) > address_sort_key(ordered[-1])


async def test_the_key_line_offers_no_letter_where_one_types() -> None:
    async with staged(three()) as stage:
        await stage.press("i")
        assert "Filter" not in stage.text.split("\n")[-1]
        await stage.press("escape")
        assert "/ Filter" in stage.text.split("\n")[-1]
        await stage.press("slash")
        assert "Keep" in stage.text.split("\n")[-1]
        assert "/ Filter" not in stage.text.split("\n")[-1]


async def test_a_switches_the_rate_limits_to_messages_by_author() -> None:
    host = FakeHost()
    host.peers = [a_peer(1, "bob"), a_peer(2, "carol")]
    for second in range(3):
        host.node.time = 100.0 + second
        for number in range(3):
            host.happen(received(1, second * 10 + number, b"x" * 100))
        host.happen(received(3, second, b"y"))
        host.refresh()
    async with staged(host) as stage:
        await stage.press("escape", "3", "a")
        assert "Rate limits · 2 authors" in stage.text
        lines = [line for line in stage.text.split("\n") if "75%" in line or "25%" in line]
        assert "bob" in lines[0]
        assert an_id(3).short in lines[1]
        assert " 9 " in lines[0]
        assert "900 B" in lines[0]
        await stage.press("slash", *"bob", "enter")
        assert "1 match bob" in stage.text
        await stage.press("escape", "s", "a")
        assert "Rate limits · 0 throttled" in stage.text
        assert "12,401" in stage.text


async def test_authors_beyond_what_is_kept_are_counted() -> None:
    authors = AuthorTable(limit=3)
    for number in (1, 2, 3, 1, 4):
        authors.add(a_message(number, 1))
    assert set(authors.all()) == {an_id(1), an_id(3), an_id(4)}
    assert authors.evicted == 1
