"""Searching: the same words match as in the filter of the log, whatever the index does."""

from __future__ import annotations

import itertools
import random
import sqlite3
import time
from contextlib import closing
from typing import Any

import pytest

from grapevine_proto.events import NodeStarted, Stats, Via
from grapevine_proto.ids import Address
from grapevine_tui.history import search as module
from grapevine_tui.history import writer as writer_module
from grapevine_tui.history.database import open_for_reading
from grapevine_tui.history.records import to_key
from grapevine_tui.history.search import MAX_KEY, Place, search_events, search_messages
from grapevine_tui.history.terms import parse_query
from grapevine_tui.host.model import Model
from grapevine_tui.host.query import compile_filter
from tests.tui.history.conftest import NOW, Bookshelf
from tests.tui.hostile import HOSTILE
from tests.tui.values import a_message, a_peer, an_id

WORDS = (
    "deploy",
    "Redeploy",
    "error",
    "ERROR",
    "ok",
    "api-7",
    "größe",
    "GRÖSSE",
    "日本語のテスト",
    "a",
    "",
    "--",
    '"',
)


def test_a_word_is_found_anywhere_in_the_text_and_in_the_name_of_the_author(
    shelf: Bookshelf,
) -> None:
    shelf.add("Redeploy of api", origin=1, name="ann")
    shelf.add("cache warm", origin=2, name="deploybot")
    shelf.add("cache cold", origin=1, name="ann")
    assert shelf.texts("deploy") == ["Redeploy of api", "cache warm"]
    assert shelf.texts("DEPLOY warm") == ["cache warm"]
    assert shelf.texts("-deploy") == ["cache cold"]
    assert shelf.texts("ploy-of") == []


def test_fields_narrow_the_search(shelf: Bookshelf) -> None:
    shelf.add("one", origin=1, name="ann", topic="deploy.web", via=Via.REPAIR, hops=1)
    shelf.add("two", origin=2, name="bob", topic="deploy.db", hops=5)
    shelf.add("three" * 100, origin=2, name="bob")
    shelf.add("four", origin=3, is_direct=True, to=an_id(1))
    assert shelf.texts("from:bob two") == ["two"]
    assert shelf.texts(f"from:{str(an_id(1))[:8]}") == ["one"]
    assert shelf.texts("topic:deploy.>") == ["one", "two"]
    assert shelf.texts("topic:deploy.w") == []
    assert shelf.texts("via:repair") == ["one"]
    assert shelf.texts("hops:>4") == ["two"]
    assert shelf.texts("bytes:>100") == ["three" * 100]
    assert shelf.texts("private:") == shelf.texts(f"to:{str(an_id(1))[:6]}") == ["four"]
    assert shelf.texts("-from:bob -private:yes") == ["one"]
    assert shelf.texts("from:nobody") == []


def test_the_zone_is_that_of_the_author_at_the_time(shelf: Bookshelf) -> None:
    row = shelf.add("here")
    shelf.writer.put(row._replace(zone="eu-west", key=row.key + 1))
    shelf.add("there", origin=2)
    assert len(shelf.texts("zone:eu")) == 2
    assert shelf.texts("-zone:eu") == ["there"]


