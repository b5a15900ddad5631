"""At every size words are wrapped rather than cut, and panels share the spare lines."""

from __future__ import annotations

import pytest

from tests.tui.fake_host import FakeHost
from tests.tui.stage import Stage, staged
from tests.tui.values import a_peer

pytestmark = pytest.mark.asyncio

SMALL = (40, 12)


def whole(stage: Stage) -> str:
    """Return the words on the screen without line breaks and borders."""
    return " ".join(stage.text.replace("│", " ").split())


def with_peers(count: int) -> FakeHost:
    host = FakeHost()
    host.peers = [a_peer(number, f"node-{number}") for number in range(count)]
    return host


async def test_the_text_of_an_empty_panel_is_wrapped_and_not_truncated() -> None:
    async with staged(size=SMALL) as stage:
        assert "No messages yet. Press i to write one." in whole(stage)
        await stage.press("escape", "1")
        assert "No peers yet. Press c to connect to an address." in whole(stage)
        await stage.resize(30, 8)
        assert "No messages yet." in whole(stage)
        assert "Press i" not in whole(stage)  # there is no box


async def test_a_title_on_a_small_screen_keeps_what_fits() -> None:
    async with staged(size=SMALL) as stage:
        await stage.press("escape", "4")
        assert "next in" in stage.text
        await stage.submit("/trace hello")
        assert "…" not in stage.text.splitlines()[0]


async def test_tables_are_no_higher_than_their_rows_and_never_shrink_under_the_eye() -> None:
    host = with_peers(5)
    async with staged(host) as stage:
        peers, rates = stage.main.peers, stage.main.rates
        assert (peers.outer_size.height, rates.outer_size.height) == (8, 8)
        host.peers = with_peers(7).peers
        await stage.paint()
        assert peers.outer_size.height == 10
        host.peers = with_peers(1).peers
        await stage.paint()
        assert peers.outer_size.height == 10
        await stage.press("escape", "1", "z")
        assert peers.outer_size.height > 20  # it fills the screen
        await stage.press("z")
        assert peers.outer_size.height == 8
        host.peers = with_peers(50).peers
        await stage.paint()
        assert 10 < peers.outer_size.height < 20  # its share


async def test_an_empty_curve_is_one_line() -> None:
    async with staged(with_peers(2)) as stage:
        await stage.press("escape", "T")
        assert "lost  none in the last 1 min" in stage.text
        assert "highest" not in stage.text.splitlines()[3]
