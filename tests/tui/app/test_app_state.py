"""The keyed state and tags in the app: what members share, what decides, and what each says of itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grapevine_proto.events import EntryInfo, KeyInfo, MessageReceived
from grapevine_tui.app.screens.detail import DetailScreen
from grapevine_tui.app.screens.members import MembersScreen
from grapevine_tui.app.screens.state import StateScreen
from tests.tui.fake_host import FakeHost
from tests.tui.stage import Stage, staged
from tests.tui.values import a_member, a_message, a_peer, an_entry, an_entry_info

pytestmark = pytest.mark.asyncio

HOSTILE = "x\x1b[2J[@click=app.quit]y"


def a_key(key: str, *entries: EntryInfo) -> KeyInfo:
    """Return a key that the first of `entries` decides."""
    winner, *others = entries
    return KeyInfo(key, winner, tuple(each._replace(is_winner=False) for each in others))


def peopled() -> FakeHost:
    host = FakeHost()
    host.peers = [a_peer(1, "bob"), a_peer(2, "carol")]
    host.members = [
        replace(a_member(1, "bob"), tags={"role": "web", "rack": "7"}),
        replace(a_member(2, "carol"), tags={"role": "db"}),
        replace(a_member(3, "eve"), tags={HOSTILE: HOSTILE}),
    ]
    host.keys = [
        a_key(
            "cfg/limit",
            an_entry_info(1, "cfg/limit", b"20 MB", clock=7),
            an_entry_info(2, "cfg/limit", b"10 MB", clock=3),
        ),
        a_key("cfg/old", an_entry_info(2, "cfg/old", None)),
        a_key("lease", an_entry_info(2, "lease", b"carol", ttl_s=60, remaining_s=30.0)),
        a_key("over", an_entry_info(2, "over", None, ttl_s=60)),
        a_key("odd", an_entry_info(3, "odd", HOSTILE.encode(), is_durable=True)),
    ]
    return host


def line_with(stage: Stage, text: str) -> str:
    """Return the line of the screen that contains `text`."""
    return next(line for line in stage.text.splitlines() if text in line)


async def test_each_key_is_shown_with_its_winner_and_the_losing_entries_below() -> None:
    async with staged(peopled()) as stage:
        await stage.press("K")
        assert isinstance(stage.app.screen, StateScreen)
        assert "State 5" in stage.text
        lines = [line for line in stage.text.splitlines() if "cfg/limit" in line]
        assert "20 MB" in lines[0]
        assert "bob" in lines[0]
        assert "└ cfg/limit" in lines[1]
        assert "10 MB" in lines[1]
        assert "loses" in lines[1]
        assert "(deleted)" in line_with(stage, "cfg/old")
        assert "(expired)" in line_with(stage, "over")
        assert "durable" in line_with(stage, "odd")
        assert line_with(stage, "lease").count(":") == 2, "the time of day at which it ends"
        assert all(line.isprintable() for line in stage.text.splitlines())
        assert "[@click=app.quit]y" in stage.text
        await stage.press("g", "enter")
        assert isinstance(stage.app.screen, DetailScreen)
        for expected in ("winner: the key has this value", "20 MB", "bob", "version"):
            assert expected in stage.text
        await stage.press("y")
        assert stage.app.clipboard == "20 MB"
        await stage.press("Y")
        assert stage.app.clipboard == "cfg/limit"


async def test_the_screen_follows_changes_and_says_when_an_entry_is_gone() -> None:
    host = peopled()
    async with staged(host) as stage:
        await stage.submit("/state list cfg/")
        assert "cfg/" in line_with(stage, "State 2")
        assert "lease" not in stage.text
        host.keys = [a_key("cfg/limit", an_entry_info(2, "cfg/limit", b"10 MB", clock=3))]
        host.happen(an_entry(1, "cfg/limit", None))
        await stage.paint()
        assert "State 1" in stage.text
        assert "20 MB" not in stage.text
        await stage.press("enter")
        host.keys = []
        host.happen(an_entry(2, "cfg/limit", None))
        await stage.paint()
        stage.app.screen.show()  # type: ignore[attr-defined]
        await stage.paint()
        assert "no longer known" in stage.text


async def test_a_filter_finds_keys_owners_and_values() -> None:
    async with staged(peopled()) as stage:
        await stage.press("K", "slash", *"owner:carol value:MB")
        table = stage.app.screen.query_one("#state")
        assert [row.key[0] for row in table.rows] == ["cfg/limit"]  # type: ignore[attr-defined]
        await stage.press("enter", "escape")
        assert "lease" in stage.text
        await stage.press("escape")
        assert stage.app.screen is stage.main


async def test_the_state_is_read_and_changed_by_word() -> None:
    host = peopled()
    async with staged(host) as stage:
        await stage.submit("/state get cfg/limit")
        assert "cfg/limit = 20 MB" in stage.text
        await stage.submit("/state get cfg/old")
        assert "cfg/old has no value" in stage.text
        await stage.submit("/state set --ttl 60 --durable cfg/new on and off")
        given = {"ttl_s": 60, "durable": True}
        assert host.state_calls[-1] == ("set", "cfg/new", b"on and off", given)
        assert "cfg/new is set" in stage.text
        assert "state set cfg/new: 10 bytes" in host.model.commands[-1].text
        await stage.submit("/state del lease")
        assert "lease is deleted" in stage.text
        await stage.submit("/state del nothing")
        assert "nothing had no value" in stage.text
        await stage.submit("/state set cfg/new")
        assert "needs a value" in stage.text


async def test_tags_are_changed_by_word_and_shown_beside_members() -> None:
    host = peopled()
    async with staged(host, size=(200, 40)) as stage:
        await stage.submit("/tags")
        assert "this node has no tags" in stage.text
        await stage.submit("/tags set role=web zone=eu")
        assert "tags: role=web zone=eu" in stage.text
        assert "tags set role=web zone=eu" in host.model.commands[-1].text
        await stage.submit("/tags unset zone")
        assert host.own_tags == {"role": "web"}
        assert "rack=7 role=web" in line_with(stage, "bob"), "in the peers"
        await stage.submit("/members --tag role=web")
        assert isinstance(stage.app.screen, MembersScreen)
        assert "rack=7 role=web" in line_with(stage, "bob")
        assert "carol" not in stage.text
        await stage.press("escape")
        assert "carol" in stage.text
        assert all(line.isprintable() for line in stage.text.splitlines())
        await stage.press("escape", "escape", "S")
        assert "role=web" in line_with(stage, "tags")


async def test_tags_select_rows_and_messages() -> None:
    host = peopled()
    async with staged(host) as stage:
        host.happen(MessageReceived(a_message(1, 1, b"of the web")))
        host.happen(MessageReceived(a_message(2, 1, b"of the database")))
        await stage.paint()
        await stage.press("escape", "2", "slash", *"tag:role=web", "enter")
        assert "of the web" in stage.text
        assert "of the database" not in stage.text
        await stage.press("1", "slash", *"tag:role=db", "enter")
        assert [row.key for row in stage.main.peers.rows] == [a_peer(2).peer_id]
