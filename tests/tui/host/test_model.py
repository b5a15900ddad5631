"""Events become plain values, bounded and cheap."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest

from grapevine_proto.errors import DropReason
from grapevine_proto.events import (
    Answer,
    AnswerStatus,
    AntiEntropyRound,
    CaughtUp,
    DatagramDropped,
    DialFailed,
    Event,
    EventsLost,
    InternalErrorContained,
    MemberChanged,
    MessageReceived,
    MessageSent,
    MessagesSkipped,
    MessagesUnsupported,
    NodeStarted,
    NodeStopped,
    PeerDiscovered,
    PeerState,
    PeerStateChanged,
    PortMappingChanged,
    PortMappingOutcome,
    QueryAnswered,
    QueryEnd,
    QueryEnded,
    QueryReceived,
    QueryReport,
    Question,
    RateLimited,
    RoundOutcome,
    StateSaveFailed,
    Stats,
    Via,
)
from grapevine_proto.ids import Address, MessageId, Stream
from grapevine_tui.host.model import (
    MAX_KEYS,
    MAX_TOPICS,
    Changes,
    Model,
    NoticeLevel,
    format_discovered,
)
from tests.tui.values import a_member, a_message, a_peer, a_round, an_entry, an_id, received


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def model(clock: Clock) -> Model:
    return Model(wall_clock=clock)


def notice_texts(model: Model) -> list[str]:
    return [notice.text for notice in model.notices]


def test_the_log_keeps_the_last_messages_and_counts_evicted_ones() -> None:
    model = Model(max_messages=3)
    for sequence in range(1, 6):
        assert model.apply(received(1, sequence)) == Changes.MESSAGES
    assert (len(model.messages), model.messages.evicted, model.messages.end) == (3, 2, 5)
    assert model.messages.get(1) is None
    assert model.messages.get(5) is None
    entry = model.messages.get(2)
    assert entry is not None
    assert (entry.number, entry.message.id.sequence) == (2, 3)
    assert [each.number for each in model.messages.since(3)] == [3, 4]
    assert [each.number for each in model.messages.since(0)] == [2, 3, 4]
    assert model.messages.since(5) == []


def test_the_log_is_bounded_in_bytes_too_yet_keeps_the_newest_whole() -> None:
    model = Model(max_message_bytes=100)
    model.apply(received(1, 1, bytes(60)))
    model.apply(received(1, 2, bytes(60)))
    assert model.messages.first == 1
    model.apply(received(1, 3, bytes(500)))
    assert (model.messages.first, len(model.messages)) == (2, 1)


def test_our_own_messages_stand_in_the_log_with_the_time_of_day(model: Model, clock: Clock) -> None:
    model.apply(NodeStarted(an_id(9), Address("127.0.0.1", 8000), 5))
    clock.now += 60
    model.apply(MessageSent(a_message(9, 1, via=Via.LOCAL), peers=3))
    entry = model.messages.get(0)
    assert entry is not None
    assert entry.at_unix == clock.now
    assert model.name_of(entry.message.origin) == "you"
    assert model.local_node is not None
    assert model.local_node.started_at == clock.now - 60


def test_authors_are_named_by_their_records_and_distinguished_if_two_share_a_name(
    model: Model,
) -> None:
    assert model.name_of(an_id(1)) == "00000001"
    model.apply(MemberChanged(a_member(1, "bob")))
    assert model.name_of(an_id(1)) == "bob"
    assert model.ids_named("bob") == {an_id(1)}
    model.apply(PeerStateChanged(a_peer(0x2000000, "bob"), None, ""))
    assert model.name_of(an_id(1)) == "bob·0000"
    assert model.name_of(an_id(0x2000000)) == "bob·0200"
    model.apply(MemberChanged(a_member(1, "bobby")))
    assert model.name_of(an_id(0x2000000)) == "bob"
    assert model.ids_named("nobody") == frozenset()


def test_a_name_is_forgotten_with_its_bearer(model: Model) -> None:
    model.refresh([a_peer(1, "bob")], [a_member(2, "carol")], Stats(), 0.0)
    assert model.name_of(an_id(2)) == "carol"
    model.refresh([], [a_member(3, "dave")], Stats(), 1.0)
    assert model.name_of(an_id(1)) == "00000001"
    assert model.name_of(an_id(2)) == "00000002"


def test_a_refresh_reports_only_differences(model: Model) -> None:
    peers, members = [a_peer(1, "bob")], [a_member(1, "bob")]
    first = model.refresh(peers, members, Stats(cached=1), 0.0)
    assert first == Changes.PEERS | Changes.RATES | Changes.MEMBERS | Changes.STATUS
    assert model.refresh(peers, members, Stats(cached=1), 0.5) == Changes.NONE
    assert model.peers == {an_id(1): peers[0]}


def test_rates_are_sampled_once_a_second(model: Model) -> None:
    model.refresh([a_peer(1, received=0, sent=0)], [], Stats(), 0.0)
    model.refresh([a_peer(1, received=5, sent=1)], [], Stats(datagrams_in=5), 0.5)
    assert list(model.traffic.in_per_s) == []
    stats = Stats(datagrams_in=40, datagrams_out=20, bytes_in=4000, bytes_out=200, delivered=6)
    model.refresh([a_peer(1, received=40, sent=20)], [], stats, 2.0)
    assert list(model.traffic.in_per_s) == [20.0] * 2, "one for each second"
    assert list(model.traffic.out_per_s) == [10.0] * 2
    assert model.traffic.bytes_in_per_s == 2000.0
    assert model.traffic.messages_per_s == 3.0
    model.refresh([a_peer(1, received=60, sent=30)], [], stats, 3.0)
    assert (model.peer_rates[an_id(1)].in_per_s, model.peer_rates[an_id(1)].out_per_s) == (
        20.0,
        10.0,
    )
    model.refresh(
        [a_peer(1, received=1, sent=1)], [], stats, 4.0
    )  # it restarted, and its counters too
    assert model.peer_rates[an_id(1)].in_per_s == 0.0


def test_a_disconnected_peer_is_noted_and_one_never_reached_is_not(
    model: Model,
) -> None:
    lost_peer = a_peer(1, "bob\x1b[2J", state=PeerState.DISCONNECTED)
    model.apply(PeerStateChanged(lost_peer, PeerState.CONNECTING, "no answer"))
    assert notice_texts(model) == []
    changes = model.apply(PeerStateChanged(lost_peer, PeerState.STALE, "silent"))
    assert Changes.NOTICES in changes
    assert notice_texts(model) == ["bob␛[2J disconnected: silent"]
    assert model.notices[-1].level == "warning"
    model.apply(PeerStateChanged(lost_peer, PeerState.CONNECTED, "left"))
    assert notice_texts(model)[-1] == "bob␛[2J left"
    assert model.notices[-1].level == "information"


def test_throttling_is_noted_when_it_begins_and_again_only_after_a_pause(
    model: Model, clock: Clock
) -> None:
    model.refresh([a_peer(1, "bob")], [], Stats(), 0.0)
    assert Changes.NOTICES in model.apply(RateLimited(an_id(1), 214, 0.0))
    clock.now += 20
    assert model.apply(RateLimited(an_id(1), 9, 0.0)) == Changes.RATES
    assert model.throttled_at[an_id(1)] == clock.now
    clock.now += 31
    model.apply(RateLimited(an_id(1), 7, 0.0))
    assert notice_texts(model) == [
        "throttling bob: 214 messages over its rate limit",
        "throttling bob: 7 messages over its rate limit",
    ]
    model.refresh([], [], Stats(), 1.0)
    assert model.throttled_at == {}


def test_an_unanswered_dial_explains_itself_once_until_a_peer_answers(
    model: Model, clock: Clock
) -> None:
    failed = DialFailed(Address("10.0.0.7", 8001), "no answer: down, or another key or cluster")
    model.apply(failed)
    clock.now += 30
    assert model.apply(failed) == Changes.NONE
    expected = "no answer from 10.0.0.7:8001: down, or another key or cluster"
    assert notice_texts(model) == [expected]
    model.apply(PeerStateChanged(a_peer(1, "bob"), None, ""))
    model.apply(failed)
    assert notice_texts(model) == [expected, expected]
    for port in range(1000):
        model.apply(DialFailed(Address("10.0.0.9", port), "refused: full"))
    assert len(model.dial_noticed_at) <= 256
    assert notice_texts(model)[-1] == "cannot reach 10.0.0.9:999: refused: full"


def test_the_addresses_that_were_found_last_are_kept_with_their_source(model: Model) -> None:
    assert format_discovered(model.discovered).startswith("nothing found; sources are")
    for port in range(1, 258):
        assert model.apply(PeerDiscovered(Address("10.0.0.7", port), "mdns")) == Changes.PEERS
    assert len(model.discovered) == 256
    shown = format_discovered(model.discovered)
    assert shown.startswith("found 10.0.0.7:255 (mdns), ")
    assert shown.endswith("10.0.0.7:257 (mdns) and 253 more")


def test_a_failed_save_is_noted_and_so_is_its_recovery(model: Model) -> None:
    model.apply(StateSaveFailed(""))
    assert notice_texts(model) == []
    model.apply(StateSaveFailed("disk full"))
    assert model.save_error == "disk full"
    assert model.notices[-1].level is NoticeLevel.ERROR
    model.apply(StateSaveFailed(""))
    assert notice_texts(model) == ["state not saved: disk full", "state saved again"]


def test_a_contained_internal_error_names_the_peer_whose_link_ended(model: Model) -> None:
    model.apply(InternalErrorContained(None, "ValueError: x"))
    model.apply(PeerStateChanged(a_peer(1, "bob"), None, ""))
    model.apply(InternalErrorContained(an_id(1), "KeyError: y"))
    expected = "internal error, contained"
    assert [notice for notice in notice_texts(model) if expected in notice] == [
        f"{expected}: ValueError: x",
        f"{expected}; the link to bob was closed: KeyError: y",
    ]
    assert model.notices[-1].level is NoticeLevel.ERROR


def test_a_node_that_stops_of_itself_is_an_error_and_one_that_left_is_not(model: Model) -> None:
    model.apply(NodeStopped("left"))
    assert notice_texts(model) == []
    model.apply(NodeStopped("identity in use"))
    assert notice_texts(model) == ["the node stopped: identity in use"]
    assert model.stop_reason == "identity in use"


def test_a_round_replaces_its_previous_entry(model: Model) -> None:
    model.apply(AntiEntropyRound(a_round(1, 1, outcome=RoundOutcome.RUNNING)))
    model.apply(AntiEntropyRound(a_round(1, 2, outcome=RoundOutcome.RUNNING)))
    assert model.apply(AntiEntropyRound(a_round(1, 1))) == Changes.ROUNDS
    assert [(each.round.number, each.round.outcome.value) for each in model.rounds] == [
        (1, "in_sync"),
        (1, "running"),
    ]


def test_messages_for_a_newer_version_are_reported_once_a_minute() -> None:
    clock = 100.0
    model = Model(wall_clock=lambda: clock)
    event = MessagesUnsupported(an_id(1), 7, 3, 4, 200)
    assert model.apply(event) == Changes.NOTICES
    assert model.apply(event) == Changes.NONE
    clock += 61.0
    assert model.apply(event) == Changes.NOTICES
    assert [each.text.count("newer version (attribute 200)") for each in model.notices] == [1, 1]


def test_the_other_events_are_counted(model: Model) -> None:
    assert model.apply(DatagramDropped(DropReason.REPLAY, 3)) == Changes.RATES
    assert model.apply(EventsLost(7)) == Changes.STATUS
    assert model.events_lost == 7
    assert model.apply(MessageReceived(a_message(1, 1))) == Changes.MESSAGES


def test_it_is_imported_without_textual_or_rich() -> None:
    code = "import sys, grapevine_tui.host.model; sys.exit('rich' in sys.modules or 'textual' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


QUERY_ID = MessageId(an_id(1), 7, 3)
OTHERS: list[Event] = [
    MessagesSkipped(Stream(an_id(1), 7), 3, 4),
    CaughtUp(3),
    QueryReceived(Question(QUERY_ID, "up", b"?", 5.0, 1024, 2)),
    QueryAnswered(QUERY_ID, Answer(an_id(1), AnswerStatus.ANSWERED, b"yes", 2, 40, 95)),
    QueryEnded(QueryReport(QUERY_ID, "up", 1.0, 1, 1, 0, 0, (), 0, (95,), QueryEnd.COMPLETE)),
]


@pytest.mark.parametrize("event", OTHERS, ids=lambda event: type(event).__name__)
def test_an_event_that_is_for_programs_changes_nothing_on_the_screen(
    model: Model, event: Event
) -> None:
    assert model.apply(event) is Changes.NONE
    assert not model.notices


def test_the_model_applies_every_kind_of_event(model: Model) -> None:
    assert set(get_args(Event)) == model._handlers.keys()


def test_the_latest_topics_are_kept_and_evictions_counted() -> None:
    model = Model()
    for number in (*range(MAX_TOPICS), 0, MAX_TOPICS):
        model.apply(MessageReceived(a_message(1, number + 1, topic=f"t{number}")))
    model.apply(received(1, 9_999))
    kept = {f"t{number}" for number in range(MAX_TOPICS + 1)} - {"t1"}
    assert set(model.topics.sorted()) == kept
    assert model.topics.evicted == 1


def test_keys_that_have_a_value_complete_lines_and_are_bounded() -> None:
    model = Model()
    for number in range(MAX_KEYS + 1):
        assert model.apply(an_entry(1, f"k{number}", b"v")) is Changes.STATE
    assert model.apply(an_entry(1, "gone", None)) is Changes.STATE
    assert set(model.keys.sorted()) == {f"k{number}" for number in range(1, MAX_KEYS + 1)}
    assert model.keys.evicted == 1


def test_a_sample_after_a_gap_stands_for_all_its_seconds() -> None:
    model, peer = Model(), a_peer(2, "db-2", rtt_s=0.05)
    for now, delivered in ((0.0, 0), (1.0, 5), (11.0, 35)):
        model.refresh([peer], [], Stats(delivered=delivered), now)
    assert list(model.traffic.messages.fine) == [5.0] + [3.0] * 10
    assert list(model.traffic.messages.coarse) == [pytest.approx(3.2)]
    assert len(model.rtts[peer.peer_id]) == 11


def test_the_address_that_the_router_maps_is_shown_while_it_does(model: Model) -> None:
    outside = Address("203.0.113.7", 8000)
    granted = PortMappingChanged(PortMappingOutcome.GRANTED, outside, "PCP", "")
    assert model.apply(granted) == Changes.NOTICES
    shown = [model.mapped]
    model.apply(PortMappingChanged(PortMappingOutcome.LOST, outside, "PCP", "no answer"))
    assert [*shown, model.mapped] == [outside, None]
    assert notice_texts(model)[-2:] == [
        "the router maps 203.0.113.7:8000 to this node (PCP)",
        "the router no longer maps 203.0.113.7:8000: no answer",
    ]