def test_the_same_words_match_as_in_the_filter_of_the_log_with_and_without_the_index(
    shelf: Bookshelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "MAX_PART_ROWS", 40)
    rng = random.Random(7)
    model = Model()
    names = {1: "ann", 2: "Deploy-Bot", 3: ""}
    model.refresh([a_peer(n, names[n], zone="") for n in names], [], model.stats, 0.0)
    rows = []
    for index in range(300):
        text = " ".join(rng.choices(WORDS, k=rng.randrange(6)))
        origin = rng.choice(list(names))
        changes: dict[str, Any] = {"hops": rng.randrange(4), "via": rng.choice(list(Via))}
        changes["topic"] = rng.choice(("", "deploy.web", "deploy", "cache"))
        if index % 10 == 0:
            changes |= {"is_direct": True, "to": an_id(rng.choice(list(names)))}
        rows.append(shelf.add(text, origin=origin, name=names[origin], at=NOW + index, **changes))
    shelf.flush()
    queries = [*WORDS, "deploy error", "-error", "ok -deploy", "from:ann error", "hops:>1 ö", "via:rep ok",
               "from:a", "error from:deploy", "to:ann", "to:deploy -from:ann", f"to:{str(an_id(3))[:6]}",
               "private:", "private:no ok", "topic:deploy.>", "topic:de",
               "-topic:>", "zone:eu", "bytes:<10", "bytes:many", "id:00", "unknown:field",
               "deploy|error", "-ok|error", "from:ann|deploy ok", '"a|b"', "via:rep|lazy nothing|ok",
               '"api-7 deploy"', "ploy", "eploy ERR",
               "語のテ", "nothing-here"]  # fmt: skip
    for words in queries:
        matches = compile_filter(parse_query(words), model)
        expected = [each.message.payload for each in rows if matches(each.message)]
        found = shelf.search(words, limit=1000).rows
        assert [each.message.payload for each in found] == expected, words
    shelf.writer.run(lambda _, connection: [
        connection.execute(f"DROP TABLE index_{number}")
        for (number,) in connection.execute("SELECT number FROM parts").fetchall()
    ], 60.0)  # fmt: skip
    for words in queries:
        matches = compile_filter(parse_query(words), model)
        assert len(shelf.search(words, limit=1000).rows) == sum(
            matches(each.message) for each in rows
        ), words


def test_hostile_text_is_kept_found_and_never_syntax(shelf: Bookshelf) -> None:
    texts = [text.encode(errors="replace").decode() for text in HOSTILE]
    for index, text in enumerate(texts):
        shelf.add(f"{text} ·{index}·", name=text, topic="t", origin=index, at=NOW + index)
    shelf.flush()
    for index, text in enumerate(texts):
        words = text.replace('"', "").strip()
        found = search_messages(shelf.path, parse_query(f'"{words}" ·{index}·')).rows
        assert [each.message.payload.decode() for each in found] == [f"{text} ·{index}·"]
        search_messages(shelf.path, parse_query(text))


@pytest.mark.parametrize(
    "words",
    ['"', "'", "a OR b", 'x" OR 1', "NEAR(a b)", "col:x", "text:abc", "^abc", "abc*", "a AND NOT", "%", "_",
     "\\", "'; DROP TABLE messages; --", '""""', "(((", "*:*", "abc\0def", "-" * 100, "rowid:5"],
)  # fmt: skip
def test_the_syntax_of_the_index_and_of_sql_is_plain_text(shelf: Bookshelf, words: str) -> None:
    shelf.add(f"before {words} after".replace('"', ""))
    shelf.add("unrelated")
    plain = words.replace('"', "")
    if plain.strip("- "):
        assert shelf.texts(f'"{plain}"') == [f"before {plain} after"]
    shelf.search(words)
    assert len(shelf.rows()) == 2


def test_binary_payloads_are_kept_and_not_indexed(shelf: Bookshelf) -> None:
    shelf.add(b"\xff\xfe\x00binary")
    shelf.add("text")
    assert [each.message.payload for each in shelf.rows()] == [b"\xff\xfe\x00binary", b"text"]
    assert len(shelf.search("-text").rows) == 1


def test_pages_lead_through_everything_once_in_both_directions(
    shelf: Bookshelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "MAX_PART_ROWS", 7)
    for index in range(50):
        shelf.add(f"message {index}", at=NOW + index)
    shelf.flush()
    backwards: list[str] = []
    page = shelf.search("message", limit=8)
    while True:
        backwards = [each.message.payload.decode() for each in page.rows] + backwards
        if page.older is None:
            break
        page = shelf.search("message", Place(before=page.older), 8)
    assert backwards == [f"message {n}" for n in range(50)]
    forwards: list[str] = []
    after: int | None = 0
    while after is not None:
        page = shelf.search("message", Place(after=after), 8)
        forwards += [each.message.payload.decode() for each in page.rows]
        after = page.newer
    assert forwards == backwards


