"""The log of a node says what became of its peers and members, and why, in bounded lines."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from grapevine_proto.events import (
    CaughtUp,
    DialFailed,
    Event,
    EventsLost,
    MemberChanged,
    MemberStatus,
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
    RateLimited,
    StateSaveFailed,
    UndeliveredReason,
)
from grapevine_proto.ids import Address, MessageId, Stream
from grapevine_tui.host.model import Changes
from grapevine_tui.service.event_log import BURST_LINES, EventLog, format_event
from tests.tui.values import EPOCH, a_member, a_peer, an_id, received

GONE = a_peer(1, "bob", state=PeerState.DISCONNECTED)
DOWN = replace(a_member(1, "bob"), status=MemberStatus.DOWN)


@pytest.mark.parametrize(
    ("event", "level", "expected"),
    [
        (PeerStateChanged(GONE, PeerState.STALE, "silent for 12 s"), logging.WARNING,
         "peer bob (00000001) at 10.0.0.7:8001: stale -> disconnected: silent for 12 s"),
        (PeerStateChanged(GONE, PeerState.CONNECTED, "left"), logging.INFO, "disconnected: left"),
        (PeerStateChanged(a_peer(1), None, ""), logging.INFO, "unnamed (00000001)"),
        (MemberChanged(DOWN), logging.WARNING, "member bob (00000001) at 10.0.0.7:8001: down"),
        (DialFailed(Address("10.0.0.1", 9), "no answer"), logging.WARNING, "no answer from 10.0.0.1:9"),
        (PeerDiscovered(Address("10.0.0.1", 9), "mdns"), logging.INFO, "found 10.0.0.1:9 by mdns"),
        (
            PortMappingChanged(PortMappingOutcome.GRANTED, Address("203.0.113.7", 9), "PCP", ""),
            logging.INFO,
            "the router maps 203.0.113.7:9 to this node (PCP)",
        ),
        (
            PortMappingChanged(PortMappingOutcome.REFUSED, None, "", "\x1b[31mno"),
            logging.WARNING,
            "the router maps no port: ",
        ),
        (RateLimited(an_id(1), 1200, 0.0), logging.WARNING, "1,200 messages dropped"),
        (StateSaveFailed("disk full"), logging.ERROR, "state not saved: disk full"),
        (StateSaveFailed(""), logging.INFO, "state saved again"),
        (
            MessageUndelivered(
                MessageId(an_id(1), 7, 3, is_direct=True),
                an_id(2),
                UndeliveredReason.REFUSED,
                "fu[/]ll",
            ),
            logging.WARNING,
            "direct message 00000001:p3 to 00000002 is not known to have arrived: no session (fu[/]ll)",
        ),
        (MessagesUnsupported(an_id(1), 7, 3, 4, 200), logging.WARNING, "messages 3 to 4 of 00000001"),
        (MessagesSkipped(Stream(an_id(1), 7), 3, 4), logging.WARNING, "messages 3 to 4 of 00000001"),
        (CaughtUp(3), logging.INFO, "in sync with 3 connected peers"),
        (EventsLost(3), logging.WARNING, "3 events were dropped"),
        (NodeStarted(an_id(1), Address("127.0.0.1", 8000), EPOCH), logging.INFO, "at 127.0.0.1:8000"),
        (NodeStopped("left"), logging.INFO, "stopped: left"),
    ],
)  # fmt: skip
def test_what_happens_to_a_node_is_a_line_with_its_reason(
    event: Event, level: int, expected: str
) -> None:
    line = format_event(event)
    assert line is not None
    assert line.level == level
    assert expected in line.text


def test_messages_are_no_lines() -> None:
    assert format_event(received(1, 1)) is None


def test_what_others_cause_is_bounded_and_what_was_left_out_is_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [0.0]
    log = EventLog(lambda: now[0])
    caplog.set_level(logging.INFO, logger="grapevine.events")
    for _ in range(int(BURST_LINES) + 1000):
        log.on_event(MemberChanged(DOWN), Changes.MEMBERS)
    assert len(caplog.records) == BURST_LINES
    log.on_event(NodeStopped("left"), Changes.STATUS)  # another kind has lines of its own
    assert len(caplog.records) == BURST_LINES + 1
    now[0] = 1.0
    log.on_event(MemberChanged(DOWN), Changes.MEMBERS)
    assert "and 1000 lines of this kind before" in caplog.records[-1].getMessage()
