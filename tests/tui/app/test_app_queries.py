"""Queries of an operator: equal answers together, slow ones beside other lines, keys before a command."""

from __future__ import annotations

import pytest

from grapevine_proto.errors import GrapevineError, NoMatchingMember
from grapevine_tui.app import command_runner
from grapevine_tui.host.ask_members import AskMembers
from grapevine_tui.host.model import MAX_QUERIES
from tests.tui.fake_host import FakeHost
from tests.tui.stage import staged
from tests.tui.values import a_member, a_peer, an_id, received

pytestmark = pytest.mark.asyncio


def peopled() -> FakeHost:
    host = FakeHost()
    host.peers = [a_peer(1, "bob"), a_peer(2, "carol")]
    host.members = [a_member(1, "bob"), a_member(2, "carol")]
    host.happen(received(1, 1, b"hello"))
    return host


async def test_answers_to_a_query_are_shown_by_equal_ones() -> None:
    host = peopled()
    common = {"index": 0, "hops": 1, "delay_ms": 1, "arrived_ms": 9, "bytes": 5}
    texts = {1: ("answered", "1.4.2"), 2: ("answered", "1.4.2"), 3: ("failed", "boom[/]")}
    answers = [
        common | {"peer_id": str(an_id(number)), "status": status, "text": text, "base64": text}
        for number, (status, text) in texts.items()
    ]
    host.answers = {"answered": 2, "asked": 4, "last_ms": 9, "end": "stalled", "answers": answers}
    host.answers["unanswered"] = [str(an_id(4))]
    async with staged(host) as stage:
        await stage.submit("/query grapevine.version")
        assert host.queries == [AskMembers("grapevine.version")]
        assert stage.app.screen.name == "queries"
        await stage.paint()
        for expected in ("2 of 4 members answered within 9 ms (stalled)", "2 members", "1.4.2"):
            assert expected in stage.text
        for expected in ("bob, carol", "failed: boom[/]", "no answer"):
            assert expected in stage.text
        await stage.press("escape")
        await stage.submit("/query")
        assert "missing NAME" in stage.text


SLOW_REPLY = {"answered": 3, "asked": 3, "last_ms": 900, "end": "complete"}


async def test_a_slow_query_keeps_no_line_waiting_and_is_reported_where_the_operator_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(command_runner, "QUICK_ANSWER_S", 0.0)
    host = peopled()
    host.answers = SLOW_REPLY | {"answers": [], "unanswered": []}
    host.answering.clear()
    async with staged(host) as stage:
        await stage.submit("/query --zone eu --limit 2 --sample 9 --timeout 20 disk of[/] db")
        assert host.queries == [AskMembers("disk", b"of[/] db", "eu", None, 2, 9, 20)]
        assert stage.app.screen.name == "queries"
        assert "waiting for answers" in stage.text
        assert "disk of[/] db" in stage.text
        await stage.press("escape")
        await stage.submit("said meanwhile")
        assert host.broadcasts == [b"said meanwhile"]
        host.answering.set()
        await stage.paint()
        assert "3 of 3 members answered" in stage.text
        assert "/queries shows the answers" in stage.text
        assert "3 of 3 members answered" in host.model.commands[-1].text
        await stage.submit("/queries")
        assert "within 900 ms (complete)" in stage.text


async def test_queries_are_looked_through_and_a_new_one_is_begun_by_a_key() -> None:
    host = peopled()
    host.answers = SLOW_REPLY | {"answers": [], "unanswered": []}
    async with staged(host) as stage:
        await stage.submit("/queries")
        assert "No queries yet" in stage.text
        await stage.press("left", "plus")
        assert stage.main.compose_box.draft.text == "/query "
        for number in range(MAX_QUERIES + 1):
            await stage.submit(f"/query load {number}")
            await stage.press("escape")
        assert len(host.model.queries) == MAX_QUERIES
        await stage.submit("/queries")
        assert f"load {MAX_QUERIES}," in stage.text
        assert f"{MAX_QUERIES} of {MAX_QUERIES}" in stage.text
        await stage.press("left")
        assert f"load {MAX_QUERIES - 1}," in stage.text
        await stage.press("right", "right")
        assert f"load {MAX_QUERIES}," in stage.text


async def test_a_query_refused_at_once_stays_a_line_and_one_that_fails_later_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = peopled()
    host.fails.query = NoMatchingMember("no member matches the filter")
    async with staged(host) as stage:
        await stage.submit("/query load --zone mars")
        assert "no member matches the filter" in stage.text
        assert stage.main.compose_box.draft.text == "/query load --zone mars"
        assert not host.model.queries
        monkeypatch.setattr(command_runner, "QUICK_ANSWER_S", 0.0)
        host.fails.query = None
        host.answering.clear()
        failing = host.query

        async def fail(ask: AskMembers) -> dict[str, object]:
            await failing(ask)
            raise GrapevineError("the node is gone[/]")

        monkeypatch.setattr(host, "query", fail)
        await stage.press("enter")
        assert stage.app.screen.name == "queries"
        host.answering.set()
        await stage.paint()
        assert "the node is gone[/]" in stage.text


@pytest.mark.parametrize("line", ["i/query load", ":query load", "1/query load"])
async def test_a_command_behind_a_stray_key_is_run_and_never_broadcast(line: str) -> None:
    host = peopled()
    host.answers = SLOW_REPLY | {"answers": [], "unanswered": []}
    async with staged(host) as stage:
        stage.main.compose_box.draft.focus()
        await stage.press(*line, "enter")
        assert "not sent: Enter runs /query" in stage.text
        assert stage.main.compose_box.draft.text == "/query load"
        await stage.press("enter")
        assert [each.name for each in host.queries] == ["load"]
        assert host.broadcasts == []


async def test_a_text_that_looks_like_a_command_behind_a_key_is_sent_at_the_second_time() -> None:
    host = peopled()
    async with staged(host) as stage:
        await stage.submit("a/query is a path")
        assert host.broadcasts == []
        await stage.press("up", "enter")
        assert host.broadcasts == [b"a/query is a path"]