def test_times_limit_and_place_the_page(shelf: Bookshelf) -> None:
    for index in range(60):
        shelf.add(f"minute {index}", at=NOW + 60 * index)

    def at(index: int) -> str:
        from datetime import datetime

        return datetime.fromtimestamp(NOW + 60 * index).isoformat()  # noqa: DTZ006

    assert shelf.texts(f"since:{at(57)}") == ["minute 57", "minute 58", "minute 59"]
    assert shelf.texts(f"before:{at(2)}") == ["minute 0", "minute 1"]
    assert shelf.texts(f"since:{at(10)} before:{at(12)} minute") == ["minute 10", "minute 11"]
    assert shelf.texts(f"at:{at(30)}", limit=4) == [
        "minute 28",
        "minute 29",
        "minute 30",
        "minute 31",
    ]
    around = shelf.search("", Place(around=to_key(NOW + 60 * 30)), 4)
    assert around.older is not None
    assert around.newer is not None
    assert shelf.texts("", Place(before=around.older), 1) == ["minute 27"]
    assert shelf.texts("", Place(after=around.newer), 1) == ["minute 32"]
    with pytest.raises(ValueError, match="since"):
        shelf.search("since:soon")


def test_imported_rows_of_another_time_keep_the_order(
    shelf: Bookshelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "MAX_PART_ROWS", 10)
    for index in range(20):
        shelf.add(f"message {index}", at=NOW + index)
        shelf.flush()
    for index in range(5):  # into the newest part
        shelf.add(f"message old {index}", at=NOW - 1000 + index)
    shelf.add("message newest", at=NOW + 100)
    texts = shelf.texts("message", limit=1000)
    assert texts == [
        *(f"message old {n}" for n in range(5)), *(f"message {n}" for n in range(20)), "message newest"
    ]  # fmt: skip
    assert shelf.texts("message", limit=8) == texts[-8:]


