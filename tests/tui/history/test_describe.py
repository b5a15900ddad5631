"""Events in words: what changed, with its reason, and no more of one kind than a reader can use."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grapevine_proto.errors import DropReason
from grapevine_proto.events import (
    AntiEntropyRound,
    CaughtUp,
    DatagramDropped,
    DialFailed,
    Event,
    EventsLost,
    IdentityInUse,
    InternalErrorContained,
    MemberChanged,
    MemberStatus,
    MessageReceived,
    MessageSent,
    MessagesSkipped,
    MessagesUnsupported,
    MessageUndelivered,
    NodeStarted,
    NodeStopped,
    PeerDiscovered,
    PeerState,
    PeerStateChanged,
    PortMappingChanged,
    PortMappingOutcome,
    QueryEnd,
    QueryEnded,
    QueryReceived,
    QueryReport,
    Question,
    RateLimited,
    RoundOutcome,
    Standing,
    StandingChanged,
    StateSaveFailed,
    UndeliveredReason,
)
from grapevine_proto.ids import Address, MessageId, Stream
from grapevine_tui.history import describe as module
from grapevine_tui.history.describe import EventDescriber, format_age
from tests.tui.values import EPOCH, a_member, a_message, a_peer, a_round, an_id

NOW = 1_790_000_000.0
ADDRESS = Address("10.0.0.9", 8000)


def describer() -> EventDescriber:
    return EventDescriber(lambda peer_id: {an_id(1): "db-1"}.get(peer_id, ""))


def changed(state: PeerState, previous: PeerState | None, reason: str = "") -> PeerStateChanged:
    return PeerStateChanged(a_peer(1, "db-1", state=state), previous, reason)


def member(status: MemberStatus, reason: str = "") -> MemberChanged:
    return MemberChanged(replace(a_member(1, "db-1"), status=status, reason=reason))


def texts(*events: Event, gap_s: float = 60.0) -> list[str]:
    made = describer()
    rows = [made.describe(each, NOW + gap_s * n) for n, each in enumerate(events)]
    return [each.text for each in rows if each is not None]


def test_a_peer_that_is_lost_and_comes_back_says_why_and_how_long_it_was_away() -> None:
    assert texts(
        changed(PeerState.CONNECTING, None, "discovered"),
        changed(PeerState.CONNECTED, PeerState.CONNECTING, "linked"),
        changed(PeerState.STALE, PeerState.CONNECTED, "silent for 3 s"),
        changed(PeerState.DISCONNECTED, PeerState.STALE, "silent for 6 s"),
        changed(PeerState.CONNECTING, PeerState.DISCONNECTED),
        changed(PeerState.CONNECTED, PeerState.CONNECTING, "linked"),
        changed(PeerState.STALE, PeerState.CONNECTED, "no answer, directly or through others"),
        changed(PeerState.CONNECTED, PeerState.STALE),
        changed(PeerState.DISCONNECTED, PeerState.CONNECTED, "denied"),
    ) == [
        "db-1 connected",
        "db-1 does not answer: silent for 3 s",
        "db-1 disconnected: silent for 6 s",
        "db-1 connected again after 2 m",
        "db-1 does not answer, directly or through others",
        "db-1 answers again",
        "db-1 disconnected: denied",
    ]


def test_a_member_is_described_when_its_status_changes() -> None:
    up, suspect, down = MemberStatus.UP, MemberStatus.SUSPECT, MemberStatus.DOWN
    assert texts(
        member(up), member(up), member(suspect, "accused by db-2"), member(suspect, "something else"),
        member(up, "it refuted the suspicion"), member(suspect), member(down, "suspect for 4.0 s"),
        member(up), member(MemberStatus.LEFT, "announced by itself"),
    ) == [
        "db-1 is a member",
        "db-1 is suspect: accused by db-2",
        "db-1 is up: it refuted the suspicion",
        "db-1 is suspect",
        "db-1 is down: suspect for 4.0 s",
        "db-1 is up again after 1 m",
        "db-1 left: announced by itself",
    ]  # fmt: skip


REPORT = QueryReport(
    MessageId(an_id(9), EPOCH, 1),
    "uptime",
    0.0,
    3,
    2,
    0,
    0,
    (an_id(1),),
    0,
    (5, 9),
    QueryEnd.DEADLINE,
)


@pytest.mark.parametrize(
    ("event", "level", "text"),
    [
        (DialFailed(ADDRESS, "no answer"), "warning", "dial of 10.0.0.9:8000 failed: no answer"),
        (PeerDiscovered(ADDRESS, "mdns"), "info", "found 10.0.0.9:8000 by mdns"),
        (
            PortMappingChanged(PortMappingOutcome.LOST, ADDRESS, "UPnP", "no time"),
            "warning",
            "the router no longer maps 10.0.0.9:8000: no time",
        ),
        (RateLimited(an_id(1), 1200, 0.0), "warning", "db-1 is over its rate limit: 1,200 messages dropped"),
        (StandingChanged(an_id(1), Standing.SLOWED, 9.0, "forged"), "warning", "db-1 is slowed: forged"),
        (StandingChanged(an_id(1), Standing.NORMAL, 0.0, ""), "info",
         "db-1 is no longer limited for misconduct"),
        (NodeStarted(an_id(9), ADDRESS, 7), "info", "node started at 10.0.0.9:8000, epoch 7"),
        (NodeStopped(""), "info", "node stopped: on request"),
        (NodeStopped("left"), "info", "node stopped: left"),
        (StateSaveFailed("disk full"), "error", "state not saved: disk full"),
        (StateSaveFailed(""), "info", "state saved again"),
        (IdentityInUse(ADDRESS, "used twice"), "error", "used twice: a copy of this node's state"),
        (InternalErrorContained(an_id(1), "KeyError"), "error", "internal error, contained: KeyError"),
        (MessageUndelivered(a_message(9, 1, to=an_id(1), is_direct=True).id, an_id(1),
                            UndeliveredReason.NO_ANSWER, "10.0.0.9:8000"), "warning",
         f"db-1 is not known to have received the direct message {an_id(9).short}:1: no answer"
         " (10.0.0.9:8000)"),
        (MessagesSkipped(Stream(an_id(1), 1), 4, 6), "warning",
         "db-1 messages 4 to 6 were skipped by ordered readers"),
        (MessagesUnsupported(an_id(1), 1, 4, 6, 9), "warning",
         "db-1 messages 4 to 6 need a newer version (attribute 9)"),
        (EventsLost(1500), "warning", "1,500 events were dropped: a reader of this process is slow"),
        (AntiEntropyRound(a_round(1, 1, outcome=RoundOutcome.NO_ANSWER)), "warning",
         "db-1 did not answer an anti-entropy round"),
        (AntiEntropyRound(a_round(1, 1, outcome=RoundOutcome.PARTIAL)), "warning",
         "db-1 stopped answering in the middle of an anti-entropy round"),
        (CaughtUp(3), "info", "in sync with 3 connected peers"),
        (QueryEnded(REPORT), "warning", "query uptime: 2 of 3 members answered (deadline)"),
        (QueryReceived(Question(REPORT.id, "uptime", b"", 1.0, 100, 1)), "info",
         f"{an_id(9).short} asked the query uptime"),
    ],
)  # fmt: skip
def test_each_event_is_one_sentence_with_a_level(event: Event, level: str, text: str) -> None:
    row = describer().describe(event, NOW)
    assert row is not None
    assert (row.level, row.text) == (level, text)


@pytest.mark.parametrize(
    "event",
    [
        MessageReceived(a_message(1, 1)),
        MessageSent(a_message(1, 1), 3),
        MessageSent(a_message(9, 1, to=an_id(1), is_direct=True), 0),  # told by MessageUndelivered
        AntiEntropyRound(a_round(1, 1)),
        DatagramDropped(DropReason.MALFORMED, 3),
    ],
)
def test_what_happens_all_the_time_is_no_event(event: Event) -> None:
    assert describer().describe(event, NOW) is None


def test_a_peer_that_stays_over_its_limit_is_one_event() -> None:
    limited = RateLimited(an_id(1), 5, 0.0)
    assert len(texts(limited, limited, limited, gap_s=1.0)) == 1
    assert len(texts(limited, limited, gap_s=31.0)) == 2


def test_a_kind_that_floods_is_cut_and_the_rest_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BURST_EVENTS", 3.0)
    made = describer()
    rows = [made.describe(DialFailed(ADDRESS, "x"), NOW) for _ in range(5)]
    assert [row is not None for row in rows] == [True, True, True, False, False]
    assert made.describe(CaughtUp(1), NOW) is not None
    later = made.describe(DialFailed(ADDRESS, "x"), NOW + 1)
    assert later is not None
    assert later.suppressed == 2


def test_tables_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TRACKED_NODES", 3)
    made = describer()
    for number in range(5):
        made.describe(MemberChanged(a_member(number)), NOW)
        made.describe(RateLimited(an_id(number), 1, 0.0), NOW)
    assert len(made._statuses) == len(made._throttled_at) == 3


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.6, "1 m"), (364, "6 m 4 s"), (3_600, "1 h"), (90_061, "1 d 1 h"), (-5, "0 s")],
)
def test_ages_have_their_two_largest_units(seconds: float, text: str) -> None:
    assert format_age(seconds) == text
