"""What a transport reports, admits, drops and closes, without an overlay."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from grapevine_proto.config.sections import LimitsConfig, RateLimitConfig
from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.dial_purpose import LINK, NEIGHBOR, TRANSIENT, punch, swap
from grapevine_proto.errors import DropReason, Offense
from grapevine_proto.events import (
    DatagramDropped,
    InternalErrorContained,
    MessageSent,
    MessageUndelivered,
    PathKind,
    RateLimited,
    Standing,
    StandingChanged,
    UndeliveredReason,
)
from grapevine_proto.ids import Address, Stream, StreamRange
from grapevine_proto.transport.events import (
    AnsweringChanged,
    DialAnswered,
    DialFailed,
    DialRejected,
    DirectMessageIn,
    LinkDown,
    LinkUp,
    MessageIn,
    Notify,
    PacketIn,
    PeerRestarted,
    ProbeDone,
    RumorsAcked,
    SessionReady,
    SwapAccepted,
)
from grapevine_proto.transport.peer_limits import (
    EXPELLED_SCORE,
    OFFENSE_WEIGHTS,
    SCORE_HALF_LIFE_S,
    SLOWED_SCORE,
)
from grapevine_proto.transport.session.session import REJECT_AFTER_S, REKEY_AFTER_S
from grapevine_proto.transport.transport import DatagramCounters, SendOutcome
from grapevine_proto.wire import codec
from grapevine_proto.wire.attributes import record_attributes
from grapevine_proto.wire.messages import (
    REPAIR_DATAGRAMS_LIMIT,
    Close,
    CloseReason,
    Confirm,
    Digest,
    DirectMessage,
    Fragment,
    GossipMessage,
    Heartbeat,
    InSync,
    IWant,
    NeighborRequest,
    OpenTransient,
    Pause,
    Records,
    Repair,
    Retransmit,
    RumorCopy,
    Rumors,
    StateDelta,
    SwapRequest,
    Vector,
)
from tests.proto.overlay.builders import EPOCH, KEY, peer_id, record, rumor
from tests.proto.transport.nodes import (
    Network,
    TransportNode,
    address_of,
    linked,
    linked_to_two,
    transiently_linked,
)

OTHER_KEY = ClusterKey(b"o" * 32)
OUTSIDER = Address("192.0.2.9", 9)
UNKNOWN_DATA = codec.encode_data(bytes(8), 1, bytes(40))
WANTED = IWant(0, (StreamRange(Stream(peer_id(3), EPOCH), 1, 1),))
HEARTBEAT = Heartbeat(1, 0, 0, 0, 0, bytes(16), ())


def break_method(patch: pytest.MonkeyPatch, broken: object, method: str) -> None:
    """Makes a method of one object raise, and leaves other objects of its class alone."""
    original = getattr(type(broken), method)

    def run(self: object, *args: Any, **options: Any) -> Any:
        if self is broken:
            raise RuntimeError("broken")
        return original(self, *args, **options)

    patch.setattr(type(broken), method, run)


# --- answers ------------------------------------------------------------------------------------


def answering(node: TransportNode) -> list[bool]:
    return [each.is_answering for each in node.reported(AnsweringChanged)]


def test_a_peer_that_acknowledges_nothing_is_reported_until_it_does() -> None:
    network, _, _ = linked()
    network.is_lost = lambda *_: True
    network.send_direct(1, 2, b"unheard")
    network.run(4.0)
    reports = network[1].reported(AnsweringChanged)
    assert 3 <= len(reports) <= 4, "repeated, for what may help needs a second try"
    assert not any(each.is_answering for each in reports)
    assert reports[-1].is_silent
    network.is_lost = lambda *_: False
    network.run(5.0)
    assert answering(network[1]).count(True) == 1
    assert answering(network[1])[-1]
    assert answering(network[2]) == []


def test_a_link_whose_address_the_system_cannot_send_to_is_not_answered() -> None:
    network, node, _ = linked()
    for _ in range(2):
        node.take(node.transport.on_unsendable(address_of(2), "no route", network.now))
        node.take(node.transport.on_unsendable(OUTSIDER, "no route", network.now))
    network.run(0.1)
    assert answering(node) == [False]
    network.send_direct(2, 1, b"heard")
    network.run(0.5)
    network.send_direct(1, 2, b"and answered")
    network.run(0.5)
    assert answering(node) == [False, True]


def test_nothing_is_reported_of_a_link_that_ended_meanwhile() -> None:
    network, node, _ = linked()
    node.take(node.transport.on_unsendable(address_of(2), "no route", network.now))
    node.take(
        node.transport.disconnect(network[2].peer_id, "test", None, notify=False, now=network.now)
    )
    network.run(0.1)
    assert answering(node) == []


# --- counting -----------------------------------------------------------------------------------


def test_datagrams_and_bytes_are_counted_both_ways() -> None:
    node = TransportNode(1)
    node.take(node.transport.receive(b"x" * 7, OUTSIDER, 0.0))
    node.take(node.transport.receive(b"y" * 5, OUTSIDER, 0.0))
    counters = node.transport.counters
    assert (counters.datagrams_in, counters.bytes_in) == (2, 12)
    counters.count_sent([(b"abc", OUTSIDER), (b"de", OUTSIDER)])
    counters.count_sent([(b"f", OUTSIDER)])
    assert (counters.datagrams_out, counters.bytes_out) == (3, 6)


def test_new_counters_are_zero() -> None:
    counters = DatagramCounters()
    assert (counters.datagrams_in, counters.bytes_in) == (0, 0)
    assert (counters.datagrams_out, counters.bytes_out) == (0, 0)


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [(b"", DropReason.TOO_SHORT), (UNKNOWN_DATA, DropReason.UNKNOWN_SESSION)],
)
def test_a_drop_is_counted_and_reported_with_its_source(
    datagram: bytes, reason: DropReason
) -> None:
    node = TransportNode(1)
    node.take(node.transport.receive(datagram, OUTSIDER, 0.0))
    assert node.transport.drops.by_reason() == ((reason, 1),)
    node.take(node.transport.advance(0.0))
    assert node.events == [Notify(DatagramDropped(reason, 1, OUTSIDER))]


# --- links --------------------------------------------------------------------------------------


def test_both_ends_of_a_dial_report_one_link() -> None:
    network = Network(2)
    network.dial(1, 2)
    one, two = network[1], network[2]
    assert one.reported(DialAnswered) == [DialAnswered(two.address, two.peer_id, two.view.record)]
    assert one.reported(LinkUp) == [LinkUp(two.view.record, two.address, 0.0, True)]
    assert two.reported(LinkUp) == [LinkUp(one.view.record, one.address, 0.0, False)]
    assert (one.transport.version, two.transport.version) == (1, 1)
    assert [event for event in one.events if isinstance(event, PacketIn)] == [
        PacketIn(one.link_to(two), True, False)
    ]


@pytest.mark.parametrize(
    ("purpose", "wants_room", "asked"),
    [
        (LINK, False, None),
        (NEIGHBOR, True, None),
        (swap(record(7), 1.0), False, SwapRequest(record(7))),
    ],
)
def test_a_ready_session_says_what_the_dialing_end_asks_for(
    purpose: Any, wants_room: bool, asked: SwapRequest | None
) -> None:
    network = Network(2)
    network.dial(1, 2, purpose)
    [ready] = network[2].reported(SessionReady)
    assert (ready.wants_room, ready.swap_request) == (wants_room, asked)
    [ready] = network[1].reported(SessionReady)
    assert (ready.wants_room, ready.swap_request) == (wants_room, None)


def test_an_accepted_swap_names_the_peer_that_is_replaced() -> None:
    network = Network(2)
    network.dial(1, 2, swap(record(7), 1.0))
    assert network[1].reported(SwapAccepted) == [SwapAccepted(record(7), network[2].view.record)]
    assert network[2].reported(SwapAccepted) == []


def test_a_refused_session_is_closed_with_referrals() -> None:
    network = Network(2)
    one, two = network[1], network[2]
    two.has_room, two.view.suggested = False, (record(8), record(9))
    network.dial(1, 2)
    assert one.reported(DialRejected) == [
        DialRejected(two.view.record, two.address, CloseReason.FULL, (record(8), record(9)))
    ]
    assert not one.reported(SwapAccepted)
    assert not one.reported(LinkUp)
    assert not two.reported(LinkUp)
    assert not one.transport.links
    assert not two.transport.links
    assert (one.transport.version, two.transport.version) == (0, 0)


def test_messages_are_reported_with_their_link() -> None:
    network, one, two = linked()
    link = two.link_to(one)
    network.inject(1, 2, HEARTBEAT)
    network.inject(1, 2, DirectMessage(3, b"psst"))
    network.inject(1, 2, Confirm())
    network.inject(1, 2, NeighborRequest())
    assert two.events == [
        MessageIn(link, True, HEARTBEAT),
        DirectMessageIn(link, True, DirectMessage(3, b"psst")),
        PacketIn(link, True, False),
        PacketIn(link, True, False),
    ]


def test_a_fragment_reports_progress_and_the_whole_message_comes_once() -> None:
    network, one, two = linked()
    one.transport.send([two.peer_id], Records((record(3),) * 12), network.now)
    network.run(0.5)
    packets = two.reported(PacketIn)
    assert any(packet.has_progressed for packet in packets)
    [message] = two.reported(MessageIn)
    assert message.message == Records((record(3),) * 12)


@pytest.mark.parametrize("empty", [Rumors(()), Repair(1, True, False, ()), StateDelta(1, True, ())])
def test_copies_in_fragments_are_as_much_older_as_their_transfer_took(
    empty: Rumors | Repair | StateDelta,
) -> None:
    network, _, two = linked()
    copy = RumorCopy(rumor(3, 1, bytes(2000)), 1, 700)
    sent = empty._replace(copies=(copy,))
    whole = codec.encode_message(sent)
    is_repair = isinstance(sent, Repair)
    for offset in range(0, len(whole), 1000):
        part = Fragment(9, len(whole), offset, whole[offset : offset + 1000], is_repair=is_repair)
        network.inject(1, 2, codec.encode_frame(part))
        network.now += 0.75
    network.inject(1, 2, sent)  # as one packet, it tells its age itself
    older = copy._replace(age_ms=700 + 750 * ((len(whole) - 1) // 1000))
    slow, quick = two.reported(MessageIn)[-2:]
    assert (slow.message, quick.message) == (empty._replace(copies=(older,)), sent)


def test_acknowledged_rumors_of_this_node_are_reported_before_the_packet() -> None:
    network, one, two = linked()
    own, other = RumorCopy(rumor(1, 5), 0, 0), RumorCopy(rumor(3, 1), 1, 0)
    assert one.transport.send([two.peer_id], Rumors((own, other)), network.now) == 1
    network.run(1.0)
    link = one.link_to(two)
    assert one.events == [RumorsAcked([(EPOCH, 5)]), PacketIn(link, True, False)]


def test_an_ack_beside_a_message_is_reported_before_it() -> None:
    network, one, two = linked()
    one.transport.send([two.peer_id], Rumors((RumorCopy(rumor(1, 5), 0, 0),)), network.now)
    network.run(0.005)  # the ACK is not due yet, and shares what goes next
    two.transport.send([one.peer_id], HEARTBEAT, network.now)
    network.run(1.0)
    link = one.link_to(two)
    assert one.events == [RumorsAcked([(EPOCH, 5)]), MessageIn(link, True, HEARTBEAT)]


def test_a_pause_holds_rumors_back_for_its_duration_and_not_longer() -> None:
    network, one, two = linked()
    network.inject(2, 1, Pause(1000))
    assert one.reported(PacketIn) == [PacketIn(one.link_to(two), True, False)]
    one.transport.send([two.peer_id], Rumors((RumorCopy(rumor(1, 1), 0, 0),)), network.now)
    network.run(0.9995)
    assert two.reported(MessageIn) == []
    network.run(0.001)
    assert len(two.reported(MessageIn)) == 1


@pytest.mark.parametrize(
    ("reason", "detail"),
    [(CloseReason.LEAVING, "left"), (CloseReason.REDUNDANT, "closed: redundant")],
)
def test_a_close_ends_the_link_with_the_referrals_of_the_peer(
    reason: CloseReason, detail: str
) -> None:
    network, one, two = linked()
    link = two.link_to(one)
    network.inject(1, 2, Close(reason, (record(8),)))
    assert two.events == [
        PacketIn(link, True, False),
        LinkDown(one.peer_id, detail, reason, (record(8),)),
    ]
    assert not two.transport.links
    assert two.transport.version == 2
    sent = len(network.log)
    network.exchange()
    assert len(network.log) == sent, "the peer knows why"


def test_a_disconnected_peer_receives_the_reason_and_referrals() -> None:
    network, one, two = linked()
    events = one.transport.disconnect(
        two.peer_id, "too many", CloseReason.FULL, notify=True, now=0.0, referrals=(record(8),)
    )
    assert events == (LinkDown(two.peer_id, "too many", CloseReason.FULL, None),)
    network.exchange()
    assert two.reported(LinkDown) == [
        LinkDown(one.peer_id, "closed: full", CloseReason.FULL, (record(8),))
    ]
    assert one.transport.version == 2


def test_disconnecting_a_peer_without_a_link_changes_nothing() -> None:
    _, one, _ = linked()
    assert not one.transport.disconnect(peer_id(9), "?", CloseReason.FULL, notify=True, now=0.0)
    assert one.transport.version == 1


def test_disconnecting_all_ends_links_and_transient_sessions() -> None:
    network = Network(4)
    for number in (2, 3):
        network.dial(1, number)
    network.open_transient(1, 4)
    one = network[1]
    one.take(one.transport.disconnect_all("rekeyed", CloseReason.SUPERSEDED, 0.0))
    network.exchange()
    assert [down.peer_id for down in one.reported(LinkDown)] == [peer_id(2), peer_id(3)]
    for number in (2, 3):
        assert [down.reason for down in network[number].reported(LinkDown)] == [
            CloseReason.SUPERSEDED
        ]
    assert len(one.transport.transients) == len(network[4].transport.transients) == 0


def test_a_newer_record_of_a_linked_peer_is_followed_at_once() -> None:
    _, one, two = linked()
    newer = replace(record(2, incarnation=1), rate_capacity=7)
    one.transport.apply_record(newer, 0.0)
    assert one.link_to(two).record is newer
    assert one.transport.deadline == -math.inf, "what waited for tokens may go"
    one.transport.apply_record(record(9), 0.0)  # no link: nothing to follow
    assert peer_id(9) not in one.transport.links


# --- settings -----------------------------------------------------------------------------------


def test_sessions_of_a_removed_key_are_closed_and_others_stay() -> None:
    network = Network(5, keys=(OTHER_KEY, KEY))
    one = network[1]
    for number in (3, 5):
        network[number].reconfigure(keys=(KEY, OTHER_KEY))
        network.dial(number, 1)
    network.dial(1, 2)
    network.open_transient(1, 4)
    network[3].transport.disconnect(one.peer_id, "", None, notify=False, now=0.0)
    one.transport.disconnect(peer_id(3), "", None, notify=False, now=0.0)
    network.open_transient(3, 1)
    one.events.clear()
    one.reconfigure(keys=(OTHER_KEY,))
    network.exchange()
    assert one.reported(LinkDown) == [
        LinkDown(peer_id(5), "key removed", CloseReason.KEY_REMOVED, None)
    ]
    assert [down.reason for down in network[5].reported(LinkDown)] == [CloseReason.KEY_REMOVED]
    assert list(one.transport.links) == [peer_id(2)]
    assert [link.peer_id for link in one.transport.transients.all()] == [peer_id(4)]
    assert len(network[3].transport.transients) == 0, "it was informed"


def test_a_denied_member_loses_its_transient_session_and_others_keep_theirs() -> None:
    network = Network(3)
    one = network[1]
    network.open_transient(1, 2)
    network.open_transient(1, 3)
    one.reconfigure(denied=(peer_id(2),))
    network.exchange()
    assert [link.peer_id for link in one.transport.transients.all()] == [peer_id(3)]
    assert len(network[2].transport.transients) == 0
    network.send_direct(2, 1, b"again")
    network.exchange()
    assert one.dropped(DropReason.DENIED) >= 1


# --- admission ----------------------------------------------------------------------------------


@pytest.mark.parametrize("purpose", [LINK, TRANSIENT])
def test_an_identity_denied_during_its_handshake_is_not_admitted(purpose: Any) -> None:
    network = Network(2)
    one, two = network[1], network[2]
    network.is_lost = lambda datagram, *_: datagram[0] == 5
    network.dial(1, 2, purpose)
    two.config.replace(two.config.current.replace(denied=(one.peer_id,)))
    network.is_lost = lambda *_: False
    network.run(1.0)
    assert two.dropped(DropReason.DENIED) >= 1
    assert {type(event) for event in two.events} == {Notify}
    assert len(two.transport.transients) == len(two.transport.links) == 0


def test_an_identity_expelled_during_its_handshake_is_not_admitted() -> None:
    network = Network(2)
    one, two = network[1], network[2]
    network.is_lost = lambda datagram, *_: datagram[0] == 5
    network.dial(1, 2)
    two.transport.links.peer_limits.get_or_create(one.peer_id, 0.0)
    two.take(two.transport.penalize(one.peer_id, Offense.PROTOCOL_VIOLATION, 10, 0.0))
    network.is_lost = lambda *_: False
    network.run(1.0)
    assert two.dropped(DropReason.MISCONDUCT) >= 1
    assert not two.transport.links


@pytest.mark.parametrize("purpose", [LINK, TRANSIENT])
def test_a_session_that_becomes_live_while_a_node_leaves_gets_a_close(purpose: Any) -> None:
    network = Network(2)
    one, two = network[1], network[2]
    network.is_lost = lambda datagram, *_: datagram[0] == 5
    network.dial(1, 2, purpose)
    two.transport.leave(Records((two.view.record,)))
    network.is_lost = lambda *_: False
    network.run(1.0)
    assert [each.reason for each in one.reported(DialRejected)] == (
        [CloseReason.LEAVING] if purpose is LINK else []
    )
    assert len(one.transport.transients) == len(two.transport.transients) == 0
    assert not two.transport.links


def test_a_node_that_leaves_answers_no_dial() -> None:
    network = Network(2)
    two = network[2]
    before = two.transport.is_leaving
    two.transport.leave(Records((two.view.record,)))
    network.dial(1, 2)
    assert (before, two.transport.is_leaving) == (False, True)
    assert two.dropped(DropReason.UNEXPECTED) == 1
    assert {to for _, _, to in network.log} == {two.address}


def test_a_node_that_leaves_sends_what_is_queued_then_its_record_then_a_close() -> None:
    network, one, two = linked()
    one.transport.dial(OUTSIDER, None, LINK, 0.0)
    one.transport.send([two.peer_id], HEARTBEAT, 0.0)
    one.transport.leave(Records((one.view.record,)))
    before = one.transport.is_drained
    assert len(one.transport.handshakes) == 0
    network.run(1.0)
    assert (before, one.transport.is_drained) == (False, True)
    assert [each.message for each in two.reported(MessageIn)] == [
        HEARTBEAT,
        Records((one.view.record,)),
    ]
    [down] = two.reported(LinkDown)
    assert down.detail == "left"


def test_an_announced_rumor_holds_a_leaving_node_open_until_it_is_requested() -> None:
    network, one, two = linked()
    one.view.has_unclaimed = True
    one.transport.leave(Records((one.view.record,)))
    network.run(1.0)
    before = one.transport.is_drained
    assert two.reported(LinkDown) == []
    one.view.has_unclaimed = False
    network.run(1.0)
    assert (before, one.transport.is_drained) == (False, True)


@pytest.mark.parametrize(
    ("is_direct", "options", "is_waiting"),
    [
        (False, {"has_unacknowledged": False}, False),
        (True, {"has_unacknowledged": False}, True),
        (False, {"has_unacknowledged": True}, True),
        (False, {}, True),
    ],
)
def test_a_leaving_node_waits_for_a_silent_peer_only_with_messages_of_its_own(
    is_direct: bool, options: dict[str, bool], is_waiting: bool
) -> None:
    network, one, two = linked()
    if is_direct:
        network.send_direct(1, 2, b"unheard")
    else:
        one.transport.send([two.peer_id], Rumors((RumorCopy(rumor(3, 1), 1, 0),)), 0.0)
    one.transport.datagrams_to_send(0.0)
    one.transport.leave(Records((one.view.record,)))
    for hundredth in range(150):
        one.transport.datagrams_to_send(hundredth / 100, **options)
    assert one.transport.is_drained is not is_waiting


def test_a_later_run_of_a_peer_replaces_its_link() -> None:
    network, one, two = linked()
    old = two.link_to(one)
    later = network.add(1, epoch=EPOCH + 1)
    network.dial(1, 2)
    assert two.events[:2] == [
        PeerRestarted(one.peer_id),
        LinkUp(later.view.record, later.address, 0.0, False),
    ]
    assert two.link_to(one) is not old
    assert two.transport.version == 2


def test_an_earlier_run_of_a_peer_is_rejected_with_the_record_of_the_later_one() -> None:
    network, one, two = linked()
    link = two.link_to(one)
    earlier = network.add(1, epoch=EPOCH - 1)
    network.dial(1, 2)
    assert earlier.reported(DialRejected) == [
        DialRejected(two.view.record, two.address, CloseReason.SUPERSEDED, (one.view.record,))
    ]
    assert two.dropped(DropReason.STALE_EPOCH) == 1
    assert two.link_to(one) is link
    assert two.transport.version == 1
    assert two.reported(LinkUp) == []


def test_a_second_session_of_the_same_run_joins_the_link() -> None:
    network, one, two = linked()
    link = two.link_to(one)
    network.dial(1, 2)
    assert two.link_to(one) is link
    assert len(link.session_ids()) == 2
    assert not two.reported(LinkUp)
    assert not two.reported(PeerRestarted)
    assert two.reported(PacketIn)[0] == PacketIn(link, True, False)
    assert two.transport.version == 1


def test_a_linked_peer_is_exempt_from_the_budget_of_its_address() -> None:
    def drops(*, is_linked: bool) -> int:
        network = Network(2)
        if is_linked:
            network.dial(2, 1)
        for _ in range(51):
            network.dial(1, 2)
            network[2].transport.disconnect(peer_id(1), "", None, notify=False, now=0.0)
            if is_linked:
                network.dial(2, 1)
        return network[2].dropped(DropReason.ADDRESS_BUDGET)

    assert drops(is_linked=False) >= 1
    assert drops(is_linked=True) == 0


def test_a_first_packet_with_a_fragment_is_reported_as_progress() -> None:
    network = Network(2)
    one, two = network[1], network[2]
    network.is_lost = lambda datagram, source, to: datagram[0] == 5 and source == two.address
    network.dial(1, 2)
    assert one.reported(LinkUp) == []
    network.is_lost = lambda *_: False
    two.transport.send([one.peer_id], Records((record(3),) * 12), network.now)
    network.run(0.2)
    assert one.reported(PacketIn)[0] == PacketIn(one.link_to(two), True, True)
    assert len(one.reported(MessageIn)) == 1


def test_a_proof_reflected_to_its_sender_does_not_end_its_dial() -> None:
    network = Network(2)
    one, two = network[1], network[2]
    network.is_lost = lambda datagram, *_: datagram[0] == 4
    network.dial(1, 2)
    [proof] = [datagram for datagram, source, _ in network.log if datagram[0] == 3]
    one.take(one.transport.receive(proof, OUTSIDER, 0.0))
    assert one.transport.drops.total == 1
    assert one.reported(DialFailed) == []
    network.is_lost = lambda *_: False
    network.run(1.0)
    assert one.link_to(two)


# --- kinds of paths -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "we_are_behind_nat", "it_is_behind_nat", "kind"),
    [
        ("203.0.113.2", True, True, PathKind.PUNCHED),
        ("203.0.113.2", True, False, PathKind.DIRECT),
        ("203.0.113.2", False, True, PathKind.DIRECT),
        ("10.0.0.2", True, True, PathKind.DIRECT),
        ("2001:db8::2", True, True, PathKind.DIRECT),
    ],
)
def test_a_public_path_between_two_members_behind_nats_is_punched(
    host: str, we_are_behind_nat: bool, it_is_behind_nat: bool, kind: PathKind
) -> None:
    network = Network(2)
    for number, is_behind_nat in ((1, we_are_behind_nat), (2, it_is_behind_nat)):
        introducers = (bytes(8),) if is_behind_nat else None
        attributes = record_attributes(introducers=introducers)
        network[number].view.record = record(number, attributes=attributes)
    address = Address(host, 8000)
    one = network[1]
    network.nodes[address] = network[2]
    one.dial(address, peer_id(2))
    network.exchange()
    assert one.transport.path_to(peer_id(2)) is kind
    assert one.transport.path_to(peer_id(3)) is None


# --- dials --------------------------------------------------------------------------------------


def test_a_node_that_dials_itself_reports_it_once() -> None:
    network = Network(1)
    one = network[1]
    one.dial(one.address, None)
    network.exchange()
    assert one.reported(DialFailed) == [DialFailed(one.address, None, DropReason.SELF_DIAL)]
    assert len(one.transport.handshakes) == 0


def test_a_dial_that_another_peer_answers_fails_and_says_so() -> None:
    network = Network(2)
    one = network[1]
    one.dial(address_of(2), peer_id(9))
    network.exchange()
    assert one.reported(DialFailed) == [
        DialFailed(address_of(2), peer_id(9), DropReason.WRONG_PEER)
    ]
    assert len(one.transport.handshakes) == 0


def test_a_forged_reply_does_not_end_a_dial() -> None:
    network = Network(2)
    one = network[1]
    one.dial(address_of(2), peer_id(2))
    [(hello, _)] = one.transport.datagrams_to_send(0.0)
    [two] = [network[2]]
    two.take(two.transport.receive(hello, one.address, 0.0))
    [(challenge, _)] = two.transport.datagrams_to_send(0.0)
    forged = challenge[:-1] + bytes((challenge[-1] ^ 1,))
    one.take(one.transport.receive(forged, two.address, 0.0))
    assert one.transport.drops.total == 1
    assert len(one.transport.handshakes) == 1
    one.take(one.transport.receive(challenge, two.address, 0.0))
    network.exchange()
    assert one.reported(LinkUp)


def test_a_peer_that_is_not_near_enough_ends_a_swap_with_its_round_trip() -> None:
    network = Network(2)
    one, two = network[1], network[2]
    one.dial(two.address, two.peer_id, swap(record(7), 0.5))
    [(hello, _)] = one.transport.datagrams_to_send(0.0)
    two.take(two.transport.receive(hello, one.address, 0.2))
    [(challenge, _)] = two.transport.datagrams_to_send(0.2)
    one.take(one.transport.receive(challenge, two.address, 0.5))
    assert one.events == [ProbeDone(two.address, two.peer_id, 0.5)]
    assert len(one.transport.handshakes) == 0


def test_a_dial_without_an_answer_fails_in_the_turn_of_its_timeout() -> None:
    node = TransportNode(1, connection_timeout=5.0)
    node.dial(OUTSIDER, None)
    node.dial(OUTSIDER, peer_id(4), swap(record(7), 0.5))
    node.take(node.transport.expire_dials(4.99))
    assert node.events == []
    node.take(node.transport.expire_dials(5.0))
    assert node.events == [
        DialFailed(OUTSIDER, None, None),
        ProbeDone(OUTSIDER, peer_id(4), None),
    ]


def test_a_dial_for_a_transient_session_that_nothing_waits_for_ends_silently() -> None:
    network = Network(1)
    one = network[1]
    one.dial(OUTSIDER, peer_id(2), TRANSIENT)
    network.run(one.config.current.connection_timeout + 1.0)
    assert len(one.transport.handshakes) == 0
    assert one.events == []


def test_a_dial_that_cannot_be_sent_fails_with_the_reason_even_if_it_was_a_swap() -> None:
    node = TransportNode(1)
    node.dial(OUTSIDER, peer_id(4), swap(record(7), 0.5))
    node.dial(address_of(5), None)
    node.take(node.transport.on_unsendable(OUTSIDER, "no route", 0.0))
    assert node.events == [DialFailed(OUTSIDER, peer_id(4), "no route")]
    assert len(node.transport.handshakes) == 1


def test_an_expelled_identity_is_not_dialed() -> None:
    node = TransportNode(1)
    node.transport.links.peer_limits.get_or_create(peer_id(2), 0.0)
    node.transport.penalize(peer_id(2), Offense.PROTOCOL_VIOLATION, 10, 0.0)
    node.dial(address_of(2), peer_id(2))
    assert node.events == [DialFailed(address_of(2), peer_id(2), DropReason.MISCONDUCT)]
    assert len(node.transport.handshakes) == 0


def test_a_dial_beyond_the_limit_fails_at_once() -> None:
    node = TransportNode(1, limits=LimitsConfig(dials=1))
    assert node.transport.dial(address_of(2), peer_id(2), LINK, 0.0) == ()
    assert node.transport.dial(address_of(3), peer_id(3), LINK, 0.0) == (
        DialFailed(address_of(3), peer_id(3), None),
    )


@pytest.mark.parametrize(("max_hellos", "expected"), [(2, 2), (None, 6)])
def test_a_dial_sends_no_more_hellos_than_it_may(max_hellos: int | None, expected: int) -> None:
    network = Network(1)
    one = network[1]
    one.transport.dial(OUTSIDER, None, LINK, 0.0, max_hellos=max_hellos)
    network.run(9.0)
    assert len(network.log) == pytest.approx(expected, abs=0 if max_hellos else 2)


# --- transient sessions -------------------------------------------------------------------------


def test_a_direct_message_opens_a_transient_session_without_a_link() -> None:
    network = Network(2)
    one, two = network[1], network[2]
    assert network.send_direct(1, 2, b"one") is SendOutcome.QUEUED
    assert network.send_direct(1, 2, b"two") is SendOutcome.QUEUED
    assert len(one.transport.handshakes) == 1
    network.exchange()
    assert [each.peers for each in one.notified(MessageSent)] == [1, 1]
    assert [each.message.payload for each in two.reported(DirectMessageIn)] == [b"one", b"two"]
    assert {each.is_linked for each in two.reported(DirectMessageIn)} == {False}
    assert network.send_direct(1, 2, b"three") is SendOutcome.SENT
    network.exchange()
    assert len(two.reported(DirectMessageIn)) == 3
    assert not one.reported(LinkUp)
    assert not one.reported(DialAnswered)
    assert not two.reported(LinkUp)


def test_a_direct_message_goes_over_the_link_where_there_is_one() -> None:
    network, one, two = linked()
    assert network.send_direct(1, 2, b"psst") is SendOutcome.SENT
    network.exchange()
    assert two.reported(DirectMessageIn) == [
        DirectMessageIn(two.link_to(one), True, DirectMessage(1, b"psst"))
    ]
    assert len(one.transport.transients) == 0


def test_a_full_queue_for_a_session_drops_what_comes_next() -> None:
    network = Network(2, limits=LimitsConfig(queue_messages=2))
    outcomes = [network.send_direct(1, 2, b"x") for _ in range(3)]
    assert outcomes == [SendOutcome.QUEUED, SendOutcome.QUEUED, SendOutcome.DROPPED]


def test_a_member_without_an_address_or_room_for_a_session_is_unreachable() -> None:
    network = Network(3, limits=LimitsConfig(transient_sessions=1, dials=2))
    one = network[1]
    del one.view.addresses[peer_id(2)]
    assert network.send_direct(1, 2, b"no address") is SendOutcome.UNREACHABLE
    one.view.addresses[peer_id(2)] = address_of(2)
    network.open_transient(1, 2)
    assert network.send_direct(1, 3, b"no session") is SendOutcome.UNREACHABLE
    network = Network(2, limits=LimitsConfig(dials=1))
    network[1].transport.dial(OUTSIDER, None, LINK, 0.0)
    assert network.send_direct(1, 2, b"no dial") is SendOutcome.UNREACHABLE
    assert not network[1].transport.transients.is_opening(peer_id(2))


def test_a_message_whose_session_does_not_open_is_reported_as_sent_to_no_peer() -> None:
    network = Network(2)
    network.is_lost = lambda *_: True
    network.send_direct(1, 2, b"lost")
    network.run(12.0)
    one = network[1]
    assert [(each.message.payload, each.peers) for each in one.notified(MessageSent)] == [
        (b"lost", 0)
    ]
    assert one.reported(DialFailed) == []
    assert len(one.transport.transients) == 0


def test_a_session_refused_for_lack_of_room_fails_what_waits_for_it() -> None:
    network = Network(3, limits=LimitsConfig(transient_sessions=1))
    network.open_transient(3, 2)
    network.send_direct(1, 2, b"refused")
    network.exchange()
    one = network[1]
    assert [each.peers for each in one.notified(MessageSent)] == [0]
    assert not one.reported(DialRejected)
    assert not one.reported(DialAnswered)
    assert len(network[2].transport.transients) == 1


def test_a_message_waits_for_the_link_that_is_being_dialed() -> None:
    network = Network(2)
    one, two = network[1], network[2]
    one.dial(two.address, two.peer_id)
    assert network.send_direct(1, 2, b"over the link") is SendOutcome.QUEUED
    assert len(one.transport.handshakes) == 1
    network.exchange()
    assert [each.is_linked for each in two.reported(DirectMessageIn)] == [True]
    assert [each.peers for each in one.notified(MessageSent)] == [1]


def test_a_message_that_waited_for_a_refused_link_opens_a_transient_session() -> None:
    network = Network(2)
    one, two = network[1], network[2]
    two.has_room = False
    one.dial(two.address, two.peer_id)
    network.send_direct(1, 2, b"after all")
    network.exchange()
    assert [each.message.payload for each in two.reported(DirectMessageIn)] == [b"after all"]
    assert [each.is_linked for each in two.reported(DirectMessageIn)] == [False]


def test_a_message_that_waited_for_a_link_dial_without_an_answer_gets_a_dial_of_its_own() -> None:
    network = Network(2, connection_timeout=5.0)
    one, two = network[1], network[2]
    network.is_lost = lambda *_: True
    one.dial(two.address, two.peer_id)
    network.send_direct(1, 2, b"late")
    network.run(5.0)
    assert one.reported(DialFailed) == [DialFailed(two.address, two.peer_id, None)]
    assert one.notified(MessageSent) == []
    assert len(one.transport.handshakes) == 1
    network.is_lost = lambda *_: False
    network.run(3.0)
    assert [each.message.payload for each in two.reported(DirectMessageIn)] == [b"late"]


def test_a_message_fails_with_the_link_dial_if_the_member_has_no_address_any_more() -> None:
    network = Network(2, connection_timeout=5.0)
    one, two = network[1], network[2]
    network.is_lost = lambda *_: True
    one.dial(two.address, two.peer_id)
    network.send_direct(1, 2, b"lost")
    del one.view.addresses[two.peer_id]
    network.run(5.0)
    assert [each.peers for each in one.notified(MessageSent)] == [0]
    assert not one.transport.transients.is_opening(two.peer_id)


def undelivered(node: TransportNode) -> list[tuple[UndeliveredReason, str]]:
    return [(each.reason, each.detail) for each in node.notified(MessageUndelivered)]


def test_a_message_to_an_address_that_cannot_be_sent_to_says_why() -> None:
    network = Network(2)
    network.send_direct(1, 2, b"lost")
    one = network[1]
    one.take(one.transport.on_unsendable(address_of(2), "no route", 0.0))
    assert undelivered(one) == [(UndeliveredReason.REFUSED, "no route")]


def test_a_message_to_an_address_where_another_node_answers_says_so() -> None:
    network = Network(3)
    one = network[1]
    one.view.addresses[peer_id(2)] = address_of(3)
    network.send_direct(1, 2, b"lost")
    network.exchange()
    assert undelivered(one) == [(UndeliveredReason.REFUSED, "wrong_peer")]


def test_a_message_without_an_answer_or_to_a_full_node_says_so() -> None:
    network = Network(3, limits=LimitsConfig(transient_sessions=1), connection_timeout=5.0)
    network.open_transient(3, 2)
    network.send_direct(1, 2, b"refused")
    network.exchange()
    assert undelivered(network[1]) == [(UndeliveredReason.REFUSED, "full")]
    network.is_lost = lambda *_: True
    network.send_direct(1, 2, b"lost")
    network.run(5.0)
    assert undelivered(network[1])[1:] == [(UndeliveredReason.NO_ANSWER, "")]


def test_a_message_that_a_link_gives_up_is_reported() -> None:
    network, one, _ = linked()
    network.is_lost = lambda _, source, to: source == one.address
    assert network.send_direct(1, 2, b"lost") is SendOutcome.SENT
    network.run(29.0)
    assert undelivered(one) == [(UndeliveredReason.NOT_ACKNOWLEDGED, "no reply")]


def test_messages_that_wait_for_a_session_when_their_node_leaves_say_so() -> None:
    network = Network(2)
    network.send_direct(1, 2, b"lost")
    one = network[1]
    one.take(one.transport.leave(Records((one.view.record,))))
    assert undelivered(one) == [(UndeliveredReason.NODE_LEFT, "")]
    assert len(one.transport.direct) == 0


def test_messages_beyond_what_the_new_session_can_queue_say_so() -> None:
    network = Network(2)
    for _ in range(3):
        network.send_direct(1, 2, b"x" * 1000)
    one = network[1]
    one.config.replace(one.config.current.replace(limits=LimitsConfig(queue_messages=1)))
    network.exchange()
    assert set(undelivered(one)) == {(UndeliveredReason.QUEUE_FULL, "")}
    assert [each.peers for each in one.notified(MessageSent)] == [1, 0, 0]


def test_a_member_is_dialed_at_all_its_addresses_for_which_there_is_room() -> None:
    for dials, expected in ((1, 1), (2, 2), (9, 3)):
        network = Network(2, limits=LimitsConfig(dials=dials))
        one = network[1]
        one.view.more_addresses[peer_id(2)] = (OUTSIDER, address_of(9))
        assert network.send_direct(1, 2, b"x") is SendOutcome.QUEUED
        assert len(one.transport.handshakes) == expected


def test_a_request_to_a_member_without_an_address_or_room_is_not_sent() -> None:
    network = Network(2)
    one = network[1]
    del one.view.addresses[peer_id(2)]
    one.transport.send([peer_id(2)], WANTED, 0.0)
    assert len(one.transport.transients) == 0
    assert one.transport.transients.send_drops == 0


def test_a_dial_for_a_transient_session_beyond_the_limit_is_not_reported() -> None:
    node = TransportNode(1, limits=LimitsConfig(dials=1))
    node.dial(address_of(2), peer_id(2))
    node.dial(address_of(3), peer_id(3), TRANSIENT)
    assert node.events == []
    assert len(node.transport.handshakes) == 1


def test_an_introduction_without_a_known_peer_makes_a_dial_of_its_own() -> None:
    node = TransportNode(1)
    node.dial(OUTSIDER, None)
    node.dial(OUTSIDER, None, punch(LINK))
    node.dial(OUTSIDER, peer_id(2), punch(LINK))
    assert len(node.transport.handshakes) == 3
    node.dial(OUTSIDER, peer_id(2), punch(TRANSIENT))
    node.dial(OUTSIDER, peer_id(2), punch(LINK))
    assert len(node.transport.handshakes) == 4, "the last one is pending already"


@pytest.mark.parametrize(("size_bytes", "has_receipt"), [(1000, False), (1001, True)])
def test_a_direct_message_of_more_than_a_thousand_bytes_is_confirmed_as_a_whole(
    size_bytes: int, has_receipt: bool
) -> None:
    network, one, two = linked()
    before = two.link_to(one).queued
    network.inject(1, 2, DirectMessage(1, bytes(size_bytes)))
    assert two.link_to(one).queued - before == has_receipt
    network.run(1.0)
    assert len(two.reported(DirectMessageIn)) == 1


def test_the_end_of_one_of_two_dials_of_a_peer_leaves_its_messages_to_the_other() -> None:
    network = Network(2, connection_timeout=5.0)
    one, two = network[1], network[2]
    network.is_lost = lambda *_: True
    one.dial(OUTSIDER, two.peer_id)
    one.dial(two.address, two.peer_id)
    network.send_direct(1, 2, b"waiting")
    one.take(one.transport.on_unsendable(OUTSIDER, "no route", 0.0))
    assert len(one.transport.handshakes) == 1
    assert one.transport.transients.is_opening(two.peer_id)
    assert one.notified(MessageSent) == []


def test_a_transient_session_carries_repair_and_direct_messages_only() -> None:
    network, one, two = transiently_linked()
    ours = one.transport.transients.get(two.peer_id)
    theirs = two.transport.transients.get(one.peer_id)
    assert theirs is not None
    allowed: list[GossipMessage] = [
        Digest(1, 0, bytes(16)),
        InSync(1),
        Vector(1, False, 0, 1, ()),
        Repair(1, True, False, ()),
        Records((record(3),)),
    ]
    for message in allowed:
        network.inject(1, 2, message, ours)
    assert two.events == [MessageIn(theirs, False, message) for message in allowed]
    two.events.clear()
    for frame in (Confirm(), OpenTransient()):
        network.inject(1, 2, frame, ours)
    assert two.events == [PacketIn(theirs, False, False)] * 2
    two.events.clear()
    assert two.dropped(DropReason.UNEXPECTED) == 0
    for refused in (HEARTBEAT, NeighborRequest(), Rumors(())):
        network.inject(1, 2, refused, ours)
    assert two.dropped(DropReason.UNEXPECTED) == 3
    assert two.events == [PacketIn(theirs, False, False)] * 3
    assert two.transport.links.peer_limits.offenses.total() == 0, "no offense: links cross"


def test_a_close_ends_a_transient_session_silently() -> None:
    network, one, two = transiently_linked()
    ours = one.transport.transients.get(two.peer_id)
    theirs = two.transport.transients.get(one.peer_id)
    network.inject(1, 2, Close(CloseReason.REDUNDANT), ours)
    assert theirs is not None
    assert two.events == [PacketIn(theirs, False, False)]
    assert len(two.transport.transients) == 0


@pytest.mark.parametrize(("known_epoch", "is_open"), [(EPOCH, True), (EPOCH + 1, False)])
def test_only_the_latest_known_run_of_a_member_gets_a_transient_session(
    known_epoch: int, is_open: bool
) -> None:
    network = Network(2)
    one, two = network[1], network[2]
    two.view.records[one.peer_id] = record(1, epoch=known_epoch)
    network.send_direct(1, 2, b"hello")
    network.exchange()
    assert len(two.transport.transients) == is_open
    assert two.dropped(DropReason.STALE_EPOCH) == (not is_open)
    assert [each.peers for each in one.notified(MessageSent)] == [int(is_open)]


# --- sending ------------------------------------------------------------------------------------


def test_a_message_to_several_peers_goes_to_those_with_a_link_and_is_counted() -> None:
    network = Network(4)
    network.dial(1, 2)
    network.dial(1, 3)
    one = network[1]
    everyone = [peer_id(2), peer_id(3), peer_id(4)]
    assert one.transport.send(everyone, HEARTBEAT, 0.0) == 2
    assert one.transport.send([peer_id(4)], HEARTBEAT, 0.0) == 0
    network.exchange()
    assert [len(network[n].reported(MessageIn)) for n in (2, 3, 4)] == [1, 1, 0]
    assert len(one.transport.transients) == 0, "a heartbeat is not for members without a link"


def test_a_repair_request_opens_a_transient_session_and_a_reply_uses_it() -> None:
    network = Network(2)
    one, two = network[1], network[2]
    assert one.transport.send([two.peer_id], Digest(1, 0, bytes(16)), 0.0) == 0
    assert len(one.transport.transients) == 0, "only a request opens one"
    assert one.transport.send([two.peer_id], WANTED, 0.0) == 0
    network.exchange()
    assert [each.message for each in two.reported(MessageIn)] == [WANTED]
    repair = Repair(0, True, False, (RumorCopy(rumor(3, 1), 1, 0),))
    two.transport.send([one.peer_id], repair, 0.0)
    network.exchange()
    assert [each.message for each in one.reported(MessageIn)] == [repair]
    two.transport.send([one.peer_id], HEARTBEAT, 0.0)
    network.exchange()
    assert len(one.reported(MessageIn)) == 1
    assert one.transport.drops.total == 0, "nothing else is sent on it"
    assert one.notified(MessageSent) == [], "it is no message of the application"


def test_repair_to_peers_and_members_reaches_each_once() -> None:
    network = Network(3)
    network.dial(1, 2)
    network.open_transient(1, 3)
    one = network[1]
    assert one.transport.send([peer_id(2), peer_id(3)], InSync(5), 0.0) == 1
    network.exchange()
    for number in (2, 3):
        assert [each.message for each in network[number].reported(MessageIn)] == [InSync(5)]


def test_a_repair_of_own_rumors_is_reported_when_it_is_acknowledged() -> None:
    network, one, two = linked()
    repair = Repair(0, True, False, (RumorCopy(rumor(1, 4), 0, 0),))
    one.transport.send([two.peer_id], repair, 0.0)
    network.run(1.0)
    assert one.reported(RumorsAcked) == [RumorsAcked([(EPOCH, 4)])]


@pytest.mark.parametrize("is_linked", [True, False])
def test_a_request_grants_the_peer_credit_for_its_reply(is_linked: bool) -> None:
    _, one, two = linked() if is_linked else transiently_linked()
    link = one.link_to(two) if is_linked else one.transport.transients.get(two.peer_id)
    assert link is not None
    one.transport.send([two.peer_id], Digest(1, 0, bytes(16)), 0.0)
    assert not link.inbound_limit.consume_repair_credit()
    one.transport.send([two.peer_id], WANTED, 0.0)
    granted = [
        link.inbound_limit.consume_repair_credit() for _ in range(REPAIR_DATAGRAMS_LIMIT + 1)
    ]
    assert granted == [True] * REPAIR_DATAGRAMS_LIMIT + [False]


def test_a_datagram_that_the_system_rejects_as_too_large_lowers_the_mtu_of_its_link() -> None:
    network, one, two = linked()
    link = one.link_to(two)
    one.transport.send([two.peer_id], Records((record(3),) * 12), network.now)
    network.run(2.0)
    before = link.path.mtu.datagram_bytes
    one.transport.on_emsgsize(before, OUTSIDER, network.now)
    assert link.path.mtu.datagram_bytes == before
    one.transport.on_emsgsize(before, two.address, network.now)
    assert link.path.mtu.datagram_bytes < before
    assert one.transport.deadline == -math.inf


# --- conduct ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [0xFE, 2])
def test_a_protocol_violation_counts_against_the_peer_that_sealed_it(kind: int) -> None:
    network, one, two = linked()
    violation = bytes((kind,)) + b"\xc1"
    slowed_at = math.ceil(SLOWED_SCORE / OFFENSE_WEIGHTS[Offense.PROTOCOL_VIOLATION])
    expelled_at = math.ceil(EXPELLED_SCORE / OFFENSE_WEIGHTS[Offense.PROTOCOL_VIOLATION])
    if kind == 0xFE:  # unknown kinds may come from a later version
        for _ in range(expelled_at):
            network.inject(1, 2, violation)
        assert two.notified(StandingChanged) == []
        return
    for _ in range(slowed_at - 1):
        network.inject(1, 2, violation)
    assert two.notified(StandingChanged) == []
    network.inject(1, 2, violation)
    assert [each.standing for each in two.notified(StandingChanged)] == [Standing.SLOWED]
    assert two.dropped(DropReason.MALFORMED) == slowed_at
    for _ in range(expelled_at - slowed_at):
        network.inject(1, 2, violation)
    [_, expelled] = two.notified(StandingChanged)
    assert expelled.standing is Standing.EXPELLED
    assert two.reported(LinkDown) == [
        LinkDown(one.peer_id, "misconduct: protocol violation", CloseReason.MISCONDUCT, None)
    ]
    network.exchange()
    assert [down.reason for down in one.reported(LinkDown)] == [CloseReason.MISCONDUCT]


def test_a_packet_that_did_not_open_is_no_offense() -> None:
    network, one, two = linked()
    datagram = network.seal(1, 2, HEARTBEAT)
    broken = datagram[:-1] + bytes((datagram[-1] ^ 1,))
    for _ in range(20):
        network.deliver(broken, 1, 2)
    network.deliver(datagram, 1, 2)
    for _ in range(20):
        network.deliver(datagram, 1, 2)
    assert two.dropped(DropReason.DECRYPT_FAILED) == 20
    assert two.dropped(DropReason.REPLAY) == 20
    assert two.transport.links.peer_limits.offenses.total() == 0
    assert two.link_to(one)


def test_misconduct_ends_a_transient_session_as_well() -> None:
    network, one, two = transiently_linked()
    two.take(two.transport.penalize(one.peer_id, Offense.PROTOCOL_VIOLATION, 10, network.now))
    network.exchange()
    assert len(two.transport.transients) == len(one.transport.transients) == 0
    assert two.reported(LinkDown) == []
    assert [each.standing for each in two.notified(StandingChanged)] == [Standing.EXPELLED]


def test_rate_limited_messages_are_counted_charged_and_reported_once_a_second() -> None:
    network, one, two = linked(rate_limit=RateLimitConfig(capacity=10, refill_rate=1.0))
    limits = two.transport.links.peer_limits.get_or_create(one.peer_id, network.now)
    assert limits.work_bucket is not None
    work_before = limits.work_bucket.available(network.now)
    for number in range(1, 31):
        network.inject(1, 2, DirectMessage(number, b"x"))
    received = len(two.reported(DirectMessageIn))
    assert two.dropped(DropReason.RATE_LIMITED) == 30 - received > 0
    spent = work_before - limits.work_bucket.available(network.now)
    assert spent == pytest.approx(15 * (30 - received))
    network.run(1.0)
    assert [(each.peer, each.dropped) for each in two.notified(RateLimited)] == [
        (one.peer_id, 30 - received)
    ]


def test_work_beyond_its_budget_slows_a_peer_without_closing_its_link() -> None:
    network, one, two = linked(rate_limit=RateLimitConfig(capacity=10, refill_rate=1.0))
    two.take(two.transport.charge_work(one.peer_id, 10_000, 0.0))
    assert two.events == []
    two.take(two.transport.charge_work(one.peer_id, 60_000, 0.0))
    assert [each.standing for each in two.notified(StandingChanged)] == [Standing.SLOWED]
    assert two.link_to(one)
    network.run(2 * SCORE_HALF_LIFE_S)
    assert [each.standing for each in two.notified(StandingChanged)] == [
        Standing.SLOWED,
        Standing.NORMAL,
    ]


# --- internal errors ----------------------------------------------------------------------------


def test_an_error_while_a_packet_is_handled_ends_that_link_alone(
    patch_sources: pytest.MonkeyPatch,
) -> None:
    network, one = linked_to_two()
    break_method(patch_sources, one.link_to(network[2]), "handle_payload")
    network.inject(2, 1, HEARTBEAT)
    network.exchange()
    assert list(one.transport.links) == [peer_id(3)]
    assert one.transport.version == 3
    assert one.dropped(DropReason.INTERNAL_ERROR) == 1
    [contained] = one.notified(InternalErrorContained)
    assert contained.peer == peer_id(2)
    assert "broken" in contained.problem
    [down] = one.reported(LinkDown)
    assert (down.peer_id, down.reason) == (peer_id(2), CloseReason.MISCONDUCT)
    assert down.detail.startswith("internal error: ")
    assert one.transport.links.peer_limits.offenses == {Offense.PROTOCOL_VIOLATION: 1}
    assert [each.reason for each in network[2].reported(LinkDown)] == [CloseReason.MISCONDUCT]


def test_an_error_on_the_first_packet_of_a_session_ends_that_session(
    patch_sources: pytest.MonkeyPatch,
) -> None:
    network, one, two = linked()
    break_method(patch_sources, two.link_to(one), "handle_payload")
    network.dial(1, 2)
    assert [each.peer for each in two.notified(InternalErrorContained)] == [one.peer_id]
    assert not two.transport.links


def test_an_error_while_a_close_is_handled_is_contained(patch_sources: pytest.MonkeyPatch) -> None:
    network, one, two = linked()
    link = two.link_to(one)
    break_method(patch_sources, link, "close")
    network.inject(1, 2, Close(CloseReason.REDUNDANT))
    assert two.events[0] == PacketIn(link, True, False)
    assert [each.peer for each in two.notified(InternalErrorContained)] == [one.peer_id]
    assert two.transport.links.find_by_session(link.session.our_id) is None


def test_an_error_of_a_transient_session_ends_it_and_no_link(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = Network(2)
    network.dial(1, 2)
    one, two = network[1], network[2]
    one.dial(two.address, two.peer_id, TRANSIENT)
    network.exchange()
    session = two.transport.transients.get(one.peer_id)
    assert session is not None
    two.events.clear()
    two.take(two.transport.contain_error(RuntimeError("broken"), session, 0.0))
    network.exchange()
    assert len(two.transport.transients) == len(one.transport.transients) == 0
    assert two.link_to(one)
    assert two.reported(LinkDown) == []
    assert two.transport.version == 1


def test_an_error_of_a_closed_link_is_reported_and_the_link_forgotten(
    patch_sources: pytest.MonkeyPatch,
) -> None:
    network, one, two = linked()
    closed = two.link_to(one)
    datagrams = [network.seal(1, 2, HEARTBEAT) for _ in range(2)]
    two.transport.disconnect(one.peer_id, "", CloseReason.FULL, notify=True, now=0.0)
    break_method(patch_sources, closed, "receive")
    network.deliver(datagrams[0], 1, 2)
    assert [each.peer for each in two.notified(InternalErrorContained)] == [one.peer_id]
    assert two.reported(LinkDown) == []
    assert two.transport.version == 2
    network.deliver(datagrams[1], 1, 2)
    assert two.dropped(DropReason.UNKNOWN_SESSION) == 1


def test_a_link_in_no_state_to_be_closed_is_discarded(monkeypatch: pytest.MonkeyPatch) -> None:
    _, one, two = linked()
    link = two.link_to(one)
    break_method(monkeypatch, link, "clear")
    two.take(two.transport.contain_error(RuntimeError("broken"), link, 0.0))
    assert not two.transport.links
    assert two.transport.links.find_by_session(link.session.our_id) is None
    assert len(two.reported(LinkDown)) == 1
    _, one, two = transiently_linked()
    session = two.transport.transients.get(one.peer_id)
    assert session is not None
    break_method(monkeypatch, session, "clear")
    two.take(two.transport.contain_error(RuntimeError("broken"), session, 0.0))
    assert len(two.transport.transients) == 0


def test_ten_errors_in_a_row_expel_the_peer() -> None:
    _, one, two = linked()
    link = two.link_to(one)
    for _ in range(10):
        two.take(two.transport.contain_error(RuntimeError("broken"), link, 0.0))
    assert [each.standing for each in two.notified(StandingChanged)] == [
        Standing.SLOWED,
        Standing.EXPELLED,
    ]
    assert len(two.notified(InternalErrorContained)) == 10


def test_errors_without_a_peer_are_reported_once_a_second_and_all_counted() -> None:
    node = TransportNode(1)
    for now in (0.0, 0.5, 1.0):
        node.take(node.transport.contain_error(RuntimeError("broken"), None, now))
    reported = node.notified(InternalErrorContained)
    assert [each.peer for each in reported] == [None, None]
    assert node.dropped(DropReason.INTERNAL_ERROR) == 3


def test_an_error_while_a_datagram_is_sealed_waits_for_the_engine(
    patch_sources: pytest.MonkeyPatch,
) -> None:
    network, one = linked_to_two()
    one.transport.send([peer_id(2), peer_id(3)], HEARTBEAT, 0.0)
    before = one.transport.has_pending_errors
    break_method(patch_sources, one.link_to(network[2]), "transmit")
    assert one.transport.datagrams_to_send(0.0), "the other peer has its turn"
    assert (before, one.transport.has_pending_errors) == (False, True)
    one.take(one.transport.contain_pending_errors(0.0))
    assert [each.peer for each in one.notified(InternalErrorContained)] == [peer_id(2)]
    assert [each.peer_id for each in one.reported(LinkDown)] == [peer_id(2)]


def test_an_error_while_a_message_is_queued_costs_no_other_peer_its_copy(
    patch_sources: pytest.MonkeyPatch,
) -> None:
    network, one = linked_to_two()
    break_method(patch_sources, one.link_to(network[2]), "send")
    assert one.transport.send([peer_id(2), peer_id(3)], HEARTBEAT, 0.0) == 2
    assert network.send_direct(1, 2, b"psst") is SendOutcome.SENT
    assert one.transport.has_pending_errors
    network.exchange()
    assert [each.message for each in network[3].reported(MessageIn)] == [HEARTBEAT]


def test_an_error_of_a_dial_ends_that_dial_alone(patch_sources: pytest.MonkeyPatch) -> None:
    network = Network(3)
    one = network[1]
    one.dial(address_of(2), peer_id(2))
    one.dial(address_of(3), peer_id(3))
    broken = next(iter(one.transport.handshakes._dials.values()))
    break_method(patch_sources, broken, "transmit")
    network.exchange()
    assert one.reported(DialFailed) == [DialFailed(address_of(2), peer_id(2), None)]
    assert [each.peer for each in one.notified(InternalErrorContained)] == [None]
    assert list(one.transport.links) == [peer_id(3)]


def test_an_error_while_a_reply_is_handled_ends_the_dial_it_belongs_to(
    patch_sources: pytest.MonkeyPatch,
) -> None:
    network = Network(2)
    one = network[1]
    one.dial(address_of(2), peer_id(2))
    [dial] = one.transport.handshakes._dials.values()
    break_method(patch_sources, dial, "receive")
    network.exchange()
    assert one.reported(DialFailed) == [DialFailed(address_of(2), peer_id(2), None)]
    assert len(one.notified(InternalErrorContained)) == 1
    assert len(one.transport.handshakes) == 0


def test_an_error_while_an_unauthenticated_peer_is_answered_is_contained(
    patch_sources: pytest.MonkeyPatch,
) -> None:
    network = Network(2)
    two = network[2]
    break_method(patch_sources, two.transport.handshakes, "on_initial")
    network.dial(1, 2)
    assert [each.peer for each in two.notified(InternalErrorContained)] == [None]


# --- closed links -------------------------------------------------------------------------------


def test_a_closed_peer_that_goes_on_hears_the_reason_again_for_a_while() -> None:
    network, one, two = linked()
    two.transport.disconnect(one.peer_id, "", CloseReason.FULL, notify=True, now=network.now)
    two.transport.datagrams_to_send(network.now)  # lost
    network.now = 1.0
    network.inject(1, 2, HEARTBEAT)
    assert two.reported(MessageIn) == []
    assert len(two.transport.datagrams_to_send(1.0)) == 1
    two.take(two.transport.advance(10.0))
    network.inject(1, 2, HEARTBEAT)
    assert two.dropped(DropReason.UNKNOWN_SESSION) == 1


def test_what_arrives_on_a_closed_link_is_dropped_and_not_acknowledged() -> None:
    network, one, two = linked()
    two.transport.disconnect(one.peer_id, "", CloseReason.FULL, notify=True, now=network.now)
    two.transport.datagrams_to_send(network.now)  # lost
    network.now = 1.0
    network.send_direct(1, 2, b"lost")
    network.run(2.0)
    assert two.reported(DirectMessageIn) == []
    assert undelivered(one) == [(UndeliveredReason.SESSION_ENDED, "")]


def test_what_a_peer_that_left_had_on_its_way_still_arrives() -> None:
    network, one, two = linked()
    late = [
        network.seal(1, 2, message)
        for message in (
            Rumors((RumorCopy(rumor(1, 1), 0, 0),)),
            DirectMessage(1, b"bye"),
            HEARTBEAT,
        )
    ]
    link = two.link_to(one)
    network.inject(1, 2, Close(CloseReason.LEAVING))
    two.events.clear()
    for datagram in late:
        network.deliver(datagram, 1, 2)
    assert two.events == [
        MessageIn(link, False, Rumors((RumorCopy(rumor(1, 1), 0, 0),))),
        DirectMessageIn(link, False, DirectMessage(1, b"bye")),
    ]


def test_acknowledgments_of_a_peer_that_left_still_count() -> None:
    network, one, two = linked()
    one.transport.send([two.peer_id], Rumors((RumorCopy(rumor(1, 5), 0, 0),)), 0.0)
    for datagram, _ in one.transport.datagrams_to_send(0.0):
        network.deliver(datagram, 1, 2)
    network.inject(2, 1, Close(CloseReason.LEAVING))
    one.events.clear()
    for now in (0.0, 0.5, 1.0):
        for datagram, _ in two.transport.datagrams_to_send(now):
            network.deliver(datagram, 2, 1)
    assert one.events == [RumorsAcked([(EPOCH, 5)])]


# --- time ---------------------------------------------------------------------------------------


def test_the_deadline_is_the_earliest_of_tick_dials_and_links() -> None:
    network, one, two = linked()
    one.take(one.transport.advance(0.0))
    network.run(3.0)
    now = network.now
    assert now < one.transport.deadline <= now + 1.0
    one.transport.send([two.peer_id], HEARTBEAT, now)
    assert one.transport.deadline == -math.inf
    node = TransportNode(1)
    assert node.transport.deadline == 0.0
    node.take(node.transport.advance(0.0))
    assert node.transport.deadline == 1.0
    node.transport.dial(OUTSIDER, None, LINK, 0.0)
    assert node.transport.deadline == 0.0


def test_drops_are_reported_once_a_second() -> None:
    node = TransportNode(1)
    for now in (0.0, 0.5, 0.99, 1.0, 1.5):
        node.take(node.transport.receive(b"", OUTSIDER, now))
        node.take(node.transport.advance(now))
    assert [each.count for each in node.notified(DatagramDropped)] == [1, 3]


def test_limits_of_peers_that_say_nothing_are_reaped_once_a_minute() -> None:
    node = TransportNode(1)
    limits = node.transport.links.peer_limits
    node.take(node.transport.advance(0.0))
    limits.get_or_create(peer_id(2), 0.0)
    node.take(node.transport.advance(59.0))
    assert len(limits) == 1
    node.take(node.transport.advance(60.0))
    assert len(limits) == 0


def test_the_end_that_dialed_starts_a_rekey_in_time() -> None:
    network, one, two = linked()
    first = one.link_to(two).session
    for now in (REKEY_AFTER_S - 1.0, REKEY_AFTER_S + 30.0):
        network.now = now
        network.inject(1, 2, HEARTBEAT)  # both hear each other
        network.inject(2, 1, HEARTBEAT)
        network.run(1.0)
    assert one.link_to(two).session is not first
    assert two.link_to(one).session.our_id == one.link_to(two).session.their_id
    assert one.reported(LinkUp) == two.reported(LinkUp) == []
    assert len(one.reported(DialAnswered)) + len(two.reported(DialAnswered)) >= 1


def test_a_transient_session_in_use_is_rekeyed_and_makes_no_link() -> None:
    network, one, two = transiently_linked()
    link = one.transport.transients.get(two.peer_id)
    assert link is not None
    first = link.session
    while network.now < REKEY_AFTER_S + 40.0:
        network.send_direct(1, 2, b"still here")
        network.send_direct(2, 1, b"me too")
        network.run(5.0)
    link = one.transport.transients.get(two.peer_id)
    assert link is not None
    assert link.session is not first
    assert not one.transport.links
    assert not two.transport.links


def test_a_link_whose_session_has_expired_ends_without_a_close() -> None:
    _, one, two = linked()
    one.take(one.transport.advance(REJECT_AFTER_S - 0.5))
    assert one.reported(LinkDown) == []
    one.take(one.transport.advance(REJECT_AFTER_S + 0.5))
    assert one.reported(LinkDown) == [LinkDown(two.peer_id, "session expired", None, None)]


def test_an_error_while_a_link_is_maintained_ends_that_link_alone(
    patch_sources: pytest.MonkeyPatch,
) -> None:
    network = Network(4)
    network.dial(1, 2)
    network.dial(1, 3)
    network.open_transient(1, 4)
    one = network[1]
    one.events.clear()
    session = one.transport.transients.get(peer_id(4))
    assert session is not None
    break_method(patch_sources, one.link_to(network[2]), "needs_rekey")
    one.take(one.transport.advance(0.0))
    assert list(one.transport.links) == [peer_id(3)]
    break_method(patch_sources, session, "needs_rekey")
    one.take(one.transport.advance(1.0))
    assert len(one.transport.transients) == 0
    assert [each.peer for each in one.notified(InternalErrorContained)] == [peer_id(2), peer_id(4)]


def test_an_idle_transient_session_and_a_closed_link_are_forgotten() -> None:
    network, one, two = transiently_linked()
    network.run(15.0)
    assert len(one.transport.transients) == len(two.transport.transients) == 0
    assert {type(event) for event in one.events + two.events} == {PacketIn}


def test_a_retransmission_for_a_session_that_is_not_known_yet_is_not_acknowledged() -> None:
    network, _, two = linked()
    network.run(1.0)
    network.log.clear()
    direct = codec.encode_message(DirectMessage(1, b"once more, please"))
    network.inject(1, 2, codec.encode_frame(Retransmit(bytes(8), 1, direct)))
    network.run(1.0)
    assert two.dropped(DropReason.UNKNOWN_SESSION) == 1
    assert two.reported(DirectMessageIn) == []
    assert [source for _, source, _ in network.log if source == two.address] == []