def test_a_page_looks_at_a_bounded_number_of_rows_and_says_where_it_stopped(
    shelf: Bookshelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SCANNED_ROWS", 10)
    shelf.add("needle", at=NOW - 100, hops=9)
    for index in range(25):
        shelf.add(f"hay {index}", at=NOW + index)
    page = shelf.search("hops:9")
    assert page.rows == []
    assert "go on" in page.note
    pages = 1
    while page.older is not None:
        page = shelf.search("hops:9", Place(before=page.older))
        pages += 1
    assert [each.message.payload for each in page.rows] == [b"needle"]
    assert pages == 3


def test_no_row_is_left_out_where_a_search_was_stopped(
    shelf: Bookshelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SCANNED_ROWS", 4)
    for index in range(30):
        shelf.add(f"line {index}", at=NOW + index)
        shelf.happen(f"event {index}", at=NOW + index)
    shelf.flush()
    for search, is_older in itertools.product((search_messages, search_events), (True, False)):
        found, pages = 0, 0
        key: int | None = MAX_KEY if is_older else 0
        while key is not None:
            place = Place(before=key) if is_older else Place(after=key)
            page = search(shelf.path, parse_query("/[0-9]/ /E/"), place)
            found += len(page.rows)
            key, pages = page.older if is_older else page.newer, pages + 1
            assert page.is_partial is (key is not None)
        assert (found, pages) == (30, 7)


def test_a_search_ends_after_the_time_that_the_caller_allows(
    shelf: Bookshelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(100):
        shelf.add(f"line {index}", at=NOW + index)
    shelf.flush()
    ticks = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: next(ticks) * 0.001)
    page = search_messages(shelf.path, parse_query("/never/"), search_s=0.02)
    assert page.is_partial
    assert "searched as far as" in page.note
    page = search_messages(shelf.path, parse_query("/never/"))
    assert not page.is_partial


@pytest.mark.parametrize("words", ["/dis[ck] FULL/", "from:/^bo/", "disk /full$/", "-/disk/"])
def test_an_expression_finds_the_same_in_the_history_as_in_the_log(
    shelf: Bookshelf, words: str
) -> None:
    texts = ("the disk full", "disk fuller", "disc full", "x")
    for text in texts:
        shelf.add(text, name="bob")
    model = Model()
    model.refresh([a_peer(1, "bob")], [], Stats(), 1.0)
    matches = compile_filter(parse_query(words), model)
    assert shelf.texts(words) == [e for e in texts if matches(a_message(1, 1, e.encode()))]
    assert shelf.texts(words)


def test_an_expression_finds_events_by_text_and_field(shelf: Bookshelf) -> None:
    shelf.happen("db-1 down", name="db-1", kind="peer", state="down")
    shelf.happen("web-1 up", name="web-1", kind="member", state="up", at=NOW + 1)
    assert shelf.events(r"/db-\d/") == shelf.events("peer:/^db/") == ["db-1 down"]
    assert shelf.events("state:/^u/") == shelf.events("-kind:/peer/") == ["web-1 up"]


def test_a_page_holds_a_bounded_number_of_bytes_and_the_beginning_of_long_payloads(
    shelf: Bookshelf,
) -> None:
    for index in range(20):
        shelf.add(f"{index} " + "x" * 200_000)
    rows = shelf.search().rows
    assert len(rows) == 16
    assert {len(each.message.payload) for each in rows} == {module.MAX_SHOWN_BYTES}
    fields = rows[-1].to_dict()
    assert fields["bytes"] == 200_003
    assert fields["truncated"] is True
    whole = search_messages(shelf.path, parse_query("bytes:>1"), Place(), 1, whole=True).rows
    assert len(whole[0].message.payload) == 200_003
    assert "truncated" not in whole[0].to_dict()


def test_a_damaged_row_is_left_out(shelf: Bookshelf) -> None:
    shelf.add("one")
    shelf.add("two")
    shelf.happen("event")
    shelf.flush()
    shelf.sql("UPDATE messages SET via = 'teleport' WHERE payload = x'6f6e65'")
    shelf.sql("UPDATE events SET peer_id = x'00'")
    assert shelf.texts() == ["two"]
    assert shelf.events() == []


def test_events_are_found_by_words_and_fields(shelf: Bookshelf) -> None:
    shelf.happen(
        "db-1 disconnected: silent for 6 s", name="db-1", peer_id=an_id(1), state="disconnected"
    )
    shelf.happen(
        "dial of 10.0.0.9:8000 failed: no answer", kind="dial", address="10.0.0.9:8000", at=NOW + 1
    )
    shelf.happen("db-1 connected again after 6 m", name="db-1", peer_id=an_id(1), at=NOW + 2)
    assert shelf.events("silent") == ["db-1 disconnected: silent for 6 s"]
    assert (
        shelf.events("kind:dial")
        == shelf.events("10.0.0.9")
        == ["dial of 10.0.0.9:8000 failed: no answer"]
    )
    assert len(shelf.events("peer:db-1")) == len(shelf.events(f"id:{an_id(1)}")) == 2
    assert shelf.events("peer:db-1 -again state:dis") == ["db-1 disconnected: silent for 6 s"]
    assert shelf.events("level:error") == []


def test_a_search_while_the_file_is_written_sees_what_was_committed(shelf: Bookshelf) -> None:
    shelf.add("one")
    shelf.flush()
    with closing(open_for_reading(shelf.path)) as connection:
        connection.execute("BEGIN")
        count = connection.execute("SELECT count(*) FROM messages").fetchone()
        shelf.add("two")
        shelf.flush()
        assert connection.execute("SELECT count(*) FROM messages").fetchone() == count == (1,)
        assert shelf.texts() == ["one", "two"]
        with pytest.raises(sqlite3.OperationalError):
            connection.execute("INSERT INTO parts VALUES (9, 0, 0, 0, 0)")


@pytest.mark.parametrize("words", ["from:you", "from:ams-1", "from:ams", "to:you", "-from:bob"])
def test_this_node_is_found_as_the_screen_and_as_others_call_it_like_in_the_log(
    shelf: Bookshelf, words: str
) -> None:
    own_id = an_id(1)
    shelf.add("ours", origin=1, name="ams-1", to=own_id)
    shelf.add("theirs", origin=2, name="bob")
    shelf.flush()
    found = search_messages(shelf.path, parse_query(words), own_id=own_id)
    assert [row.message.payload for row in found.rows] == [b"ours"]
    model = Model()
    model.refresh([a_peer(2, "bob")], [], Stats(), 1.0)
    model.apply(NodeStarted(own_id, Address("10.0.0.1", 8000), 1))
    model.own_name = "ams-1"
    test = compile_filter(parse_query(words), model)
    assert [test(a_message(1, 1, to=own_id)), test(a_message(2, 1))] == [True, False]
