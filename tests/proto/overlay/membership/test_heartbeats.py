"""Heartbeat scheduling: every peer in time, spread evenly."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import replace

import pytest

from grapevine_proto.config.live import LiveConfig
from grapevine_proto.config.node import NodeConfig
from grapevine_proto.overlay.context import OverlayContext
from grapevine_proto.overlay.effects import Send
from grapevine_proto.overlay.members import MemberTable
from grapevine_proto.overlay.membership.heartbeats import Heartbeats, pack_records
from grapevine_proto.overlay.peers import Peer
from grapevine_proto.overlay.store.message_store import MessageStore
from grapevine_proto.overlay.swim.prober import check_interval_s
from grapevine_proto.wire.messages import Heartbeat
from grapevine_proto.wire.signed import PeerRecord
from tests.proto.overlay.builders import config, context, identity, peer_id, record


def schedule(
    links: int, settings: NodeConfig, intervals: int
) -> tuple[list[int], dict[Peer, list[float]]]:
    """Heartbeats sent at each check, and when each peer got its own; all links start together."""
    context_ = OverlayContext(LiveConfig(settings), identity(0), random.Random(1))
    heartbeats = Heartbeats(context_, MessageStore(context_, (), 0.0))
    peers = [Peer(peer_id(n), None, record(n).addresses[0], 0.0) for n in range(links)]
    sent_at: dict[Peer, list[float]] = {peer: [0.0] for peer in peers}
    for peer in peers:
        heartbeats.next_for(peer, 0.0)
    check_s = check_interval_s(settings)
    counts = []
    for number in range(1, round(intervals * settings.gossip_interval / check_s) + 1):
        now = number * check_s
        due = heartbeats.due_peers(peers, now, check_s)
        counts.append(len(due))
        for peer in due:
            heartbeats.next_for(peer, now)
            sent_at[peer].append(now)
    return counts, sent_at


@pytest.mark.parametrize("settings", [config(), config(gossip_interval=1.0)])
@pytest.mark.parametrize("links", [5, 8, 50])
def test_heartbeats_of_links_that_started_together_spread_over_the_interval(
    links: int, settings: NodeConfig
) -> None:
    counts, _ = schedule(links, settings, 30)
    checks = round(settings.gossip_interval / check_interval_s(settings))
    assert min(counts[-5 * checks :]) >= links // checks
    settled = Counter(counts[-5 * checks :])
    assert sum(number * count for number, count in settled.items()) == 5 * links, (
        "and no more often"
    )


@pytest.mark.parametrize("links", [1, 3, 8])
def test_no_peer_waits_long_enough_to_start_a_probe(links: int) -> None:
    settings = config()
    _, sent_at = schedule(links, settings, 30)
    longest_s = max(b - a for times in sent_at.values() for a, b in itertools.pairwise(times))
    assert longest_s <= 1.1 * settings.gossip_interval + check_interval_s(settings) / 2


# --- which peers are due ------------------------------------------------------------------------


def due_numbers(*due_at: float, interval_s: float = 4.0) -> list[int]:
    """Which of the peers with these deadlines get a heartbeat at 10.0, one second before the next check."""
    heartbeats, _ = make_heartbeats(gossip_interval=interval_s)
    peers = [make_peer(number) for number in range(len(due_at))]
    for peer, at in zip(peers, due_at, strict=True):
        peer.heartbeat_due_at = at
    return [peers.index(peer) for peer in heartbeats.due_peers(peers, 10.0, 1.0)]


def make_heartbeats(**changes: object) -> tuple[Heartbeats, MemberTable]:
    node = context(**changes)
    return Heartbeats(node, MessageStore(node, (), 0.0)), node.members


def make_peer(number: int = 1) -> Peer:
    return Peer(peer_id(number), None, record(number).addresses[0], 0.0)


def heartbeat_of(effect: object) -> Heartbeat:
    assert isinstance(effect, Send)
    assert isinstance(effect.message, Heartbeat)
    return effect.message


def test_a_peer_is_due_if_its_deadline_is_nearer_to_this_check_than_to_the_next() -> None:
    assert due_numbers(9.0, 10.5, 10.51) == [0, 1]


def test_a_check_with_fewer_than_its_share_sends_the_next_ones_early_and_the_earliest_first() -> (
    None
):
    assert due_numbers(11.4, 11.2, 11.3, 11.1, 11.5, 11.5, 11.5, 11.5) == [3, 1], "two of eight"
    assert due_numbers(9.0, 11.4, 11.2, 11.1, 11.5, 11.5, 11.5, 11.5) == [0, 3]
    assert due_numbers(9.0, 9.0, 11.2, 11.1, 11.5, 11.5, 11.5, 11.5) == [0, 1]


def test_a_heartbeat_is_sent_at_most_one_check_early() -> None:
    assert due_numbers(11.5, 11.51, 11.51, 11.51) == [0]
    assert due_numbers(11.51, 11.51, 11.51, 11.51) == []


def test_a_peer_that_is_due_is_not_taken_twice() -> None:
    assert due_numbers(9.8, 11.51, 11.51, 11.51, 11.51, 11.51, 11.51, 11.51) == [0]


def test_a_changed_interval_changes_the_share_of_a_check() -> None:
    node = context(gossip_interval=4.0)
    heartbeats = Heartbeats(node, MessageStore(node, (), 0.0))
    peers = [make_peer(number) for number in range(4)]
    for peer in peers:
        peer.heartbeat_due_at = 11.0
    node.config.replace(config(gossip_interval=2.0))
    assert len(heartbeats.due_peers(peers, 10.0, 1.0)) == 2


# --- what a heartbeat says ----------------------------------------------------------------------


def test_the_first_heartbeat_echoes_nothing_and_reports_no_load() -> None:
    heartbeats, _ = make_heartbeats()
    first = heartbeat_of(heartbeats.next_for(make_peer(), 5.0))
    assert (first.number, first.echo, first.echo_delay_us) == (1, 0, 0)
    assert (first.load_permille, first.streams, first.records) == (0, 0, ())


def test_heartbeats_are_numbered_and_the_next_is_due_within_a_tenth_of_the_interval() -> None:
    heartbeats, _ = make_heartbeats(gossip_interval=10.0)
    peer = make_peer()
    due = []
    for number in range(1, 400):
        assert heartbeat_of(heartbeats.next_for(peer, 5.0)).number == number
        due.append(peer.heartbeat_due_at)
    assert 14.0 <= min(due) < 14.02
    assert 15.98 < max(due) <= 16.0
    assert peer.heartbeat_sent_at == 5.0


@pytest.mark.parametrize(
    ("lag_s", "permille"), [(0.25, 250), (0.9999, 999), (1.0, 1000), (7.0, 1000)]
)
def test_the_lag_of_the_event_loop_is_sent_as_load(lag_s: float, permille: int) -> None:
    heartbeats, _ = make_heartbeats()
    heartbeats.on_lag(lag_s)
    assert heartbeat_of(heartbeats.next_for(make_peer(), 0.0)).load_permille == permille


@pytest.mark.parametrize(("waited_s", "delay_us"), [(0.25, 250_000), (5000.0, 2**32 - 1)])
def test_the_latest_heartbeat_of_a_peer_is_echoed_with_the_delay_since(
    waited_s: float, delay_us: int
) -> None:
    heartbeats, _ = make_heartbeats()
    peer = make_peer()
    heartbeats.on_heartbeat(beat(7), peer, 10.0)
    heartbeats.on_heartbeat(beat(6), peer, 10.1)  # overtaken on the way
    reply = heartbeat_of(heartbeats.next_for(peer, 10.0 + waited_s))
    assert (reply.echo, reply.echo_delay_us) == (7, delay_us)


def beat(number: int, *, echo: int = 0, delay_us: int = 0) -> Heartbeat:
    return Heartbeat(number, echo, delay_us, 0, 0, bytes(16), ())


def test_an_echo_of_the_latest_heartbeat_measures_the_round_trip_without_the_delay() -> None:
    heartbeats, _ = make_heartbeats()
    peer = make_peer()
    heartbeats.next_for(peer, 10.0)
    heartbeats.on_heartbeat(beat(1, echo=1, delay_us=750_000), peer, 10.875)
    assert peer.rtt_s == 0.125
    assert peer.heartbeat_expected_from == 10.875


def test_of_two_nodes_that_send_at_the_same_time_each_measures_by_the_heartbeat_before() -> None:
    heartbeats, _ = make_heartbeats()
    peer = make_peer()
    heartbeats.next_for(peer, 10.0)
    heartbeats.next_for(peer, 11.0)
    heartbeats.on_heartbeat(beat(2, echo=1, delay_us=875_000), peer, 11.125)
    assert peer.rtt_s == 0.25


def test_an_echo_of_an_earlier_heartbeat_or_a_repeated_one_measures_nothing() -> None:
    heartbeats, _ = make_heartbeats()
    peer = make_peer()
    heartbeats.on_heartbeat(beat(1, echo=0), peer, 9.0)
    for at in (10.0, 11.0, 11.25):
        heartbeats.next_for(peer, at)
    heartbeats.on_heartbeat(beat(2, echo=1), peer, 11.5)
    heartbeats.on_heartbeat(beat(2, echo=3), peer, 11.75)
    heartbeats.on_heartbeat(beat(3, echo=4), peer, 11.875)
    assert peer.rtt_s is None
    assert peer.heartbeat_expected_from == 11.875


def test_updates_ride_along_three_at_a_time() -> None:
    heartbeats, members = make_heartbeats()
    for number in range(2, 7):
        members.add(record(number), peer_id(number), 0.0)
        members.queue_update(peer_id(number))
    names = [each.name for each in heartbeat_of(heartbeats.next_for(make_peer(), 0.0)).records]
    assert names == ["node 2", "node 3", "node 4"]


def test_without_updates_one_record_of_another_member_rides_along() -> None:
    heartbeats, members = make_heartbeats()
    for number in (1, 2):
        members.add(record(number), peer_id(number), 0.0)
    sent = [heartbeat_of(heartbeats.next_for(make_peer(1), 0.0)).records for _ in range(20)]
    assert {names for names in sent if names} == {(record(2),)}


def record_of_size(size_bytes: int) -> PeerRecord:
    bare = replace(record(1), zone="", name="")
    return replace(bare, name="n" * (size_bytes - bare.size_bytes))


@pytest.mark.parametrize(
    ("sizes", "split"),
    [
        ([500, 500], [2]),
        ([500, 501], [1, 1]),
        ([1200], [1]),
        ([600, 600, 400], [1, 2]),
        ([600, 600, 401], [1, 1, 1]),
        ([300, 300, 300, 300], [3, 1]),
        ([], []),
    ],
)
def test_records_are_packed_into_messages_of_at_most_a_thousand_bytes(
    sizes: list[int], split: list[int]
) -> None:
    records = [record_of_size(size) for size in sizes]
    assert [each.size_bytes for each in records] == sizes
    messages = pack_records(records)
    assert [len(message.records) for message in messages] == split
    assert [each for message in messages for each in message.records] == records


def test_a_peer_due_at_the_edge_of_this_check_is_not_early_for_the_next() -> None:
    assert due_numbers(10.5, 11.6, 11.6, 11.6, 11.6, 11.6, 11.6, 11.6) == [0]


def test_only_one_record_rides_along_without_updates() -> None:
    heartbeats, members = make_heartbeats()
    for number in range(2, 9):
        members.add(record(number), peer_id(number), 0.0)
    assert {
        len(heartbeat_of(heartbeats.next_for(make_peer(1), 0.0)).records) for _ in range(20)
    } == {1}
