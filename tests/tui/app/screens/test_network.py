"""The screens of the whole network, over made-up answers."""

from __future__ import annotations

import pytest

from grapevine_proto.errors import TooManyQueries
from grapevine_proto.events import TraceUpdated
from grapevine_tui.app.screens.network import HoldersScreen, MatrixScreen, TopologyScreen
from grapevine_tui.host.views import ShowHolders, ShowMatrix, ShowTopology
from tests.tui.stage import staged
from tests.tui.values import a_trace, received


@pytest.mark.asyncio
async def test_the_matrix_shows_zones_numbers_and_the_age_of_what_is_shown() -> None:
    async with staged() as stage:
        await stage.press("escape", "X")
        await stage.paint()
        assert isinstance(stage.app.screen, MatrixScreen)
        assert stage.host.views == [ShowMatrix()]
        assert "7 of 9 answered" in stage.text
        assert "s ago" in stage.text
        assert "~" in stage.text


@pytest.mark.asyncio
async def test_the_topology_is_asked_again_on_request_and_shows_the_tree_of_the_latest_trace() -> (
    None
):
    async with staged() as stage:
        await stage.press("escape", "O")
        await stage.paint()
        assert isinstance(stage.app.screen, TopologyScreen)
        assert "half-seen" in stage.text
        await stage.press("U")
        assert stage.host.views == [ShowTopology(), ShowTopology()]
        await stage.press("o")
        assert stage.host.views == [ShowTopology(), ShowTopology()], "no trace yet"
        trace = a_trace(1, 5, 2)
        stage.host.happen(TraceUpdated(trace))
        await stage.press("o")
        assert stage.host.views[-1] == ShowTopology(str(trace.id))


@pytest.mark.asyncio
async def test_a_key_on_a_message_shows_its_holders_missing_ones_first() -> None:
    async with staged() as stage:
        event = received(1, 7, b"deploy 7")
        message = event.message
        stage.host.happen(event)
        await stage.paint()
        await stage.press("escape", "2", "G", "h")
        await stage.paint()
        assert isinstance(stage.app.screen, HoldersScreen)
        assert stage.host.views == [ShowHolders(str(message.id))]
        assert "1 do not" in stage.text
        assert stage.text.index("nyc-2") < stage.text.index("ams-2")


@pytest.mark.asyncio
async def test_the_slash_commands_open_the_screens_and_tell_a_round_trip_time() -> None:
    async with staged() as stage:
        await stage.submit("/rtt nyc-1")
        assert "~83 ms" in stage.text
        await stage.submit("/topology")
        assert isinstance(stage.app.screen, TopologyScreen)
        await stage.press("escape")
        await stage.submit("/has 00ff:1:1")
        assert isinstance(stage.app.screen, HoldersScreen)


@pytest.mark.asyncio
async def test_an_error_is_shown_and_the_last_answer_stays() -> None:
    async with staged() as stage:
        await stage.press("escape", "O")
        await stage.paint()
        stage.host.fails.query = TooManyQueries("16 queries are open")
        await stage.press("U")
        await stage.paint()
        assert "16 queries are open" in stage.text
        assert "eu-west" in stage.text


@pytest.mark.parametrize("size", [(200, 60), (80, 24), (40, 12)])
@pytest.mark.asyncio
async def test_every_screen_fits_every_size(size: tuple[int, int]) -> None:
    async with staged(size=size) as stage:
        for key in ("O", "X"):
            await stage.press("escape", key)
            await stage.paint()
            assert "ams" in stage.text
