"""Alerts fire when their rule has held for its time, once, and are over when it does not hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grapevine_proto.errors import InvalidArgument
from grapevine_proto.events import MemberStatus, PeerState, Stats
from grapevine_proto.ids import PeerId
from grapevine_tui.config.alert_rules import MAX_RULES, parse_alerts
from grapevine_tui.host.alerts import (
    MAX_GAP_S,
    MAX_LISTED,
    AlertBook,
    AlertChange,
    Readings,
    ReadingSampler,
)
from tests.tui.values import a_member, a_message, a_peer, an_id

BOB, EVE = an_id(1), an_id(2)


def readings(
    of_peers: Mapping[PeerId, Mapping[str, float]] | None = None, /, **node: float
) -> Readings:
    return Readings(node, of_peers or {})


def a_book(began_at: float = 0.0, /, **rules: str) -> AlertBook:
    """A book whose filters match payloads that contain their text."""
    book = AlertBook(lambda text: lambda message: text.encode() in message.payload)
    book.set_rules(parse_alerts(rules), began_at)
    return book


def words(changes: list[AlertChange]) -> list[tuple[str, bool]]:
    return [(each.name, each.is_firing) for each in changes]


def test_a_threshold_fires_at_once_and_is_over_at_once() -> None:
    book = a_book(few="peers < 3")
    assert book.evaluate(readings(peers=3), 1) == []
    (fired,) = book.evaluate(readings(peers=2), 2)
    assert fired.text == "alert few: peers 2; peers < 3"
    assert book.evaluate(readings(peers=1), 3) == []  # it fires already
    (over,) = book.evaluate(readings(peers=3), 4)
    assert over.text == "alert few is over: it lasted 2 s"


def test_a_threshold_with_a_time_fires_only_if_it_holds_for_so_long() -> None:
    book = a_book(lag="lag > 200ms for 3s")
    for now, lag in ((0, 0.3), (1, 0.3), (2, 0.1), (3, 0.3), (4, 0.3), (5, 0.3)):
        assert book.evaluate(readings(lag=lag), now) == []
    assert words(book.evaluate(readings(lag=0.3), 6)) == [("lag", True)]


def test_a_rule_about_peers_fires_for_each_of_them() -> None:
    book = a_book(loss="peer.loss > 2% for 1s")
    bad, good = {"peer.loss": 0.05}, {"peer.loss": 0.01}
    assert book.evaluate(readings({BOB: bad, EVE: good}), 0) == []
    (fired,) = book.evaluate(readings({BOB: bad, EVE: bad}), 1)
    assert (fired.peer_id, fired.value) == (BOB, "peer.loss 5.0 %")
    assert [each.peer_id for each in book.evaluate(readings({BOB: bad, EVE: bad}), 2)] == [EVE]
    assert book.firing_counts() == {"loss": 2}
    (over,) = book.evaluate(readings({EVE: bad}), 3)  # the peer is gone
    assert (over.peer_id, over.is_firing, over.held_s) == (BOB, False, 2)


def test_a_reading_that_is_not_known_does_not_hold() -> None:
    book = a_book(loss="loss > 0%", health="peer.health < 50%")
    assert book.evaluate(readings({BOB: {}}), 0) == []
    assert book.evaluate(readings({BOB: {"peer.health": float("nan")}}), 1) == []


def test_the_absence_of_messages_fires_until_one_arrives() -> None:
    book = a_book(10, quiet="no message beat for 30s")
    assert book.evaluate(readings(), 39) == []
    book._evaluated_at = 40  # as if it was evaluated every second
    assert words(book.evaluate(readings(), 40)) == [("quiet", True)]
    book.on_message(a_message(1, 1, b"other"), 41)
    assert book.evaluate(readings(), 41) == []
    book.on_message(a_message(1, 2, b"a beat"), 42)
    assert words(book.evaluate(readings(), 42)) == [("quiet", False)]


def test_a_message_fires_its_alert_for_a_while() -> None:
    book = a_book(bad="message panic for 3s")
    assert book.evaluate(readings(), 1) == []
    book.on_message(a_message(1, 1, b"kernel panic"), 1.5)
    assert words(book.evaluate(readings(), 2)) == [("bad", True)]
    book.on_message(a_message(1, 2, b"panic again"), 3)
    assert book.evaluate(readings(), 5) == []
    assert words(book.evaluate(readings(), 6)) == [("bad", False)]


def test_time_in_which_the_process_was_suspended_counts_for_no_rule() -> None:
    book = a_book(quiet="no message beat for 30s", lag="lag > 1s for 10s")
    assert book.evaluate(readings(lag=2), 1) == []
    assert book.evaluate(readings(lag=2), 601) == []
    for second in range(602, 610):
        assert book.evaluate(readings(lag=2), second) == [], second
    assert words(book.evaluate(readings(lag=2), 611)) == [("lag", True)]


def test_a_rule_that_changes_or_goes_is_over_and_the_others_stay() -> None:
    book = a_book(few="peers < 3", many="peers < 9")
    book.evaluate(readings(peers=2), 1)
    book.set_rules(parse_alerts({"few": "peers < 3", "many": "peers < 8"}), 2)
    assert words(book.evaluate(readings(peers=2), 2)) == [("many", False), ("many", True)]
    book.set_rules((), 3)
    assert book.has_rules  # what fires must still be over
    assert words(book.evaluate(readings(peers=2), 3)) == [("few", False), ("many", False)]
    assert not book.has_rules


def test_a_muted_alert_changes_as_any_other_but_says_that_it_is_muted() -> None:
    book = a_book(few="peers < 3")
    book.mute("few", 10, 0)
    (fired,) = book.evaluate(readings(peers=2), 1)
    assert fired.is_muted
    assert book.statuses(1)[0].is_muted
    (over,) = book.evaluate(readings(peers=3), 4)
    assert over.is_muted
    book.evaluate(readings(peers=3), 9)
    (again,) = book.evaluate(readings(peers=2), 11)  # the time is over
    assert not again.is_muted
    book.mute("few", None, 12)
    assert book.statuses(1_000_000)[0].is_muted
    book.unmute("few")
    assert not book.statuses(13)[0].is_muted


def test_an_alert_that_does_not_exist_cannot_be_muted() -> None:
    with pytest.raises(InvalidArgument, match=r"no alert is named .fwe.; did you mean few\?"):
        a_book(few="peers < 3").mute("fwe", None, 0)
    with pytest.raises(InvalidArgument, match="there are none"):
        a_book().unmute("few")


def test_the_list_has_every_rule_and_firing_ones_first() -> None:
    book = a_book(quiet="peers > 99", slow="peer.rtt > 1s", soon="peers < 3 for 60s")
    book.evaluate(readings({BOB: {"peer.rtt": 2.0}}, peers=1), 5)
    first, second, third = book.statuses(7)
    assert (first.name, first.state, first.peer_id) == ("slow", "firing", BOB)
    assert first.since_s == 2
    assert (second.name, second.state, second.value) == ("soon", "pending", "peers 1")
    assert (third.name, third.state, third.since_s) == ("quiet", "quiet", None)


def test_the_list_is_limited_although_a_rule_may_fire_for_many_peers() -> None:
    many = {an_id(n): {"peer.rtt": 2.0} for n in range(1, 300)}
    book = a_book(**{f"a{n}": "peer.rtt > 1s" for n in range(MAX_RULES)})
    assert len(book.evaluate(readings(many), 1)) == len(many) * MAX_RULES
    assert len(book.statuses(1)) == MAX_LISTED
    book.evaluate(readings({}), 2)
    assert len(book._states) == 0


@given(
    st.lists(st.sampled_from([None, 0.0, 1.0, 5.0]), max_size=40),
    st.integers(0, 6),
)
def test_it_fires_exactly_while_the_rule_has_held_for_its_time(
    values: list[float | None], for_s: int
) -> None:
    book = a_book(x=f"lag > 2s for {for_s}s")
    held, was_firing = 0, False
    for second, value in enumerate(values):
        held = held + 1 if value == 5.0 else 0
        changes = book.evaluate(readings(**({} if value is None else {"lag": value})), second)
        is_firing = held > for_s or (was_firing and held > 0)
        assert [each.is_firing for each in changes] == [is_firing] * (is_firing != was_firing)
        assert book.firing_counts() == {"x": int(is_firing)}
        was_firing = is_firing


@given(st.lists(st.floats(0, 4 * MAX_GAP_S), max_size=30))
def test_firing_and_over_alternate_however_time_passes(steps: list[float]) -> None:
    book = a_book(x="no message beat for 7s", y="message beat for 3s")
    now, firing = 0.0, {"x": False, "y": False}
    for index, step in enumerate(steps):
        now += step
        if index % 4 == 0:
            book.on_message(a_message(1, index + 1, b"beat"), now)
        for change in book.evaluate(readings(), now):
            assert firing[change.name] is not change.is_firing
            firing[change.name] = change.is_firing
    assert book.firing_counts() == {name: int(is_on) for name, is_on in firing.items()}


def test_readings_are_taken_from_the_tables_of_the_node() -> None:
    sampler = ReadingSampler()
    peers = [
        a_peer(1, "bob", sent=0, queued=7, last_seen_at=98.0),
        a_peer(2, "eve", state=PeerState.DISCONNECTED),
        a_peer(3, "zoe", state=PeerState.STALE, rtt_s=None),
    ]
    members = [a_member(1), a_member(2)]
    members[1] = replace(members[1], status=MemberStatus.DOWN)
    first = sampler.take(peers, members, Stats(delivered=10), lag_s=0.2, unacknowledged=4, now=99)
    assert first.node == {
        "peers": 1,
        "members": 1,
        "suspect": 0,
        "down": 1,
        "unacknowledged": 4,
        "lag": 0.2,
    }
    assert first.peers.keys() == {an_id(1), an_id(3)}
    assert first.peers[BOB] == {
        "peer.health": 0.98,
        "peer.rtt": 0.0012,
        "peer.silent": 1.0,
        "peer.queued": 7,
    }
    peers[0] = a_peer(1, "bob", sent=100, lost=5)
    second = sampler.take(peers, (), Stats(delivered=30), lag_s=0, unacknowledged=0, now=101)
    assert second.node["messages"] == 10
    assert second.node["loss"] == second.peers[BOB]["peer.loss"] == pytest.approx(0.05)
    assert second.node["members"] == 0
